"""Chunks of actions around any method: what a batch is then, which values come out, and how they are carried out."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, no_type_check

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ACTION, OBSERVATION, dataset, shrink
from support import make_dataset, quick_compilation, runs_of, train_stages, trees_equal, unchecked

from diffrl.action_chunks import in_chunks, wide
from diffrl.algorithm import Algorithm, Stage, no_carry
from diffrl.algorithms import bc
from diffrl.config import Config, DatasetConfig, OnlineConfig
from diffrl.data.columns import attach
from diffrl.data.dataset import Dataset
from diffrl.data.replay import load_rows
from diffrl.data.sampling import windows
from diffrl.objectives.value import bootstrap, mean_critic_loss
from diffrl.registry import REGISTRY, Method, make
from diffrl.training.chunk import draw
from diffrl.training.train import train
from diffrl.types import Key, Spec, Transition


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation() -> Iterator[None]:
    with quick_compilation():
        yield


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    learning_rate: float = 1.0


@dataclasses.dataclass
class Config3(HParams):
    """Of a method that learns nothing."""

    num_updates: int = 100
    batch_size: int = 8


@flax.struct.dataclass
class State:
    step: Any
    hparams: Any


def playing(config: Config3, spec: Spec) -> Algorithm:
    """Chooses 0, 0.1, 0.2, … whatever it sees; its update tells of its batch."""

    def update(state: State, batch: Transition, key: Key) -> Any:
        del key
        ahead = batch.extras["ahead_reward"]
        wrong = jnp.abs(batch.reward - jnp.sum(ahead, axis=-1)) + (batch.action.shape[-1] != spec.action_dim)
        return state, {"loss": jnp.mean(wrong), "steps": jnp.mean(batch.extras["ahead_steps"].astype(jnp.float32))}

    def act(policy: Any, carry: Any, observation: jax.Array, key: Key) -> Any:
        del policy, key
        return jnp.broadcast_to(jnp.arange(spec.action_dim) / 10.0, (len(observation), spec.action_dim)), carry

    return Algorithm(
        hparams=HParams(config.learning_rate),
        init=lambda key, hparams: State(jnp.int32(0), hparams),
        stages=(Stage("play", config.num_updates, config.batch_size, update),),
        policy=lambda state: state.hparams,
        init_carry=no_carry,
        act=act,
    )


class Table(nn.Module):
    """Q_k of each row as a parameter."""

    @nn.compact
    def __call__(self, observation: jax.Array, action: jax.Array) -> jax.Array:
        return self.param("q", nn.initializers.zeros, (2, len(observation)))


def chunked(algorithm: Algorithm, data: Dataset, length: int) -> tuple[Algorithm, Dataset]:
    found = in_chunks(algorithm, Spec.plain(data.observation_dim, data.action_dim), length)
    return found, attach(data, found.columns)


def seen_by(algorithm: Algorithm, data: Dataset, length: int) -> Transition:
    """All rows, in order, as the update of a method in chunks sees them."""

    def tell(state: Any, batch: Transition, key: Key) -> Any:
        del state, key
        return batch, {}

    algorithm = algorithm._replace(stages=tuple(stage._replace(update=tell) for stage in algorithm.stages))
    algorithm, data = chunked(algorithm, data, length)
    return algorithm.stages[0].update(None, data[:], jax.random.key(0))[0]


# --------------------------------------------------------------------------------------------------------- what a batch is


def test_a_batch_is_of_as_many_steps() -> None:
    """Six rows r = (-1, -1, 0, -1, -1, -1): a terminal after the third, a timeout after the last; γ = .9, h = 3 by hand."""
    reward, terminal, timeout = np.array([-1.0, -1, 0, -1, -1, -1]), np.arange(6) == 2, np.arange(6) == 5
    row = np.arange(6.0)
    data = make_dataset(row[:, None], np.stack([row, -row], axis=1), reward, row[:, None] + 10, terminal, timeout)
    batch = seen_by(playing(Config3(), Spec.plain(1, 6)), data, 3)
    first = np.array([[0, 1, 2], [1, 2, 2], [2, 2, 2], [3, 4, 5], [4, 5, 5], [5, 5, 5]])
    np.testing.assert_array_equal(batch.action, np.stack([first, -first], axis=2).reshape(6, 6))
    np.testing.assert_array_equal(batch.reward, [-2, -1, 0, -3, -2, -1])
    np.testing.assert_array_equal(batch.observation[:, 0], row)
    np.testing.assert_array_equal(batch.next_observation[:, 0], [12, 12, 12, 15, 15, 15])
    np.testing.assert_array_equal(batch.terminal, row < 3)
    np.testing.assert_array_equal(batch.timeout, row >= 3)
    np.testing.assert_array_equal(jnp.sum(batch.extras["action_chunk_mask"], axis=1), [3, 2, 1, 3, 2, 1])
    ahead = bootstrap(batch, 0.9)
    np.testing.assert_allclose(ahead.reward, [-1.9, -1, 0, -2.71, -1.9, -1], rtol=1e-6)
    np.testing.assert_allclose(ahead.weight, [0, 0, 0, 0.729, 0.81, 0.9], rtol=1e-6)
    np.testing.assert_array_equal(ahead.observation, batch.next_observation)


def test_a_chunk_goes_on_behind_a_terminal_where_the_data_do() -> None:
    """The same rewards where play goes on behind the goal: real actions follow. What is summed stops at the terminal, which is
    the proper form; the authors' code sums on to (-1.9, -1.81, -1.71). Of the last two rows actions are missing, and critics do
    not learn from them.
    """
    reward, terminal, timeout = np.array([-1.0, -1, 0, -1, -1, -1]), np.arange(6) == 2, np.arange(6) == 5
    row = np.arange(6.0)
    batch = seen_by(
        playing(Config3(), Spec.plain(1, 3)),
        make_dataset(row[:, None], row[:, None], reward, row[:, None] + 1, terminal, timeout),
        3,
    )
    np.testing.assert_array_equal(batch.action, [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 5], [5, 5, 5]])
    np.testing.assert_array_equal(batch.extras["chunk_taken"], row < 4)
    np.testing.assert_array_equal(jnp.sum(batch.extras["action_chunk_mask"], axis=1), [3, 3, 3, 3, 2, 1])
    ahead = bootstrap(batch, 0.9)
    np.testing.assert_allclose(ahead.reward, [-1.9, -1, 0, -2.71, -1.9, -1], rtol=1e-6)
    np.testing.assert_array_equal(batch.terminal, row < 3)


def test_critics_do_not_learn_from_actions_that_nobody_took() -> None:
    """A quarter of the rows leaves three quarters of the loss on the others, and has no gradient."""
    q, target = jax.random.normal(jax.random.key(0), (2, 8)), jnp.arange(8.0)
    taken = jnp.arange(8) % 4 > 0
    data = make_dataset(np.zeros((8, 1)), np.zeros((8, 1)), np.zeros(8))[:]
    table = Table()

    def loss(q: jax.Array, **extras: jax.Array) -> jax.Array:
        return mean_critic_loss({"q": q}, table, data.replace(extras=extras), target)[0]

    found, gradient = jax.value_and_grad(loss)(q, chunk_taken=taken)
    rest = jnp.mean((q - target)[:, taken] ** 2)
    assert float(found) == pytest.approx(0.75 * float(rest), rel=1e-5)
    np.testing.assert_array_equal(gradient[:, ~taken], 0.0)
    np.testing.assert_array_equal(gradient[:, taken], jax.grad(loss)(q)[:, taken])


@pytest.mark.parametrize(("length", "reward", "weight"), [(1, -1.0, 0.99), (5, -4.9010, 0.95099)])
def test_a_constant_chain_has_one_value(length: int, reward: float, weight: float) -> None:
    """-1 for ever: -1 / (1 - γ) = -100 for every length, if the value is taken with γ^h."""
    data = make_dataset(np.zeros((9, 1)), np.zeros((9, 1)), -np.ones(9), terminal=False)
    ahead = bootstrap(seen_by(playing(Config3(), Spec.plain(1, length)), data, length), 0.99)
    assert float(ahead.reward[0]) == pytest.approx(reward, abs=1e-4)
    assert float(ahead.weight[0]) == pytest.approx(weight, abs=1e-5)
    assert float(ahead.reward[0] / (1.0 - ahead.weight[0])) == pytest.approx(-100.0, rel=1e-4)


def test_without_a_discount_only_the_first_reward_counts() -> None:
    data = make_dataset(np.zeros((4, 1)), np.zeros((4, 1)), np.arange(1.0, 5.0), terminal=False)
    ahead = bootstrap(seen_by(playing(Config3(), Spec.plain(1, 2)), data, 2), 0.0)
    np.testing.assert_array_equal(ahead.reward, [1, 2, 3, 4])
    np.testing.assert_array_equal(ahead.weight, np.zeros(4))


def test_a_stage_that_draws_for_itself_draws_chunks() -> None:
    """Windows of chunks, and columns that a stage prepares from them: its own functions see the rows as its update does."""
    row = np.arange(6.0)
    data = make_dataset(row[:, None], row[:, None], row, row[:, None] + 1, False, row == 5)
    data = dataclasses.replace(data, episode_start=jnp.zeros(6, jnp.int32), episode_end=jnp.full(6, 6, jnp.int32))
    algorithm = playing(Config3(), Spec.plain(1, 2))

    def prepare(state: Any, dataset: Dataset, key: Key) -> dict[str, jax.Array]:
        del state, key
        return {"sum": jnp.sum(dataset[jnp.arange(dataset.size)].action, axis=1)}

    algorithm = algorithm._replace(stages=(algorithm.stages[0]._replace(prepare=prepare, batch=windows(2)),))
    algorithm, data = chunked(algorithm, data, 2)
    (stage,) = algorithm.stages
    assert stage.prepare is not None
    columns = stage.prepare(None, data, jax.random.key(0))
    np.testing.assert_array_equal(columns["sum"], [1, 3, 5, 7, 9, 10])
    batch = draw(stage, data, columns, jax.random.key(0))
    t = np.asarray(batch.observation[:, 0])
    np.testing.assert_array_equal(batch.action, np.stack([t, np.minimum(t + 1, 5)], axis=1))
    np.testing.assert_array_equal(batch.extras["sum"], batch.action.sum(axis=1))
    np.testing.assert_array_equal(batch.extras["window_action"][:, 0], batch.action)
    later = np.minimum(t + 1, 5)
    np.testing.assert_array_equal(batch.extras["window_action"][:, 1], np.stack([later, np.minimum(later + 1, 5)], axis=1))


def test_one_step_at_a_time_is_no_chunk() -> None:
    """Bit for bit: asked for chunks of one, and with the wrapper around single steps."""
    config = bc.Config(hidden_dims=(8,), num_updates=20, batch_size=8)
    plain, runs = make(config, Spec.plain(OBSERVATION, ACTION)), runs_of(config, 2)
    expected = train_stages(plain, runs, dataset())
    observation = jax.random.normal(jax.random.key(1), (4, OBSERVATION))
    policy = jax.tree.map(lambda x: x[0], plain.policy(expected))
    action, _ = plain.act(policy, (), observation, jax.random.key(0))
    wrapped = in_chunks(plain, Spec.plain(OBSERVATION, ACTION), 1)
    for algorithm in (make(config, Spec.plain(OBSERVATION, ACTION), action_chunk=1), wrapped):
        assert trees_equal(train_stages(algorithm, runs, dataset()), expected)
        carry = algorithm.init_carry(policy, 4)
        for _ in range(2):
            chosen, carry = algorithm.act(policy, carry, observation, jax.random.key(0))
            np.testing.assert_array_equal(chosen, action)
    batch = seen_by(playing(Config3(), Spec.plain(OBSERVATION, ACTION)), dataset(), 1)
    for one, other in zip(bootstrap(batch, 0.97), bootstrap(dataset()[:], 0.97), strict=True):
        np.testing.assert_array_equal(one, other)


# --------------------------------------------------------------------------------------------------------------- acting


def test_chunks_are_carried_out_open_loop() -> None:
    """Each environment in its own time: 0, .1, .2 from every beginning, in the environment's units, and a chunk is chosen only
    when some environment of some run needs one.
    """
    chosen: list[int] = []

    def choose(policy: Any, carry: Any, observation: jax.Array, key: Key) -> Any:
        del key
        jax.debug.callback(lambda: chosen.append(1))
        steps = policy + observation[:, :1] + jnp.arange(3) / 10.0
        return steps, carry + 1

    inner = playing(Config3(), Spec.plain(1, 3))._replace(act=choose, init_carry=lambda policy, n: jnp.zeros(n, jnp.int32))
    algorithm = in_chunks(inner, Spec.plain(1, 1), 3)
    policies = jnp.array([0.0, 10.0])  # two runs, of two environments each

    @jax.jit
    def act(carry: Any, observation: jax.Array) -> Any:
        return jax.vmap(lambda policy, carry, seen: algorithm.act(policy, carry, seen, jax.random.key(0)))(
            policies, carry, observation
        )

    fresh = jax.vmap(lambda policy: algorithm.init_carry(policy, 2))(policies)
    carry, actions, plans = fresh, [], []
    for t in range(8):
        if t == 4:  # the second environment of the first run begins again
            carry = jax.tree.map(lambda new, old: old.at[0, 1].set(new[0, 1]), fresh, carry)
        action, carry = act(carry, jnp.full((2, 2, 1), float(t)))
        jax.effects_barrier()
        plans.append(bool(chosen))
        chosen.clear()
        actions.append(np.asarray(action)[..., 0])
    assert plans == [True, False, False, True, True, False, True, True]
    expected = np.array([0, 0.1, 0.2, 3, 3.1, 3.2, 6, 6.1])
    np.testing.assert_allclose(np.array(actions)[:, 0, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(np.array(actions)[:, 1], 10 + np.stack([expected, expected], axis=1), rtol=1e-6)
    np.testing.assert_allclose(np.array(actions)[:, 0, 1], [0, 0.1, 0.2, 3, 4, 4.1, 4.2, 7], rtol=1e-6)
    np.testing.assert_array_equal(carry[0], [[3, 2], [3, 3]])  # how often each has chosen in its episode


def test_training_by_interaction_is_in_chunks(tmp_path: Path, monkeypatch: Any) -> None:
    """In an environment of episodes of 25 steps: what is stored are single steps, open loop from each episode's beginning, and
    what is learnt from are chunks out of the buffer.
    """
    monkeypatch.setitem(REGISTRY, "playing", Method(Config3, playing))
    online = OnlineConfig(
        env_id="diffrl/HoleIntegrator-v0", backend="jax", num_env_steps=80, warmup_steps=10, buffer_size=100, num_envs=1
    )
    config = Config(Config3(), DatasetConfig(), online, action_chunk=3, num_seeds=1, updates_per_chunk=10, checkpoint_every=40)
    with unchecked():
        assert train(config, tmp_path / "run").complete
    rows = load_rows(tmp_path / "run" / "replay", 80)[0, 0]
    action, ended = rows[:, 2:4], rows[:, -1] > 0.5
    position = 0
    for t in range(10, 80):
        position = 0 if t == 10 or ended[t - 1] else (position + 1) % 3
        np.testing.assert_allclose(action[t], [0.2 * position, 0.2 * position + 0.1], atol=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics" / "train.jsonl").read_text().splitlines()]
    assert {line["value"] for line in lines if line["name"] == "loss"} == {0.0}
    steps = [line["value"] for line in lines if line["name"] == "steps"]
    assert len(steps) == 7
    assert all(2.0 < value < 3.0 for value in steps)


# --------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("field", ["n_step", "model_horizon"])
def test_methods_that_look_further_are_refused(field: str) -> None:
    """Whichever do so; one line that says which setting, and that setting is enough."""
    refused = 0
    for method in REGISTRY.values():
        config = shrink(method.config())
        if not hasattr(config, field):
            continue
        setattr(config, field, 3)
        with pytest.raises(ValueError, match=f"action_chunk=2 needs a method.*{field}") as error:
            make(config, Spec.plain(3, 2), action_chunk=2)
        assert "\n" not in str(error.value)
        setattr(config, field, 1)
        make(config, Spec.plain(3, 2), action_chunk=2)
        refused += 1
    assert refused


def test_discrete_actions_are_refused() -> None:
    with pytest.raises(ValueError, match="set action_chunk=1"):
        wide(dataclasses.replace(Spec.plain(3, 2), num_actions=2), 2)
