"""What a dataset is good for: its facts, what they mean for training, which methods can have it, and how to begin."""

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from diffrl.config import Config, DatasetConfig
from diffrl.data.build import build
from diffrl.data.contents import Array, contents
from diffrl.data.dataset import FIELDS, Card, Dataset, DatasetError, Source
from diffrl.data.environment import matched
from diffrl.data.inspection import Facts, inspect
from diffrl.registry import REGISTRY
from diffrl.reports.findings import Finding, of_facts, of_file, uneven
from diffrl.training.able import EXTRAS, Verdict, judge
from diffrl.types import Spec

T = TypeVar("T")
Tell = Callable[[str, float], None]
_STEP = {"observation", "action", "reward", "next_observation", "terminal"}
_ENDINGS = (".npz", ".hdf5", ".h5")


class Check(NamedTuple):
    """All that is said of a dataset.

    Attributes:
        asked: which, and with which settings.
        source: what was loaded; None where loading refused.
        arrays: what the file holds, where loading refused.
        facts: of its rows.
        card: of the data as they can be trained on; None where they cannot.
        findings: the weightiest first.
        verdicts: of all methods; those that can train on the data first, the least work first.
        commands: what to begin with; empty where nothing can be trained.
    """

    asked: DatasetConfig
    source: Source | None = None
    arrays: tuple[Array, ...] = ()
    facts: Facts | None = None
    card: Card | None = None
    findings: tuple[Finding, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    commands: tuple[str, ...] = ()


def check(asked: DatasetConfig, tell: Tell = lambda text, share: None) -> Check:
    """Load a dataset as the trainer does, and say what there is to say. What the trainer would refuse becomes a finding.

    Args:
        asked: the dataset's id, and the settings it is to be trained with.
        tell: is told what is done next, and which share of the whole is done.
    """
    found: list[Finding] = []

    def attempt(step: Callable[[], T]) -> T | None:
        try:
            return step()
        except DatasetError as error:
            found.append(Finding("stop", str(error)))
            return None

    tell("reading", 0.0)
    loaded = attempt(asked.source)
    if loaded is None:
        path = Path(asked.id).expanduser()
        arrays = contents(path)
        return Check(asked, arrays=tuple(arrays), findings=(*found, *of_file(path, arrays)))
    tell("comparing with the environment", 0.1)
    source, unmatched = attempt(lambda: matched(loaded)) or (loaded, "")
    if unmatched:
        found.append(Finding("note", unmatched))
    tell("counting", 0.15)
    facts = attempt(lambda: inspect(source, asked.action_bounds))
    if facts is None:
        return Check(asked, source, findings=_ordered(found))
    found += of_facts(facts, source)
    tell("preparing", 0.25)
    trained = None if any(one.level == "stop" for one in found) else attempt(lambda: _trained(source, asked, facts))
    if trained is None:
        return Check(asked, source, facts=facts, findings=_ordered(found))
    settings, dataset, spec, card = trained
    verdicts = []
    for i, (name, method) in enumerate(REGISTRY.items()):
        tell(f"asking {name}", 0.3 + 0.7 * i / len(REGISTRY))
        verdicts.append(judge(Config(algorithm=method.config(), dataset=settings), spec, dataset))
    verdicts.sort(key=lambda one: (bool(one.why_not), one.work))
    if all(one.why_not for one in verdicts):
        found.append(Finding("stop", f"no method can train on these data: {verdicts[0].why_not}"))
    commands = tuple(command(one) for one in first_choices(verdicts, facts))
    return Check(asked, source, facts=facts, card=card, findings=_ordered(found), verdicts=tuple(verdicts), commands=commands)


def _trained(source: Source, asked: DatasetConfig, facts: Facts) -> tuple[DatasetConfig, Dataset, Spec, Card]:
    """The data as training sees them, with the settings asked for and those that the data need besides."""
    settings = dataclasses.replace(
        asked, standardize_observations=asked.standardize_observations or uneven(facts.fields["observation"])
    )
    if facts.actions.beyond and not asked.clip_actions:
        # Where nobody knows the bounds, to clip would make numbers in other units all alike.
        settings = dataclasses.replace(settings, **({"clip_actions": True} if facts.actions.known else {"action_bounds": "data"}))
    return settings, *build(source, settings)


def _ordered(found: list[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(found, key=lambda one: ("stop", "look", "note").index(one.level)))


def first_choices(verdicts: list[Verdict], facts: Facts) -> list[Verdict]:
    """What to begin with: of the methods that can train, the least work that imitates and the least that learns from rewards.

    Passed over are those with a remark: nothing need keep them near the data, or they are for other problems.
    """
    able = [one for one in verdicts if not one.why_not]
    plain = [one for one in able if not remark(one, facts)]
    imitate = [one for one in plain if not one.reads & {"reward", EXTRAS}]
    learn = [one for one in plain if "reward" in one.reads]
    return imitate[:1] + learn[:1] or able[:1]


def remark(verdict: Verdict, facts: Facts) -> str:
    """Why a method cannot train on these data, or why it should not be the first; "" for neither."""
    observation, reward = facts.fields["observation"], facts.fields["reward"]
    if verdict.why_not:
        return verdict.why_not
    if "observation" not in verdict.reads and len(observation.constant) < len(observation.low):
        return "looks at no observation, and here they differ: for problems of one state"
    if verdict.collects:
        return "made for interaction: by default nothing keeps it near the data"
    if reward.constant and verdict.reads & {"reward", EXTRAS}:
        return "learns from rewards, and all are equal"
    return ""


def looks_at(verdict: Verdict) -> str:
    """What a method's updates depend on, in words."""
    fields = [name for name in FIELDS if name in verdict.reads]
    own = ["columns of its own"] if EXTRAS in verdict.reads else []
    return ", ".join((["transitions"] if verdict.reads >= _STEP else fields) + own)


def command(verdict: Verdict) -> str:
    """The command line that trains a method on the data it was asked about, in words that a shell takes."""
    settings, default = verdict.config.dataset, DatasetConfig()
    words = ["diffrl-train", f"--config={verdict.method}"]
    for name in ("id", *(field.name for field in dataclasses.fields(settings) if field.name != "id")):
        value = getattr(settings, name)
        if value != getattr(default, name):
            words.append(f"--config.dataset.{name}={str(value).lower() if isinstance(value, bool) else value}")
    path = Path(settings.id)
    words.append(f"--workdir=runs/{path.stem if path.suffix in _ENDINGS else path.name}-{verdict.method}")
    return shlex.join(words)
