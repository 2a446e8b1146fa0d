"""Chunks of actions for any method: `config.action_chunk`.

After Li, Zhou & Levine 2025, "Reinforcement Learning with Action Chunking", arXiv 2507.07969. The method is made
for actions of `length` times the environment's numbers, the first step's first, and knows no more of it: its transitions are of
`length` steps, and what it chooses is carried out open loop.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int

from diffrl.algorithm import ActFn, Algorithm, Stage
from diffrl.data.columns import action_chunks, steps_ahead, trajectories, window_index
from diffrl.data.dataset import Dataset
from diffrl.types import Carry, Key, Metrics, Policy, Spec, State, Transition


def wide(spec: Spec, length: int) -> Spec:
    """What a method is told that acts `length` steps at a time.

    Raises:
        ValueError: the actions are discrete.
    """
    if spec.num_actions:
        raise ValueError(f"action_chunk={length} takes actions in a box, and these are discrete: set action_chunk=1")
    low, high = spec.action_low * length, spec.action_high * length
    return dataclasses.replace(spec, action_dim=length * spec.action_dim, action_low=low, action_high=high)


def in_chunks(algorithm: Algorithm, spec: Spec, length: int) -> Algorithm:
    """For single steps in and out, an algorithm that was made for chunks of `length`.

    A batch's actions are the chunk `[B, length · A]` from each row on, `next_observation`, `terminal` and `timeout` those of its
    last step, and `reward` the sum of its rewards. Their discounted sum and the value after it, times the discount to the power
    of the number of steps, is what `objectives.value.bootstrap` makes of the columns: so a discount may be swept.

    Near its end an episode holds fewer steps than a chunk: their rewards are summed and the value is taken after the last. What
    follows a terminal counts for nothing in them; the actions are those that were taken behind it where the data go on
    (`data.columns.trajectories`), and else the last one repeated. Actions repeated behind a timeout are ones that nobody took:
    `extras["chunk_taken"]` is False of these rows, `length` - 1 an episode, and critics do not learn from them
    (`objectives.value.critic_loss`). `extras["action_chunk_mask"]` `[B, length]` has what was taken and what is repeated.

    So are the windows of the authors' code, but for this: it goes on summing rewards behind a terminal up to the chunk's end,
    although they are of no return that the task counts, and it drops chunks that a terminal at the data's end cuts short, which
    hold all that is known of failure where a robot may fall.

    Args:
        algorithm: made for the Spec of `wide`.
        spec: of the environment.
        length: h, at least 1.

    Raises:
        ValueError: the method derives columns itself, which are of single steps.
    """
    if algorithm.columns is not None:
        raise ValueError(
            f"action_chunk={length} needs a method that looks one step ahead, and this one derives columns from more: "
            "set its n_step or model_horizon to 1, or action_chunk=1"
        )

    def columns(dataset: Dataset) -> dict[str, Array]:
        last = window_index(dataset, length)[0][:, -1]
        found = action_chunks(trajectories(dataset), length) | steps_ahead(dataset, length)
        taken = jnp.all(found["action_chunk_mask"], axis=1) | found["ahead_terminal"]
        return found | {"ahead_timeout": dataset[:].timeout[last], "chunk_taken": taken}

    def init_carry(policy: Policy, num_envs: int) -> Carry:
        return open_loop_carry(algorithm.init_carry(policy, num_envs), num_envs, length, spec.action_dim)

    explore = algorithm.explore and open_loop(algorithm.explore, length)
    return algorithm._replace(
        stages=tuple(_of_chunks(stage) for stage in algorithm.stages),
        columns=columns,
        lookahead=length,
        init_carry=init_carry,
        act=open_loop(algorithm.act, length),
        explore=explore,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)  # pyright: ignore[reportGeneralTypeIssues]
class _Chunks(Dataset):
    """The rows of a dataset as transitions of a chunk: what a stage's own functions draw from."""

    of: Dataset

    @classmethod
    def view(cls, dataset: Dataset) -> "_Chunks":
        return cls(dataset.rows, dataset.observation_dim, dataset.action_dim, dataset.columns, shares=dataset.shares, of=dataset)

    @property
    def size(self) -> Any:
        return self.of.size

    def __getitem__(self, index: Int[Array, "*batch"] | slice) -> Transition:
        return _as_chunk(self.of[index])

    def episode_of(self, index: Int[Array, "*batch"]) -> tuple[Int[Array, "*batch"], Int[Array, "*batch"]]:
        return self.of.episode_of(index)


def _as_chunk(row: Transition) -> Transition:
    chunk = row.extras["action_chunk"]
    return dataclasses.replace(
        row,
        action=chunk.reshape(*chunk.shape[:-2], -1),
        reward=jnp.sum(row.extras["ahead_reward"], axis=-1),
        next_observation=row.extras["ahead_observation"],
        terminal=row.extras["ahead_terminal"],
        timeout=row.extras["ahead_timeout"],
    )


def _of_chunks(stage: Stage) -> Stage:
    """The stage, for batches of rows with the columns of `in_chunks`."""
    update, prepare, batch = stage.update, stage.prepare, stage.batch

    def chunk_update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        return update(state, _as_chunk(batch), key)

    def chunk_prepare(state: State, dataset: Dataset, key: Key) -> dict[str, Array]:
        assert prepare is not None
        return prepare(state, _Chunks.view(dataset), key)

    def chunk_batch(dataset: Dataset, key: Key, batch_size: int) -> Transition:
        assert batch is not None
        return batch(_Chunks.view(dataset), key, batch_size)

    return stage._replace(
        update=chunk_update if batch is None else update,
        prepare=prepare and chunk_prepare,
        batch=batch and chunk_batch,
    )


def open_loop(choose: ActFn, length: int) -> ActFn:
    """Carries out the chunks that `choose` gives, one action a step; the carry is that of `open_loop_carry`.

    Environments begin their episodes at different times; while none has come to its chunk's end, nothing is chosen.
    """

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        needed = carry[2] == length

        def begin(carry: Carry) -> Carry:
            inner, chunk, position = carry
            action, new_inner = choose(policy, inner, observation, key)
            new = new_inner, action.reshape(chunk.shape), jnp.zeros_like(position)

            def renewed(new: Array, old: Array) -> Array:
                return jnp.where(needed.reshape(-1, *[1] * (old.ndim - 1)), new, old)

            return jax.tree.map(renewed, new, carry)

        inner, chunk, position = jax.lax.cond(anywhere(needed), begin, lambda carry: carry, carry)
        action = jnp.take_along_axis(chunk, position[:, None, None], axis=1)[:, 0]
        return action, (inner, chunk, position + 1)

    return act


def open_loop_carry(inner: Carry, num_envs: int, length: int, action_dim: int) -> Carry:
    """(the carry of what chooses, the chunks `[B, length, A]`, how many of each are carried out `[B]`): all, so one is needed."""
    return inner, jnp.zeros((num_envs, length, action_dim)), jnp.full(num_envs, length, jnp.int32)


@jax.custom_batching.custom_vmap
def anywhere(needed: Bool[Array, "batch"]) -> Bool[Array, ""]:
    """Whether in any environment of any run of a program: one truth for all, so that under `vmap` a branch on it stays one."""
    return jnp.any(needed)


@anywhere.def_vmap
def _anywhere_of_runs(size: int, batched: list[bool], needed: Bool[Array, "runs batch"]) -> tuple[Bool[Array, ""], bool]:
    del size, batched
    return anywhere(jnp.any(needed, axis=0)), False
