"""CFGRL: classifier-free guidance as policy improvement (Frans, Park, Abbeel, Levine 2025, arXiv 2505.23458).

One flow clones the data's actions under a condition, which is dropped for a tenth of the rows. Guided by w it samples
v_∅ + w (v_c - v_∅): w = 0 is the clone, w = 1 the clone of what the condition says, and beyond it extrapolates; no weight and no
gradient of Q, and w is chosen when acting. The condition is whether the action was better than the policy's value ("optimality",
by implicit Q-learning), or a state that its trajectory came to ("goal", without any value).
"""

import dataclasses
from typing import Any, Literal, no_type_check

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Bool, Float

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.data.goals import GOAL, as_goal, trajectory_end, without_goal
from diffrl.data.sampling import goals
from diffrl.diffusion.flows import FLOW, flow_grid, flow_matching_loss, followed
from diffrl.diffusion.guidance import guided
from diffrl.diffusion.targets import Model, as_model
from diffrl.learner import Learner, copied, example, forward
from diffrl.networks.ensembles import Critics, Value
from diffrl.networks.mlp import MLP, xavier_dense
from diffrl.objectives.implicit_q import update_values
from diffrl.objectives.value import expectile_loss, lowest_q
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition

GOOD = 1  # the label of actions whose advantage is not negative; 0 of the others, which guidance never asks for


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        learning_rate: Adam's, of all networks.
        condition_dropout: share of the rows whose condition is dropped; what the unguided model is trained on.
        discount, tau, expectile: γ, the rate of the target critics, and τ of V. Of normal values an expectile of 0.9 calls the
            best 19 % of the actions good, 0.7 37 %: w = 1 is a strong step already.
    """

    learning_rate: float = 3e-4
    condition_dropout: float = setting(0.1, high=1.0)
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    expectile: float = setting(0.9, high=1.0)


@dataclasses.dataclass
class Act:
    """Choices made when acting.

    Attributes:
        guidance_scale: w; of goals 3 everywhere in the paper, of labels the best of 1, 1.25, 1.5, 2, 3. To guide every level by
            w is not to sample π f^w, it moves further: of a normal clone and likelihood 3 ends at the likelihood's centre.
        num_flow_steps: Euler's, each of them two passes, but for w = 0 and 1.
    """

    guidance_scale: float = 1.5
    num_flow_steps: int = 16


@dataclasses.dataclass
class Config(HParams):
    """Choices of the condition, widths and lengths.

    Attributes:
        condition: "optimality" or "goal". A goal is drawn uniformly from the states after a row up to its trajectory's end, and
            takes the place of the observation's part "desired_goal".
        label_dim: of a label's features.
    """

    condition: Literal["optimality", "goal"] = "optimality"
    label_dim: int = 32
    hidden_dims: tuple[int, ...] = (512, 512, 512, 512)
    critic_hidden_dims: tuple[int, ...] = (512, 512, 512, 512)
    num_updates: int = setting(1_000_000, high=2**29)
    batch_size: int = 256
    act: Act = dataclasses.field(default_factory=Act)


@flax.struct.dataclass
class State:
    """What one run trains; of goals `behavior` alone."""

    step: Count
    hparams: HParams
    behavior: Learner  # `network`, `null` that stands for no condition, and of labels `labels`
    value: Any = ()
    critic: Any = ()
    target_critic_params: Params = ()


def dropped(
    key: Key, condition: Float[Array, "batch condition"], null: Float[Array, "condition"], rate: Float[Array, ""] | float
) -> tuple[Float[Array, "batch condition"], Bool[Array, "batch"]]:
    """The condition of each row, or in `rate` of them what stands for none; and where it was dropped."""
    drop = jax.random.bernoulli(key, rate, condition.shape[:1])
    return jnp.where(drop[:, None], null, condition), drop


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage: of labels V, Q and the target critics before the flow, whose labels are by what they were before.

    Raises:
        ValueError: goals are asked for and the observation has none.
    """
    of_goals = config.condition == "goal"
    if of_goals and GOAL not in dict(spec.observation_parts):
        raise ValueError(
            "condition='goal' needs an observation with a part 'desired_goal', and this one has none: load data with goals "
            "(OGBench's with dataset.task=goals), or set condition='optimality'"
        )
    wanted = spec.part(GOAL) if of_goals else slice(0, 0)
    width = wanted.stop - wanted.start if of_goals else config.label_dim
    network = MLP(config.hidden_dims, spec.action_dim, dense=xavier_dense, activation=nn.gelu)
    layers: dict[str, Any] = {"dense": xavier_dense, "activation": nn.gelu, "layer_norm": "after"}
    critics, values = Critics(config.critic_hidden_dims, **layers), Value(config.critic_hidden_dims, **layers)
    levels = flow_grid(config.act.num_flow_steps)

    def seen(observation: Array) -> Array:
        return without_goal(observation, spec) if of_goals else observation

    def velocity(params: Params, noised: Array, t: Array, observation: Array, condition: Array) -> Array:
        return forward(network, params["network"], noised, t[:, None], seen(observation), condition)

    def init(key: Key, hparams: HParams) -> State:
        network_key, null_key, label_key, value_key, critic_key = jax.random.split(key, 5)
        (observation, action), adam = example(spec), optax.adam(hparams.learning_rate)
        condition = jnp.zeros((1, width))
        params = {
            "network": network.init(network_key, action, jnp.zeros((1, 1)), seen(observation), condition)["params"],
            "null": jax.random.normal(null_key, (width,)) * width**-0.5,
        }
        state = State(jnp.int32(0), hparams, Learner.create(params, adam))
        if of_goals:
            return state
        params |= {"labels": jax.random.normal(label_key, (2, width)) * width**-0.5}
        critic = Learner.init(critics, adam, critic_key, observation, action)
        return dataclasses.replace(
            state,
            behavior=Learner.create(params, adam),
            value=Learner.init(values, adam, value_key, observation),
            critic=critic,
            target_critic_params=copied(critic.params),
        )

    def condition_of(params: Params, batch: Transition, label: Array) -> Array:
        return as_goal(batch.extras["goal"], spec) if of_goals else params["labels"][label]

    def update_values_and_label(state: State, batch: Transition) -> tuple[State, Metrics, Array]:
        """Implicit Q-learning, and the sign of each row's advantage."""
        q = lowest_q(critics, state.target_critic_params, batch.observation, batch.action)
        label = (q >= forward(values, state.value.params, batch.observation)).astype(jnp.int32)
        state, metrics = update_values(
            state,
            batch,
            q,
            critics,
            values,
            optax.adam(state.hparams.learning_rate),
            lambda error: expectile_loss(error, state.hparams.expectile),
            target_from_updated_value=True,
            critic_loss_weight=1.0,
        )
        return state, metrics | {"behavior/good": jnp.mean(label, dtype=jnp.float32)}, label

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        metrics, label = {}, jnp.zeros(len(batch.action), jnp.int32)
        if not of_goals:
            state, metrics, label = update_values_and_label(state, batch)
        drop_key, flow_key = jax.random.split(key)

        def cloning(params: Params) -> Array:
            condition, _ = dropped(drop_key, condition_of(params, batch, label), params["null"], state.hparams.condition_dropout)
            return flow_matching_loss(lambda x, t: velocity(params, x, t, batch.observation, condition), batch.action, flow_key)

        behavior, loss = state.behavior.step(cloning, optax.adam(state.hparams.learning_rate))
        return dataclasses.replace(state, behavior=behavior), metrics | {"behavior/loss": loss}

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        def model(condition: Array) -> Model:
            # What is the same for all rows, the time and here or there the condition, is multiplied once.
            return as_model(lambda x, t: velocity(policy, x, t[:1], observation, condition), FLOW, "velocity")

        condition = observation[:, wanted] if of_goals else policy["labels"][None, GOOD]
        noise = jax.random.normal(key, (len(observation), spec.action_dim))
        flow = guided(model(condition), model(policy["null"][None]), config.act.guidance_scale)
        return jnp.clip(followed(flow, levels, noise), -1.0, 1.0), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("cfgrl", config.num_updates, config.batch_size, update, batch=_FUTURE if of_goals else None),),
        policy=lambda state: state.behavior.params,
        init_carry=no_carry,
        act=act,
        columns=(lambda dataset: trajectory_end(dataset, spec)) if of_goals else None,
    )


_FUTURE = goals(current=0.0, future=1.0, random=0.0, discount=None, until="trajectory_end")
