"""Models of what follows an observation and an action: ensembles of networks, in one batched product, and their fit.

Members may only say s' (SGP), or be whole: a Gaussian over (s' - s, r) each (Chua et al. 2018, arXiv 1805.12114) and the
probability that the episode goes on. They see and say numbers in `Units`, of the data's range or of running moments.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, UInt32

from diffrl.learner import Learner, forward
from diffrl.networks.ensembles import ensemble
from diffrl.networks.mlp import MLP, Linear
from diffrl.objectives.value import Discount, bootstrap
from diffrl.types import Count, Key, Metrics, Params, Spec, Transition

LOG_VARIANCE_MIN, LOG_VARIANCE_MAX = -10.0, 0.5
GOES_ON = 4.0  # log odds that an episode goes on, of a model that says 0: most do
SLOWEST = 1e-3  # least rate of the running moments: they follow a policy whose data change
LEAST_SCALE = 1e-6  # of what never moves


@flax.struct.dataclass
class Units:
    """What a model's inputs (s, a) and outputs (s' - s, of a whole one r too) are measured in: (x - mean) / scale.

    Vectors of n + m and of n or n + 1 numbers; typed loosely, as part of a State.
    """

    input_mean: Any
    input_scale: Any
    output_mean: Any
    output_scale: Any

    @classmethod
    def of_nothing(cls, spec: Spec) -> "Units":
        """Those of a whole model before it has seen data: mean 0 and scale 1."""
        inputs, outputs = spec.observation_dim + spec.action_dim, spec.observation_dim + 1
        return cls(jnp.zeros(inputs), jnp.ones(inputs), jnp.zeros(outputs), jnp.ones(outputs))

    def moved(self, inputs: Float[Array, "batch inputs"], outputs: Float[Array, "batch outputs"], step: Count) -> "Units":
        """Moments of all batches so far, `step` of them before this one; of many the last 1 / SLOWEST count most."""
        rate = jnp.maximum(1.0 / (step + 1.0), SLOWEST)

        def together(mean: Array, scale: Array, x: Array) -> tuple[Array, Array]:
            away = jnp.mean(x, axis=0) - mean
            variance = (1.0 - rate) * (scale**2 + rate * away**2) + rate * jnp.var(x, axis=0)
            return mean + rate * away, jnp.maximum(jnp.sqrt(variance), LEAST_SCALE)

        return Units(
            *together(self.input_mean, self.input_scale, inputs), *together(self.output_mean, self.output_scale, outputs)
        )


class Prediction(NamedTuple):
    """Of a whole model's members, in its units but for the last.

    Attributes:
        mean, log_std: of (s' - s, r).
        log_odds: that the episode goes on.
    """

    mean: Float[Array, "members batch outputs"]
    log_std: Float[Array, "members batch outputs"]
    log_odds: Float[Array, "members batch"]


class Step(NamedTuple):
    """What follows, in the observations' units: `going_on` is the probability that the episode does."""

    observation: Float[Array, "*batch observation"]
    reward: Float[Array, "*batch"]
    going_on: Float[Array, "*batch"]


@dataclasses.dataclass(frozen=True)
class Dynamics:
    """The networks of an ensemble of models.

    Attributes:
        size: members.
        observation_dim: of observations.
        hidden_dims, activation, dense, layer_norm: as in MLP.
        whole: whether members say all of a `Prediction`, or s' alone.
    """

    size: int
    observation_dim: int
    hidden_dims: Sequence[int]
    activation: Callable[[Array], Array] = nn.silu
    dense: Callable[[int], nn.Module] = Linear
    layer_norm: Literal["", "before", "after"] = ""
    whole: bool = True

    @property
    def network(self) -> nn.Module:
        """Of `[size, batch, inputs]`, a batch for each member."""
        outputs = 2 * (self.observation_dim + 1) + 1 if self.whole else self.observation_dim
        members = ensemble(MLP, self.size, shared_inputs=False)
        return members(self.hidden_dims, outputs, activation=self.activation, dense=self.dense, layer_norm=self.layer_norm)

    def __call__(
        self,
        params: Params,
        units: Units,
        observation: Float[Array, "members batch observation"],
        action: Float[Array, "*#members #batch action"],
    ) -> Float[Array, "members batch outputs"]:
        """What the networks say."""
        action = jnp.broadcast_to(action, (*observation.shape[:-1], action.shape[-1]))
        inputs = jnp.concatenate([observation, action], axis=-1)
        return forward(self.network, params, (inputs - _ranked(units.input_mean, inputs)) / _ranked(units.input_scale, inputs))

    def successors(
        self,
        params: Params,
        units: Units,
        observation: Float[Array, "members batch observation"],
        action: Float[Array, "*#members #batch action"],
    ) -> Float[Array, "members batch observation"]:
        """s' of members that are not whole."""
        change = self(params, units, observation, action)
        return observation + (_ranked(units.output_mean, change) + _ranked(units.output_scale, change) * change)

    def predict(
        self,
        params: Params,
        units: Units,
        observation: Float[Array, "members batch observation"],
        action: Float[Array, "*#members #batch action"],
    ) -> Prediction:
        """Of whole members; log variances are bent into their bounds by softplus, so that a gradient is left."""
        outputs = self.observation_dim + 1
        mean, log_variance, log_odds = jnp.split(self(params, units, observation, action), [outputs, 2 * outputs], axis=-1)
        log_variance = LOG_VARIANCE_MAX - jax.nn.softplus(LOG_VARIANCE_MAX - log_variance)
        log_variance = LOG_VARIANCE_MIN + jax.nn.softplus(log_variance - LOG_VARIANCE_MIN)
        return Prediction(mean, 0.5 * log_variance, GOES_ON + log_odds[..., 0])

    def shared_out(self, x: Float[Array, "batch _"]) -> Float[Array, "members share _"]:
        """Rows as one share for each member; the first rows fill the last share up."""
        share = -(-len(x) // self.size)
        return jnp.concatenate([x, x[: self.size * share - len(x)]]).reshape(self.size, share, -1)

    def imagine(
        self,
        params: Params,
        units: Units,
        observation: Float[Array, "batch observation"],
        action: Float[Array, "batch action"],
        key: Key,
    ) -> Step:
        """A draw of what follows each row, with gradient. The member is a row's by its place: it keeps it along a path."""
        shares = self.shared_out(observation), self.shared_out(action)
        found = step_of(self.predict(params, units, *shares), units, shares[0], key)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[: len(observation)], found)


def step_of(prediction: Prediction, units: Units, observation: Float[Array, "members batch observation"], key: Key) -> Step:
    """A draw from a prediction."""
    drawn = prediction.mean + jnp.exp(prediction.log_std) * jax.random.normal(key, prediction.mean.shape)
    change = _ranked(units.output_mean, drawn) + _ranked(units.output_scale, drawn) * drawn
    return Step(observation + change[..., :-1], change[..., -1], jax.nn.sigmoid(prediction.log_odds))


@flax.struct.dataclass
class Model:
    """A whole model as a State holds it; `held_out` `[members]` is the running loss on rows that nothing is learnt from."""

    learner: Learner
    units: Units
    held_out: Any

    @classmethod
    def init(cls, dynamics: Dynamics, optimizer: optax.GradientTransformation, key: Key, spec: Spec) -> "Model":
        """Before its first step."""
        inputs = jnp.zeros((dynamics.size, 1, spec.observation_dim + spec.action_dim))
        learner = Learner.init(dynamics.network, optimizer, key, inputs)
        return cls(learner, Units.of_nothing(spec), jnp.zeros(dynamics.size))

    def elites(self, count: int) -> Params:
        """Parameters of the members with the least loss on rows held out, for a `Dynamics` of that size."""
        if count == len(self.held_out):
            return self.learner.params
        best = jnp.argsort(self.held_out)[:count]
        return jax.tree.map(lambda x: x[best], self.learner.params)


class Rows(NamedTuple):
    """What a model is fitted to: steps of the data, and which of them were taken."""

    observation: Float[Array, "batch observation"]
    action: Float[Array, "batch action"]
    reward: Float[Array, "batch"]
    next_observation: Float[Array, "batch observation"]
    terminal: Bool[Array, "batch"]
    taken: Bool[Array, "batch"]

    @classmethod
    def of(cls, batch: Transition, discount: Discount) -> "Rows":
        """A row's step, or its chunk of steps; chunks of which some actions were never taken are no data."""
        ahead = bootstrap(batch, discount)
        # A constant would be folded, and round other than the mask of chunks: of single steps it is what no compiler can tell.
        taken = batch.extras.get("chunk_taken", ~jnp.isnan(batch.reward))
        return cls(batch.observation, batch.action, ahead.reward, ahead.observation, batch.terminal, taken)


def held_out(rows: Rows, share: Float[Array, ""] | float) -> Bool[Array, "batch"]:
    """Which rows no model may learn from: those whose bits, hashed, fall into the share.

    A row is held out for good, whatever draws it and wherever it lies, and so are its copies.
    """
    numbers = jnp.concatenate([rows.observation, rows.action, rows.next_observation], axis=-1)
    words = jax.lax.bitcast_convert_type(numbers.astype(jnp.float32), jnp.uint32)
    places = _mixed(jnp.arange(1, words.shape[-1] + 1, dtype=jnp.uint32)) | jnp.uint32(1)
    hashed = _mixed(jnp.sum(_mixed(words) * _ranked(places, words), axis=-1, dtype=jnp.uint32))
    return hashed.astype(jnp.float32) * 2.0**-32 < share


def _ranked(vector: ArrayLike, like: ArrayLike) -> Array:
    """A vector, to hold along the last axis of an array."""
    return jax.lax.broadcast_to_rank(vector, jnp.ndim(like))


def _mixed(word: UInt32[Array, "*any"]) -> UInt32[Array, "*any"]:
    """Every bit of the result depends on every bit of the word (the finaliser of MurmurHash3)."""
    word = (word ^ (word >> 16)) * jnp.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * jnp.uint32(0xC2B2AE35)
    return word ^ (word >> 16)


def outputs_of(rows: Rows) -> Float[Array, "batch outputs"]:
    """(s' - s, r)."""
    return jnp.concatenate([rows.next_observation - rows.observation, rows.reward[:, None]], axis=-1)


def losses(params: Params, dynamics: Dynamics, units: Units, rows: Rows) -> tuple[Float[Array, "members batch"], Prediction]:
    """Of each member at each row: -log p(s' - s, r | s, a), in units of the model, and of whether the episode goes on."""
    observation = jnp.broadcast_to(rows.observation, (dynamics.size, *rows.observation.shape))
    found = dynamics.predict(params, units, observation, rows.action)
    outputs = (outputs_of(rows) - units.output_mean[None]) / units.output_scale[None]
    z = (outputs[None] - found.mean) / jnp.exp(found.log_std)
    gaussian = jnp.sum(0.5 * z**2 + found.log_std + 0.5 * jnp.log(2.0 * jnp.pi), axis=-1)
    return gaussian + optax.sigmoid_binary_cross_entropy(found.log_odds, (1.0 - rows.terminal)[None]), found


def fit(
    dynamics: Dynamics,
    model: Model,
    rows: Rows,
    optimizer: optax.GradientTransformation,
    held_out_share: Float[Array, ""] | float,
    step: Count,
) -> tuple[Model, Metrics]:
    """One step up the likelihood of the rows that are not held out, after the units have moved.

    Its metrics: `model/held_out` is the running mean over members of the loss on the others, in nats; `model/held_out_error`
    the squared error there of the members' mean, as a share of the outputs' variance, of this batch (0 where it has none).
    """
    inputs, outputs = jnp.concatenate([rows.observation, rows.action], axis=-1), outputs_of(rows)
    units = model.units.moved(inputs, outputs, step)
    out = held_out(rows, held_out_share)
    weights = [(which & rows.taken).astype(jnp.float32) for which in (~out, out)]
    learning, testing = (weight / jnp.maximum(jnp.sum(weight), 1.0) for weight in weights)

    def loss_of(params: Params) -> tuple[Array, tuple[Array, Array]]:
        each, found = losses(params, dynamics, units, rows)
        away = (outputs - units.output_mean[None]) / units.output_scale[None] - jnp.mean(found.mean, axis=0)
        return jnp.sum(each @ learning), (each @ testing, jnp.mean(away**2, axis=-1) @ testing)

    learner, loss, (tested, error) = model.learner.step(loss_of, optimizer, has_aux=True)
    rate = jnp.maximum(1.0 / (step + 1.0), 10.0 * SLOWEST) * (jnp.sum(testing) > 0.0)
    running = model.held_out + rate * (tested - model.held_out)
    metrics = {
        "model/loss": loss / dynamics.size,
        "model/held_out": jnp.mean(running),
        "model/held_out_error": error,
    }
    return Model(learner, units, running), metrics
