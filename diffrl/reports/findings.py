"""What the facts of a dataset mean for training, a sentence each, whatever the method."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from diffrl.data import lerobot, ogbench
from diffrl.data.contents import Array
from diffrl.data.dataset import Source
from diffrl.data.inspection import Facts, Field
from diffrl.data.names import NAMES
from diffrl.envs.ogbench import tasks

_REQUIRED = ("observation", "action", "reward", "terminal")  # of a plain file
MANY = 0.01  # share of rows from which on duplicates, and of ends from which on contradictions, are worth a look
SHUFFLED = 0.5  # share of rows whose next observation is not the following row's: not in order of time
EVEN = 10.0  # deviations of columns within this factor of 1 are left as they are
NARROW = 0.02  # of its bounds: an action that moves less may be in other units


class Finding(NamedTuple):
    """A sentence on the data: "stop" where they cannot be trained on as they are, "look" where they may not be what was meant."""

    level: Literal["stop", "look", "note"]
    text: str


def of_facts(facts: Facts, source: Source) -> list[Finding]:
    """All that is to be said of rows that a loader has read."""
    found = [*_of_values(facts), *_of_actions(facts), *_of_ends(facts)]
    if not source.has_rewards:
        name = tasks.name_in(source.id)
        text = "there are no rewards, so that only imitation can learn"
        given = f"; a task of OGBench's {name} gives them, and its environment: --config.dataset.task=1 … 5, or goals"
        found.append(Finding("look", text + given) if name else Finding("note", text))
    if source.env_spec is None:
        text = "the data name no environment to evaluate their policies in: --config.dataset.env_id=NAME, here and in training"
        found.append(Finding("note", text))
    return found


def of_file(path: Path, arrays: list[Array]) -> list[Finding]:
    """What can be said of a path that no loader could read, beside the loader's own words."""
    pickled = [one.name for one in arrays if one.dtype == "object"]
    if pickled:
        text = (
            f"{', '.join(map(repr, pickled))} can be read by running a pickle only, which is never done, since it may run "
            "anything: save arrays of numbers, episodes of unequal length one after another or a file each"
        )
        return [Finding("stop", text)]
    names = {one.name for one in arrays}
    missing = [name for name in _REQUIRED if not {*NAMES[name]} & names]
    plain = not ogbench.recognise(names) and not any(name.startswith("data/demo_") for name in names)
    if arrays and missing and plain:
        text = (
            f"arrays are known by their names, and {', '.join(missing)} is not among these (docs/data.md): a row a step, as "
            "numpy.savez(path, observation=…, action=…, reward=…, terminal=…) writes them"
        )
        return [Finding("stop", text)]
    for folder in (path, *path.parents):
        if folder != path and lerobot.recognise(folder):
            return [Finding("stop", f"{str(path)!r} is a part of a LeRobot dataset: name the whole, {str(folder)!r}")]
        if (folder / "config.json").is_file() and (folder / "checkpoints").is_dir():
            text = (
                f"{str(folder)!r} is a training's workdir: where it learnt by interaction, the command that trained it makes a "
                "dataset of its transitions with --export_dataset=mine/NAME-v0; then check mine/NAME-v0"
            )
            return [Finding("stop", text)]
    return []


def _of_values(facts: Facts) -> Iterator[Finding]:
    observation, reward, rows = facts.fields["observation"], facts.fields["reward"], facts.rows
    for field in facts.fields.values():
        bad = np.flatnonzero(field.bad).tolist()
        if bad:
            where = f" in {in_words(bad)}" if len(field.shape) == 2 else ""
            yield Finding("look", f"{field.name} is not finite{where}: mend those values, or leave their episodes out")
    if len(observation.constant) == len(observation.low):
        yield Finding("look", "observations never change: a policy has nothing to tell one state from another by")
    elif observation.constant:
        yield Finding("note", f"observations never change in {in_words(observation.constant)}, which tell a policy nothing")
    if reward.constant and facts.has_rewards:
        text = (
            f"all rewards are {reward.low[0]:g}: methods that learn from rewards have nothing to prefer, imitation does not mind"
        )
        yield Finding("look", text)
    if facts.duplicates > MANY * rows:
        text = f"{facts.duplicates:,} of {rows:,} rows are copies of others: were files joined twice, or rows drawn repeatedly?"
        yield Finding("look", text)
    if uneven(observation):
        low, high = spread(observation)
        text = f"deviations of observations reach from {low:.3g} to {high:.3g}: they are standardised in the commands below"
        yield Finding("note", text)


def _of_actions(facts: Facts) -> Iterator[Finding]:
    actions, action = facts.actions, facts.fields["action"]
    if actions.beyond:
        found = f"{actions.beyond:,} of {facts.rows:,} rows have actions beyond"
        reach = f"from {np.nanmin(action.low):.3g} to {np.nanmax(action.high):.3g}"
        if actions.known:
            text = (
                f"{found} their bounds, {reach}. If they were recorded before the environment clipped them, "
                "--config.dataset.clip_actions=true clips them, as the commands below do; if the bounds are wrong, name the "
                "environment, or give action_low and action_high"
            )
        else:
            text = (
                f"{found} -1 and 1, {reach}, and nothing says what bounds they have: name the environment, which knows them, or "
                "take the data's own range as the commands below do, by --config.dataset.action_bounds=data"
            )
        yield Finding("look", text)
    if len(actions.low) == 1 and actions.whole and action.low[0] >= 0.0 and not action.constant:
        text = (
            f"actions are whole numbers, from {action.low[0]:g} to {action.high[0]:g}: if each stands for something to do, give "
            "them as integers, which are discrete actions"
        )
        yield Finding("look", text)
    if not len(actions.low):
        return
    if action.constant:
        yield Finding("look", f"actions never change in {in_words(action.constant)}: is that what was commanded?")
    narrow = np.flatnonzero((actions.reach > 0) & (actions.reach < NARROW)).tolist()
    if narrow:
        text = f"actions use less than {NARROW:.0%} of their bounds in {in_words(narrow)}: are they in the units of the bounds?"
        yield Finding("look", text)
    if not actions.known and not actions.beyond:
        yield Finding("note", "nothing says what bounds the actions have, so -1 and 1 are taken: an environment would say them")


def _of_ends(facts: Facts) -> Iterator[Finding]:
    ends, episodes = facts.ends, len(facts.lengths)
    if ends.both:
        yield Finding(
            "look", f"{ends.both:,} rows are flagged as terminal and as timeout: they count as terminal, without a bootstrap"
        )
    if ends.unflagged > SHUFFLED * facts.rows:
        text = (
            f"in {ends.unflagged:,} of {facts.rows:,} rows the next observation is not the following row's: the rows are not in "
            "order of time, and returns and all that looks several steps ahead mean nothing. Sort them by episode and step"
        )
        yield Finding("look", text)
    elif ends.unflagged:
        text = (
            f"{ends.unflagged:,} episodes end without a flag, where the next observation is not the following row's: they count "
            "as cut, as pieces of a replay buffer are"
        )
        yield Finding("look" if ends.unflagged > MANY * episodes else "note", text)
    if facts.goes_on and facts.goes_on > MANY * facts.terminals:
        text = (
            f"after {facts.goes_on:,} of {facts.terminals:,} terminal rows the data go on from where these ended: should they be "
            "timeouts, or does a success not end the episode?"
        )
        yield Finding("look", text)
    if facts.lengths.max() == 1:
        text = "every episode is one row long, so that nothing can be learnt of what follows an action but its reward"
        yield Finding("note" if facts.terminals == facts.rows else "look", text)
    elif facts.full > max(1, MANY * facts.terminals):
        text = (
            f"{facts.full:,} of {facts.terminals:,} terminal rows end an episode of {facts.lengths.max():,} rows, and none is "
            "longer: if it was time that ended them, they are timeouts, of which the value goes on"
        )
        yield Finding("look", text)
    elif not facts.terminals:
        text = "no row is terminal: right where only time ends episodes; where a task can fail or be done, they are missing"
        yield Finding("note", text)


def uneven(observation: Field) -> bool:
    """Whether deviations of the columns that move are so far from 1 that they should be standardised."""
    low, high = spread(observation)
    return high > EVEN or low < 1 / EVEN


def spread(observation: Field) -> tuple[float, float]:
    """The least and the largest deviation of the columns that move; 1 and 1 where none does."""
    moving = observation.std[observation.std > 0]
    return (float(moving.min()), float(moving.max())) if len(moving) else (1.0, 1.0)


def in_words(columns: list[int], most: int = 8) -> str:
    """`column 3`, or `columns 0, 4, 7`."""
    listed = ", ".join(map(str, columns[:most])) + (f", … ({len(columns)} in all)" if len(columns) > most else "")
    return f"column{'s' * (len(columns) > 1)} {listed}"
