"""Devices, and how a pure step runs on them: compiled with jit over a mesh, or with pmap.

The state is replicated and never carries a device axis, so prediction, reports and checkpoints
don't depend on the mode that compiled the step. Imports nothing of ferjax.
"""

import itertools
import resource
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

LONGEST_WAIT = 7 * 24 * 3600 * 1000
"""Milliseconds that processes wait for one that works longer than others."""

_meetings = itertools.count()

AXIS = "data"
MODES = ("jit", "pmap")
Tree = Any


class Devices(NamedTuple):
    """The devices that a run uses.

    Attributes:
      mode: one of `MODES`.
      mesh: all devices of the run in one axis, sorted by process and id; in pmap mode only this
        process's devices, because pmap's results are host-local.
    """

    mode: str
    mesh: Mesh

    @property
    def total(self) -> int:
        """Returns the number of devices that share a global batch."""
        return self.mesh.size * (jax.process_count() if self.mode == "pmap" else 1)

    @property
    def replicated(self) -> NamedSharding:
        """Returns the sharding of arrays that every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def sharded(self) -> NamedSharding:
        """Returns the sharding of batches, spread over devices by their first axis."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS))


def find_devices(mode: str, devices: list[jax.Device] | None = None) -> Devices:
    """Returns all devices of the run, or the given ones, for one of `MODES`."""
    if devices is None:
        devices = jax.local_devices() if mode == "pmap" else jax.devices()
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Devices(mode, Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,)))


def compile_step(devices: Devices, step: Callable) -> Callable[[Tree, Tree], tuple[Tree, Tree]]:
    """Compiles `step(state, batch, axis_name) -> (state, metrics)`, donating the old state."""
    if devices.mode == "jit":
        return jax.jit(
            step,
            in_shardings=(devices.replicated, devices.sharded),
            out_shardings=devices.replicated,
            donate_argnums=0,
        )
    return jax.pmap(
        partial(step, axis_name=AXIS),
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=(None, None),
        devices=None if jax.process_count() > 1 else list(devices.mesh.devices.flat),
        donate_argnums=0,
    )


def compile_predict(devices: Devices, predict: Callable) -> Callable[[Tree, Tree], Tree]:
    """Compiles `predict(state, images) -> outputs`, with outputs replicated over the mesh."""
    return jax.jit(
        predict,
        in_shardings=(devices.replicated, devices.sharded),
        out_shardings=devices.replicated,
    )


def shard(devices: Devices, batch: Tree, *, for_step: bool = True) -> Tree:
    """Turns this process's block of the global batch into the input of a compiled step or predict.

    Args:
      devices: the devices of the run.
      batch: this process's block, arrays [batch / processes, ...].
      for_step: False for the input of a compiled predict.
    """
    if devices.mode == "pmap" and for_step:
        local = devices.mesh.size
        return jax.tree.map(lambda x: x.reshape(local, -1, *x.shape[1:]), batch)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(devices.sharded, x), batch)


def replicate(devices: Devices, tree: Tree) -> Tree:
    """Copies arrays that all processes hold alike to all devices; those already there stay."""

    def put(x: Any) -> jax.Array:
        if isinstance(x, jax.Array):
            if x.sharding == devices.replicated:
                return x
            x = x.addressable_data(0)
        return jax.make_array_from_process_local_data(devices.replicated, np.asarray(x))

    return jax.tree.map(put, tree)


def to_host(tree: Tree) -> Tree:
    """Copies replicated device arrays to NumPy on this process."""
    return jax.tree.map(lambda x: np.array(x.addressable_data(0)), tree)


def gather_outputs(devices: Devices, outputs: Tree) -> Tree:
    """Copies the outputs of a compiled predict, for the global batch, to NumPy on every process."""
    if devices.mode == "pmap" and jax.process_count() > 1:
        return multihost_utils.process_allgather(to_host(outputs), tiled=True)
    return to_host(outputs)


def peak_memory() -> int:
    """Returns peak memory in bytes, of the fullest accelerator if any reports it, else of RAM."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if s and "peak_bytes_in_use" in s]
    unit = 1 if sys.platform == "darwin" else 1024
    return max(peaks) if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory() -> int | None:
    """Returns the bytes of RAM this process holds now, or None if the system does not report it."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return None


def barrier(name: str) -> None:
    """Waits until every process has reached the barrier `name`."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def meet(name: str) -> None:
    """Waits as `barrier` does, but for as long as it takes: a collective may give up in minutes."""
    if jax.process_count() > 1:
        unique = f"{name} {next(_meetings)}"
        coordination().wait_at_barrier(unique, LONGEST_WAIT)


def coordination() -> Any:
    """Returns the coordination service's client, which several processes have.

    Its key-value store and its barriers have no public name in JAX.
    """
    return distributed.global_state.client


def of_first_process(value: int) -> int:
    """Returns process 0's value (int32) on every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def sum(x: Tree, axis_name: str | None) -> Tree:
    """Sums over devices under pmap; identity under jit, where arrays are global already."""
    return x if axis_name is None else jax.lax.psum(x, axis_name)


def mean(x: Tree, axis_name: str | None) -> Tree:
    """Averages over devices under pmap; identity under jit. Needs equal counts on all devices."""
    return x if axis_name is None else jax.lax.pmean(x, axis_name)


def gather(x: Tree, axis_name: str | None) -> Tree:
    """Gathers the global batch in device order under pmap; identity under jit."""
    return x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)


def share(x: Tree, axis_name: str | None) -> Tree:
    """Returns this device's share of a value equal on all devices; `sum` of the shares is it."""
    if axis_name is None:
        return x
    devices = jax.lax.axis_size(axis_name)
    return jax.tree.map(lambda leaf: leaf / devices, x)


def mean_over_faces(
    values: jax.Array, weights: jax.Array, axis_name: str | None
) -> tuple[jax.Array, jax.Array]:
    """Returns this device's share of the global weighted mean, and the global sum of weights.

    The shares add up over devices (`sum`) to the mean of the global batch, even if devices hold
    different numbers of labelled faces. A mean of local means would be wrong.

    Args:
      values: [..., batch] one value per face.
      weights: [batch] weight of each face, 0 for faces that don't count.
      axis_name: pmap's axis, or None under jit.
    """
    total = sum(jnp.sum(weights), axis_name)
    weighted = values * jnp.broadcast_to(weights, values.shape)
    return jnp.sum(weighted, axis=-1) / jnp.maximum(total, 1e-12), total
