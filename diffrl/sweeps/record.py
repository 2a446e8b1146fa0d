"""`sweep.json`: what a sweep is, and how its groups were split.

By it the same command goes on where it stopped, and another one is refused in the same directory.
"""

import dataclasses
from pathlib import Path
from typing import Any

from diffrl import files, records
from diffrl.config import RESUMABLE, ConfigError, flatten, to_json
from diffrl.records import Natural
from diffrl.sweeps.parts import Part, split_group, whole
from diffrl.sweeps.plan import Group, Plan

NAME = "sweep.json"
SHOWN = 10  # differences


@dataclasses.dataclass(frozen=True)
class SavedGroup:
    """A group as it was planned (`plan.Group`), with how it was split and the directories of its trainings below the sweep's."""

    label: str
    settings: dict[str, str]
    runs: Natural
    parts: list[Part]
    trainings: list[str]
    config: dict[str, Any]

    def __post_init__(self) -> None:
        if not self.parts or not self.trainings:
            raise ValueError(f"group {self.label!r} has no parts or no trainings")
        for name in (self.label, *self.trainings):
            if not files.below(name):
                raise ValueError(f"{name!r} is no directory below the sweep's")


@dataclasses.dataclass(frozen=True)
class Saved:
    """The content of `sweep.json`; the attributes are those of `plan.Plan`."""

    axes: dict[str, list[str]]
    act: list[str]
    groups: list[SavedGroup]


def save(out: Path, plan: Plan, parts: dict[str, list[Part]]) -> None:
    """Write what identifies the sweep; `parts` says by label how each group is split.

    Raises:
        ConfigError: the directory cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        records.write(out / NAME, _saved(plan, parts))
    except OSError as error:
        raise ConfigError(f"cannot write to {out}: {error.strerror}") from error


def _saved(plan: Plan, parts: dict[str, list[Part]]) -> Saved:
    groups = [
        SavedGroup(
            group.label,
            group.settings,
            group.num_runs,
            parts[group.label],
            [one.label for one in split_group(group, parts[group.label])],
            to_json(group.config),
        )
        for group in plan.groups
    ]
    return Saved(plan.axes, list(plan.act), groups)


def resume(out: Path, plan: Plan) -> dict[str, list[Part]] | None:
    """How the sweep in this directory was split, by label of the group; None where there is none yet.

    Raises:
        ConfigError: the directory holds another sweep (the message lists the differences), or no file that can be read.
    """
    if not (out / NAME).exists():
        return None
    saved = load(out)
    whole_groups = {group.label: [whole(group)] for group in plan.groups}
    before, after = _flat(saved), _flat(_saved(plan, whole_groups))
    different = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if different:
        lines = "".join(f"\n  {name}: {before.get(name)!r} there, {after.get(name)!r} now" for name in different[:SHOWN])
        more = f"\n  and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
        raise ConfigError(f"{out} holds another sweep:{lines}{more}\nUse another --out, or the command it was started with")
    return {group.label: group.parts for group in saved.groups}


def load(out: Path) -> Saved:
    """The file's content.

    Raises:
        ConfigError: it is not there.
        RecordError: it is damaged.
    """
    if not (out / NAME).exists():
        raise ConfigError(f"{out} holds no sweep: it has no {NAME}; launch/sweep.py writes it")
    return records.read(out / NAME, Saved, "delete it, and the command that made it writes it again")


def trainings(groups: list[Group], parts: dict[str, list[Part]]) -> list[Group]:
    """All groups, those that were split as their parts."""
    return [one for group in groups for one in split_group(group, parts[group.label])]


def _flat(saved: Saved) -> dict[str, Any]:
    """What makes the sweep, by name. Axes first: where they differ they say it best."""
    flat: dict[str, Any] = {f"axis {name}": ",".join(listed) for name, listed in saved.axes.items()} | {"act": saved.act}
    for group in saved.groups:
        values = flatten(group.config).items()
        flat |= {f"{group.label}: {name}": value for name, value in values if name not in RESUMABLE}
    return flat
