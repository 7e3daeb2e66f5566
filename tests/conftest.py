"""Strict mode for every test: eight CPU devices, strict dtypes, no rank promotion, typed shapes.

What one test compiled the next ones reuse, and LLVM optimises none of it: compiling takes most of
the time.
"""

import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
_compiled = tempfile.TemporaryDirectory(prefix="compiled-")  # removed at exit
jax.config.update("jax_compilation_cache_dir", _compiled.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
install_import_hook("ferjax", "beartype.beartype")
