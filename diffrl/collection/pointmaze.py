"""The PointMaze datasets: blocks of play or demonstrations in parallel, then episodes with rewards."""

import functools
import math
from typing import Any

import numpy as np

from diffrl.collection import maze_simulation
from diffrl.collection.recipe import Cost, Product, Recipe, Shard

BLOCKS_PER_SHARD = 10


def _shards(maze: str, layout: str, seed: int, rows: int) -> list[Shard]:
    kind = "demonstrations" if layout == "demonstrations" else "play"
    blocks = math.ceil(rows / maze_simulation.BLOCK_STEPS)
    shards = []
    for first in range(0, blocks, BLOCKS_PER_SHARD):
        last = min(first + BLOCKS_PER_SHARD, blocks)
        made = min(last * maze_simulation.BLOCK_STEPS, rows) - first * maze_simulation.BLOCK_STEPS
        arguments = (maze, kind, seed, first, last, rows if kind == "play" else made, layout)
        shards.append(Shard(f"{kind}-{first:06d}", made, maze_simulation.run_shard, arguments))
    half = maze_simulation.REFERENCE_EPISODES // 2
    for policy in ("random", "controller"):
        for first in (0, half):
            arguments = (maze, policy, seed, first, first + half, rows, layout)
            shards.append(Shard(f"{policy}-{first:06d}", 0, maze_simulation.run_shard, arguments))
    return shards


def split_blocks(shard: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The blocks that `run_shard` joined: all of 1,000 steps but perhaps the last."""
    steps, blocks = len(shard["actions"]), []
    for number, first in enumerate(range(0, steps, maze_simulation.BLOCK_STEPS)):
        last = min(first + maze_simulation.BLOCK_STEPS, steps)
        block = {name: shard[name][first:last] for name in ("actions", "goals", "success")}
        # Each block before this one has a state more than it has steps.
        blocks.append({**block, "states": shard["states"][first + number : last + number + 1]})
    return blocks


def fixed_goal_episodes(block: dict[str, np.ndarray], goal: np.ndarray, dense: bool) -> list[dict[str, Any]]:
    """One episode per block; the reward is that of the next position for `goal`."""
    distance = np.linalg.norm(block["states"][1:, :2] - goal, axis=1)
    return [_episode(block["states"], block["actions"], _reward(distance, dense))]


def goal_episodes(block: dict[str, np.ndarray], goal: np.ndarray, dense: bool) -> list[dict[str, Any]]:
    """One episode per goal of the controller, as Minari's; the evaluation `goal` plays no part."""
    del goal
    steps = len(block["actions"])
    ends = np.flatnonzero(block["success"]) + 1
    episodes, first = [], 0
    for last in [*ends.tolist(), *([steps] if not len(ends) or ends[-1] != steps else [])]:
        states = block["states"][first : last + 1]
        # The goal is the same in all steps of the episode, and its last observation is about the goal just reached.
        desired = np.concatenate([block["goals"][first:last], block["goals"][last - 1 : last]])
        observations = {"observation": states, "achieved_goal": states[:, :2].copy(), "desired_goal": desired}
        distance = np.linalg.norm(states[1:, :2] - desired[1:], axis=1)
        episodes.append(_episode(observations, block["actions"][first:last], _reward(distance, dense)))
        first = last
    return episodes


def demonstration_episodes(shard: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Episodes that terminate with reward 1 at the goal; one that was cut is truncated."""
    episodes, first = [], 0
    for number, length in enumerate(shard["lengths"].tolist()):
        last = first + length
        success = shard["success"][first:last]
        # Each episode before this one has a state more than it has steps.
        episode = _episode(
            shard["states"][first + number : last + number + 1], shard["actions"][first:last], success.astype(np.float64)
        )
        episodes.append({**episode, "terminations": success, "truncations": episode["truncations"] & ~success})
        first = last
    return episodes


def _reward(distance: np.ndarray, dense: bool) -> np.ndarray:
    return np.exp(-distance) if dense else (distance <= maze_simulation.SUCCESS_RADIUS).astype(np.float64)


def _episode(observations: Any, actions: np.ndarray, rewards: np.ndarray) -> dict[str, Any]:
    truncations = np.zeros(len(rewards), bool)
    truncations[-1] = True
    return {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "terminations": np.zeros(len(rewards), bool),
        "truncations": truncations,
    }


def _product(maze: str, layout: str, seed: int, rows: int, shards: dict[str, dict[str, np.ndarray]]) -> Product:
    goal = maze_simulation.evaluation_goal(maze)
    data = [shards[name] for name in sorted(shards) if name.startswith(("play", "demonstrations"))]
    dense = layout.endswith("-dense")
    if layout == "demonstrations":
        episodes = [episode for shard in data for episode in demonstration_episodes(shard)]
    else:
        cut = fixed_goal_episodes if layout.startswith("fixedgoal") else goal_episodes
        blocks = [block for shard in data for block in split_blocks(shard)]
        episodes = [episode for block in blocks for episode in cut(block, goal, dense)]
    returns = {
        kind: np.concatenate([shards[name]["returns"] for name in sorted(shards) if name.startswith(kind)])
        for kind in ("random", "controller")
    }
    source = (
        f"mean return of {maze_simulation.REFERENCE_EPISODES} episodes in the evaluation environment: 0 is uniformly random "
        f"actions, 100 is the noise-free waypoint controller, which sees the goal; seed {seed}, {maze_simulation.versions()}"
    )
    mean_return = float(np.mean([episode["rewards"].sum() for episode in episodes]))
    reward = "exp(-distance in m)" if dense else "1 where the next position is within 0.45 m"
    kind = {
        "fixedgoal": (
            f"Undirected play: the goals of the controller are left out, the reward is {reward} of {goal.tolist()}, the centre "
            f"of the evaluation goal's cell; episodes are cut every {maze_simulation.BLOCK_STEPS} steps."
        ),
        "goal": (
            "Goal-conditioned, one episode per goal: imitation solves it (row 0 has the goal that its reward is for; reward "
            f"{reward} of the goal)."
        ),
        "demonstrations": (
            "Demonstrations from one end to the other, each of three forks passed above or below with equal probability; they "
            "terminate with reward 1 at the goal."
        ),
    }[layout.removesuffix("-dense")]
    goals = "" if layout == "demonstrations" else " with goals over all free cells"
    description = (
        f"PointMaze {maze}, {rows} transitions of a waypoint controller (shortest paths, action noise 0.5){goals}. {kind} "
        f"Mean episode return {mean_return:.3g}. Seed {seed}, {maze_simulation.versions()}."
    )
    return Product(
        episodes=episodes,
        env=maze_simulation.make_env(maze, layout, evaluation=False),
        eval_env=maze_simulation.make_env(maze, layout, evaluation=True),
        metadata={"algorithm_name": "waypoint controller", "mean_return": mean_return},
        reference=(float(returns["random"].mean()), float(returns["controller"].mean())),
        reference_source=source,
        description=description,
        requirements=["mujoco>=3.5,<3.12", "gymnasium-robotics>=1.4.2,<1.5"],
    )


def _recipe(name: str, maze: str, layout: str, rows: int, summary: str, cost: Cost) -> Recipe:
    return Recipe(
        name=f"pointmaze/{name}-v0",
        summary=summary,
        rows=rows,
        shards=functools.partial(_shards, maze, layout),
        assemble=functools.partial(_product, maze, layout),
        fingerprint=maze_simulation.versions,
        cost=cost,
    )


_MAZES = {"umaze": ("U-shaped maze", 100_000), "medium": ("8 x 8 maze", 200_000), "large": ("9 x 12 maze", 400_000)}
_LAYOUTS = {
    "fixedgoal": "undirected play, one fixed goal to find",
    "fixedgoal-dense": "the same play, dense reward",
    "goal": "goal-conditioned, for imitation; Minari's layout",
    "goal-dense": "goal-conditioned, dense reward",
}
# Measured on the recipes' own rows. A file has several kB for each episode, which are short where goals are reached.
_PLAY = Cost(rows_per_second=29_000, bytes_per_row=64)
_GOALS = {"umaze": Cost(10_600, 379), "medium": Cost(12_900, 241), "large": Cost(17_200, 195)}
RECIPES = (
    *(
        _recipe(f"{maze}-{layout}", maze, layout, rows, f"{what}: {kind}", _PLAY if "fixedgoal" in layout else _GOALS[maze])
        for layout, kind in _LAYOUTS.items()
        for maze, (what, rows) in _MAZES.items()
    ),
    _recipe(
        "tworoutes",
        "tworoutes",
        "demonstrations",
        100_000,
        "three forks, each passed either way: multimodal demonstrations",
        Cost(rows_per_second=20_000, bytes_per_row=80),
    ),
)
