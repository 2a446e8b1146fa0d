"""What policies are worth by data alone: fitted-Q evaluation (Le et al., *Batch Policy Learning under Constraints*, 2019).

Q of a policy is fitted to r + γ Q'(s', a'), a' ~ π(s'), on the rows of most episodes; the policy's value is then Q(s, a),
a ~ π(s), in the first states of the episodes that were held out. Nothing acts in an environment.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float

from diffrl.algorithm import Algorithm
from diffrl.data.build import build
from diffrl.data.dataset import Card, Dataset
from diffrl.data.environment import matched
from diffrl.evaluation.evaluate import EvaluationError
from diffrl.learner import Learner, example, forward
from diffrl.networks.ensembles import Critics
from diffrl.objectives.value import bootstrap, td_loss
from diffrl.records import Finite, Natural, Width
from diffrl.training.trained import Trained
from diffrl.types import Key, Policy, Spec

CHUNK = 1_000  # updates a dispatch


@dataclasses.dataclass(frozen=True)
class Options:
    """How values are fitted.

    Attributes:
        data: a dataset in place of the one that the policies were trained on; "" for that.
        discount: γ, of all policies alike, so that their values compare.
        updates, batch_size, learning_rate: of Adam.
        hidden_dims: of Q.
        tau: how far Q' moves towards Q at each update.
        held_out: the share of episodes whose first states are judged in.
        samples: actions drawn in each of them.
        seed: of the split, the networks, the batches and the actions.
    """

    data: str = ""
    discount: float = 0.99
    updates: Width = 20_000
    batch_size: Width = 256
    learning_rate: float = 3e-4
    hidden_dims: tuple[int, ...] = (256, 256)
    tau: float = 0.005
    held_out: float = 0.25
    samples: Width = 8
    seed: Natural = 0


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What the policies of a workdir are worth.

    Attributes:
        step: of the checkpoint.
        dataset, sha256: whose episodes, and of its rows.
        fitted, judged: how many episodes Q was fitted on, and how many first states were judged in.
        values: `[runs][judged]`, discounted returns; None where Q of a run is not finite.
        of_data: discounted returns of the judged episodes themselves, cut where the data end them.
    """

    step: Natural
    dataset: str
    sha256: str
    fitted: Width
    judged: Width
    values: list[list[Finite | None]]
    of_data: list[Finite]


def data_of(trained: Trained, options: Options) -> tuple[Dataset, Spec, Card]:
    """The data to judge on, in the units of their own rewards, whatever the method was given.

    Rows of a mix count alike, whatever their shares in the draws.

    Raises:
        EvaluationError: the training was by interaction alone, or the data have no rewards, one episode, or other shapes.
        DatasetError: they cannot be read.
    """
    asked = copy.copy(trained.config.dataset)
    asked.id = options.data or asked.id
    if not asked.id:
        raise EvaluationError(f"{trained.workdir} was trained by interaction: --offline_data names the data to judge it on")
    asked.standardize_observations, asked.reward_scale, asked.reward_factor, asked.reward_shift = True, "none", 1.0, 0.0
    source, _ = matched(asked.source())
    rows, spec, card = build(source, asked)
    for name in ("observation_dim", "action_dim", "num_actions"):
        given, learnt = getattr(spec, name), getattr(trained.spec, name)
        if given != learnt:
            raise EvaluationError(f"{card.id} has {name}={given}, and {trained.workdir} was trained with {learnt}")
    if not spec.has_rewards:
        raise EvaluationError(f"{card.id} has no rewards, so nothing says what a policy is worth")
    if len(episodes(rows)[0]) < 2:
        raise EvaluationError(f"{card.id} has one episode: some are to be fitted on, and others to be judged in")
    return rows, spec, card


def evaluate(
    trained: Trained, data: tuple[Dataset, Spec, Card], options: Options, say: Callable[[str], None] = lambda text: None
) -> Estimate:
    """Values of the policies of all runs at the last checkpoint.

    Args:
        trained: the workdir.
        data: see `data_of`.
        options: see `Options`.
        say: is told how far it is.

    Raises:
        EvaluationError: the policy remembers what it did before.
        CheckpointError: it cannot be read.
    """
    rows, spec, card = data
    starts, ends = episodes(rows)
    order = np.random.default_rng(options.seed).permutation(len(starts))
    judged = np.sort(order[: max(1, round(options.held_out * len(starts)))])
    fitted = np.setdiff1d(order, judged)
    index = np.concatenate([np.arange(int(starts[one]), int(ends[one])) for one in fitted])
    values = fitted_q(trained.algorithm, trained.policies, rows, index, starts[judged], spec, options, say)
    reward = np.asarray(rows[:].reward, np.float64)
    of_data = [float(np.polynomial.polynomial.polyval(options.discount, reward[starts[one] : ends[one]])) for one in judged]
    told = [[float(value) if np.isfinite(value) else None for value in run] for run in values]
    return Estimate(trained.last_step(), card.id, card.sha256, len(fitted), len(judged), told, of_data)


def episodes(rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """First rows of all episodes, and one past their last."""
    starts, which = np.unique(np.asarray(rows.episode_start), return_index=True)
    return starts, np.asarray(rows.episode_end)[which]


def fitted_q(
    algorithm: Algorithm,
    policies: Policy,
    rows: Dataset,
    index: np.ndarray,
    starts: np.ndarray,
    spec: Spec,
    options: Options,
    say: Callable[[str], None] = lambda text: None,
) -> Float[np.ndarray, "runs starts"]:
    """Values of policies `[runs, ...]` in the states of the rows `starts`, Q fitted on the rows `index`: all runs in one program.

    Args:
        algorithm: acts in the environment's units.
        rows, spec: data as `build` makes them.

    Raises:
        EvaluationError: the policy remembers what it did before.
    """
    count = jax.tree.leaves(policies)[0].shape[0]
    if jax.tree.leaves(jax.eval_shape(lambda policy: algorithm.init_carry(policy, 2), jax.tree.map(lambda x: x[0], policies))):
        raise EvaluationError(
            "this policy remembers what it did before (a plan, a window, a chunk), so data cannot ask what it would do in a state"
        )
    act = functools.partial(_in_data_units, algorithm, spec)
    critics = Critics(options.hidden_dims, num_critics=1)
    optimizer = optax.adam(options.learning_rate)
    reward = np.asarray(rows[:].reward, np.float64)[index]
    # Rewards so that values are of the order of one, whatever their units.
    scale = float(np.abs(reward).mean() + reward.std()) / (1.0 - options.discount) or 1.0
    data, index = jax.tree.map(jnp.asarray, (rows, index))
    keys = jax.vmap(lambda run: jax.random.fold_in(jax.random.key(options.seed), run))(jnp.arange(count))

    def init(key: Key) -> tuple[Learner, Any]:
        learner = Learner.init(critics, optimizer, key, *example(spec))
        return learner, jax.tree.map(jnp.copy, learner.params)

    def update(policy: Policy, states: tuple[Learner, Any], data: Dataset, index: Array, key: Key) -> tuple[Learner, Any]:
        learner, target = states
        draw, act_key = jax.random.split(key)
        batch = data[index[jax.random.randint(draw, (options.batch_size,), 0, len(index))]]
        ahead = bootstrap(dataclasses.replace(batch, reward=batch.reward / scale), options.discount)
        aim = ahead.target(forward(critics, target, ahead.observation, act(policy, ahead.observation, act_key))[0])
        learner, _ = learner.step(
            lambda params: td_loss(forward(critics, params, batch.observation, batch.action), aim), optimizer
        )
        return learner, optax.incremental_update(learner.params, target, options.tau)

    @functools.partial(jax.jit, donate_argnums=0, static_argnums=5)
    def chunk(states: Any, policies: Policy, data: Dataset, index: Array, step: Array, updates: int) -> Any:
        def one(states: Any, step: Array) -> tuple[Any, None]:
            at = jax.vmap(lambda key: jax.random.fold_in(key, step))(keys)
            return jax.vmap(update, in_axes=(0, 0, None, None, 0))(policies, states, data, index, at), None

        return jax.lax.scan(one, states, step + jnp.arange(updates))[0]

    states, step = jax.jit(jax.vmap(init))(keys), 0
    while step < options.updates:
        updates = min(CHUNK, options.updates - step)
        states = jax.block_until_ready(chunk(states, policies, data, index, jnp.int32(step), updates))
        step += updates
        say(f"{step:,} of {options.updates:,} updates of {count} runs")

    @jax.jit
    def values(policies: Policy, states: Any, first: Array) -> Array:
        def sample(key: Key) -> Array:
            def one(policy: Policy, learner: Learner) -> Array:
                return forward(critics, learner.params, first, act(policy, first, key))[0]

            return jax.vmap(one)(policies, states[0])

        return jnp.mean(jax.lax.map(sample, jax.random.split(jax.random.key(options.seed), options.samples)), axis=0)

    return scale * np.asarray(values(policies, states, data[jnp.asarray(starts)].observation), np.float64)


def _in_data_units(
    algorithm: Algorithm, spec: Spec, policy: Policy, observation: Float[Array, "batch observation"], key: Key
) -> Float[Array, "batch action"]:
    """What a policy does in states of the data, as the data tell actions."""
    raw = observation * jnp.asarray(spec.observation_std) + jnp.asarray(spec.observation_mean)
    action, _ = algorithm.act(policy, algorithm.init_carry(policy, len(observation)), raw, key)
    if spec.num_actions:
        return jax.nn.one_hot(action, spec.num_actions)
    low, high = jnp.asarray(spec.action_low), jnp.asarray(spec.action_high)
    return 2.0 * (action - low) / (high - low) - 1.0
