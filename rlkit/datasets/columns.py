"""The columns of a table (see table.py) as numpy arrays: single numbers, lists, and numbered columns side by side.

Every function returns values with one row per row of the table, and which rows have a value (0 stands for none).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlkit.types import InputError

WIDE = re.compile(r"(observation|action)_(0|[1-9][0-9]*)")  # one of the columns of a list that is spread over several


@dataclass(frozen=True)
class Table:
    path: Path
    columns: dict[str, Any]  # name -> pyarrow.ChunkedArray
    rows: int
    first: int  # what a user calls row 0: line 2 of a CSV, row 0 of a Parquet file

    def at(self, row: int) -> str:
        """The beginning of a message about a row."""
        unit = "line" if self.first else "row"
        return f"{self.path.name}: {unit} {row + self.first}"


def matrix(table: Table, base: str) -> tuple[np.ndarray, np.ndarray]:
    """Values [M, W], or [M] from a column of single numbers, and [M] bool: the row has a value. Rows without are 0."""
    matches = [WIDE.fullmatch(name) for name in table.columns]
    numbered = {int(match[2]) for match in matches if match and match[1] == base}
    if not numbered:
        return _single(table, base)
    if base in table.columns:
        raise InputError(f"{table.path.name}: has both {base} and {base}_0; keep one")
    missing = set(range(len(numbered))) - numbered
    if missing:
        problem = f"no column {base}_{min(missing)}, but {base}_{max(numbered)}; count from 0"
        raise InputError(f"{table.path.name}: {problem}")
    return _side_by_side(table, [f"{base}_{i}" for i in range(len(numbered))])


def _single(table: Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """One column, of lists or of single numbers."""
    import pyarrow as pa

    column = table.columns[name]
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _lists(table, name, column)
    if pa.types.is_string(kind):
        first_text = column.drop_null().slice(0, 1).to_pylist()
        if first_text and first_text[0].startswith("["):
            return _lists(table, name, _parse(table, name, column))
    return numbers(table, name)


def _side_by_side(table: Table, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Numbered columns, of which a row has all or none."""
    parts = []
    present = []
    for name in names:
        values, has_value = numbers(table, name)
        parts.append(values)
        present.append(has_value)
    some = functools.reduce(np.logical_or, present)
    every = functools.reduce(np.logical_and, present)
    partly = some & ~every
    if partly.any():
        row = int(partly.argmax())
        absent = [name for name, has_value in zip(names, present, strict=True) if not has_value[row]]
        raise InputError(f"{table.at(row)}: {absent[0]} is missing; give all of these columns or none")
    all_single = all(part.dtype == np.float32 for part in parts)
    dtype = np.float32 if all_single else np.float64
    return np.stack(parts, axis=1, dtype=dtype, casting="unsafe"), some


def _lists(table: Table, name: str, column: Any) -> tuple[np.ndarray, np.ndarray]:
    """A column of Arrow lists of numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type.value_type
    if not is_number(kind):
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        raise InputError(f"{table.path.name}: {name} holds lists of {kind}; expected lists of numbers")
    has_value = column.is_valid().to_numpy()
    lengths = pc.list_value_length(column).fill_null(0).to_numpy()
    width = _width(table, name, lengths, has_value)
    flat = pa.chunked_array([pc.list_flatten(chunk) for chunk in column.chunks], kind)
    if flat.null_count:
        element = int(flat.is_null().to_numpy().argmax())
        row = int(np.flatnonzero(has_value)[element // width])
        raise InputError(f"{table.at(row)}: {name} has an element that is null; give a number")
    return _spread(flat.to_numpy().reshape(-1, width), has_value)


def _parse(table: Table, name: str, column: Any) -> Any:
    """A column of text such as "[0.1, 0.2]" as Arrow lists of numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pc.utf8_trim_whitespace(column)
    try:
        if not pc.all(pc.match_substring_regex(text, r"^\[.*\]$")).as_py():
            raise pa.ArrowInvalid
        return pa.chunked_array([_parse_chunk(chunk) for chunk in text.chunks], pa.list_(pa.float64()))
    except pa.ArrowInvalid as error:
        row = next((i for i, value in enumerate(text.to_pylist()) if value is not None and not _is_list(value)), 0)
        cell = column[row].as_py()[:40]
        problem = f"{name} is {cell!r}; expected a list of numbers such as [0.1, 0.2]"
        raise InputError(f"{table.at(row)}: {problem}") from error


def _parse_chunk(chunk: Any) -> Any:
    """Arrow lists of numbers from text in brackets. Raises ArrowInvalid where a part is no number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    inside = pc.utf8_slice_codeunits(chunk, 1, -1)
    parts = pc.split_pattern(inside, ",")
    values = pc.utf8_trim_whitespace(pc.list_flatten(parts)).cast(pa.float64())
    lengths = pc.list_value_length(parts).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = pa.array([0, *lengths.cumsum()], pa.int32())
    return pa.ListArray.from_arrays(offsets, values, mask=chunk.is_null())


def _is_list(text: str) -> bool:
    in_brackets = text[:1] == "[" and text[-1:] == "]"
    return in_brackets and all(_is_float(part) for part in text[1:-1].split(","))


def _width(table: Table, name: str, widths: np.ndarray, has_value: np.ndarray) -> int:
    """The one length of all lists."""
    width = int(widths[has_value.argmax()])
    other = has_value & (widths != width)
    if other.any():
        row = int(other.argmax())
        raise InputError(f"{table.at(row)}: {name} has {widths[row]} elements where the rows before have {width}")
    if not width:
        raise InputError(f"{table.path.name}: {name} holds no numbers; its lists are empty or all rows are null")
    return width


def _spread(values: np.ndarray, has_value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[V, W] values of the rows that have one as [M, W], 0 elsewhere. Lists are amounts, so integers become floats."""
    if values.dtype.kind in "iu":
        values = values.astype(np.float64)
    if has_value.all():
        return values, has_value
    rows = np.zeros((len(has_value), values.shape[1]), values.dtype)
    rows[has_value] = values
    return rows, has_value


def numbers(table: Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of single numbers: [M] values, 0 where null, and [M] bool: not null. Integers stay integers."""
    column = narrow(table.columns[name])
    if not is_number(column.type):
        cells = column.to_pylist()
        row = next((i for i, value in enumerate(cells) if value is not None and not _is_float(value)), 0)
        cell = str(cells[row])[:40]
        raise InputError(f"{table.at(row)}: {name} is {cell!r}; expected a number")
    has_value = column.is_valid().to_numpy()
    return column.fill_null(0).to_numpy(), has_value


def narrow(column: Any) -> Any:
    """Text as integers where every row is one, else as numbers where every row is one, else as it is."""
    import pyarrow as pa

    if pa.types.is_null(column.type):
        return column.cast(pa.float64())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    for kind in (pa.int64(), pa.float64()):
        try:
            return column.cast(kind)
        except pa.ArrowInvalid:
            continue
    return column


def is_number(kind: Any) -> bool:
    """Whether a pyarrow.DataType is one of integers or floats."""
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _is_float(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
