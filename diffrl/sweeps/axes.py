"""What a sweep varies: the grammar of `--sweep name=values`, where each name leads, and points drawn at random."""

import dataclasses
import difflib
import re
import zlib
from typing import Any, NamedTuple

import numpy as np

from diffrl.config import Config, ConfigError, flatten
from diffrl.training import runs
from diffrl.training.runs import read_axis, sweepable

SEEDS, ARGUMENT = "seeds", "argument"
# Where an axis leads: the run axis of one program, a training of its own for each value, or evaluations of the same policies.
RUN, GROUP, ACT = "run", "group", "act"

_DISTRIBUTION = re.compile(r"(loguniform|uniform)\(([^,()]+),([^,()]+)\)")
_ACT = "algorithm.act."
_WITHOUT_EFFECT = ("max_to_keep", "log_norms", "tensorboard", "wandb_project", "dataset.download")


class Axis(NamedTuple):
    """Values of a setting that are tried, or of several that change together.

    Attributes:
        names: full names of the settings, or "argument".
        values: each holds the text of one value per name, as a command line has it.
    """

    names: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]


class Axes(NamedTuple):
    """What a sweep varies, by where it leads. All are crossed.

    Attributes:
        points: float hyper-parameters along the run axis of one program.
        groups: settings that need a training of their own for each value.
        act: choices made when acting, which are evaluated on the same policies.
        seeds: first seed and number of seeds; None for those of the experiment.
    """

    points: list[runs.Axis]
    groups: list[Axis]
    act: list[Axis]
    seeds: tuple[int, int] | None

    @property
    def words(self) -> dict[str, list[str]]:
        """Name to values, for people."""
        found = {":".join(axis.names): [":".join(values) for values in axis.values] for axis in [*self.groups, *self.act]}
        found |= {":".join(f"algorithm.{name}" for name in axis.names): axis.texts for axis in self.points}
        return found | ({SEEDS: [f"{self.seeds[0]}:{sum(self.seeds)}"]} if self.seeds else {})


def parse(texts: list[str], config: Config, num_points: int, search_seed: int) -> Axes:
    """Axes in the order given; those drawn at random become one axis of `num_points` joint points, which comes last.

    Args:
        texts: each "name=v1,v2", "name:other=v1:w1,v2:w2", "name=uniform(low,high)" or "name=loguniform(low,high)". Commas
            inside brackets do not separate.
        config: what names are looked up in.
        num_points: how many points are drawn.
        search_seed: draws of a name depend on it and the name alone, and more points extend fewer.

    Raises:
        ConfigError: not of that form, an unknown name (with the nearest), or values that cannot be swept so.
    """
    axes = Axes([], [], [], None)
    named: list[str] = []
    drawn: dict[str, list[float]] = {}
    for text in texts:
        joined, equals, listed = text.partition("=")
        if not (joined.strip() and equals and listed.strip()):
            raise ConfigError(f"--sweep {text!r} is not of the form name=v1,v2")
        names = tuple(full_name(name.strip(), config) for name in joined.split(":"))
        short = tuple(name.removeprefix("algorithm.") for name in names)
        kind, values = _kind(names, config), split(listed)
        named += names
        if re.search(r"\b(log)?uniform\(", listed):
            first, *others = short
            if kind != RUN or others or len(values) > 1:
                raise ConfigError(
                    f"--sweep {text!r}: drawing is for one float hyper-parameter of the method, in one range, e.g. "
                    f"{sweepable(config)[0]}=loguniform(0.01,1)"
                )
            drawn[first] = _draw(names[0], listed, num_points, search_seed)
        elif len(set(values)) < len(values):
            raise ConfigError(f"--sweep {text!r} has a value twice")
        elif kind == SEEDS:
            axes = axes._replace(seeds=_seeds(listed.strip()))
        elif kind == RUN:
            axes.points.append(read_axis(config, short, values))
        else:
            found = Axis(names, tuple(_values(names, value, text) for value in values))
            (axes.groups if kind == GROUP else axes.act).append(found)
    if drawn:
        axes.points.append(runs.Axis(tuple(drawn), tuple(zip(*drawn.values(), strict=True))))
    for name in named:
        if named.count(name) > 1:
            raise ConfigError(f"--sweep names {name} twice: put all its values into one axis")
    return axes


def _seeds(text: str) -> tuple[int, int]:
    """First seed and number of seeds of "first:end"."""
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise ConfigError(f"--sweep seeds={text} is not of the form seeds=first:end, as in seeds=0:8 for the eight seeds 0 to 7")
    return int(found[1]), int(found[2]) - int(found[1])


def full_name(name: str, config: Config) -> str:
    """The setting that a name means: `dataset` is short for dataset.id, and `algorithm.` may be left out.

    Raises:
        ConfigError: there is none (with the nearest), or it is no matter of a sweep.
    """
    if name in (SEEDS, ARGUMENT):
        return name
    settings = flatten(dataclasses.asdict(config))
    for candidate in ("dataset.id" if name == "dataset" else name, f"algorithm.{name}"):
        if candidate in ("num_seeds", "first_seed"):
            raise ConfigError(f"--sweep {name}: say seeds=first:end, as in seeds=0:8")
        if candidate == "sweep":
            raise ConfigError("--sweep sweep: name the hyper-parameters themselves, each with a --sweep of its own")
        if candidate in _WITHOUT_EFFECT:
            raise ConfigError(f"--sweep {name}: this setting changes no result, so there is nothing to sweep")
        if candidate in settings:
            return candidate
    known = [SEEDS, ARGUMENT, "dataset", *settings, *(setting.removeprefix("algorithm.") for setting in settings)]
    near = difflib.get_close_matches(name, known, n=1)
    raise ConfigError(f"--sweep: unknown setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def split(text: str) -> list[str]:
    """Parts between the commas that stand outside of brackets, without blanks around them."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _kind(names: tuple[str, ...], config: Config) -> str:
    kinds = {_kind_of_one(name, config) for name in names}
    if len(names) > 1 and kinds & {SEEDS, ACT}:
        raise ConfigError(
            f"--sweep {':'.join(names)}: seeds and choices made when acting are not tied to others; give each an axis"
        )
    # A float tied to something that needs another program is a setting of that program.
    return kinds.pop() if len(kinds) == 1 else GROUP


def _kind_of_one(name: str, config: Config) -> str:
    if name == SEEDS:
        return SEEDS
    # A training by interaction collects its data by acting, so that there these choices are no matter of evaluation alone.
    if name.startswith(_ACT) and not config.online.env_id:
        return ACT
    return RUN if name.removeprefix("algorithm.") in sweepable(config) else GROUP


def _values(names: tuple[str, ...], value: str, text: str) -> tuple[str, ...]:
    values = tuple(value.split(":")) if len(names) > 1 else (value,)
    if len(values) != len(names) or not all(values):
        many = f" takes {len(names)} values separated by colons" if len(names) > 1 else ""
        raise ConfigError(f"--sweep {text!r}: {':'.join(names)}{many or ' takes a value'}, got {value!r}")
    return values


def _draw(name: str, text: str, count: int, seed: int) -> list[float]:
    """Rounded to six digits, which a command line has room for."""
    found = _DISTRIBUTION.fullmatch(text.replace(" ", ""))
    try:
        low, high = (float(bound) for bound in found.groups()[1:]) if found else (np.nan, np.nan)
    except ValueError:
        low = high = np.nan
    if not low < high < np.inf or (text.startswith("log") and low <= 0):
        raise ConfigError(
            f"--sweep {name}={text}: give uniform(low,high) or loguniform(low,high) with low < high; loguniform needs low > 0"
        )
    if count < 1:
        raise ConfigError("--num_points must be at least 1")
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    log = text.startswith("log")
    values: Any = generator.uniform(np.log(low) if log else low, np.log(high) if log else high, count)
    return [float(f"{value:.6g}") for value in (np.exp(values) if log else values)]
