"""Multimodal block push: two blocks, two targets, in any pairing and order (Florence et al. 2021, IBC, arXiv 2109.00137).

The task is the one with nearly fixed targets that BeT (Shafiullah et al. 2022, arXiv 2206.11251), BESO and Diffusion Policy
report on; IBC's own scatters its targets. Lengths are in m, angles in rad; this module needs no simulator.
"""

import math

import numpy as np
from jaxtyping import Float

# What is observed, in order. "effector target" is where the arm was told to be, "effector" where it is.
PARTS = (
    *(("block", 2), ("block yaw", 1), ("block 2", 2), ("block 2 yaw", 1)),
    *(("effector", 2), ("effector target", 2)),
    *(("target", 2), ("target yaw", 1), ("target 2", 2), ("target 2 yaw", 1)),
)
BLOCKS, YAWS, TARGETS = np.array([[0, 1], [3, 4]]), np.array([2, 5]), np.array([[10, 11], [13, 14]])
EFFECTOR_TARGET = slice(8, 10)

START = (0.3, -0.4)  # of the effector's target
WORKSPACE = ((0.15, -0.5), (0.7, 0.5))  # its least and greatest x and y
MAX_ACTION = 0.1  # per axis, a step
CONTROL_HZ = 10.0
MAX_EPISODE_STEPS = 300  # of an evaluation
TOLERANCE = 0.05  # of an evaluation, between a block and the target that it is in
DATA_TOLERANCE, DATA_STEPS = 0.04, 200  # of the published demonstrations

_ATTEMPTS = 1000


class Entries:
    """What a blocks' step pays: first entries into targets, and both blocks in different targets."""

    ENTRY, BOTH = 0.49, 0.51

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.order: list[int] = []  # 2 * block + target, as they were entered

    def step(self, blocks: Float[np.ndarray, "2 2"], targets: Float[np.ndarray, "2 2"]) -> tuple[float, bool, bool]:
        """The reward, whether the episode is over, and whether both blocks are in different targets.

        0.49 for each target that a block is in for the first time, but 0.51 in place of that where both are in; at 0.5 or more
        an episode is over. So a way straight to the goal is worth 1.00, and a wrong target on the way 0.49 more.
        """
        distance = np.linalg.norm(blocks[:, None] - targets[None], axis=-1)
        inside = distance < self.tolerance
        pairs = [2 * block + target for target in (0, 1) for block in (0, 1) if inside[block, target]]
        new = [pair for pair in pairs if pair not in self.order]
        self.order += new
        nearest = distance.argmin(axis=1)
        both = bool(inside[[0, 1], nearest].all() and nearest[0] != nearest[1])
        reward = self.BOTH if both else self.ENTRY * len(new)
        return reward, reward >= 0.5, both


def draw_blocks(rng: np.random.Generator) -> Float[np.ndarray, "2 3"]:
    """x, y and yaw of both blocks at a start: more than 0.1 apart along x."""

    def place() -> np.ndarray:
        return np.array([0.4 + rng.uniform(-0.1, 0.1), -0.2 + rng.uniform(-0.15, 0.15), rng.uniform(0.0, math.pi)])

    while True:
        first = place()
        # The second is drawn until it fits, so that the first one's place is uniform.
        for _ in range(_ATTEMPTS):
            second = place()
            if abs(first[0] - second[0]) > 0.1:
                return np.stack([first, second])


def draw_targets(rng: np.random.Generator) -> Float[np.ndarray, "2 3"]:
    """x, y and yaw of both targets: left and right of the middle, either of them first."""
    side = 0.12 * rng.choice([-1.0, 1.0])

    def place(side: float) -> list[float]:
        around = math.pi / 30
        return [0.4 + side + rng.uniform(-0.005, 0.005), 0.2 + rng.uniform(-0.0075, 0.0075), rng.uniform(-around, around)]

    placed = np.array([place(side), place(-side)])
    placed[:, 2] = np.where(placed[:, 2] < 0, placed[:, 2] + math.pi, placed[:, 2] - math.pi)  # around π, wrapped
    return placed
