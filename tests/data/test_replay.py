"""The buffer: a ring that keeps the last, draws only what is there, derives columns from windows, and comes back from disk."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrl.data.columns import attach, steps_ahead
from diffrl.data.dataset import Dataset
from diffrl.data.replay import Replay, ReplayError, load_rows, restored, save_rows
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


@pytest.mark.parametrize(("count", "oldest"), [(3, 0), (8, 0), (13, 5)])
def test_draws_exactly_what_is_kept(count: int, oldest: int) -> None:
    """Every transition of both environments that is still there, about equally often, and no other."""
    batch = jax.jit(lambda replay: replay.draw(jax.random.key(0), jnp.int32(count), 4_000))(filled(count))
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
    batch = jax.jit(lambda r: r.draw(jax.random.key(0), jnp.int32(count), 500, lambda d: steps_ahead(d, 3), 3))(replay)
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
    batch = jax.vmap(lambda replay: replay.draw(jax.random.key(0), jnp.int32(1), 64))(replays)
    np.testing.assert_array_equal(np.unique(batch.reward[0]), [1.0, 101.0])
    np.testing.assert_array_equal(np.unique(batch.reward[1]), [2.0, 202.0])


@pytest.mark.parametrize("cuts", [(13,), (5, 13), (3, 8, 9, 13)])
def test_comes_back_from_disk(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    """In whatever parts it was saved; a part longer than the ring saves what the ring still has."""
    at = 0
    for cut in cuts:
        save_rows(tmp_path, filled(cut).rows[None], at, cut)
        at = cut
    np.testing.assert_array_equal(restored(jnp.zeros((1, ENVS, CAPACITY, 6)), tmp_path, 13), filled(13).rows[None])
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
    empty = jnp.zeros((1, *filled(3).rows.shape))
    np.testing.assert_array_equal(restored(empty, tmp_path, 20), filled(20).rows[None])
    with pytest.raises(ReplayError, match="no transitions before 12"):
        load_rows(tmp_path, 20)
