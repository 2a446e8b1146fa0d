"""Windows and goals against what a loop over the rows of random episodes says, and against closed forms."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from row_reference import episodes_of
from support import chosen, make_dataset, quick_compilation, trees_equal

from diffrl.action_chunks import in_chunks
from diffrl.algorithms import bc
from diffrl.data.columns import attach
from diffrl.data.dataset import Dataset
from diffrl.data.sampling import goals, next_actions, uniform, windows
from diffrl.training.chunk import draw
from diffrl.types import Spec, Transition

N, MANY = 60, 200_000


@pytest.fixture(autouse=True)
def _quick_compilation():
    with quick_compilation():
        yield


def numbered(lengths: tuple[int, ...]) -> Dataset:
    """Episodes of these lengths. An observation is its state's number: row i is at i, and an episode's last state at N + i."""
    ends = np.cumsum(lengths)
    row = np.arange(ends[-1])
    last = np.isin(row + 1, ends)
    following = np.where(last, N + row, row + 1)
    dataset = make_dataset(row[:, None], -row[:, None], 1.0 + row, following[:, None], last & (row % 2 == 0), last)
    return dataclasses.replace(dataset, columns={"number": jnp.asarray(row)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Buffer(Dataset):
    """The first rows of a dataset, as many as are stored: a buffer's size is known to the program only."""

    stored: Any

    @property
    def size(self) -> Any:
        return self.stored


def stored(dataset: Dataset, size: jax.Array) -> Buffer:
    fields = {field.name: getattr(dataset, field.name) for field in dataclasses.fields(dataset)}
    return Buffer(**fields, stored=size)


LENGTHS = (1, 7, 2, 20, 1, 1, 18, 10)
DRAWS = {
    "uniform": uniform,
    "windows": windows(5),
    "history": windows(4, start=-3),
    "geometric goals": goals(),
    "uniform goals": goals(discount=None),
    "next actions": next_actions,
}
each_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


@each_draw
def test_the_same_key_draws_the_same(draw):
    """Pure, and the six fields with the dataset's columns are there."""
    dataset = numbered(LENGTHS)
    compiled = jax.jit(lambda key: draw(dataset, key, 32))
    first, again, other = compiled(jax.random.key(0)), compiled(jax.random.key(0)), compiled(jax.random.key(1))
    assert trees_equal(first, again)
    assert not np.array_equal(first.observation, other.observation)
    assert first.observation.shape == (32, 1)
    np.testing.assert_array_equal(first.extras["number"], first.observation[:, 0])


@each_draw
def test_every_row_is_as_likely(draw):
    """Counts of MANY draws, within five standard deviations, and their χ² of N - 1 degrees of freedom."""
    batch = jax.jit(lambda key: draw(numbered(LENGTHS), key, MANY))(jax.random.key(2))
    assert_counts(batch.extras["number"], np.full(N, 1.0 / N))


@each_draw
def test_a_buffer_that_grows_gives_the_same(draw):
    """Only size, rows by index and bounds are asked for, and the size may be known to the program alone."""
    dataset = numbered(LENGTHS)
    drawn = jax.jit(lambda size: draw(stored(dataset, size), jax.random.key(3), 64))(jnp.int32(N))
    assert trees_equal(drawn, draw(dataset, jax.random.key(3), 64))
    few = jax.jit(lambda size: draw(stored(dataset, size), jax.random.key(3), 64))(jnp.int32(8))
    assert int(few.extras["number"].max()) < 8


def assert_counts(values, probabilities: np.ndarray) -> None:
    """Of values 0, 1, …; where the probability is 0 there is none."""
    counts, expected = np.bincount(np.asarray(values), minlength=len(probabilities)), len(values) * probabilities
    assert len(counts) == len(expected)
    assert not counts[expected == 0].any()
    error = (counts - expected)[expected > 0]
    chi2, freedom = np.sum(error**2 / expected[expected > 0]), np.sum(expected > 0) - 1
    assert chi2 < freedom + 5.0 * np.sqrt(2.0 * freedom) + 5.0
    assert np.all(np.abs(error) < 5.0 * np.sqrt(expected[expected > 0]) + 5.0)


@pytest.mark.parametrize(("length", "start"), chosen([(1, 0), (5, 0), (30, 0), (4, -3), (6, -2), (3, 2)], 2, 3, 5))
def test_windows_stay_in_their_episode(length, start):
    dataset = numbered(LENGTHS)
    batch = jax.jit(lambda key: windows(length, start)(dataset, key, 500))(jax.random.key(0))
    episode = {i: e for e in episodes_of(np.asarray(dataset[:].timeout)) for i in e}
    extras = jax.device_get(batch.extras)
    for b, row in enumerate(extras["number"]):
        own = episode[int(row)]
        wanted = np.arange(row + start, row + start + length)
        held = np.clip(wanted, own[0], own[-1])
        np.testing.assert_array_equal(extras["window_mask"][b], held == wanted)
        np.testing.assert_array_equal(extras["window_observation"][b, :, 0], held)
        np.testing.assert_array_equal(extras["window_action"][b, :, 0], -held)
        np.testing.assert_array_equal(extras["window_reward"][b], np.where(held == wanted, 1.0 + held, 0.0))
        np.testing.assert_array_equal(extras["window_number"][b], held)
        last = N + own[-1] if held[-1] == own[-1] else held[-1] + 1
        assert extras["window_next_observation"][b, -1, 0] == last
        np.testing.assert_array_equal(extras["window_timeout"][b], held == own[-1])


def future_of(dataset: Dataset, batch: Transition) -> np.ndarray:
    """How many states each goal lies ahead; -1 where it is none of the episode's states from the row on."""
    row, goal = np.asarray(batch.extras["number"]), np.asarray(batch.extras["goal"])[:, 0].astype(int)
    end = np.asarray(dataset.episode_end)[row]
    ahead = np.where(goal >= N, np.where(goal == N + end - 1, end - row, -1), goal - row)
    return np.where((ahead >= 0) & (ahead <= end - row), ahead, -1)


def test_next_actions_stop_at_the_end_of_an_episode():
    """The action of row i is -i, so that of the next row is one less; after an episode's last step none is known."""
    dataset = numbered(LENGTHS)
    batch = jax.jit(lambda key: next_actions(dataset, key, 500))(jax.random.key(0))
    row, known = np.asarray(batch.extras["number"]), np.asarray(batch.extras["next_action_known"])
    np.testing.assert_array_equal(known, ~np.isin(row + 1, np.cumsum(LENGTHS)))
    np.testing.assert_array_equal(batch.extras["next_action"][known, 0], -(row + 1)[known])
    assert 0 < known.sum() < len(known)


def test_next_actions_of_chunks_are_those_after_them():
    """Of a method in chunks of three: the chunk that begins where this one ends, in its episode."""
    dataset = numbered(LENGTHS)
    seen: list[Transition] = []

    def update(state, batch, key):
        del key
        seen.append(batch)
        return state, {}

    method = bc.make(bc.Config(hidden_dims=(4,)), Spec.plain(1, 3))
    (stage,) = method.stages
    inner = method._replace(stages=(stage._replace(batch=next_actions, batch_size=500, update=update),))
    algorithm = in_chunks(inner, Spec.plain(1, 1), 3)
    (stage,) = algorithm.stages
    stage.update(None, draw(stage, attach(dataset, algorithm.columns), {}, jax.random.key(0)), jax.random.key(0))
    (batch,) = seen
    row, known = np.asarray(batch.extras["number"]), np.asarray(batch.extras["next_action_known"])
    end = np.searchsorted(np.cumsum(LENGTHS), row, side="right")
    end = np.cumsum(LENGTHS)[end]
    np.testing.assert_array_equal(known, row + 3 < end)
    following = np.minimum(row[known, None] + 3 + np.arange(3), end[known, None] - 1)
    np.testing.assert_array_equal(batch.extras["next_action"][known], -following)
    assert 0 < known.sum() < len(known)


@pytest.mark.parametrize("discount", chosen([0.0, 0.5, 0.9, None], 2, 3))
def test_future_goals_have_their_distribution(discount):
    """P(k) = (1 - γ) γ^(k-1) below the last state, which has the rest, γ^(K-1); or 1 / K, for each row's own K."""
    dataset = numbered(LENGTHS)
    draw = goals(current=0.0, future=1.0, random=0.0, discount=discount)
    batch = jax.jit(lambda key: draw(dataset, key, MANY))(jax.random.key(1))
    ahead, row = future_of(dataset, batch), np.asarray(batch.extras["number"])
    np.testing.assert_array_equal(ahead, batch.extras["goal_steps"])
    for i in range(N):
        most = int(dataset.episode_end[i]) - i
        k = np.arange(1, most + 1)
        if discount is None:
            expected = np.full(most, 1.0 / most)
        else:
            expected = (1.0 - discount) * float(discount) ** (k - 1)
            expected[-1] = float(discount) ** (most - 1)
        assert_counts(ahead[row == i], np.concatenate([[0.0], expected]))


def test_kinds_of_goals_have_their_probabilities():
    """Own, future and random ones; random ones are rows drawn uniformly, of any episode."""
    dataset = numbered(LENGTHS)
    batch = jax.jit(lambda key: goals(current=0.1, future=0.6, random=0.3)(dataset, key, MANY))(jax.random.key(1))
    steps = np.asarray(batch.extras["goal_steps"])
    assert_counts(np.clip(steps, -1, 1) + 1, np.array([0.3, 0.1, 0.6]))
    random = np.asarray(batch.extras["goal"])[steps == -1, 0].astype(int)
    assert_counts(random, np.full(N, 1.0 / N))
    own = steps == 0
    np.testing.assert_array_equal(batch.extras["goal"][own], batch.observation[own])


@pytest.mark.parametrize(("negative", "there", "elsewhere"), [(True, 0.0, -1.0), (False, 1.0, 0.0)])
def test_rewards_say_whether_the_goal_is_reached(negative, there, elsewhere):
    """By the row's own state, which also cuts the bootstrap; a terminal of the data says nothing about this goal."""
    dataset = numbered(LENGTHS)
    batch = goals(current=0.5, future=0.25, random=0.25, negative=negative)(dataset, jax.random.key(1), 1000)
    reached = np.asarray(batch.extras["goal_steps"] == 0)
    assert 300 < reached.sum() < 700
    np.testing.assert_array_equal(batch.terminal, reached)
    np.testing.assert_array_equal(batch.reward, np.where(reached, there, elsewhere))


def test_impossible_draws_are_refused():
    with pytest.raises(ValueError, match="must sum to 1"):
        goals(current=0.5, future=0.6, random=0.3)
    with pytest.raises(ValueError, match="must sum to 1"):
        goals(current=-0.1, future=0.8, random=0.3)
    with pytest.raises(ValueError, match="lie in"):
        goals(discount=1.0)
    with pytest.raises(ValueError, match="at least one row"):
        windows(0)
    with pytest.raises(ValueError, match="not in order of time"):
        windows(2)(dataclasses.replace(numbered((3,)), episode_start=None, episode_end=None), jax.random.key(0), 4)
