"""Files that others made, where they are at hand: `shared/data` beside the repository."""

import json
from pathlib import Path

import numpy as np
import pytest
from support import unchecked

from diffrl.algorithms import bc, diffusion_bc, iql
from diffrl.config import Config, ConfigError, DatasetConfig
from diffrl.data.build import Transforms, build
from diffrl.data.dataset import DatasetError
from diffrl.data.environment import matched
from diffrl.data.load import load
from diffrl.registry import make
from diffrl.reports.check import check
from diffrl.training.train import train

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data"


def file(name: str) -> str:
    if not (FOLDER / name).exists():
        pytest.skip(f"{FOLDER / name} is not here")
    return str(FOLDER / name)


def test_human_demonstrations_of_a_door():
    """D4RL's door-human: 25 demonstrations without next observations, actions as the glove gave them."""
    source, unmatched = matched(load(file("door-human.hdf5"), env_id="AdroitHandDoor-v1"))
    assert unmatched == ""
    with pytest.raises(
        DatasetError, match=r"door-human.hdf5': 5478 actions lie outside \[-1, 1\], .*config\.dataset\.clip_actions=true$"
    ):
        build(source, Transforms())
    dataset, spec, card = build(source, Transforms(clip_actions=True))
    assert (spec.observation_dim, spec.action_dim, card.rows, card.episodes) == (39, 28, 6729 - 25, 25)
    assert (round(card.return_min), round(card.return_mean), round(card.return_max)) == (230, 794, 1496)
    assert np.abs(dataset[:].action).max() == 1.0
    assert not source.transitions.terminal.any()
    for config in (bc.Config(), iql.Config()):
        make(config, spec)


def test_expert_of_cartpole(tmp_path):
    """Stable-baselines' file: discrete actions, `obs` and `episode_starts`."""
    path = file("expert_cartpole.npz")
    source, unmatched = matched(load(path, env_id="CartPole-v1"))
    dataset, spec, card = build(source, Transforms())
    assert (unmatched, spec.num_actions, spec.observation_dim) == ("", 2, 4)
    assert (card.rows, card.episodes, card.return_min, card.return_max) == (49527 - 100, 100, 27, 500)
    np.testing.assert_array_equal(dataset[:].action.sum(axis=1), 1)
    with np.load(path) as arrays:
        np.testing.assert_array_equal(source.recorded.returns, arrays["episode_returns"])
    config = Config(diffusion_bc.Config(), DatasetConfig(id=path, env_id="CartPole-v1"))
    with pytest.raises(ConfigError, match="diffusion_bc cannot have discrete actions; methods that can: bc, "):
        train(config, tmp_path / "w")
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_the_check_says_what_to_do_with_them():
    with unchecked():
        found = check(DatasetConfig(id=file("door-human.hdf5"), env_id="AdroitHandDoor-v1"))
        cartpole = check(DatasetConfig(id=file("expert_cartpole.npz")))
    looks = " ".join(one.text for one in found.findings if one.level == "look")
    assert "5,478 of 6,704 rows have actions beyond their bounds, from -1.28 to 1.37" in looks
    assert all("--config.dataset.clip_actions=true" in line for line in found.commands)
    assert "AdroitHandDoor-v1" in json.loads(found.card.env_spec or "")["id"]  # pyright: ignore
    assert cartpole.findings
    assert cartpole.arrays or cartpole.facts
