"""Name -> method. The only place, beside its own file, where a method is mentioned."""

from collections.abc import Callable
from typing import Any, NamedTuple

from diffrl.action_chunks import in_chunks, wide
from diffrl.algorithm import Algorithm, in_environment_units
from diffrl.algorithms import (
    bc,
    beso,
    cep,
    cfgrl,
    dac,
    diffusion_bc,
    diffusion_ql,
    dsrl,
    edm,
    edp,
    fql,
    gaussian_bc,
    idql,
    iql,
    qc,
    qgpo,
    qsm,
    rebrac,
    sac,
    sgp,
    srpo,
    swg,
    td3_bc,
)
from diffrl.types import Spec


class Method(NamedTuple):
    """What makes an Algorithm of a name.

    Attributes:
        config: the method's config dataclass.
        make: the constructor that takes it.
        models: what makes `planning.Problem`s, of a method that plans.
        figures: the module whose `draw(out)` makes figures of its paper that need no training run, where there are some.
        actions: the kinds that it can learn, of "box" and "discrete".
        imitates: whether it learns without rewards.
    """

    config: type
    make: Callable[[Any, Spec], Algorithm]
    models: Callable[[Any, Spec], Any] | None = None
    figures: str | None = None
    actions: tuple[str, ...] = ("box",)
    imitates: bool = False


REGISTRY: dict[str, Method] = {
    "bc": Method(bc.Config, bc.make, actions=("box", "discrete"), imitates=True),
    "beso": Method(beso.Config, beso.make, imitates=True),
    "cep": Method(cep.Config, cep.make),
    "cfgrl": Method(cfgrl.Config, cfgrl.make),
    "dac": Method(dac.Config, dac.make),
    "diffusion_bc": Method(diffusion_bc.Config, diffusion_bc.make, imitates=True),
    "diffusion_ql": Method(diffusion_ql.Config, diffusion_ql.make),
    "dsrl": Method(dsrl.Config, dsrl.make),
    "edm": Method(edm.Config, edm.make, actions=("discrete",), imitates=True),
    "edp": Method(edp.Config, edp.make),
    "fql": Method(fql.Config, fql.make),
    "gaussian_bc": Method(gaussian_bc.Config, gaussian_bc.make, imitates=True),
    "idql": Method(idql.Config, idql.make),
    "iql": Method(iql.Config, iql.make, actions=("box", "discrete")),
    "qc": Method(qc.Config, qc.make),
    "qgpo": Method(qgpo.Config, qgpo.make),
    "qsm": Method(qsm.Config, qsm.make),
    "rebrac": Method(rebrac.Config, rebrac.make),
    "sac": Method(sac.Config, sac.make),
    "sgp": Method(sgp.Config, sgp.make, sgp.Models, figures="diffrl.studies.score_figures"),
    "srpo": Method(srpo.Config, srpo.make),
    "swg": Method(swg.Config, swg.make),
    "td3_bc": Method(td3_bc.Config, td3_bc.make),
}


def name_of(config: Any) -> str:
    """The registered name of a method's config.

    Raises:
        KeyError: no method has a config of this type.
    """
    for name, method in REGISTRY.items():
        if type(config) is method.config:
            return name
    raise KeyError(f"no method is registered for {type(config).__qualname__}")


def make(config: Any, spec: Spec, action_chunk: int = 1) -> Algorithm:
    """The Algorithm of a config; its `act` takes raw observations and returns actions in the environment's units.

    Args:
        action_chunk: actions that are chosen at a time, see `action_chunks.in_chunks`.

    Raises:
        ValueError: the method cannot have actions of this kind, chunks of them, data without rewards, or one of its settings.
    """
    name, kind = name_of(config), "discrete" if spec.num_actions else "box"
    method = REGISTRY[name]
    if kind not in method.actions:
        able = ", ".join(other for other in REGISTRY if kind in REGISTRY[other].actions) or "none"
        raise ValueError(f"{name} cannot have {kind} actions; methods that can: {able}")
    if not spec.has_rewards and not method.imitates:
        able = ", ".join(other for other in REGISTRY if REGISTRY[other].imitates)
        raise ValueError(
            f"{name} learns from rewards, and the data have none (OGBench's tasks give them: dataset.task); without: {able}"
        )
    if action_chunk == 1:
        return in_environment_units(method.make(config, spec), spec)
    return in_environment_units(in_chunks(method.make(config, wide(spec, action_chunk)), spec, action_chunk), spec)
