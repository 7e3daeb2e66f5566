"""Strict mode for every test: eight CPU devices, strict dtypes, no rank promotion, typed shapes.

What one test compiled the others reuse, in whatever process: compiling takes most of the time.
"""

import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # workers and commands under test inherit it
    _compiled = tempfile.TemporaryDirectory(prefix="compiled-")  # removed at exit
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
install_import_hook("ferjax", "beartype.beartype")
