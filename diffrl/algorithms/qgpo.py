"""QGPO: Q-guided policy optimisation by contrastive energy prediction (Lu et al., ICML 2023, arXiv 2304.12824).

Three stages: (i) a diffusion model of the behaviour μ, (ii) Q by softmax backups over actions drawn from it, (iii) the energy of
every noise level, f(s, a_t, t) = log E[e^{βQ(s, a_0)} | a_t]. Acting adds ∇f to the behaviour's score, which samples
π ∝ μ e^{βQ} exactly. The actions that (ii) and (iii) ask about, K for each state of the data, are drawn once before each.
"""

import dataclasses
from typing import no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.data.dataset import Dataset
from diffrl.diffusion.dpm_solver import fast
from diffrl.diffusion.guidance import energy_guided
from diffrl.diffusion.objectives import denoising_loss, perturb, uniform_times
from diffrl.diffusion.samplers import ancestral
from diffrl.diffusion.schedules import Level, LinearVP, grid
from diffrl.diffusion.targets import Model, Prediction, from_epsilon
from diffrl.learner import Learner, copied, example, forward
from diffrl.networks.action_unet import ActionUNet
from diffrl.networks.ensembles import Critics
from diffrl.networks.time_mlp import TimeMLP
from diffrl.objectives.candidates import Decoding, soft_action
from diffrl.objectives.energy import ENERGY_LOSSES, EnergyLoss
from diffrl.objectives.value import bootstrap, critic_loss, lowest_q
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition

SCHEDULE = LinearVP()
T_MIN = 1e-3  # where sampling ends, and the least noise that is trained on
SUPPORT_BATCH = 1_024  # states whose actions are drawn at once, which bounds memory


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        learning_rate, critic_learning_rate, energy_learning_rate: Adam's, of the three stages.
        discount, tau: γ, and the rate of the target critics.
        beta: β of the policy μ e^{βQ}; `alpha` in the authors' code.
        backup_beta: β_Q of the backup; `q_alpha` in the authors' code (1 on locomotion, 20 on AntMaze).
    """

    learning_rate: float = 1e-4
    critic_learning_rate: float = 3e-4
    energy_learning_rate: float = 3e-4
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    beta: float = 3.0
    backup_beta: float = 1.0


@dataclasses.dataclass
class Act(Decoding):
    """Choices made when acting. "svdd" takes the energy for the value of noisy actions: its `temperature` 1/β is exact.

    Attributes:
        guidance_scale: 0 for the behaviour, 1 for the exact policy, more by rule of thumb; the paper chooses it by evaluation.
            Not of "svdd".
        num_denoising_steps: evaluations of the networks.
    """

    guidance_scale: float = 1.0
    num_denoising_steps: int = 15


@dataclasses.dataclass
class Config(HParams):
    """Widths and lengths of the paper's locomotion runs.

    Attributes:
        num_support_actions: K; 16 on locomotion, 32 on AntMaze. Before the second and the third stage they take
            4 · rows · K · action size bytes of memory per run.
        support_denoising_steps: evaluations of the behaviour's network for each of them.
        energy_loss: "contrastive", or the paper's ablations "mse" and "exponential".
    """

    num_support_actions: int = setting(16, low=2)
    support_denoising_steps: int = 15
    energy_loss: EnergyLoss = "contrastive"
    behavior_hidden_dims: tuple[int, ...] = (512, 256, 128)
    critic_hidden_dims: tuple[int, ...] = (256, 256, 256)
    energy_hidden_dims: tuple[int, ...] = (256, 256, 256, 256)
    behavior_updates: int = setting(600_000, high=2**29)
    critic_updates: int = setting(500_000, high=2**29)
    energy_updates: int = setting(1_000_000, high=2**29)
    behavior_batch_size: int = 4096
    batch_size: int = 256
    act: Act = dataclasses.field(default_factory=Act)


@flax.struct.dataclass
class State:
    """What one run trains."""

    step: Count
    hparams: HParams
    behavior: Learner
    behavior_constants: Params  # time frequencies: part of the networks, not trained
    critic: Learner
    target_critic_params: Params
    energy: Learner
    energy_constants: Params


def softmax_value(q: Float[Array, "*batch set"], beta: Float[Array, ""] | float) -> Float[Array, "*batch"]:
    """Σ softmax(β_Q Q) Q over a state's support actions (eq. 22): their mean at β_Q = 0, their maximum as it grows."""
    return jnp.sum(jax.nn.softmax(beta * q, axis=-1) * q, axis=-1)


def make(config: Config, spec: Spec) -> Algorithm:
    """Behaviour, then Q, then the energies; each stage leaves the networks before it alone.

    The authors train f beside Q from the start, for twice as long; here it is trained for as long after it, on the labels of the
    final Q alone, so that the support actions of only one end of the transitions are in memory at a time.
    """
    behavior_network = ActionUNet(spec.action_dim, config.behavior_hidden_dims)
    critics = Critics(config.critic_hidden_dims)
    energy_network = TimeMLP(config.energy_hidden_dims, 1)
    energy_loss = jax.vmap(ENERGY_LOSSES[config.energy_loss], in_axes=(0, 0, None))
    draw_action = fast(SCHEDULE, config.act.num_denoising_steps, T_MIN, order=2, integrand="x0")
    draw_support = fast(SCHEDULE, config.support_denoising_steps, T_MIN, order=2, integrand="x0")

    def init(key: Key, hparams: HParams) -> State:
        behavior_key, critic_key, energy_key = jax.random.split(key, 3)
        (observation, action), t = example(spec), jnp.zeros(1)
        behavior = behavior_network.init(behavior_key, action, t, observation)
        critic = Learner.init(critics, optax.adam(hparams.critic_learning_rate), critic_key, observation, action)
        energy = energy_network.init(energy_key, action, t, observation)
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            behavior=Learner.create(behavior["params"], optax.adam(hparams.learning_rate)),
            behavior_constants=behavior["constants"],
            critic=critic,
            target_critic_params=copied(critic.params),
            energy=Learner.create(energy["params"], optax.adam(hparams.energy_learning_rate)),
            energy_constants=energy["constants"],
        )

    def behavior_of(params: Params, constants: Params, observation: Array) -> Model:
        """The model of μ(· | s), one state per row or one for all."""

        def model(x: Array, level: Level) -> Prediction:
            t = jnp.broadcast_to(level.t, observation.shape[:1])
            return from_epsilon(x, level, forward(behavior_network, params, x, t, observation, constants=constants))

        return model

    def update_behavior(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        """Noise prediction on the data's actions."""

        def loss_fn(params: Params) -> Array:
            def epsilon(noised: Array, t: Array) -> Array:
                return forward(behavior_network, params, noised, t, batch.observation, constants=state.behavior_constants)

            return denoising_loss(epsilon, SCHEDULE, batch.action, key, times=uniform_times(T_MIN))

        behavior, loss = state.behavior.step(loss_fn, optax.adam(state.hparams.learning_rate))
        return dataclasses.replace(state, behavior=behavior), {"behavior/loss": loss}

    def support(state: State, dataset: Dataset, key: Key, ahead: bool) -> Float[Array, "rows set action"]:
        """K actions of the behaviour at every row's state, or at the state that its target looks ahead to."""
        shape = (config.num_support_actions, spec.action_dim)

        def draw(index: Array) -> Array:
            row = jax.tree.map(lambda x: x[None], dataset[index])
            observation = bootstrap(row, 1.0).observation if ahead else row.observation
            model = behavior_of(state.behavior.params, state.behavior_constants, observation)
            start = jax.random.normal(jax.random.fold_in(key, index), shape)
            return jnp.clip(draw_support(model, start), -1.0, 1.0)

        return jax.lax.map(draw, jnp.arange(dataset.size), batch_size=min(SUPPORT_BATCH, dataset.size))

    def support_ahead(state: State, dataset: Dataset, key: Key) -> dict[str, Array]:
        return {"support_ahead": support(state, dataset, key, ahead=True)}

    def support_here(state: State, dataset: Dataset, key: Key) -> dict[str, Array]:
        return {"support": support(state, dataset, key, ahead=False)}

    def values(params: Params, observation: Array, actions: Array) -> Float[Array, "batch set"]:
        """The lower of the target critics at each state's support actions."""
        return lowest_q(critics, params, observation[:, None], actions)

    def update_critic(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        """In-support softmax Q-learning (eq. 22)."""
        del key
        hparams = state.hparams
        ahead = bootstrap(batch, hparams.discount)
        q = values(state.target_critic_params, ahead.observation, batch.extras["support_ahead"])
        target = ahead.target(softmax_value(q, hparams.backup_beta))
        critic, loss, found = state.critic.step(
            lambda params: critic_loss(params, critics, batch, target), optax.adam(hparams.critic_learning_rate), has_aux=True
        )
        state = dataclasses.replace(
            state,
            critic=critic,
            target_critic_params=optax.incremental_update(critic.params, state.target_critic_params, hparams.tau),
        )
        return state, {"critic/loss": loss, "critic/q": jnp.mean(found), "critic/target": jnp.mean(target)}

    def update_energy(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        """Each state's support actions are one contrastive set (eq. 20): one time, noises of their own."""
        actions = batch.extras["support"]
        q = values(state.target_critic_params, batch.observation, actions)
        time_key, noise_key = jax.random.split(key)
        t = uniform_times(T_MIN)(time_key, len(actions))
        noised = perturb(SCHEDULE, actions, t, jax.random.normal(noise_key, actions.shape))

        def loss_fn(params: Params) -> Array:
            of_state = t[:, None], batch.observation[:, None]
            f = forward(energy_network, params, noised, *of_state, constants=state.energy_constants)[..., 0]
            return jnp.mean(energy_loss(q, f, state.hparams.beta))

        energy, loss = state.energy.step(loss_fn, optax.adam(state.hparams.energy_learning_rate))
        return dataclasses.replace(state, energy=energy), {"energy/loss": loss, "energy/q": jnp.mean(q)}

    def energy(policy: Policy, observation: Array, x: Array, level: Level) -> Float[Array, "batch"]:
        t = jnp.broadcast_to(level.t, x.shape[:1])
        return forward(energy_network, policy["energy"], x, t, observation, constants=policy["energy_constants"])[:, 0]

    def act_softly(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        levels = grid(SCHEDULE, config.act.num_denoising_steps, t_min=T_MIN)

        def behavior(observation: Array) -> Model:
            return behavior_of(policy["behavior"], policy["behavior_constants"], observation)

        def noisy_value(observation: Array, x: Array, level: Level) -> Array:
            return jnp.where(policy["beta"] > 0.0, energy(policy, observation, x, level) / policy["beta"], 0.0)

        def value(observation: Array, action: Array) -> Array:
            return noisy_value(observation, action, levels[levels.num_steps])

        chosen = soft_action(
            behavior, value, levels, ancestral(), key, observation, spec.action_dim, config.act.svdd, noisy_value
        )
        return chosen, carry

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        def log_weight(x: Array, level: Level) -> Array:
            return energy(policy, observation, x, level)

        behavior = behavior_of(policy["behavior"], policy["behavior_constants"], observation)
        model = energy_guided(behavior, log_weight, config.act.guidance_scale)
        return draw_action(model, jax.random.normal(key, (observation.shape[0], spec.action_dim))), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(
            Stage("behavior", config.behavior_updates, config.behavior_batch_size, update_behavior),
            Stage("critic", config.critic_updates, config.batch_size, update_critic, support_ahead),
            Stage("energy", config.energy_updates, config.batch_size, update_energy, support_here),
        ),
        policy=lambda state: {
            "behavior": state.behavior.params,
            "behavior_constants": state.behavior_constants,
            "energy": state.energy.params,
            "energy_constants": state.energy_constants,
            "beta": state.hparams.beta,
        },
        init_carry=no_carry,
        act=act_softly if config.act.decode == "svdd" else act,
    )
