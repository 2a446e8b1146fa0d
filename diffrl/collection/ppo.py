"""Behaviour policies for the locomotion datasets: a compact PPO on MuJoCo's C simulator.

Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) with what made it work on these tasks (Huang et al. 2022,
"The 37 implementation details of PPO"): running normalisation of observations and returns, orthogonal initialisation, annealed
learning rate, gradients clipped by norm, bootstrapped time limits. The simulator steps on the host; an iteration's 320 gradient
steps are one compiled program.

Acting is plain numpy, so that processes which only roll policies out need no JAX.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

NUM_ENVS, HORIZON = 64, 32
EPOCHS, MINIBATCHES = 10, 32
LEARNING_RATE, MAX_GRADIENT_NORM = 3e-4, 0.5
DISCOUNT, GAE_LAMBDA, CLIP = 0.99, 0.95, 0.2
HIDDEN_DIM, INITIAL_LOG_STD = 64, -0.5
NORMALIZED_LIMIT = 10.0  # observations and rewards, in standard deviations
RECENT_EPISODES = 50

Weights = dict[str, np.ndarray]


class Policy(NamedTuple):
    """N(μ(s), σ²), clipped to [-1, 1]; μ is a tanh network of two hidden layers on normalised observations."""

    weights: Weights  # w0, b0, w1, b1, w2, b2, log_std
    mean: Float[np.ndarray, " observation"]
    std: Float[np.ndarray, " observation"]

    def act(
        self, observation: Float[np.ndarray, "batch observation"], rng: np.random.Generator | None
    ) -> Float[np.ndarray, "batch action"]:
        """Clipped actions, sampled with `rng` or the mean where it is None."""
        hidden = np.clip((observation - self.mean) / self.std, -NORMALIZED_LIMIT, NORMALIZED_LIMIT)
        for layer in "01":
            hidden = np.tanh(hidden @ self.weights[f"w{layer}"] + self.weights[f"b{layer}"])
        action = hidden @ self.weights["w2"] + self.weights["b2"]
        if rng is not None:
            action = action + np.exp(self.weights["log_std"]) * rng.standard_normal(action.shape)
        return np.clip(action, -1.0, 1.0).astype(np.float32)


class RunningMoments:
    """Mean and variance of all rows seen so far (Chan, Golub, LeVeque 1979)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean, self.variance, self.count = np.zeros(shape), np.ones(shape), 1e-4

    def add(self, rows: np.ndarray) -> None:
        delta, total = rows.mean(axis=0) - self.mean, self.count + len(rows)
        self.mean = self.mean + delta * len(rows) / total
        spread = self.variance * self.count + rows.var(axis=0) * len(rows) + delta**2 * self.count * len(rows) / total
        self.variance, self.count = spread / total, total

    @property
    def std(self) -> Any:
        """Standard deviation, an array or a number as the rows' shape is."""
        return np.sqrt(self.variance + 1e-8)


class Experience(NamedTuple):
    """What the training saw, in the order of time: `[time, NUM_ENVS, ...]`.

    Where an episode ended, `next_observation` is its last; the following row's observation is the next one's first.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_observation: np.ndarray
    terminal: np.ndarray
    timeout: np.ndarray


class Training(NamedTuple):
    """A training's policies, one per checkpoint, the steps and recent mean return at each, and its first experience."""

    policies: list[Policy]
    steps: list[int]
    returns: list[float]
    experience: Experience


def train(
    envs: Any, num_steps: int, seed: int, checkpoint_every: int, kept_steps: int, stop: Callable[[list[int], list[float]], bool]
) -> Training:
    """Train a policy.

    Args:
        envs: `MujocoEnvironments` of NUM_ENVS copies.
        num_steps: environment steps in all; the learning rate reaches 0 there.
        seed: of weights, noise and starts.
        checkpoint_every: environment steps between two policies that are kept.
        kept_steps: experience is kept up to here.
        stop: told steps and recent mean returns at each checkpoint; True gives up.
    """
    import jax

    learner = _learner(envs.observation.shape[1], envs.task.model.nu, num_steps // (NUM_ENVS * HORIZON))
    params, opt_state = learner.init(jax.random.key(seed))
    generators = [np.random.default_rng([seed, i]) for i in range(NUM_ENVS)]
    envs.restart(np.arange(NUM_ENVS), generators)
    rng = np.random.default_rng([seed, NUM_ENVS])
    observation = envs.observation
    observed, discounted = RunningMoments((observation.shape[1],)), RunningMoments(())
    observed.add(observation)
    running_return, episode_return, age = np.zeros(NUM_ENVS), np.zeros(NUM_ENVS), np.zeros(NUM_ENVS, int)
    finished: list[float] = []
    policies: list[Policy] = []
    steps, returns, kept = [], [], []

    def normalized(rows: np.ndarray) -> np.ndarray:
        return np.clip((rows - observed.mean) / observed.std, -NORMALIZED_LIMIT, NORMALIZED_LIMIT).astype(np.float32)

    for iteration in range(learner.num_iterations):
        batch = []
        for _ in range(HORIZON):
            inputs = normalized(observation)
            mean, value = learner.forward(params, inputs)
            noise = rng.standard_normal(mean.shape).astype(np.float32)
            chosen = mean + np.exp(np.asarray(params["log_std"])) * noise
            applied = np.clip(chosen, -1.0, 1.0)
            result = envs.step(applied)
            age += 1
            terminal, timeout = result.terminated, (age >= envs.max_episode_steps) & ~result.terminated
            ended = terminal | timeout
            observed.add(result.observation)
            running_return = running_return * DISCOUNT + result.reward
            discounted.add(running_return)
            reward = np.clip(result.reward / discounted.std, -NORMALIZED_LIMIT, NORMALIZED_LIMIT)
            if timeout.any():  # a time limit is no end: what would have followed counts
                reward = reward + DISCOUNT * timeout * learner.forward(params, normalized(result.observation))[1]
            batch.append((inputs, chosen, mean, value, reward.astype(np.float32), ended))
            if len(kept) * NUM_ENVS < kept_steps:
                kept.append((observation, applied, result.reward, result.observation, terminal, timeout))
            episode_return += result.reward
            finished += episode_return[ended].tolist()
            running_return[ended] = episode_return[ended] = age[ended] = 0
            which = np.flatnonzero(ended)
            envs.restart(which, [generators[i] for i in which])
            observation = envs.observation
        last_value = learner.forward(params, normalized(observation))[1]
        params, opt_state = learner.update(
            params, opt_state, batch, last_value, jax.random.fold_in(jax.random.key(seed), iteration)
        )
        done = (iteration + 1) * NUM_ENVS * HORIZON
        if done // checkpoint_every > (done - NUM_ENVS * HORIZON) // checkpoint_every or iteration + 1 == learner.num_iterations:
            policies.append(Policy(learner.weights(params), observed.mean.astype(np.float32), observed.std.astype(np.float32)))
            steps.append(done)
            returns.append(float(np.mean(finished[-RECENT_EPISODES:])) if finished else float("-inf"))
            if stop(steps, returns):
                break
    return Training(policies, steps, returns, Experience(*(np.stack(column) for column in zip(*kept, strict=True))))


@functools.cache
def _learner(observation_dim: int, action_dim: int, num_iterations: int) -> "_Learner":
    # A second training of the same task compiles nothing again.
    return _Learner(observation_dim, action_dim, num_iterations)


class _Learner:
    """The compiled half: networks, advantages and the clipped objective."""

    def __init__(self, observation_dim: int, action_dim: int, num_iterations: int) -> None:
        import jax
        import jax.numpy as jnp
        import optax

        self.num_iterations = num_iterations
        self._sizes = {
            "policy": (observation_dim, HIDDEN_DIM, HIDDEN_DIM, action_dim),
            "value": (observation_dim, HIDDEN_DIM, HIDDEN_DIM, 1),
        }
        rate = optax.linear_schedule(LEARNING_RATE, 0.0, num_iterations * EPOCHS * MINIBATCHES)
        optimizer = optax.chain(optax.clip_by_global_norm(MAX_GRADIENT_NORM), optax.adam(rate, eps=1e-5))

        def network(layers: list, x: Any) -> Any:
            for w, b in layers[:-1]:
                x = jnp.tanh(x @ w + b)
            w, b = layers[-1]
            return x @ w + b

        def log_prob(mean: Any, log_std: Any, action: Any) -> Any:
            return (-0.5 * ((action - mean) / jnp.exp(log_std)) ** 2 - log_std).sum(-1)

        def loss(params: Any, batch: Any) -> Any:
            inputs, action, old_log_prob, advantage, target = batch
            ratio = jnp.exp(log_prob(network(params["policy"], inputs), params["log_std"], action) - old_log_prob)
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - CLIP, 1.0 + CLIP) * advantage)
            return 0.5 * ((network(params["value"], inputs)[..., 0] - target) ** 2).mean() - surrogate.mean()

        def forward(params: Any, inputs: Any) -> Any:
            return network(params["policy"], inputs), network(params["value"], inputs)[..., 0]

        def update(params: Any, opt_state: Any, rows: Any, last_value: Any, key: Any) -> Any:
            inputs, action, mean, value, reward, ended = rows

            def backward(carry: Any, row: Any) -> Any:
                advantage, next_value = carry
                value, reward, ended = row
                going_on = 1.0 - ended
                delta = reward + DISCOUNT * next_value * going_on - value
                advantage = delta + DISCOUNT * GAE_LAMBDA * going_on * advantage
                return (advantage, value), advantage

            _, advantage = jax.lax.scan(backward, (jnp.zeros_like(last_value), last_value), (value, reward, ended), reverse=True)
            old = log_prob(mean, params["log_std"], action)
            flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (inputs, action, old, advantage, advantage + value))

            def epoch(carry: Any, key: Any) -> Any:
                order = jax.random.permutation(key, NUM_ENVS * HORIZON).reshape(MINIBATCHES, -1)

                def minibatch(carry: Any, index: Any) -> Any:
                    params, opt_state = carry
                    gradients = jax.grad(loss)(params, jax.tree.map(lambda x: x[index], flat))
                    updates, opt_state = optimizer.update(gradients, opt_state, params)
                    return (optax.apply_updates(params, updates), opt_state), None

                return jax.lax.scan(minibatch, carry, order)[0], None

            return jax.lax.scan(epoch, (params, opt_state), jax.random.split(key, EPOCHS))[0]

        self._optimizer, self._update = optimizer, jax.jit(update)
        self._forward = jax.jit(forward)

    def init(self, key: Any) -> tuple[Any, Any]:
        import jax
        import jax.numpy as jnp

        params: dict[str, Any] = {"log_std": jnp.full(self._sizes["policy"][-1], INITIAL_LOG_STD)}
        for number, (name, sizes) in enumerate(self._sizes.items()):
            keys = jax.random.split(jax.random.fold_in(key, number), 3)
            gains = (2.0**0.5, 2.0**0.5, 0.01 if name == "policy" else 1.0)
            params[name] = [
                (jax.nn.initializers.orthogonal(gain)(k, shape), jnp.zeros(shape[1]))
                for k, gain, shape in zip(keys, gains, itertools.pairwise(sizes), strict=True)
            ]
        return params, self._optimizer.init(params)

    def forward(self, params: Any, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean action and value of normalised observations."""
        mean, value = self._forward(params, inputs)
        return np.asarray(mean), np.asarray(value)

    def update(self, params: Any, opt_state: Any, batch: list, last_value: np.ndarray, key: Any) -> tuple[Any, Any]:
        """One iteration: advantages, then EPOCHS passes over the batch."""
        rows = tuple(np.stack(column) for column in zip(*batch, strict=True))
        return self._update(params, opt_state, rows, last_value, key)

    @staticmethod
    def weights(params: Any) -> Weights:
        """The policy's weights as numpy arrays under `Policy`'s names."""
        named = {"log_std": params["log_std"]}
        for i, (w, b) in enumerate(params["policy"]):
            named |= {f"w{i}": w, f"b{i}": b}
        return {name: np.asarray(value) for name, value in named.items()}
