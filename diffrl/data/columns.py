"""Columns derived from the rows of a Dataset: returns, n-step targets, action chunks, windows. None crosses an episode's end.

Pure functions of a Dataset that `jit` can compile: a method composes them in its `Algorithm.columns`, or in a stage's
`prepare` where they depend on a swept hyper-parameter. An episode ends after a terminal, after a timeout and at the end
of the data; order of rows is time. Everything is in the units of the Dataset (scaled rewards, standardised observations).
"""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from diffrl.data.dataset import Dataset

Discount = float | Float[Array, ""]


@runtime_checkable
class ColumnsFn(Protocol):
    """Columns `[N, ...]` derived from the rows alone, such as n-step returns (below are the usual ones).

    Pure; computed once before training, shared by all runs and never copied per run. They join `batch.extras`, and
    `dataset[...].extras` in `prepare`. Rows are in the units training sees: scaled rewards and actions in [-1, 1].
    """

    def __call__(self, dataset: Dataset) -> dict[str, Array]: ...


def attach(dataset: Dataset, derive: ColumnsFn | None) -> Dataset:
    """The Dataset with the columns `derive` makes of it, computed by one compiled program on the dataset's device.

    Raises:
        ValueError: a column has not one entry per row.
    """
    if derive is None:
        return dataset
    columns = jax.jit(derive)(dataset)
    for name, column in columns.items():
        if column.shape[:1] != (dataset.size,):
            raise ValueError(f"column {name!r} has shape {column.shape} where the dataset has {dataset.size} rows")
    return dataset.replace(columns=dataset.columns | columns)  # pyright: ignore


def episode_bounds(dataset: Dataset) -> tuple[Int[Array, " rows"], Int[Array, " rows"]]:
    """For each row the indices of the first and the last row of its episode, int32."""
    if dataset.episode_start is not None and dataset.episode_end is not None:
        return jnp.asarray(dataset.episode_start), jnp.asarray(dataset.episode_end) - 1
    return _bounds(_ends(dataset))


def trajectories(dataset: Dataset, part: slice = slice(None)) -> Dataset:
    """The rows, with episodes that go on behind a terminal where the data do.

    They do where the next row begins in the state that the terminal's led to: OGBench's play goes on when its goal is reached.
    `part` of an observation is compared: beside the state there may be a goal, which changes on the way.
    """
    rows = dataset[:]
    followed = jnp.all(rows.next_observation[:-1, part] == rows.observation[1:, part], axis=1)
    goes_on = jnp.append(followed, False) & rows.terminal & ~rows.timeout
    first, last = _bounds(_ends(dataset) & ~goes_on)
    return dataset.replace(episode_start=first, episode_end=last + 1)  # pyright: ignore[reportAttributeAccessIssue]


def returns_to_go(dataset: Dataset, discount: Discount) -> Float[Array, " rows"]:
    """Discounted sum of the rewards from each row to the end of its episode, that row's included.

    A timeout ends the sum as a terminal does: what would have followed is not in the data.
    """
    keep = jnp.where(_ends(dataset), 0.0, discount)

    # Row i maps the return after it, x, to r_i + keep_i x; maps compose, and a scan over them is parallel.
    def compose(later: tuple[Array, Array], earlier: tuple[Array, Array]) -> tuple[Array, Array]:
        return earlier[0] * later[0], earlier[1] + earlier[0] * later[1]

    return jax.lax.associative_scan(compose, (keep, dataset[:].reward), reverse=True)[1]


def n_step(dataset: Dataset, n: int, discount: Discount) -> dict[str, Array]:
    """Parts of the target `n_step_reward + n_step_discount * V(n_step_observation)` over at most `n` steps.

    Near an episode's end fewer steps are summed, k ≤ n, and the value is taken after the last of them.

    Returns:
        n_step_reward `[N]`: Σ_{j<k} discount^j r_{t+j}.
        n_step_observation `[N, O]`: the observation after the last summed step.
        n_step_discount `[N]`: discount^k, and 0 where the last summed step is terminal.
    """
    row = jnp.arange(dataset.size, dtype=jnp.int32)
    _, last = episode_bounds(dataset)
    stop = jnp.minimum(row + n - 1, last)
    rows = dataset[:]

    # From the last step back, as a recursion would: no power of the discount is rounded into the sum.
    def step(j: Array, total: Array) -> Array:
        ahead = row + (n - 1 - j).astype(jnp.int32)
        reward = rows.reward[jnp.minimum(ahead, dataset.size - 1)]
        return jnp.where(ahead <= last, reward + discount * total, total)

    total = jax.lax.fori_loop(0, n, step, jnp.zeros_like(rows.reward))
    power = jnp.power(discount, jnp.arange(n + 1, dtype=rows.reward.dtype))[stop - row + 1]
    return {
        "n_step_reward": total,
        "n_step_observation": rows.next_observation[stop],
        "n_step_discount": jnp.where(rows.terminal[stop], 0.0, power),
    }


def steps_ahead(dataset: Dataset, n: int) -> dict[str, Array]:
    """The parts of an n-step target that do not depend on the discount, so that it may be swept: `objectives.value.bootstrap`.

    Near an episode's end fewer steps are summed, and the value is taken after the last of them.

    Returns:
        ahead_reward `[N, n]`: 0 beyond the episode's end.
        ahead_observation `[N, O]`: the observation after the last summed step.
        ahead_steps `[N]`: how many are summed.
        ahead_terminal `[N]`: whether the last summed step is terminal.
    """
    index, mask = window_index(dataset, n)
    rows, last = dataset[:], index[:, -1]
    return {
        "ahead_reward": jnp.where(mask, rows.reward[index], 0.0),
        "ahead_observation": rows.next_observation[last],
        "ahead_steps": jnp.sum(mask, axis=1),
        "ahead_terminal": rows.terminal[last],
    }


def window_index(dataset: Dataset, length: int, start: int = 0) -> tuple[Int[Array, "rows length"], Bool[Array, "rows length"]]:
    """Rows t + start … t + start + length - 1 for each row t, held inside its episode.

    Costs 5 N L bytes where `windows` costs 4 N L (O + A + 1): where that is too much, gather a part of the windows at a
    time in `prepare`.

    Args:
        dataset: the rows.
        length: L, entries of a window.
        start: offset of the first entry; negative for a history, e.g. 1 - L for the L rows up to and with t.

    Returns:
        index `[N, L]`, int32: beyond an end of the episode its first or last row is repeated.
        mask `[N, L]`: whether the entry is a row of its own and no repetition.
    """
    first, last = episode_bounds(dataset)
    row = jnp.arange(dataset.size, dtype=jnp.int32)[:, None] + jnp.arange(start, start + length, dtype=jnp.int32)[None]
    index = jnp.clip(row, first[:, None], last[:, None])
    return index, index == row


def action_chunks(dataset: Dataset, length: int) -> dict[str, Array]:
    """The `length` actions from each row on.

    Returns:
        action_chunk `[N, L, A]`: beyond the episode's end its last action is repeated.
        action_chunk_mask `[N, L]`: False for these repetitions.
    """
    index, mask = window_index(dataset, length)
    return {"action_chunk": dataset[:].action[index], "action_chunk_mask": mask}


def windows(dataset: Dataset, length: int) -> dict[str, Array]:
    """The `length` steps from each row on, with the observation after the last: what models of trajectories are fitted to.

    Costs 4 N (L + 1) (O + A + 1) bytes, for 10^6 rows of Hopper and L = 32 some 2 GB; see `window_index`.
    `window_mask[:, -1]` says which windows are full.

    Returns:
        window_observation `[N, L + 1, O]`: entry 0 is the row's own; entry h + 1 follows action h. Beyond the episode's
            end its final observation is repeated.
        window_action `[N, L, A]`: beyond the end the last action is repeated.
        window_reward `[N, L]`: 0 beyond the end, so that sums over a window are sums over its rows.
        window_mask `[N, L]`: whether the step is in the episode.
    """
    index, mask = window_index(dataset, length)
    rows = dataset[:]
    return {
        "window_observation": jnp.concatenate([rows.observation[:, None], rows.next_observation[index]], axis=1),
        "window_action": rows.action[index],
        "window_reward": jnp.where(mask, rows.reward[index], 0.0),
        "window_mask": mask,
    }


def _bounds(end: Bool[Array, " rows"]) -> tuple[Int[Array, " rows"], Int[Array, " rows"]]:
    row = jnp.arange(len(end), dtype=jnp.int32)
    start = jnp.concatenate([jnp.ones(1, bool), end[:-1]])
    first = jax.lax.cummax(jnp.where(start, row, 0))
    last = jax.lax.cummin(jnp.where(end, row, len(end) - 1), reverse=True)
    return first, last


def _ends(dataset: Dataset) -> Bool[Array, " rows"]:
    if dataset.episode_end is not None:
        return jnp.asarray(dataset.episode_end) == jnp.arange(1, dataset.size + 1)
    rows = dataset[:]
    return (rows.terminal | rows.timeout).at[-1].set(True)
