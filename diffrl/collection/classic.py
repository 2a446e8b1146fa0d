"""Expert demonstrations of gymnasium's small tasks, by controllers in closed form that anyone can make again in seconds.

EDM (Jarrett et al. 2020, arXiv 2006.14154) and others imitate a handful of such episodes, without rewards. Their experts are
networks of the RL zoo; these controllers score at least as high on CartPole, Acrobot and MountainCar, and within the zoo's
spread on LunarLander. Episodes are stored whole: `dataset.num_episodes` and `dataset.keep_every` take the few rows of theirs.

Of MountainCar and Acrobot there are two experts each. A learner sees too little of the thin, curved region where MountainCar's
better controller switches to copy it from a few rows; "momentum" is what it can copy. This module imports no JAX.
"""

import functools
import importlib.metadata
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from diffrl.collection.recipe import Cost, Product, Recipe, Shard, split_episodes
from diffrl.envs.quiet import quiet_imports

ROWS_PER_SHARD = 20_000

Observation = Float[np.ndarray, " observation"]
Act = Callable[[Observation], Any]  # a number, or an action in a box


def balance(observation: Observation) -> int:
    """CartPole: push towards where the pole falls, with a little of the cart's own way back."""
    x, speed, angle, turning = observation.tolist()
    return int(0.05 * x + 0.15 * speed + angle + 0.3 * turning > 0)


def brake_shoulder(observation: Observation) -> int:
    """Acrobot: torque against the first link's velocity."""
    return 0 if observation[4] > 0 else 2


def swing_elbow(observation: Observation) -> int:
    """Acrobot: torque along the second link's velocity."""
    return 2 if observation[5] > 0 else 0


def switch(observation: Observation) -> int:
    """MountainCar: right between two curves in the plane of position and velocity, left outside."""
    x, speed = observation.tolist()
    low = min(-0.09 * (x + 0.25) ** 2 + 0.03, 0.3 * (x + 0.9) ** 4 - 0.008)
    return 2 if low < speed < -0.07 * (x + 0.38) ** 2 + 0.07 else 0


def follow_momentum(observation: Observation) -> int:
    """MountainCar: push the way it moves."""
    return 2 if observation[1] > 0 else 0


def swing_up(observation: Observation) -> Float[np.ndarray, "1"]:
    """Pendulum: pump energy until it is near the top, a linear law there."""
    cos, sin, turning = observation.tolist()
    if cos > 0.75:
        torque = -(10.0 * math.atan2(sin, cos) + 2.0 * turning)
    else:
        energy = turning**2 / 6 + 5 * (cos - 1)  # 0 at rest at the top
        torque = 2.0 * np.sign(turning) * (1 if energy < 0 else -1)
    return np.clip(np.array([torque], np.float32), -2.0, 2.0)


def land(observation: Observation) -> int:
    """LunarLander: the controller that gymnasium ships, for the task with discrete actions."""
    from gymnasium.envs.box2d.lunar_lander import heuristic

    task: Any = SimpleNamespace(unwrapped=SimpleNamespace(continuous=False))  # all that it asks the environment
    return int(heuristic(task, observation))


class Task(NamedTuple):
    """One recipe.

    Attributes:
        env_id: gymnasium's.
        expert: chooses the action.
        rows: by default, of about 40 episodes.
        reference: mean returns of random actions, over 400 episodes or more, and of the expert, over reset seeds 0 … 999.
        least_return: episodes of less are left out.
        extra: the extra of this package that brings the environment.
    """

    env_id: str
    expert: Act
    rows: int
    reference: tuple[float, float]
    least_return: float = -math.inf
    extra: str = "envs"

    @property
    def rule(self) -> str:
        """What the expert does, in a line."""
        return (self.expert.__doc__ or "").rstrip(".")


TASKS = {
    "cartpole-expert": Task("CartPole-v1", balance, 20_000, (22.2, 500.0)),
    "acrobot-expert": Task("Acrobot-v1", brake_shoulder, 3_400, (-498.5, -83.9)),
    "acrobot-elbow-expert": Task("Acrobot-v1", swing_elbow, 3_400, (-498.5, -87.8)),
    "mountaincar-expert": Task("MountainCar-v0", switch, 4_300, (-200.0, -105.7)),
    "mountaincar-momentum-expert": Task("MountainCar-v0", follow_momentum, 5_000, (-200.0, -129.2)),
    # A tenth of its landings fail: with them in it, the mean would be no expert's.
    "lunarlander-expert": Task("LunarLander-v3", land, 10_000, (-181.7, 268.0), least_return=200.0, extra="box2d"),
    "pendulum-expert": Task("Pendulum-v1", swing_up, 8_000, (-1230.7, -147.1)),
}


def make(env_id: str) -> Any:
    """gymnasium's environment.

    Raises:
        ImportError: it needs a package that is not installed.
    """
    with quiet_imports():
        import gymnasium

        if env_id.startswith("LunarLander"):
            import Box2D  # noqa: F401  # pyright: ignore[reportMissingImports] - gymnasium's own error names another package
        return gymnasium.make(env_id, disable_env_checker=True)


def episode(env: Any, act: Act, reset_seed: int) -> dict[str, np.ndarray]:
    """One episode, by rows.

    Returns:
        observation, action, reward, next_observation, terminal, timeout: `[steps, ...]`.
    """
    observation, over = env.reset(seed=reset_seed)[0], False
    rows: list[tuple[Any, ...]] = []
    while not over:
        action = act(observation)
        following, reward, terminal, timeout, _ = env.step(action)
        rows.append((observation, action, float(reward), following, terminal, timeout and not terminal))
        observation, over = following, terminal or timeout
    names = ("observation", "action", "reward", "next_observation", "terminal", "timeout")
    return {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def play(name: str, seed: int, shard: int, rows: int) -> dict[str, np.ndarray]:
    """Whole episodes of the expert, at least so many rows of them.

    Returns:
        what `episode` gives, episodes one after another.
    """
    task, made, count = TASKS[name], [], 0
    env = make(task.env_id)
    number = 0
    while count < rows:
        reset_seed = int(np.random.SeedSequence([seed, shard, number]).generate_state(1)[0])
        lived, number = episode(env, task.expert, reset_seed), number + 1
        if lived["reward"].sum() >= task.least_return:
            made.append(lived)
            count += len(lived["reward"])
    env.close()
    return {field: np.concatenate([lived[field] for lived in made]) for field in made[0]}


def versions(name: str) -> str:
    """What the rows depend on, for the record."""
    packages = ("gymnasium", "numpy", *(("box2d",) if TASKS[name].extra == "box2d" else ()))
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)


def _shards(name: str, seed: int, rows: int) -> list[Shard]:
    shards = []
    for number in range(math.ceil(rows / ROWS_PER_SHARD)):
        made = min(ROWS_PER_SHARD, rows - number * ROWS_PER_SHARD)
        shards.append(Shard(f"episodes-{number:04d}", made, play, (name, seed, number, made)))
    return shards


def _product(name: str, seed: int, rows: int, shards: dict[str, dict[str, np.ndarray]]) -> Product:
    task = TASKS[name]
    episodes = [lived for key in sorted(shards) for lived in split_episodes(shards[key])]
    returns = np.array([lived["rewards"].sum() for lived in episodes])
    only = f" Episodes with a return below {task.least_return:g} were left out." if task.least_return > -math.inf else ""
    description = (
        f"{len(episodes)} whole episodes of {task.env_id}, at least {rows} transitions, by a controller in closed form. "
        f"{task.rule}.{only} Returns {returns.mean():.1f} ± {returns.std():.1f}. Seed {seed}, {versions(name)}."
    )
    return Product(
        episodes=episodes,
        env=make(task.env_id),
        eval_env=make(task.env_id),
        metadata={"algorithm_name": task.rule, "mean_return": float(returns.mean()), "std_return": float(returns.std())},
        reference=task.reference,
        reference_source=(
            "mean returns: 0 is uniformly random actions (400 episodes or more), 100 is the controller of the data (1,000)"
            f"{', without the episodes that were left out' if only else ''}"
        ),
        description=description,
        requirements=["gymnasium>=1.2,<2", *(("box2d>=2.3.10,<2.4", "pygame-ce>=2.5") if task.extra == "box2d" else ())],
    )


def _recipe(name: str, task: Task) -> Recipe:
    return Recipe(
        name=f"classic/{name}-v0",
        summary=f"{task.env_id} by a closed-form expert, whole episodes; {task.rule}",
        rows=task.rows,
        shards=functools.partial(_shards, name),
        assemble=functools.partial(_product, name),
        fingerprint=functools.partial(versions, name),
        extra=task.extra,
        cost=_COSTS[task.env_id],
    )


# Measured on 4,000 rows.
_COSTS = {
    "CartPole-v1": Cost(10_000, 64),
    "Acrobot-v1": Cost(4_000, 211),
    "MountainCar-v0": Cost(8_000, 162),
    "LunarLander-v3": Cost(4_400, 113),
    "Pendulum-v1": Cost(6_600, 101),
}
RECIPES = tuple(_recipe(name, task) for name, task in TASKS.items())
