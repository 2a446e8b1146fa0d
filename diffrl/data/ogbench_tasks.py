"""Rows of OGBench labelled with a task: one set of trajectories serves five single tasks and the goal-conditioned form."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float

from diffrl.data import episodes
from diffrl.data.dataset import DatasetError, Source
from diffrl.data.episodes import recorded
from diffrl.envs import env_spec as env_specs
from diffrl.envs.ogbench import tasks

GOAL_KEYS = ("observation", "desired_goal")
# Steps to the goal of a row are geometric with mean 100, as where OGBench's own agents draw goals from the future.
GOAL_DISCOUNT = 0.99
_GOAL_SEED = 0
_REMEDY = "--config.dataset.task=1 … 5 for a single task, or =goals for all of them"


@dataclasses.dataclass
class Labels:
    """What rows of OGBench are labelled with when they are loaded, whatever rewards they came with.

    Attributes:
        task: "1" … "5" for OGBench's single tasks; "goals" for the goal-conditioned form, in which an observation is followed by
            a later one of its trajectory, as the goal; empty for the rewards that the data come with.
        reward: "dense" for minus the number of objects that are not in place; "sparse" for -1 until all are, and 0 then, in the
            data and in the environment of a single task.
        ogbench: "1.2" evaluates a single task's reward and success before each action, as of OGBench 1.2, "1.1" after it. Rows
            are the same in both.
    """

    task: Literal["", "1", "2", "3", "4", "5", "goals"] = ""
    reward: tasks.Reward = "dense"
    ogbench: tasks.Version = "1.2"


def labelled(source: Source, labels: Labels) -> Source:
    """The Source with rewards and terminals of a task in place of its own, and with the task's environment.

    Reward and terminal of a row are those of its observation, before the action. A row in which all objects are in place is
    terminal, and the trajectory goes on behind it. In the goal-conditioned form trajectories are cut into pieces of geometric
    length, and the state after a piece's last row is the goal of all its rows.

    Raises:
        DatasetError: the rows are none of OGBench's, or of another environment than their name says; or ogbench is missing.
    """
    if not labels.task:
        # By fields: the settings of a dataset are Labels, and more.
        if any(getattr(labels, field.name) != field.default for field in dataclasses.fields(Labels)):
            raise DatasetError(
                f"dataset {source.id!r}: dataset.reward and dataset.ogbench are of a task of OGBench, and dataset.task is empty: "
                f"set {_REMEDY}"
            )
        return source
    name, number = _name(source), None if labels.task == "goals" else int(labels.task)
    if number is None and labels.ogbench != Labels.ogbench:
        raise DatasetError(
            f"dataset.ogbench={labels.ogbench} says when a single task looks for success; with dataset.task=goals all versions "
            "look after each action: leave it out"
        )
    rows, wanted = source.transitions, tasks.columns(name)
    if rows.observation.shape[1] <= max(wanted):
        raise DatasetError(
            f"dataset {source.id!r} has observations of {rows.observation.shape[1]} numbers, too few for OGBench's {name}: is it "
            "a file of another name? --config.dataset.env_id=… names its environment"
        )
    try:
        env_spec = tasks.spec_of(name, number, labels.reward, labels.ogbench)
        goal = None if number is None else tasks.goal(name, number)
    except ImportError as error:
        raise DatasetError(
            f"dataset.task={labels.task} needs {error.name}, which is not installed: pip install 'diffrl[ogbench]'"
        ) from None
    if goal is None:
        observation, next_observation = _with_goals(source)
        goal = observation[:, rows.observation.shape[1] :][:, wanted]
        of = "the goal-conditioned form"
        parts, keys = tuple((key, rows.observation.shape[1]) for key in GOAL_KEYS), GOAL_KEYS
    else:
        observation, next_observation = rows.observation, rows.next_observation
        of, parts, keys = f"task {number}", source.observation_parts, source.observation_keys
    placed = tasks.in_place(name, rows.observation, goal)
    terminal = np.all(placed, axis=1, keepdims=True)
    counted = terminal if labels.reward == "sparse" else placed
    reward = counted.sum(axis=1, dtype=np.float32) - counted.shape[1]
    label = f"{labels.reward} rewards of {of} of OGBench's {name}"
    return source._replace(
        recorded=recorded(observation, rows.action, reward, terminal[:, 0], rows.timeout & ~terminal[:, 0], next_observation),
        has_rewards=True,
        env_spec=env_spec,
        observation_parts=parts,
        observation_keys=keys,
        ref_min_score=None,
        ref_max_score=None,
        ref_provenance="",
        description="; ".join(filter(None, (source.description, label))),
    )


def _name(source: Source) -> str:
    name = tasks.name_in(str(env_specs.read(source.env_spec).get("id", ""))) or tasks.name_in(source.id)
    if name is None:
        raise DatasetError(
            f"dataset {source.id!r}: dataset.task is a task of OGBench, and nothing says of which of its environments the rows "
            "are. A file keeps its name there, such as cube-single-play-v0.npz; or set --config.dataset.env_id=cube-single-v0"
        )
    return name


def _with_goals(source: Source) -> tuple[Float[np.ndarray, "rows wide"], Float[np.ndarray, "rows wide"]]:
    """Observations and next observations, each followed by the row's goal."""
    rows = source.transitions
    none = np.zeros(len(rows.reward), bool)
    whole = recorded(rows.observation, rows.action, rows.reward, none, rows.timeout, rows.next_observation).rows
    cut = whole.timeout | (np.random.default_rng(_GOAL_SEED).random(len(none)) > GOAL_DISCOUNT)
    _, stop = episodes.bounds(whole._replace(timeout=cut))
    goal = rows.next_observation[stop - 1]
    return np.concatenate([rows.observation, goal], axis=1), np.concatenate([rows.next_observation, goal], axis=1)
