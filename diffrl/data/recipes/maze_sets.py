"""The PointMaze datasets: blocks of play in parallel, then episodes with rewards."""

import functools
import math

import numpy as np

from diffrl.data.recipes import pointmaze
from diffrl.data.recipes.base import Product, Recipe, Shard

BLOCKS_PER_SHARD = 10


def _pointmaze_shards(maze: str, seed: int, rows: int) -> list[Shard]:
    blocks = math.ceil(rows / pointmaze.BLOCK_STEPS)
    shards = []
    for first in range(0, blocks, BLOCKS_PER_SHARD):
        last = min(first + BLOCKS_PER_SHARD, blocks)
        made = min(last * pointmaze.BLOCK_STEPS, rows) - first * pointmaze.BLOCK_STEPS
        shards.append(Shard(f"play-{first:06d}", made, pointmaze.run_shard, (maze, "play", seed, first, last, rows)))
    half = pointmaze.REFERENCE_EPISODES // 2
    for kind in ("random", "controller"):
        for first in (0, half):
            arguments = (maze, kind, seed, first, first + half, rows)
            shards.append(Shard(f"{kind}-{first:06d}", 0, pointmaze.run_shard, arguments))
    return shards


def _pointmaze_product(maze: str, layout: str, seed: int, rows: int, shards: dict[str, dict[str, np.ndarray]]) -> Product:
    goal = pointmaze.evaluation_goal(maze)
    blocks = [block for name in sorted(shards) if name.startswith("play") for block in pointmaze.split_blocks(shards[name])]
    cut = pointmaze.fixed_goal_episodes if layout == "fixedgoal" else pointmaze.goal_episodes
    episodes = [episode for block in blocks for episode in cut(block, goal)]
    returns = {
        kind: np.concatenate([shards[name]["returns"] for name in sorted(shards) if name.startswith(kind)])
        for kind in ("random", "controller")
    }
    source = (
        f"mean return of {pointmaze.REFERENCE_EPISODES} episodes in the evaluation environment: 0 is uniformly random "
        f"actions, 100 is the noise-free waypoint controller, which sees the goal; seed {seed}, {pointmaze.versions()}"
    )
    mean_return = float(np.mean([episode["rewards"].sum() for episode in episodes]))
    kind = (
        f"Undirected play: the goals of the controller are left out, the reward is 1 where the next position is within 0.45 m of "
        f"{goal.tolist()}, the centre of the evaluation goal's cell; episodes are cut every {pointmaze.BLOCK_STEPS} steps."
        if layout == "fixedgoal"
        else "Goal-conditioned, one episode per goal: imitation solves it (row 0 has the goal that its reward is for)."
    )
    description = (
        f"PointMaze {maze}, {rows} transitions of a waypoint controller (shortest paths, action noise 0.5) with goals over all "
        f"free cells. {kind} Mean episode return {mean_return:.3g}. Seed {seed}, {pointmaze.versions()}."
    )
    return Product(
        episodes=episodes,
        env=pointmaze.make_env(maze, layout, evaluation=False),
        eval_env=pointmaze.make_env(maze, layout, evaluation=True),
        metadata={"algorithm_name": "waypoint controller", "mean_return": mean_return},
        reference=(float(returns["random"].mean()), float(returns["controller"].mean())),
        reference_source=source,
        description=description,
        requirements=["mujoco>=3.5,<3.12", "gymnasium-robotics>=1.4.2,<1.5"],
    )


def _pointmaze_recipe(maze: str, layout: str, rows: int, summary: str) -> Recipe:
    return Recipe(
        name=f"pointmaze/{maze}-{layout}-v0",
        summary=summary,
        rows=rows,
        shards=functools.partial(_pointmaze_shards, maze),
        assemble=functools.partial(_pointmaze_product, maze, layout),
        fingerprint=pointmaze.versions,
    )


_PLAY, _GOAL = "undirected play, one fixed goal to find", "goal-conditioned, for imitation; Minari's layout"
RECIPES = (
    _pointmaze_recipe("umaze", "fixedgoal", 100_000, f"U-shaped maze: {_PLAY}"),
    _pointmaze_recipe("medium", "fixedgoal", 200_000, f"8 x 8 maze: {_PLAY}; the default of the experiments"),
    _pointmaze_recipe("large", "fixedgoal", 400_000, f"9 x 12 maze: {_PLAY}"),
    _pointmaze_recipe("umaze", "goal", 100_000, f"U-shaped maze: {_GOAL}"),
    _pointmaze_recipe("medium", "goal", 200_000, f"8 x 8 maze: {_GOAL}"),
    _pointmaze_recipe("large", "goal", 400_000, f"9 x 12 maze: {_GOAL}"),
)
