"""Environments of gymnasium, stepped on the host: any that a dataset's EnvSpec describes."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from diffrl.envs import env_spec, trust
from diffrl.envs.dmc import registry as dmc
from diffrl.envs.flatten import FlattenError, flatten_one, select_keys
from diffrl.envs.protocol import Step
from diffrl.envs.quiet import quiet_imports
from diffrl.errors import UserError

# The extra of this package that brings another.
_EXTRAS = {"ogbench": "ogbench", "dm_control": "ogbench", "Box2D": "box2d", "pygame": "box2d", "pybullet": "blockpush"}
_SUCCESS_KEYS = ("success", "is_success")
_ARM = "ogbench.manipspace"  # OGBench's robot


class BackendError(UserError, ValueError):
    """The environment cannot be made; the message says why and what to do."""


class GymnasiumEnvironments:
    """`HostEnvironments` of `num_envs` copies of one environment.

    A finished copy is not stepped any more: it repeats its last observation with reward 0, so that no simulator is
    driven beyond its end.
    """

    def __init__(
        self, env_spec_json: str, observation_keys: tuple[str, ...] | None, num_envs: int, max_episode_steps: int | None = None
    ) -> None:
        """Make the environments.

        Args:
            env_spec_json: `EnvSpec.to_json()` of gymnasium.
            observation_keys: keys concatenated for Dict observations, in order; None for `flatten.select_keys`' default.
            num_envs: number of copies.
            max_episode_steps: time limit; None for the spec's own.

        Raises:
            BackendError: gymnasium or the package of the environment is missing or not trusted, the environment cannot be made,
                has no time limit, or its observations or actions are not vectors.
        """
        self._envs = _make_envs(env_spec_json, max_episode_steps, num_envs)
        env = self._envs[0]
        limit = max_episode_steps or env.spec.max_episode_steps
        if not limit:
            raise BackendError(f"{env.spec.id} has no time limit: an evaluation episode might never end. Give max_episode_steps")
        try:
            self._keys = select_keys(env.observation_space, observation_keys)
        except FlattenError as error:
            raise BackendError(f"{env.spec.id}: {error}") from None
        kind = type(env.action_space).__name__
        if kind not in ("Box", "Discrete"):
            raise BackendError(f"{env.spec.id} has {kind} actions; only Box and Discrete actions are supported")
        self.num_envs = num_envs
        self.max_episode_steps = int(limit)
        self.num_actions = int(env.action_space.n) if kind == "Discrete" else 0
        self._first_action = int(env.action_space.start) if kind == "Discrete" else 0
        bounds = (np.zeros(self.num_actions), np.ones(self.num_actions))
        if kind == "Box":
            bounds = (env.action_space.low, env.action_space.high)
        self.action_low, self.action_high = (np.ravel(bound).astype(np.float32) for bound in bounds)
        self._action_shape, self._action_dtype = env.action_space.shape, env.action_space.dtype
        self._observation = np.zeros((0, 0), np.float32)
        self._done = np.ones(num_envs, bool)
        self._steps = np.zeros(num_envs, np.int64)

    def reset(self, seeds: list[int]) -> Float[np.ndarray, "batch observation"]:
        """Start one episode per seed; `len(seeds)` is `num_envs`."""
        if len(seeds) != self.num_envs:
            raise ValueError(f"{self.num_envs} environments need as many seeds, got {len(seeds)}")
        self._observation = np.stack([self._start(env, seed) for env, seed in zip(self._envs, seeds, strict=True)])
        self._done, self._steps = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, np.int64)
        return self._observation.copy()

    def reset_some(self, which: Bool[np.ndarray, "batch"], seeds: list[int]) -> Float[np.ndarray, "some observation"]:
        """Start new episodes in the copies that `which` marks, one per seed in order; returns their observations."""
        for i, seed in zip(np.flatnonzero(which), seeds, strict=True):
            self._observation[i] = self._start(self._envs[i], seed)
        self._done[which], self._steps[which] = False, 0
        return self._observation[which]

    def step(self, action: Num[np.ndarray, "batch action"] | Int[np.ndarray, " batch"]) -> Step:
        """Apply actions in the environment's units, or discrete ones by their numbers from 0.

        An episode that its environment truncates early ends there.
        """
        reward, success, cut = np.zeros(self.num_envs, np.float32), *np.zeros((2, self.num_envs), bool)
        self._steps += ~self._done
        for i in np.flatnonzero(~self._done):
            one = np.asarray(action[i], self._action_dtype).reshape(self._action_shape)
            one = one.item() + self._first_action if self.num_actions else one
            observation, reward[i], terminated, truncated, info = self._envs[i].step(one)
            self._observation[i] = flatten_one(observation, self._keys)
            success[i] = any(bool(info[key]) for key in _SUCCESS_KEYS if key in info)
            self._done[i], cut[i] = terminated or truncated, truncated and not terminated
        early = self._done & ~(cut & (self._steps >= self.max_episode_steps))
        return Step(self._observation.copy(), reward, early, success, cut)

    def _start(self, env: Any, seed: int) -> Float[np.ndarray, " observation"]:
        np.random.seed(int(seed) % 2**32)  # noqa: NPY002 - some environments (OGBench's mazes) draw their start from it
        observation = env.reset(seed=int(seed))[0]
        if type(env.unwrapped).__module__.startswith(_ARM):
            # A reset plays a few actions of a generator that nobody seeds, and the solver remembers them.
            env.unwrapped.data.qacc_warmstart[:] = 0.0
        return flatten_one(observation, self._keys)

    def render(self, index: int = 0) -> np.ndarray:
        """One RGB frame `[height, width, 3]` of a copy made from a spec with `render_mode="rgb_array"`."""
        return np.asarray(self._envs[index].render())

    def close(self) -> None:
        for env in self._envs:
            env.close()


def _make_envs(env_spec_json: str, max_episode_steps: int | None, num_envs: int) -> list[Any]:
    env = make_env(env_spec_json, max_episode_steps)
    if type(env.unwrapped).__module__.startswith(_ARM):
        from diffrl.envs.ogbench.copies import copies

        return copies(env, num_envs)
    return [env, *(make_env(env_spec_json, max_episode_steps) for _ in range(num_envs - 1))]


def make_env(env_spec_json: str, max_episode_steps: int | None = None) -> Any:
    """One gymnasium environment from its EnvSpec, if that names no code but what `trust` knows.

    Raises:
        BackendError: as in `GymnasiumEnvironments`.
    """
    fields = env_spec.read(env_spec_json)
    if not fields:
        raise BackendError("the environment's spec is not the JSON of a gymnasium EnvSpec")
    name = str(fields.get("id"))
    try:
        import gymnasium
        from gymnasium.envs.registration import EnvSpec
    except ImportError:
        raise BackendError(f"{name} needs gymnasium, which is not installed: pip install 'diffrl[envs]'") from None
    try:
        with quiet_imports():
            trust.check(fields)
            spec = EnvSpec.from_json(env_spec_json)
            options = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
            # The checker only warns about the environment's author's choices, at a third of the speed.
            env = gymnasium.make(spec, disable_env_checker=True, **options)
    except trust.TrustError as error:
        raise BackendError(str(error)) from None
    except Exception as error:
        # gymnasium's own environments tell of a missing package with advice that does not fit here.
        missing = error if isinstance(error, ImportError) else error.__cause__
        if isinstance(missing, ImportError):
            extra = "dmc" if dmc.from_env_spec(env_spec_json) else _EXTRAS.get(str(missing.name).split(".")[0], "envs")
            raise BackendError(
                f"{name} needs the package {missing.name}, which is not installed: pip install 'diffrl[{extra}]'"
            ) from error
        # Constructors of third-party environments raise anything; whoever reads this wants the name and the cause.
        raise BackendError(f"{name} cannot be made: {type(error).__name__}: {error}") from error
    # OGBench's robot makes its action space anew for each use, from float64 bounds, and gymnasium warns of the cast.
    warnings.filterwarnings("ignore", message=".*precision lowered by casting to float32")
    # The mazes of gymnasium-robotics and of OGBench leave their model's file behind in the temporary directory.
    ogbench = type(env.unwrapped).__module__ == "ogbench.locomaze.maze"
    leftover = getattr(env.unwrapped, "fullpath" if ogbench else "tmp_xml_file_path", None)
    if leftover:
        Path(leftover).unlink(missing_ok=True)
    return env
