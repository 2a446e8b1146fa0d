"""Arrays in memory: what becomes of them row by row, and which are refused."""

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from row_reference import rows_of

from diffrl.data.arrays import from_arrays
from diffrl.data.build import Transforms, build
from diffrl.data.dataset import DatasetError
from diffrl.data.env_id import env_spec_of


def arrays(n=6, **changes):
    """Observation t is (t, 10 t), so that a row's origin can be read off it."""
    t = np.arange(n)
    return {
        "observation": np.stack([t, 10.0 * t], axis=1),
        "action": np.linspace(-1, 1, n)[:, None],
        "reward": 0.5 * t,
        "terminal": np.zeros(n),
        **changes,
    }


def times(source):
    """Observation and next observation of every row by their first number, and both flags."""
    t = source.transitions
    return list(zip(t.observation[:, 0], t.next_observation[:, 0], t.terminal, t.timeout, strict=True))


def test_following_row_is_the_next_observation():
    """Episodes 0 1 2 (timeout), 3 4 (terminal), 5 6 (left open), 7 alone and terminal."""
    source = from_arrays(**arrays(8, terminal=np.isin(np.arange(8), [4, 7]), timeout=np.isin(np.arange(8), [2, 6])))
    assert times(source) == [
        (0, 1, False, False),
        (1, 2, False, True),  # the row that ended by timeout had no next observation: this one is the last now
        (3, 4, False, False),
        (4, 5, True, False),
        (5, 6, False, True),
        (7, 7, True, False),  # nothing follows: its own, which no bootstrap reads
    ]
    assert source.transitions.reward.tolist() == [0, 0.5, 1.5, 2, 2.5, 3.5]
    assert {value.dtype for value in source.transitions[1:3]} == {np.dtype(np.float32)}
    assert (source.id, source.env_spec) == ("in memory", None)


def test_given_next_observations_keep_every_row():
    """Ends: a terminal, terminal and timeout at once, a timeout, and two jumps, one of them at a terminal."""
    following = arrays(8)["observation"] + [1.0, 10.0]
    following[[1, 5]] += 0.1
    ends = {"terminal": np.isin(np.arange(8), [1, 3]), "timeout": np.isin(np.arange(8), [3, 4])}
    source = from_arrays(**arrays(8, next_observation=following, **ends))
    np.testing.assert_array_equal(source.transitions.next_observation, following)
    assert np.flatnonzero(source.transitions.terminal).tolist() == [1, 3]
    assert np.flatnonzero(source.transitions.timeout).tolist() == [4, 5, 7]


def test_observations_keep_their_digits():
    for kept, given in ((np.float64, (np.float64, np.int64)), (np.float32, (np.float32, np.float16, np.int16, np.uint8, bool))):
        for kind in given:
            observation = arrays(5)["observation"].astype(kind)
            t = from_arrays(**arrays(5, observation=observation, next_observation=observation)).transitions
            assert (t.observation.dtype, t.next_observation.dtype) == (kept, kept)
            np.testing.assert_array_equal(t.observation, observation)


def test_one_observation_more_is_one_episode():
    whole = arrays(4)["observation"]
    rest = {name: value[:3] for name, value in arrays(4).items() if name != "observation"}
    assert times(from_arrays(observation=whole, **rest)) == [(0, 1, False, False), (1, 2, False, False), (2, 3, False, True)]
    alone = from_arrays(observation=whole[:2], action=[[0.0]], reward=[1.0], terminal=[False])
    assert times(alone) == [(0, 1, False, True)]
    rest["terminal"] = [0, 1, 0]
    with pytest.raises(DatasetError, match="means one episode, but there are ends inside"):
        from_arrays(observation=whole, **rest)


def test_lists_and_jax_arrays_are_arrays():
    plain = from_arrays(**arrays(5))
    for convert in (jnp.asarray, np.ndarray.tolist):
        other = from_arrays(**{name: convert(value) for name, value in arrays(5).items()})
        assert rows_of(other.transitions) == rows_of(plain.transitions)


def test_what_is_given_is_not_changed():
    given = arrays(3, next_observation=np.zeros((3, 2)), terminal=np.zeros(3, bool), timeout=np.zeros(3, bool))
    assert from_arrays(**given).transitions.timeout[-1]
    assert not given["timeout"].any()


def test_bounds_for_all_or_for_each():
    source = from_arrays(**arrays(3, action=np.ones((3, 2))), action_low=-2, action_high=[1, 3])
    assert (source.action_low.tolist(), source.action_high.tolist()) == ([-2, -2], [1, 3])
    with pytest.raises(DatasetError, match=r"action_low has shape \(3,\), expected one number or 2"):
        from_arrays(**arrays(3, action=np.ones((3, 2))), action_low=[0, 0, 0], action_high=1)
    with pytest.raises(DatasetError, match="of action_low and action_high only one is there"):
        from_arrays(**arrays(3), action_low=0)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"reward": np.zeros((6, 2))}, r"reward has shape \(6, 2\), expected \[rows\]"),
        ({"action": np.zeros(6)}, r"action has shape \(6,\), expected \[rows, numbers\]"),
        ({"action": np.zeros((4, 1))}, "action has 4 rows, reward 6"),
        ({"observation": np.zeros((8, 2))}, "observation has 8 rows, reward 6"),
        ({"terminal": np.zeros(5)}, "terminal has 5 rows, reward 6"),
        ({"timeout": np.zeros((6, 1))}, r"timeout has shape \(6, 1\)"),
        ({"terminal": np.full(6, 2.0)}, "terminal must be 0 or 1 everywhere, found 2"),
        ({"terminal": np.full(6, np.nan)}, "terminal must be 0 or 1 everywhere, found nan"),
        ({"action": np.zeros((6, 2), int)}, r"actions are integers \(int64\), that is discrete, of shape \(6, 2\), expected"),
        ({"action": np.zeros(6, int), "action_low": 0, "action_high": 1}, "integers are discrete actions and have no bounds"),
        ({"num_actions": 3}, "num_actions is of discrete actions, .* and these are real numbers"),
        ({"action": np.zeros(6, int), "num_actions": -1}, "num_actions must be a number of actions, got -1"),
        ({"observation": np.zeros((6, 8, 8, 3), np.uint8)}, r"observation holds images of shape \(8, 8, 3\)"),
        ({"observation": np.full((6, 2), "a")}, "observation has type <U1, expected numbers"),
        ({"reward": np.zeros(0)}, "no transitions"),
        ({"timeout": np.ones(6)}, "no row has a next observation.*Add next_observation"),
        ({"next_observation": np.zeros((6, 3))}, r"observation \(6, 2\) and next_observation \(6, 3\) differ"),
        ({"next_observation": np.zeros((5, 2))}, r"next_observation has shape \(5, 2\) where reward has 6 rows"),
        ({"env_id": "Hoper-v5"}, "env_id 'Hoper-v5' is no environment of gymnasium: .*Did you mean: `Hopper`"),
        ({"env_id": "no_such_module:Hopper-v5"}, "package no_such_module, which cannot be imported"),
    ],
)
def test_bad_arrays_are_refused(changes, message):
    with pytest.raises(DatasetError, match=message):
        from_arrays(**arrays(6, **changes))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"reward": np.array([0, 1, np.nan, 3, np.inf, 5])}, "reward has 2 values that are not finite, first in row 2"),
        ({"action": np.full((6, 1), -1.5)}, "6 actions lie outside .* first in row 0"),
    ],
)
def test_bad_values_are_refused_when_built(changes, message):
    changes = {"next_observation": np.zeros((6, 2)), **changes}
    with pytest.raises(DatasetError, match=message):
        build(from_arrays(**arrays(6, **changes)), Transforms())


def test_an_environment_that_is_a_function(monkeypatch):
    """Such as gymnasium keeps for the names of mujoco-py's environments: nothing that another process could read back."""
    spec = EnvSpec("Function-v0", entry_point=lambda: None)  # pyright: ignore
    monkeypatch.setitem(gymnasium.registry, "Function-v0", spec)
    with pytest.raises(DatasetError, match=r"env_id 'Function-v0' cannot be written down .*name its newest version"):
        from_arrays(**arrays(env_id="Function-v0"))


def test_environments_by_name():
    assert '"id": "Hopper-v5"' in (from_arrays(**arrays(), env_id="Hopper-v5").env_spec or "")
    # Known to gymnasium only once their package is imported.
    for name in ("PointMaze_UMaze-v3", "gymnasium_robotics:PointMaze_UMaze-v3"):
        assert '"id": "PointMaze_UMaze-v3"' in env_spec_of(name)
