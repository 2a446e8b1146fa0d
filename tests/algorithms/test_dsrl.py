"""DSRL: the noise policy's optimum in closed form, its update against the equations written out, and how far it reaches."""

import dataclasses
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array
from support import (
    act,
    assert_trees_close,
    first_gradient,
    init_states,
    make_dataset,
    quick,
    random_batch,
    runs_of,
    train_stages,
    trees_equal,
)

from diffrl.algorithms import diffusion_bc, dsrl
from diffrl.diffusion.flows import flow_grid, flow_map, flow_matching_loss
from diffrl.learner import forward
from diffrl.networks.ensembles import Critics
from diffrl.networks.gaussian import distribution, squashed
from diffrl.networks.mlp import MLP, xavier_dense
from diffrl.types import Spec, Transition

# -------------------------------------------------------------------------------------------------- the policy's optimum


class Slope(nn.Module):
    """Q^W = g w of two critics whose mean it is."""

    slope: float

    @nn.compact
    def __call__(self, observation: Array, noise: Array) -> Array:
        value = self.slope * noise[..., 0]
        return jnp.stack([value + 5.0, value - 5.0])


class Free(nn.Module):
    """One Gaussian for all observations."""

    @nn.compact
    def __call__(self, observation: Array) -> Array:
        return jnp.broadcast_to(self.param("moments", nn.initializers.zeros, (2,)), (len(observation), 2))


@pytest.mark.parametrize(("x", "mean"), [(1.0, 0.3130), (3.0, 0.6716)])
def test_entropy_against_value(x: float, mean: float) -> None:
    """g b u + α H(u) on (-1, 1) is greatest for the density ∝ e^{x u}, x = g b / α, whose mean is coth x - 1/x. A squashed
    Gaussian comes near it.
    """
    bound, weight = 0.4, 0.1
    critics, observation, optimizer = Slope(x * weight / bound), jnp.zeros((512, 1)), optax.adam(2e-2)

    def step(carry: Any, key: Array) -> tuple[Any, None]:
        params, moments = carry
        loss = jax.grad(lambda p: dsrl.policy_loss(p, Free(), critics, {}, observation, bound, weight, key)[0])
        updates, moments = optimizer.update(loss(params), moments)
        return (optax.apply_updates(params, updates), moments), None

    params = {"moments": jnp.zeros(2)}
    train = quick(lambda keys: jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0])
    found = train(jax.random.split(jax.random.key(0), 600))
    u, _ = squashed(*distribution(Free(), found, jnp.zeros((20_000, 1))), jax.random.key(1))
    assert float(u.mean()) == pytest.approx(mean, abs=0.03)


# ---------------------------------------------------------------------------------------------------------- one update

OBSERVATION_DIM, ACTION_DIM, ROWS = 4, 2, 8
CONFIG = dsrl.Config(
    hidden_dims=(16, 16), critic_hidden_dims=(12, 12), num_critics=3, num_flow_steps=3, noise_bound=0.4, learning_rate=3e-2
)
FLOW = MLP((16, 16), ACTION_DIM, dense=xavier_dense, activation=nn.gelu)
POLICY = MLP((16, 16), 2 * ACTION_DIM, dense=xavier_dense, activation=nn.gelu)
CRITICS = Critics((12, 12), 3, dense=xavier_dense, activation=nn.gelu, layer_norm="after")
NETWORKS = ("behavior", "critic", "noise_critic", "policy", "log_entropy_weight")


@cache
def setup(train_behavior: bool = True) -> tuple[Any, Any, Transition]:
    """Jitted update, a fresh state whose averages are far from the networks, and a batch."""
    algorithm = dsrl.make(dataclasses.replace(CONFIG, train_behavior=train_behavior), Spec.plain(OBSERVATION_DIM, ACTION_DIM))
    init, hparams = quick(algorithm.init), jax.tree.map(jnp.float32, algorithm.hparams)
    state, other = (init(jax.random.key(seed), hparams) for seed in range(2))
    state = state.replace(target_critic_params=other.critic.params, ema_params=other.behavior.params)
    return quick(algorithm.stages[0].update), state, random_batch(ROWS, OBSERVATION_DIM, ACTION_DIM)


def flow(params: Any, observation: Array, noise: Array) -> Array:
    """One of the two calls by itself."""
    end = flow_map(lambda x, t: forward(FLOW, params, x, t[:, None], observation), flow_grid(3), noise)
    return jnp.clip(end, -1.0, 1.0)


def gradients(state: Any) -> dict[str, Any]:
    return {name: first_gradient(getattr(state, name)) for name in NETWORKS}


def test_update_written_out() -> None:
    """All five steps and both averages, from what the networks were before."""
    update, state, batch = setup()
    after, metrics = update(state, batch, jax.random.key(5))

    @quick
    def expected(state: Any) -> tuple[dict[str, Any], Array]:
        next_key, noise_key, policy_key, flow_key = jax.random.split(jax.random.key(5), 4)
        u, _ = squashed(*distribution(POLICY, state.policy.params, batch.next_observation, -20.0), next_key)
        next_action = flow(state.ema_params, batch.next_observation, 0.4 * u)
        next_q = forward(CRITICS, state.target_critic_params, batch.next_observation, next_action)
        target = batch.reward + 0.99 * (1.0 - batch.terminal) * (next_q.mean(axis=0) - 0.5 * next_q.std(axis=0))
        z = jax.random.normal(noise_key, batch.action.shape)
        q = forward(CRITICS, state.critic.params, batch.observation, flow(state.ema_params, batch.observation, z))
        weight = jnp.exp(state.log_entropy_weight.params)

        def critic(params: Any) -> Array:
            return jnp.mean((forward(CRITICS, params, batch.observation, batch.action) - target) ** 2)

        def noise_critic(params: Any) -> Array:
            return jnp.mean((forward(CRITICS, params, batch.observation, z) - q) ** 2)

        def policy(params: Any) -> tuple[Array, Array]:
            u, log_prob = squashed(*distribution(POLICY, params, batch.observation, -20.0), policy_key)
            value = forward(CRITICS, state.noise_critic.params, batch.observation, 0.4 * u).mean(axis=0)
            return jnp.mean(weight * log_prob - value), -log_prob.mean()

        def behavior(params: Any) -> Array:
            return flow_matching_loss(
                lambda x, t: forward(FLOW, params, x, t[:, None], batch.observation), batch.action, flow_key
            )

        by_policy, entropy = jax.grad(policy, has_aux=True)(state.policy.params)
        return {
            "behavior": jax.grad(behavior)(state.behavior.params),
            "critic": jax.grad(critic)(state.critic.params),
            "noise_critic": jax.grad(noise_critic)(state.noise_critic.params),
            "policy": by_policy,
            "log_entropy_weight": weight * (entropy + 0.5 * ACTION_DIM),
        }, target

    wanted, target = expected(state)
    for name, found in gradients(after).items():
        assert_trees_close(found, wanted[name], rtol=1e-3, atol=1e-5)
    for average, params, old in (
        (after.target_critic_params, state.critic.params, state.target_critic_params),
        (after.ema_params, state.behavior.params, state.ema_params),
    ):
        assert_trees_close(average, jax.tree.map(lambda a, b: 0.995 * a + 0.005 * b, old, params))
    assert float(metrics["critic/target"]) == pytest.approx(float(target.mean()), rel=1e-4)


def test_no_loss_reaches_a_foreign_network() -> None:
    """The policy asks the critic of noises alone, which asks that of actions at the flow's; the flow asks nobody."""
    update, state, batch = setup()
    usual = gradients(update(state, batch, jax.random.key(5))[0])

    def changed(**networks: Any) -> set[str]:
        found = gradients(update(state.replace(**networks), batch, jax.random.key(5))[0])
        return {name for name in NETWORKS if not trees_equal(found[name], usual[name])}

    critic = state.critic.replace(params=state.target_critic_params)
    assert changed(critic=critic) == {"critic", "noise_critic"}
    assert changed(noise_critic=state.noise_critic.replace(params=critic.params)) == {"noise_critic", "policy"}
    assert changed(ema_params=state.behavior.params) == {"critic", "noise_critic"}
    # The entropy is of the noise before it is scaled: the bound moves the value alone.
    assert "log_entropy_weight" not in changed(hparams=dataclasses.replace(state.hparams, noise_bound=jnp.float32(1.0)))


@pytest.mark.slow
def test_a_flow_that_is_left_as_it_is() -> None:
    """It acts itself, without the average."""
    update, state, batch = setup(train_behavior=False)
    after, metrics = update(state, batch, jax.random.key(5))
    assert trees_equal(after.behavior, state.behavior)
    assert trees_equal(after.ema_params, state.ema_params)
    assert "behavior/loss" not in metrics
    moved = state.replace(ema_params=jax.tree.map(jnp.zeros_like, state.ema_params))
    assert trees_equal(gradients(update(moved, batch, jax.random.key(5))[0]), gradients(after))


@pytest.mark.parametrize("deterministic", [False, True])
def test_acting_is_the_flow_at_scaled_noise(deterministic: bool) -> None:
    """Within the box: w = b u, and not u."""
    config = dataclasses.replace(CONFIG, act=dsrl.Act(deterministic=deterministic))
    algorithm = dsrl.make(config, Spec.plain(OBSERVATION_DIM, ACTION_DIM))
    _, state, batch = setup()
    key = jax.random.key(3)
    moments = distribution(POLICY, state.policy.params, batch.observation, -20.0)
    u = jnp.tanh(moments[0]) if deterministic else squashed(*moments, key)[0]
    found, _ = quick(algorithm.act)(algorithm.policy(state), (), batch.observation, key)
    np.testing.assert_allclose(found, quick(flow)(state.ema_params, batch.observation, 0.4 * u), rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------------------ a diffusion model


def diffusion(**changes: Any) -> dsrl.Config:
    return dataclasses.replace(CONFIG, generator="diffusion", behavior_hidden_dim=16, behavior_blocks=1, **changes)


def test_a_diffusion_policy_by_its_noise() -> None:
    """What it makes of a noise is what `diffusion_bc` makes of it without noise of its own; its fields are of the same form."""
    spec, observation = Spec.plain(OBSERVATION_DIM, ACTION_DIM), random_batch(ROWS, OBSERVATION_DIM, ACTION_DIM).observation
    clone = diffusion_bc.make(diffusion_bc.Config(hidden_dim=16, num_blocks=1, act=diffusion_bc.Act(num_denoising_steps=4)), spec)
    cloned = quick(clone.init)(jax.random.key(0), jax.tree.map(jnp.float32, clone.hparams))
    action, _ = quick(clone.act)(clone.policy(cloned), (), observation, jax.random.key(1))
    noise = jax.random.normal(jax.random.split(jax.random.key(1))[0], (ROWS, ACTION_DIM))

    config = diffusion(num_denoising_steps=4)
    state = dsrl.make(config, spec).init(jax.random.key(2), jax.tree.map(jnp.float32, dsrl.make(config, spec).hparams))
    shapes = [jax.tree.map(jnp.shape, (of.behavior.params, of.behavior_constants)) for of in (state, cloned)]
    assert shapes[0] == shapes[1]
    draw = quick(dsrl.diffusion_generator(config, spec).draw)
    found = draw(cloned.behavior.params, cloned.behavior_constants, observation, noise)
    np.testing.assert_allclose(found, action, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_trained_diffusion_model_is_steered() -> None:
    """One state, actions N(0, .3²), reward a. A model that is trained, then left as it is; the policy, whose entropy has next to
    no weight, finds the noise of the greatest action in its box: what the model makes of b.
    """
    action = 0.3 * np.random.default_rng(0).normal(size=(4096, 1)).clip(-3.0, 3.0)
    data, spec = make_dataset(np.ones((4096, 1)), action, action[:, 0]), Spec.plain(1, 1)
    small: Any = {"learning_rate": 3e-3, "batch_size": 128, "dropout_rate": 0.0}
    config = diffusion_bc.Config(hidden_dim=16, num_blocks=1, num_updates=1500, **small)
    cloned = train_stages(diffusion_bc.make(config, spec), runs_of(config, 1), data)

    config = diffusion(train_behavior=False, num_updates=1500, entropy_deficit=2.0, initial_entropy_weight=0.01, **small)
    config = dataclasses.replace(config, hidden_dims=(32, 32), critic_hidden_dims=(32,), num_critics=2)
    algorithm, runs = dsrl.make(config, spec), runs_of(config, 1, sweep="noise_bound=0.5,1.5")
    taken = {"behavior": cloned.behavior, "behavior_constants": cloned.behavior_constants}
    both = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), taken)  # as `init_from` does
    states = train_stages(algorithm, runs, data, init_states(algorithm, runs).replace(**both))

    params, constants = jax.tree.map(lambda x: x[0], (cloned.behavior.params, cloned.behavior_constants))
    draw, bounds = dsrl.diffusion_generator(config, spec).draw, jnp.array([[0.5], [1.5]])
    reach = np.asarray(draw(params, constants, jnp.ones((2, 1)), bounds))[:, 0]
    found = act(algorithm, states, jnp.ones((2000, 1)))[..., 0]
    assert reach[0] > 0.02
    assert reach[1] > 2.0 * reach[0]
    np.testing.assert_array_less(found.max(axis=1), 1.1 * reach)
    np.testing.assert_array_less(0.8 * reach, found.mean(axis=1))


# ------------------------------------------------------------------------------------------------------------- learnt


@pytest.mark.slow
def test_how_far_it_reaches() -> None:
    """One state, actions N(0, .5²), reward a. A flow of ten steps has the slope A = .43, so Q^W = A w, and where the entropy is
    -½ nat the density ∝ e^{x u} has x = 4.48 and the mean .777: a policy of actions of mean .777 A b, none beyond A b.
    """
    action = 0.5 * np.random.default_rng(0).normal(size=(4096, 1)).clip(-2.0, 2.0)
    data = make_dataset(np.ones((4096, 1)), action, action[:, 0])
    config = dsrl.Config(
        learning_rate=3e-3,
        initial_entropy_weight=0.1,
        hidden_dims=(32, 32),
        critic_hidden_dims=(32,),
        num_critics=2,
        num_updates=1500,
        batch_size=128,
    )
    algorithm = dsrl.make(config, Spec.plain(1, 1))
    states = train_stages(algorithm, runs_of(config, sweep="noise_bound=0.4,1.0"), data)
    bound = np.array([0.4, 1.0])
    found = act(algorithm, states, jnp.ones((2000, 1)))[..., 0] / (0.4308 * bound[:, None])
    np.testing.assert_allclose(found.mean(axis=1), 0.777, atol=0.08)
    assert found.max() < 1.1
    np.testing.assert_allclose(np.exp(states.log_entropy_weight.params), 0.4308 * bound / 4.48, rtol=0.25)
