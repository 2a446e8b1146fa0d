"""The Minari loader on small datasets made by hand."""

import time
import warnings

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple

from diffrl.data import minari as loader
from diffrl.data.build import Transforms, build
from diffrl.data.dataset import DatasetError, fingerprint
from diffrl.envs.flatten import flatten, flatten_one

ACTIONS = Box(np.array([-1, -2], np.float32), np.array([1, 2], np.float32))
VECTOR = Box(-np.inf, np.inf, (3,), np.float64)
GOAL = Dict(
    observation=Box(-9, 9, (2,), np.float64),
    achieved_goal=Box(-9, 9, (1,), np.float64),
    desired_goal=Box(-9, 9, (1,), np.float64),
)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def episode(first, steps, *, terminal=False, truncated=False, observations=None):
    """`steps` steps whose observations count up from `first`."""
    ends = np.arange(steps) == steps - 1
    count = first + np.arange(steps + 1.0)
    return {
        "observations": np.stack([count, 10 * count, -count], axis=1) if observations is None else observations,
        "actions": np.stack([np.linspace(-1, 1, steps), np.full(steps, 2.0)], axis=1).astype(np.float32),
        "rewards": 0.5 * count[1:],
        "terminations": ends & terminal,
        "truncations": ends & truncated,
    }


def make(id, episodes, observation_space=VECTOR, action_space=ACTIONS, metadata=None, data_format="hdf5", **options):
    import minari
    from minari.data_collector import EpisodeBuffer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = minari.create_dataset_from_buffers(
            id,
            [EpisodeBuffer(id=None, **one) for one in episodes],
            observation_space=observation_space,
            action_space=action_space,
            data_format=data_format,
            **options,
        )
    dataset.storage.update_metadata(metadata or {})


def test_box_rows_one_by_one():
    make("test/box-v0", [episode(0, 2, terminal=True), episode(5, 3, truncated=True), episode(9, 1)])
    source = loader.load("test/box-v0")
    t = source.transitions
    start = np.array([0, 1, 5, 6, 7, 9], np.float32)
    np.testing.assert_array_equal(t.observation, np.stack([start, 10 * start, -start], axis=1))
    np.testing.assert_array_equal(t.next_observation, np.stack([start + 1, 10 * (start + 1), -start - 1], axis=1))
    np.testing.assert_array_equal(t.reward, 0.5 * (start + 1))
    np.testing.assert_array_equal(t.action[:, 0], [-1, 1, -1, 0, 1, -1])
    assert t.terminal.tolist() == [False, True, False, False, False, False]
    # The last episode was left open: that is a timeout, not a terminal.
    assert t.timeout.tolist() == [False, False, False, False, True, True]
    assert {value.dtype for value in (t.action, t.reward)} == {np.dtype(np.float32)}
    assert {value.dtype for value in (t.observation, t.next_observation)} == {VECTOR.dtype}
    assert source.action_low.tolist() == [-1, -2]
    assert source.action_high.tolist() == [1, 2]
    assert (source.observation_keys, source.env_spec, source.ref_min_score) == (None, None, None)
    dataset, _, card = build(source, Transforms())
    assert (dataset.size, card.rows, card.episodes) == (6, 6, 3)


def goal_episode(goals, start=0.0):
    steps = len(goals) - 1
    place = start + np.arange(steps + 1.0)
    observations = {
        "observation": np.stack([place, -place], axis=1),
        "achieved_goal": place[:, None],
        "desired_goal": np.array(goals, np.float64)[:, None],
    }
    return {**episode(0, steps, truncated=True), "observations": observations}


def test_dict_keys_and_their_order():
    make("test/goal-v0", [goal_episode([7, 7, 7])], GOAL)
    source = loader.load("test/goal-v0")
    assert source.observation_keys == ("observation", "desired_goal")
    assert build(source, Transforms())[1].observation_parts == (("observation", 2), ("desired_goal", 1))
    assert source.transitions.observation.tolist() == [[0, 0, 7], [1, -1, 7]]
    chosen = loader.load("test/goal-v0", observation_keys=("achieved_goal", "observation"))
    assert chosen.transitions.next_observation.tolist() == [[1, 1, -1], [2, 2, -2]]
    assert chosen.observation_keys == ("achieved_goal", "observation")
    assert build(chosen, Transforms())[1].observation_parts == (("achieved_goal", 1), ("observation", 2))
    with pytest.raises(DatasetError, match="no observation key 'position'; there are achieved_goal, desired_goal, observation"):
        loader.load("test/goal-v0", observation_keys=("position",))


def test_other_dicts_alphabetically_and_nested():
    space = Dict(z=Box(-9, 9, (1,)), a=Dict(y=Box(-9, 9, (1, 2)), b=Box(-9, 9, (1,))))
    observations = {"z": np.full((2, 1), 1.0), "a": {"y": np.array([[[2.0, 3.0]]] * 2), "b": np.full((2, 1), 4.0)}}
    make("test/nested-v0", [{**episode(0, 1), "observations": observations}], space)
    source = loader.load("test/nested-v0")
    assert source.observation_keys == ("a", "z")
    assert build(source, Transforms())[1].observation_parts == (("a", 3), ("z", 1))
    assert source.transitions.observation.tolist() == [[4, 2, 3, 1]]


NESTED = Tuple((Box(-9, 9, (2,)), Dict(b=Box(-9, 9, (1,)), a=Tuple((Box(-9, 9, (1, 2)), Box(-9, 9, (1,)))))))


def nested_observations(first, steps):
    """Row t: t, -t | (t + .1, t + .2), t + .3 | t + .4, written with the Dict's keys out of order."""
    t = first + np.arange(steps + 1.0)
    parts = np.stack([t, -t, t + 0.1, t + 0.2, t + 0.3, t + 0.4], axis=1).astype(np.float32)
    return parts[:, :2], {"b": parts[:, 5:], "a": (parts[:, 2:4].reshape(-1, 1, 2), parts[:, 4:5])}


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_tuples_and_dicts_in_them(data_format):
    """Parts of a Tuple in order, keys of a Dict in it alphabetically; an episode of one step is like any other."""
    episodes = [
        {**episode(5 * i, n, terminal=n == 2), "observations": nested_observations(5 * i, n)} for i, n in enumerate((2, 1))
    ]
    make(f"test/tuple-{data_format}-v0", episodes, NESTED, data_format=data_format)
    source = loader.load(f"test/tuple-{data_format}-v0")
    expected = [[t, -t, t + 0.1, t + 0.2, t + 0.3, t + 0.4] for t in (0, 1, 5)]
    np.testing.assert_allclose(source.transitions.observation, np.array(expected), rtol=1e-6)
    after = [[t, -t, t + 0.1, t + 0.2, t + 0.3, t + 0.4] for t in (1, 2, 6)]
    np.testing.assert_allclose(source.transitions.next_observation, np.array(after), rtol=1e-6)
    assert source.transitions.terminal.tolist() == [False, True, False]
    assert source.transitions.timeout.tolist() == [False, False, True]
    assert source.observation_keys is None
    assert build(source, Transforms())[1].observation_parts == ()
    with pytest.raises(DatasetError, match="observation keys b were given, but the observation has no keys"):
        loader.load(f"test/tuple-{data_format}-v0", observation_keys=("b",))


def test_one_tuple_observation_as_many():
    """The evaluator flattens single observations: the same numbers in the same order."""
    batch = nested_observations(3, 2)
    one = (batch[0][1], {"a": (batch[1]["a"][0][1], batch[1]["a"][1][1]), "b": batch[1]["b"][1]})
    np.testing.assert_array_equal(flatten_one(one, None), flatten(batch, None)[1])


def test_arrow_equals_hdf5():
    episodes = [goal_episode([7, 7, 7]), goal_episode([3, 3], start=4.0)]
    for data_format in ("hdf5", "arrow"):
        make(f"test/same-{data_format}-v0", episodes, GOAL, data_format=data_format)
    a, b = (loader.load(f"test/same-{data_format}-v0") for data_format in ("hdf5", "arrow"))
    assert fingerprint(a.transitions) == fingerprint(b.transitions)
    assert a.observation_keys == b.observation_keys


def test_arrow_keeps_long_episodes_whole_and_needs_no_infos():
    """Minari's own reader cuts such an episode at its 32,767th row, and fails on infos of one number per step."""
    steps = 40_000
    infos = {"success": np.zeros(steps + 1)}
    make("test/long-v0", [{**episode(0, steps), "infos": infos}, episode(7, 2)], data_format="arrow")
    t = loader.load("test/long-v0").transitions
    assert len(t.reward) == steps + 2
    np.testing.assert_array_equal(t.next_observation[:, 0], [*range(1, steps + 1), 8, 9])
    assert np.flatnonzero(t.timeout).tolist() == [steps - 1, steps + 1]


def test_damaged_arrow_is_named(root):
    make("test/cut-v0", [episode(0, 9), episode(0, 9)], data_format="arrow")
    file = root / "test/cut-v0/data/1/part-0.arrow"
    whole = file.read_bytes()
    for keep in (len(whole) // 2, 0):
        file.write_bytes(whole[:keep])
        with pytest.raises(DatasetError, match=r"'test/cut-v0' is damaged or incomplete.*delete"):
            loader.load("test/cut-v0")
    file.unlink()
    with pytest.raises(DatasetError, match="'test/cut-v0' is damaged"):
        loader.load("test/cut-v0")


@pytest.mark.parametrize(
    "shape, message",
    [
        ({"observations": 1, "actions": 0, "rewards": 0, "terminations": 0, "truncations": 0}, "episode 1 has no steps; leave"),
        ({"observations": 3}, "episode 1 has 3 observations for 3 steps; expected 4"),
        ({"actions": 2}, "episode 1 has 2 actions for 3 steps; expected 3"),
    ],
)
def test_episodes_of_wrong_length_are_named(root, shape, message):
    """Minari refuses to write such episodes, but other tools do."""
    make("test/short-v0", [episode(0, 3), episode(0, 3), episode(0, 3)])
    with h5py.File(root / "test/short-v0/data/main_data.hdf5", "a") as file:
        for name, length in shape.items():
            file["episode_1"][name].resize(length, axis=0)
    with pytest.raises(DatasetError, match=message):
        loader.load("test/short-v0")


def spec(**kwargs):
    return EnvSpec(id="Maze-v0", entry_point="nowhere:Maze", max_episode_steps=9, kwargs=kwargs)


def with_spec(id, env_spec, episodes, eval_spec=None):
    make(id, episodes, GOAL)
    from minari.dataset.minari_storage import MinariStorage

    # Written past Minari, which would make the environment.
    storage = MinariStorage.read(loader.dataset_path(id) / "data")
    storage.update_metadata({"env_spec": env_spec.to_json(), **({"eval_env_spec": eval_spec.to_json()} if eval_spec else {})})


def test_stale_goal_is_replaced_only_where_goals_move():
    episodes = [goal_episode([3, 3, 3]), goal_episode([3, 5, 5]), goal_episode([5, 8])]
    with_spec("test/moving-v0", spec(reset_target=True), episodes, spec(reset_target=False))
    moving = loader.load("test/moving-v0")
    assert moving.transitions.observation[:, 2].tolist() == [3, 3, 5, 5, 8]
    assert moving.transitions.next_observation[:, 2].tolist() == [3, 3, 5, 5, 8]
    assert '"reset_target": false' in (moving.env_spec or "")
    for id, kwargs in [("test/fixed-v0", {}), ("test/episodic-v0", {"reset_target": True, "continuing_task": False})]:
        with_spec(id, spec(**kwargs), episodes)
        assert loader.load(id).transitions.observation[:, 2].tolist() == [3, 3, 3, 5, 5]


def test_reference_scores_and_description():
    text = "by hand: five metres"
    make("test/ref-v0", [episode(0, 1)], metadata={"ref_min_score": 1, "ref_max_score": 3.5, "description": text})
    source = loader.load("test/ref-v0")
    assert (source.ref_min_score, source.ref_max_score) == (1.0, 3.5)
    assert source.ref_provenance == "Minari metadata of test/ref-v0"
    assert source.description == text


def test_bad_values_are_named():
    bad = episode(0, 3)
    bad["rewards"][1] = np.nan
    make("test/nan-v0", [episode(0, 2), bad])
    with pytest.raises(DatasetError, match="reward has 1 values that are not finite, first in row 3"):
        build(loader.load("test/nan-v0"), Transforms())
    bad = episode(0, 3)
    bad["actions"][2, 1] = 2.5
    make("test/wide-v0", [bad])
    with pytest.raises(DatasetError, match=r"1 actions lie outside .* first in row 2"):
        build(loader.load("test/wide-v0"), Transforms())


@pytest.mark.parametrize(
    "observation_space, action_space, message",
    [
        (VECTOR, Box(-np.inf, np.inf, (2,)), "no bounds"),
        (VECTOR, MultiDiscrete([3, 2]), "MultiDiscrete actions"),
        (VECTOR, Box(0, 3, (2,), np.int64), "integer Box actions"),
        (VECTOR, Dict(a=ACTIONS), "Dict actions"),
        (VECTOR, Tuple((ACTIONS, ACTIONS)), "Tuple actions"),
        (Discrete(3), ACTIONS, "Discrete space"),
        (Tuple((VECTOR, Discrete(3))), ACTIONS, r"observation\[1\] is a Discrete space"),
    ],
)
def test_kinds_that_cannot_be_used(observation_space, action_space, message):
    one = episode(0, 2)
    if isinstance(action_space, Dict):
        one["actions"] = {"a": one["actions"]}
    elif isinstance(action_space, Tuple):
        one["actions"] = (one["actions"], one["actions"])
    elif action_space.dtype != np.float32:
        one["actions"] = np.zeros((2, *action_space.shape), np.int64)
    if isinstance(observation_space, Tuple):
        one["observations"] = (one["observations"], np.zeros(3, np.int64))
    elif isinstance(observation_space, Discrete):
        one["observations"] = np.zeros(3, np.int64)
    make("test/kind-v0", [one], observation_space, action_space)
    with pytest.raises(DatasetError, match=message):
        loader.load("test/kind-v0")


def test_images_are_refused():
    space = Box(0, 255, (4, 4, 3), np.uint8)
    make("test/image-v0", [{**episode(0, 2), "observations": np.zeros((3, 4, 4, 3), np.uint8)}], space)
    with pytest.raises(DatasetError, match="image"):
        loader.load("test/image-v0")


def test_missing_dataset_says_how_to_get_it_at_once():
    started = time.monotonic()
    with pytest.raises(DatasetError, match="diffrl-collect --recipe=pointmaze/medium-fixedgoal-v0"):
        loader.load("diffrl/pointmaze/medium-fixedgoal-v0")
    with pytest.raises(DatasetError, match=r"diffrl-collect --recipe=pointmaze/medium-v0 \(diffrl-collect --list"):
        loader.load("diffrl/pointmaze/medium-v0")
    with pytest.raises(DatasetError, match="--download"):
        loader.load("mujoco/hopper/expert-v0")
    assert time.monotonic() - started < 0.5


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_no_network_fails_within_seconds(monkeypatch, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("MINARI_REMOTE", raising=False)
    started = time.monotonic()
    with pytest.raises(DatasetError, match=r"cannot be downloaded.*check the network.*diffrl-collect --list"):
        loader.load("mujoco/hopper/expert-v0", download=True)
    assert time.monotonic() - started < 7


def test_a_silent_server_is_given_up(monkeypatch):
    """A connection that is never answered: stood in for by one that waits."""
    monkeypatch.setattr(loader, "_PROBE_SECONDS", 0.2)

    def wait(*_: object, **__: object) -> None:
        time.sleep(30)
        raise TimeoutError

    monkeypatch.setattr(loader.socket, "create_connection", wait)
    started = time.monotonic()
    assert not loader._reachable("https://example.invalid")
    assert time.monotonic() - started < 2


def test_damaged_files_are_named(root):
    make("test/cut-v0", [episode(0, 200) for _ in range(3)])
    data = root / "test/cut-v0/data"
    whole = (data / "main_data.hdf5").read_bytes()
    for keep in (len(whole) // 2, 100, 0):
        (data / "main_data.hdf5").write_bytes(whole[:keep])
        with pytest.raises(DatasetError, match=r"'test/cut-v0' is damaged or incomplete.*delete"):
            loader.load("test/cut-v0")
    (data / "main_data.hdf5").unlink()
    with pytest.raises(DatasetError, match="'test/cut-v0' is damaged"):
        loader.load("test/cut-v0")
    (data / "metadata.json").write_text("{")
    with pytest.raises(DatasetError, match="'test/cut-v0' is damaged"):
        loader.load("test/cut-v0")


def test_gymnasium_spec_survives():
    env = gymnasium.make("Pendulum-v1")
    make("test/pendulum-v0", [{**episode(0, 2), "actions": np.zeros((2, 1), np.float32)}], None, None, env=env)
    from diffrl.envs.make import choose

    envs = choose("gymnasium", loader.load("test/pendulum-v0").env_spec, None).host(1)
    assert envs.reset([0]).shape == (1, 3)
    envs.close()
