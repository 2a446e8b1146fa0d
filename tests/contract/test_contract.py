"""What every registered method promises to the trainer and the evaluator. A new method is tested by registering it."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    ACTION,
    CHUNKS,
    OBSERVATION,
    RUNS,
    UPDATES,
    case_of,
    chunk_of,
    copy,
    data_of,
    init_of,
    run_of,
    shrink,
    spec_of,
    stage_of,
    trained,
)
from jax.interpreters import partial_eval
from support import (
    assert_trees_close,
    chosen,
    compilations,
    quick_compilation,
    runs_of,
    trees_equal,
    unchecked,
)

from diffrl.algorithm import Stage
from diffrl.logging.console import LOSS
from diffrl.registry import REGISTRY, make
from diffrl.training.chunk import draw
from diffrl.training.devices import make_mesh, map_runs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _equal_ranks() -> Iterator[None]:
    """Arrays of unequal rank are an error: a [B] beside a [B, 1] is a mistake, and what a method broadcasts says so."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation() -> Iterator[None]:
    with quick_compilation():
        yield


STAGES = [(name, stage.name) for name in REGISTRY for stage in case_of(name).stages]
FITS = [
    (name, stage.name)
    for name in REGISTRY
    for i, stage in enumerate(case_of(name).stages)
    # A policy that follows another network's gradient minimises nothing of its own; a cross entropy starts near its floor.
    if stage.name not in ("policy", "energy") or i == 0
]
each_method = pytest.mark.parametrize("name", REGISTRY)
each_stage = pytest.mark.parametrize(("name", "stage"), STAGES)
# Of each kind of method one: a program of a single run, which these tests compile, takes as long as all others together.
KINDS = ("bc", "edm", "iql", "sac", "sgp", "srpo")
FIRST = [i for i, (name, stage) in enumerate(STAGES) if name in KINDS and stage == case_of(name).stages[0].name]
first_stages = pytest.mark.parametrize(("name", "stage"), chosen(STAGES, *FIRST))  # the others are slow


def losses_of(metrics: dict[str, Any]) -> list[str]:
    """Names of the losses; the first is the one that progress shows."""
    return sorted(name for name in metrics if name.endswith(LOSS))


@each_method
def test_states_can_be_made_on_several_devices(name: str) -> None:
    """As the trainer makes them: mapped over devices, where a loop's state must differ over runs from its start. Traced only."""
    algorithm, runs = case_of(name), runs_of(shrink(REGISTRY[name].config()), 2)
    make_states = map_runs(jax.vmap(algorithm.init), make_mesh(2, jax.devices()[:2]))
    states = jax.eval_shape(make_states, runs.keys, runs.hparams)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(states)} == {2}


@each_method
def test_init_is_a_pure_function_of_the_key(name: str) -> None:
    """`step` starts at 0, all leaves are finite arrays, the same key gives the same state and another key another one."""
    case = trained(name)
    again = init_of(name)(case.runs)
    states = case.before[case.algorithm.stages[0].name]
    assert trees_equal(again, states)
    np.testing.assert_array_equal(states.step, np.zeros(RUNS, np.int32))
    assert states.step.dtype == jnp.int32
    for leaf in jax.tree.leaves(states):
        assert np.isfinite(leaf).all()
    assert not trees_equal(jax.tree.leaves(run_of(states, 0)), jax.tree.leaves(run_of(states, 1)))


@each_method
def test_act(name: str) -> None:
    """float32 actions `[batch, A]` inside the environment's bounds, or int32 `[batch]` that are its numbers; the carry keeps its
    structure; same key, same actions.
    """
    case, spec = trained(name), spec_of(name)
    shape, dtype, low, high = (
        ((), jnp.int32, 0, ACTION - 1) if spec.num_actions else ((ACTION,), jnp.float32, (-2.0, 0.0), (2.0, 0.5))
    )
    if not spec.num_actions:
        spec = dataclasses.replace(spec, action_low=low, action_high=high)
    algorithm = make(case.config, spec)
    state = jax.tree.map(lambda x: x[0], case.after[algorithm.stages[-1].name])
    policy = algorithm.policy(state)
    alone = jax.eval_shape(algorithm.act, policy, algorithm.init_carry(policy, 1), jnp.zeros((1, OBSERVATION)), jax.random.key(1))
    assert alone[0].shape == (1, *shape)
    carry = algorithm.init_carry(policy, 5)
    observation = 10.0 * jax.random.normal(jax.random.key(0), (5, OBSERVATION))
    act = jax.jit(algorithm.act)
    action, after = jax.device_get(act(policy, carry, observation, jax.random.key(1)))
    assert action.shape == (5, *shape)
    assert action.dtype == dtype
    assert np.all(action >= np.array(low) - 1e-6)
    assert np.all(action <= np.array(high) + 1e-6)
    assert jax.tree.structure(after) == jax.tree.structure(carry)
    assert np.array_equal(action, act(policy, carry, observation, jax.random.key(1))[0])


@each_stage
def test_chunk_counts_learns_and_reports(name: str, stage: str) -> None:
    """`step` grows by one an update, something changes, the state keeps shapes and types; metrics are finite scalars per run
    and include a loss.
    """
    case = trained(name)
    before, after, metrics = case.before[stage], case.after[stage], case.metrics[stage]
    np.testing.assert_array_equal(after.step - before.step, np.full(RUNS, UPDATES))
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert not trees_equal(before.replace(step=after.step), after)
    assert losses_of(metrics)
    for key, value in metrics.items():
        assert value.shape == (RUNS,), key
        assert np.isfinite(value).all(), key
    np.testing.assert_array_equal(metrics["finite"], np.ones(RUNS))


@each_stage
def test_update_is_pure(name: str, stage: str) -> None:
    """Traced twice it is the same program, so nothing but its arguments matters; it hands the counter through, and its metrics
    are float32 scalars. It makes no arrays on the host, which the trainer forbids while it traces.
    """
    case, found = trained(name), stage_of(name, stage)
    state = jax.tree.map(lambda x: x[0], case.before[stage])
    columns = {} if found.prepare is None else found.prepare(state, data_of(name), jax.random.key(0))
    batch = draw(found, data_of(name), columns, jax.random.key(2))
    key = jax.random.key(1)
    with jax.transfer_guard("disallow"):
        # Functions of their own, so that the second is traced too.
        traced = [jax.jit(lambda *x: found.update(*x)).trace(state, batch, key) for _ in range(2)]
    assert str(traced[0].jaxpr) == str(traced[1].jaxpr)
    after, metrics = traced[0].out_info
    assert {(m.shape, m.dtype) for m in metrics.values()} == {((), jnp.dtype("float32"))}
    (counter,) = [
        i for i, (path, _) in enumerate(jax.tree_util.tree_leaves_with_path(state)) if jax.tree_util.keystr(path) == ".step"
    ]
    jaxpr = traced[0].jaxpr.jaxpr
    assert jaxpr.outvars[counter] is jaxpr.invars[counter]
    assert jax.tree.structure(after) == jax.tree.structure(state)


@pytest.mark.parametrize(("name", "stage"), FITS)
def test_fits_lower_their_loss(name: str, stage: str) -> None:
    """CHUNKS chunks on a tiny dataset of one-step problems: the mean loss over seeds falls.

    A stage counts as a fit if its loss measures distance to data. A policy stage after others does not: it improves a policy
    against networks frozen before it, by a surrogate of which only the gradient has a meaning.
    """
    case = trained(name)
    faster = case.before[stage].hparams
    rates = [field.name for field in dataclasses.fields(faster) if field.name.endswith("learning_rate")]
    faster = dataclasses.replace(faster, **{name: 10.0 * getattr(faster, name) for name in rates})
    states, losses = case.before[stage].replace(hparams=faster), []
    for _ in range(CHUNKS):
        states, metrics = chunk_of(name, stage, RUNS, UPDATES)(states, case.runs.keys)
        losses.append(float(np.mean(metrics[losses_of(metrics)[0]])))
    assert losses[-1] < losses[0] - 0.1 * abs(losses[0])


@first_stages
def test_runs_do_not_touch_each_other(name: str, stage: str) -> None:
    """Seed 3 of a sweep of five equals seed 3 alone, in state and metrics, to float tolerance."""
    case = trained(name)
    # An energy is defined up to a constant, whose gradient is rounding, which Adam turns into steps. So it is compared with a
    # sweep of two: a run alone has no run axis and rounds differently.
    count = 2 if stage == "energy" else 1
    few = runs_of(case.config, count, first_seed=3)
    assert np.array_equal(jax.random.key_data(few.keys), jax.random.key_data(case.runs.keys[3 : 3 + count]))
    if stage == case.algorithm.stages[0].name:
        others = init_of(name)(runs_of(case.config, RUNS, first_seed=3))
        assert trees_equal(run_of(others, 0), run_of(case.before[stage], 3))
    before = jax.tree.map(lambda x: x[3 : 3 + count], case.before[stage])
    states, metrics = chunk_of(name, stage, count, UPDATES)(before, few.keys)
    assert_trees_close(run_of(states, 0), run_of(case.after[stage], 3), rtol=1e-3, atol=1e-4)
    assert_trees_close(run_of(metrics, 0), run_of(case.metrics[stage], 3), rtol=1e-3, atol=1e-4)


@each_stage
def test_a_diverged_run_changes_no_other(name: str, stage: str) -> None:
    """Parameters of the first, a middle and the last run are not numbers: they keep their states, and the others' are bit-equal
    to those of a sweep without divergence.

    Through two chunks, so that what hangs on the counter happens while some runs stand still.
    """
    case, poisoned = trained(name), np.array([0, RUNS // 2, RUNS - 1])

    before = copy(case.before[stage])
    for x in jax.tree.leaves(before):
        if np.issubdtype(x.dtype, np.floating):
            x[poisoned] = np.nan
    chunk, alive = chunk_of(name, stage, RUNS, UPDATES), None
    states = before
    for _ in range(2):
        given = list(chunk.arguments(states, case.runs.keys))
        given[1] = given[1] if alive is None else alive
        states, alive, _ = chunk.chunk(*given)
    np.testing.assert_array_equal(np.flatnonzero(~np.asarray(alive)), poisoned)
    states, others = jax.device_get(states), np.delete(np.arange(RUNS), poisoned)
    healthy, _ = chunk(case.after[stage], case.runs.keys)
    assert trees_equal(
        jax.tree.map(lambda x: x[others], (states, before)), jax.tree.map(lambda x: x[others], (healthy, case.before[stage]))
    )
    kept = dataclasses.replace(before, step=states.step)
    for a, b in zip(jax.tree.leaves(states), jax.tree.leaves(kept), strict=True):
        np.testing.assert_array_equal(a[poisoned], b[poisoned])  # to which NaN equals NaN


@first_stages
def test_chunks_may_be_cut_anywhere(name: str, stage: str) -> None:
    """Two chunks of five updates are bit-equal to one of ten, of a run alone: with others it compiles longer."""
    case = trained(name)
    before, keys = run_of(case.before[stage], 3), case.runs.keys[3:4]
    states = before
    for _ in range(2):
        states, _ = chunk_of(name, stage, 1, UPDATES // 2)(states, keys)
    assert trees_equal(states, chunk_of(name, stage, 1, UPDATES)(before, keys)[0])


def reads_rewards(name: str, stage: Stage) -> bool:
    """Whether an update depends on the rewards of a batch, or on columns, which may be made of them."""

    def batch(state: Any, key: jax.Array) -> Any:
        columns = {} if stage.prepare is None else stage.prepare(state, data_of(name), key)
        return draw(stage, data_of(name), columns, key)

    with unchecked():
        key = jax.random.key(0)
        state = jax.eval_shape(case_of(name).init, key, case_of(name).hparams)
        given = state, jax.eval_shape(batch, state, key), key
        jaxpr = jax.make_jaxpr(stage.update)(*given).jaxpr
    _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(given)]
    # Windows and goals hold fields of a transition, and which these are their names say; other columns may be made of rewards.
    telling = [path for path, one in zip(paths, used, strict=True) if one and path.startswith(("[1].reward", "[1].extras"))]
    return any("reward" in path or not path.startswith(("[1].extras['window_", "[1].extras['goal")) for path in telling)


@each_method
def test_methods_that_imitate_read_no_rewards(name: str) -> None:
    """Data without rewards hold zeros in their place: exactly the methods that never look may be trained on them."""
    assert REGISTRY[name].imitates != any(reads_rewards(name, stage) for stage in case_of(name).stages)


def callbacks(jaxpr: str) -> list[str]:
    """Primitives by which a program would talk to the host."""
    return re.findall(r"\b(?:\w*callback\w*|infeed|outfeed)\b", jaxpr)


@each_stage
def test_chunks_do_not_talk_to_the_host(name: str, stage: str) -> None:
    case, run = trained(name), chunk_of(name, stage, RUNS, UPDATES)
    jaxpr = str(run.chunk.trace(*run.arguments(case.before[stage], case.runs.keys)).jaxpr)
    assert "scan" in jaxpr
    assert callbacks(jaxpr) == []


def test_a_callback_would_be_seen() -> None:
    def talks(x: jax.Array) -> jax.Array:
        jax.debug.print("{}", x)
        return jax.pure_callback(lambda y: y, x, x)

    assert len(callbacks(str(jax.make_jaxpr(talks)(1.0)))) >= 2


@each_stage
def test_a_chunk_compiles_once(name: str, stage: str) -> None:
    """Feeding a chunk its own result compiles nothing: shapes, types and weak types are a fixed point."""
    case, run = trained(name), chunk_of(name, stage, RUNS, UPDATES)
    states, *rest = run.arguments(case.before[stage], case.runs.keys)
    states, *_ = run.chunk(states, *rest)
    with compilations() as events:
        for _ in range(2):
            states, *_ = run.chunk(states, *rest)
    assert events == []
    with compilations() as events:  # the count does see a compilation
        jax.jit(lambda x: x + 1)(jnp.zeros(3))
    assert events
