"""One Dataset for every source: a packed matrix of transitions on the device, with its Spec and its card."""

import dataclasses
import hashlib
from typing import Any, NamedTuple

import flax.struct
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from diffrl.data.episodes import Recorded, Rows
from diffrl.errors import UserError
from diffrl.records import Finite, Natural, Width
from diffrl.types import Transition

SMALLEST_SCALE = 1e-30  # of rewards, in float32
FIELDS = ("observation", "action", "reward", "next_observation", "terminal", "timeout")


class DatasetError(UserError, ValueError):
    """The data cannot be trained on; the message says why and what to do."""


@flax.struct.dataclass
class Dataset:
    """`N` transitions packed as one float32 matrix, so that a batch costs one gather.

    An argument of compiled functions, never captured by them; numpy until it is placed on a device. `dataset[index]` is a
    Transition with the leading axes of `index`; the columns `[N, ...]` that the method derives from the rows
    (`data/columns.py`) are its `extras`.

    Rows are in order of time. `episode_start` and `episode_end` `[N]`, int32, say of each row where its episode begins and one
    past where it ends; None where rows are in another order, as in the slabs of data too large for a device.

    `shares` says of a mix of datasets how many rows each has, in order (of a buffer that grows a traced number), and which share
    of the draws it gets (`data/mix.py`);
    () for rows that are all drawn alike.
    """

    rows: Float[Array | np.ndarray, "rows packed"]
    observation_dim: int = flax.struct.field(pytree_node=False)
    action_dim: int = flax.struct.field(pytree_node=False)
    columns: dict[str, Array | np.ndarray] = flax.struct.field(default_factory=dict)
    episode_start: Int[Array | np.ndarray, " rows"] | None = None
    episode_end: Int[Array | np.ndarray, " rows"] | None = None
    shares: tuple[tuple[Any, float], ...] = flax.struct.field(pytree_node=False, default=())

    @property
    def size(self) -> int:
        return self.rows.shape[0]

    def __getitem__(self, index: Int[Array, "*batch"] | slice) -> Transition:
        o, a = self.observation_dim, self.action_dim
        rows = jnp.asarray(self.rows[index])
        return Transition(
            observation=rows[..., :o],
            action=rows[..., o : o + a],
            next_observation=rows[..., o + a : 2 * o + a],
            reward=rows[..., 2 * o + a],
            terminal=rows[..., 2 * o + a + 1] > 0.5,
            timeout=rows[..., 2 * o + a + 2] > 0.5,
            extras={name: jnp.asarray(column[index]) for name, column in self.columns.items()},
        )

    def episode_of(self, index: Int[Array, "*batch"]) -> tuple[Int[Array, "*batch"], Int[Array, "*batch"]]:
        """Where the episodes of these rows begin, and one past where they end.

        Raises:
            ValueError: the rows are not in order of time.
        """
        if self.episode_start is None or self.episode_end is None:
            raise ValueError("these rows are not in order of time, so they have no episodes")
        return jnp.asarray(self.episode_start)[index], jnp.asarray(self.episode_end)[index]


@dataclasses.dataclass(frozen=True)
class Card:
    """What is known of a dataset beside its rows. Written to `dataset.json`.

    Attributes:
        id: name under which it was loaded.
        rows: transitions that are trained on.
        episodes: as they were recorded.
        return_min, return_mean, return_max: over these, in the environment's own reward; 0 where there are no rewards.
        comparable_return: mean return of the data counted as an evaluation counts (`episodes.as_evaluated`); None where there is
            no such episode in them, or none is known.
        comparable_episodes: how many there are; None where that is not known.
        sha256: fingerprint of the raw rows (before any transform).
        action_low, action_high: the environment's action bounds; 0 and 1 where actions are discrete.
        env_spec: gymnasium EnvSpec of the evaluation environment as JSON, or None where the data name none.
        observation_keys: for Dict observations, the keys that were concatenated, in order.
        ref_min_score, ref_max_score: episode returns that count as 0 and 100, or None.
        ref_provenance: where these come from.
        description: how the data were made.
        reward_scale, reward_shift: training sees reward * scale + shift.
        clipped_actions: rows whose action was moved onto the bounds.
        has_rewards: False for data that only imitation can learn from.
        action_repeat: steps of the environment that each chosen action is carried out for.
    """

    id: str
    rows: Natural
    episodes: Natural
    return_min: Finite
    return_mean: Finite
    return_max: Finite
    sha256: str
    action_low: tuple[Finite, ...]
    action_high: tuple[Finite, ...]
    env_spec: str | None = None
    observation_keys: tuple[str, ...] | None = None
    ref_min_score: Finite | None = None
    ref_max_score: Finite | None = None
    ref_provenance: str = ""
    description: str = ""
    reward_scale: Finite = 1.0
    reward_shift: Finite = 0.0
    comparable_return: Finite | None = None
    comparable_episodes: Natural | None = None
    clipped_actions: Natural = 0
    has_rewards: bool = True
    action_repeat: Width = 1

    def __post_init__(self) -> None:
        if abs(self.reward_scale) < SMALLEST_SCALE:
            raise ValueError(f"reward_scale {self.reward_scale} is so small that rewards cannot be had back")

    @property
    def has_returns(self) -> bool:
        """Whether returns were recorded: there are data, and they have rewards."""
        return self.rows > 0 and self.has_rewards


class Source(NamedTuple):
    """What a loader returns: raw rows and what is known of them.

    Attributes:
        recorded: rows and returns of `episodes.recorded`.
        id: name of the data.
        action_low, action_high: `[A]` bounds of the actions; None where the data do not say, and where actions are discrete.
        num_actions: how many discrete actions there are; 0 where the data do not say.
        first_action: the least of them; None where the data do not say, and then 0.
        observation_parts: as in `Spec`.
        shares: as in `Dataset`.
        Others are those of `Card`.
    """

    recorded: Recorded
    id: str
    action_low: np.ndarray | None = None
    action_high: np.ndarray | None = None
    num_actions: int = 0
    first_action: int | None = None
    observation_parts: tuple[tuple[str, int], ...] = ()
    shares: tuple[tuple[int, float], ...] = ()
    has_rewards: bool = True
    env_spec: str | None = None
    observation_keys: tuple[str, ...] | None = None
    ref_min_score: float | None = None
    ref_max_score: float | None = None
    ref_provenance: str = ""
    description: str = ""

    @property
    def transitions(self) -> Rows:
        return self.recorded.rows

    @property
    def discrete(self) -> bool:
        """Whether actions are indices of discrete ones."""
        return self.transitions.action.dtype.kind in "biu"


def fingerprint(transitions: Rows | Transition) -> str:
    """sha256 over names, shapes and bytes of the six fields: equal if and only if the rows are."""
    digest = hashlib.sha256()
    for name in FIELDS:
        value = np.ascontiguousarray(getattr(transitions, name))
        digest.update(f"{name}{value.dtype}{value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
