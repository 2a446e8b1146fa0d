"""The buffer: a ring that keeps the last, gives rows and episodes as a Dataset does, and comes back from disk."""

import dataclasses
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support import chosen

from diffrl.data.columns import attach, steps_ahead
from diffrl.data.dataset import Dataset
from diffrl.data.replay import Replay, ReplayError, give_up_episodes, load_rows, restored, save_rows
from diffrl.data.sampling import uniform, windows
from diffrl.types import Transition

ENVS, CAPACITY = 2, 8


def transition(step: int, *, terminal: bool = False, timeout: bool = False) -> Transition:
    """Of each environment: the number of the step, plus 100 in the second."""
    value = step + 100.0 * jnp.arange(ENVS, dtype=jnp.float32)
    return Transition(
        observation=value[:, None],
        action=jnp.zeros((ENVS, 1)),
        reward=value,
        next_observation=value[:, None] + 1.0,
        terminal=jnp.full(ENVS, terminal),
        timeout=jnp.full(ENVS, timeout),
    )


def filled(count: int, ends: dict[int, str] | None = None, capacity: int = CAPACITY) -> Replay:
    replay = Replay.empty(ENVS, capacity, 1, 1)
    for step in range(count):
        end = (ends or {}).get(step)
        replay = replay.insert(transition(step, terminal=end == "terminal", timeout=end == "timeout"), jnp.int32(step))
    return replay


def empty(episodes: bool = False) -> Replay:
    """Of one run, with its axis."""
    return jax.tree.map(lambda x: x[None], Replay.empty(ENVS, CAPACITY, 1, 1, episodes))


@pytest.mark.parametrize(("count", "oldest"), [(3, 0), (8, 0), (13, 5)])
def test_draws_exactly_what_is_kept(count: int, oldest: int) -> None:
    """Every transition of both environments that is still there, about equally often, and no other."""
    batch = jax.jit(lambda replay: uniform(replay.dataset(jnp.int32(count)), jax.random.key(0), 4_000))(filled(count))
    steps, counts = np.unique(np.asarray(batch.reward), return_counts=True)
    kept = np.arange(oldest, count)
    np.testing.assert_array_equal(steps, np.concatenate([kept, kept + 100]))
    assert counts.min() > 0.7 * 4_000 / len(steps)
    np.testing.assert_array_equal(batch.next_observation, batch.observation + 1.0)
    assert not batch.terminal.any()
    assert not batch.timeout.any()


def test_columns_are_those_of_a_dataset_of_the_same_rows() -> None:
    """Three-step targets from windows, over episode ends, the newest row and a wrapped ring."""
    ends, count = {7: "terminal", 10: "timeout"}, 13
    replay = filled(count, ends)

    def draw(replay: Replay) -> Transition:
        return uniform(replay.dataset(jnp.int32(count), lambda d: steps_ahead(d, 3), 3), jax.random.key(0), 500)

    batch = jax.jit(draw)(replay)
    whole = Replay.empty(1, count, 1, 1)
    for step in range(count):
        one = transition(step, terminal=ends.get(step) == "terminal", timeout=ends.get(step) == "timeout")
        whole = whole.insert(jax.tree.map(lambda x: x[:1], one), jnp.int32(step))
    dataset = attach(Dataset(whole.rows[0], observation_dim=1, action_dim=1), lambda d: steps_ahead(d, 3))
    first_env = np.asarray(batch.reward) < 100
    index = np.asarray(batch.reward)[first_env].astype(int)
    assert len(np.unique(index)) == CAPACITY
    for name in ("ahead_reward", "ahead_observation", "ahead_steps", "ahead_terminal"):
        np.testing.assert_array_equal(np.asarray(batch.extras[name])[first_env], np.asarray(dataset.columns[name])[index])


def test_under_vmap_every_run_has_its_own() -> None:
    replays = jax.vmap(
        lambda scale: Replay.empty(ENVS, CAPACITY, 1, 1).insert(
            jax.tree.map(lambda x: x * scale.astype(x.dtype), transition(1)), jnp.int32(0)
        )
    )(jnp.array([1.0, 2.0]))
    batch = jax.vmap(lambda replay: uniform(replay.dataset(jnp.int32(1)), jax.random.key(0), 64))(replays)
    np.testing.assert_array_equal(np.unique(batch.reward[0]), [1.0, 101.0])
    np.testing.assert_array_equal(np.unique(batch.reward[1]), [2.0, 202.0])


@pytest.mark.parametrize("cuts", [(13,), (5, 13), (3, 8, 9, 13)])
def test_comes_back_from_disk(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    """In whatever parts it was saved; a part longer than the ring saves what the ring still has."""
    at = 0
    for cut in cuts:
        save_rows(tmp_path, filled(cut).rows[None], at, cut)
        at = cut
    np.testing.assert_array_equal(restored(empty(), tmp_path, 13).rows, filled(13).rows[None])
    saved = load_rows(tmp_path, 13, CAPACITY)
    np.testing.assert_array_equal(saved[0, 0, :, 0], np.arange(5 if cuts == (13,) else 0, 13))


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    save_rows(tmp_path, filled(3).rows[None], 0, 3)
    save_rows(tmp_path, filled(8).rows[None], 5, 8)
    with pytest.raises(ReplayError, match="no transitions before 5"):
        load_rows(tmp_path, 8)


def test_a_small_buffer_forgets_between_checkpoints(tmp_path: Path) -> None:
    """Checkpoints further apart than the buffer is long: what it still held is enough to go on."""
    save_rows(tmp_path, filled(3).rows[None], 0, 3)
    save_rows(tmp_path, filled(20).rows[None], 3, 20)
    assert load_rows(tmp_path, 20, CAPACITY).shape[2] == CAPACITY
    np.testing.assert_array_equal(restored(empty(), tmp_path, 20).rows, filled(20).rows[None])
    with pytest.raises(ReplayError, match="no transitions before 12"):
        load_rows(tmp_path, 20)


def flags(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Terminals and timeouts `[steps, ENVS]`: episodes of 1 to 12 steps, others in each environment."""
    rng = np.random.default_rng(0)
    ended = rng.random((steps, ENVS)) < 0.3
    ended[14:26] = False  # longer than the ring
    terminal = rng.random((steps, ENVS)) < 0.5
    return ended & terminal, ended & ~terminal


@partial(jax.jit, static_argnums=2)
def inserted(replay: Replay, first: jax.Array, steps: int) -> tuple[Replay, tuple[jax.Array, jax.Array]]:
    """After `steps` insertions more, and the bounds of all rows' episodes after each `[steps, ENVS * capacity]`."""
    terminal, timeout = (jnp.asarray(flag) for flag in flags(40))

    def body(replay: Replay, count: jax.Array) -> tuple[Replay, tuple[jax.Array, jax.Array]]:
        value = count + 100.0 * jnp.arange(ENVS, dtype=jnp.float32)
        one = Transition(value[:, None], jnp.zeros((ENVS, 1)), value, value[:, None] + 1.0, terminal[count], timeout[count])
        replay = replay.insert(one, count)
        return replay, replay.dataset(count + 1).episode_of(jnp.arange(ENVS * replay.capacity))

    return jax.lax.scan(body, replay, first + jnp.arange(steps))


@cache
def grown(steps: int) -> Replay:
    return inserted(Replay.empty(ENVS, CAPACITY, 1, 1, episodes=True), jnp.int32(0), steps)[0]


def bounds(steps: int, capacity: int = CAPACITY) -> tuple[list[int], list[int]]:
    """Of all rows left, environment by environment, read off the flags."""
    ended, oldest = np.logical_or(*flags(40)), max(0, steps - capacity)
    starts, ends = [], []
    for env in range(ENVS):
        base = env * (steps - oldest) - oldest
        for row in range(oldest, steps):
            before = [i + 1 for i in range(oldest, row) if ended[i, env]]
            after = [i + 1 for i in range(row, steps) if ended[i, env]]
            starts.append(base + max(before, default=oldest))
            ends.append(base + min(after, default=steps))
    return starts, ends


@pytest.mark.parametrize("capacity", chosen([1, CAPACITY, 40], 0, 1))
def test_the_bounds_of_episodes(capacity: int) -> None:
    """Of every row, after every insertion; an episode whose beginning is gone begins at the oldest row that is left."""
    _, (start, end) = inserted(Replay.empty(ENVS, capacity, 1, 1, episodes=True), jnp.int32(0), 40)
    for step in range(1, 41):
        rows = ENVS * min(step, capacity)
        assert (start[step - 1, :rows].tolist(), end[step - 1, :rows].tolist()) == bounds(step, capacity), step


@pytest.mark.parametrize("steps", [3, 8, 24])
def test_the_bounds_of_episodes_come_back_from_disk(tmp_path: Path, steps: int) -> None:
    """And go on as if nothing had been."""
    save_rows(tmp_path, grown(steps).rows[None], 0, steps)
    replay = jax.tree.map(lambda x: x[0], restored(empty(episodes=True), tmp_path, steps))
    _, (start, end) = inserted(replay, jnp.int32(steps), 12)
    for step in range(steps + 1, steps + 13):
        rows = ENVS * min(step, CAPACITY)
        assert (start[step - steps - 1, :rows].tolist(), end[step - steps - 1, :rows].tolist()) == bounds(step), step


def test_who_keeps_no_account_of_episodes_says_so() -> None:
    with pytest.raises(ValueError, match="no account of episodes"):
        filled(3).dataset(jnp.int32(3)).episode_of(jnp.arange(3))


def whole(replay: Replay, steps: int) -> Dataset:
    """The same rows in order of time, as a Dataset that knows their episodes."""
    left = min(steps, replay.capacity)
    slots = np.arange(steps - left, steps) % replay.capacity
    rows = np.asarray(replay.rows)[:, slots].reshape(ENVS * left, -1)
    start, end = (np.array(bound, np.int32) for bound in bounds(steps))
    return Dataset(rows, observation_dim=1, action_dim=1, episode_start=start, episode_end=end)


def double(dataset: Dataset) -> dict[str, jax.Array]:
    """A column."""
    return {"double": 2.0 * dataset[:].reward}


@pytest.mark.parametrize("steps", [5, 13])
def test_windows_are_those_of_a_dataset_of_the_same_rows(steps: int) -> None:
    """Inside the compiled program, with a number of rows that is traced; the newest row is no timeout, though nothing follows."""
    draw, key = windows(4, start=-1), jax.random.key(1)

    @jax.jit
    def both(replay: Replay, dataset: Dataset, count: jax.Array) -> tuple[Transition, Transition]:
        return draw(replay.dataset(count, double), key, 200), draw(attach(dataset, double), key, 200)

    found, expected = both(grown(steps), whole(grown(steps), steps), jnp.int32(steps))
    assert found.extras.keys() == expected.extras.keys()
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_rows_of_data_come_before_those_of_the_buffer() -> None:
    """Their rows, columns and episodes are their own, the buffer's are moved on, and all are drawn equally often."""
    count, old, new = 13, jnp.arange(ENVS * 5), jnp.arange(ENVS * CAPACITY)
    data = whole(grown(5), 5)
    data = dataclasses.replace(data, rows=data.rows + 1_000.0 * (np.arange(6) == 3))  # rewards that tell them apart

    @jax.jit
    def look(replay: Replay, data: Dataset, count: jax.Array) -> tuple[Any, Any, Any, Array]:
        data = attach(data, double)
        recent, both = replay.dataset(count, double), replay.dataset(count, double, before=data)
        index = jnp.concatenate([old, data.size + new])
        found = both[index], both.episode_of(index)
        apart = (data[old], data.episode_of(old)), (recent[new], recent.episode_of(new))
        return both.size, found, apart, uniform(both, jax.random.key(0), 8_000).reward

    size, (rows, of), ((old_rows, old_of), (new_rows, new_of)), drawn = look(grown(count), data, jnp.int32(count))
    assert int(size) == len(old) + len(new)
    for a, b, c in zip(jax.tree.leaves(rows), jax.tree.leaves(old_rows), jax.tree.leaves(new_rows), strict=True):
        np.testing.assert_array_equal(a, np.concatenate([b, c]))
    for a, b, c in zip(of, old_of, new_of, strict=True):
        np.testing.assert_array_equal(a, np.concatenate([b, len(old) + np.asarray(c)]))
    np.testing.assert_allclose(np.mean(np.asarray(drawn) >= 1_000), len(old) / int(size), atol=0.02)


def test_an_episode_that_was_given_up_is_not_gone_on_with(tmp_path: Path) -> None:
    """On disk the newest rows become timeouts, but not where they are terminals; earlier rows stay as they are."""
    save_rows(tmp_path, filled(3).rows[None], 0, 3)
    save_rows(tmp_path, filled(6, {5: "terminal"}).rows[None], 3, 6)
    before = load_rows(tmp_path, 6)
    give_up_episodes(tmp_path, 6)
    np.testing.assert_array_equal(load_rows(tmp_path, 6), before)
    give_up_episodes(tmp_path, 3)
    after = load_rows(tmp_path, 6)
    assert after[0, :, 2, -1].tolist() == [1.0, 1.0]
    after[0, :, 2, -1] = 0.0
    np.testing.assert_array_equal(after, before)
    found = restored(empty(episodes=True), tmp_path, 6)
    rows = jax.tree.map(lambda x: x[0], found).dataset(jnp.int32(6))
    start, end = rows.episode_of(jnp.arange(12))
    assert start.tolist() == [0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9]
    assert end.tolist() == [3, 3, 3, 6, 6, 6, 9, 9, 9, 12, 12, 12]
