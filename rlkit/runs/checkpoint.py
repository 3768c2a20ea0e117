"""Checkpoints of a run: the only file that knows orbax.

A save returns when the checkpoint is on the disk, and raises if it cannot be written. Saving in the background would
gain little: the states of offline agents are a few megabytes, which take a tenth of a second. It would report a full
disk only at the next save, and it would read arrays that the training loop has donated by then.

A checkpoint is written to a hidden folder. Then it is sealed with the SHA-256 sums of its files, and the folder gets
its name; before that, the checkpoint does not exist. The seal is needed because orbax alone reports neither flipped
bits nor another data type, nor that a checkpoint is of another run.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from rlkit import messages
from rlkit.buffer import Buffer
from rlkit.runs import integrity, serialization
from rlkit.runs.integrity import Damaged
from rlkit.runs.record import CHANGEABLE
from rlkit.runs.run import checkpoint_numbers, earlier_records
from rlkit.training.loop import Progress, abstract_state
from rlkit.training.sharding import per_seed
from rlkit.types import InputError, RunError, Stage, State, Stats, one_line

if TYPE_CHECKING:
    from rlkit.training.collect import Live

_FAILURES = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
)  # what orbax raises, and what the packages that it uses raise
_BESIDE = {"run.json": False, "metrics.jsonl": True}  # files of the run that are sealed too, and whether they grow
LISTED = 4  # arrays that differ, in a message


class OtherArrays(InputError):
    """A checkpoint whose arrays are not those of the agent that is to have them."""


@dataclass(frozen=True)
class _Meta:
    """Content of a manifest besides the sums of its files."""

    stage: int
    step: int
    sums: dict[str, tuple[str, tuple[float, ...]]]  # metric -> dtype and values [S] since the last log line
    arrays: dict[str, str]  # name -> dtype and shape
    identity: dict[str, Any]
    beside: dict[str, dict[str, Any]]  # file of the run -> its digest
    live: dict[str, str] = field(default_factory=dict)  # as `arrays`, of what an online stage needs beside the state
    summed: int | None = None  # updates that ``sums`` are of; the first versions did not say


class Checkpoints:
    """The checkpoints in ``folder``, numbered by the total of updates done; a context manager.

    Keeps the last ``keep``. A reader (``keep`` None) never changes the folder. A writer removes what a killed save of
    this class left behind, and must be the only one. ``identity`` is what must be equal for a checkpoint to belong to
    this run.
    """

    def __init__(self, folder: Path, keep: int | None = None, identity: Mapping[str, Any] | None = None):
        self.folder = folder
        self._keep = keep
        self._identity = serialization.encode(identity or {})
        self._orbax = ocp.Checkpointer(ocp.StandardCheckpointHandler())
        if keep is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if re.fullmatch(r"\.[0-9]+\.(part|old)", path.name):
                shutil.rmtree(path)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        self._orbax.close()

    def save(self, updates: int, progress: Progress) -> None:
        """Write ``progress`` as checkpoint ``updates``; does nothing if it exists. RunError if it cannot be written."""
        if updates in checkpoint_numbers(self.folder):
            return
        part = self.folder / f".{updates}.part"
        try:
            part.mkdir()
            self._orbax.save(part.resolve() / "state", args=ocp.args.StandardSave(progress.state))
            if progress.live is not None:
                self._orbax.save(part.resolve() / "live", args=ocp.args.StandardSave(_by_name(progress.live)))
            integrity.seal(part, self._meta(progress))
            part.rename(self.folder / str(updates))
            _sync(self.folder)
        except _FAILURES as error:
            shutil.rmtree(part, ignore_errors=True)
            raise RunError(self._unwritten(updates, progress, error)) from error
        older = checkpoint_numbers(self.folder)[: -self._keep]
        for number in older:
            old = (
                self.folder / f".{number}.old"
            )  # renamed first: if the process is killed here, no half checkpoint is left
            (self.folder / str(number)).rename(old)
            shutil.rmtree(old)

    def last(
        self,
        stages: Sequence[Stage],
        buffer: Buffer,
        stats: Stats,
        seeds: Sequence[int],
        mesh: Mesh,
        abstract_live: Callable[[Stage, State], Live] | None = None,
    ) -> Progress | None:
        """The last sound checkpoint, laid out over ``mesh``; None if there is no checkpoint.

        A damaged one is named on stderr, and a writer sets it aside as NUMBER.damaged. Raises InputError where all are
        damaged, or where it is of another run: the keys or arrays that differ are listed. ``buffer`` may be abstract.
        abstract_live: shapes of what an online stage needs beside the state; without it that is not read.
        """
        saved = checkpoint_numbers(self.folder)
        for updates in reversed(saved):
            try:
                return self._read(updates, stages, buffer, stats, seeds, mesh, abstract_live)
            except Damaged as error:
                messages.tell(f"{error}; going back to the checkpoint before it")
                if self._keep is not None:
                    self._set_aside(updates)
        if saved:
            raise InputError(f"{self.folder}: no checkpoint is sound: restore one from a copy, or choose another --out")
        return None

    def _read(
        self,
        updates: int,
        stages: Sequence[Stage],
        buffer: Buffer,
        stats: Stats,
        seeds: Sequence[int],
        mesh: Mesh,
        abstract_live: Callable[[Stage, State], Live] | None,
    ) -> Progress:
        """Checkpoint ``updates``. Raises Damaged, or InputError where it is of another run."""
        folder = self.folder / str(updates)
        form = integrity.check(folder)
        meta = serialization.decode(_Meta, form, str(folder / integrity.MANIFEST))
        self._check_beside(meta)
        self._check_identity(updates, meta)
        abstract = abstract_state(stages, meta.stage, buffer, stats, seeds)
        self._check_arrays(updates, meta.arrays, abstract)
        state = self._restore(updates, "state", abstract, mesh)
        live = None
        if meta.live and abstract_live is not None:
            expected = abstract_live(stages[meta.stage], abstract)
            self._check_arrays(updates, meta.live, expected)
            by_name = self._restore(updates, "live", _by_name(expected), mesh)
            live = jax.tree.unflatten(jax.tree.structure(expected), list(by_name.values()))
        sums = {}
        for name, (dtype, values) in meta.sums.items():
            sums[name] = np.array(values, np.float64).astype(np.dtype(dtype))
        summed = meta.summed
        if summed is None:
            summed = meta.step % meta.identity.get("log_every", 1)
        return Progress(
            stage=meta.stage,
            step=meta.step,
            state=state,
            sums=sums,
            metrics={},
            finite=np.zeros(0, bool),
            live=live,
            summed=summed,
        )

    def _meta(self, progress: Progress) -> _Meta:
        sums = {}
        for name, value in jax.device_get(progress.sums).items():
            array = np.asarray(value)
            sums[name] = (array.dtype.name, tuple(array.tolist()))
        beside = {}
        for name in _BESIDE:
            path = self.folder.parent / name
            if path.exists():
                beside[name] = integrity.digest(path)
        return _Meta(
            stage=progress.stage,
            step=progress.step,
            sums=sums,
            arrays=_leaves(progress.state),
            identity=self._identity,
            beside=beside,
            live={} if progress.live is None else _leaves(progress.live),
            summed=progress.summed,
        )

    def _check_beside(self, meta: _Meta) -> None:
        for name, grows in _BESIDE.items():
            if name not in meta.beside:
                continue
            if grows and self._keep is None:  # a reader needs no metrics
                continue
            paths = [self.folder.parent / name]
            if not grows:
                paths += earlier_records(self.folder.parent)
            try:
                integrity.verify_one(paths, meta.beside[name], grows=grows)
            except Damaged as error:
                raise InputError(f"{error}: restore it from a copy") from None

    def _check_identity(self, updates: int, meta: _Meta) -> None:
        fixed = {name: value for name, value in meta.identity.items() if name not in CHANGEABLE}
        differing = serialization.differences(fixed, self._identity, additions=False)
        if differing:
            raise InputError(
                f"{self.folder}: checkpoint {updates} is of another run ({'; '.join(differing)}): choose another --out"
            )

    def _check_arrays(self, updates: int, saved: Mapping[str, str], abstract: Any) -> None:
        expected = _leaves(abstract)
        names = sorted(saved.keys() | expected.keys())
        differing = [name for name in names if saved.get(name) != expected.get(name)]
        if differing:
            listed = [f"{name}: saved {saved.get(name)}, wanted {expected.get(name)}" for name in differing[:LISTED]]
            if len(differing) > LISTED:
                listed.append(f"and {len(differing) - LISTED} more")
            raise OtherArrays(
                f"{self.folder}: checkpoint {updates} is of another agent or configuration: {len(differing)} of "
                f"{len(expected)} arrays differ: {'; '.join(listed)}"
            )

    def _restore(self, updates: int, part: str, abstract: Any, mesh: Mesh) -> Any:
        path = self.folder / str(updates) / part
        sharding = per_seed(mesh)

        def laid_out(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        target = jax.tree.map(laid_out, abstract)
        try:
            return self._orbax.restore(path.resolve(), args=ocp.args.StandardRestore(target))
        except _FAILURES as error:
            raise Damaged(f"{path} cannot be restored ({one_line(error)})") from error

    def _set_aside(self, updates: int) -> None:
        taken = len(list(self.folder.glob(f"{updates}.damaged*")))
        suffix = str(taken) if taken else ""
        folder = self.folder / str(updates)
        folder.rename(self.folder / f"{updates}.damaged{suffix}")

    def _unwritten(self, updates: int, progress: Progress, error: Exception) -> str:
        kept = checkpoint_numbers(self.folder)
        last = f"the last one, {kept[-1]}, is kept" if kept else "there is none before it"
        need = size((progress.state, progress.live))
        free = shutil.disk_usage(self.folder).free
        return (
            f"{self.folder}: checkpoint {updates} cannot be written ({one_line(error)}); {need:,} bytes are needed and "
            f"{free:,} are free; {last}: make room and continue with --resume auto"
        )


def size(state: Any) -> int:
    """Bytes of the arrays of a state, or of another tree."""
    total = 0
    for leaf in jax.tree.leaves(state):
        elements = int(np.prod(leaf.shape))
        total += elements * leaf.dtype.itemsize
    return total


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _by_name(tree: Any) -> dict[str, Any]:
    """Number and name of each array of ``tree`` -> the array: a form without the empty places that a tree may have."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    arrays = {}
    for number, (path, leaf) in enumerate(paths):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        arrays[f"{number:04}.{name}"] = leaf
    return arrays


def _leaves(tree: Any) -> dict[str, str]:
    """Slash-separated name -> dtype and shape."""
    forms = {}
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    for path, leaf in paths:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        dtype = np.dtype(leaf.dtype).name
        forms[name] = f"{dtype}{list(leaf.shape)}"
    return forms
