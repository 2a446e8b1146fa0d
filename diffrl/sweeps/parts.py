"""Shares of a group's runs that are trained one after another, where all together do not fit into memory."""

import dataclasses
from collections.abc import Callable

from diffrl.config import ConfigError
from diffrl.records import Natural, Width
from diffrl.sweeps.plan import Group
from diffrl.training.runs import Axis, Point


@dataclasses.dataclass(frozen=True)
class Part:
    """A share of a group's runs: some of its seeds with some of its points."""

    first_seed: Natural
    num_seeds: Width
    points: list[Point]

    def __post_init__(self) -> None:
        if not self.points or any(point.keys() != self.points[0].keys() for point in self.points):
            raise ValueError("points are none, or not of the same hyper-parameters")


def whole(group: Group) -> Part:
    """All runs of a group."""
    return Part(group.config.first_seed, group.config.num_seeds, group.points)


def split_group(group: Group, parts: list[Part]) -> list[Group]:
    """The group as parts that are trained one after another, each in a directory of its own; itself where there is one part."""
    if len(parts) == 1:
        return [group]
    groups = []
    for number, part in enumerate(parts):
        sweep = group.config.sweep if part.points == group.points else sweep_of(part.points)
        values = {"first_seed": part.first_seed, "num_seeds": part.num_seeds, "sweep": sweep}
        config = dataclasses.replace(group.config, **values)
        workdir = group.workdir / f"part{number}"
        changed = tuple(f"--config.{name}={value}" for name, value in values.items())
        kept = tuple(
            text for text in group.arguments if not text.startswith(("--workdir=", *(c.split("=")[0] + "=" for c in changed)))
        )
        arguments = (*kept, *changed, f"--workdir={workdir}")
        groups.append(Group(f"{group.label}/{workdir.name}", workdir, arguments, config, part.points, group.settings))
    return groups


def sweep_of(points: list[Point]) -> str:
    """`Config.sweep` of some points that all have the same names."""
    if not points[0]:
        return ""
    return str(Axis(tuple(points[0]), tuple(tuple(point.values()) for point in points)))


def share_out(group: Group, needed: Callable[[int, int], int], limit: int) -> list[Part]:
    """Parts whose (number of seeds, number of points) need no more than `limit`.

    Raises:
        ConfigError: (1, 1) needs more.
    """
    seeds, first, points = group.config.num_seeds, group.config.first_seed, group.points
    if needed(seeds, len(points)) <= limit:
        return [whole(group)]
    if needed(1, len(points)) <= limit:
        sizes = _even(seeds, largest(lambda count: needed(count, len(points)), seeds, limit))
        return [Part(first + sum(sizes[:i]), size, points) for i, size in enumerate(sizes)]
    if needed(1, 1) > limit:
        raise ConfigError(f"a single run needs {needed(1, 1) / 1e9:.3g} GB, which does not fit into {limit / 1e9:.3g} GB")
    sizes = _even(len(points), largest(lambda count: needed(1, count), len(points), limit))
    shares = [points[sum(sizes[:i]) : sum(sizes[: i + 1])] for i in range(len(sizes))]
    return [Part(seed, 1, share) for seed in range(first, first + seeds) for share in shares]


def largest(needed: Callable[[int], int], too_many: int, limit: int) -> int:
    """The largest count that needs no more than `limit`, of which 1 is known to and `too_many` not; needs grow about linearly."""
    one, many = needed(1), needed(too_many)
    count = min(too_many - 1, 1 + int((limit - one) / (many - one) * (too_many - 1)))
    while count > 1 and needed(count) > limit:
        count -= 1
    return count


def _even(total: int, most: int) -> list[int]:
    """The fewest sizes, none above `most`, that add up to `total` and differ by at most one."""
    count = -(-total // most)
    return [total // count + (i < total % count) for i in range(count)]
