"""The control tasks of score-guided planning (Suh et al. 2023): data of the true systems, where a planner must stay.

The paper's transitions are independent of each other. As Minari datasets they would be one-step episodes, at two milliseconds
apiece to store and to load, so a dataset holds short episodes of the same systems instead: the first state of each is drawn
as the paper draws states, actions as it draws actions, and an episode ends after 20 steps or where the paper would have
rejected the state. `ControlTask.sample` draws the independent rows. Rewards are minus the running cost; what the task pays
in the end of its horizon is not in the data. This module imports neither JAX nor a simulator.
"""

import functools
import importlib.metadata
import math
from typing import Any, NamedTuple

import numpy as np

from diffrl.collection.recipe import Cost, Product, Recipe, Shard, split_episodes

ROWS_PER_SHARD = 25_000
EPISODES_PER_CALL = 500  # one compiled program for all shards
RANDOM_EPISODES, PLANNED_EPISODES = 200, 8
_DATA_STREAM, _RANDOM_STREAM, _PLANNED_STREAM = 0, 1, 2


class Task(NamedTuple):
    """One recipe: what `diffrl.envs.control.registry.make` takes, and how much of it.

    Attributes:
        task, fields: arguments of `registry.make`.
        rows: default number of transitions.
        iterations: of the plans that the reference score comes from; contact and images make them slow.
        summary: one line.
    """

    task: str
    fields: dict[str, Any]
    rows: int
    iterations: int
    summary: str


_DENSE = {"state_weight": 1.0}
TASKS = {
    "hole": Task("HoleIntegrator", {}, 100_000, 4000, "single integrator, data with a hole, goal paid for in the end"),
    "hole-dense": Task(
        "HoleIntegrator", {**_DENSE, "max_episode_steps": 40}, 100_000, 4000, "the same data, distance to the goal in every row"
    ),
    "cartpole": Task("CartPoleSwingUp", {}, 200_000, 4000, "cart-pole in a box of states, upright paid for in the end"),
    "cartpole-dense": Task("CartPoleSwingUp", _DENSE, 200_000, 4000, "the same data, distance to upright in every row"),
    "cartpole-code": Task("CartPoleSwingUp", {"plant": "code"}, 200_000, 4000, "cart-pole with the released code's slip"),
    "pendulum": Task("PendulumKeypoints", {}, 100_000, 4000, "pendulum seen as a point on a circle"),
    "corridor": Task("Corridor", {}, 50_000, 4000, "single integrator in an L-shaped corridor that only the data know"),
    "pixels": Task("PixelIntegrator", {}, 20_000, 500, "single integrator, state and action as 16 x 16 images"),
    "pixels-small": Task(
        "PixelIntegrator", {"size": 8}, 100_000, 500, "the same in 8 x 8 images, which a small network can learn"
    ),
    "pusher": Task("KeypointPusher", {}, 600, 500, "box pushed by keypoints, demonstrations of 10 pushes"),
}


def play(name: str, seed: int, shard: int, rows: int) -> dict[str, np.ndarray]:
    """`rows` transitions of episodes of data; the last episode is cut to fit.

    Returns:
        observation, action, reward, next_observation, terminal, timeout: `[rows, ...]`.
    """
    import jax

    task, cost = _make(name), jax.jit(jax.vmap(_make(name).cost))
    parts: list[dict[str, np.ndarray]] = []
    made = 0
    while made < rows:
        key = _key(seed, _DATA_STREAM, shard, len(parts))
        observation, action, length = map(np.asarray, task.episodes(key, EPISODES_PER_CALL))
        step = np.arange(action.shape[1])
        kept = step < length[:, None]
        x, u = observation[:, :-1][kept], action[kept]
        row = {"observation": x, "action": u, "next_observation": observation[:, 1:][kept]}
        parts.append({**row, "timeout": (step == length[:, None] - 1)[kept]})
        made += len(x)
    joined = {field: np.concatenate([part[field] for part in parts])[:rows] for field in parts[0]}
    joined["timeout"][-1] = True
    reward = -np.asarray(cost(joined["observation"], joined["action"]))
    return {**joined, "reward": reward, "terminal": np.zeros(rows, bool)}


def returns(name: str, seed: int, policy: str) -> dict[str, np.ndarray]:
    """Returns of reference episodes: of "random" actions, or "planned" with the true system."""
    from diffrl.envs.control import reference

    if policy == "random":
        made = reference.random_returns(_make(name), _key(seed, _RANDOM_STREAM), RANDOM_EPISODES)
    else:
        key = _key(seed, _PLANNED_STREAM)
        made = reference.planned_returns(_make(name), key, PLANNED_EPISODES, iterations=TASKS[name].iterations)
    return {"returns": np.asarray(made)}


def versions() -> str:
    """What the rows depend on, for the record."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "numpy"))


def _make(name: str) -> Any:
    from diffrl.envs.control import registry

    return registry.make(TASKS[name].task, **TASKS[name].fields)


def _key(seed: int, *purpose: int) -> Any:
    import jax

    return functools.reduce(jax.random.fold_in, purpose, jax.random.key(seed))


def _shards(name: str, seed: int, rows: int) -> list[Shard]:
    shards = [Shard(policy, 0, returns, (name, seed, policy)) for policy in ("random", "planned")]
    for number in range(math.ceil(rows / ROWS_PER_SHARD)):
        made = min(ROWS_PER_SHARD, rows - number * ROWS_PER_SHARD)
        shards.append(Shard(f"data-{number:04d}", made, play, (name, seed, number, made)))
    return shards


def _product(name: str, seed: int, rows: int, shards: dict[str, dict[str, np.ndarray]]) -> Product:
    import gymnasium

    from diffrl.envs.control.gym import spec_of

    spec = spec_of(_make(name))
    data = [shards[key] for key in sorted(shards) if key.startswith("data-")]
    episodes = [episode for shard in data for episode in split_episodes(shard)]
    mean_return = float(np.mean([episode["rewards"].sum() for episode in episodes]))
    return Product(
        episodes=episodes,
        env=gymnasium.make(spec),
        eval_env=gymnasium.make(spec),
        metadata={"algorithm_name": "demonstrations" if name == "pusher" else "random", "mean_return": mean_return},
        reference=(float(shards["random"]["returns"].mean()), float(shards["planned"]["returns"].mean())),
        reference_source=(
            f"mean returns in the evaluation environment: 0 is uniformly random actions ({RANDOM_EPISODES} episodes), 100 is "
            f"open-loop plans with the true system, which may leave the region of the data ({PLANNED_EPISODES} episodes, each "
            f"the best of 16 plans by Adam in {TASKS[name].iterations} iterations); seed {seed}, {versions()}"
        ),
        description=(
            f"{TASKS[name].task} of Suh et al. 2023 (arXiv 2306.14079), {rows} transitions: {TASKS[name].summary}. Episodes of "
            "data start in states as the paper draws them and end after at most 20 steps; rewards are minus the running cost. "
            f"Seed {seed}, {versions()}."
        ),
        requirements=["gymnasium>=1.2,<2", "jax>=0.8.2"],
    )


def _recipe(name: str) -> Recipe:
    kind = "demonstrations" if name == "pusher" else "short random episodes"
    return Recipe(
        name=f"control/{name}-v0",
        summary=f"{TASKS[name].summary}; {kind}",
        rows=TASKS[name].rows,
        shards=functools.partial(_shards, name),
        assemble=functools.partial(_product, name),
        fingerprint=versions,
        cost=_COSTS[name],
    )


# Measured on 600 to 5,000 rows, hole's on all, cartpole-code taken to be as its sisters: plans for the references, with their
# compilation, are most of the time.
_COSTS = {
    "hole": Cost(3_600, 1_059),
    "hole-dense": Cost(3_600, 1_059),
    "cartpole": Cost(1_900, 1_286),
    "cartpole-dense": Cost(2_300, 1_286),
    "cartpole-code": Cost(2_000, 1_286),
    "pendulum": Cost(2_400, 1_123),
    "corridor": Cost(2_700, 734),
    "pixels": Cost(360, 2_989),
    "pixels-small": Cost(2_200, 1_241),
    "pusher": Cost(10, 1_489),
}
RECIPES = tuple(_recipe(name) for name in TASKS)
