"""Hand-made training directories for the tests of evaluator and report."""

import dataclasses
import functools
import json
from pathlib import Path

import jax

from diffrl import config as configs
from diffrl import records, registry
from diffrl.algorithms import diffusion_bc
from diffrl.data.dataset import Card
from diffrl.envs.protocol import Step
from diffrl.training.checkpoint import Checkpoints, Progress
from diffrl.training.runs import make_runs
from diffrl.training.workdir import Versions
from diffrl.types import Spec

MAZE = [[1, 1, 1, 1, 1], [1, "r", 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, "g", 1], [1, 1, 1, 1, 1]]


def env_spec(steps: int = 15) -> str:
    return json.dumps(
        {
            "id": "PointMaze_UMaze-v3",
            "entry_point": "gymnasium_robotics.envs.maze.point_maze:PointMazeEnv",
            "reward_threshold": None,
            "nondeterministic": False,
            "max_episode_steps": steps,
            "order_enforce": True,
            "disable_env_checker": False,
            "kwargs": {"maze_map": MAZE, "reward_type": "dense", "continuing_task": True},
            "additional_wrappers": [],
            "vector_entry_point": None,
        }
    )


def card(**changes) -> Card:
    values = Card(
        id="tests/pointmaze/umaze-v0",
        rows=1000,
        episodes=10,
        return_min=1.0,
        return_mean=5.0,
        return_max=9.0,
        comparable_return=5.0,
        comparable_episodes=10,
        sha256="",
        action_low=(-1.0, -1.0),
        action_high=(1.0, 1.0),
        env_spec=env_spec(),
        observation_keys=("observation", "desired_goal"),
        ref_min_score=0.0,
        ref_max_score=20.0,
        ref_provenance="made up for a test",
    )
    return dataclasses.replace(values, **changes)


def tiny_config(num_seeds: int = 2, sweep: str = "learning_rate=0.1,0.2") -> configs.Config:
    algorithm = diffusion_bc.Config(hidden_dim=8, num_blocks=1, act=diffusion_bc.Act(num_denoising_steps=2))
    return configs.Config(algorithm, configs.DatasetConfig(id="tests/pointmaze/umaze-v0"), num_seeds=num_seeds, sweep=sweep)


def describe(workdir: Path, config: configs.Config, the_card: Card, observation_dim: int = 6, action_dim: int = 2) -> None:
    """What the trainer writes before its first update."""
    workdir.mkdir(parents=True, exist_ok=True)
    for name, values in (
        ("config.json", configs.to_json(config)),
        ("spec.json", dataclasses.asdict(Spec.plain(observation_dim, action_dim))),
        ("dataset.json", dataclasses.asdict(the_card)),
        ("versions.json", Versions({}, "3.11", "cpu", 1, x64=False)),
    ):
        records.write(workdir / name, values)


def save_checkpoint(workdir: Path, step: int, stage_index: int = 1, num_stages: int = 2) -> None:
    """A checkpoint of freshly initialised runs, as the trainer would save it."""
    config = configs.load(workdir)
    state, policy = initial(json.dumps(configs.to_json(config)), (workdir / "spec.json").read_text(), step)
    checkpoints = Checkpoints(workdir, write=True)
    rows = tuple(range(make_runs(config).size))
    checkpoints.save(state, policy, Progress(step, f"stage{stage_index}", stage_index, num_stages, rows))
    checkpoints.close()


@functools.cache
def initial(config_json: str, spec_json: str, step: int):
    """State and policy of all runs, other ones for another step."""
    config = configs.from_json(json.loads(config_json))
    runs, algorithm = make_runs(config), registry.make(config.algorithm, records.parse(spec_json, Spec, "spec"))
    state = jax.vmap(algorithm.init)(jax.vmap(lambda key: jax.random.fold_in(key, step))(runs.keys), runs.hparams)
    return {"step": state.step}, jax.vmap(algorithm.policy)(state)  # the evaluator reads no state


def make_workdir(path: Path) -> None:
    """Two seeds × two points; checkpoints at 10 (first stage), 20 and 30 (last stage)."""
    describe(path, tiny_config(), card())
    save_checkpoint(path, 10, stage_index=0)
    save_checkpoint(path, 20)
    save_checkpoint(path, 30)


class Drift:
    """A DeviceEnvironment that compiles fast: actions move a point; the reward is 1 + x."""

    max_episode_steps = 15
    action_low, action_high = (-1.0, -1.0), (1.0, 1.0)
    num_actions = 0

    def reset(self, key):
        x = jax.random.uniform(key, (6,))
        return x, x

    def step(self, state, action):
        x = state.at[:2].add(0.1 * action)
        return x, Step(x, 1.0 + x[0], x[0] > 1e6, x[1] > 0.5)


def drift_for_point_maze(env_spec_json: str, observation_keys):
    """In place of `pointmaze.from_env_spec`."""
    return Drift() if "PointMaze" in env_spec_json else None
