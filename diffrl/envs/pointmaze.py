"""PointMaze in pure JAX: MuJoCo's soft contact written out for one sphere among boxes, so that whole evaluations compile.

By default the environment is `PointMaze_*-v3` of gymnasium-robotics 1.4 on MuJoCo 3.5 or newer (older ones use half the
contact margin); other `Rules` make D4RL's maze2d of it (`envs/maze2d`). Tests step each beside MuJoCo from the same states
and find the same next state up to float32 rounding.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from diffrl.envs import env_spec
from diffrl.envs.protocol import Step
from diffrl.types import Key

KEYS = ("achieved_goal", "desired_goal", "observation")  # the order of gymnasium's Dict space: alphabetical
WIDTHS = {"observation": 4, "achieved_goal": 2, "desired_goal": 2}

# Bodies (assets/point/point.xml): a sphere of 1000 kg/m^3 on two slide joints, pushed by two motors.
RADIUS, DT, GEAR, DAMPING, MAX_SPEED = 0.1, 0.01, 100.0, 1.0, 5.0
MASS = 1000.0 * 4.0 / 3.0 * np.pi * RADIUS**3
# Contacts (MuJoCo documentation, "Computation", defaults of solref and solimp).
TIME_CONSTANT, IMPEDANCE_MIN, IMPEDANCE_MAX, IMPEDANCE_WIDTH = 0.02, 0.9, 0.95, 0.001
STIFFNESS = 1.0 / (IMPEDANCE_MAX**2 * TIME_CONSTANT**2)
CONTACT_DAMPING = 2.0 / (IMPEDANCE_MAX * TIME_CONSTANT)
# The active set of at most three contacts settles in two or three iterations; more cost little and change nothing.
NEWTON_ITERATIONS = 6
_CORNERS = np.array([[-1, -1], [-1, 0], [0, -1], [0, 0]])  # the four cells around a lattice point

# Arguments of PointMazeEnv that change the picture only.
_RENDERING = {"render_mode", "width", "height", "camera_id", "camera_name", "max_geom", "visual_options"}
_U_MAZE = ((1, 1, 1, 1, 1), (1, 0, 0, 0, 1), (1, 1, 1, 0, 1), (1, 0, 0, 0, 1), (1, 1, 1, 1, 1))  # the constructor's default


class Rules(NamedTuple):
    """What tasks of the same point differ in. By default those of gymnasium-robotics' maze_v4.py; noise is per axis.

    Attributes:
        margin: m, at which a wall begins to push; the sum of the two geoms' margins.
        success_radius: m around the goal.
        goal_noise, start_noise: m, half width of the uniform noise on goals and starts.
        start_speed: m/s, standard deviation of the velocity at a start.
        min_start_distance: m, between a goal and the middle of starts; negative where the goal's own cell may be the start.
        off_centre: m, from the centre of a cell to the middle of its goals and starts.
        origin: observed position (m) of the centre of the maze.
    """

    margin: float = 0.004
    success_radius: float = 0.45
    goal_noise: float = 0.25
    start_noise: float = 0.25
    start_speed: float = 0.0
    min_start_distance: float = 0.5
    off_centre: float = 0.0
    origin: tuple[float, float] = (0.0, 0.0)


PACKAGE_RULES = Rules()


class State(NamedTuple):
    """Position (m) and velocity (m/s) of the point, and the goal of the episode."""

    position: Float[Array, "2"]
    velocity: Float[Array, "2"]
    goal: Float[Array, "2"]


def physics(
    walls: Bool[Array, "height width"] | Bool[np.ndarray, "height width"],
    position: Float[Array, "2"],
    velocity: Float[Array, "2"],
    action: Float[Array, "2"],
    rules: Rules = PACKAGE_RULES,
) -> tuple[Float[Array, "2"], Float[Array, "2"]]:
    """One step of 10 ms: returns the next position (m) and velocity (m/s).

    Solves MuJoCo's convex contact problem for the acceleration `a`: minimise m/2 |a - f/m|^2 + sum over contacts of
    D/2 min(0, n.a - a_ref)^2 by Newton's method on the active set, then integrates with implicit damping.
    """
    height, width = walls.shape
    velocity = jnp.clip(velocity, -MAX_SPEED, MAX_SPEED)
    force = GEAR * jnp.clip(action, -1.0, 1.0) - DAMPING * velocity
    # Walls farther than RADIUS + margin do not touch, so only the four cells around the nearest lattice point can.
    place = position - jnp.array(rules.origin, position.dtype)
    column = jnp.round(place[0] + width / 2).astype(jnp.int32) + _CORNERS[:, 0]
    row = jnp.round(height / 2 - place[1]).astype(jnp.int32) + _CORNERS[:, 1]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    solid = jnp.asarray(walls)[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)] & inside
    centre = jnp.stack([column + 0.5 - width / 2, height / 2 - row - 0.5], axis=-1).astype(position.dtype)
    # A centre inside a wall is out of reach: 5 m/s is 5 cm per step, and contact stops the point within one.
    offset = place[None] - jnp.clip(place[None], centre - 0.5, centre + 0.5)
    length = jnp.sqrt(jnp.maximum((offset**2).sum(axis=-1), 1e-30))
    normal = offset / length[:, None]
    penetration = length - RADIUS - rules.margin  # negative where the contact is on
    ratio = jnp.minimum(jnp.abs(penetration) / IMPEDANCE_WIDTH, 1.0)
    smooth = jnp.where(ratio < 0.5, 2.0 * ratio**2, 1.0 - 2.0 * (1.0 - ratio) ** 2)
    impedance = IMPEDANCE_MIN + smooth * (IMPEDANCE_MAX - IMPEDANCE_MIN)
    reference = -CONTACT_DAMPING * (normal @ velocity) - STIFFNESS * impedance * penetration
    stiffness = jnp.where(solid & (penetration < 0.0), MASS * impedance / (1.0 - impedance), 0.0)

    def pushing(acceleration: Array) -> Array:
        return jnp.where(normal @ acceleration < reference, stiffness, 0.0)

    acceleration = force / MASS
    for _ in range(NEWTON_ITERATIONS):
        active = pushing(acceleration)
        nx, ny = normal[:, 0], normal[:, 1]
        xx, yy, xy = MASS + (active * nx * nx).sum(), MASS + (active * ny * ny).sum(), (active * nx * ny).sum()
        gx, gy = force[0] + (active * reference * nx).sum(), force[1] + (active * reference * ny).sum()
        acceleration = jnp.stack([yy * gx - xy * gy, xx * gy - xy * gx]) / (xx * yy - xy * xy)
    contact = (pushing(acceleration) * (reference - normal @ acceleration)) @ normal
    velocity = velocity + DT * (force + contact) / (MASS + DT * DAMPING)
    return position + DT * velocity, velocity


@dataclasses.dataclass(frozen=True)
class PointMaze:
    """`DeviceEnvironment` of a maze with one goal per episode.

    Attributes:
        maze_map: rows from top to bottom, cells of 1 m; 1 wall, 0 free, "g" goal cell, "r" reset cell, "c" both.
        max_episode_steps: time limit.
        reward_type: "sparse": 1 on every step that ends within the success radius of the goal; "dense": exp(-distance in m).
        continuing_task: where False, reaching the goal terminates.
        observation_keys: concatenated in this order; among "observation" (x, y, vx, vy), "achieved_goal" (x, y),
            "desired_goal" (x, y).
        rules: noise, radii and the frame.
    """

    maze_map: tuple[tuple[int | str, ...], ...]
    max_episode_steps: int
    reward_type: str = "sparse"
    continuing_task: bool = True
    observation_keys: tuple[str, ...] = ("observation", "desired_goal")
    rules: Rules = PACKAGE_RULES

    action_dim = 2
    action_low, action_high = (-1.0, -1.0), (1.0, 1.0)
    num_actions = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a map without walls' shape, a goal or a start; an unknown key; an unknown reward."""
        if len({len(row) for row in self.maze_map}) != 1:
            raise ValueError(f"maze_map must be a rectangle, got rows of lengths {[len(row) for row in self.maze_map]}")
        unknown = sorted({str(cell) for row in self.maze_map for cell in row} - {"0", "1", "g", "r", "c"})
        if unknown:
            raise ValueError(f"maze_map knows 1, 0, 'g', 'r' and 'c', got {', '.join(unknown)}")
        if self.reward_type not in ("sparse", "dense"):
            raise ValueError(f"reward_type must be 'sparse' or 'dense', got {self.reward_type!r}")
        if not self.observation_keys or not set(self.observation_keys) <= set(KEYS):
            raise ValueError(f"observation_keys must be among {', '.join(KEYS)}, got {self.observation_keys}")
        goals, starts = self.cells()
        # Noise moves a goal by at most its diagonal: a start that is as much farther away exists for each of its positions.
        far = self.rules.min_start_distance + np.sqrt(2) * self.rules.goal_noise
        if not len(goals) or any(not (np.linalg.norm(starts - goal, axis=1) > far).any() for goal in goals):
            raise ValueError("maze_map needs a goal cell and, for each goal, a start cell elsewhere")

    @property
    def observation_dim(self) -> int:
        return sum(WIDTHS[key] for key in self.observation_keys)

    def cells(self) -> tuple[Float[np.ndarray, "goals 2"], Float[np.ndarray, "starts 2"]]:
        """Middles (m) of where goals and where starts are drawn, one a cell, as `Maze.make_maze` of gymnasium-robotics."""
        by_kind: dict[str, list[tuple[float, float]]] = {"0": [], "g": [], "r": [], "c": [], "1": []}
        height, width = len(self.maze_map), len(self.maze_map[0])
        for i, row in enumerate(self.maze_map):
            for j, cell in enumerate(row):
                x, y = j + 0.5 - width / 2 + self.rules.off_centre, height / 2 - i - 0.5 + self.rules.off_centre
                by_kind[str(cell)].append((x + self.rules.origin[0], y + self.rules.origin[1]))
        free, goals, starts, both = by_kind["0"], by_kind["g"], by_kind["r"], by_kind["c"]
        if not (goals or starts or both):
            both = free
        elif not (starts or both):
            starts = free
        elif not (goals or both):
            goals = free
        return np.array(goals + both, np.float32).reshape(-1, 2), np.array(starts + both, np.float32).reshape(-1, 2)

    def reset(self, key: Key) -> tuple[State, Float[Array, " observation"]]:
        """Goal cell, then a start cell, far enough from the goal; uniform noise on both, normal noise on the velocity."""
        rules = self.rules
        goal_cell, goal_noise, start_cell, start_noise, velocity = jax.random.split(key, 5)
        goals, starts = (jnp.asarray(cells) for cells in self.cells())
        goal = jax.random.choice(goal_cell, goals) + _uniform(goal_noise, rules.goal_noise)
        allowed = jnp.linalg.norm(starts - goal[None], axis=-1) > rules.min_start_distance
        # Rejection sampling draws uniformly among the allowed cells; so does this, without a loop.
        start = jax.random.choice(start_cell, starts, p=allowed / allowed.sum()) + _uniform(start_noise, rules.start_noise)
        state = State(position=start, velocity=rules.start_speed * jax.random.normal(velocity, (2,)), goal=goal)
        return state, self._observe(state)

    def step(self, state: State, action: Float[Array, "2"]) -> tuple[State, Step]:
        """One step of 10 ms. The reward is that of the position reached."""
        position, velocity = physics(self._walls(), state.position, state.velocity, action, self.rules)
        state = State(position, velocity, state.goal)
        distance = jnp.linalg.norm(position - state.goal)
        success = distance <= self.rules.success_radius
        reward = success.astype(jnp.float32) if self.reward_type == "sparse" else jnp.exp(-distance)
        terminated = jnp.zeros_like(success) if self.continuing_task else success
        return state, Step(self._observe(state), reward, terminated, success)

    def _walls(self) -> Bool[np.ndarray, "height width"]:
        return np.array([[cell == 1 for cell in row] for row in self.maze_map])

    def _observe(self, state: State) -> Float[Array, " observation"]:
        parts = {
            "observation": jnp.concatenate([state.position, state.velocity]),
            "achieved_goal": state.position,
            "desired_goal": state.goal,
        }
        return jnp.concatenate([parts[key] for key in self.observation_keys])


def _uniform(key: Key, half_width: float) -> Float[Array, "2"]:
    return jax.random.uniform(key, (2,), minval=-half_width, maxval=half_width)


def from_env_spec(env_spec_json: str, observation_keys: tuple[str, ...] | None) -> PointMaze | None:
    """The PointMaze that a gymnasium EnvSpec describes, or None where it describes something else.

    None too for what this class cannot represent exactly: goals that move within an episode (`reset_target`), an
    unknown argument or wrapper, no time limit, a maze without a valid start.

    Args:
        env_spec_json: `EnvSpec.to_json()`.
        observation_keys: keys to concatenate for a Dict observation; ignored where the spec flattens it itself.
    """
    spec = env_spec.read(env_spec_json)
    kwargs: dict[str, Any] = dict(spec.get("kwargs") or {})
    known = {"maze_map", "reward_type", "continuing_task", "reset_target"} | _RENDERING
    entry_point = "gymnasium_robotics.envs.maze.point_maze:PointMazeEnv"
    if spec.get("entry_point") != entry_point or not set(kwargs) <= known or not spec.get("max_episode_steps"):
        return None
    continuing = bool(kwargs.get("continuing_task", True))
    if continuing and kwargs.get("reset_target", False):
        return None
    try:
        keys = _observed_keys(env_spec.wrappers(spec), observation_keys)
        if keys is None:
            return None
        return PointMaze(
            maze_map=tuple(tuple(row) for row in kwargs.get("maze_map", _U_MAZE)),
            max_episode_steps=int(spec["max_episode_steps"]),
            reward_type=str(kwargs.get("reward_type", "sparse")),
            continuing_task=continuing,
            observation_keys=keys,
        )
    except (KeyError, TypeError, ValueError):  # the arguments are of other types than they should be
        return None


def _observed_keys(wrappers: Any, requested: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Keys in the order of the flat observation that `wrappers` and then the loader's flattening produce."""
    keys, flat = KEYS, False
    for wrapper in wrappers:
        name = wrapper["name"]
        if name == "FilterObservation" and not flat:
            kept = set(wrapper["kwargs"]["filter_keys"])
            keys = tuple(key for key in keys if key in kept)
        elif name == "FlattenObservation":
            flat = True
        elif name not in env_spec.HARMLESS_WRAPPERS:
            return None
    if flat:
        return keys
    requested = requested or (("observation", "desired_goal") if keys == KEYS else keys)
    return requested if set(requested) <= set(keys) else None
