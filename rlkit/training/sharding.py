"""Where arrays live: a mesh with the axes (seed, batch), for one device or many.

Seeds are spread first, since they need no communication; what devices are left share each seed's batch. Everything is
jit over sharded arrays with an explicitly Auto mesh: agents mention no device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def make_mesh(seeds: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A (seed, batch) mesh over ``devices`` (all of them by default)."""
    if devices is None:
        devices = jax.devices()
    seed_devices = math.gcd(seeds, len(devices))
    batch_devices = len(devices) // seed_devices
    axis_types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((seed_devices, batch_devices), ("seed", "batch"), axis_types, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device: the buffer, the statistics."""
    return NamedSharding(mesh, P())


def per_seed(mesh: Mesh) -> NamedSharding:
    """The leading axis over the mesh's seeds: states, keys, metrics."""
    return NamedSharding(mesh, P("seed"))


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Spread a batch's leading axis over the mesh's batch axis. Called inside the loop's vmap over seeds, which adds
    the seed axis in front."""
    return jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, P("batch")))
