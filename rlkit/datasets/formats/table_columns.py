"""The columns of a table (see table.py) as numpy arrays: single numbers, lists, and several columns side by side.

A Column has one row per row of the table.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rlkit.datasets.formats import table_recoding
from rlkit.types import InputError

if TYPE_CHECKING:
    from rlkit.datasets.formats.table_roles import Roles

Column = tuple[np.ndarray, np.ndarray]  # values [M] or [M, W], 0 where a row has none; [M] bool: the row has one

ALL_OR_NONE = "give all of these columns or none"


class FileColumns(NamedTuple):
    """What one file holds of a table."""

    columns: Any  # pyarrow.Table
    roles: Roles
    first: int  # what a user calls its row 0: line 2 of a CSV with a header, row 0 of a Parquet file
    notes: tuple[str, ...]
    unread: tuple[str, ...]  # columns that were not read


class Part(NamedTuple):
    """Where the rows of one file begin."""

    name: str  # of the file
    row: int  # number of its first row among all rows
    first: int  # as in FileColumns


@dataclass(frozen=True)
class Table:
    """The columns of all files, and how messages name their rows."""

    name: str
    columns: dict[str, Any]  # name -> pyarrow.ChunkedArray
    rows: int
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    def at(self, row: int) -> str:
        """The beginning of a message about a row."""
        part = [part for part in self.parts if part.row <= row][-1]
        unit = "line" if part.first else "row"
        return f"{part.name}: {unit} {row - part.row + part.first}"

    def part_of_row(self) -> np.ndarray:
        """[M] the number of each row's file."""
        firsts = [part.row for part in self.parts]
        return np.searchsorted(firsts, np.arange(self.rows), side="right") - 1


def matrix(table: Table, names: Sequence[str], is_list: bool, cure: str = ALL_OR_NONE) -> Column:
    """Values [M, W] of columns side by side, or [M] of one column of single numbers unless that ``is_list``.

    Raises InputError, which ends with ``cure``, where a row has a value in some of the columns alone.
    """
    if len(names) == 1 and not is_list:
        return _single(table, names[0])
    return _side_by_side(table, names, cure)


def _single(table: Table, name: str) -> Column:
    """One column, of lists or of single numbers."""
    import pyarrow as pa

    column = table.columns[name]
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _lists(table, name, column)
    if pa.types.is_string(kind):
        first_text = column.drop_null().slice(0, 1).to_pylist()
        if first_text and first_text[0].startswith("["):
            lists = _parse(table, name, column)
            return _lists(table, name, lists)
    return numbers(table, name)


def _side_by_side(table: Table, names: Sequence[str], cure: str) -> Column:
    """Columns of which a row has all or none."""
    parts = []
    present = []
    for name in names:
        values, has_value = _single(table, name)
        parts.append(values if values.ndim == 2 else values[:, None])
        present.append(has_value)
    some = functools.reduce(np.logical_or, present)
    every = functools.reduce(np.logical_and, present)
    partly = some & ~every
    if partly.any():
        row = int(partly.argmax())
        first_absent = [has_value[row] for has_value in present].index(False)
        count = int(partly.sum())
        problem = f"{names[first_absent]} is missing; {cure}"
        if count > 1:
            problem += f"; {count} rows like it"
        raise InputError(f"{table.at(row)}: {problem}")
    dtype = np.float64
    if all(part.dtype == np.float32 for part in parts):
        dtype = np.float32
    values = np.concatenate(parts, axis=1, dtype=dtype, casting="unsafe")
    return values, some


def _lists(table: Table, name: str, column: Any) -> Column:
    """A column of Arrow lists of numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type.value_type
    if not is_number(kind):
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        raise InputError(f"{table.name}: {name} holds lists of {kind}; expected lists of numbers")
    has_value = column.is_valid().to_numpy()
    lengths = pc.list_value_length(column).fill_null(0)
    width = _width(table, name, lengths.to_numpy(), has_value)
    chunks = []
    for chunk in column.chunks:
        elements = pc.list_flatten(chunk)
        chunks.append(elements)
    flat = pa.chunked_array(chunks, kind)
    if flat.null_count:
        is_null = flat.is_null().to_numpy()
        element = int(is_null.argmax())
        rows = np.flatnonzero(has_value)
        row = int(rows[element // width])
        raise InputError(f"{table.at(row)}: {name} has an element that is null; give a number")
    values = flat.to_numpy().reshape(-1, width)
    return _spread(values, has_value)


def _parse(table: Table, name: str, column: Any) -> Any:
    """A column of text such as "[0.1, 0.2]" as Arrow lists of numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pc.utf8_trim_whitespace(column)
    try:
        in_brackets = pc.match_substring_regex(text, r"^\[.*\]$")
        if not pc.all(in_brackets).as_py():
            raise pa.ArrowInvalid
        chunks = []
        for chunk in text.chunks:
            lists = _parse_chunk(chunk)
            chunks.append(lists)
        return pa.chunked_array(chunks, pa.list_(pa.float64()))
    except pa.ArrowInvalid as error:
        row = first_without(text, _is_list)
        cell = column[row].as_py()[:40]
        problem = f"{name} is {cell!r}; expected a list of numbers such as [0.1, 0.2]"
        raise InputError(f"{table.at(row)}: {problem}") from error


def first_without(column: Any, is_right: Callable[[Any], bool]) -> int:
    """The first row whose value is not null and not right; 0 where all are right."""
    for row, value in enumerate(column.to_pylist()):
        if value is not None and not is_right(value):
            return row
    return 0


def _parse_chunk(chunk: Any) -> Any:
    """Arrow lists of numbers from text in brackets. Raises ArrowInvalid where a part is no number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    inside = pc.utf8_slice_codeunits(chunk, 1, -1)
    parts = pc.split_pattern(inside, ",")
    texts = pc.utf8_trim_whitespace(pc.list_flatten(parts))
    values = texts.cast(pa.float64())
    lengths = pc.list_value_length(parts).fill_null(0)
    ends = lengths.to_numpy(zero_copy_only=False).cumsum()
    offsets = pa.array([0, *ends], pa.int32())
    return pa.ListArray.from_arrays(offsets, values, mask=chunk.is_null())


def _is_list(text: str) -> bool:
    if text[:1] != "[" or text[-1:] != "]":
        return False
    parts = text[1:-1].split(",")
    return all(is_float(part) for part in parts)


def _width(table: Table, name: str, widths: np.ndarray, has_value: np.ndarray) -> int:
    """The one length of all lists."""
    first = has_value.argmax()
    width = int(widths[first])
    other = has_value & (widths != width)
    if other.any():
        row = int(other.argmax())
        raise InputError(f"{table.at(row)}: {name} has {widths[row]} elements where the rows before have {width}")
    if not width:
        raise InputError(f"{table.name}: {name} holds no numbers; its lists are empty or all rows are null")
    return width


def _spread(values: np.ndarray, has_value: np.ndarray) -> Column:
    """[V, W] values of the rows that have one as [M, W]. Lists are amounts, so integers become floats."""
    if values.dtype.kind in "iu":
        values = values.astype(np.float64)
    if has_value.all():
        return values, has_value
    width = values.shape[1]
    rows = np.zeros((len(has_value), width), values.dtype)
    rows[has_value] = values
    return rows, has_value


def numbers(table: Table, name: str) -> Column:
    """A column of single numbers, [M]. Integers stay integers. NaN stands for no value, as some programs write it."""
    column = narrow(table.columns[name])
    if not is_number(column.type):
        row = first_without(column, is_float)
        cell = str(column[row].as_py())[:40]
        told = table_recoding.cure(name, column.to_pylist())
        raise InputError(f"{table.at(row)}: {name} is {cell!r}; expected a number{told}")
    has_value = column.is_valid().to_numpy()
    values = column.fill_null(0).to_numpy()
    if values.dtype.kind == "f":
        is_nan = np.isnan(values)
        if is_nan.any():
            has_value = has_value & ~is_nan
            values = np.where(is_nan, 0, values)
    return values, has_value


def narrow(column: Any) -> Any:
    """Text as integers where every row is one, else as numbers where every row is one, else as it is. True and false
    become 1 and 0."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_null(column.type):
        return column.cast(pa.float64())
    if pa.types.is_boolean(column.type):
        return column.cast(pa.int8())
    if pa.types.is_decimal(column.type):  # numbers of databases
        return column.cast(pa.float64())
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if not is_text:
        return column
    for text in (column, pc.utf8_trim_whitespace(column)):
        for kind in (pa.int64(), pa.float64()):
            try:
                return text.cast(kind)
            except pa.ArrowInvalid:
                continue
    return column


def is_number(kind: Any) -> bool:
    """True for a pyarrow.DataType of integers or floats."""
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def is_float(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
