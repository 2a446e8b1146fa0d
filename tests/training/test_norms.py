"""Norms of gradients and parameters among the metrics: of every network that is trained, and nothing where not asked for."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract.cases import case_of, data_of, dataset, init_of, runs_of, shrink
from programs import TINY_BC, collect, run
from support import chosen

from diffrl.algorithm import Stage
from diffrl.learner import Learner
from diffrl.registry import REGISTRY
from diffrl.training.chunk import make_chunk, make_prepare
from diffrl.training.devices import make_mesh

SGD = optax.sgd(0.5)
NAMES = sorted(REGISTRY)


@flax.struct.dataclass
class State:
    step: Any
    critic: Learner
    policy: Learner
    behavior: Learner  # which nothing trains


def half_square(params: Any) -> jax.Array:
    """Its gradient is the parameters."""
    return 0.5 * (jnp.sum(params["w"] ** 2) + params["b"] ** 2)


def update(state: State, batch: Any, key: jax.Array) -> tuple[State, dict[str, jax.Array]]:
    """The policy moves in every second update only."""
    critic, loss = state.critic.step(half_square, SGD)
    policy = jax.lax.cond(state.step % 2 == 0, lambda one: one.step(half_square, SGD)[0], lambda one: one, state.policy)
    return dataclasses.replace(state, critic=critic, policy=policy), {"critic/loss": loss}


def chunk(log_norms: bool, num_updates: int = 2, first: float = 3.0) -> tuple[State, dict[str, np.ndarray]]:
    params = {"w": jnp.array([[first, 0.0]]), "b": jnp.array([4.0])}
    states = State(jnp.zeros(1, jnp.int32), *(Learner(params, SGD.init(params)) for _ in range(3)))
    mesh = make_mesh(1, jax.devices()[:1])
    program = make_chunk(Stage("stage", num_updates, 1, update), num_updates, mesh, log_norms)
    given = (jax.tree.map(jnp.copy, states), jnp.ones(1, bool), jax.random.key(0)[None], {}, dataset(), jnp.int32(0))
    after, _, metrics = program(*given)
    return jax.device_get((after, {name: value[0] for name, value in metrics.items()}))


def test_by_hand() -> None:
    """Parameters of norm 5 that halve in each step; a chunk's metrics are means over its updates."""
    after, metrics = chunk(log_norms=True)
    assert {name for name in metrics if "norm" in name} == {
        f"{network}/{kind}_norm" for network in ("critic", "policy") for kind in ("gradient", "parameter")
    }
    assert metrics["critic/gradient_norm"] == pytest.approx((5.0 + 2.5) / 2)
    assert metrics["critic/parameter_norm"] == pytest.approx((2.5 + 1.25) / 2)
    assert metrics["policy/gradient_norm"] == pytest.approx((5.0 + 0.0) / 2)
    assert metrics["policy/parameter_norm"] == pytest.approx(2.5)
    plain, _ = chunk(log_norms=False)
    assert jax.tree.structure(after) == jax.tree.structure(plain)
    jax.tree.map(np.testing.assert_array_equal, after, plain)


def test_a_norm_that_overflows_freezes_nothing() -> None:
    after, metrics = chunk(log_norms=True, first=3e19)
    assert metrics["critic/gradient_norm"] == np.inf
    jax.tree.map(np.testing.assert_array_equal, after, chunk(log_norms=False, first=3e19)[0])


def traced(name: str, stage: Stage, log_norms: bool) -> tuple[str, dict[str, Any], Any]:
    """Text of a chunk's program, its metrics, and the state it makes."""
    mesh, runs = make_mesh(2, jax.devices()[:1]), runs_of(shrink(REGISTRY[name].config()), 2)
    states, data = init_of(name)(runs), data_of(name)
    columns = jax.eval_shape(make_prepare(stage, mesh), states, runs.keys, data)
    given = (states, jnp.ones(2, bool), runs.keys, columns, data, jnp.int32(0))
    program, (after, _, metrics) = jax.make_jaxpr(make_chunk(stage, 2, mesh, log_norms), return_shape=True)(*given)
    return str(program), metrics, after


@pytest.mark.parametrize("name", chosen(NAMES, NAMES.index("td3_bc")))
def test_every_network_that_a_stage_trains(name: str) -> None:
    trained = {"td3_bc": [{"critic", "policy"}], "sgp": [{"dynamics"}, {"reward"}, {"score"}, {"distance"}]}.get(name)
    for number, stage in enumerate(case_of(name).stages):
        _, plain, before = traced(name, stage, log_norms=False)
        _, metrics, after = traced(name, stage, log_norms=True)
        added = metrics.keys() - plain.keys()
        networks = {each.partition("/")[0] for each in added}
        assert added == {f"{network}/{kind}_norm" for network in networks for kind in ("gradient", "parameter")}
        assert networks == trained[number] if trained else networks
        assert jax.tree.structure(after) == jax.tree.structure(before)


def plain_step(self: Learner, loss_fn: Any, optimizer: Any, *, has_aux: bool = False) -> tuple[Any, ...]:
    """A step as it is without anything beside it."""
    value, gradients = jax.value_and_grad(loss_fn, has_aux=has_aux)(self.params)
    updates, opt_state = optimizer.update(gradients, self.opt_state, self.params)
    learner = Learner(params=optax.apply_updates(self.params, updates), opt_state=opt_state)
    return (learner, *value) if has_aux else (learner, value)


@pytest.mark.parametrize("name", chosen(NAMES, NAMES.index("td3_bc")))
def test_the_program_without_them_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in case_of(name).stages:
        text = traced(name, stage, log_norms=False)[0]
        with monkeypatch.context() as patched:
            patched.setattr(Learner, "step", plain_step)
            assert traced(name, stage, log_norms=False)[0] == text
        assert traced(name, stage, log_norms=True)[0] != text


def test_in_the_metrics_of_a_training(tmp_path: Path) -> None:
    collect(tmp_path)
    run(tmp_path, "launch/train.py", *TINY_BC, "--config.log_norms=true", f"--workdir={tmp_path / 'run'}")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics/train.jsonl").read_text().splitlines()]
    for name in ("policy/gradient_norm", "policy/parameter_norm"):
        values = [line["value"] for line in lines if line["name"] == name]
        assert len(values) == 3 * 15  # runs, chunks
        assert np.isfinite(values).all()
        assert min(values) > 0.0
