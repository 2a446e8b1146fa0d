"""The groups of a sweep: each is one training of many runs.

A group is nothing but a command of launch/train.py, so that it can be repeated, or run elsewhere, by itself.
"""

import copy
import hashlib
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from diffrl.config import Config, ConfigError, find, override, to_json, validate
from diffrl.sweeps.axes import ARGUMENT, Axes, Axis, parse, split
from diffrl.training.runs import Point, axes_of, cross

MAX_LABEL = 100  # characters of a directory's name


class Group(NamedTuple):
    """Seeds × hyper-parameter points with one setting of everything that shapes the program.

    Attributes:
        label: names the group; unique in its sweep, and its directory in the sweep's.
        workdir: where it is trained.
        arguments: what follows launch/train.py.
        config: the same as a value.
        points: its hyper-parameter points.
        settings: swept settings that are fixed in this group, as text.
    """

    label: str
    workdir: Path
    arguments: tuple[str, ...]
    config: Config
    points: list[Point]
    settings: dict[str, str] = {}  # noqa: RUF012

    @property
    def num_runs(self) -> int:
        return self.config.num_seeds * len(self.points)


class Plan(NamedTuple):
    """A sweep before anything is known of the machine.

    Attributes:
        groups: in the order in which they run.
        act: `--act` of launch/evaluate.py: choices made when acting, which need no training.
        axes: what is varied, name to values, for people.
    """

    groups: list[Group]
    act: tuple[str, ...]
    axes: dict[str, list[str]]


def plan(
    experiment: str,
    overrides: list[str],
    sweeps: list[str],
    out: Path,
    load: Callable[[str], Config],
    *,
    num_points: int = 16,
    search_seed: int = 0,
    extra: tuple[str, ...] = (),
) -> Plan:
    """The groups of a sweep, each checked: its settings are known, of the right type and possible.

    Args:
        experiment: `--config`, NAME or NAME:argument.
        overrides: "name=value" of every `--config.name=value`.
        sweeps: the texts of `--sweep`; see `axes.parse`.
        out: directory of the sweep.
        load: makes the config of NAME:argument.
        num_points, search_seed: of a random search.
        extra: arguments of launch/train.py that all groups get.

    Raises:
        ConfigError: what is wrong, and in which group.
    """
    name, _, argument = experiment.partition(":")
    arguments = [argument]
    for text in sweeps:
        if text.partition("=")[0].strip() == ARGUMENT:
            arguments = [_unbracketed(value) for value in split(text.partition("=")[2])]
    axes = parse(sweeps, _base(name, arguments[0], overrides, load), num_points, search_seed)
    groups: list[Group] = []
    for combination in itertools.product(*(axis.values for axis in axes.groups)):
        settings = {
            setting: value
            for axis, values in zip(axes.groups, combination, strict=True)
            for setting, value in zip(axis.names, values, strict=True)
        }
        label = _label(settings, [group.label for group in groups])
        try:
            groups.append(_group(name, argument, overrides, settings, axes, label, out / label, load, extra))
        except ConfigError as error:
            raise ConfigError(f"group {label}: {error}" if axes.groups else str(error)) from error
    _refuse_equal(groups)
    act = [f"{axis.names[0].removeprefix('algorithm.act.')}={_act_values(axis)}" for axis in axes.act]
    return Plan(groups, tuple(act), axes.words)


def _base(name: str, argument: str, overrides: list[str], load: Callable[[str], Config]) -> Config:
    config = copy.deepcopy(load(f"{name}:{argument}" if argument else name))
    for text in overrides:
        override(config, text)
    return config


def _group(
    name: str,
    argument: str,
    overrides: list[str],
    settings: dict[str, str],
    axes: Axes,
    label: str,
    workdir: Path,
    load: Callable[[str], Config],
    extra: tuple[str, ...],
) -> Group:
    argument = _unbracketed(settings.get(ARGUMENT, argument))
    config = _base(name, argument, overrides, load)
    changes = []
    for setting, value in settings.items():
        if setting != ARGUMENT:
            holder, field = find(config, setting)
            text = isinstance(getattr(holder, field), str)
            changes.append(f"{setting}={_unbracketed(value) if text else value}")
    if axes.seeds:
        changes += [f"first_seed={axes.seeds[0]}", f"num_seeds={axes.seeds[1]}"]
    varied = [*axes_of(config), *axes.points]
    if varied:
        changes.append(f"sweep={' '.join(map(str, varied))}")
    for text in changes:
        override(config, text)
    validate(config)
    points = cross(config, varied)
    changed = {text.partition("=")[0] for text in changes}
    settled = [text for text in overrides if text.partition("=")[0] not in changed] + changes
    given = f"--config={name}" + (f":{argument}" if argument else "")
    arguments = (given, *(f"--config.{text}" for text in settled), *extra, f"--workdir={workdir}")
    return Group(label, workdir, arguments, config, points, settings)


def _unbracketed(value: str) -> str:
    """A text that has commas of its own is written in brackets."""
    return value[1:-1] if value.startswith("(") and value.endswith(")") else value


def _label(settings: dict[str, str], taken: list[str]) -> str:
    def slug(text: str) -> str:
        return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")

    words = []
    for setting, value in settings.items():
        name = setting.removeprefix("algorithm.")
        words.append(slug(value) if name in (ARGUMENT, "dataset.id") else f"{name}-{slug(value)}")
    label = "_".join(words) or "all"
    if len(label) > MAX_LABEL or label in taken:
        label = f"{label[:MAX_LABEL]}-{hashlib.sha256(repr(settings).encode()).hexdigest()[:8]}"
    return label


def _refuse_equal(groups: list[Group]) -> None:
    seen: list[tuple[str, dict]] = []
    for group in groups:
        values = to_json(group.config)
        for label, other in seen:
            if values == other:
                raise ConfigError(f"groups {label} and {group.label} are the same training: drop one of their values")
        seen.append((group.label, values))


def _act_values(axis: Axis) -> str:
    values = [value for (value,) in axis.values]
    for value in values:
        if "," in value:
            raise ConfigError(f"--sweep {axis.names[0]}: {value!r} has a comma, which launch/evaluate.py --act cannot read")
    return ",".join(values)
