"""`sweep.json`: what a sweep is, and how its groups were split.

By it the same command goes on where it stopped, and another one is refused in the same directory.
"""

import json
from pathlib import Path
from typing import Any

from diffrl.config import RESUMABLE, ConfigError, flatten, to_json
from diffrl.sweeps.parts import Part, split_group
from diffrl.sweeps.plan import Group, Plan
from diffrl.training.workdir import write_json

NAME = "sweep.json"
SHOWN = 10  # differences


def save(out: Path, plan: Plan, parts: dict[str, list[Part]]) -> None:
    """Write what identifies the sweep; `parts` says by label how each group is split.

    Raises:
        ConfigError: the directory cannot be written to.
    """
    groups = [
        {
            "label": group.label,
            "settings": group.settings,
            "runs": group.num_runs,
            "parts": [part._asdict() for part in parts[group.label]],
            "trainings": [one.label for one in split_group(group, parts[group.label])],
            "config": to_json(group.config),
        }
        for group in plan.groups
    ]
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / NAME, {"axes": plan.axes, "act": list(plan.act), "groups": groups})
    except OSError as error:
        raise ConfigError(f"cannot write to {out}: {error.strerror}") from error


def resume(out: Path, plan: Plan) -> dict[str, list[Part]] | None:
    """How the sweep in this directory was split, by label of the group; None where there is none yet.

    Raises:
        ConfigError: the directory holds another sweep (the message lists the differences), or no file that can be read.
    """
    if not (out / NAME).exists():
        return None
    saved = load(out)
    now = {"axes": plan.axes, "act": list(plan.act), "groups": [_identity(g.label, to_json(g.config)) for g in plan.groups]}
    then = saved | {"groups": [_identity(group["label"], group["config"]) for group in saved["groups"]]}
    before, after = _flat(then), _flat(now)
    different = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if different:
        lines = "".join(f"\n  {name}: {before.get(name)!r} there, {after.get(name)!r} now" for name in different[:SHOWN])
        more = f"\n  and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
        raise ConfigError(f"{out} holds another sweep:{lines}{more}\nUse another --out, or the command it was started with")
    return {group["label"]: [Part(**part) for part in group["parts"]] for group in saved["groups"]}


def load(out: Path) -> dict[str, Any]:
    """The file's content.

    Raises:
        ConfigError: it is not there or damaged.
    """
    path = out / NAME
    if not path.exists():
        raise ConfigError(f"{out} holds no sweep: it has no {NAME}; launch/sweep.py writes it")
    try:
        values = json.loads(path.read_text())
        for group in values["groups"]:
            if not (group["label"] and group["trainings"] and group["config"] and [Part(**part) for part in group["parts"]]):
                raise KeyError("groups")
        return values
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read: {error!r}") from error


def trainings(groups: list[Group], parts: dict[str, list[Part]]) -> list[Group]:
    """All groups, those that were split as their parts."""
    return [one for group in groups for one in split_group(group, parts[group.label])]


def _identity(label: str, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return label, {name: value for name, value in flatten(config).items() if name not in RESUMABLE}


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Axes first: where they differ they say it best."""
    flat = {f"axis {name}": ",".join(listed) for name, listed in values["axes"].items()} | {"act": values["act"]}
    for label, config in values["groups"]:
        flat |= {f"{label}: {name}": value for name, value in config.items()}
    return flat
