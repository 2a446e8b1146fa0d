"""Every method of README's table is trained by one command line (`tests/test_site.py` holds it against the registry)."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract.cases import shrink
from programs import ROOT, collect, run

from diffrl.registry import REGISTRY

NAMES = re.findall(r"\[`(\w+)`\]\(docs/methods/\1\.md\)", (ROOT / "README.md").read_text())
UPDATES = 4
TOY = ("--config.dataset.id=toy/8gaussians",)
MAZE = ("--config.dataset.id=diffrl/pointmaze/umaze-fixedgoal-v0",)
INTERACTION = (
    "--config.online.env_id=diffrl/HoleIntegrator-v0",
    "--config.online.num_env_steps=24",
    "--config.online.warmup_steps=20",
    "--config.online.buffer_size=24",
)
# Of what their rows name: the toys, discrete actions, interaction.
SOURCES = {"cep": TOY, "edm": ("--config.dataset.id={root}/discrete.npz",)}
SOURCES |= dict.fromkeys(("sac", "maac", "eqr", "qsm"), INTERACTION)


def overrides(before: Any, after: Any, prefix: str = "--config.algorithm.") -> Iterator[str]:
    """The words of a command line that make `after` of `before`."""
    for field in dataclasses.fields(before):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if dataclasses.is_dataclass(old):
            yield from overrides(old, new, f"{prefix}{field.name}.")
        elif old != new:
            yield f"{prefix}{field.name}={UPDATES if field.name.endswith('updates') else new}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("methods")
    collect(root)
    rng = np.random.default_rng(0)
    np.savez(
        root / "discrete.npz",
        observation=rng.normal(size=(64, 3)),
        action=rng.integers(0, 2, 64),
        reward=rng.normal(size=64),
        terminal=np.arange(64) % 16 == 15,
    )
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_one_command_trains(name: str, root: Path) -> None:
    """The name alone as the experiment; sizes and budgets are cut by the same command line."""
    default = REGISTRY[name].config
    source = [word.format(root=root) for word in SOURCES.get(name, MAZE)]
    cut = overrides(default(), shrink(default()))
    workdir = root / name
    run(root, "launch/train.py", f"--config={name}", *source, *cut, "--config.num_seeds=2", f"--workdir={workdir}")
    done = json.loads((workdir / "DONE").read_text())
    assert done["step"] > 0
    assert done["diverged"] == []
    losses = [json.loads(line) for line in (workdir / "metrics" / "train.jsonl").read_text().splitlines()]
    assert {line["seed"] for line in losses} == {0, 1}
    assert all(np.isfinite(line["value"]) for line in losses if line["name"].endswith("loss"))
