"""HDF5 files that are not trusted: only arrays of numbers that lie whole in the file itself, and fit, are read.

HDF5 can name other files in three ways (external links, external storage, virtual datasets), declare any shape without
holding it, and fill rows that were never written with zeros. All of that is refused here, before memory is allocated.
"""

from __future__ import annotations

import math

import h5py
import numpy as np
from h5py.h5d import DatasetID

from rlkit.datasets.fields import Budget

DAMAGE = (OSError, RuntimeError, KeyError, TypeError, ValueError)  # what h5py raises for damaged files


class Fault(Exception):
    """What is wrong with a member of a file, as a phrase that goes after its name."""


def member(group: h5py.Group, name: str) -> h5py.Group | DatasetID | None:
    """The group or array ``name`` in ``group``; None for anything else. Raises Fault if it is missing or a link."""
    if not group.id.links.exists(name.encode()):
        raise Fault("missing")
    if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise Fault("a link by name, to this file or another, which is not followed; store the values in its place")
    item = h5py.h5o.open(group.id, name.encode())
    if isinstance(item, h5py.h5g.GroupID):
        return h5py.Group(item)
    return item if isinstance(item, DatasetID) else None


def array(group: h5py.Group, name: str, budget: Budget) -> DatasetID:
    """The array ``name``, safe to read. Raises Fault, or InputError if it is too big."""
    item = member(group, name)
    if not isinstance(item, DatasetID) or not item.shape or item.dtype.kind not in "biuf":
        raise Fault("not an array of numbers with one row per step")
    width = item.dtype.itemsize
    size = math.prod(item.shape) * width
    stored = item.get_create_plist()
    layout = stored.get_layout()
    if layout == h5py.h5d.VIRTUAL or stored.get_external_count():
        raise Fault("kept in other files, which are not read; store the values in this one")
    budget.take(size)
    if layout == h5py.h5d.CHUNKED:
        chunk = stored.get_chunk()
        budget.check(math.prod(chunk) * width)  # a chunk is unpacked whole
        expected = math.prod(-(-rows // part) for rows, part in zip(item.shape, chunk, strict=True))
        written = item.get_num_chunks()
        if written != expected:
            raise Fault(f"damaged or unfinished: {written} of its {expected} chunks were written")
    elif layout == h5py.h5d.CONTIGUOUS and item.get_storage_size() != size:
        raise Fault(f"damaged or unfinished: {item.get_storage_size()} of its {size} bytes were written")
    return item


def read(item: DatasetID) -> np.ndarray:
    """The values of an array that has been found safe. h5py's own objects take longer than small arrays do."""
    values = np.empty(item.shape, item.dtype)
    if values.size:
        item.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return values


def arrays_below(group: h5py.Group, budget: Budget, rows: tuple[int, ...]) -> tuple[dict[str, DatasetID], list[str]]:
    """The arrays of numbers with one of ``rows`` rows, by their path in ``group``, and the names of other members."""
    kept: dict[str, DatasetID] = {}
    skipped: list[str] = []

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:  # once per object, and never through a link by name
        if isinstance(item, h5py.Dataset):
            if item.dtype.kind in "biuf" and item.shape and item.shape[0] in rows:
                kept[name] = array(group, name, budget)
            else:
                skipped.append(name)

    group.visititems(visit)
    return kept, skipped
