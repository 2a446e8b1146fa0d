"""Before any use of JAX: eight CPU devices, so that the tests can share runs out over several; and one cache for all programs."""

import os
import tempfile

import jax

jax.config.update("jax_num_cpu_devices", 8)

if "PYTEST_XDIST_WORKER" not in os.environ:
    # For the programs that tests run. Workers inherit it; the folder goes with this object, at the end of the process.
    _compiled = tempfile.TemporaryDirectory(prefix="diffrl-tests-", ignore_cleanup_errors=True)
    os.environ["XDG_CACHE_HOME"] = _compiled.name
