"""How batches are drawn from a Dataset: the usual values of `Stage.batch`. "Uniformly" is by `rows`.

Pure functions of a dataset, a key and a size; randomness is counted by whoever makes the key. What they ask of a dataset is its
`size`, rows by index, and the bounds of a row's episode, so a buffer that grows gives the same.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int

from diffrl.data.dataset import FIELDS, Dataset
from diffrl.types import Key, Transition


@runtime_checkable
class BatchFn(Protocol):
    """A batch `[B, ...]` per field, drawn with this key from the dataset and its columns."""

    def __call__(self, dataset: Dataset, key: Key, batch_size: int) -> Transition: ...


def rows(dataset: Dataset, key: Key, batch_size: int) -> Int[Array, " batch"]:
    """Indices of rows drawn uniformly with replacement; of a mix, uniformly from a dataset that is drawn first, by its share."""
    if not dataset.shares:
        return jax.random.randint(key, (batch_size,), 0, dataset.size)
    sizes, shares = zip(*dataset.shares, strict=True)
    counts = jnp.stack([jnp.asarray(size, jnp.int32) for size in sizes])  # of a buffer it is a traced number
    first, bound = jnp.cumsum(counts) - counts, np.minimum(np.cumsum(shares)[:-1] * 2.0**32, 2.0**32 - 1.0)
    # Both numbers in one call, which is cheaper than `randint`; the remainder favours a row by at most counts / 2^32.
    which, row = jax.random.bits(key, (2, batch_size))
    drawn = jnp.sum(which[:, None] >= jnp.asarray(bound, jnp.uint32), axis=1)
    return first[drawn] + (row % counts.astype(jnp.uint32)[drawn]).astype(jnp.int32)


def uniform(dataset: Dataset, key: Key, batch_size: int) -> Transition:
    """Transitions drawn by `rows`."""
    return dataset[rows(dataset, key, batch_size)]


def next_actions(dataset: Dataset, key: Key, batch_size: int) -> Transition:
    """Transitions drawn uniformly, each with the action of its next observation, where its episode has one.

    `extras` hold `next_action` `[B, A]`, and `next_action_known` `[B]`: False where the episode ends with the transition. Where
    several steps are summed, as of chunks of actions, it is the action after the last of them.
    """
    row = rows(dataset, key, batch_size)
    drawn = dataset[row]
    _, end = dataset.episode_of(row)
    following = row + drawn.extras.get("ahead_steps", 1)
    known = following < end
    extras = {"next_action": dataset[jnp.where(known, following, row)].action, "next_action_known": known}
    return dataclasses.replace(drawn, extras=drawn.extras | extras)


def windows(length: int, start: int = 0, of: BatchFn | None = None) -> BatchFn:
    """Transitions drawn uniformly, or by `of`, each with the `length` rows of its episode around it.

    Nothing is stored: rows are gathered for each batch, and what an update does not read is never gathered. Beyond an end of the
    episode its first or last row is repeated, with reward 0, so that sums over a window are sums over its rows. The state after
    the last row is `window_next_observation[:, -1]`.

    Args:
        length: L, rows of a window.
        start: offset of the first one from the row drawn; 1 - L for a history, whose last row is the one drawn.
        of: what draws the rows and says in `extras["row"]` which they are, as `goals` does.

    Returns:
        a BatchFn whose `extras` hold `window_<name>` `[B, L, ...]` for each field of a Transition and each column of the
        dataset, and `window_mask` `[B, L]`: False for repetitions.

    Raises:
        ValueError: a window has no rows.
    """
    if length < 1:
        raise ValueError(f"a window needs at least one row, got length={length}")

    def batch(dataset: Dataset, key: Key, batch_size: int) -> Transition:
        around = None if of is None else of(dataset, key, batch_size)
        row = rows(dataset, key, batch_size) if around is None else around.extras["row"]
        return windows_at(dataset, row, length, start, around)

    return batch


def windows_at(
    dataset: Dataset, row: Int[Array, " batch"], length: int, start: int = 0, drawn: Transition | None = None
) -> Transition:
    """The transitions of these rows, or what was `drawn` with them, with what `windows` adds."""
    first, end = (bound[:, None] for bound in dataset.episode_of(row))
    wanted = row[:, None] + jnp.arange(start, start + length, dtype=row.dtype)[None]
    index = jnp.clip(wanted, first, end - 1)
    mask = index == wanted
    found = dataset[index]
    found = dataclasses.replace(found, reward=jnp.where(mask, found.reward, 0.0))
    named = {name: getattr(found, name) for name in FIELDS} | found.extras
    drawn = dataset[row] if drawn is None else drawn
    extras = {f"window_{name}": value for name, value in named.items()} | {"window_mask": mask}
    return dataclasses.replace(drawn, extras=drawn.extras | extras)


def goals(
    *,
    current: float = 0.2,
    future: float = 0.5,
    random: float = 0.3,
    discount: float | None = 0.99,
    negative: bool = True,
    until: str = "",
) -> BatchFn:
    """Transitions drawn uniformly, each with a goal and the reward of reaching it (Park et al. 2023, HIQL, appendix; OGBench).

    A goal is a state: the row's own; one of its future, the k-th after it with k ≥ 1; or the state of a row drawn uniformly from
    all. k is geometric, P(k) ∝ discount^(k-1), which makes the goal a sample of the discounted occupancy, or uniform. Its episode
    ends with the state after the last row, and what would lie beyond that is that state.

    Args:
        current, future, random: probabilities of the three kinds.
        discount: γ of the geometric distribution, of mean 1 / (1 - γ); None for a state drawn uniformly from the rest of the
            episode.
        negative: whether the reward is -1 until the goal is reached and 0 there; otherwise it is 0, and 1 there.
        until: the column that says one past where a row's future ends; empty for the end of its episode.

    Returns:
        a BatchFn whose `reward` says whether the row's own state is the goal, as `terminal` does, which cuts the bootstrap there.
        Its `extras` hold `goal` `[B, O]`, `goal_steps` `[B]`, int32: k; 0 for the row's own state, -1 where it is unknown; and
        `row` `[B]`, int32: which rows were drawn.

    Raises:
        ValueError: the probabilities are none, or the discount is not in [0, 1).
    """
    chances = (current, future, random)
    if min(chances) < 0.0 or abs(sum(chances) - 1.0) > 1e-6:
        raise ValueError(f"probabilities of goals must sum to 1, got current={current}, future={future}, random={random}")
    if discount is not None and not 0.0 <= discount < 1.0:
        raise ValueError(f"the discount of goals must lie in [0, 1), got {discount}; None draws them uniformly")

    def batch(dataset: Dataset, key: Key, batch_size: int) -> Transition:
        row_key, kind_key, ahead_key, other_key = jax.random.split(key, 4)
        row, other = (rows(dataset, key, batch_size) for key in (row_key, other_key))
        drawn = dataset[row]
        end = drawn.extras[until] if until else dataset.episode_of(row)[1]
        if discount is None:
            steps = jax.random.randint(ahead_key, (batch_size,), 1, end - row + 1)
        else:
            steps = jnp.minimum(jax.random.geometric(ahead_key, 1.0 - discount, (batch_size,), dtype=row.dtype), end - row)
        kind = jax.random.uniform(kind_key, (batch_size,))
        is_future, is_random = kind < future, kind >= 1.0 - random
        steps = jnp.where(is_random, -1, jnp.where(is_future, steps, 0))
        # The state after an episode's last row is no row's own.
        found = dataset[jnp.where(is_random, other, jnp.minimum(row + steps, end - 1))]
        beyond = (row + steps == end) & is_future
        goal = jnp.where(beyond[:, None], found.next_observation, found.observation)
        reached = steps == 0
        return dataclasses.replace(
            drawn,
            reward=reached.astype(drawn.reward.dtype) - float(negative),
            terminal=reached,
            extras=drawn.extras | {"goal": goal, "goal_steps": steps, "row": row},
        )

    return batch
