"""Who sees whom: causality, the goal, and steps that are not there."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrl.networks.transformer import WindowDenoiser

BATCH, WINDOW, STATE, ACTION = 3, 4, 5, 2


@pytest.fixture(scope="module")
def network() -> tuple[Any, dict[str, jax.Array]]:
    """A network of untied weights (larger than at the start, so that differences show), and its inputs."""
    module = WindowDenoiser(ACTION, width=16, num_layers=2, num_heads=4)
    keys = jax.random.split(jax.random.key(0), 5)
    inputs = {
        "noised": jax.random.normal(keys[0], (BATCH, WINDOW, ACTION)),
        "log_level": jnp.linspace(-1.0, 0.0, BATCH),
        "states": jax.random.normal(keys[1], (BATCH, WINDOW, STATE)),
        "goal": jax.random.normal(keys[2], (BATCH, STATE)),
        "known": jnp.ones((BATCH, WINDOW), bool),
    }
    params = module.init(keys[3], *inputs.values())["params"]
    leaves, tree = jax.tree.flatten(params)
    params = tree.unflatten([x + 0.3 * jax.random.normal(jax.random.fold_in(keys[4], i), x.shape) for i, x in enumerate(leaves)])
    apply = jax.jit(lambda **changed: module.apply({"params": params}, *(inputs | changed).values()))
    return apply, inputs


def changed_steps(a: jax.Array, b: jax.Array) -> list[int]:
    return np.flatnonzero((np.abs(a - b) > 1e-6).any(axis=(0, 2))).tolist()


@pytest.mark.parametrize("name", ["noised", "states"])
@pytest.mark.parametrize("step", range(WINDOW))
def test_a_step_is_seen_by_itself_and_those_after_it(network: Any, name: str, step: int) -> None:
    apply, inputs = network
    moved = inputs[name].at[:, step].add(1.0)
    assert changed_steps(apply(), apply(**{name: moved})) == list(range(step, WINDOW))


@pytest.mark.parametrize("name", ["log_level", "goal"])
def test_level_and_goal_are_seen_by_all(network: Any, name: str) -> None:
    apply, inputs = network
    assert changed_steps(apply(), apply(**{name: inputs[name] + 1.0})) == list(range(WINDOW))


def test_steps_that_are_not_there_change_nothing(network: Any) -> None:
    """Two masked steps: whatever stands there, and it is the window of the two others, which begins at the first position."""
    apply, inputs = network
    known = jnp.arange(WINDOW)[None] >= jnp.full((BATCH, 1), 2)
    noise = {name: inputs[name].at[:, :2].set(7.0) for name in ("noised", "states")}
    masked = apply(known=known)
    np.testing.assert_allclose(masked[:, 2:], apply(known=known, **noise)[:, 2:], atol=1e-6)
    assert np.isfinite(masked).all()
    moved = {name: jnp.roll(inputs[name], -2, axis=1) for name in ("noised", "states")}
    np.testing.assert_allclose(masked[:, 2:], apply(**moved)[:, :2], atol=1e-5)


def test_examples_do_not_see_each_other(network: Any) -> None:
    apply, inputs = network
    moved = apply(states=inputs["states"].at[0].add(1.0))
    np.testing.assert_allclose(moved[1:], apply()[1:], atol=1e-5)


@pytest.mark.slow
def test_without_a_goal_there_is_no_token() -> None:
    """And of a goal that is no state a layer of its own tells."""
    module, keys = WindowDenoiser(ACTION, width=16, num_layers=1, num_heads=2), jax.random.split(jax.random.key(0), 2)
    x, s, known = jnp.zeros((1, WINDOW, ACTION)), jnp.zeros((1, WINDOW, STATE)), jnp.ones((1, WINDOW), bool)
    for width, layers, positions in ((0, set(), WINDOW), (STATE, set(), WINDOW + 1), (3, {"goal"}, WINDOW + 1)):
        params = module.init(keys[0], x, jnp.zeros(1), s, jnp.zeros((1, width)), known)["params"]
        assert set(params) - {"Transformer_0", "positions", "state", "action", "level", "out"} == layers
        assert params["positions"].shape == (positions, 16)
