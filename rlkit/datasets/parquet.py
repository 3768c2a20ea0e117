"""Parquet files that are not trusted: what the footer and the page headers declare is checked before pyarrow reads.

pyarrow believes these numbers: a page of a few bytes can stand for two thousand million values. It also ends the whole
process, through no exception that Python could catch, where it is asked for the metadata of a column whose histograms
are damaged. So the footer is read here. Format: parquet-format, parquet.thrift and the Thrift compact protocol.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlkit.datasets.fields import Budget, listed, one_line
from rlkit.types import InputError

_MAGIC = b"PAR1"
_DEPTH = 24  # of nested structs; the format needs 8
_BYTE_ARRAY = 6


class _Damaged(ValueError):
    """The file is not what the format says."""


class _Leaf(NamedTuple):
    name: str  # of the top-level column
    path: str
    text: bool  # of variable length
    width: int  # bytes of a value in memory, without the contents of text


def read(path: Path, name: str, budget: Budget, wanted: Callable[[Any], bool] = lambda field: True) -> Any:
    """A pyarrow.Table of the top-level columns for whose pyarrow.Field ``wanted`` is true, and all column names.

    Raises InputError, which begins with ``name``, for a file that is damaged or unpacks to too much.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            columns = [field.name for field in file.schema_arrow if wanted(field)]
        texts, rows = _check(path, set(columns), budget)
        with parquet.ParquetFile(path, read_dictionary=texts, page_checksum_verification=True) as file:
            table = file.read(columns)
        if table.num_rows != rows:
            raise _Damaged(f"{table.num_rows} rows where the footer has {rows}")
        table.validate(full=True)
        return _plain(table, budget), names
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError, struct.error) as error:
        raise InputError(f"{name}: cannot be read as Parquet ({one_line(error)}); copy or write it again") from error


def _plain(table: Any, budget: Budget) -> Any:
    """Text as text: it is read as a dictionary, since a short entry may be repeated without end."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for i, column in enumerate(table.columns):
        if pa.types.is_dictionary(column.type):
            for chunk in column.chunks:
                budget.take(pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0)
            table = table.set_column(i, table.field(i).name, column.cast(column.type.value_type))
    return table


def _check(path: Path, columns: set[str], budget: Budget) -> tuple[list[str], int]:
    """Paths of the text among ``columns``, and the number of rows. Raises for what disagrees or is too big."""
    content = memoryview(path.read_bytes())
    if len(content) < 12 or content[:4] != _MAGIC or content[-4:] != _MAGIC:
        raise _Damaged("no Parquet file, or its end is missing")
    size = int.from_bytes(content[-8:-4], "little")
    if size > len(content) - 12:
        raise _Damaged("the footer is longer than the file")
    footer, _ = _struct(content, len(content) - 8 - size)
    leaves = _leaves(footer[2])
    rows = 0
    for group in footer.get(4, []):
        if len(group[1]) != len(leaves):
            raise _Damaged(f"{len(group[1])} columns in a row group where the schema has {len(leaves)}")
        rows += group[3]
        for leaf, chunk in zip(leaves, group[1], strict=True):
            if leaf.name in columns:
                _check_chunk(content, leaf, chunk[3], group[3], budget)
    if rows != footer[3]:
        raise _Damaged(f"the row groups have {rows} rows where the footer has {footer[3]}")
    return [leaf.path for leaf in leaves if leaf.text and leaf.name in columns], rows


def _leaves(elements: Sequence[dict[int, Any]]) -> list[_Leaf]:
    """The columns that hold values, in the file's order; ``elements`` is the schema, depth first."""
    leaves: list[_Leaf] = []
    place = 1

    def descend(path: tuple[str, ...]) -> None:
        nonlocal place
        element = elements[place]
        place += 1
        path = (*path, bytes(element[4]).decode())
        if len(path) > _DEPTH:
            raise _Damaged("the schema is nested too deeply")
        for _ in range(element.get(5, 0)):
            descend(path)
        if not element.get(5, 0):
            leaves.append(_Leaf(path[0], ".".join(path), element[1] == _BYTE_ARRAY, max(8, element.get(2, 0))))

    for _ in range(elements[0].get(5, 0)):
        descend(())
    return leaves


def _check_chunk(content: memoryview, leaf: _Leaf, meta: dict[int, Any], rows: int, budget: Budget) -> None:
    """The pages of one column in one row group hold as many values as the footer says, and those fit."""
    if not rows and not meta[5]:
        return
    place = min(meta[9], meta.get(11) or meta[9])  # the first page; the dictionary, where there is one, precedes
    end = place + meta[7]
    if place < 4 or end > len(content) or meta[5] < rows:
        raise _Damaged(f"{listed([leaf.path])} lies outside the file or has too few values")
    budget.take(leaf.width * meta[5])
    values = 0
    while place < end and values < meta[5]:
        page, start = _struct(content[:end], place)
        if page[3] < 0 or page[2] < 0:
            raise _Damaged(f"{listed([leaf.path])} has a page of negative size")
        budget.check(page[2])
        held = page.get(5) or page.get(8)  # a data page, version 1 or 2
        values += held[1] if held else 0
        if page.get(7):
            budget.check(leaf.width * page[7][1])
        place = start + page[3]
    if values != meta[5]:
        raise _Damaged(f"{listed([leaf.path])} has pages of {values} values where the footer has {meta[5]}")


def _struct(content: memoryview, place: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """A Thrift struct as {field id: value}, and the place after it."""
    fields: dict[int, Any] = {}
    number = 0
    if depth > _DEPTH:
        raise _Damaged("the footer is nested too deeply")
    while head := content[place]:
        place += 1
        if head >> 4:
            number += head >> 4
        else:
            number, place = _integer(content, place)
        fields[number], place = (
            (head & 15 == 1, place) if head & 15 in (1, 2) else _value(content, place, head & 15, depth)
        )
    return fields, place + 1


def _value(content: memoryview, place: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2, 3):  # in lists a boolean takes a byte
        return content[place], place + 1
    if kind in (4, 5, 6):
        return _integer(content, place)
    if kind == 7:
        return struct.unpack_from("<d", content, place)[0], place + 8
    if kind == 8:
        size, place = _unsigned(content, place)
        if size > len(content) - place:
            raise _Damaged("a text in the footer is longer than the file")
        return content[place : place + size], place + size
    if kind == 12:
        return _struct(content, place, depth + 1)
    if kind in (9, 10):
        head, place = content[place], place + 1
        size, place = _unsigned(content, place) if head >> 4 == 15 else (head >> 4, place)
        if size > len(content) - place:
            raise _Damaged("a list in the footer is longer than the file")
        values = []
        for _ in range(size):
            value, place = _value(content, place, head & 15, depth + 1)
            values.append(value)
        return values, place
    raise _Damaged(f"a field of kind {kind} in the footer")


def _integer(content: memoryview, place: int) -> tuple[int, int]:
    value, place = _unsigned(content, place)
    return (value >> 1) ^ -(value & 1), place  # zigzag


def _unsigned(content: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte, place = content[place], place + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise _Damaged("an integer in the footer has more than 64 bits")
