"""Environments by name, for data that name none of their own."""

import importlib

from diffrl.data.dataset import DatasetError
from diffrl.envs import trust
from diffrl.envs.blockpush import registry as blockpush
from diffrl.envs.control import registry as control
from diffrl.envs.dmc import registry as dmc
from diffrl.envs.env_spec import read
from diffrl.envs.gymnasium_backend import BackendError, make_env
from diffrl.envs.maze2d import registry as maze2d
from diffrl.envs.ogbench import tasks
from diffrl.envs.quiet import quiet_imports

# Packages that add names to gymnasium when they are imported.
_REGISTERING = ("gymnasium_robotics",)


def env_spec_of(env_id: str) -> str:
    """EnvSpec of a gymnasium environment as JSON. Makes one only of a package of the user's own: what is wrong with it is to show
    before training, as `environment.matched` shows it of others.

    Args:
        env_id: gymnasium's name, e.g. "Hopper-v5", or "module:Name-v0" for one that importing `module` registers; or
            "dmc/walker-walk-v0" for a task of the DeepMind Control Suite, "diffrl/CartPoleSwingUp-v0" for one of
            `envs.control.registry`, "maze2d-umaze-v1" for D4RL's, "blockpush/multimodal-fixed-target-v0" for block push.

    Raises:
        DatasetError: gymnasium, dm_control or the module is not installed, no such environment is registered, or one of a
            package of the user's own cannot be made here, could not be by the evaluator, or has no time limit.
    """
    for named in (dmc, maze2d, blockpush):
        if env_id.startswith(named.PREFIX):
            try:
                return named.env_spec_of(env_id)
            except ValueError as error:
                raise DatasetError(str(error)) from None
    if env_id.startswith(control.PREFIX):
        try:
            return control.env_spec_of(env_id)
        except ValueError as error:
            raise DatasetError(f"env_id {env_id!r}: {error}") from None
    try:
        import gymnasium
    except ImportError:
        raise DatasetError(f"env_id {env_id!r} needs gymnasium, which is not installed: pip install 'diffrl[envs]'") from None
    module, _, name = env_id.rpartition(":")
    if module:
        _register(env_id, module)
    elif name not in gymnasium.registry:
        for package in ("ogbench",) if tasks.name_in(name) else _REGISTERING:
            _register(env_id, package)
    try:
        found = gymnasium.spec(name).to_json()
    except gymnasium.error.Error as error:
        raise DatasetError(
            f"env_id {env_id!r} is no environment of gymnasium: {error} One that a package of its own registers is written "
            "module:Name-v0"
        ) from None
    except ValueError as error:
        # The names of mujoco-py's environments, too, stand for a function: one that says they are gone.
        raise DatasetError(
            f"env_id {env_id!r} cannot be written down ({error}): name its newest version, or register it with an entry_point "
            "of the form 'module:Class'"
        ) from None
    _check_own(env_id, found)
    return found


def _check_own(env_id: str, env_spec: str) -> None:
    """Refuse an environment of a package of the user's own that an evaluation could not make."""
    spec = read(env_spec)
    module = trust.own_module(spec)
    if not module:
        return
    # Evaluation is another program, which finds the environment in a workdir, and what stands in a file is not run for that.
    if not trust.is_named(module):
        package = module.split(".")[0]
        raise DatasetError(
            f"env_id {env_id!r} is of {package}, a package of your own, which an evaluation makes only where you name it: set "
            f"{trust.VARIABLE}={package} in the environment of this and of later commands"
        )
    if not spec.get("max_episode_steps"):
        raise DatasetError(
            f"env_id {env_id!r} has no time limit, so an evaluation might never end: register it with max_episode_steps"
        )
    try:
        make_env(env_spec).close()
    except BackendError as error:
        raise DatasetError(f"env_id {env_id!r}: {error}") from error


def _register(env_id: str, module: str) -> None:
    try:
        with quiet_imports():
            importlib.import_module(module)
    except ImportError as error:
        extra = "ogbench" if module == "ogbench" else "envs"
        raise DatasetError(
            f"env_id {env_id!r} may need the package {module}, which cannot be imported ({error}): "
            f"pip install 'diffrl[{extra}]', or install that package"
        ) from None
    except Exception as error:  # of a user's own code, anything
        raise DatasetError(f"env_id {env_id!r}: importing {module} failed with {type(error).__name__}: {error}") from error
