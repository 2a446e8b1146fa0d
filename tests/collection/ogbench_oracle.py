"""OGBench's scripted oracles, noise-free and told the task of an evaluation: what a perfect policy does there."""

import itertools

import numpy as np


def presses(wrong) -> tuple[int, ...]:
    """Fewest buttons, by row-major number, that put right the lights where `wrong` [rows, columns] is 1.

    A press turns over its own light and those above, below, left and right.
    """
    rows, columns = wrong.shape
    place = np.stack(np.divmod(np.arange(rows * columns), columns))
    turns = np.abs(place[:, :, None] - place[:, None, :]).sum(0) <= 1
    for count in range(rows * columns + 1):
        for buttons in itertools.combinations(range(rows * columns), count):
            if (turns[list(buttons)].sum(0) % 2 == wrong.ravel()).all():
                return buttons
    raise ValueError(f"no presses turn over exactly these lights: {wrong.tolist()}")


class Oracle:
    """Actions for an episode of a single task that has begun, from the environment itself."""

    def __init__(self, env):
        self.env, self.scene = env, env.unwrapped
        self.plan = None if hasattr(self.scene, "get_oracle_subgoal") else self.next_plan()

    def act(self) -> np.ndarray:
        """The next action, clipped."""
        if self.plan is None:
            position = self.scene.get_xy()
            direction = self.scene.get_oracle_subgoal(position, self.scene.cur_goal_xy)[0] - position
            return np.clip(direction / (np.linalg.norm(direction) + 1e-6), -1.0, 1.0).astype(np.float32)
        if self.plan.done:
            self.plan = self.next_plan()
        return np.clip(self.plan.select_action(None, self.scene.compute_ob_info()), -1.0, 1.0).astype(np.float32)

    def next_plan(self):
        from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
        from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
        from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
        from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle

        scene, info = self.scene, self.scene.compute_ob_info()
        if hasattr(scene, "_num_rows"):
            wrong = (scene._cur_button_states != scene._target_button_states).reshape(scene._num_rows, scene._num_cols)
            button = next(iter(presses(wrong.astype(int))), 0)
            info["privileged/target_button_top_pos"] = scene.data.site_xpos[scene._button_site_ids[button]].copy()
            plan = ButtonPlanOracle(env=self.env, noise=0.0, gripper_always_closed=True)
        elif hasattr(scene, "_target_drawer_pos") and abs(info["privileged/drawer_pos"] - scene._target_drawer_pos) > 0.03:
            info["privileged/target_drawer_handle_pos"] = scene.data.site_xpos[scene._drawer_target_site_id].copy()
            plan = DrawerPlanOracle(env=self.env, noise=0.0)
        elif hasattr(scene, "_target_window_pos"):
            info["privileged/target_window_handle_pos"] = scene.data.site_xpos[scene._window_target_site_id].copy()
            plan = WindowPlanOracle(env=self.env, noise=0.0)
        else:
            places = scene.cur_task_info["goal_xyzs"]
            off = [np.linalg.norm(info[f"privileged/block_{i}_pos"] - place) for i, place in enumerate(places)]
            cube = int(np.argmax(np.array(off) > 0.03))
            info["privileged/target_block"], info["privileged/target_block_pos"] = cube, places[cube]
            info["privileged/target_block_yaw"] = np.zeros(1)
            plan = CubePlanOracle(env=self.env, noise=0.0)
        plan.reset(None, info)
        return plan
