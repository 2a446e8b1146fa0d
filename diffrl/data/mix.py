"""Several datasets as one: the rows of all, one after another, and how often each is drawn from."""

import numpy as np

from diffrl.data import episodes
from diffrl.data.dataset import DatasetError, Source


def shares(mix: tuple[str, ...]) -> dict[str, float]:
    """Shares of the draws by dataset, of the setting `dataset.mix`, whose entries are "ID=SHARE".

    Raises:
        DatasetError: an entry is not of this form, is there twice, or nothing is left for `dataset.id`.
    """
    found: dict[str, float] = {}
    for entry in mix:
        id, _, text = entry.rpartition("=")
        try:
            share = float(text)
        except ValueError:
            share = 0.0
        if not id or id in found or not 0.0 < share < 1.0:
            raise DatasetError(
                f"dataset.mix: {entry!r} is not ID=SHARE, a dataset and the share of draws from it between 0 and 1, each once"
            )
        found[id] = share
    if sum(found.values()) >= 1.0:
        raise DatasetError(f"dataset.mix: shares sum to {sum(found.values()):g}; they must leave something for dataset.id")
    return found


def mixed(sources: list[Source], others: dict[str, float]) -> Source:
    """The first and the others, each drawn from with its share; the first has what they leave.

    Environment and reference scores are the first's.

    Raises:
        DatasetError: two do not fit together.
    """
    every = [1.0 - sum(others.values()), *others.values()]
    name = " + ".join([sources[0].id, *(f"{share:g} {id}" for id, share in others.items())])
    drawn = [f"{share:.3g} of the draws from {one.id}: {one.description}" for one, share in zip(sources, every, strict=True)]
    counts = tuple((len(one.transitions.reward), share) for one, share in zip(sources, every, strict=True))
    return joined(name, sources)._replace(shares=counts, description="; ".join(drawn))


def joined(id: str, parts: list[Source]) -> Source:
    """The rows of all parts, one after another; what else is known is the first's, and its action bounds any part's.

    Raises:
        DatasetError: two have different sizes, kinds or bounds of actions, parts of observations, or only one has rewards.
    """
    first = parts[0]
    bounds = next((part for part in parts if part.action_low is not None), first)
    count = next((part for part in parts if part.num_actions), first)
    for part in parts[1:]:
        for name in ("observation", "action"):
            here, there = (getattr(one.transitions, name).shape[1] for one in (part, first))
            if here != there:
                raise DatasetError(f"dataset {part.id!r}: {name} has {here} numbers a row, that of {first.id!r} has {there}")
    for part in parts:
        if part.discrete != first.discrete:
            raise DatasetError(f"dataset {part.id!r} has {_kind(part)} actions, {first.id!r} has {_kind(first)} ones")
        if part.num_actions and (part.num_actions, part.first_action or 0) != (count.num_actions, count.first_action or 0):
            raise DatasetError(f"dataset {part.id!r} has {part.num_actions} discrete actions, {count.id!r} {count.num_actions}")
        for name in ("action_low", "action_high"):
            here, there = getattr(part, name), getattr(bounds, name)
            if here is not None and not np.array_equal(here, there):
                raise DatasetError(f"dataset {part.id!r} has other action bounds than {bounds.id!r}")
        if part.has_rewards != first.has_rewards:
            without, of = (part, first) if first.has_rewards else (first, part)
            raise DatasetError(f"dataset {without.id!r} has no rewards and {of.id!r} has: they cannot be learnt from together")
        if part.observation_parts and first.observation_parts and part.observation_parts != first.observation_parts:
            raise DatasetError(f"dataset {part.id!r} has other parts of observations than {first.id!r}: choose observation_keys")
    return first._replace(
        id=id,
        recorded=episodes.joined([part.recorded for part in parts]),
        action_low=bounds.action_low,
        action_high=bounds.action_high,
        num_actions=count.num_actions,
        first_action=count.first_action,
    )


def _kind(source: Source) -> str:
    return "discrete" if source.discrete else "real"
