"""A workdir, one of a training by interaction, and a sweep: small and whole, for tests of what happens when they are not."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from small_trainings import config_of
from support import unchecked
from workdirs import card, describe, env_spec, tiny_config

from diffrl import records
from diffrl.algorithms import sac
from diffrl.config import Config, OnlineConfig
from diffrl.data import replay
from diffrl.data.arrays import from_arrays
from diffrl.data.dataset import Source
from diffrl.data.scores import Reference
from diffrl.envs.control.registry import env_spec_of
from diffrl.evaluation import evaluate as evaluation
from diffrl.evaluation import results, rollout
from diffrl.evaluation.evaluate import Options, evaluate_workdir
from diffrl.evaluation.results import Result, Settings
from diffrl.sweeps import record
from diffrl.sweeps.parts import Part, split_group, whole
from diffrl.sweeps.plan import Plan, plan
from diffrl.training.runs import make_runs
from diffrl.training.train import train
from diffrl.training.workdir import TIMINGS, Done, Timing

EPISODES = 2


class Places(NamedTuple):
    """A training whose policies were evaluated, one by interaction that has ended, and a sweep."""

    workdir: Path
    online: Path
    sweep: Path


def source() -> Source:
    rng = np.random.default_rng(0)
    observation, action = rng.normal(size=(64, 6)), rng.uniform(-1, 1, (64, 2))
    found = from_arrays(observation=observation, action=action, reward=rng.normal(size=64), terminal=np.zeros(64), id="tests")
    return found._replace(env_spec=env_spec(), observation_keys=("observation", "desired_goal"))


CONFIG = config_of(num_seeds=2)


def make_online(workdir: Path) -> None:
    online = OnlineConfig("diffrl/HoleIntegrator-v0", "jax", num_env_steps=20, num_envs=2, warmup_steps=2, buffer_size=40)
    the_card = card(env_spec=env_spec_of("diffrl/HoleIntegrator-v0"), observation_keys=None)
    describe(workdir, Config(sac.Config(hidden_dims=(8,)), online=online, num_seeds=1), the_card, 2, 2)
    replay.save_rows(workdir / "replay", jnp.zeros((1, 2, 20, 9)), 0, 10)
    records.write(workdir / "DONE", Done(20, (), 20))


def the_plan(out: Path) -> Plan:
    sweeps = ["learning_rate=0.01,0.1", "seeds=0:2", "hidden_dim=8,16"]
    return plan("x", [], sweeps, out, lambda name: tiny_config(sweep=""), num_points=4)


def make_sweep(out: Path) -> None:
    """Two groups; the first is in two parts."""
    found = the_plan(out)
    parts = {group.label: [whole(group)] for group in found.groups}
    parts[found.groups[0].label] = [Part(seed, 1, found.groups[0].points) for seed in (0, 1)]
    record.save(out, found, parts)
    for group in found.groups:
        for one in split_group(group, parts[group.label]):
            describe(one.workdir, one.config, card())
            runs = make_runs(one.config)
            returns = np.random.default_rng(0).normal(size=(runs.size, EPISODES))
            asked = Settings("jax", "a simulator", EPISODES, 0)
            values = returns, np.full(returns.shape, 15, np.int32), returns > 0
            result = Result(200, asked, Reference(0.0, 100.0, "made up"), "made up", runs.seeds, runs.points, *values)
            results.save(one.workdir, result, np.zeros((0, 0, 0, 0), np.float32))
            records.append(one.workdir / TIMINGS, Timing("critic", "updates", 0, 10, runs.size, runs.size, 1.0, 3.0, 10.0))
            records.write(one.workdir / "DONE", Done(200))


@contextlib.contextmanager
def quick_episodes() -> Iterator[None]:
    """Episodes that nobody acts in: acting is tested elsewhere, and takes seconds."""

    def rolled(algorithm: Any, env: Any, episodes: int, recorded: int) -> rollout.RolloutFn:
        def roll(policies: Any, seeds: list[int], *_: Any) -> rollout.Rollouts:
            shape = len(seeds), episodes
            seen = np.zeros((len(seeds), recorded, env.max_episode_steps + 1, 6), np.float32)
            return rollout.Rollouts(np.ones(shape), np.full(shape, 15), np.ones(shape, bool), seen, None)

        return roll

    with pytest.MonkeyPatch.context() as patch, unchecked():
        patch.setattr(rollout, "device_rollout", rolled)
        patch.setattr(evaluation, "REMOVAL_SECONDS", 0)  # nobody removes checkpoints here
        yield


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def evaluate(workdir: Path, force: bool = False) -> None:
    evaluate_workdir(workdir, Options(EPISODES, step="last", force=force), quiet())


def make_places(root: Path) -> Places:
    places = Places(root / "run", root / "online", root / "sweep")
    with quick_episodes():
        train(CONFIG, places.workdir, source())
        evaluate(places.workdir)
    make_online(places.online)
    make_sweep(places.sweep)
    return places
