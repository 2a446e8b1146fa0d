"""Runs that nothing has told apart are trained once: which these are, and that nobody can tell from the results."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import TINY_SRPO, collect, run
from support import make_dataset, quick, runs_of, spec_for

from diffrl.algorithms import sac, srpo, swg
from diffrl.config import Config, DatasetConfig
from diffrl.data.columns import attach
from diffrl.data.dataset import Dataset
from diffrl.registry import REGISTRY, make
from diffrl.training.checkpoint import Checkpoints
from diffrl.training.cohort import Cohort, equal_runs, make_cohort, place_rows, rows_of
from diffrl.training.devices import make_mesh
from diffrl.training.runs import abstract_states, make_runs
from diffrl.types import Spec

SPEC = Spec.plain(3, 2)


def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    return make_dataset(rng.normal(size=(64, 3)), rng.uniform(-1, 1, (64, 2)), rng.normal(size=64), terminal=rng.random(64) < 0.2)


def distinct(method: Any, sweep: str, num_seeds: int = 2) -> list[int]:
    """Number of different runs in each stage."""
    algorithm = make(method, SPEC)
    data = attach(dataset(), algorithm.columns)
    return [len(set(same)) for same in equal_runs(algorithm, runs_of(method, num_seeds, sweep=sweep), data)]


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ("beta=0.1,0.2,0.4", [2, 2, 6]),  # read by the policy stage alone
        ("expectile=0.6,0.7,0.8", [2, 6, 6]),  # by the critic stage
        ("discount=0.9,0.99", [2, 4, 4]),
        ("weight_decay=0.0,0.1", [4, 4, 4]),  # by the behaviour stage
        ("learning_rate=1e-3,1e-4", [4, 4, 4]),
        ("expectile=0.6,0.7 beta=0.1,0.2,0.4", [2, 4, 12]),
        ("beta:expectile=0.1:0.6,0.2:0.7,0.4:0.7", [2, 4, 6]),
        ("beta=0.1", [2, 2, 2]),
        ("", [2, 2, 2]),
    ],
)
def test_srpo_tells_points_apart_where_its_paper_does(sweep: str, expected: list[int]) -> None:
    assert distinct(srpo.Config(), sweep) == expected


def test_a_hyperparameter_of_the_initialisation_or_of_prepared_columns_counts() -> None:
    """SAC's first temperature is a number in its State; SWG's weights are labelled before its model is fitted."""
    starts = [name for name in sac.HParams.__dataclass_fields__ if "init" in name]
    for name in starts:
        assert distinct(sac.Config(), f"{name}=0.1,0.2") == [4]
    names = swg.HParams.__dataclass_fields__
    last = distinct(swg.Config(), "expectile=0.7,0.8") if "expectile" in names else []
    assert last == [] or last[-1] == 4


@pytest.mark.parametrize(
    "name",
    [name if name in ("bc", "cep", "dac", "sac") else pytest.param(name, marks=pytest.mark.slow) for name in REGISTRY],
)
def test_what_is_not_read_changes_nothing(name: str) -> None:
    """Of every method and stage: an update with other values of what it is said not to read gives the same state, bit for bit."""
    config = REGISTRY[name].config()
    algorithm = make(config, spec_for(name, 3, 2))
    data = attach(dataset(), algorithm.columns)
    fields = list(algorithm.hparams.__dataclass_fields__)
    point = dict.fromkeys(fields, 0.011)
    runs = make_runs(Config(config, DatasetConfig(), num_seeds=1), [point, *(point | {field: 0.012} for field in fields)])
    same = equal_runs(algorithm, runs, data)  # the runs after the first differ from it in one field each
    key, hparams = jax.random.key(0), jax.tree.map(jnp.float32, algorithm.hparams)
    assert len(set(same[-1])) > 1
    for i, stage in enumerate(algorithm.stages[:-1]):
        unread = [field for field, first in zip(fields, same[i][1:], strict=True) if first == 0]
        if not unread or stage.prepare is not None:
            continue
        update = quick(stage.update)
        other = dataclasses.replace(hparams, **{f: jnp.float32(0.3) for f in unread})
        states = [quick(algorithm.init)(key, point) for point in (hparams, other)]
        after = [update(state, data[jnp.arange(stage.batch_size) % 64], key)[0] for state in states]
        a, b = (
            {path: leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state) if path[0].name != "hparams"}
            for state in after
        )
        assert all(np.array_equal(a[path], b[path]) for path in a)


def test_cohorts() -> None:
    """Two seeds of three points, the second point dropped: members, parked, and where each run's state lies."""
    assert make_cohort([0, 1, 0, 1, 0, 1], set()) == Cohort((0, 1), (), (0, 1, 0, 1, 0, 1))
    cohort = make_cohort([0, 1, 2, 3, 4, 5], {2, 3})
    assert cohort == Cohort((0, 1, 4, 5), (2, 3), (0, 1, 4, 5, 2, 3))
    assert cohort.standing() == [0, 1, 4, 5]


@pytest.mark.slow
def test_rows_move_between_cohorts() -> None:
    """From two states shared by six runs, over six of their own, to four and two at rest; each with its own hyper-parameters."""
    config = srpo.Config(behavior_hidden_dim=8, behavior_blocks=1, critic_hidden_dims=(8,), policy_hidden_dims=(8,))
    runs = runs_of(config, 2, sweep="beta=0.1,0.2,0.4")
    mesh = make_mesh(6, jax.devices()[:4])
    algorithm = make(config, SPEC)
    rows = jax.vmap(algorithm.init)(runs.keys[:2], jax.tree.map(lambda x: x[:2], runs.hparams))
    shared, apart, fewer = (
        make_cohort(same, out) for same, out in (([0, 1] * 3, set()), ([*range(6)], set()), ([*range(6)], {2, 3}))
    )
    states, parked = place_rows(rows, shared.index, runs.hparams, apart, mesh)
    assert parked is None
    assert states.step.shape == (8,)
    states, parked = place_rows(rows_of(states, None, apart), apart.index, runs.hparams, fewer, mesh)
    rows = rows_of(states, parked, fewer)
    np.testing.assert_allclose(np.asarray(rows.hparams.beta)[list(fewer.index)], runs.hparams.beta)
    kernel = np.asarray(jax.tree.leaves(rows.policy.params)[-1])[list(fewer.index)]
    np.testing.assert_array_equal(kernel[0::2], np.broadcast_to(kernel[0], kernel[0::2].shape))
    assert not np.array_equal(kernel[0], kernel[1])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cohort")
    collect(root)
    return root


@pytest.mark.slow
def test_sharing_stages_changes_no_result(root: Path) -> None:
    """Two seeds of three β: the early stages train two runs; metrics of each run are those of its β trained alone."""
    flags = ("launch/train.py", *TINY_SRPO, "--config.num_seeds=2")
    output = run(root, *flags, "--config.sweep=beta=0.1,0.2,0.4", f"--workdir={root / 'sweep'}").stdout
    assert "behavior: 18 updates of 2 different of 6 runs" in output
    timings = [json.loads(line) for line in (root / "sweep/metrics/timings.jsonl").read_text().splitlines()]
    assert [(t["runs"], t["distinct_runs"]) for t in timings] == [(6, 2), (6, 2), (6, 6)]
    assert Checkpoints(root / "sweep").progress(26).rows == (0, 1, 0, 1, 0, 1)

    run(root, *flags, "--config.sweep=beta=0.4", f"--workdir={root / 'alone'}")
    alone, sweep = (
        {(row["run"], row["step"], row["name"]): row["value"] for row in map(json.loads, path.read_text().splitlines())}
        for path in (root / name / "metrics/train.jsonl" for name in ("alone", "sweep"))
    )
    assert len(sweep) == 3 * len(alone)
    for (index, step, name), value in alone.items():
        np.testing.assert_allclose(sweep[index + 4, step, name], value, rtol=1e-4, atol=1e-5)

    # A policy is saved for every run, also where states are shared.
    checkpoints = Checkpoints(root / "sweep")
    algorithm = make(
        srpo.Config(behavior_hidden_dim=8, behavior_blocks=1, critic_hidden_dims=(8,), policy_hidden_dims=(8,)), Spec.plain(4, 2)
    )
    runs = runs_of(srpo.Config(), 2, sweep="beta=0.1,0.2,0.4")
    abstract = algorithm.policy(abstract_states(algorithm, runs, 6, make_mesh(2)))
    policies = jax.device_get(checkpoints.restore_policy(26, abstract))
    leaf = jax.tree.leaves(policies)[-1]
    assert np.array_equal(leaf[0], leaf[2])
    assert not np.array_equal(leaf[0], leaf[1])
