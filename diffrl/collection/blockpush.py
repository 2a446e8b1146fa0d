"""Multimodal block push with nearly fixed targets: IBC's scripted oracle in the environment of BeT, BESO and Diffusion Policy.

Made as the published 1,000 episodes were, as far as their actions show: a block is in its target within 4 cm (evaluations say
5 cm), an episode is given up after 200 steps and kept, and nothing is added to the oracle's actions. Of the published file's
rows one an episode is not made, the oracle's answer to the last observation. The oracle draws one of four orders for each
episode; starts, targets and orders depend on seed and episode alone. This module imports no JAX.
"""

import importlib.metadata
import math
from typing import Any

import numpy as np
from jaxtyping import Float

from diffrl.collection.recipe import Cost, Product, Recipe, Shard, split_episodes
from diffrl.envs.blockpush.tasks import (
    BLOCKS,
    CONTROL_HZ,
    DATA_STEPS,
    DATA_TOLERANCE,
    EFFECTOR_TARGET,
    TARGETS,
    TOLERANCE,
    YAWS,
)

EPISODES_PER_SHARD = 50
ROWS_PER_EPISODE = 115  # in the mean, which a number of rows is turned into a number of episodes by
FAST, PUSHING, TURNING = 0.3, 0.35, 0.15  # m/s, of the effector's target
# First (block, target), then the other two; the first is number 2 * block + target.
ORDERS = (((0, 0), (1, 1)), ((0, 1), (1, 0)), ((1, 0), (0, 1)), ((1, 1), (0, 0)))
REFERENCE = (0.0, 1.0)

_ARRIVED = 0.001  # m
_TILTED, _FLAT = 0.2, 0.03  # rad, where turning a block begins and ends

Point = Float[np.ndarray, "2"]


def turned(angle: float) -> float:
    """The angle (rad) of a square, which looks alike after a quarter of a turn, in [-π/4, π/4]."""
    while angle > math.pi / 4:
        angle -= math.pi / 2
    while angle < -math.pi / 4:
        angle += math.pi / 2
    return angle


class Oracle:
    """IBC's oracle: it goes behind a block, pushes it straight at its target and turns it where it is tilted.

    It sees float32 and forgets nothing within an episode. Where a phase ends, a later one in the order of `act` begins in the
    same step, an earlier one in the next.
    """

    def __init__(self, order: int) -> None:
        """For one episode.

        Args:
            order: of `ORDERS`.
        """
        self.pairs = ORDERS[order]
        self.switched, self.phase = False, "approach"
        self.origin: Point | None = None
        self.first_behind: Point | None = None

    def act(self, observation: Float[np.ndarray, "16"]) -> Point:
        """How far the effector's target is to move (m), float32."""
        seen = observation.astype(np.float32)
        here = seen[EFFECTOR_TARGET]
        if self.origin is None:
            self.origin = here.copy()
        block, target = self.pairs[0]
        if not self.switched and np.linalg.norm(seen[BLOCKS[block]] - seen[TARGETS[target]]) < DATA_TOLERANCE:
            self.switched, self.phase = True, "back to the first block"
        block, target = self.pairs[int(self.switched)]
        at, way = seen[BLOCKS[block]], seen[TARGETS[target]] - seen[BLOCKS[block]]
        way = way / np.linalg.norm(way)
        tilt = turned(math.atan2(way[1], way[0]) - float(seen[YAWS[block]]))

        speed, goal = PUSHING, here
        if self.phase == "approach":
            speed, goal = FAST, at - way * np.float32(0.05)
            if _near(goal, here):
                self.phase = "move in"
                self.first_behind = goal.copy() if self.first_behind is None else self.first_behind
        if self.phase == "back to the first block":
            speed, goal = FAST, self.origin if self.first_behind is None else self.first_behind
            if _near(goal, here):
                self.phase = "back to the start"
        if self.phase == "back to the start":
            speed, goal = FAST, self.origin
            if _near(goal, here):
                self.phase = "approach"
        if self.phase == "move in":
            goal = at - way * np.float32(0.03)
            self.phase = "push" if _near(goal, here) else self.phase
            self.phase = "turn" if abs(tilt) > _TILTED else self.phase
            self.side = math.copysign(1.0, tilt)
        if self.phase == "push":
            goal = at - way * np.float32(0.01)
            self.phase = "approach" if abs(tilt) > _TILTED else self.phase
        if self.phase == "turn":
            speed, goal = TURNING, at + 0.025 * _rotated((here - at) / np.linalg.norm(here - at), 0.2 * self.side)
            self.phase = "approach" if tilt * self.side < _FLAT else self.phase
        step, limit = goal - here, speed / CONTROL_HZ
        length = np.linalg.norm(step)
        return (step / length * limit if length > limit else step).astype(np.float32)


def _near(goal: Point, here: Point) -> bool:
    return bool(np.linalg.norm(goal - here) < _ARRIVED)


def _rotated(vector: Point, angle: float) -> Point:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]]) @ vector


def episode(env: Any, seed: int, number: int, limit: int = DATA_STEPS) -> dict[str, np.ndarray]:
    """One episode of the oracle, by rows.

    Args:
        env: a `BlockPushEnv`.
        seed, number: what it depends on.
        limit: steps after which it is given up.

    Returns:
        observation, action, reward, next_observation, terminal, timeout: `[steps, ...]`; completed `[steps, 4]`: the targets
        entered so far, 2 * block + target in order, and -1 for none; order: the number of the oracle's order, in every row.
    """
    made_by = np.random.SeedSequence([seed, number])
    order = int(np.random.default_rng(made_by.spawn(1)[0]).integers(len(ORDERS)))
    observation, _ = env.reset(seed=int(made_by.generate_state(1)[0]))
    oracle = Oracle(order)
    rows: list[tuple[Any, ...]] = []
    over = False
    while not over and len(rows) < limit:
        action = oracle.act(observation)
        following, reward, over, _, info = env.step(action)
        done = [*info["completed"], *([-1] * (4 - len(info["completed"])))]
        rows.append((observation, action, reward, following, over, not over and len(rows) == limit - 1, done, order))
        observation = following
    names = ("observation", "action", "reward", "next_observation", "terminal", "timeout", "completed", "order")
    return {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def play(seed: int, first: int, last: int) -> dict[str, np.ndarray]:
    """Episodes first … last - 1 by rows: what `episode` gives, one after another."""
    from diffrl.envs.blockpush.gym import BlockPushEnv

    env = BlockPushEnv(tolerance=DATA_TOLERANCE)
    made = [episode(env, seed, number) for number in range(first, last)]
    env.close()
    return {name: np.concatenate([each[name] for each in made]) for name in made[0]}


def versions() -> str:
    """What the rows depend on, for the record."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("pybullet", "numpy"))


def _shards(seed: int, rows: int) -> list[Shard]:
    episodes = math.ceil(rows / ROWS_PER_EPISODE)
    shards = []
    for first in range(0, episodes, EPISODES_PER_SHARD):
        last = min(first + EPISODES_PER_SHARD, episodes)
        made = min(last * ROWS_PER_EPISODE, rows) - first * ROWS_PER_EPISODE
        shards.append(Shard(f"episodes-{first:06d}", made, play, (seed, first, last)))
    return shards


def _product(seed: int, rows: int, shards: dict[str, dict[str, np.ndarray]]) -> Product:
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

    from diffrl.envs.blockpush.registry import ENV_ID, describe

    del rows
    made = {name: np.concatenate([shards[key][name] for key in sorted(shards)]) for name in next(iter(shards.values()))}
    episodes, first = split_episodes(made), 0
    for each in episodes:
        last = first + len(each["actions"])
        each["infos"] = {name: made[name][first:last] for name in ("completed", "order")}
        first = last
    returns = np.array([each["rewards"].sum() for each in episodes])
    given_up = int(made["timeout"].sum())
    description = (
        f"{len(episodes)} episodes, {first} transitions, of IBC's scripted oracle in {ENV_ID}: it pushes either block into "
        f"either target, then the other two, one of four orders at random. A block is in a target within {DATA_TOLERANCE} m "
        f"(in an evaluation {TOLERANCE} m); {given_up} episodes were given up after {DATA_STEPS} steps and end in a timeout. In "
        "infos: order, the number of the oracle's order, and completed, the targets entered so far as 2 * block + target. Seed "
        f"{seed}, {versions()}."
    )
    return Product(
        episodes=episodes,
        env=gymnasium.make(EnvSpec(**{**describe(), "kwargs": {"tolerance": DATA_TOLERANCE}, "max_episode_steps": DATA_STEPS})),
        eval_env=gymnasium.make(EnvSpec(**describe())),
        metadata={"algorithm_name": "multimodal push oracle", "mean_return": float(returns.mean())},
        reference=REFERENCE,
        reference_source="100 is both blocks in different targets without a detour, as the oracle brings them; 0 is neither",
        description=description,
        requirements=["gymnasium>=1.2,<2", "pybullet>=3.2.7,<3.3"],
    )


RECIPES = (
    Recipe(
        name="blockpush/multimodal-fixed-target-v0",
        summary="two blocks into two targets in any of four orders, IBC's oracle; the set of BeT, BESO and Diffusion Policy",
        rows=1_000 * ROWS_PER_EPISODE,
        shards=_shards,
        assemble=_product,
        fingerprint=versions,
        extra="blockpush",
        cost=Cost(144, 334),  # measured on 1,500 rows
    ),
)
