"""Checks of a file's fields that the readers of files (hdf5, npz, table) share, and the limit on memory.

A reader guarantees that shapes agree, that flags are flags and that numbers are numbers; see Recording. Each failure is
one line that names the file, the field and the index.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlkit.types import InputError

LIMIT = 64 * 2**30  # bytes: no file may unpack to more than this, whatever the machine's memory


class Fault(Exception):
    """A fault of a member of a file, as a phrase that goes after the member's name."""


def check_exists(path: Path) -> None:
    """Raises InputError unless ``path`` is a file with something in it."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; check --dataset")
    if not path.stat().st_size:
        raise InputError(f"{path.name}: the file is empty; copy or download it again")


def free_memory() -> int:
    """Bytes that can be allocated without swapping; the machine's whole memory where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("MemAvailable:"):
            kibibytes = int(line.split()[1])
            return 1024 * kibibytes
    pages = os.sysconf("SC_PHYS_PAGES")
    return pages * os.sysconf("SC_PAGE_SIZE")


class Budget:
    """The number of bytes that a dataset may unpack to: the free memory, and at most LIMIT. Readers ask before they
    read anything, since a small file can declare any size."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.free = free_memory()
        self.taken = 0
        self.planned = 0

    def take(self, size: int) -> None:
        """Raises InputError if ``size`` bytes more are too many."""
        self.taken += size
        self.check(self.taken)

    def plan(self, numbers: int) -> None:
        """Raises InputError if ``numbers`` observed numbers more, which become float32, are too many besides."""
        self.planned += 4 * numbers
        need = self.taken + self.planned
        if need > min(LIMIT, self.free):
            rows = f"{self.planned / 2**30:.2f} of them for observations in float32"
            free = f"{self.free / 2**30:.2f} GiB are free (the limit is {LIMIT >> 30} GiB for any dataset)"
            raise InputError(
                f"{self.name}: needs {need / 2**30:.2f} GiB of memory, {rows}, and {free}; "
                "use a smaller part of the data, or a machine with more memory"
            )

    def check(self, size: int) -> None:
        """Raises InputError if ``size`` bytes at once are too many."""
        if size > min(LIMIT, self.free):
            needed = f"{size / 2**30:.1f} GiB"
            free = f"{self.free / 2**30:.1f} GiB"
            raise InputError(
                f"{self.name}: unpacks to {needed}, more than the free memory ({free}) or the limit of {LIMIT >> 30} "
                "GiB for any dataset; use a smaller part of the data"
            )


def listed(names: Iterable[object]) -> str:
    """Names from a file as a part of a message: long ones and long lists cut short."""
    texts = [str(name) for name in names]
    short = []
    for text in texts[:40]:
        if len(text) > 60:
            text = f"{text[:57]}..."
        short.append(text)
    more = len(texts) - len(short)
    if more:
        short.append(f"and {more} more")
    return ", ".join(short)


def last_line(text: str) -> str:
    """The last line that a program has written, as a part of a message."""
    lines = text.strip().splitlines()
    if not lines:
        return "no reason given"
    return lines[-1]


def check_present(path: Path, names: Iterable[str], required: Iterable[str]) -> None:
    """Raises InputError if a field that is ``required`` is not among the ``names`` in the file."""
    names = sorted(names, key=str)
    missing = [name for name in required if name not in names]
    if missing:
        absent = ", ".join(missing)
        present = listed(names) or "none"
        raise InputError(
            f"{path.name}: no field {absent} (found: {present}); rename the fields, or write the file again with them"
        )


def check_lengths(path: Path, lengths: Mapping[str, int], against: str = "observations") -> None:
    """Raises InputError where a field has not as many rows as ``against``, and where that has none."""
    rows = lengths[against]
    if not rows:
        raise InputError(f"{path.name}: {against} has no rows; there is nothing to train on")
    for name, length in lengths.items():
        if length != rows:
            raise InputError(
                f"{path.name}: {name} has {length} rows where {against} has {rows}; write the file again with one row "
                "per step in every field"
            )


def known(
    path: Path,
    names: Iterable[str],
    required: Iterable[str],
    optional: Iterable[str],
    find: Callable[[str], Any],
    budget: Budget,
) -> dict[str, Any]:
    """The known fields of a file, checked for presence, kind, number of rows and size before anything is read.

    names: of all fields in the file. find: the field of a name, with a shape; it raises Fault for one that is no array
    of numbers. Raises InputError.
    """
    check_present(path, names, required)
    items = {}
    for name in (*required, *optional):
        if name not in names:
            continue
        try:
            items[name] = find(name)
        except Fault as fault:
            raise InputError(f"{path.name}: {name} is {fault}") from None
    lengths = {name: item.shape[0] for name, item in items.items()}
    check_lengths(path, lengths)
    budget.plan(math.prod(items["observations"].shape))
    return items


def column(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    """[N] or [N, 1] as [N]; any other shape raises InputError."""
    if values.shape == (len(values), 1):
        return values[:, 0]
    if values.ndim != 1:
        raise InputError(f"{path.name}: {name} has shape {values.shape}; expected one number per step, [N] or [N, 1]")
    return values


def flags(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    """[N] bool from 0 and 1 of any dtype; any other value raises InputError with its index."""
    values = column(path, name, values)
    result = values.astype(bool)
    if values.dtype == bool:
        return result
    other = values != result
    if other.any():
        i = int(other.argmax())
        raise InputError(f"{path.name}: {name}[{i}] is {values[i]}; expected 0 or 1")
    return result
