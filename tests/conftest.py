"""Before any use of JAX: eight CPU devices, so that the tests can share runs out over several."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
