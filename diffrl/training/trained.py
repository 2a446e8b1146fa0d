"""A training directory, opened by whoever did not write it: to act, to evaluate, to report."""

import copy
import dataclasses
from functools import cached_property
from pathlib import Path

import jax

from diffrl import config as configs
from diffrl import files, records, registry
from diffrl.algorithm import Algorithm
from diffrl.config import Config, ConfigError
from diffrl.data.dataset import Card
from diffrl.training.checkpoint import CheckpointError, Checkpoints
from diffrl.training.runs import Runs, make_runs
from diffrl.training.workdir import LOST, WorkdirError, check_precision
from diffrl.types import Policy, Spec

Act = tuple[tuple[str, str], ...]  # choices made when acting: names and values of fields of the method's `act`, as text


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training directory holds. What costs something to make is made when it is asked for.

    Attributes:
        workdir: the directory.
        config: what it was trained with.
        spec: what the method knew of the data.
        card: what the data were.
    """

    workdir: Path
    config: Config
    spec: Spec
    card: Card

    @classmethod
    def open(cls, workdir: Path) -> "Trained":
        """Read what describes the training; it need not have a checkpoint yet.

        Raises:
            WorkdirError: the directory does not exist.
            ConfigError, RecordError: what describes it is damaged.
        """
        workdir = files.directory(workdir)
        if not workdir.is_dir():
            raise WorkdirError(f"workdir {workdir} does not exist")
        config = configs.load(workdir)  # the trainer writes it last
        spec, card = records.read(workdir / "spec.json", Spec, LOST), records.read(workdir / "dataset.json", Card, LOST)
        return cls(workdir, config, spec, card)

    def acting(self, act: Act) -> "Trained":
        """The same training with other choices when acting.

        Raises:
            ConfigError: the method makes no such choice, or the value is impossible.
        """
        if not act:
            return self
        if not hasattr(self.config.algorithm, "act"):
            raise ConfigError("this method makes no choices when acting (its config has no `act`); drop --act")
        config = copy.deepcopy(self.config)
        try:
            for name, value in act:
                configs.override(config.algorithm.act, f"{name}={value}")
            configs.validate(config)
            registry.make(config.algorithm, self.spec, config.action_chunk)
        except ValueError as error:
            raise ConfigError(f"--act: {error}") from error
        return dataclasses.replace(self, config=config)

    @property
    def method(self) -> registry.Method:
        """The method's entry in the registry."""
        return registry.REGISTRY[registry.name_of(self.config.algorithm)]

    @cached_property
    def algorithm(self) -> Algorithm:
        """The method, ready to act.

        Raises:
            ConfigError: it refuses its settings.
        """
        try:
            return registry.make(self.config.algorithm, self.spec, self.config.action_chunk)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    @cached_property
    def runs(self) -> Runs:
        """Seeds and hyper-parameter points."""
        return make_runs(self.config)

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """Open for reading; whoever asks for it closes it.

        Raises:
            CheckpointError: nothing was saved yet.
        """
        return Checkpoints(self.workdir)

    def restore(self, step: int) -> Policy:
        """The policies of all runs at a checkpoint, on the first device, wherever they were trained.

        Raises:
            CheckpointError: it is gone, or damaged.
            WorkdirError: it was saved in another precision than this process has.
        """
        check_precision(self.workdir)
        algorithm, runs = self.algorithm, self.runs
        abstract = jax.eval_shape(
            jax.vmap(lambda key, hparams: algorithm.policy(algorithm.init(key, hparams))), runs.keys, runs.hparams
        )
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract)
        return self.checkpoints.restore_policy(step, placed)

    def is_of_last_stage(self, step: int) -> bool:
        """Whether a checkpoint was saved in the last stage, which is the one that trains the policy that acts."""
        progress = self.checkpoints.progress(step)
        return progress.stage_index == progress.num_stages - 1

    @cached_property
    def policies(self) -> Policy:
        """The policies of all runs at the last checkpoint of a training that reached its last stage.

        Raises:
            CheckpointError: there is no checkpoint, or the last is of an earlier stage.
        """
        try:
            step = max(self.checkpoints.steps(), default=None)
            if step is None:
                raise CheckpointError(f"{self.workdir} has no checkpoints yet")
            if not self.is_of_last_stage(step):
                raise CheckpointError(f"{self.workdir} is not trained to its last stage yet; repeat its launch/train.py")
            return self.restore(step)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the checkpoints, which are opened anew where they are asked for again."""
        if (opened := self.__dict__.pop("checkpoints", None)) is not None:
            opened.close()
