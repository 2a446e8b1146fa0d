"""The nouns that every room shares."""

import dataclasses
from typing import Any

import flax.struct
from jax import Array
from jaxtyping import Bool, Float

from diffrl.records import Finite, Natural, Width

Params = Any  # a tree of arrays: one network's trainable parameters
# Fields of a State are typed loosely: trees of shapes, shardings and axes pass through the same classes.
Count = Any  # int32 scalar
State = Any  # a method's own flax.struct.dataclass; has `step` and `hparams`
Policy = Any  # a tree of arrays: what is needed to act
Carry = Any  # a tree of arrays: what a planner remembers between two actions
HParams = Any  # a dataclass of float scalars, registered as a tree
Metrics = dict[str, Array]  # scalars of one update, by name
Key = Array  # one typed random key (`jax.random.key`)


@flax.struct.dataclass
class Transition:
    """One step of experience, or a batch or dataset of them (any leading axes).

    `terminal` cuts the bootstrap, `timeout` never does. `extras` holds what a method asked for beyond the six
    fields: the columns of its Dataset and those computed by a stage's `prepare`, by name.
    """

    observation: Float[Array, "*batch observation"]
    action: Float[Array, "*batch action"]
    reward: Float[Array, "*batch"]
    next_observation: Float[Array, "*batch observation"]
    terminal: Bool[Array, "*batch"]
    timeout: Bool[Array, "*batch"]
    extras: dict[str, Array] = flax.struct.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Spec:
    """All that a method may know of a dataset before it sees a row: shapes, bounds and statistics. Written to `spec.json`.

    Attributes:
        observation_dim: length of the flattened observation.
        action_dim: length of the action.
        observation_mean, observation_std: `[observation_dim]`; algorithms see (observation - mean) / std. Zeros and ones
            where the dataset is not standardised.
        action_low, action_high: `[action_dim]`, the environment's bounds; algorithms see actions scaled to [-1, 1].
        observation_min, observation_max: `[observation_dim]`, the range of the data, in what algorithms see; empty in a Spec
            saved before there was such a statistic.
        observation_parts: names and widths of what the observation is put together from, in order, such as ("observation", 27)
            and ("desired_goal", 2): where a goal stands. Empty for one part without a name.
        num_actions: 0 for actions in a box. n for n discrete ones: `action_dim` is n, algorithms see one-hot rows, and the
            environment gets the index of the largest entry.
        has_rewards: False where the data have none: every reward that algorithms see is then a filler.
    """

    observation_dim: Width
    action_dim: Width
    observation_mean: tuple[Finite, ...]
    observation_std: tuple[Finite, ...]
    action_low: tuple[Finite, ...]
    action_high: tuple[Finite, ...]
    observation_min: tuple[Finite, ...] = ()
    observation_max: tuple[Finite, ...] = ()
    observation_parts: tuple[tuple[str, Width], ...] = ()
    num_actions: Natural = 0
    has_rewards: bool = True

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            of, _, statistic = name.rpartition("_")
            if statistic in ("mean", "std", "low", "high") or (statistic in ("min", "max") and values):
                width = self.action_dim if of == "action" else self.observation_dim
                if len(values) != width:
                    raise ValueError(f"{name} has {len(values)} numbers, where {of}_dim is {width}")
        if min(self.observation_std) <= 0:
            raise ValueError("observation_std must be above 0")

    @classmethod
    def plain(cls, observation_dim: int, action_dim: int) -> "Spec":
        """A Spec that changes nothing: mean 0, deviation 1, observations and actions in [-1, 1]."""
        return cls(
            observation_dim=observation_dim,
            action_dim=action_dim,
            observation_mean=(0.0,) * observation_dim,
            observation_std=(1.0,) * observation_dim,
            action_low=(-1.0,) * action_dim,
            action_high=(1.0,) * action_dim,
            observation_min=(-1.0,) * observation_dim,
            observation_max=(1.0,) * observation_dim,
        )

    def part(self, name: str) -> slice:
        """Where a part of the observation stands, such as `observation[..., spec.part("desired_goal")]`.

        Raises:
            ValueError: there is no part of this name.
        """
        begin = 0
        for part, width in self.observation_parts:
            if part == name:
                return slice(begin, begin + width)
            begin += width
        known = ", ".join(part for part, _ in self.observation_parts) or "none with a name"
        raise ValueError(f"the observation has no part {name!r}; it has {known}")
