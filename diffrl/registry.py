"""Name -> method. The only place, beside its own file, where a method is mentioned."""

from collections.abc import Callable
from typing import Any, NamedTuple

from diffrl.algorithm import Algorithm, in_environment_units
from diffrl.algorithms import bc, cep, dac, diffusion_bc, gaussian_bc, iql, qsm, sac, sgp, srpo, swg, td3_bc
from diffrl.types import Spec


class Method(NamedTuple):
    """A config dataclass and the constructor that takes it; for a method that plans, also what makes `planning.Problem`s.

    `figures` names the module whose `draw(out)` makes figures of its paper that need no training run, where there are some.
    """

    config: type
    make: Callable[[Any, Spec], Algorithm]
    models: Callable[[Any, Spec], Any] | None = None
    figures: str | None = None


REGISTRY: dict[str, Method] = {
    "bc": Method(bc.Config, bc.make),
    "cep": Method(cep.Config, cep.make),
    "dac": Method(dac.Config, dac.make),
    "diffusion_bc": Method(diffusion_bc.Config, diffusion_bc.make),
    "gaussian_bc": Method(gaussian_bc.Config, gaussian_bc.make),
    "iql": Method(iql.Config, iql.make),
    "qsm": Method(qsm.Config, qsm.make),
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


def make(config: Any, spec: Spec) -> Algorithm:
    """The Algorithm of a config; its `act` takes raw observations and returns actions in the environment's units."""
    return in_environment_units(REGISTRY[name_of(config)].make(config, spec), spec)
