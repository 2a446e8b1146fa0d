"""One Dataset for every source: a packed matrix of transitions on the device, with its Spec and its card."""

import dataclasses
import hashlib
import math
import typing
from typing import Any, Literal, NamedTuple

import flax.struct
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from diffrl.settings import setting
from diffrl.types import Spec, Transition, with_tuples

FIELDS = ("observation", "action", "reward", "next_observation", "terminal", "timeout")
RewardScale = Literal["none", "return_range"]
# Losses square errors and Adam squares gradients: beyond its fourth root float32 overflows, and with some margin beyond this.
LARGEST = 1e8


class DatasetError(ValueError):
    """The data cannot be trained on; the message says why and what to do."""


@flax.struct.dataclass
class Dataset:
    """`N` transitions packed as one float32 matrix, so that a batch costs one gather.

    An argument of compiled functions, never captured by them; numpy until it is placed on a device. `dataset[index]` is a
    Transition with the leading axes of `index`; the columns `[N, ...]` that the method derives from the rows
    (`data/columns.py`) are its `extras`.

    Rows are in order of time. `episode_start` and `episode_end` `[N]`, int32, say of each row where its episode begins and one
    past where it ends; None where rows are in another order, as in the slabs of data too large for a device.
    """

    rows: Float[Array | np.ndarray, "rows packed"]
    observation_dim: int = flax.struct.field(pytree_node=False)
    action_dim: int = flax.struct.field(pytree_node=False)
    columns: dict[str, Array | np.ndarray] = flax.struct.field(default_factory=dict)
    episode_start: Int[Array | np.ndarray, " rows"] | None = None
    episode_end: Int[Array | np.ndarray, " rows"] | None = None

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
        rows, episodes: sizes.
        return_min, return_mean, return_max: over episodes, in the environment's own reward.
        sha256: fingerprint of the raw rows (before any transform).
        action_low, action_high: the environment's action bounds.
        env_spec: gymnasium EnvSpec of the evaluation environment as JSON, or None where the data name none.
        observation_keys: for Dict observations, the keys that were concatenated, in order.
        ref_min_score, ref_max_score: episode returns that count as 0 and 100, or None.
        ref_provenance: where these come from.
        description: how the data were made.
        reward_scale, reward_shift: training sees reward * scale + shift.
    """

    id: str
    rows: int
    episodes: int
    return_min: float
    return_mean: float
    return_max: float
    sha256: str
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    env_spec: str | None = None
    observation_keys: tuple[str, ...] | None = None
    ref_min_score: float | None = None
    ref_max_score: float | None = None
    ref_provenance: str = ""
    description: str = ""
    reward_scale: float = 1.0
    reward_shift: float = 0.0

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Card":
        """Inverse of `dataclasses.asdict` after a trip through JSON."""
        return cls(**with_tuples(values))


class Rows(NamedTuple):
    """Raw transitions in the host's memory, as a loader finds them: a Transition's fields as numpy arrays `[N, ...]`.

    Shapes and values are not to be trusted before `build` has checked them.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_observation: np.ndarray
    terminal: np.ndarray
    timeout: np.ndarray


class Source(NamedTuple):
    """What a loader returns: raw rows and what is known of them."""

    transitions: Rows
    action_low: np.ndarray
    action_high: np.ndarray
    id: str
    env_spec: str | None = None
    observation_keys: tuple[str, ...] | None = None
    ref_min_score: float | None = None
    ref_max_score: float | None = None
    ref_provenance: str = ""
    description: str = ""


@dataclasses.dataclass
class Transforms:
    """Changes made to the rows before training.

    Attributes:
        standardize_observations: subtract the mean, divide by the standard deviation of the data's observations.
        reward_scale: "none", or "return_range": multiply by 1000 / (largest - smallest episode return), as IQL and
            SRPO do for locomotion (Kostrikov et al. 2021, appendix B).
        reward_shift: added after scaling; -1 for AntMaze in IQL and SRPO.
    """

    standardize_observations: bool = False
    reward_scale: RewardScale = "none"
    reward_shift: float = setting(0.0, low=-math.inf)


def build(source: Source, transforms: Transforms) -> tuple[Dataset, Spec, Card]:
    """Check raw rows and apply the transforms. The result lies in the host's memory, as a numpy array.

    Raises:
        DatasetError: a shape does not fit, a value is not finite or beyond ±10^8 after the transforms, an action is out of
            bounds, there are no rows, the returns of all episodes are equal where their range is the scale, or the transform is
            unknown.
    """
    t = source.transitions
    _check(source)
    returns = episode_returns(t)
    low, high = np.asarray(source.action_low, np.float32), np.asarray(source.action_high, np.float32)
    scale = _reward_scale(source.id, transforms.reward_scale, returns)
    mean, std = _statistics(t.observation, transforms.standardize_observations)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused by name
        trained = {
            "observation": (t.observation - mean) / std,
            "action": 2.0 * (t.action - low) / (high - low) - 1.0,
            "next_observation": (t.next_observation - mean) / std,
            "reward": (t.reward * scale + transforms.reward_shift)[:, None],
        }
    _check_magnitude(source.id, trained)
    observation = trained["observation"]
    card = Card(
        id=source.id,
        rows=len(t.reward),
        episodes=len(returns),
        return_min=float(returns.min()),
        return_mean=float(returns.mean()),
        return_max=float(returns.max()),
        sha256=fingerprint(t),
        action_low=tuple(low.tolist()),
        action_high=tuple(high.tolist()),
        env_spec=source.env_spec,
        observation_keys=source.observation_keys,
        ref_min_score=source.ref_min_score,
        ref_max_score=source.ref_max_score,
        ref_provenance=source.ref_provenance,
        description=source.description,
        reward_scale=scale,
        reward_shift=transforms.reward_shift,
    )
    spec = Spec(
        observation_dim=t.observation.shape[1],
        action_dim=t.action.shape[1],
        observation_mean=tuple(mean.tolist()),
        observation_std=tuple(std.tolist()),
        action_low=card.action_low,
        action_high=card.action_high,
        observation_min=tuple(observation.min(axis=0).tolist()),
        observation_max=tuple(observation.max(axis=0).tolist()),
    )
    columns = [*trained.values(), np.asarray(t.terminal)[:, None], np.asarray(t.timeout)[:, None]]
    packed = np.concatenate(columns, axis=1, dtype=np.float32)
    return Dataset(packed, observation_dim=spec.observation_dim, action_dim=spec.action_dim), spec, card


def episode_ends(transitions: Rows | Transition) -> np.ndarray:
    """Index one past the last row of every episode: after a terminal, after a timeout, and at the end of the data."""
    ends = np.flatnonzero(np.asarray(transitions.terminal) | np.asarray(transitions.timeout)) + 1
    n = len(transitions.reward)
    return ends if len(ends) and ends[-1] == n else np.append(ends, n)


def episode_returns(transitions: Rows | Transition) -> np.ndarray:
    """Undiscounted sum of rewards of each episode, `[episodes]` float64."""
    total = np.concatenate([[0.0], np.cumsum(np.asarray(transitions.reward, np.float64))])
    return np.diff(total[np.concatenate([[0], episode_ends(transitions)])])


def fingerprint(transitions: Rows | Transition) -> str:
    """sha256 over names, shapes and bytes of the six fields: equal if and only if the rows are."""
    digest = hashlib.sha256()
    for name in FIELDS:
        value = np.ascontiguousarray(getattr(transitions, name))
        digest.update(f"{name}{value.dtype}{value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _check(source: Source) -> None:
    t = source.transitions
    n = np.size(t.reward)
    if n == 0:
        raise DatasetError(f"dataset {source.id!r} has no transitions")
    for name in FIELDS:
        value = np.asarray(getattr(t, name))
        if value.ndim != (2 if name in ("observation", "action", "next_observation") else 1) or len(value) != n:
            raise DatasetError(f"dataset {source.id!r}: {name} has shape {value.shape} where reward has {n} rows")
        if value.dtype.kind not in "biuf":
            raise DatasetError(f"dataset {source.id!r}: {name} has type {value.dtype}, expected numbers")
        if value.ndim == 2 and value.shape[1] == 0:
            raise DatasetError(f"dataset {source.id!r}: {name} is empty, it has no numbers in any row")
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(value.astype(np.float32))
        if bad.any():
            row = int(np.argwhere(bad)[0][0])
            raise DatasetError(
                f"dataset {source.id!r}: {name} has {int(bad.sum())} values that are not finite, first in row {row}"
            )
    if t.observation.shape != t.next_observation.shape:
        raise DatasetError(
            f"dataset {source.id!r}: observation {t.observation.shape} and next_observation {t.next_observation.shape} differ"
        )
    low, high = np.asarray(source.action_low), np.asarray(source.action_high)
    if low.shape != (t.action.shape[1],) or high.shape != low.shape:
        raise DatasetError(f"dataset {source.id!r}: actions have {t.action.shape[1]} entries, their bounds {low.shape[0]}")
    if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        raise DatasetError(f"dataset {source.id!r}: action bounds must be finite with low < high, got {low} and {high}")
    tolerance = 1e-5 * (high - low)
    outside = (t.action < low - tolerance) | (t.action > high + tolerance)
    if outside.any():
        row = int(np.argwhere(outside)[0][0])
        raise DatasetError(
            f"dataset {source.id!r}: {int(outside.any(axis=1).sum())} actions lie outside [{low}, {high}], first in row {row}: "
            f"{t.action[row]}. Were they recorded before clipping?"
        )


def _check_magnitude(id: str, trained: dict[str, np.ndarray]) -> None:
    for name, value in trained.items():
        bad = ~(np.abs(value) <= LARGEST)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise DatasetError(
                f"dataset {id!r}: {name} is {value[row, column]:.3g} in row {row} as training would see it, beyond what float32 "
                f"can be trained on (±{LARGEST:.0e}): rescale the data, or set standardize_observations or reward_scale"
            )


def _reward_scale(id: str, name: str, returns: np.ndarray) -> float:
    if name not in (known := typing.get_args(RewardScale)):
        raise DatasetError(f"reward_scale {name!r} is unknown; choose one of {', '.join(known)}")
    if name == "none":
        return 1.0
    spread = float(returns.max() - returns.min())
    if spread == 0.0:
        raise DatasetError(
            f"dataset {id!r}: reward_scale 'return_range' needs episodes of different return; all are equal here. Use 'none'"
        )
    return 1000.0 / spread


def _statistics(observation: np.ndarray, standardize: bool) -> tuple[np.ndarray, np.ndarray]:
    if not standardize:
        return np.zeros(observation.shape[1], np.float32), np.ones(observation.shape[1], np.float32)
    # A column that never moves keeps its scale: dividing by a deviation of 0 would make it explode when it does.
    std = observation.std(axis=0, dtype=np.float64)
    return observation.mean(axis=0, dtype=np.float64).astype(np.float32), np.where(std < 1e-6, 1.0, std).astype(np.float32)
