"""The control tasks of score-guided planning: known numbers, symmetries, data, gradients, and the way through gymnasium."""

import dataclasses
import json

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from support import chosen, quick_compilation

from diffrl.envs import make
from diffrl.envs.control import reference, registry
from diffrl.envs.control.cart_pole import HIGH, LOW, CartPoleSwingUp
from diffrl.envs.control.corridor import Corridor
from diffrl.envs.control.gym import ControlEnv, spec_of
from diffrl.envs.control.hole import HoleIntegrator
from diffrl.envs.control.pendulum import PendulumKeypoints
from diffrl.envs.control.pixels import ACTION_RANGE, STATE_RANGE, PixelIntegrator
from diffrl.envs.control.pusher import KeypointPusher
from diffrl.envs.protocol import DeviceEnvironment


@pytest.fixture(autouse=True)
def quick():
    with quick_compilation():
        yield


MADE = [task() for task in registry.TASKS.values()]
ALL = pytest.mark.parametrize("task", MADE, ids=list(registry.TASKS))
SOME = pytest.mark.parametrize("task", chosen(MADE, 0, 1, 5), ids=list(registry.TASKS))


def acceptance(task, n: int) -> float:
    """Share of proposed transitions that belong to the data."""
    keys = jax.random.split(jax.random.key(0), n)
    return float(jax.jit(jax.vmap(lambda key: task.keeps(*task.propose(key))))(keys).mean())


# Numbers below were computed apart from this code, from the same equations.


@pytest.mark.parametrize(
    ("plant", "push", "following", "hard_push"),
    [
        ("code", 2.22984, (0.452787, 0.294076, -0.886137, 1.711173), -40.1297),
        ("true", 0.42905, (0.450536, 0.294076, -0.976198, 1.711173), -4.12179),
    ],
)
def test_cart_pole_numbers(plant, push, following, hard_push):
    task, x, u = CartPoleSwingUp(plant=plant), jnp.array([0.5, 0.2, -1.0, 2.0]), jnp.array([2.0])
    np.testing.assert_allclose(task.derivative(x, u), (-1.0, 2.0, push, -4.73889), rtol=1e-5)
    np.testing.assert_allclose(task.dynamics(x, u), following, atol=1e-6)
    hard = task.derivative(jnp.array([0.0, 3.0, 0.5, -1.0]), jnp.array([-40.0]))
    np.testing.assert_allclose(hard[2:], (hard_push, -10.92985), rtol=1e-5)
    # Left and right are alike.
    np.testing.assert_allclose(task.dynamics(-x, -u), -task.dynamics(x, u), atol=1e-6)


@pytest.mark.parametrize(
    ("physical", "u", "friction", "pose"),
    [
        ((0, 0, 0, -0.07835, 0), (0.05, 0), 0.0, (0.05, 0, 0)),
        ((0, 0, 0, -0.07835, 0), (0.05, 0), 0.3, (0.05, 0, 0)),
        ((0, 0, 0, -0.07835, 0.05), (0.05, 0), 0.0, (0.03097, -0.00745, -0.44733)),
        ((0, 0, 0, -0.07835, 0.05), (0.05, 0), 0.3, (0.02994, -0.01239, -0.41005)),
        ((0, 0, 0, 0, -0.12015), (0.01, 0.05), 0.0, (-0.00104, 0.04956, 0.05804)),
        ((0, 0, 0, 0, -0.12015), (0.01, 0.05), 0.3, (0.00137, 0.04974, 0.10144)),
    ],
)
def test_pusher_numbers(physical, u, friction, pose):
    task = KeypointPusher(friction=friction)
    physical, u = jnp.array(physical, jnp.float32), jnp.array(u, jnp.float32)
    advance = jax.jit(task.advance)
    after = advance(physical, u)
    np.testing.assert_allclose(after[:3], pose, atol=1.2e-5)  # half of the last digit that is given
    np.testing.assert_allclose(after[3:], physical[3:] + u, atol=1e-6)
    # Mirrored in y, everything is.
    mirror = jnp.array([1.0, -1.0, -1.0, 1.0, -1.0])
    np.testing.assert_allclose(advance(physical * mirror, u * mirror[:2]), after * mirror, atol=1e-6)
    # Turned and moved, too.
    turn = jnp.array([[jnp.cos(0.7), -jnp.sin(0.7)], [jnp.sin(0.7), jnp.cos(0.7)]])
    moved = lambda s: jnp.concatenate([turn @ s[:2] + 0.3, s[2:3] + 0.7, turn @ s[3:] + 0.3])  # noqa: E731
    np.testing.assert_allclose(advance(moved(physical), turn @ u), moved(after), atol=2e-6)


def test_pusher_keeps_the_box_rigid_and_outside():
    task = KeypointPusher()
    observation, action, length = task.episodes(jax.random.key(0), 60)
    assert (length == 10).all()
    assert observation.shape == (60, 11, 12)
    assert action.shape == (60, 10, 2)
    assert np.abs(action).max() <= 0.05
    points = np.asarray(observation[..., :10]).reshape(60, 11, 5, 2)
    np.testing.assert_allclose(np.linalg.norm(points[..., 0, :] - points[..., 2, :], axis=-1), 0.19109, atol=1e-5)
    np.testing.assert_allclose(points[..., :4, :].mean(axis=-2), points[..., 4, :], atol=1e-6)
    assert np.median(points[:, -1, 4, 0] - points[:, 0, 4, 0]) > 0.1  # most pushes move it by more than its depth
    # A gap opens or the pusher touches; it is never inside by more than a sub-step's rounding.
    pose = np.asarray(jax.vmap(jax.vmap(task.estimate))(observation))
    turned = np.stack([np.cos(pose[..., 2]), np.sin(pose[..., 2])], axis=-1)
    offset = pose[..., 3:] - pose[..., :2]
    body = np.stack([(offset * turned).sum(-1), offset[..., 1] * turned[..., 0] - offset[..., 0] * turned[..., 1]], axis=-1)
    gap = np.linalg.norm(np.maximum(np.abs(body) - (0.04335, 0.08515), 0.0), axis=-1)
    assert gap.min() > 0.0345


def test_pendulum_is_the_angles_midpoint_rule():
    task, angle, spin, torque = PendulumKeypoints(), 0.4, -1.5, 2.0
    acceleration = lambda a, s: (torque - 0.1 * s + 9.81 * 0.5 * np.sin(a)) / 0.25  # noqa: E731
    middle = angle + 0.025 * spin, spin + 0.025 * acceleration(angle, spin)
    after = angle + 0.05 * middle[1], spin + 0.05 * acceleration(*middle)
    expected = 0.5 * np.cos(after[0]), 0.5 * np.sin(after[0]), after[1]
    x = jnp.array([0.5 * np.cos(angle), 0.5 * np.sin(angle), spin], jnp.float32)
    np.testing.assert_allclose(task.dynamics(x, jnp.array([torque])), expected, atol=1e-6)
    # What is off the circle is put onto it.
    off = x * jnp.array([1.3, 1.3, 1.0])
    np.testing.assert_allclose(task.dynamics(off, jnp.array([torque])), expected, atol=1e-6)


@pytest.mark.parametrize("task", [PixelIntegrator(), PixelIntegrator(size=32, blob_std=1.04)], ids=["16", "32"])
def test_pixels_show_points(task):
    points = jax.random.uniform(jax.random.key(0), (500, 2), minval=-1.0)
    for scale, half_width, error in ((1.0, STATE_RANGE, 0.013), (0.1, ACTION_RANGE, 0.0035)):
        images = jax.jit(jax.vmap(lambda point, w=half_width: task.render(point, w)))(scale * points)
        assert float(images.max()) == 1.0
        assert float(images.min()) >= 0.0
        decoded = jax.jit(jax.vmap(lambda image, w=half_width: task.centroid(image, w)))(images)
        assert float(jnp.linalg.norm(decoded - scale * points, axis=1).max()) < error
    # Rows are y: a dot on the right is bright in the last columns.
    assert float(task.render(jnp.array([0.9, 0.0]), STATE_RANGE).reshape(task.size, -1)[:, task.size // 2 :].sum()) > 1.0
    x, u = task.render(jnp.array([0.5, -0.3]), STATE_RANGE), task.render(jnp.array([-0.08, 0.05]), ACTION_RANGE)
    np.testing.assert_allclose(task.estimate(task.dynamics(x, u)), (0.42, -0.25), atol=0.02)
    np.testing.assert_allclose(task.estimate(jnp.zeros(task.observation_dim)), 0.0)


@pytest.mark.parametrize(
    ("task", "share"),
    [
        (HoleIntegrator(), 1.0 - np.pi * 0.4**2 / 4.0),
        (CartPoleSwingUp(plant="code"), 0.803542),  # the released recipe's 803,542 of a million draws
        (CartPoleSwingUp(plant="true"), 0.904946),
        (PendulumKeypoints(), 1.0),
    ],
    ids=["hole", "code", "true", "pendulum"],
)
def test_share_of_draws_that_are_data(task, share):
    n = 100_000
    assert acceptance(task, n) == pytest.approx(share, abs=4.0 * np.sqrt(share * (1.0 - share) / n) + 1e-9)


def test_data_of_the_boxes():
    x, u, following = HoleIntegrator().sample(jax.random.key(0), 20_000)
    radius = np.linalg.norm(x, axis=1)
    assert radius.min() >= 0.4
    assert np.abs(x).max() <= 1.0
    assert np.linalg.norm(following, axis=1).min() < 0.4  # what follows may lie in the hole
    np.testing.assert_allclose(u.std(axis=0), 0.1 / np.sqrt(3), rtol=0.02)
    np.testing.assert_allclose(np.asarray(x).mean(axis=0), 0.0, atol=0.02)
    x, u, following = CartPoleSwingUp().sample(jax.random.key(1), 20_000)
    for state in (np.asarray(x), np.asarray(following)):
        assert ((state >= LOW) & (state <= HIGH)).all()
    assert np.abs(u).max() <= 80.0
    assert np.abs(u).mean() == pytest.approx(40.0, rel=0.05)


def test_corridor_data_stay_and_walks_keep_their_distribution():
    task = Corridor()
    x, _, following = task.sample(jax.random.key(0), 10_000)
    for state in (np.asarray(x), np.asarray(following)):
        assert (state >= -0.1).all()
        assert (state <= 0.1).any(axis=1).all()
    assert np.mean(x[:, 0] > x[:, 1]) == pytest.approx(0.5, abs=0.02)
    # A symmetric walk within walls that redraws its steps leaves the rows' distribution as it is, far along too.
    episodes = task.episodes(jax.random.key(1), 1_000)
    last = np.asarray(episodes.observation)[:, 15:20][np.asarray(episodes.length) == 20].reshape(-1, 2)
    across_rows, across_walk = (np.abs(s[s[:, 0] > 0.2, 1]).mean() for s in (np.asarray(x), last))
    assert across_walk == pytest.approx(across_rows, rel=0.05)
    assert float(episodes.length.mean()) > 19.5


@SOME
def test_protocol_data_and_planners_functions_agree(task):
    assert isinstance(task, DeviceEnvironment)
    x, u, following = task.sample(jax.random.key(0), 256)
    assert x.shape == following.shape == (256, task.observation_dim)
    assert u.shape == (256, task.action_dim)
    assert len(task.action_low) == len(task.action_high) == task.action_dim
    assert (np.asarray(u) >= np.array(task.action_low, np.float32)).all()
    assert (np.asarray(u) <= np.array(task.action_high, np.float32)).all()
    # Centroids are off by a hundredth, and so are pictures drawn at them.
    predicted = jax.jit(jax.vmap(task.dynamics))(x, u)
    np.testing.assert_allclose(predicted, following, atol=0.2 if task.observation_dim == 256 else 1e-5)
    if task.goal_observation is not None:
        assert task.reached(jnp.asarray(task.goal_observation))
        assert float(task.final_cost(jnp.asarray(task.goal_observation))) == pytest.approx(0.0, abs=0.2)
    episodes = task.episodes(jax.random.key(1), 16)
    assert episodes.observation.shape == (16, task.data_steps + 1, task.observation_dim)
    assert episodes.length.min() >= 1
    inside = np.asarray(jax.jit(jax.vmap(jax.vmap(task.inside)))(episodes.observation))
    lengths = np.asarray(episodes.length) + task.filters_next
    assert inside[np.arange(task.data_steps + 1) < lengths[:, None]].all()


@SOME
def test_a_return_is_minus_the_objective(task):
    @jax.jit
    def play():
        """Return and outcome of an episode, and the objective of the same actions."""
        first, _ = task.reset(jax.random.key(0))
        keys = jax.random.split(jax.random.key(1), task.max_episode_steps)
        actions = jax.lax.map(lambda key: task.propose(key)[1], keys)
        _, result = jax.lax.scan(task.step, first, actions)

        def advance(physical, action):
            x = task.observe(physical)
            return task.advance(physical, action), task.cost(x, action)

        last, costs = jax.lax.scan(advance, first.physical, actions)
        return result, costs.sum() + task.final_cost(task.observe(last)), task.observe(last)

    result, objective, last = play()
    assert float(result.reward.sum()) == pytest.approx(-float(objective), rel=1e-4)
    np.testing.assert_allclose(result.observation[-1], last, atol=1e-4)
    assert not result.terminated.any()


@SOME
def test_gradients_are_finite(task):
    """Along data, at rest with no action, and through what no state looks like."""
    x, u, _ = task.sample(jax.random.key(0), 256)
    still = task.observe(task.start(jax.random.key(0)))[None]
    strange = jax.random.normal(jax.random.key(1), (64, task.observation_dim))
    x = jnp.concatenate([x, still, jnp.zeros_like(still), strange])
    u = jnp.concatenate([u, jnp.zeros((66, task.action_dim))])

    def total(x, u):
        following = task.dynamics(x, u)
        return task.cost(x, u) + task.final_cost(following) + following.sum()

    for gradient in jax.jit(jax.vmap(jax.grad(total, argnums=(0, 1))))(x, u):
        assert np.isfinite(gradient).all()


def test_success_is_the_goal_reached_within_the_data():
    hole, corridor = HoleIntegrator(), Corridor()

    def arrives(task, actions):
        state, _ = task.reset(jax.random.key(0))
        for action in actions:
            state, result = task.step(state, jnp.array(action))
        assert task.reached(result.observation)
        return bool(result.success)

    def towards(*points):
        legs = []
        for a, b in zip(np.array(points[:-1], np.float32), np.array(points[1:], np.float32), strict=True):
            steps = int(np.ceil(np.abs(b - a).max() / 0.1 - 1e-6))
            legs += [(b - a) / steps] * steps
        return legs

    assert not arrives(hole, towards((0.8, 0.2), (-0.8, 0.2)))
    assert arrives(hole, towards((0.8, 0.2), (0.0, 0.5), (-0.8, 0.2)))
    assert not arrives(corridor, [10 * leg for leg in towards((0, 1), (1, 0))])
    assert arrives(corridor, [10 * leg for leg in towards((0, 1), (0, 0), (1, 0))])
    # Actions are clipped to the bounds of the data.
    state, _ = hole.reset(jax.random.key(0))
    np.testing.assert_allclose(hole.step(state, jnp.array([-9.0, 9.0]))[1].observation, (0.7, 0.3), atol=1e-6)


@pytest.mark.slow
def test_known_optima_are_found():
    """Without the hole's penalty the best plan is a straight line of equal steps: 25 steps, weight 100 on the end."""
    straight = 1.6**2 * 100.0 / (1.0 + 25 * 100.0)
    found = reference.planned_returns(HoleIntegrator(), jax.random.key(0), 1, 4, 2_000)
    assert -1.2 * straight < float(found[0]) < -0.999 * straight
    assert float(reference.random_returns(HoleIntegrator(), jax.random.key(0), 50).mean()) < -100.0
    # The pole can be swung up within the horizon.
    assert float(reference.planned_returns(CartPoleSwingUp(), jax.random.key(0), 1, 8, 400)[0]) > -0.1


@ALL
def test_spec_round_trip(task):
    for variant in (task, dataclasses.replace(task, max_episode_steps=7)):
        text = spec_of(variant).to_json()
        chosen = make.choose("auto", text, None)
        assert chosen.name == "jax"
        assert chosen.device == variant
    assert "Suh et al." in chosen.simulator
    host = make.choose("gymnasium", text, None).host(2)
    assert host.reset([0, 1]).shape == (2, task.observation_dim)
    host.close()

    spec = json.loads(text)

    def changed(**fields):
        return registry.from_env_spec(json.dumps({**spec, **fields}))

    assert changed() == variant
    assert changed(kwargs={**spec["kwargs"], "unknown": 1}) is None
    assert changed(kwargs={**spec["kwargs"], "task": "Unknown"}) is None
    assert changed(max_episode_steps=8) is None
    assert changed(entry_point="a:b") is None
    wrapper = {"name": "TransformReward", "entry_point": "x:y", "kwargs": {}}
    assert changed(additional_wrappers=[wrapper]) is None
    assert registry.from_env_spec("no json") is None


def test_constructor_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="'true' or 'code'"):
        CartPoleSwingUp(plant="none")
    with pytest.raises(ValueError, match="one of HoleIntegrator"):
        registry.make("Nothing")


# The checker would have bounded observations and actions within [-1, 1].
@pytest.mark.filterwarnings("ignore:.*(Box observation space|symmetric and normalized)")
@pytest.mark.parametrize("name", chosen(["CartPoleSwingUp", "KeypointPusher"], 0))
def test_gymnasium_adapter(name):
    env = gymnasium.make(f"diffrl.envs.control.gym:diffrl/{name}-v0")
    assert isinstance(env.unwrapped, ControlEnv)
    check_env(env.unwrapped, skip_render_check=True)
    # Steps are the task's own, and the time limit truncates.
    task = env.unwrapped.task
    observation, _ = env.reset(seed=3)
    state, _ = task.reset(jax.random.key(0))
    state = state._replace(physical=task.estimate(jnp.asarray(observation)))
    truncated = False
    while not truncated:
        action = env.action_space.sample()
        observation, reward, terminated, truncated, info = env.step(action)
        state, result = jax.jit(task.step)(state, jnp.asarray(action))
        np.testing.assert_allclose(observation, result.observation, rtol=1e-4, atol=1e-4)
        assert not terminated
        assert info == {"success": bool(result.success)}
    assert int(state.time) == task.max_episode_steps
    assert reward == pytest.approx(float(result.reward), rel=1e-3)
    env.close()
