"""Many copies of OGBench's robot arm: one compiled model for all, where each environment of the package compiles its own.

Making and compiling one takes 2 s and 200 MB, a copy 3 ms and 0.4 MB.
"""

import copy
from typing import Any

import gymnasium


class OwnLocks(gymnasium.Wrapper):
    """A copy of scene, whose buttons lock drawer and window in the model that all copies share."""

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step with the locks as this copy's buttons have them."""
        scene: Any = self.env.unwrapped
        scene._apply_button_states()
        return self.env.step(action)


def copies(env: gymnasium.Env, count: int) -> list[gymnasium.Env]:
    """So many environments of the arm, `env` the first, which is reset. Colours, which show success, are of the last stepped."""
    env.reset(seed=0)  # compiles the model
    arm: Any = env.unwrapped
    if hasattr(arm, "_target_drawer_pos"):
        env = OwnLocks(env)
    shared = {id(each): each for each in (arm._model, arm._ik, *_elements(vars(arm).values()))}
    # A deep copy of MuJoCo's data would bring a model of its own.
    return [env, *(copy.deepcopy(env, {**shared, id(arm._data): copy.copy(arm._data)}) for _ in range(count - 1))]


def _elements(values: Any) -> list[Any]:
    """dm_control's descriptions of the model, which cannot be copied and are not asked again, alone or in lists."""
    found = []
    for value in values:
        if isinstance(value, list | tuple):
            found += _elements(value)
        elif type(value).__module__.startswith("dm_control.mjcf"):
            found.append(value)
    return found
