"""What stages compute once over the data is said before training, with its memory, and refused where there is no room."""

import jax
import numpy as np
import pytest
from support import make_dataset, runs_of, unchecked

from diffrl.algorithms import bc, qgpo
from diffrl.config import ConfigError
from diffrl.registry import make
from diffrl.training import offline
from diffrl.training.devices import make_mesh
from diffrl.types import Spec

ROWS, METHOD = 1_000, qgpo.Config(num_support_actions=4)
BYTES = 4 * ROWS * 4 * 2  # float32, four actions of two numbers for each row


def forecast(method: object, num_seeds: int) -> list[str]:
    dataset = make_dataset(np.zeros((ROWS, 3)), np.zeros((ROWS, 2)), np.zeros(ROWS))
    mesh = make_mesh(num_seeds, jax.devices()[:1])
    with unchecked():
        return offline.forecast_prepared(make(method, Spec.plain(3, 2)), dataset, runs_of(method, num_seeds), mesh)


def test_every_column_is_said() -> None:
    """Stages that prepare nothing are silent."""
    assert forecast(METHOD, 1) == [
        "critic first computes support_ahead for all 1,000 rows, 0.032 MB per run",
        "energy first computes support for all 1,000 rows, 0.032 MB per run",
    ]
    assert forecast(bc.Config(), 1) == []


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_what_does_not_fit_is_refused(num_seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One stage's columns at a time, of all runs; one byte less is too little."""
    monkeypatch.setattr(offline, "free_bytes", lambda: num_seeds * BYTES)
    assert len(forecast(METHOD, num_seeds)) == 2
    monkeypatch.setattr(offline, "free_bytes", lambda: num_seeds * BYTES - 1)
    with pytest.raises(ConfigError, match=rf"critic first computes support_ahead .* for {num_seeds} runs.*num_seeds") as error:
        forecast(METHOD, num_seeds)
    assert "\n" not in str(error.value)
