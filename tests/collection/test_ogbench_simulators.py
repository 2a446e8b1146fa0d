"""OGBench's data in its own environments: a stored state gives its row's reward, and what solves a task scores as solved."""

import functools
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from ogbench_oracle import Oracle, presses

pytest.importorskip("ogbench")

from diffrl.algorithm import Algorithm
from diffrl.collection import ogbench
from diffrl.collection.ogbench import SETS
from diffrl.data.ogbench_tasks import Labels, labelled
from diffrl.envs.gymnasium_backend import GymnasiumEnvironments, make_env
from diffrl.envs.ogbench import tasks
from diffrl.evaluation.rollout import episode_seeds, host_rollout

PLAY = {each.env: name for name, each in SETS.items() if each.behaviour in ("navigate", "play")}
NOISY = [name for name, each in SETS.items() if each.behaviour == "noisy"]


@functools.cache
def episode(name, steps):
    return ogbench.simulate_episode(name, 0, 0, steps)


def source_of(rows, name):
    """The rows as they come from a file, without a task."""
    from diffrl.data.arrays import from_arrays

    return from_arrays(
        observation=rows["observations"][:-1],
        action=rows["actions"][:-1],
        reward=np.zeros(len(rows["actions"]) - 1),
        terminal=np.zeros(len(rows["actions"]) - 1),
        next_observation=rows["observations"][1:],
        id=f"{name}-v0",
    )


def stand_in(env, rows, i):
    """Put the environment into the state of a row, as its own reset leaves it."""
    scene = env.unwrapped
    if "button_states" in rows:
        scene.set_state(rows["qpos"][i].astype(float), rows["qvel"][i].astype(float), rows["button_states"][i].copy())
    else:
        scene.set_state(rows["qpos"][i].astype(float), rows["qvel"][i].astype(float))
    if hasattr(scene, "pre_step"):
        scene.pre_step()
        scene.post_step()


def check_identity(name, steps, every):
    """Rewards and terminals of all tasks, dense and sparse, against the environment's; and goals and rows against relabelling."""
    from ogbench.relabel_utils import relabel_dataset

    env_name, rows = SETS[name].env, episode(name, steps)
    source = source_of(rows, name)
    env = make_env(tasks.spec_of(env_name, 1))
    env.reset(seed=0)
    for number in range(1, 6):
        # One environment of all tasks: the arm's takes seconds to compile.
        env.unwrapped._reward_task_id = number
        env.reset(seed=number)
        own = {key: rows[key][:-1] for key in ("qpos", "button_states") if key in rows}
        relabel_dataset(env_name, env, own)
        dense, sparse = (labelled(source, Labels(task=str(number), reward=reward)).transitions for reward in ("dense", "sparse"))
        np.testing.assert_array_equal(dense.reward, own["rewards"])
        np.testing.assert_array_equal(dense.terminal, own["masks"] == 0.0)
        stepped = {*range(number, steps, every), *np.flatnonzero(np.diff(own["rewards"]))[:3].tolist()}
        for i in sorted(stepped):
            stand_in(env, rows, i)
            _, reward, terminated, _, info = env.step(rows["actions"][i])
            assert reward == dense.reward[i]
            assert bool(terminated) == bool(info["success"]) == dense.terminal[i]
            assert sparse.reward[i] == (0.0 if terminated else -1.0)
    env.close()


def test_a_stored_state_gives_its_rows_reward():
    check_identity("pointmaze-teleport-navigate", 1000, 100)
    check_identity("scene-play", 60, 40)


@pytest.mark.slow
@pytest.mark.parametrize("env", PLAY)
def test_a_stored_state_gives_its_rows_reward_everywhere(env):
    check_identity(PLAY[env], 300, 60)


def replay(env_name, number, seeds, episodes=1, version="1.2", reward="dense"):
    """The oracle's episodes, recorded, and then played back as R × E episodes of one evaluation."""
    spec = tasks.spec_of(env_name, number, reward, version)
    starts = episode_seeds(seeds, 0, episodes)
    envs = GymnasiumEnvironments(spec, None, len(starts))
    played, recorded = envs._envs, []
    for env, start in zip(played, starts, strict=True):
        envs._start(env, start)
        np.random.seed(0)  # noqa: NPY002 - the oracles draw from it
        oracle, actions, rewards, ended = Oracle(env), [], [], False
        while not ended:
            actions.append(oracle.act())
            _, gained, terminated, truncated, info = env.step(actions[-1])
            rewards.append(gained)
            ended = terminated or truncated
        recorded.append((actions, sum(rewards), info["success"]))
    longest = max(len(actions) for actions, _, _ in recorded)
    padded = [[*actions, *[np.zeros_like(actions[0])] * (longest - len(actions))] for actions, _, _ in recorded]
    policies = {"actions": jnp.asarray(padded, jnp.float32).reshape(len(seeds), episodes, longest, -1)}
    algorithm = Algorithm(
        init=None,
        stages=(),
        policy=None,
        hparams=None,
        init_carry=lambda policy, shape: jnp.zeros((), jnp.int32),
        act=lambda policy, carry, observation, key: (policy["actions"][:, carry], carry + 1),
    )
    rolled = host_rollout(algorithm, envs, episodes)(policies, seeds, 0)
    envs.close()
    shape = (len(seeds), episodes)
    np.testing.assert_array_equal(rolled.lengths, np.reshape([len(actions) for actions, _, _ in recorded], shape))
    np.testing.assert_array_equal(rolled.successes, np.reshape([bool(success) for _, _, success in recorded], shape))
    np.testing.assert_allclose(rolled.returns, np.reshape([total for _, total, _ in recorded], shape))
    return rolled


def test_the_oracles_own_replay_succeeds():
    assert replay("pointmaze-medium", 1, [0, 1], episodes=2).successes.all()
    assert replay("cube-single", 1, [0, 1]).successes.all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "env, number",
    [
        *((f"pointmaze-{maze}", number) for maze in ("medium", "large", "giant") for number in (1, 3, 5)),
        *(("cube-single", number) for number in range(1, 6)),
        *(("puzzle-3x3", number) for number in (1, 4)),
        ("scene", 1),
        ("cube-double", 1),
    ],
)
def test_the_oracles_own_replay_succeeds_elsewhere(env, number):
    rolled = replay(env, number, [0, 1])
    assert rolled.successes.all()
    old = replay(env, number, [0, 1], version="1.1", reward="sparse")
    # 1.1 looks after the action: it sees each success a step earlier, and -1 a step less.
    np.testing.assert_array_equal(old.lengths, rolled.lengths - 1)
    np.testing.assert_allclose(old.returns, 1.0 - old.lengths)


@pytest.mark.slow
def test_copies_of_the_arm_do_not_feel_each_other():
    """Copies share a model; a drawer that is pushed moves where the copy's own button has unlocked it."""
    spec, keys, starts = tasks.spec_of("scene", None), ("observation", "desired_goal"), [0, 1, 2, 3]

    def push(envs):
        for env in envs._envs:
            env.unwrapped.data.joint("drawer_slide").qvel[0] = -0.5
        action = np.random.default_rng(0).uniform(-1, 1, (5, 5)).astype(np.float32)
        # Without the goals, which OGBench observes after actions of a generator that nobody seeds.
        return np.stack([envs.step(np.tile(one, (envs.num_envs, 1))).observation[:, :40] for one in action])

    together = GymnasiumEnvironments(spec, keys, 4)
    together.reset(starts)
    locked = [bool(env.unwrapped._cur_button_states[0] == 0) for env in together._envs]
    assert len(set(locked)) == 2
    found = push(together)
    alone = GymnasiumEnvironments(spec, keys, 1)
    for i, start in enumerate(starts):
        alone.reset([start])
        np.testing.assert_array_equal(push(alone)[:, 0], found[:, i])
    moved = np.abs(found[-1, :, 36] - found[0, :, 36]) > 0.01
    assert moved.tolist() == [not each for each in locked]


def test_presses_put_all_lights_right_and_are_fewest():
    def press(lights, button):
        i, j = divmod(button, 3)
        for row, column in ((i, j), (i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            if 0 <= row < 3 and 0 <= column < 3:
                lights[row, column] ^= 1

    for buttons in ((), (4,), (0, 8), (1, 2, 3, 5)):
        lights = np.zeros((3, 3), int)
        for button in buttons:
            press(lights, button)
        assert presses(lights) == buttons


def test_goal_conditioned_form_acts_in_its_environment():
    from diffrl.data.environment import matched

    source = labelled(
        source_of(episode("pointmaze-teleport-navigate", 1000), "pointmaze-teleport-navigate"), Labels(task="goals")
    )
    found, why_not = matched(source)
    assert why_not == ""
    envs = GymnasiumEnvironments(found.env_spec, found.observation_keys, 3)
    observation = envs.reset([0, 1, 2])
    step = envs.step(np.zeros((3, 2), np.float32))
    assert observation.shape == (3, 4)
    np.testing.assert_array_equal(step.observation[:, 2:], observation[:, 2:])
    assert not (observation[:, 2:] == observation[:, :2]).any()
    assert len({tuple(goal) for goal in observation[:, 2:].tolist()}) > 1
    envs.close()


def correlation(actions):
    a = actions - actions.mean(axis=0)
    return float((a[1:] * a[:-1]).sum() / (a**2).sum())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(each for each in PLAY.values() if "maze" not in each), *NOISY])
def test_rows_are_those_of_their_behaviour(name):
    rows = episode(name, 1000)
    assert rows["observations"].shape[0] == rows["terminals"].shape[0] == 1001
    assert np.flatnonzero(rows["terminals"]).tolist() == [1000]
    assert all(np.isfinite(value).all() for value in rows.values())
    assert np.abs(rows["actions"]).max() <= 1.0
    if name.startswith("scene"):
        assert ogbench.in_sight(rows["qpos"][:, 14:17])
    xyz = np.abs(rows["actions"][:, :3]).max(axis=1)
    if SETS[name].behaviour == "play":
        # Plans are smooth: successive actions are alike.
        assert correlation(rows["actions"][:, :3]) > 0.5
    else:
        # The oracle pushes at least one of x, y, z to the bound, less 0.1 of noise; what does not is uniformly random.
        share = 0.2 if name.startswith("puzzle") else 0.1
        low = (xyz < 0.65).mean() / 0.65**3
        assert abs(low - share) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cube-double-noisy", "scene-noisy", "puzzle-3x3-play"])
def test_an_episode_does_not_depend_on_those_before_it(name):
    alone = ogbench.simulate_episode(name, 0, 3, 200)
    for before in (1, 2):
        ogbench.simulate_episode(name, 0, before, 60)
    again = ogbench.simulate_episode(name, 0, 3, 200)
    for key, value in alone.items():
        np.testing.assert_array_equal(again[key], value)


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gymnasium's and dm_control's, of types and deprecations
        yield
