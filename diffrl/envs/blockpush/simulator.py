"""Blocks, targets and an xArm 6 that pushes with a thin rod, in PyBullet.

The scene is built of Bullet's own shapes; the arm's description comes with PyBullet. The arm follows the effector's target by
inverse kinematics and position control. Results are bound to a build of Bullet in their last digits.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from diffrl.envs.blockpush.tasks import CONTROL_HZ, START, WORKSPACE

_STEPS = round(240 / CONTROL_HZ)  # of Bullet, 1/240 s each, for one action
_SETTLING = 100  # of Bullet, before an episode
_HEIGHT, _DOWN = 0.06, (0.0, 1.0, 0.0, 0.0)  # m, of the effector, and its rotation: the tool points down
_JOINTS, _EFFECTOR = tuple(range(1, 7)), 6  # Bullet's numbers of the arm's joints, and of its last link
_HOME = (
    -0.9254632489674508,
    0.6990770671568564,
    -1.106629064060494,
    0.0006653351931553931,
    0.3987969742311386,
    -4.063402065624296,
)
_FORCE, _GRIP = 1200.0, 50.0  # largest, of each joint's motor and of what holds the rod
_SIDE = 0.04  # m, of a block
# m. No description of the original tool comes with PyBullet. Its radius is the one with which a push is as long as the published
# ones, 16 mm; its axis lies 2 mm farther along x than the effector, with which blocks drift back along x as they do there.
_ROD = {"radius": 0.0062, "length": 0.028}
_ROD_CENTRE = (-0.002, 0.0, 0.029)  # in the frame of the link that carries it, whose x axis points to the arm and z down
_COLOURS = ((0.8, 0.2, 0.2, 1.0), (0.2, 0.6, 0.2, 1.0))
_WIDTH, _FRAME_HEIGHT = 320, 240


class Simulator:
    """One scene. Its state is Bullet's, and the effector's target in float64."""

    def __init__(self, visible: bool = False) -> None:
        """Build it.

        Args:
            visible: load what is only to be seen, for `frame`.

        Raises:
            ImportError: PyBullet is not installed.
        """
        with _quiet():
            import pybullet
            import pybullet_data
            from pybullet_utils.bullet_client import BulletClient

            self._bullet: Any = BulletClient(pybullet.DIRECT)
        bullet, data = self._bullet, pybullet_data.getDataPath()
        bullet.setGravity(0, 0, -9.8)
        bullet.loadURDF(f"{data}/plane.urdf", (0, 0, -0.001))
        flags = 0 if visible else bullet.URDF_IGNORE_VISUAL_SHAPES
        self._arm = bullet.loadURDF(f"{data}/xarm/xarm6_robot.urdf", (0, 0, 0), flags=flags)
        for joint, angle in zip(_JOINTS, _HOME, strict=True):
            bullet.changeDynamics(self._arm, joint, linearDamping=0, angularDamping=0)
            bullet.resetJointState(self._arm, joint, angle)
        self._add_rod()
        self._targets = [self._add_target(colour) for colour in _COLOURS]
        self._blocks = [self._add_block(colour) for colour in _COLOURS]
        self._run(_SETTLING)
        self._saved = bullet.saveState()
        self.effector_target = np.array(START)

    def _add_rod(self) -> None:
        """The rod hangs on a link of its own, a free body that a constraint holds to the arm."""
        bullet = self._bullet
        position, rotation = bullet.getLinkState(self._arm, _EFFECTOR)[:2]
        shape = bullet.createCollisionShape(bullet.GEOM_CYLINDER, radius=_ROD["radius"], height=_ROD["length"])
        look = bullet.createVisualShape(bullet.GEOM_CYLINDER, rgbaColor=(0.2, 0.2, 0.2, 1.0), **_ROD)
        rod = bullet.createMultiBody(
            baseMass=0.1,
            basePosition=position,
            baseOrientation=rotation,
            linkMasses=[0.1],
            linkCollisionShapeIndices=[shape],
            linkVisualShapeIndices=[look],
            linkPositions=[_ROD_CENTRE],
            linkOrientations=[(0, 0, 0, 1)],
            linkInertialFramePositions=[(0, 0, 0)],
            linkInertialFrameOrientations=[(0, 0, 0, 1)],
            linkParentIndices=[0],
            linkJointTypes=[bullet.JOINT_FIXED],
            linkJointAxis=[(0, 0, 1)],
        )
        for link in range(-1, len(_JOINTS) + 1):
            bullet.setCollisionFilterPair(self._arm, rod, link, 0, 0)
        for link in (-1, 0):
            bullet.changeDynamics(rod, link, lateralFriction=1.0, rollingFriction=1e-4)
        fixed = bullet.createConstraint(self._arm, _EFFECTOR, rod, -1, bullet.JOINT_FIXED, (0, 0, 0), (0, 0, 0), (0, 0, 0))
        bullet.changeConstraint(fixed, maxForce=_GRIP)

    def _add_block(self, colour: tuple[float, ...]) -> int:
        bullet = self._bullet
        half = [_SIDE / 2] * 3
        shape = bullet.createCollisionShape(bullet.GEOM_BOX, halfExtents=half)
        look = bullet.createVisualShape(bullet.GEOM_BOX, halfExtents=half, rgbaColor=colour)
        block = bullet.createMultiBody(0.01, shape, look)
        bullet.changeDynamics(block, -1, lateralFriction=1.0, rollingFriction=1e-4)
        return block

    def _add_target(self, colour: tuple[float, ...]) -> int:
        look = self._bullet.createVisualShape(
            self._bullet.GEOM_BOX, halfExtents=(0.05, 0.05, 0.0005), rgbaColor=(*colour[:3], 0.5)
        )
        return self._bullet.createMultiBody(0.0, -1, look)

    def reset(self, blocks: Float[np.ndarray, "2 3"], targets: Float[np.ndarray, "2 3"]) -> Float[np.ndarray, "16"]:
        """Put the arm to its start and everything else to x, y (m) and yaw (rad), let it come to rest, and observe."""
        self._bullet.restoreState(self._saved)
        self._reach(np.array(START))
        for body, (x, y, yaw) in zip(self._blocks, blocks.tolist(), strict=True):
            self._place(body, (x, y, 0.0), yaw)
        for body, (x, y, yaw) in zip(self._targets, targets.tolist(), strict=True):
            self._place(body, (x, y, 0.0), yaw)
        self._placed = targets
        self._run(_SETTLING)
        return self.observe()

    def step(self, action: Float[np.ndarray, "2"]) -> Float[np.ndarray, "16"]:
        """Move the effector's target by an action (m), for a tenth of a second; returns what is observed then."""
        self._reach(np.clip(self.effector_target + action, *WORKSPACE))
        self._run(_STEPS)
        return self.observe()

    def observe(self) -> Float[np.ndarray, "16"]:
        """`tasks.PARTS`, float64."""
        blocks = []
        for body in self._blocks:
            position, rotation = self._bullet.getBasePositionAndOrientation(body)
            blocks += [*position[:2], self._bullet.getEulerFromQuaternion(rotation)[2]]
        effector = self._bullet.getLinkState(self._arm, _EFFECTOR)[0][:2]
        return np.array([*blocks, *effector, *self.effector_target, *self._placed.ravel()])

    def frame(self) -> np.ndarray:
        """RGB `[240, 320, 3]` from across the table."""
        view = self._bullet.computeViewMatrix((1.0, 0.0, 0.75), (0.4, 0.0, 0.0), (0, 0, 1))
        lens = self._bullet.computeProjectionMatrixFOV(60, _WIDTH / _FRAME_HEIGHT, 0.01, 10.0)
        renderer = self._bullet.ER_TINY_RENDERER
        pixels = self._bullet.getCameraImage(_WIDTH, _FRAME_HEIGHT, view, lens, renderer=renderer)[2]
        return np.asarray(pixels, np.uint8).reshape(_FRAME_HEIGHT, _WIDTH, 4)[..., :3]

    def close(self) -> None:
        if self._bullet.isConnected():
            self._bullet.disconnect()

    def _reach(self, target: Float[np.ndarray, "2"]) -> None:
        self.effector_target = target
        angles = [state[0] for state in self._bullet.getJointStates(self._arm, _JOINTS)]
        solution = self._bullet.calculateInverseKinematics(
            self._arm,
            _EFFECTOR,
            (*target.tolist(), _HEIGHT),
            _DOWN,
            lowerLimits=[-17] * 6,
            upperLimits=[17] * 6,
            jointRanges=[17] * 6,
            restPoses=[0, 0, *angles[2:]],
            maxNumIterations=100,
            residualThreshold=1e-10,
        )
        control = self._bullet.POSITION_CONTROL
        self._bullet.setJointMotorControlArray(
            self._arm, _JOINTS, control, targetPositions=solution, forces=[_FORCE] * len(_JOINTS)
        )

    def _place(self, body: int, position: tuple[float, float, float], yaw: float) -> None:
        self._bullet.resetBasePositionAndOrientation(body, position, self._bullet.getQuaternionFromEuler((0, 0, yaw)))

    def _run(self, steps: int) -> None:
        for _ in range(steps):
            self._bullet.stepSimulation()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that Bullet's C code prints when it is imported and when a client connects."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - a device
        for number in (1, 2):
            os.dup2(nowhere.fileno(), number)
        try:
            yield
        finally:
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)
