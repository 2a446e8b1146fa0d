"""Pictures of single tasks, of plans made up: the true system under the data's actions, with noise for the plan."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread
from support import chosen, quick

from diffrl.envs.control.base import ControlTask, State
from diffrl.envs.control.registry import TASKS
from diffrl.studies import planning_plots
from diffrl.studies.planning import Outcome

PICTURES = {
    "CartPoleSwingUp": ["phases.png", "snapshots.png"],
    "KeypointPusher": ["strips.png"],
    "PixelIntegrator": ["strips.png"],
    "HoleIntegrator": [],
}


def outcome(task: ControlTask, steps: int) -> Outcome:
    """Two runs of two starts."""

    def follow(key: jax.Array) -> jax.Array:
        state, first = task.reset(key)

        def step(state: State, key: jax.Array) -> tuple[State, jax.Array]:
            state, taken = task.step(state, task.propose(key)[1])
            return state, taken.observation

        return jnp.concatenate([first[None], jax.lax.scan(step, state, jax.random.split(key, steps))[1]])

    real = np.asarray(quick(jax.vmap(jax.vmap(follow)))(jax.random.split(jax.random.key(0), (2, 2))))
    planned = real + np.random.default_rng(0).normal(0.0, 0.01, real.shape)
    nothing = np.zeros(2)
    return Outcome("beta 0", nothing, nothing, nothing, nothing, nothing, 1.0, 4, planned, real)


@pytest.mark.parametrize(("name", "steps"), chosen([*((name, 8) for name in PICTURES), ("CartPoleSwingUp", 60)], 1, 3, 4))
def test_each_task_has_its_pictures(name: str, steps: int, tmp_path: Path) -> None:
    """Also of plans shorter than the last snapshot, and of some that diverged."""
    task = TASKS[name]()
    one = outcome(task, steps)
    diverged = one._replace(act="beta 1", planned=np.full_like(one.planned, np.nan))
    written = planning_plots.of_task([one, diverged], task, tmp_path)
    assert [path.name for path in written] == PICTURES[name]
    for path in written:
        picture = imread(path)
        assert min(picture.shape[:2]) > 200
        assert picture[..., :3].std() > 0.02
