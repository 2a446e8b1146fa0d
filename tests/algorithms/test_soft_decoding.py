"""Soft value-based decoding as a way of acting, over all methods that have a diffusion model and a critic."""

import dataclasses
import re
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support import chosen, quick

from diffrl.algorithms import dac, idql, swg
from diffrl.diffusion.decoding import SoftDecoding
from diffrl.objectives.candidates import Decoding
from diffrl.registry import REGISTRY, make
from diffrl.types import Policy, Spec

OBSERVATION, ACTION, ROWS = 3, 2, 2_048
DECODED = sorted(name for name, method in REGISTRY.items() if isinstance(getattr(method.config(), "act", None), Decoding))


def small(name: str, **changes: Any) -> Any:
    """With values that are affine in the action: networks without a hidden layer."""
    config = REGISTRY[name].config()
    for field in dataclasses.fields(config):
        if field.name in ("critic_hidden_dims", "energy_hidden_dims"):
            setattr(config, field.name, ())
        elif field.name.endswith("hidden_dims"):
            setattr(config, field.name, (16,))
        elif field.name.endswith("hidden_dim"):
            setattr(config, field.name, 16)
        elif field.name.endswith("blocks"):
            setattr(config, field.name, 1)
        elif field.name == "num_diffusion_steps":
            setattr(config, field.name, 2)
    steps = {"num_denoising_steps": 2} if hasattr(config.act, "num_denoising_steps") else {}
    return dataclasses.replace(config, act=dataclasses.replace(config.act, **steps, **changes))


def slope(policy: Policy) -> Array:
    """∂Q/∂a, on average over critics; of a noisy value ∂f/∂a."""
    leaves = jax.tree_util.tree_leaves_with_path(policy["critic" if "critic" in policy else "energy"])
    kernel = next(leaf for path, leaf in leaves if path[-1].key == "kernel" and leaf.shape[-1] == 1)
    return jnp.mean(kernel.reshape(-1, *kernel.shape[-2:]), axis=0)[:ACTION, 0]


@cache
def state_of(name: str) -> Any:
    algorithm = make(small(name), Spec.plain(OBSERVATION, ACTION))
    return quick(algorithm.init)(jax.random.key(0), algorithm.hparams)


@cache
def mean_value(name: str, **choices: Any) -> float:
    """Of the actions that a fresh method takes, in units of its slope and but for what the state adds."""
    algorithm = make(small(name, decode="svdd", svdd=SoftDecoding(**choices)), Spec.plain(OBSERVATION, ACTION))
    policy, observation = algorithm.policy(state_of(name)), jax.random.normal(jax.random.key(1), (ROWS, OBSERVATION))
    action, _ = quick(algorithm.act)(policy, algorithm.init_carry(policy, ROWS), observation, jax.random.key(2))
    assert action.shape == (ROWS, ACTION)
    assert np.all(np.abs(action) <= 1.0 + 1e-6)
    uphill = slope(policy)
    return float(jnp.mean(action @ uphill) / jnp.linalg.norm(uphill))


def test_all_methods_with_a_model_and_a_critic() -> None:
    assert DECODED == ["dac", "diffusion_ql", "idql", "qgpo", "srpo", "swg"]


@pytest.mark.parametrize("name", DECODED)
def test_actions_are_actions(name: str) -> None:
    algorithm = make(small(name, decode="svdd", svdd=SoftDecoding(num_chains=2)), Spec.plain(OBSERVATION, ACTION))

    def act(key: Array) -> Array:
        policy = algorithm.policy(algorithm.init(key, algorithm.hparams))
        return algorithm.act(policy, algorithm.init_carry(policy, 5), jnp.zeros((5, OBSERVATION)), key)[0]

    assert jax.eval_shape(act, jax.random.key(0)).shape == (5, ACTION)


@pytest.mark.parametrize("name", chosen(DECODED, 0))
def test_more_children_find_more_value(name: str) -> None:
    one, sixteen = (mean_value(name, num_children=count, temperature=0.0) for count in (1, 16))
    assert one + 0.02 < sixteen


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diffusion_ql", "qgpo"])
def test_chains_of_one_state_find_more_value(name: str) -> None:
    assert mean_value(name, num_children=2, temperature=0.1, num_chains=4) > mean_value(name, num_children=2, temperature=0.1)


@pytest.mark.slow
def test_a_high_temperature_leaves_the_model_alone() -> None:
    one, warm = mean_value("srpo", num_children=1), mean_value("srpo", num_children=8, temperature=1e6)
    assert warm == pytest.approx(one, abs=0.05)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (swg.Config(weighting="energy", act=swg.Act(decode="svdd")), "needs a critic, and weighting 'energy' trains none"),
        (swg.Config(act=swg.Act(decode="svdd", sampler="ddim")), "the same without fresh noise: set act.sampler='ddpm'"),
        (swg.Config(act=swg.Act(decode="svdd", noise_scale=0.0)), "set act.sampler='ddpm' and act.noise_scale above 0"),
        (dac.Config(act=dac.Act(decode="svdd", noise_scale=0.0)), "raise act.noise_scale"),
        (idql.Config(act=idql.Act(decode="svdd", noise_scale=0.0)), "set clone='diffusion' and act.noise_scale above 0"),
        (idql.Config(clone="flow", act=idql.Act(decode="svdd")), "set clone='diffusion' and act.noise_scale above 0"),
    ],
)
def test_impossible_decoding_is_refused(config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make(config, Spec.plain(OBSERVATION, ACTION))
