"""Whether a method can train on some data, asked of the method itself: of its constructor and its traced program."""

import math
from typing import Any, NamedTuple

import jax

from diffrl.config import Config, algorithm_name, validate
from diffrl.data.columns import attach
from diffrl.data.dataset import FIELDS, Dataset
from diffrl.registry import REGISTRY, make
from diffrl.training.chunk import draw
from diffrl.training.cohort import reaching
from diffrl.training.devices import make_mesh
from diffrl.training.slabs import check_slabs, rows_per_slab
from diffrl.types import Spec

EXTRAS = "extras"  # as a field that is read: columns of the method's own


class Verdict(NamedTuple):
    """What a method says of some data.

    Attributes:
        config: what was asked about.
        why_not: why it cannot train on them; "" where it can.
        reads: the fields of a batch on which its updates depend.
        collects: whether it has a way of its own to choose actions for collecting, which one for data alone has no use for.
        work: numbers of its State times examples over all updates, to compare methods by.
    """

    config: Config
    why_not: str = ""
    reads: frozenset[str] = frozenset()
    collects: bool = False
    work: float = 0.0

    @property
    def method(self) -> str:
        return algorithm_name(self.config)


def judge(config: Config, spec: Spec, dataset: Dataset) -> Verdict:
    """Trace all stages of a config's method on data; no update is run.

    Args:
        config: of the training.
        spec, dataset: as `build.build` gives them.
    """
    try:
        validate(config)
        algorithm = make(config.algorithm, spec, config.action_chunk)
        described = jax.eval_shape(lambda rows: attach(rows, algorithm.columns), dataset)
        mesh = make_mesh(config.num_seeds, batch_devices=config.batch_devices)
        slab_rows = rows_per_slab(config.dataset.slab_rows, described, mesh)
        if slab_rows:
            check_slabs(algorithm, slab_rows, dataset)
        key = jax.random.key(0)
        state = jax.eval_shape(algorithm.init, key, algorithm.hparams)
        reads: set[str] = set()
        for stage in algorithm.stages:
            own = {} if stage.prepare is None else jax.eval_shape(stage.prepare, state, described, key)
            batch = jax.eval_shape(lambda rows, own, key, stage=stage: draw(stage, rows, own, key), described, own, key)
            reads |= reaching(stage.update, (state, batch, key), _field)
    except ValueError as error:
        return Verdict(config, why_not=str(error))
    own_way = REGISTRY[algorithm_name(config)].make(config.algorithm, spec).explore is not None
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state))
    examples = sum(stage.num_updates * stage.batch_size for stage in algorithm.stages)
    return Verdict(config, "", frozenset(reads), own_way, float(size * examples))


def _field(path: tuple[Any, ...]) -> str:
    """The batch's field at a path into (state, batch, key); a window's are those of its rows."""
    position, *inner = path
    if position.key != 1:
        return ""
    name = inner[0].name
    within = inner[1].key.removeprefix("window_") if name == EXTRAS else name
    return within if within in FIELDS else name
