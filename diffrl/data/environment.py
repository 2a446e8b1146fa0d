"""Data and the environment their policies will act in, compared before anything is trained on the one for the other."""

import numpy as np

from diffrl.data.dataset import DatasetError, Source
from diffrl.envs import env_spec
from diffrl.envs.flatten import FlattenError
from diffrl.envs.gymnasium_backend import BackendError
from diffrl.envs.make import Interface, interface


def matched(source: Source) -> tuple[Source, str]:
    """The Source with what its environment knows and it does not: bounds of actions, or how many discrete ones there are.

    Returns:
        The source, and a sentence saying why the two could not be compared; "" where they were, or where there is no environment.

    Raises:
        DatasetError: the environment takes other actions or gives other observations than the data have.
    """
    if source.env_spec is None:
        return source, ""
    try:
        there = interface(source.env_spec, source.observation_keys)
    except BackendError as error:
        return source, f"the data were not compared with their environment: {error}"
    except FlattenError as error:
        raise _differs(source, str(error)) from None
    here = source.transitions.observation.shape[1]
    if here != there.observation_dim:
        raise _differs(source, f"an observation has {here} numbers in the data and {there.observation_dim} there")
    if source.discrete != (there.num_actions > 0):
        kinds = "real numbers", "discrete, that is integers,"
        raise _differs(source, f"actions are {kinds[source.discrete]} in the data and {kinds[not source.discrete]} there")
    return (_with_count if source.discrete else _with_bounds)(source, there), ""


def _with_count(source: Source, there: Interface) -> Source:
    here = source.num_actions or there.num_actions, there.first_action if source.first_action is None else source.first_action
    if here != (there.num_actions, there.first_action):
        counted = f"{here[0]} from {here[1]} on in the data and {there.num_actions} from {there.first_action} on there"
        raise _differs(source, f"discrete actions are {counted}")
    return source._replace(num_actions=there.num_actions, first_action=there.first_action)


def _with_bounds(source: Source, there: Interface) -> Source:
    assert there.action_low is not None
    assert there.action_high is not None
    here = source.transitions.action.shape[1]
    if here != len(there.action_low):
        raise _differs(source, f"an action has {here} numbers in the data and {len(there.action_low)} there")
    if not (np.isfinite(there.action_low) & np.isfinite(there.action_high)).all():
        return source
    if source.action_low is None or source.action_high is None:
        return source._replace(action_low=there.action_low, action_high=there.action_high)
    tolerance = 1e-5 * (there.action_high - there.action_low)
    for name, known in (("action_low", there.action_low), ("action_high", there.action_high)):
        given = np.asarray(getattr(source, name))
        if given.shape == known.shape and (np.abs(given - known) > tolerance).any():
            i = int(np.argmax(np.abs(given - known) > tolerance))
            hint = "data without bounds of their own take the environment's"
            raise _differs(source, f"{name} is {given[i]:g} in the data and {known[i]:g} there ({hint})")
    return source


def _differs(source: Source, why: str) -> DatasetError:
    name = env_spec.read(source.env_spec).get("id", "?")
    return DatasetError(
        f"dataset {source.id!r} is not of its environment {name}, where its policies would be evaluated: {why}. Name the right "
        "one: --config.dataset.env_id=…"
    )
