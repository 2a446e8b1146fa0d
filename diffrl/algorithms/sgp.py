"""SGP: score-guided planning (Suh, Chou, Dai, Yang, Gupta, Tedrake 2023, arXiv 2306.14079).

Three models of the data, trained apart: (i) what follows an observation and an action, (ii) the reward, (iii) the score of the
data smoothed by noise, ∇ log p_σ. Acting plans: it optimises the next actions for reward plus β times the data's likelihood, of
which the gradient is all that is known or needed, and takes the first of them. A fourth model, a distance to the data, and an
ensemble of the first serve the baselines that the paper compares with.
"""

import dataclasses
from typing import Literal, no_type_check

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.algorithm import Algorithm, Stage, hparams_of
from diffrl.data.columns import windows
from diffrl.data.dataset import Dataset
from diffrl.data.sampling import uniform
from diffrl.diffusion import empirical
from diffrl.diffusion.objectives import denoising_loss, discrete_times
from diffrl.diffusion.schedules import TableVE
from diffrl.learner import Learner, copied, forward
from diffrl.models.dynamics import Dynamics, Units
from diffrl.networks.mlp import MLP
from diffrl.networks.noise_conditioned import NoiseConditionedMLP
from diffrl.planning.choice import Act, planner_of
from diffrl.planning.problem import Ensemble, Plan, Planner, Problem, model_cost, with_distance, with_spread
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition

REFERENCE_ROWS = 5_000  # of the data, that distances are measured to
MARGIN = 0.5  # of the data's range on each side, where the distance is learnt


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        learning_rate: Adam's, of every model; it falls along a cosine.
        ema_decay: of the average of the score, which plans.
        model_discount: γ of the steps of a multi-step model loss.
    """

    learning_rate: float = 1e-3
    ema_decay: float = setting(0.999, high=1.0)
    model_discount: float = setting(0.9, high=1.0)


@dataclasses.dataclass
class Config(HParams):
    """Choices of the models, widths and lengths.

    Attributes:
        layer_norm: in the dynamics, reward and distance, as released for locomotion; exact small systems are fitted better
            without.
        num_models: members of the ensemble of dynamics; one plans with their mean.
        model_horizon: H, steps that the dynamics are rolled out for their loss; 1 is the one-step loss.
        score_of: "pair" (observation, action), or "transition", with the next observation, for a collocation.
        next_observation_stretch: α of a transition score: the next observation is scaled up by it, so that its part of the
            noise, the error of the dynamics, is smaller.
        sigma_max, sigma_min, num_levels, levels: the noise levels, in units of the data's range.
        learn_distance: whether to, in a fourth stage.
    """

    layer_norm: bool = True
    num_models: int = 1
    model_horizon: int = 1
    score_of: Literal["pair", "transition"] = "pair"
    next_observation_stretch: float = 10.0
    sigma_max: float = 10**-0.5
    sigma_min: float = 1e-3
    num_levels: int = 10
    levels: Literal["geometric", "cosine"] = "geometric"
    hidden_dim: int = 1024
    num_layers: int = 4
    dynamics_updates: int = setting(200_000, high=2**29)
    reward_updates: int = setting(200_000, high=2**29)
    score_updates: int = setting(200_000, high=2**29)
    learn_distance: bool = False
    distance_updates: int = setting(50_000, high=2**29)
    batch_size: int = 2048
    act: Act = dataclasses.field(default_factory=Act)


@flax.struct.dataclass
class State:
    """What one run trains."""

    step: Count
    hparams: HParams
    dynamics: Learner
    reward: Learner
    score: Learner
    ema_score_params: Params
    distance: Learner


def check(config: Config) -> None:
    """Refuses choices that do not fit together.

    Raises:
        ValueError: the noise levels are none, or what the planner asks for is not trained.
    """
    act = config.act
    zeroth, of_actions = act.planner in ("cem", "mppi"), act.uncertainty in ("spread", "distance")
    for wrong, message in (
        (
            not 0.0 < config.sigma_min <= config.sigma_max,
            f"noise levels fall from sigma_max to sigma_min above 0, got {config.sigma_max} and {config.sigma_min}",
        ),
        (config.next_observation_stretch <= 0.0, "next_observation_stretch must be above 0"),
        (
            act.uncertainty == "score" and zeroth and act.beta,
            f"of the likelihood only the gradient is known, and {act.planner!r} asks for values: choose uncertainty 'spread', "
            "'distance' or 'none', or another planner",
        ),
        (
            act.uncertainty == "none" and act.beta,
            f"uncertainty 'none' has nothing for act.beta = {act.beta} to weigh: set it to 0",
        ),
        (
            act.uncertainty == "spread" and config.num_models < 2,
            "uncertainty 'spread' needs an ensemble: num_models of 2 or more",
        ),
        (
            act.uncertainty == "distance" and not config.learn_distance,
            "uncertainty 'distance' needs the learnt distance: train with learn_distance",
        ),
        (
            of_actions and act.planner not in ("shooting", "cem", "mppi"),
            f"uncertainty {act.uncertainty!r} is a cost of actions: choose planner 'shooting', 'cem' or 'mppi'",
        ),
        (
            (act.planner == "collocation") != (config.score_of == "transition"),
            f"planner {act.planner!r} cannot use a score of {config.score_of!r}: a collocation needs score_of='transition', all "
            "others 'pair'",
        ),
        (act.planner == "collocation" and act.uncertainty != "score", "a collocation has no model but the score: keep 'score'"),
    ):
        if wrong:
            raise ValueError(message)


class Models:
    """The networks, the units they see, and the problem that trained ones pose to a planner.

    Raises:
        ValueError: see `check`; a Spec without the data's range.
    """

    def __init__(self, config: Config, spec: Spec) -> None:
        check(config)
        if not spec.observation_min:
            raise ValueError("this workdir's spec.json was saved without the range of the data: train anew")
        of = TableVE.cosine if config.levels == "cosine" else TableVE.geometric
        self.config, self.schedule = config, of(config.sigma_max, config.sigma_min, config.num_levels)
        low = jnp.concatenate([jnp.asarray(spec.observation_min), -jnp.ones(spec.action_dim)])
        high = jnp.concatenate([jnp.asarray(spec.observation_max), jnp.ones(spec.action_dim)])
        # The data's range becomes [-1/2, 1/2], as in the released code; a column that never moves keeps its scale.
        self.scale, self.centre = jnp.where(high > low, high - low, 1.0), (low + high) / 2.0
        self.observation_scale = self.scale[: spec.observation_dim]
        self.score_scale, self.score_centre = self.scale, self.centre
        if config.score_of == "transition":
            stretched = self.observation_scale / config.next_observation_stretch
            self.score_scale = jnp.concatenate([self.scale, stretched])
            self.score_centre = jnp.concatenate([self.centre, self.centre[: spec.observation_dim]])
        width = (config.hidden_dim,) * config.num_layers
        layer_norm = "before" if config.layer_norm else ""
        self.dynamics = Dynamics(
            config.num_models, spec.observation_dim, width, activation=nn.elu, layer_norm=layer_norm, whole=False
        )
        no_change = jnp.zeros(spec.observation_dim)
        self.units = Units(self.centre, self.scale, no_change, self.observation_scale)
        self.reward_network = MLP(width, 1, activation=nn.elu, layer_norm=layer_norm)
        self.score_network = NoiseConditionedMLP(len(self.score_scale), config.num_levels, config.hidden_dim, config.num_layers)
        self.distance_network = MLP(width, 1, activation=nn.elu, layer_norm=layer_norm)
        self.planner({})  # refuses choices that it cannot be made with, before anything is trained

    def normalized(self, observation: Array, action: Array) -> Array:
        pair = jnp.concatenate([observation, action], axis=-1)
        return (pair - jax.lax.broadcast_to_rank(self.centre, pair.ndim)) / jax.lax.broadcast_to_rank(self.scale, pair.ndim)

    def every_member(self, observation: Array) -> Array:
        return jnp.broadcast_to(observation, (self.config.num_models, *observation.shape))

    def successors(self, params: Params, observation: Array, action: Array) -> Array:
        """x + k ⊙ net(x̄, ū): members' next observations `[K, B, n]` from their own `[K, B, n]` and the same actions `[B, m]`."""
        return self.dynamics.successors(params, self.units, observation, action)

    def rewards(self, params: Params, observation: Array, action: Array) -> Array:
        return forward(self.reward_network, params, self.normalized(observation, action))[..., 0]

    def distance(self, params: Params, points: Array) -> Array:
        """Of normalised points."""
        return forward(self.distance_network, params, points)[..., 0]

    def problem(self, policy: Policy) -> Problem:
        """With observations as the Spec has them and actions in [-1, 1]; the cost is the reward model's."""

        def members(observation: Array, action: Array) -> Array:
            return self.successors(policy["dynamics"], observation[:, None], action[None])[:, 0]

        def step(observation: Array, action: Array) -> Array:
            return jnp.mean(members(self.every_member(observation), action), axis=0)

        def score(points: Array, level: Array) -> Array:
            sigma = jnp.asarray(self.schedule.sigmas)[level]
            levels = jnp.broadcast_to(level, points.shape[:-1])
            centre, scale = (jax.lax.broadcast_to_rank(each, points.ndim) for each in (self.score_centre, self.score_scale))
            return -forward(self.score_network, policy["score"], (points - centre) / scale, levels) / sigma / scale

        return Problem(
            dynamics=step,
            cost=lambda observation, action: -self.rewards(policy["reward"], observation, action),
            score=score,
            sigmas=self.schedule.sigmas,
            ensemble=Ensemble(self.config.num_models, members),
        )

    def planner(self, policy: Policy) -> Planner:
        """As `config.act` chooses."""
        act = self.config.act

        def distance(points: Array) -> Array:
            centre, scale = (jax.lax.broadcast_to_rank(each, points.ndim) for each in (self.centre, self.scale))
            return self.distance(policy["distance"], (points - centre) / scale)

        costs = {"spread": with_spread(act.beta), "distance": with_distance(distance, act.beta)}
        return planner_of(act, self.observation_scale, costs.get(act.uncertainty, model_cost))


def dynamics_loss(params: Params, models: Models, batch: Transition, discount: Array | float) -> Float[Array, ""]:
    """½‖x' - f(x, u)‖², or over H steps Σ_h γ^h ‖x̂_h - x_h‖² of the model's own rollout from the first."""
    if models.config.model_horizon == 1:
        error = models.successors(params, models.every_member(batch.observation), batch.action) - batch.next_observation[None]
        return 0.5 * jnp.mean(jnp.sum(error**2, axis=-1))
    target, action, mask = (batch.extras[f"window_{name}"] for name in ("observation", "action", "mask"))

    def step(observation: Array, h: Array) -> tuple[Array, Array]:
        observation = models.successors(params, observation, action[:, h])
        error = jnp.sum((observation - target[None, :, h + 1]) ** 2, axis=-1) * mask[None, :, h]
        return observation, discount ** (h + 1) * jnp.mean(error)

    return jnp.sum(jax.lax.scan(step, models.every_member(target[:, 0]), jnp.arange(models.config.model_horizon))[1])


def reward_loss(params: Params, models: Models, batch: Transition) -> Float[Array, ""]:
    """½ (r̂(x, u) - r)²."""
    return 0.5 * jnp.mean((models.rewards(params, batch.observation, batch.action) - batch.reward) ** 2)


def score_loss(params: Params, models: Models, batch: Transition, key: Key) -> Float[Array, ""]:
    """½ E σ_i² ‖s + ε/σ_i‖², a level for each example; the network predicts ε = -σ_i s."""
    following = [batch.next_observation] if models.config.score_of == "transition" else []
    z = jnp.concatenate([batch.observation, batch.action, *following], axis=-1)
    z = (z - models.score_centre[None]) / models.score_scale[None]

    def predict(noised: Array, t: Array) -> Array:
        return forward(models.score_network, params, noised, models.schedule.index(t))

    return 0.5 * denoising_loss(predict, models.schedule, z, key, times=discrete_times(models.config.num_levels))


def distance_loss(params: Params, models: Models, batch: Transition) -> Float[Array, ""]:
    """L1 regression on the distance (their baseline, with a metric and a margin that reach beyond the data)."""
    return jnp.mean(jnp.abs(models.distance(params, batch.extras["far_point"]) - batch.extras["far_distance"]))


def make(config: Config, spec: Spec) -> Algorithm:
    """Dynamics, reward and score, then planning with all three.

    Raises:
        ValueError: see `check`; a Spec without the data's range.
    """
    models = Models(config, spec)

    def adam(hparams: HParams, num_updates: int) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(hparams.learning_rate, max(num_updates, 1)))

    def init(key: Key, hparams: HParams) -> State:
        dynamics_key, reward_key, score_key, distance_key = jax.random.split(key, 4)
        point, score_point = jnp.zeros((1, len(models.scale))), jnp.zeros((1, len(models.score_scale)))
        members = models.every_member(point)

        def learner(network: nn.Module, num_updates: int, key: Key, *inputs: Array) -> Learner:
            return Learner.init(network, adam(hparams, num_updates), key, *inputs)

        score = learner(models.score_network, config.score_updates, score_key, score_point, jnp.zeros(1, jnp.int32))
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            dynamics=learner(models.dynamics.network, config.dynamics_updates, dynamics_key, members),
            reward=learner(models.reward_network, config.reward_updates, reward_key, point),
            score=score,
            ema_score_params=copied(score.params),
            distance=learner(models.distance_network, config.distance_updates, distance_key, point),
        )

    def columns(dataset: Dataset) -> dict[str, Array]:
        return windows(dataset, config.model_horizon)

    def update_dynamics(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        del key
        dynamics, loss = state.dynamics.step(
            lambda params: dynamics_loss(params, models, batch, state.hparams.model_discount),
            adam(state.hparams, config.dynamics_updates),
        )
        return dataclasses.replace(state, dynamics=dynamics), {"dynamics/loss": loss}

    def update_reward(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        del key
        reward, loss = state.reward.step(
            lambda params: reward_loss(params, models, batch), adam(state.hparams, config.reward_updates)
        )
        return dataclasses.replace(state, reward=reward), {"reward/loss": loss}

    def update_score(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        score, loss = state.score.step(
            lambda params: score_loss(params, models, batch, key), adam(state.hparams, config.score_updates)
        )
        ema = optax.incremental_update(score.params, state.ema_score_params, 1.0 - state.hparams.ema_decay)
        return dataclasses.replace(state, score=score, ema_score_params=ema), {"score/loss": loss}

    def measure(state: State, dataset: Dataset, key: Key) -> dict[str, Array]:
        """A point for each row, uniform in the data's box and a margin around it, and its smoothed distance to the data."""
        del state
        point_key, row_key = jax.random.split(key)
        some = uniform(dataset, row_key, min(REFERENCE_ROWS, dataset.size))
        reference = models.normalized(some.observation, some.action)
        edge = 0.5 + MARGIN
        points = jax.random.uniform(point_key, (dataset.size, len(models.scale)), minval=-edge, maxval=edge)

        def distance(point: Array) -> Array:
            return config.sigma_max**2 * empirical.energy(point[None], reference, config.sigma_max)[0]

        return {"far_point": points, "far_distance": jax.lax.map(distance, points, batch_size=min(256, dataset.size))}

    def update_distance(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        del key
        distance, loss = state.distance.step(
            lambda params: distance_loss(params, models, batch), adam(state.hparams, config.distance_updates)
        )
        return dataclasses.replace(state, distance=distance), {"distance/loss": loss}

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        """Plans for every environment, and takes the first action of each plan."""
        choice, problem, planner = config.act, models.problem(policy), models.planner(policy)
        guess_key, plan_key = jax.random.split(key)
        fresh = choice.guess_mean + choice.guess_scale * jax.random.normal(guess_key, carry["actions"].shape)
        shifted = jnp.concatenate([carry["actions"][:, 1:], carry["actions"][:, -1:]], axis=1)
        guess = jnp.where(carry["started"][:, None, None], shifted, fresh)

        def plan(start: Array, guess: Array, key: Key) -> Plan:
            return planner(problem, start, guess, key)

        plans = jax.vmap(plan)(observation, guess, jax.random.split(plan_key, len(observation)))
        started = jnp.full(len(observation), choice.warm_start)
        actions = jnp.clip(plans.actions, -1.0, 1.0)
        return actions[:, 0], {"actions": actions, "started": started, "expected_return": -plans.cost}

    def init_carry(policy: Policy, num_envs: int) -> Carry:
        """The plan before, whether there is one, and the return that it promises over the horizon."""
        del policy
        return {
            "actions": jnp.zeros((num_envs, config.act.horizon, spec.action_dim)),
            "started": jnp.zeros(num_envs, bool),
            "expected_return": jnp.zeros(num_envs),
        }

    stages = [
        Stage("dynamics", config.dynamics_updates, config.batch_size, update_dynamics),
        Stage("reward", config.reward_updates, config.batch_size, update_reward),
        Stage("score", config.score_updates, config.batch_size, update_score),
        Stage("distance", config.distance_updates, config.batch_size, update_distance, measure),
    ]
    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=tuple(stages if config.learn_distance else stages[:3]),
        policy=lambda state: {
            "dynamics": state.dynamics.params,
            "reward": state.reward.params,
            "score": state.ema_score_params,
            "distance": state.distance.params,
        },
        init_carry=init_carry,
        act=act,
        columns=columns if config.model_horizon > 1 else None,
        lookahead=config.model_horizon,
    )
