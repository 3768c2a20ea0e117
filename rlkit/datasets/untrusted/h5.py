"""HDF5 files that are not trusted: only arrays of numbers are read, and only if the file itself holds all their values
and the memory has room for them.

HDF5 can name other files in three ways (external links, external storage, virtual datasets), declare any shape without
holding it, and fill rows that were never written with zeros. All of that is refused here, before memory is allocated.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
from h5py.h5d import DatasetID

from rlkit.datasets.untrusted.fields import Budget, Fault
from rlkit.types import InputError, one_line

DAMAGE = (OSError, RuntimeError, KeyError, TypeError, ValueError)  # what h5py raises for damaged files


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
    """Whatever goes wrong with a file inside this context becomes an InputError that begins with ``where``."""
    try:
        yield
    except InputError:
        raise
    except Fault as fault:
        raise InputError(f"{where}: {fault}") from None
    except DAMAGE as error:
        reason = one_line(error)
        raise InputError(f"{where} cannot be read as HDF5 ({reason}); fetch or write it again") from error


def member(group: h5py.Group, name: str) -> h5py.Group | DatasetID | None:
    """The group or array ``name`` in ``group``; None for anything else. Raises Fault if it is missing or a link."""
    key = name.encode()
    links = group.id.links
    if not links.exists(key):
        raise Fault("missing")
    if links.get_info(key).type != h5py.h5l.TYPE_HARD:
        raise Fault("a link by name, to this file or another, which is not followed; store the values themselves")
    item = h5py.h5o.open(group.id, key)
    if isinstance(item, h5py.h5g.GroupID):
        return h5py.Group(item)
    if isinstance(item, DatasetID):
        return item
    return None


def array(group: h5py.Group, name: str, budget: Budget) -> DatasetID:
    """The array ``name``, safe to read. Raises Fault, or InputError if it is too big."""
    item = member(group, name)
    if not _holds_numbers(item) or not item.shape:
        raise Fault("not an array of numbers with one row per step")
    width = item.dtype.itemsize
    size = math.prod(item.shape) * width
    properties = item.get_create_plist()
    layout = properties.get_layout()
    _check_in_file(properties)
    budget.take(size)
    if layout == h5py.h5d.CHUNKED:
        chunk = properties.get_chunk()
        budget.check(math.prod(chunk) * width)  # a chunk is unpacked whole
        expected = 1
        for rows, part in zip(item.shape, chunk, strict=True):
            expected *= -(-rows // part)
        written = item.get_num_chunks()
        if written != expected:
            raise Fault(f"damaged or unfinished: {written} of its {expected} chunks were written")
    elif layout == h5py.h5d.CONTIGUOUS:
        stored = item.get_storage_size()
        if stored != size:
            raise Fault(f"damaged or unfinished: {stored} of its {size} bytes were written")
    return item


def scalar(group: h5py.Group, name: str) -> Any:
    """The one number that the array ``name`` holds. Raises Fault."""
    item = member(group, name)
    if not _holds_numbers(item) or math.prod(item.shape) != 1:
        raise Fault("not one number; write the file again")
    _check_in_file(item.get_create_plist())
    return read(item).ravel()[0]


def number(group: h5py.Group, name: str) -> float | None:
    """The number in an attribute; None where there is no attribute of that name. Raises Fault."""
    value = group.attrs.get(name)
    if value is None:
        return None
    values = np.asarray(value)
    if values.size != 1 or values.dtype.kind not in "iuf":
        raise Fault("not one number; write the file again")
    return values.item()


def _holds_numbers(item: h5py.Group | DatasetID | None) -> bool:
    return isinstance(item, DatasetID) and item.dtype.kind in "biuf"


def _check_in_file(properties: h5py.h5p.PropDCID) -> None:
    """Raises Fault for an array whose values lie in other files."""
    if properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count():
        raise Fault("kept in other files, which are not read; store the values in this one")


def read(item: DatasetID) -> np.ndarray:
    """The values of an array that `array` has checked. h5py's own objects take longer than small arrays do."""
    rows = np.empty(item.shape, item.dtype)
    if rows.size:
        item.read(h5py.h5s.ALL, h5py.h5s.ALL, rows)
    return rows


def values(where: str, group: h5py.Group, field: str, budget: Budget) -> np.ndarray:
    """The values of the array that ``group`` has under the last part of ``field``: that of obs/camera is camera. Raises
    InputError, which begins with ``where`` and the field."""
    key = field.rpartition("/")[2]
    with naming(f"{where}, {field}"):
        item = array(group, key, budget)
        return read(item)


def arrays_below(group: h5py.Group, budget: Budget, rows: tuple[int, ...]) -> tuple[dict[str, DatasetID], list[str]]:
    """The arrays of numbers with one of ``rows`` rows, by their path in ``group``, and the names of other members."""
    kept: dict[str, DatasetID] = {}
    skipped: list[str] = []

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:  # once per object, and never through a link by name
        if not isinstance(item, h5py.Dataset):
            return
        is_numeric = item.dtype.kind in "biuf"
        if is_numeric and item.shape and item.shape[0] in rows:
            kept[name] = array(group, name, budget)
        else:
            skipped.append(name)

    group.visititems(visit)
    return kept, skipped
