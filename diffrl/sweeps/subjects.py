"""What the groups of a sweep train on: method, data, environment.

All are looked at before the first group starts, so that a mistake in the last one is found at once.
"""

import copy
import itertools
from collections.abc import Iterator
from typing import NamedTuple

from diffrl.algorithm import Algorithm
from diffrl.config import ConfigError, override
from diffrl.data.build import build
from diffrl.data.columns import attach
from diffrl.data.dataset import Card, Dataset
from diffrl.data.environment import matched
from diffrl.envs import make as environments
from diffrl.evaluation.evaluate import Options, parse_act
from diffrl.registry import make
from diffrl.sweeps.plan import Group
from diffrl.training import halving
from diffrl.training.cohort import equal_runs
from diffrl.training.online.environment import opened, stage_of
from diffrl.training.runs import make_runs
from diffrl.types import Spec


class Subject(NamedTuple):
    """What a group trains on: the method, and the data with its derived columns; None in training by interaction alone."""

    algorithm: Algorithm
    spec: Spec
    card: Card
    dataset: Dataset | None


def subjects(groups: list[Group]) -> Iterator[tuple[Group, Subject]]:
    """The groups with what they train on, dataset by dataset, so that one at a time is in memory.

    Raises:
        ConfigError, DatasetError, BackendError: a dataset is missing or cannot be used, an environment cannot be made, or the
            method refuses its settings.
    """
    by_data: dict[str, list[Group]] = {}
    for group in groups:
        by_data.setdefault(repr((group.config.dataset, group.config.online)), []).append(group)
    for together in by_data.values():
        config = together[0].config
        dataset = spec = card = None
        if config.dataset.id:
            dataset, spec, card = build(matched(config.dataset.source())[0], config.dataset)
        if config.online.env_id:
            with opened(config.online, 1, spec, card) as world:
                spec, card = world.spec, world.card
        assert spec is not None
        assert card is not None
        for group in together:
            try:
                algorithm = make(group.config.algorithm, spec, group.config.action_chunk)
                if config.online.env_id:
                    stage_of(algorithm)
            except ValueError as error:
                raise ConfigError(f"group {group.label}: {error}") from error
            yield group, Subject(algorithm, spec, card, dataset and attach(dataset, algorithm.columns))


def check_training(group: Group, subject: Subject) -> None:
    """That what the trainer would refuse once it knows data and method is found now.

    Raises:
        ConfigError: rungs at which nothing can be decided.
    """
    if subject.dataset is not None:
        runs, stages = make_runs(group.config, group.points), subject.algorithm.stages
        ends = list(itertools.accumulate(stage.num_updates for stage in stages))
        same = equal_runs(subject.algorithm, runs, subject.dataset)
        halving.check(group.config, runs, same, ends, subject.card.env_spec is not None)


def check_evaluation(group: Group, subject: Subject, options: Options) -> None:
    """That the policies of a group can be evaluated as asked once they are trained.

    Raises:
        ConfigError: the data name no environment, or the method has no such choice when acting.
        BackendError, EvaluationError: the simulator does not have the environment, or `--act` cannot be read.
    """
    card = subject.card
    if card.env_spec is None:
        raise ConfigError(
            f"group {group.label}: {card.id!r} names no environment to evaluate in: name it by --config.dataset.env_id=… or say "
            "--noevaluate"
        )
    environments.choose(options.backend, card.env_spec, card.observation_keys, card.action_repeat)
    for choices in parse_act(options.act):
        algorithm = copy.deepcopy(group.config.algorithm)
        try:
            for name, value in choices:
                override(algorithm, f"act.{name}={value}")
            make(algorithm, subject.spec, group.config.action_chunk)
        except ValueError as error:
            raise ConfigError(f"group {group.label}: {error}") from error
