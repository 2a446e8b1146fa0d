"""The training configuration: typed dataclasses, their JSON form, and overrides by dotted name."""

import ast
import dataclasses
import difflib
import typing
from pathlib import Path
from typing import Any, Literal

from diffrl import records
from diffrl.data import load as loading
from diffrl.data.build import Transforms
from diffrl.data.dataset import Source
from diffrl.data.ogbench_tasks import Labels, labelled
from diffrl.records import RecordError
from diffrl.registry import REGISTRY, name_of
from diffrl.settings import ConfigError, check_settings, coerce, setting, types_of

LARGEST_COUNT = 2**31 - 1  # that int32 holds
OF_DATASET = "dataset"  # as online.env_id: the environment that the dataset names


@dataclasses.dataclass
class DatasetConfig(Labels, Transforms):
    """Which data, and how they are changed before training.

    Attributes:
        id: a Minari dataset id, local or remote; or the path of a D4RL, plain or robomimic file (.hdf5, .h5), of an OGBench or
            plain .npz file, of a directory of .npz files, or of a LeRobot dataset.
        mix: further datasets and the share of the draws from each, as ("demonstrations.hdf5=0.25",); `id` has the rest
            (`data/mix.py`).
        observation_keys: of data whose observations have named parts, those to put together, in order; () for the loader's
            choice.
        download: fetch the dataset from Minari's remote if it is not here.
        env_id: gymnasium's name of the environment to evaluate in, e.g. "Hopper-v5", for data that name none, or module:Name-v0
            for one of a package of your own; empty to take the one the data name.
        slab_rows: rows on a device at a time (`training/slabs.py`); 0 for all where they take less than half of its memory, and
            as many as suit it where they do not. A resumed training keeps what it began with.
    """

    id: str = ""
    mix: tuple[str, ...] = ()
    observation_keys: tuple[str, ...] = ()
    download: bool = False
    env_id: str = ""
    slab_rows: int = setting(0, low=0, high=LARGEST_COUNT)

    def source(self) -> Source:
        """The raw rows that are named here, with the labels of the task that is.

        Raises:
            DatasetError: see `data.load.load` and `data.ogbench_tasks.labelled`.
        """
        rows = loading.load(
            self.id, download=self.download, env_id=self.env_id, observation_keys=self.observation_keys, mix=self.mix
        )
        return labelled(rows, self)


@dataclasses.dataclass
class OnlineConfig:
    """Training by interaction (`training/online/`), in place of a dataset or after it.

    With a dataset the method's stage is trained on it first; then it goes on in the environment, and draws its batches from
    the data and what it lives through together.

    Attributes:
        env_id: as the dataset's, e.g. "Hopper-v5" or "dmc/walker-walk-v0"; "dataset" for the environment that the dataset
            names; empty to train on the dataset alone.
        backend: the simulator, as in launch/evaluate.py; "mjx" and "jax" are stepped inside the compiled program.
        num_env_steps: of each run, over all its environments.
        num_envs: environments of each run, stepped together.
        action_repeat: steps of the environment for which each chosen action is carried out, in evaluations too. Rewards are
            summed, and what is stored and discounted are decisions; all numbers of steps go on to be those of the environment.
        updates_per_step: updates after every decision in all a run's environments.
        warmup_steps: of each run, of uniform actions, before anything is learnt by interaction; may be 0 after a dataset.
        buffer_size: transitions that a run keeps, beside the dataset's.
        offline_share: of a batch's rows, that come from the dataset; None for all rows alike, the dataset's and the buffer's.
    """

    env_id: str = ""
    backend: str = "auto"
    num_env_steps: int = setting(1_000_000, high=LARGEST_COUNT)
    num_envs: int = 1
    action_repeat: int = setting(1, high=1_000)
    updates_per_step: int = 1
    warmup_steps: int = setting(10_000, low=0, high=LARGEST_COUNT)
    buffer_size: int = setting(1_000_000, high=LARGEST_COUNT)
    offline_share: float | None = setting(0.5, high=1.0)

    @property
    def turn(self) -> int:
        """Steps of the environment in one iteration of a run: a decision in each of its environments."""
        return self.num_envs * self.action_repeat


@dataclasses.dataclass
class HalvingConfig:
    """Successive halving (Jamieson & Talwalkar, AISTATS 2016) over the hyper-parameter points of a sweep (`training/halving.py`).

    Points are dropped with all their seeds: dropping unlucky seeds would flatter those that stay.

    Attributes:
        rungs: updates, over all stages, after which points are dropped; empty for none.
        keep: share of the points that goes on at each rung, rounded up.
        criterion: "evaluation" for the mean episode return in the environment, or the name of a training metric, of which more is
            better, with a "-" before it less: "-critic/loss".
        episodes: per run, of the evaluation.
    """

    rungs: tuple[int, ...] = setting((), high=LARGEST_COUNT)
    keep: float = 0.5
    criterion: str = "evaluation"
    episodes: int = 16


@dataclasses.dataclass
class InitFromConfig:
    """Networks that another training made, in place of fresh ones (`training/init_from.py`).

    Attributes:
        workdir: of that training; empty for none. It is read once, when this one begins.
        fields: of the State, such as ("behavior", "behavior_constants"): parameters, and where they are of a Learner the
            optimiser's state too.
        step: of that training's checkpoint; 0 for its last.
    """

    workdir: str = ""
    fields: tuple[str, ...] = ()
    step: int = setting(0, low=0, high=LARGEST_COUNT)


@dataclasses.dataclass
class Config:
    """One sweep: a method on a dataset or in an environment, for some seeds and hyper-parameter points, in one program.

    Attributes:
        algorithm: the method's own config dataclass.
        online: an environment to learn in, in place of the dataset or after it.
        action_chunk: actions that are chosen at a time and carried out open loop (`action_chunks.py`); 1 for one a step.
        init_from: another training to start from.
        num_seeds, first_seed: seeds first_seed … first_seed + num_seeds - 1.
        sweep: hyper-parameter points crossed with the seeds: "beta=0.05,0.1 discount=0.99,0.995" is four points, the joint axis
            "beta:discount=0.05:0.99,0.1:0.995" two.
        halving: dropping the worst points on the way; off by default.
        batch_devices: devices over which each run's batch is split; for runs too large for one.
        updates_per_chunk: updates per dispatch, and between two rows of metrics; online, decisions in every environment.
        checkpoint_every: updates between checkpoints, counted within a stage; a stage always ends with one. Online, as above.
        max_to_keep: number of most recent checkpoints kept; 0 keeps all.
        precision: of matrix products.
        log_norms: add `NETWORK/gradient_norm` and `NETWORK/parameter_norm` to the metrics, of every network that is trained.
        tensorboard: also write TensorBoard event files (needs the extra `tensorboard`).
        wandb_project: also log to this Weights & Biases project (needs the extra `wandb`); empty for none.
    """

    algorithm: Any
    dataset: DatasetConfig = dataclasses.field(default_factory=DatasetConfig)
    online: OnlineConfig = dataclasses.field(default_factory=OnlineConfig)
    action_chunk: int = setting(1, high=1_000)
    init_from: InitFromConfig = dataclasses.field(default_factory=InitFromConfig)
    num_seeds: int = setting(4, high=10_000)
    first_seed: int = setting(0, low=0, high=LARGEST_COUNT)
    sweep: str = ""
    halving: HalvingConfig = dataclasses.field(default_factory=HalvingConfig)
    batch_devices: int = 1
    updates_per_chunk: int = setting(1000, high=LARGEST_COUNT)
    checkpoint_every: int = setting(50_000, high=LARGEST_COUNT)
    max_to_keep: int = setting(0, low=0, high=LARGEST_COUNT)
    precision: Literal["default", "high", "highest"] = "default"
    log_norms: bool = False
    tensorboard: bool = False
    wandb_project: str = ""

    @property
    def matmul_precision(self) -> str | None:
        """What `jax.default_matmul_precision` takes."""
        return None if self.precision == "default" else self.precision


# May change between a run and its resumption: they touch where results go, not what they are. Of `env_id` it is the spec it
# stands for that must not change, which the dataset's card holds.
RESUMABLE = ("batch_devices", "max_to_keep", "log_norms", "tensorboard", "wandb_project")
RESUMABLE += ("dataset.download", "dataset.env_id", "dataset.slab_rows")


def algorithm_name(config: Config) -> str:
    """The registered name of the method."""
    return name_of(config.algorithm)


def to_json(config: Config) -> dict[str, Any]:
    """Plain dictionary; `algorithm.name` names the method."""
    values = dataclasses.asdict(config)
    values["algorithm"] = {"name": algorithm_name(config), **values["algorithm"]}
    return records.plain(values)


def from_json(values: dict[str, Any]) -> Config:
    """Inverse of `to_json`.

    Raises:
        ConfigError: an unknown method or field, or a value of the wrong type.
    """
    algorithm = values.get("algorithm")
    algorithm = dict(algorithm) if isinstance(algorithm, dict) else {}
    name = algorithm.pop("name", None)
    if not isinstance(name, str) or name not in REGISTRY:
        raise ConfigError(f"unknown method {name!r}; known: {', '.join(REGISTRY)}")
    config = Config(algorithm=REGISTRY[name].config(), dataset=DatasetConfig())
    _fill(config.algorithm, algorithm, "algorithm.")
    _fill(config, {key: value for key, value in values.items() if key != "algorithm"}, "")
    return config


def load(workdir: Path) -> Config:
    """The config a workdir was trained with.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise ConfigError(f"{workdir} is not a training directory: it has no config.json")
    try:
        config = from_json(records.read(path, dict))
        validate(config)
    except RecordError as error:
        raise ConfigError(f"{error}; put a copy of it back") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}; put a copy of it back") from error
    return config


def override(config: Any, assignment: str) -> None:
    """Set a field in place from "dotted.name=value"; the value is parsed by the field's declared type.

    Raises:
        ConfigError: no such field (with the nearest name), or a value that does not fit.
    """
    name, separator, text = assignment.partition("=")
    if not separator:
        raise ConfigError(f"{assignment!r} is not of the form name=value")
    holder, field = find(config, name)
    _fill(holder, {field: _parse(text, types_of(holder)[field], name)}, name[: -len(field)])


def find(config: Any, name: str) -> tuple[Any, str]:
    """The dataclass that holds a dotted name, and the name of the field in it.

    Raises:
        ConfigError: no such field; suggests the nearest.
    """
    holder, parts = config, name.split(".")
    for depth, part in enumerate(parts):
        names = [field.name for field in dataclasses.fields(holder)] if dataclasses.is_dataclass(holder) else []
        if part not in names:
            near = difflib.get_close_matches(part, names, n=1) or difflib.get_close_matches(parts[-1], _leaves(config), n=1)
            hint = f"; did you mean {'.'.join([*parts[:depth], near[0]])!r}?" if near and near[0] in names else ""
            known = f"; known here: {', '.join(names)}" if names and not hint else ""
            raise ConfigError(f"unknown setting {name!r}{hint}{known}")
        if depth < len(parts) - 1:
            holder = getattr(holder, part)
    return holder, parts[-1]


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionary -> {dotted name: value}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def validate(config: Config) -> None:
    """Refuse what cannot be trained, before anything starts.

    Raises:
        ConfigError: names the setting, its value and what would do.
    """
    check_settings(config, "")
    online = config.online
    if bool(config.init_from.workdir) != bool(config.init_from.fields):
        given, missing = ("workdir", "fields") if config.init_from.workdir else ("fields", "workdir")
        raise ConfigError(f"init_from.{given} is set and init_from.{missing} is empty: set both or neither")
    rungs = config.halving.rungs
    if list(rungs) != sorted({rung for rung in rungs if rung > 0}):
        raise ConfigError(f"halving.rungs must be numbers of updates in ascending order, got {rungs}")
    if rungs and not 0.0 < config.halving.keep < 1.0:
        raise ConfigError(f"halving.keep must lie between 0 and 1, got {config.halving.keep}")
    if rungs and online.env_id:
        raise ConfigError("halving.rungs and online.env_id are both set: only training on a dataset can drop points on the way")
    if online.env_id:
        if online.env_id == OF_DATASET and not config.dataset.id:
            raise ConfigError(f"online.env_id={OF_DATASET!r} takes the dataset's environment, and dataset.id is empty: name one")
        if online.warmup_steps < online.turn and not config.dataset.id:
            steps = f"num_envs times action_repeat, {online.turn}"
            raise ConfigError(f"online.warmup_steps must be at least {steps}, got {online.warmup_steps}")
        if online.buffer_size < online.num_envs:
            raise ConfigError(f"online.buffer_size must be at least num_envs, {online.num_envs}, got {online.buffer_size}")
        if config.dataset.id and online.action_repeat > 1:
            raise ConfigError(f"online.action_repeat={online.action_repeat}, and the dataset's rows are single steps: set 1")
        if config.dataset.mix:
            raise ConfigError("dataset.mix and online.env_id are both set: before interaction one dataset is trained on")
    elif not config.dataset.id:
        raise ConfigError(
            "dataset.id is empty: name a Minari dataset, e.g. --config.dataset.id=diffrl/pointmaze/medium-fixedgoal-v0, or a file"
        )


def validate_method(algorithm: Any) -> None:
    """Refuse settings with which no method can be trained, in a method's config.

    Raises:
        ConfigError: names the setting, its value and what would do.
    """
    check_settings(algorithm, "algorithm.")


def _fill(holder: Any, values: dict[str, Any], prefix: str) -> None:
    hints = types_of(holder)
    for key, value in values.items():
        find(holder, key)
        current = getattr(holder, key)
        if dataclasses.is_dataclass(current) and isinstance(value, dict):
            _fill(current, value, f"{prefix}{key}.")
        else:
            setattr(holder, key, coerce(value, hints[key], prefix + key))


def _parse(text: str, hint: Any, name: str) -> Any:
    if hint is str or typing.get_origin(hint) is Literal:
        return text
    if hint == tuple[str, ...] and text[:1] not in ("(", "["):
        return tuple(filter(None, text.split(",")))
    if hint is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ConfigError(f"{name} must be {getattr(hint, '__name__', hint)}, got {text[:100]!r}") from None


def _leaves(config: Any) -> list[str]:
    return [name.rsplit(".", 1)[-1] for name in flatten(dataclasses.asdict(config))]
