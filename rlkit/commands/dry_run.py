"""``--dry-run``: what would be run, how large it is, and the memory that it takes.

The data's memory is that of the Buffer. No more of them is in memory at once: columns go from the cache to the device a
block at a time (rlkit.datasets.blocks). benchmarks/memory.py compares the figure with the peak of training.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from rlkit.optim import Net
from rlkit.runs import serialization
from rlkit.runs.checkpoint import size
from rlkit.training.loop import abstract_state
from rlkit.types import Stage

if TYPE_CHECKING:
    from rlkit.runs.job import Job


def describe(job: Job) -> str:
    """The configuration, and for each stage its batch, its networks and its memory."""
    record = job.record
    settings = {name: getattr(record, name) for name in ("agent", "preset", "config", "steps", "seeds")}
    settings |= {name: getattr(record, name) for name in ("log_every", "eval_every", "evaluation", "reference")}
    settings |= {"data": {"steps": record.data.steps, **record.data.options}, "device": record.device}
    lines = [serialization.pretty(settings)]
    held = []
    for number, stage in enumerate(job.stages):
        state = abstract_state(job.stages, number, job.buffer, job.stats, record.seeds[:1])
        held.append(size(state))
        lines += ["", f"stage {stage.name}: {stage.steps} updates", *_batch(stage, job), *_networks(state)]
    rows, states = size(job.buffer), max(held) * len(record.seeds)
    seeds = f"{len(record.seeds)} x {_mib(max(held))}"
    lines += ["", f"memory: data {_mib(rows)} + states {seeds} = {_mib(rows + states)}, and the batch's activations"]
    return "\n".join(lines)


def _batch(stage: Stage, job: Job) -> list[str]:
    batch = jax.eval_shape(stage.learner.sample, job.buffer, jax.random.key(0))
    leaves = jax.tree_util.tree_flatten_with_path(batch)[0]
    lines = [f"  batch {_name(path):16} {leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves]
    tokens = getattr(stage.learner, "tokens", None)
    if tokens is not None:
        windows = leaves[0][1].shape[0]
        lines.append(f"  tokens {tokens} of each window, {windows * tokens:,} of a batch")
    return lines


def _networks(state: Any) -> list[str]:
    """Parameters of each part of a state; the optimisers' moments are not counted."""
    networks = jax.tree.map(_parameters, state, is_leaf=_is_net)
    counts: Counter[str] = Counter()
    for path, leaf in jax.tree_util.tree_flatten_with_path(networks)[0]:
        counts[_name(path[:1])] += int(np.prod(leaf.shape))
    width = max(map(len, counts))
    return [f"  parameters {name:{width}} {count:>12,}" for name, count in counts.items()]


def _is_net(part: Any) -> bool:
    return isinstance(part, Net)


def _parameters(part: Any) -> Any:
    return part.params if _is_net(part) else part


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"
