"""Checkpoints of a run: the only file that knows orbax.

A save returns once the checkpoint is committed, and raises if it cannot be: the states of offline agents are a few
megabytes, written in a tenth of a second, and a save in the background reports a full disk only at the save after it
and reads arrays that the loop has donated by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, Sharding

from rlkit.loop import Progress, abstract_state
from rlkit.sharding import per_seed
from rlkit.types import InputError, Stage, State, Stats


class Checkpoints:
    """The checkpoints in ``folder``, numbered by the total of updates done; a context manager.

    Keeps the last ``keep``. A reader (``keep`` None) never changes the folder. Debris of a killed save is removed by
    the next writer.
    """

    def __init__(self, folder: Path, keep: int | None = None):
        self.folder = folder
        reading = keep is None
        self._manager = ocp.CheckpointManager(
            folder.resolve(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                cleanup_tmp_directories=not reading,
                enable_async_checkpointing=False,
                create=not reading,
            ),
            item_handlers={"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()},
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()

    def save(self, updates: int, progress: Progress) -> None:
        """Write ``progress`` as checkpoint ``updates``; does nothing if it exists."""
        if updates in self._manager.all_steps():
            return
        meta = {"stage": progress.stage, "step": progress.step}
        items = ocp.args.Composite(state=ocp.args.StandardSave(progress.state), meta=ocp.args.JsonSave(meta))
        self._manager.save(updates, args=items)
        self._manager.wait_until_finished()

    def last(self, stages: Sequence[Stage], stats: Stats, seeds: Sequence[int], mesh: Mesh) -> Progress | None:
        """Where the last committed checkpoint stands, laid out over ``mesh``; None if there is no checkpoint.

        Raises InputError where its arrays are not those of ``stages``.
        """
        updates = self._manager.latest_step()
        if updates is None:
            return None
        meta = self._manager.restore(updates, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
        abstract = abstract_state(stages, meta["stage"], stats, seeds)
        return Progress(meta["stage"], meta["step"], self._restore(updates, abstract, per_seed(mesh)), {})

    def _restore(self, updates: int, abstract: State, sharding: Sharding) -> State:
        # orbax alone would cast another dtype in silence
        saved = _leaves(self._manager.item_metadata(updates).state.tree)
        wanted = _leaves(abstract)
        if differing := sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name)):
            name = differing[0]
            raise InputError(
                f"{self.folder}: checkpoint {updates} is of another agent or configuration: {len(differing)} of "
                f"{len(wanted)} arrays differ, first {name}: saved {saved.get(name)}, wanted {wanted.get(name)}"
            )
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract)
        return self._manager.restore(updates, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))).state


def _leaves(tree: Any) -> dict[str, str]:
    """Slash-separated name -> dtype and shape; the names agree for a state and for orbax's record of it."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
        for path, leaf in paths
    }
