"""From raw rows to the Dataset that is trained on: checked, changed as the settings say, packed."""

import dataclasses
import math
import typing
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from diffrl.data import episodes
from diffrl.data.dataset import FIELDS, Card, Dataset, DatasetError, Source, fingerprint
from diffrl.envs import env_spec
from diffrl.settings import setting
from diffrl.types import Spec

RewardScale = Literal["none", "return_range"]
ActionBounds = Literal["known", "data"]
# Losses square errors and Adam squares gradients: beyond its fourth root float32 overflows, and with some margin beyond this.
LARGEST = 1e8
TOLERANCE = 1e-5  # of actions beyond their bounds, as a share of the bounds' distance
MOST_ACTIONS = 10_000  # discrete ones: a row holds a number for each


@dataclasses.dataclass
class Transforms:
    """Changes made to the rows before training.

    Attributes:
        standardize_observations: subtract the mean, divide by the standard deviation of the data's observations.
        reward_scale: "none", or "return_range": multiply by 1000 / (largest - smallest episode return), as IQL and
            SRPO do for locomotion (Kostrikov et al. 2021, appendix B).
        reward_factor: multiplies after that; 4 with a shift of -2 for AntMaze in Diffusion-QL.
        reward_shift: added after scaling; -1 for AntMaze in IQL and SRPO.
        clip_actions: move actions beyond the bounds onto them, as the environment did when it was given them. Otherwise
            such data are refused.
        first_episode, num_episodes: use so many episodes from this one on, counted from 0 in order of time; 0 of them for all.
        keep_every: of each of them the first row, and each so many rows on.
        action_bounds: "known" are those of the data's space or of the environment; "data" are the least and the largest action
            that occurs, for actions in units of their own, such as a robot's joint angles.
    """

    standardize_observations: bool = False
    reward_scale: RewardScale = "none"
    reward_factor: float = setting(1.0, low=1e-6, high=1e6)
    reward_shift: float = setting(0.0, low=-math.inf)
    clip_actions: bool = False
    first_episode: int = setting(0, low=0)
    num_episodes: int = setting(0, low=0)
    keep_every: int = 1
    action_bounds: ActionBounds = "known"


def build(source: Source, transforms: Transforms) -> tuple[Dataset, Spec, Card]:
    """Check raw rows and apply the transforms. The result lies in the host's memory, as a numpy array.

    Observations are standardised in float64 and rounded to float32 afterwards. Discrete actions become one-hot rows of 0 and 1.
    Where neither the data nor `environment.matched` gave bounds of actions, they are -1 and 1. Mean, deviation and range are of
    all rows, each counted once, whatever the shares of a mix.

    Raises:
        DatasetError: a shape does not fit, a value is not finite or beyond ±10^8 after the transforms, an action is out of
            bounds, there are no rows, the returns of all episodes are equal where their range is the scale, or the
            transform is unknown.
    """
    _check(source)
    source = _selected(source, transforms)
    t, returns, stretches = source.recorded.rows, source.recorded.returns, source.recorded.stretches
    actions = _one_hot(source) if source.discrete else _in_bounds(source, transforms)
    scale = _reward_scale(source, transforms.reward_scale) * transforms.reward_factor
    mean, std = _statistics(t.observation, transforms.standardize_observations)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused by name
        trained = {
            "observation": _standardized(t.observation, mean, std),
            "action": actions.trained,
            "next_observation": _standardized(t.next_observation, mean, std),
            "reward": (t.reward * scale + transforms.reward_shift)[:, None],
        }
    _check_magnitude(source.id, trained)
    observation = trained["observation"]
    steps = env_spec.read(source.env_spec or "").get("max_episode_steps")
    comparable = None if stretches is None or not steps or not source.has_rewards else episodes.as_evaluated(stretches, steps)
    card = Card(
        id=source.id,
        rows=len(t.reward),
        episodes=len(returns),
        return_min=float(returns.min()),
        return_mean=float(returns.mean()),
        return_max=float(returns.max()),
        sha256=fingerprint(t),
        action_low=tuple(actions.low.tolist()),
        action_high=tuple(actions.high.tolist()),
        env_spec=source.env_spec,
        observation_keys=source.observation_keys,
        ref_min_score=source.ref_min_score,
        ref_max_score=source.ref_max_score,
        ref_provenance=source.ref_provenance,
        description="; ".join(filter(None, (source.description, actions.note))),
        reward_scale=scale,
        reward_shift=transforms.reward_shift,
        comparable_return=float(comparable.mean()) if comparable is not None and len(comparable) else None,
        comparable_episodes=None if comparable is None else len(comparable),
        clipped_actions=actions.clipped,
        has_rewards=source.has_rewards,
    )
    spec = Spec(
        observation_dim=t.observation.shape[1],
        action_dim=actions.trained.shape[1],
        observation_mean=tuple(mean.tolist()),
        observation_std=tuple(std.tolist()),
        action_low=card.action_low,
        action_high=card.action_high,
        observation_min=tuple(observation.min(axis=0).tolist()),
        observation_max=tuple(observation.max(axis=0).tolist()),
        observation_parts=source.observation_parts,
        num_actions=actions.trained.shape[1] if source.discrete else 0,
        has_rewards=source.has_rewards,
    )
    columns = [*trained.values(), np.asarray(t.terminal)[:, None], np.asarray(t.timeout)[:, None]]
    packed = np.concatenate(columns, axis=1, dtype=np.float32)
    start, end = episodes.bounds(t)
    dataset = Dataset(
        packed,
        observation_dim=spec.observation_dim,
        action_dim=spec.action_dim,
        episode_start=start,
        episode_end=end,
        shares=source.shares,
    )
    return dataset, spec, card


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
                f"dataset {source.id!r}: {name} has {int(bad.sum())} values that are not finite, first in row {row}: mend them, "
                "or leave their episodes out"
            )
    if t.observation.shape != t.next_observation.shape:
        raise DatasetError(
            f"dataset {source.id!r}: observation {t.observation.shape} and next_observation {t.next_observation.shape} differ"
        )


def _selected(source: Source, transforms: Transforms) -> Source:
    first, count, every = transforms.first_episode, transforms.num_episodes, transforms.keep_every
    if (first, count, every) == (0, 0, 1):
        return source
    if source.shares:  # which count the rows of its parts
        raise DatasetError(
            f"dataset {source.id!r}: episodes or rows of a mix cannot be chosen: leave out dataset.mix, or "
            "dataset.first_episode, num_episodes and keep_every"
        )
    try:
        found = episodes.selected(source.recorded, first, count, every)
    except ValueError as error:
        raise DatasetError(
            f"dataset {source.id!r}: {error} (dataset.first_episode={first}, dataset.num_episodes={count})"
        ) from None
    note = f"of these episodes {first} … {first + len(found.returns) - 1}" + (f", every {every}th row" if every > 1 else "")
    if source.discrete and not source.num_actions:  # as many as occur anywhere in the data
        source = source._replace(num_actions=int(source.transitions.action.max()) + 1 - (source.first_action or 0))
    return source._replace(recorded=found, description="; ".join(filter(None, (source.description, note))))


class _Actions(NamedTuple):
    """Actions as training sees them `[N, A]`, the bounds they had, what is to be said of them, and how many rows were clipped."""

    trained: np.ndarray
    low: np.ndarray
    high: np.ndarray
    note: str = ""
    clipped: int = 0


def _one_hot(source: Source) -> _Actions:
    first = source.first_action or 0
    action = source.transitions.action[:, 0].astype(np.int64) - first
    count = source.num_actions or int(action.max()) + 1
    if count > MOST_ACTIONS:
        raise DatasetError(
            f"dataset {source.id!r}: actions are integers, that is discrete, and {count:,} of them are more than the "
            f"{MOST_ACTIONS:,} that rows can hold: give real numbers where they are numbers"
        )
    outside = (action < 0) | (action >= count)
    if outside.any():
        row = int(np.argmax(outside))
        raise DatasetError(
            f"dataset {source.id!r}: {int(outside.sum())} discrete actions are none of {first} … {first + count - 1}, first in "
            f"row {row}: {action[row] + first}"
        )
    trained = np.zeros((len(action), count), np.float32)
    trained[np.arange(len(action)), action] = 1.0
    return _Actions(trained, np.zeros(count, np.float32), np.ones(count, np.float32))


def action_bounds(
    source: Source, kind: ActionBounds = "known"
) -> tuple[Float[np.ndarray, " action"], Float[np.ndarray, " action"], str]:
    """Bounds of actions in a box, and what is to be said of them.

    Raises:
        DatasetError: there are more or fewer than an action has numbers, or they are no bounds.
    """
    action, width, note = source.transitions.action, source.transitions.action.shape[1], ""
    if kind == "data":
        low, high = action.min(axis=0), action.max(axis=0)
        still = low == high  # what never moves lies in the middle
        low, high, note = low - still, high + still, "bounds of actions are the data's own"
    elif source.action_low is None or source.action_high is None:
        low, high = np.array([[-1.0], [1.0]], np.float32).repeat(width, axis=1)
        note = "bounds of actions unknown, taken to be -1 and 1"
    else:
        low, high = np.asarray(source.action_low, np.float32), np.asarray(source.action_high, np.float32)
    if low.shape != (width,) or high.shape != low.shape:
        raise DatasetError(f"dataset {source.id!r}: actions have {width} entries, their bounds {low.shape[0]}")
    if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        raise DatasetError(f"dataset {source.id!r}: action bounds must be finite with low < high, got {low} and {high}")
    return low, high, note


def _in_bounds(source: Source, transforms: Transforms) -> _Actions:
    action, (low, high, note) = source.transitions.action, action_bounds(source, transforms.action_bounds)
    tolerance = TOLERANCE * (high - low)
    outside = (action < low - tolerance) | (action > high + tolerance)
    clipped = int(outside.any(axis=1).sum())
    if clipped and not transforms.clip_actions:
        row = int(np.argwhere(outside)[0][0])
        raise DatasetError(
            f"dataset {source.id!r}: {clipped} actions lie outside [{brief(low)}, {brief(high)}], first in row {row}: "
            f"{brief(action[row])}. If they are in units of their own, take their range: --config.dataset.action_bounds=data. "
            "If they were recorded before the environment clipped them, clip them here: --config.dataset.clip_actions=true"
        )
    if clipped:
        action, note = np.clip(action, low, high), "; ".join(filter(None, (note, f"{clipped:,} actions clipped to the bounds")))
    return _Actions(2.0 * (action - low) / (high - low) - 1.0, low, high, note, clipped)


def brief(values: Float[np.ndarray, " values"]) -> str:
    """A vector on one line: one number where all are equal, the first few where they are many."""
    if (values == values[0]).all():
        return f"{values[0]:g}"
    return f"({', '.join(f'{value:.4g}' for value in values[:6])}{', …' if len(values) > 6 else ''})"


def _check_magnitude(id: str, trained: dict[str, np.ndarray]) -> None:
    for name, value in trained.items():
        bad = ~(np.abs(value) <= LARGEST)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise DatasetError(
                f"dataset {id!r}: {name} is {value[row, column]:.3g} in row {row} as training would see it, beyond what float32 "
                f"can be trained on (±{LARGEST:.0e}): rescale the data, or set standardize_observations or reward_scale"
            )


def _reward_scale(source: Source, name: str) -> float:
    id, returns = source.id, source.recorded.returns
    if name not in (known := typing.get_args(RewardScale)):
        raise DatasetError(f"reward_scale {name!r} is unknown; choose one of {', '.join(known)}")
    if name == "none":
        return 1.0
    if not source.has_rewards:
        raise DatasetError(f"dataset {id!r} has no rewards, so nothing can scale them: --config.dataset.reward_scale=none")
    spread = float(returns.max() - returns.min())
    if spread == 0.0:
        raise DatasetError(
            f"dataset {id!r}: reward_scale 'return_range' needs episodes of different return; all are equal here. Use 'none'"
        )
    return 1000.0 / spread


def _statistics(observation: np.ndarray, standardize: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation `[O]`, float64."""
    if not standardize:
        return np.zeros(observation.shape[1]), np.ones(observation.shape[1])
    # Counted from the first row, so that sums of numbers of one large offset keep their digits.
    origin, n = observation[0].astype(np.float64), len(observation)
    mean = origin + sum((observation[rows] - origin).sum(axis=0) for rows in episodes.blocks(n)) / n
    std = np.sqrt(sum(np.square(observation[rows] - mean).sum(axis=0) for rows in episodes.blocks(n)) / n)
    # A column that never moves, but for its last digits, keeps its scale: dividing by a deviation of 0 would make it explode
    # when it does.
    low, high = observation.min(axis=0).astype(np.float64), observation.max(axis=0).astype(np.float64)
    digits = 4 * np.finfo(observation.dtype).eps * np.maximum(np.abs(low), np.abs(high))
    still = (high - low <= digits) | (std < np.finfo(np.float32).tiny)
    return mean, np.where(still, 1.0, std)


def _standardized(observation: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """(observation - mean) / std in float64, as float32."""
    result = np.empty(observation.shape, np.float32)
    for rows in episodes.blocks(len(result)):
        result[rows] = (observation[rows] - mean) / std
    return result
