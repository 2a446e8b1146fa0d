"""The loss of a diffusion model of the behaviour policy."""

import flax.linen as nn
from jax import Array, random
from jaxtyping import Float

from diffrl.diffusion.objectives import denoising_loss
from diffrl.diffusion.schedules import Schedule
from diffrl.learner import forward
from diffrl.types import Key, Params, Transition


def behavior_loss(
    network: nn.Module, params: Params, constants: Params, schedule: Schedule, batch: Transition, key: Key
) -> Float[Array, ""]:
    """Noise prediction on the batch's actions given its observations, with dropout (SRPO eq. 13; IDQL sec. 4)."""
    loss_key, dropout_key = random.split(key)

    def predict(noised: Array, t: Array) -> Array:
        rngs = {"dropout": dropout_key}
        return forward(network, params, noised, t, batch.observation, constants=constants, train=True, rngs=rngs)

    return denoising_loss(predict, schedule, batch.action, loss_key)
