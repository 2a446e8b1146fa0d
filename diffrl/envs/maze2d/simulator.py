"""D4RL's point in its mazes, in MuJoCo: a sphere on two slide joints among boxes, without friction or gravity."""

from typing import Any

from diffrl.envs.maze2d.tasks import MAX_SPEED, Maze

# D4RL gives every geom a margin of 2 mm. MuJoCo took the larger of two at that time, since 3.5 it takes their sum.
_MARGIN = 0.001
_BODY = 1.2  # m, where the point's body stands along each axis
_MODEL = """
<mujoco>
  <option timestep="0.01" gravity="0 0 0"/>
  <visual><global offwidth="480" offheight="480"/></visual>
  <default>
    <geom density="1000" margin="{margin}" condim="1"/>
    <joint damping="1" limited="false"/>
    <motor gear="100" ctrlrange="-1 1" ctrllimited="true"/>
  </default>
  <worldbody>
    <light pos="{middle}" diffuse="0.6 0.6 0.6"/>
    <camera name="above" pos="{above}" fovy="45"/>
    <geom type="plane" size="40 40 1" pos="0 0 -0.2" contype="0" conaffinity="0" rgba="0.9 0.9 0.9 1"/>
    {walls}
    <site type="sphere" size="0.1" pos="{goal}" rgba="0.8 0.2 0.2 1"/>
    <body pos="{body} {body} 0">
      <geom type="sphere" size="0.1" rgba="0.1 0.4 0.2 1"/>
      <joint name="x" type="slide" axis="1 0 0"/>
      <joint name="y" type="slide" axis="0 1 0"/>
    </body>
  </worldbody>
  <actuator><motor joint="x"/><motor joint="y"/></actuator>
</mujoco>
"""


def model_xml(maze: Maze) -> str:
    """MuJoCo's model (MJCF) of a maze, with the goal drawn, as D4RL's `point_maze`."""
    wall = '<geom type="box" pos="{} {} 0" size="0.5 0.5 0.2" rgba="0.7 0.5 0.3 1"/>'
    width, height = len(maze.rows), len(maze.rows[0])
    # The middle of the world's cells 1 … width, seen at 45 degrees.
    x, y = (width + 1) / 2, (height + 1) / 2
    return _MODEL.format(
        margin=_MARGIN,
        body=_BODY,
        middle=f"{x} {y} {max(width, height)}",
        above=f"{x} {y} {1.3 * max(width, height)}",
        goal=f"{maze.goal[0] + _BODY} {maze.goal[1] + _BODY} 0",
        walls="".join(wall.format(w + 1, h + 1) for w, h in maze.walls),
    )


class Simulator:
    """One point, stepped by MuJoCo in C."""

    def __init__(self, maze: Maze) -> None:
        import mujoco

        self._mujoco: Any = mujoco
        self.model: Any = self._mujoco.MjModel.from_xml_string(model_xml(maze))
        self.data: Any = self._mujoco.MjData(self.model)

    def place(self, x: float, y: float, vx: float, vy: float) -> None:
        """Put the point somewhere (m) with a velocity (m/s), without memory of what was before."""
        self._mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:], self.data.qvel[:] = (x, y), (vx, vy)

    def step(self, ax: float, ay: float) -> tuple[float, float, float, float]:
        """Push for 10 ms with an action in [-1, 1]²; returns position (m) and velocity (m/s), x, y, vx, vy."""
        data = self.data
        data.ctrl[:] = ax, ay
        vx, vy = data.qvel.tolist()
        if not (-MAX_SPEED <= vx <= MAX_SPEED and -MAX_SPEED <= vy <= MAX_SPEED):
            data.qvel[:] = max(-MAX_SPEED, min(MAX_SPEED, vx)), max(-MAX_SPEED, min(MAX_SPEED, vy))
        self._mujoco.mj_step(self.model, data)
        return (*data.qpos.tolist(), *data.qvel.tolist())

    def frame(self) -> Any:
        """RGB `[480, 480, 3]` from above."""
        if not hasattr(self, "_renderer"):
            self._renderer = self._mujoco.Renderer(self.model, 480, 480)
        self._mujoco.mj_forward(self.model, self.data)
        self._renderer.update_scene(self.data, camera="above")
        return self._renderer.render()

    def close(self) -> None:
        if hasattr(self, "_renderer"):
            self._renderer.close()
