"""A training directory, opened by whoever did not write it: to act, to evaluate, to report."""

import copy
import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffrl import config as configs
from diffrl import files, records, registry
from diffrl.algorithm import Algorithm
from diffrl.config import Config, ConfigError
from diffrl.data.dataset import Card
from diffrl.training.checkpoint import CheckpointError, Checkpoints
from diffrl.training.runs import Runs, make_runs
from diffrl.training.workdir import LOST, WorkdirError, check_precision
from diffrl.types import Policy, Spec, State

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

    def restore(self, step: int, algorithm: Algorithm | None = None) -> Policy:
        """The policies of all runs at a checkpoint, on the first device, wherever they were trained.

        Args:
            algorithm: what will act on them, if with other choices than trained with (`acting`). What that needs and the saved
                policies lack is computed from the saved states.

        Raises:
            CheckpointError: it is gone, or damaged.
            WorkdirError: it was saved in another precision than this process has.
        """
        check_precision(self.workdir)
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])

        def placed(abstract: Any, count: int) -> Any:
            return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype, sharding=sharding), abstract)

        saved = self.acts_on(self.algorithm)
        if algorithm is None or self.acts_on(algorithm) == saved:
            return self.checkpoints.restore_policy(step, placed(saved, self.runs.size))
        rows = self.checkpoints.rows(step, self.runs.size)
        states = self.checkpoints.restore_state(step, placed(self._abstract_state, max(rows) + 1))
        return jax.tree.map(lambda x: x[np.array(rows)], jax.vmap(algorithm.policy)(states))

    def acts_on(self, algorithm: Algorithm) -> Policy:
        """Shapes and dtypes of what one run of an algorithm acts on."""
        return jax.eval_shape(algorithm.policy, self._abstract_state)

    @cached_property
    def _abstract_state(self) -> State:
        runs = self.runs
        return jax.eval_shape(self.algorithm.init, runs.keys[0], jax.tree.map(lambda x: x[0], runs.hparams))

    def is_of_last_stage(self, step: int) -> bool:
        """Whether a checkpoint was saved in the last stage, which is the one that trains the policy that acts."""
        progress = self.checkpoints.progress(step)
        return progress.stage_index == progress.num_stages - 1

    def last_step(self) -> int:
        """The last checkpoint of a training that reached its last stage.

        Raises:
            CheckpointError: there is no checkpoint, or the last is of an earlier stage.
        """
        step = max(self.checkpoints.steps(), default=None)
        if step is None:
            raise CheckpointError(f"{self.workdir} has no checkpoints yet")
        if not self.is_of_last_stage(step):
            raise CheckpointError(f"{self.workdir} is not trained to its last stage yet; repeat its launch/train.py")
        return step

    @cached_property
    def policies(self) -> Policy:
        """The policies of all runs at `last_step`.

        Raises:
            CheckpointError: as for `last_step`.
        """
        try:
            return self.restore(self.last_step())
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the checkpoints, which are opened anew where they are asked for again."""
        if (opened := self.__dict__.pop("checkpoints", None)) is not None:
            opened.close()
