"""What an accelerator call takes along and what it brings back: few files, limited in size, whole at every moment.

There: the tree, and a folder with cells.json (what to train), one .npz for each dataset, and what the last call left:
finished.json and the parts of unfinished.npz. Back: report.jsonl, finished-N.zip with the policies of finished cells,
and the parts of unfinished.npz, the full state of the cell that was cut off. Arrays are read without pickle.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import platform
import resource
import zipfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rlkit.datasets.episodes import Episodes
from rlkit.runs import serialization
from rlkit.runs.record import Record
from rlkit.types import InputError, State

MIB = 2**20
CARRIED = 64 * MIB  # the tree and all that goes with it
RETURNED = 64 * MIB
FILES, FILE = 8, 16 * MIB  # files that come back, and the size of each
SLACK = MIB  # for what is not arrays: metrics, names, the report
ENTRY = 500  # at most, of an entry's names in a .zip
ROWS = ("obs", "action", "reward", "t", "flags")  # columns of Episodes that are carried
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
DAMAGED = (OSError, ValueError, KeyError, zipfile.BadZipFile)  # what reading an archive may raise


class Cell(NamedTuple):
    """One agent on one dataset, all its seeds in one program."""

    id: str  # of its command and configuration
    label: str
    dataset: str
    file: str  # of its data, in the carried folder
    command: str  # that trains the same without an accelerator
    record: Record  # run.json, but for the device and the versions


class Carried:
    """The folder that is carried there. Raises InputError if it was not packed, or for another table."""

    def __init__(self, folder: Path):
        self.folder = folder
        if not (folder / "cells.json").exists():
            raise InputError(f"{folder} holds no cells.json: make it with python -m benchmarks.accelerator pack")
        form = serialization.read_json(folder / "cells.json")
        self.table, self.commit, self.tree = form["table"], form["commit"], form["tree"]  # its sum; its name; bytes
        self.cells = serialization.decode(tuple[Cell, ...], form["cells"], str(folder / "cells.json"))
        done = folder / "finished.json"
        self.finished = set(serialization.read_json(done)) if done.exists() else set()
        self.unfinished = read_unfinished(folder)
        if self.unfinished and self.unfinished[0]["id"] not in {cell.id for cell in self.cells}:
            raise InputError(f"{folder} holds the state of a cell that is not in the table: remove unfinished.npz.*")

    @property
    def bytes(self) -> int:
        """Of the tree and the data, without the state of an unfinished cell."""
        return self.tree + sum(path.stat().st_size for path in self.folder.glob("*.npz"))

    def episodes(self, cell: Cell) -> Episodes:
        """The data of a cell, in the environment's units."""
        with np.load(self.folder / cell.file, allow_pickle=False) as data:
            rows = {name: data[name] for name in ROWS}
        named = {"name": cell.dataset, "fingerprint": cell.record.data.fingerprint}
        unused = dict.fromkeys(("observation_space", "action_space", "env_spec", "reference", "report"))
        return Episodes(**named, **rows, **unused)


class Results:
    """The folder that comes back. Everything is written as it comes; a file is replaced in one step, so that a reader
    finds the old one or the new one. ``common`` is said in every line of the report."""

    def __init__(self, folder: Path, common: Mapping[str, Any]):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._common = folder, dict(common)

    def tell(self, **row: Any) -> None:
        """Print a line, and add it to report.jsonl."""
        line = serialization.dumps(row | self._common)
        with (self.folder / "report.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(serialization.dumps(row), flush=True)

    def finish(self, cell: str, archive: bytes) -> None:
        """Keep the policy of a finished cell; its full state, if it was kept, is dropped."""
        sizes = self.sizes()
        path = self.folder / f"finished-{_place(sizes, len(archive) + ENTRY)}.zip"
        stream = io.BytesIO(path.read_bytes() if path.exists() else b"")
        with zipfile.ZipFile(stream, "a" if path.exists() else "w") as file:
            file.writestr(f"{cell}.npz", archive)
        self._replace(path, stream.getvalue())
        for part in parts(self.folder):
            part.unlink()

    def keep(self, archive: bytes) -> None:
        """Keep the full state of the cell that is being trained, in place of the one kept before."""
        pieces = [archive[start : start + FILE] for start in range(0, len(archive), FILE)]
        for number, piece in enumerate(pieces):
            self._replace(self.folder / f"unfinished.npz.{number}", piece)
        for part in parts(self.folder)[len(pieces) :]:
            part.unlink()

    def sizes(self) -> list[int]:
        """Bytes of the archives of finished cells."""
        return [path.stat().st_size for path in sorted(self.folder.glob("finished-*.zip"))]

    def _replace(self, path: Path, content: bytes) -> None:
        part = self.folder / ".part"
        part.write_bytes(content)
        os.replace(part, path)


def obstacle(carried: int, finished: Sequence[int], policy: int, state: int) -> str | None:
    """Why a cell is not begun: because it could not be brought back, or not be taken along by the next call. Else None.

    carried: bytes of the tree and the data. finished: of the archives of finished cells. policy and state: of what is
    kept of this cell when it is finished, and when it is cut off.
    """
    policy, state = policy + SLACK, state + SLACK
    archives = [*finished]
    place = _place(archives, policy)
    archives[place:] = [sum(archives[place:]) + policy]
    files = 2 + len(archives) + math.ceil(state / FILE)  # the report, and the one that is being written
    for what, need, limit in (
        ("carried there", carried + state, CARRIED),
        ("brought back", SLACK + sum(archives) + state, RETURNED),
        ("in one file", max(archives), FILE),
    ):
        if need > limit:
            return f"{need / MIB:.1f} MiB would have to be {what}, and {limit / MIB:.0f} are the limit"
    return f"{files} files would have to be brought back, and {FILES} are the limit" if files > FILES else None


def encode(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """An .npz of arrays, with JSON beside them."""
    stream = io.BytesIO()
    np.savez(stream, meta=np.frombuffer(serialization.dumps(meta).encode(), np.uint8), **arrays)
    return stream.getvalue()


def decode(archive: bytes, where: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Inverse of `encode`. InputError if the bytes are damaged, which the sums in the archive tell."""
    try:
        with np.load(io.BytesIO(archive), allow_pickle=False) as file:
            arrays = dict(file)
        return json.loads(arrays.pop("meta").tobytes()), arrays
    except DAMAGED as error:
        raise InputError(f"{where} is damaged ({' '.join(str(error).split())}): remove it") from None


def named(tree: Any, prefix: str) -> dict[str, Any]:
    """The leaves of a tree by their names, which begin with ``prefix``."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {f"{prefix}/{jax.tree_util.keystr(path, simple=True, separator='/')}": leaf for path, leaf in paths}


def filled(shapes: State, arrays: Mapping[str, np.ndarray], *, partial: bool = False) -> State:
    """The state of these ``shapes`` from the arrays that `named` it "state".

    Arrays that are missing are an InputError; with ``partial`` they are 0. An array of another shape or type is an
    InputError.
    """

    def leaf(name: str, shape: Any) -> np.ndarray:
        if name not in arrays and partial:
            return np.zeros(shape.shape, shape.dtype)
        found = arrays.get(name)
        if found is None or found.shape != shape.shape or found.dtype != shape.dtype:
            has = "missing" if found is None else f"{found.dtype}{list(found.shape)}"
            raise InputError(f"array {name} is {has}, not {shape.dtype}{list(shape.shape)}: made by another version?")
        return found

    leaves = [leaf(name, shape) for name, shape in named(shapes, "state").items()]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def read_finished(folder: Path) -> dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """The finished cells of a call, by their ids."""
    found = {}
    for path in sorted(folder.glob("finished-*.zip")):
        try:
            with zipfile.ZipFile(path) as file:
                archives = {name: file.read(name) for name in file.namelist()}
        except DAMAGED as error:
            raise InputError(f"{path} is damaged ({' '.join(str(error).split())}): remove it") from None
        found |= {name.removesuffix(".npz"): decode(archive, f"{path}/{name}") for name, archive in archives.items()}
    return found


def read_unfinished(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """The state of the cell that was cut off, None if there is none."""
    found = parts(folder)
    joined = b"".join(part.read_bytes() for part in found)
    return decode(joined, f"{folder}/unfinished.npz") if found else None


def parts(folder: Path) -> list[Path]:
    """The files that hold the state of the cell that was cut off, in order."""
    return sorted(folder.glob("unfinished.npz.*"), key=lambda path: int(path.suffix[1:]))


def _place(sizes: Sequence[int], new: int) -> int:
    """The number of the archive that takes ``new`` bytes more: the last one while it has room."""
    return len(sizes) - 1 if sizes and sizes[-1] + new <= FILE else len(sizes)


def size(tree: Any) -> int:
    """Bytes of the arrays of a tree, abstract or not."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def memory() -> dict[str, int]:
    """Megabytes: of the data and states on the device, and the most so far in this process; on a CPU the process's."""
    told = jax.devices()[0].memory_stats()
    if not told:
        return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000}
    return {"in_use_mb": told["bytes_in_use"] // 10**6, "peak_mb": told["peak_bytes_in_use"] // 10**6}


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def digest(table: Path) -> str:
    """What tells one state of the table from another."""
    return hashlib.sha256(table.read_bytes()).hexdigest()


def versions() -> dict[str, str]:
    """Of what there is on this machine."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}
