"""One gradient step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffrl.learner import Learner, copied


def test_a_step_goes_down_the_loss_and_tells_it() -> None:
    """SGD on ½ p²: p - rate p; the loss is that before the step, and what is computed on the way comes along."""
    sgd = optax.sgd(0.1)
    learner = Learner.create({"p": jnp.float32(2.0)}, sgd)
    after, loss = learner.step(lambda params: 0.5 * params["p"] ** 2, sgd)
    np.testing.assert_allclose([after.params["p"], loss], [1.8, 2.0], rtol=1e-6)
    again, loss, aux = learner.step(lambda params: (0.5 * params["p"] ** 2, {"p": params["p"]}), sgd, has_aux=True)
    np.testing.assert_array_equal(again.params["p"], after.params["p"])
    assert (float(loss), float(aux["p"])) == (2.0, 2.0)


def test_a_learning_rate_may_be_traced() -> None:
    """The optimiser is made anew in every update: its state does not hold the rate."""
    learner = Learner.create(jnp.ones(3), optax.adam(0.1))

    def update(rate: jax.Array) -> jax.Array:
        return learner.step(lambda p: jnp.sum(p**2), optax.adam(rate))[0].params

    moved = jax.vmap(update)(jnp.array([0.1, 0.2])) - 1.0
    np.testing.assert_allclose(moved[1], 2.0 * moved[0], rtol=1e-4)


def test_copies_are_arrays_of_their_own() -> None:
    params = {"p": jnp.ones(3)}
    assert copied(params)["p"] is not params["p"]
    np.testing.assert_array_equal(copied(params)["p"], params["p"])
