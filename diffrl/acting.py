"""A trained policy as a function of NumPy arrays: an observation in, an action out."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from diffrl import files
from diffrl.algorithm import Algorithm
from diffrl.errors import UserError
from diffrl.evaluation import results
from diffrl.evaluation.results import Result
from diffrl.training.trained import Act, Trained
from diffrl.types import Policy as Arrays
from diffrl.types import Spec

BEST, LAST = "best", "last"
Observation = Any  # numbers [O] or [B, O], or such by the names of its parts


class PolicyError(UserError, ValueError):
    """The workdir has no such policy, or it cannot act on what it was given; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Chosen:
    """One run's policy at one checkpoint of a workdir, with what is known of it.

    Attributes:
        trained: the training, acting as was asked for.
        act: the overrides of how it acts.
        step: updates of the checkpoint.
        run: its number among the runs.
        algorithm: what acts, in the environment's units.
        arrays: what it acts on.
        result: the evaluation of all runs that acted so at this checkpoint, that of most episodes; None where there is none.
    """

    trained: Trained
    act: Act
    step: int
    run: int
    algorithm: Algorithm
    arrays: Arrays
    result: Result | None

    @property
    def seed(self) -> int:
        """It was trained with."""
        return self.trained.runs.seeds[self.run]

    @property
    def point(self) -> dict[str, float]:
        """Its swept hyper-parameters."""
        return self.trained.runs.points[self.run]


def choose(workdir: str | Path, run: int | str = 0, step: int | str = LAST, act: Mapping[str, object] | None = None) -> Chosen:
    """Open a workdir and take one policy of it. Arguments and errors: see `load_policy`."""
    trained = Trained.open(files.directory(workdir))
    overrides: Act = tuple(sorted((name, str(value)) for name, value in (act or {}).items()))
    acting = trained.acting(overrides)
    try:
        chosen = _step(trained, step)
        result = _evaluated(trained, chosen, overrides)
        diverged = trained.checkpoints.progress(chosen).diverged
        number = _run(trained, run, chosen, result, set(diverged))
        policies = trained.restore(chosen, acting.algorithm)
    finally:
        trained.close()
    arrays = jax.tree.map(lambda x: x[number], policies)
    return Chosen(acting, overrides, chosen, number, acting.algorithm, arrays, result)


def _step(trained: Trained, step: int | str) -> int:
    if step == LAST:
        return trained.last_step()
    if isinstance(step, bool) or not isinstance(step, int):
        raise PolicyError(f"step={step!r} is neither a number of updates nor {LAST!r}")
    steps = trained.checkpoints.steps()
    if step not in steps:
        raise PolicyError(f"no checkpoint at update {step}; there are {', '.join(map(str, steps)) or 'none'}")
    return step


def _evaluated(trained: Trained, step: int, act: Act) -> Result | None:
    """Of the evaluations of this checkpoint by policies that acted so, the one of most episodes."""
    found = [
        result
        for result in results.load_all(trained.workdir)
        if result.step == step and result.settings.act == act and result.seeds == trained.runs.seeds
    ]
    return max(found, key=lambda result: result.settings.episodes, default=None)


def _run(trained: Trained, run: int | str, step: int, result: Result | None, diverged: set[int]) -> int:
    size = trained.runs.size
    if run == BEST:
        if result is None:
            raise PolicyError(
                f"no evaluation says which run is best at update {step} acting so: diffrl-evaluate --workdir={trained.workdir}"
            )
        returns = result.mean_returns if result.mean_scores is None else result.mean_scores
        if not np.isfinite(returns).any():
            raise PolicyError(f"all {size} runs of {trained.workdir} diverged")
        return int(np.nanargmax(returns))
    if isinstance(run, bool) or not isinstance(run, int):
        raise PolicyError(f"run={run!r} is neither a number nor {BEST!r}")
    if not 0 <= run < size:
        raise PolicyError(f"run={run} is not among the {size} runs 0 … {size - 1} of {trained.workdir}")
    if run in diverged:
        others = [str(other) for other in range(size) if other not in diverged]
        raise PolicyError(f"run {run} diverged in training; those that did not: {', '.join(others) or 'none'}")
    return run


class Policy:
    """A trained policy that acts: `policy(observation)`. What it remembers and its random numbers are held inside.

    One object is for one environment, or for a batch of environments that are stepped together; threads take one each.

    Attributes:
        chosen: which policy this is: its workdir, config, step, run and evaluation.
        spec: shapes, bounds and statistics of observations and actions.
    """

    def __init__(self, chosen: Chosen, seed: int = 0) -> None:
        """See `load_policy`."""
        self.chosen = chosen
        self.spec: Spec = chosen.trained.spec
        self._arrays, self._algorithm = chosen.arrays, chosen.algorithm
        precision = chosen.trained.config.matmul_precision
        self._remembers = bool(jax.tree.leaves(jax.eval_shape(lambda x: chosen.algorithm.init_carry(x, 1), chosen.arrays)))

        @jax.jit
        def act(arrays: Arrays, carry: Any, observation: Any, key: Any, count: Any) -> tuple[Any, Any]:
            with jax.default_matmul_precision(precision):
                return chosen.algorithm.act(arrays, carry, observation, jax.random.fold_in(key, count))

        self._act = act
        self.reset(seed=seed)

    def __call__(self, observation: Observation) -> np.ndarray:
        """The action `[A]` or `[B, A]` for an observation, in the environment's units; its index where actions are discrete.

        Args:
            observation: `[O]`, or `[B, O]` of B environments; or, where observations have named parts (`spec.observation_parts`),
                a mapping from these names.

        Raises:
            PolicyError: it has another width than the data, or another B than before where the policy remembers.
        """
        given = self._vector(observation)
        batch = given.reshape(-1, self.spec.observation_dim)
        if self._carry is None:
            self._carry, self._size = self._algorithm.init_carry(self._arrays, len(batch)), len(batch)
        elif self._remembers and len(batch) != self._size:
            raise PolicyError(f"it remembers {self._size} environments, and {len(batch)} came: call reset() between")
        action, self._carry = self._act(self._arrays, self._carry, batch, self._key, np.uint32(self._count))
        self._count += 1
        return np.asarray(action).reshape((*given.shape[:-1], *action.shape[1:]))

    def reset(self, *, seed: int | None = None) -> None:
        """An episode begins: forget the one before. Random numbers go on, or begin anew from `seed`."""
        self._carry, self._size = None, 0
        if seed is not None:
            self._key, self._count = jax.random.key(seed), 0

    def __repr__(self) -> str:
        chosen = self.chosen
        where = f"{chosen.trained.workdir}, update {chosen.step:,}, run {chosen.run} (seed {chosen.seed})"
        return f"Policy({where}: {self.spec.observation_dim} numbers in, {self.spec.action_dim} out)"

    def _vector(self, observation: Observation) -> Float[np.ndarray, "*batch observation"]:
        if isinstance(observation, Mapping):
            names = [name for name, _ in self.spec.observation_parts]
            if not names:
                raise PolicyError("this policy's observations have no named parts: give it an array")
            if missing := [name for name in names if name not in observation]:
                raise PolicyError(f"an observation lacks {', '.join(missing)}; it is put together from {', '.join(names)}")
            observation = np.concatenate([np.asarray(observation[name], np.float32) for name in names], axis=-1)
        vector = np.asarray(observation, np.float32)
        if vector.ndim not in (1, 2) or vector.shape[-1] != self.spec.observation_dim:
            width = self.spec.observation_dim
            raise PolicyError(f"an observation has shape {vector.shape}; this policy takes ({width},) or (batch, {width})")
        return vector


def load_policy(
    workdir: str | Path,
    run: int | str = 0,
    step: int | str = LAST,
    act: Mapping[str, object] | None = None,
    seed: int = 0,
) -> Policy:
    """A policy of a workdir, ready to act.

    Args:
        workdir: the directory of a training.
        run: which of its runs (seeds × hyper-parameter points, from 0), or "best" for the one of the highest mean score in the
            evaluation of this checkpoint that has most episodes; its score flatters it then: evaluate again with another seed.
        step: updates of the checkpoint, or "last".
        act: other choices when acting than it was trained with, by name: {"num_candidates": 8}.
        seed: of the random numbers that it acts by, where it does.

    Raises:
        WorkdirError, CheckpointError, ConfigError, RecordError, PolicyError: one line that says why and what to do.
    """
    return Policy(choose(workdir, run, step, act), seed)
