"""Data without rewards, in every loader: for imitation, refused for methods that learn from rewards before work starts."""

import jaxtyping
import numpy as np
import pytest
from every_loader import WITHOUT_NEXT
from support import quick_compilation

from diffrl.algorithms import bc, iql
from diffrl.config import Config, ConfigError, DatasetConfig
from diffrl.data.arrays import from_arrays
from diffrl.data.build import Transforms, build
from diffrl.data.dataset import DatasetError
from diffrl.registry import REGISTRY, make
from diffrl.training.train import train


def demonstrations(n=12):
    rng = np.random.default_rng(0)
    return {"observation": rng.normal(size=(n, 3)), "action": rng.uniform(-1, 1, (n, 2)), "timeout": np.arange(n) % 4 == 3}


@pytest.mark.parametrize("loader", WITHOUT_NEXT)
def test_every_loader_reads_them(tmp_path, loader):
    source = loader(tmp_path, demonstrations())
    _, spec, card = build(source, Transforms())
    assert (card.rows, card.episodes) == (9, 3)
    assert [source.has_rewards, spec.has_rewards, card.has_rewards, card.has_returns] == [False] * 4
    with pytest.raises(DatasetError, match=r"has no rewards, so nothing can scale them: --config\.dataset\.reward_scale=none"):
        build(source, Transforms(reward_scale="return_range"))


@pytest.mark.parametrize("name", list(REGISTRY))
def test_methods_imitate_or_refuse(name):
    method = REGISTRY[name]
    data = demonstrations()
    if "box" not in method.actions:
        data["action"] = np.arange(12) % 2
    _, spec, _ = build(from_arrays(**data), Transforms())
    if method.imitates:
        make(method.config(), spec)
        return
    with pytest.raises(ValueError, match=rf"^{name} learns from rewards, and the data have none .*dataset.task.*; without: bc, "):
        make(method.config(), spec)


def test_training_on_them(tmp_path, capsys):
    """By imitation from beginning to end; by rewards not at all: nothing is written."""
    size = {"hidden_dims": (4,), "num_updates": 4, "batch_size": 4}
    source, settings = from_arrays(**demonstrations()), {"num_seeds": 1, "updates_per_chunk": 2}
    checks = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with quick_compilation():
            assert train(Config(bc.Config(**size), DatasetConfig(), **settings), tmp_path / "bc", source).complete
            assert "9 rows, 3 episodes, no rewards" in capsys.readouterr().out
            with pytest.raises(ConfigError, match="iql learns from rewards"):
                train(Config(iql.Config(**size), DatasetConfig(), **settings), tmp_path / "iql", source)
    finally:
        jaxtyping.config.update("jaxtyping_disable", checks)
    assert not (tmp_path / "iql").exists()
