"""Sizes, initialisation and arithmetic of the networks (SRPO, Appendix C and the authors' `model.py`)."""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import assert_trees_close, quick

from diffrl.networks.denoiser import ResidualDenoiser
from diffrl.networks.ensembles import Critics, Value, ensemble
from diffrl.networks.mlp import MLP, Linear, mish
from diffrl.networks.time_features import GaussianFourierFeatures

TASKS = {"hopper": (11, 3), "halfcheetah": (17, 6), "antmaze": (29, 8)}


def count(variables: Any) -> int:
    """Number of trainable parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def shapes(network: nn.Module, *dims: int | None) -> Any:
    """Shapes of the variables for inputs of these widths (None is a time), without computing any."""
    inputs = [jnp.zeros(1) if dim is None else jnp.zeros((1, dim)) for dim in dims]
    return jax.eval_shape(network.init, jax.random.key(0), *inputs)


@pytest.mark.parametrize(("task", "expected"), [("hopper", 1_640_451), ("halfcheetah", 1_643_526), ("antmaze", 1_647_624)])
def test_denoiser_size(task: str, expected: int) -> None:
    """The authors' network without its unused layer; the 32 frequencies are constants, not parameters."""
    observation, action = TASKS[task]
    variables = shapes(ResidualDenoiser(action), action, None, observation)
    assert count(variables) == expected
    assert set(variables) == {"params", "constants"}
    assert [leaf.shape for leaf in jax.tree.leaves(variables["constants"])] == [(32,)]


@pytest.mark.parametrize(("task", "expected"), [("hopper", 69_889), ("halfcheetah", 72_193), ("antmaze", 75_777)])
def test_critic_size(task: str, expected: int) -> None:
    """Two independent action values: twice one network."""
    assert count(shapes(Critics((256, 256)), *TASKS[task])) == 2 * expected


@pytest.mark.parametrize(("task", "expected"), [("hopper", 69_121), ("halfcheetah", 70_657), ("antmaze", 73_729)])
def test_value_size(task: str, expected: int) -> None:
    assert count(shapes(Value((256, 256)), TASKS[task][0])) == expected


@pytest.mark.parametrize(
    ("task", "layers", "expected"), [("hopper", 2, 69_635), ("halfcheetah", 2, 71_942), ("antmaze", 4, 207_112)]
)
def test_policy_size(task: str, layers: int, expected: int) -> None:
    observation, action = TASKS[task]
    assert count(shapes(MLP((256,) * layers, action, output_activation=jnp.tanh), observation)) == expected


@pytest.mark.parametrize("fan_in", [3, 64])
def test_linear_has_torch_initialisation(fan_in: int) -> None:
    """Kernel and bias are U(±1/√fan_in): within the bound, up to its ends, with the deviation of a uniform."""
    params = Linear(8192).init(jax.random.key(0), jnp.zeros((1, fan_in)))["params"]
    bound = fan_in**-0.5
    for name in ("kernel", "bias"):
        values = np.asarray(params[name])
        assert np.abs(values).max() <= bound * (1 + 1e-6)
        assert values.max() > 0.998 * bound
        assert values.min() < -0.998 * bound
        assert abs(values.mean()) < 5 * bound / np.sqrt(3 * values.size)
        assert values.std() == pytest.approx(bound / np.sqrt(3), rel=0.02)


def test_linear_is_affine() -> None:
    params = {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), "bias": jnp.array([0.5, -0.5])}
    np.testing.assert_allclose(Linear(2).apply({"params": params}, jnp.array([[1.0, 0.0, -1.0]])), [[-3.5, -4.5]])


def test_mlp_concatenates_activates_and_ends_linear() -> None:
    """Against the same network written out: relu between layers, none after the last but the one asked for."""
    network = MLP((5, 4), 2, output_activation=jnp.tanh)
    a, b = jax.random.normal(jax.random.key(1), (7, 3)), jax.random.normal(jax.random.key(2), (7, 2))
    params = quick(network.init)(jax.random.key(0), a, b)["params"]
    x = jnp.concatenate([a, b], axis=-1)
    for index in range(3):
        x = x @ params[f"Linear_{index}"]["kernel"] + params[f"Linear_{index}"]["bias"]
        x = jnp.tanh(x) if index == 2 else jnp.maximum(x, 0.0)
    np.testing.assert_allclose(network.apply({"params": params}, a, b), x, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_inputs_of_fewer_rows_are_broadcast() -> None:
    """As if they were repeated: candidates [3, 5], one observation for each of 5, one time for all; and in an ensemble."""
    keys = jax.random.split(jax.random.key(1), 3)
    action, observation, t = (jax.random.normal(k, s) for k, s in zip(keys, [(3, 5, 2), (5, 4), (1, 1, 1)], strict=True))
    repeated = [jnp.broadcast_to(x, (3, 5, x.shape[-1])) for x in (action, t, observation)]
    network = MLP((8, 8), 2)
    variables = quick(network.init)(jax.random.key(0), *repeated)
    np.testing.assert_allclose(network.apply(variables, action, t, observation), network.apply(variables, *repeated), atol=1e-6)
    critics = Critics((8,))
    variables = quick(critics.init)(jax.random.key(0), repeated[2], action)
    expected = critics.apply(variables, repeated[2], action)
    np.testing.assert_allclose(critics.apply(variables, observation, action), expected, atol=1e-6)
    denoiser = ResidualDenoiser(2, hidden_dim=16, num_blocks=1, time_dim=8)
    variables = quick(denoiser.init)(jax.random.key(0), action, jnp.zeros((3, 5)), repeated[2])
    expected = denoiser.apply(variables, action, jnp.full((3, 5), 0.4), repeated[2])
    np.testing.assert_allclose(denoiser.apply(variables, action, jnp.full((1, 1), 0.4), observation), expected, atol=1e-5)


@pytest.mark.parametrize("place", ["before", "after"])
def test_layers_are_normalised_before_or_after_the_activation(place: Any) -> None:
    """Before that of all hidden layers but the first, or after that of every one; against the network written out."""
    network, x = MLP((5, 4), 2, layer_norm=place), jax.random.normal(jax.random.key(1), (7, 3))
    params = quick(network.init)(jax.random.key(0), x)["params"]
    assert sum(name.startswith("LayerNorm") for name in params) == (1 if place == "before" else 2)

    def norm(x: Any) -> Any:
        return (x - x.mean(axis=-1, keepdims=True)) / jnp.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)

    y = x
    for index in range(2):
        y = y @ params[f"Linear_{index}"]["kernel"] + params[f"Linear_{index}"]["bias"]
        if place == "before":
            y = jnp.maximum(norm(y) if index else y, 0.0)
        else:
            y = norm(jnp.maximum(y, 0.0))
    expected = y @ params["Linear_2"]["kernel"] + params["Linear_2"]["bias"]
    np.testing.assert_allclose(network.apply({"params": params}, x), expected, rtol=1e-4, atol=1e-5)


def test_ensemble_members_are_separate_networks() -> None:
    """Members start different, and each equals an MLP with its slice of the parameters."""
    x = jax.random.normal(jax.random.key(1), (9, 4))
    network = ensemble(MLP, 3)((8,), 2)
    params = quick(network.init)(jax.random.key(0), x)["params"]
    output = network.apply({"params": params}, x)
    assert output.shape == (3, 9, 2)
    for k in range(3):
        member = MLP((8,), 2).apply({"params": jax.tree.map(lambda leaf, k=k: leaf[k], params)}, x)
        np.testing.assert_allclose(output[k], member, rtol=1e-5, atol=1e-6)
        for leaf in jax.tree.leaves(params):
            assert not np.any(np.asarray(leaf[k]) == np.asarray(leaf[(k + 1) % 3]))


def test_critics_take_the_action_first() -> None:
    """Q_k(s, a) is an MLP of [a, s], the order of the authors' code; one value per critic and row."""
    observation, action = jax.random.normal(jax.random.key(1), (5, 4)), jax.random.normal(jax.random.key(2), (5, 2))
    network = Critics((8, 8))
    params = quick(network.init)(jax.random.key(0), observation, action)["params"]
    (stacked,) = params.values()
    output = network.apply({"params": params}, observation, action)
    assert output.shape == (2, 5)
    for k in range(2):
        member = {"params": jax.tree.map(lambda leaf, k=k: leaf[k], stacked)}
        expected = MLP((8, 8), 1).apply(member, jnp.concatenate([action, observation], axis=-1))[:, 0]
        np.testing.assert_allclose(output[k], expected, rtol=1e-5, atol=1e-6)


def test_time_features() -> None:
    """[sin 2πWt, cos 2πWt] in float32 against double precision with the same W; W ~ N(0, 30²)."""
    features = GaussianFourierFeatures(num_frequencies=20_000)
    t = jnp.array([0.0, 1e-3, 0.37, 1.0])
    variables = quick(features.init)(jax.random.key(0), t)
    assert "params" not in variables
    w = np.asarray(variables["constants"]["frequencies"], np.float64)
    assert abs(w.mean()) < 5 * 30 / np.sqrt(w.size)
    assert w.std() == pytest.approx(30.0, rel=0.025)
    phase = 2 * np.pi * w * np.asarray(t, np.float64)[:, None]
    expected = np.concatenate([np.sin(phase), np.cos(phase)], axis=-1)
    np.testing.assert_allclose(features.apply(variables, t), expected, atol=3e-4)


def test_mish() -> None:
    """x tanh(log(1 + eˣ)) and its derivative, against double precision and without overflow far out."""
    x = np.concatenate([np.linspace(-12, 40, 2001), [-1e3, -90.0, 90.0, 1e4]]).astype(np.float32)
    exact = x.astype(np.float64)
    tanh = np.tanh(np.logaddexp(0.0, exact))
    np.testing.assert_allclose(mish(jnp.asarray(x)), exact * tanh, rtol=3e-6, atol=1e-30)
    slope = tanh + exact * (1 - tanh**2) / (1 + np.exp(np.minimum(-exact, 700.0)))
    np.testing.assert_allclose(jax.vmap(jax.grad(mish))(jnp.asarray(x)), slope, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def denoiser() -> tuple[ResidualDenoiser, Any, tuple[jax.Array, jax.Array, jax.Array]]:
    """A small network whose widths are all different, so that a layer is known by its shape."""
    network = ResidualDenoiser(action_dim=2, hidden_dim=24, num_blocks=3, expansion=4, time_dim=20)
    keys = jax.random.split(jax.random.key(3), 4)
    inputs = (
        jax.random.normal(keys[0], (6, 2)),
        jax.random.uniform(keys[1], (6,)),
        jax.random.normal(keys[2], (6, 5)),
    )
    return network, quick(network.init)(keys[3], *inputs), inputs


def reference(variables: Any, noised: np.ndarray, t: np.ndarray, observation: np.ndarray) -> np.ndarray:
    """The network of the authors' `model.py` written out in double precision, dropout off."""
    params = variables["params"]

    def numbered(kind: str, shape: tuple[int, ...], leaf: str) -> list[dict[str, np.ndarray]]:
        names = sorted((n for n in params if re.fullmatch(kind + r"_\d+", n)), key=lambda n: int(n.rpartition("_")[2]))
        layers = [params[n] for n in names if params[n][leaf].shape == shape]
        return [{key: np.asarray(value, np.float64) for key, value in layer.items()} for layer in layers]

    def linear(layer: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        return x @ layer["kernel"] + layer["bias"]

    def mish(x: np.ndarray) -> np.ndarray:
        return x * np.tanh(np.log1p(np.exp(x)))

    w = np.asarray(jax.tree.leaves(variables["constants"])[0], np.float64)
    phase = 2 * np.pi * w * t[:, None]
    (time_in,), (time_out,) = numbered("Linear", (64, 20), "kernel"), numbered("Linear", (20, 20), "kernel")
    temb = linear(time_out, mish(linear(time_in, np.concatenate([np.sin(phase), np.cos(phase)], axis=-1))))
    (first,), (last,) = numbered("Linear", (2 + 5 + 20, 24), "kernel"), numbered("Linear", (24, 2), "kernel")
    h = linear(first, np.concatenate([noised, observation, temb], axis=-1))
    ups, downs = numbered("Linear", (24, 96), "kernel"), numbered("Linear", (96, 24), "kernel")
    norms = numbered("LayerNorm", (24,), "scale")
    assert len(ups) == len(downs) == len(norms) == 3
    for up, down, norm in zip(ups, downs, norms, strict=True):
        centred = h - h.mean(axis=-1, keepdims=True)
        y = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * norm["scale"] + norm["bias"]
        h = h + linear(down, mish(linear(up, y)))
    return linear(last, mish(h))


@pytest.mark.parametrize("scale", [1.0, 1e-2])
def test_denoiser_equals_the_written_out_network(denoiser: Any, scale: float) -> None:
    """Order of norm and residual, Mish, concatenation, no division by σ. With a small first layer the variance before the
    first norm is near 1e-5, so that LayerNorm's epsilon decides: flax's own 1e-6 would fail.
    """
    network, variables, inputs = denoiser
    rng = np.random.default_rng(5)
    params = jax.tree.map(lambda leaf: np.float32(leaf + 0.1 * rng.normal(size=leaf.shape)), variables["params"])
    for name, layer in params.items():
        if layer.get("kernel", np.zeros(0)).shape == (2 + 5 + 20, 24):
            params[name] = jax.tree.map(lambda leaf: scale * leaf, layer)
    variables = {**variables, "params": params}
    expected = reference(variables, *(np.asarray(x, np.float64) for x in inputs))
    np.testing.assert_allclose(quick(network.apply)(variables, *inputs), expected, rtol=1e-3, atol=3e-4)


def test_dropout_acts_in_training_only(denoiser: Any) -> None:
    """In evaluation the output needs no key and is the same each time; in training it depends on the key. A tenth drops."""
    network, variables, inputs = denoiser
    evaluated = [np.asarray(quick(network.apply)(variables, *inputs)) for _ in range(2)]
    assert np.array_equal(*evaluated)

    @quick
    def train(key: jax.Array) -> jax.Array:
        return network.apply(variables, *inputs, train=True, rngs={"dropout": key})

    trained = [np.asarray(train(jax.random.key(k))) for k in (0, 1)]
    assert not np.allclose(trained[0], trained[1])
    assert not np.allclose(trained[0], evaluated[0])
    without = network.clone(dropout_rate=0.0).apply(variables, *inputs, train=True, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_allclose(without, evaluated[0], rtol=1e-5, atol=1e-6)

    @quick
    def watch(*inputs: jax.Array) -> Any:
        return network.apply(
            variables,
            *inputs,
            train=True,
            rngs={"dropout": jax.random.key(0)},
            capture_intermediates=lambda module, _: isinstance(module, nn.Dropout),
            mutable=["intermediates"],
        )[1]

    seen = watch(*(np.repeat(x, 500, axis=0) for x in inputs))
    dropped = [float(np.mean(np.asarray(leaf) == 0.0)) for leaf in jax.tree.leaves(seen)]
    assert len(dropped) == 3
    assert dropped == pytest.approx([0.1] * 3, abs=0.006)


def test_initialisation_is_a_function_of_the_key(denoiser: Any) -> None:
    network, variables, inputs = denoiser
    keys = jax.random.split(jax.random.key(3), 4)
    init = quick(network.init)
    assert_trees_close(init(keys[3], *inputs), variables, rtol=0.0, atol=0.0)
    other = init(jax.random.key(9), *inputs)
    frequencies = [np.asarray(jax.tree.leaves(v["constants"])[0]) for v in (variables, other)]
    assert not np.any(frequencies[0] == frequencies[1])
