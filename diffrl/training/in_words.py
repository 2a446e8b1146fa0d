"""What training makes of the rows it is given, in words: settings that an experiment file brings are not to act unseen."""

import numpy as np

from diffrl.config import DatasetConfig
from diffrl.data.build import Transforms, brief
from diffrl.data.dataset import Card
from diffrl.data.mix import shares
from diffrl.data.ogbench_tasks import Labels
from diffrl.types import Spec


def in_words(settings: DatasetConfig, spec: Spec, card: Card) -> str:
    """One line: what the rows are put together from, and every change of them, with its values and the setting it comes from."""
    changes = [
        *_sources(settings, card),
        *_labels(settings),
        *_selection(settings),
        *_rewards(settings, card),
        *_observations(settings, spec),
        *_actions(settings, spec, card),
    ]
    return "training sees " + ("; ".join(changes) or "the rows as they are")


def _sources(settings: DatasetConfig, card: Card) -> list[str]:
    words = []
    if settings.mix:
        others = shares(settings.mix)
        drawn = {settings.id: 1.0 - sum(others.values()), **others}
        words.append(f"draws of which {', '.join(f'{share:.3g} are from {id}' for id, share in drawn.items())} (mix)")
    if card.observation_keys and settings.task != "goals":
        words.append(f"observations put together from {', '.join(card.observation_keys)} (observation_keys)")
    return words


def _labels(labels: Labels) -> list[str]:
    if not labels.task:
        return []
    given = f"{labels.reward} rewards (reward={labels.reward}) and terminals"
    if labels.task == "goals":
        return [f"a later observation of its trajectory behind each, as its goal, and {given} of being there (task=goals)"]
    return [f"{given} of OGBench's task {labels.task} (task={labels.task}), as evaluated by OGBench {labels.ogbench} (ogbench)"]


def _selection(transforms: Transforms) -> list[str]:
    first, count, every = transforms.first_episode, transforms.num_episodes, transforms.keep_every
    words = []
    if first or count:
        which = f"{count} episodes" if count else "all episodes"
        words.append(f"{which} from number {first} on (first_episode={first}, num_episodes={count})")
    if every > 1:
        words.append(f"of each episode one row in {every} (keep_every)")
    return words


def _rewards(transforms: Transforms, card: Card) -> list[str]:
    steps = []
    if transforms.reward_scale == "return_range":
        why = f"1000 over {card.return_max - card.return_min:.4g}, by which returns differ"
        scale = card.reward_scale / transforms.reward_factor
        steps.append(f"times {scale:.4g} (reward_scale=return_range: {why})")
    if transforms.reward_factor != 1.0:
        steps.append(f"times {transforms.reward_factor:g} (reward_factor)")
    if card.reward_shift:
        steps.append(f"plus {card.reward_shift:g} (reward_shift)")
    return [f"rewards {', then '.join(steps)}"] if steps else []


def _observations(transforms: Transforms, spec: Spec) -> list[str]:
    if not transforms.standardize_observations:
        return []
    mean, deviation = (brief(np.asarray(values)) for values in (spec.observation_mean, spec.observation_std))
    return [f"observations minus their mean {mean}, over their deviation {deviation} (standardize_observations)"]


def _actions(transforms: Transforms, spec: Spec, card: Card) -> list[str]:
    if spec.num_actions:
        return [f"actions as {spec.num_actions} numbers, 1 for the one taken and 0 for the others"]
    low, high = np.asarray(card.action_low), np.asarray(card.action_high)
    changes = [f"of {card.clipped_actions:,} rows moved onto the bounds (clip_actions)"] if transforms.clip_actions else []
    if (low != -1.0).any() or (high != 1.0).any():
        whose = ", the least and largest that occur (action_bounds=data)" if transforms.action_bounds == "data" else ""
        changes.append(f"mapped from {brief(low)} … {brief(high)} to -1 … 1{whose}")
    return [f"actions {', then '.join(changes)}"] if changes else []
