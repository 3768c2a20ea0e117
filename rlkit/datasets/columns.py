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
        return f"{self.path.name}: {'line' if self.first else 'row'} {row + self.first}"


def matrix(table: Table, base: str) -> tuple[np.ndarray, np.ndarray]:
    """Values [M, W], or [M] from a column of single numbers, and [M] bool: the row has a value. Rows without are 0."""
    import pyarrow as pa

    wide = {int(match[2]) for name in table.columns if (match := WIDE.fullmatch(name)) and match[1] == base}
    if wide and base in table.columns:
        raise InputError(f"{table.path.name}: has both {base} and {base}_0; keep one")
    if wide:
        if gap := set(range(len(wide))) - wide:
            raise InputError(f"{table.path.name}: no column {base}_{min(gap)}, but {base}_{max(wide)}; count from 0")
        return _side_by_side(table, [f"{base}_{i}" for i in range(len(wide))])
    column = table.columns[base]
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _lists(table, base, column)
    if pa.types.is_string(kind) and any(x.startswith("[") for x in column.drop_null().slice(0, 1).to_pylist()):
        return _lists(table, base, _parse(table, base, column))
    return numbers(table, base)


def _side_by_side(table: Table, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    parts, there = zip(*(numbers(table, name) for name in names), strict=True)
    some, every = (functools.reduce(kind, there) for kind in (np.logical_or, np.logical_and))
    if (partly := some & ~every).any():
        row = int(partly.argmax())
        name = names[[bool(column[row]) for column in there].index(False)]
        raise InputError(f"{table.at(row)}: {name} is missing; give all of these columns or none")
    kind = np.float32 if all(part.dtype == np.float32 for part in parts) else np.float64
    return np.stack(parts, axis=1, dtype=kind, casting="unsafe"), some


def _lists(table: Table, name: str, column: Any) -> tuple[np.ndarray, np.ndarray]:
    """A column of Arrow lists of numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type.value_type
    if not is_number(kind):
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        raise InputError(f"{table.path.name}: {name} holds lists of {kind}; expected lists of numbers")
    there = column.is_valid().to_numpy()
    width = _width(table, name, pc.list_value_length(column).fill_null(0).to_numpy(), there)
    flat = pa.chunked_array([pc.list_flatten(chunk) for chunk in column.chunks], kind)
    if flat.null_count:
        row = np.flatnonzero(there)[int(flat.is_null().to_numpy().argmax()) // width]
        raise InputError(f"{table.at(int(row))}: {name} has an element that is null; give a number")
    return _spread(flat.to_numpy().reshape(-1, width), there)


def _parse(table: Table, name: str, column: Any) -> Any:
    """A column of text such as "[0.1, 0.2]" as Arrow lists of numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def lists(chunk: Any) -> Any:
        parts = pc.split_pattern(pc.utf8_slice_codeunits(chunk, 1, -1), ",")
        values = pc.utf8_trim_whitespace(pc.list_flatten(parts)).cast(pa.float64())
        offsets = pc.list_value_length(parts).fill_null(0).to_numpy(zero_copy_only=False).cumsum()
        return pa.ListArray.from_arrays(pa.array([0, *offsets], pa.int32()), values, mask=chunk.is_null())

    text = pc.utf8_trim_whitespace(column)
    try:
        if not pc.all(pc.match_substring_regex(text, r"^\[.*\]$")).as_py():
            raise pa.ArrowInvalid
        return pa.chunked_array([lists(chunk) for chunk in text.chunks], pa.list_(pa.float64()))
    except pa.ArrowInvalid as error:
        row = next((i for i, value in enumerate(text.to_pylist()) if value is not None and not _is_list(value)), 0)
        raise InputError(
            f"{table.at(row)}: {name} is {column[row].as_py()[:40]!r}; expected a list of numbers such as [0.1, 0.2]"
        ) from error


def _is_list(text: str) -> bool:
    return text[:1] == "[" and text[-1:] == "]" and all(_is_float(part) for part in text[1:-1].split(","))


def _width(table: Table, name: str, widths: np.ndarray, there: np.ndarray) -> int:
    """The one length of all lists."""
    width = int(widths[there.argmax()])
    if (odd := there & (widths != width)).any():
        row = int(odd.argmax())
        raise InputError(f"{table.at(row)}: {name} has {widths[row]} elements where the rows before have {width}")
    if not width:
        raise InputError(f"{table.path.name}: {name} holds no numbers; its lists are empty or all rows are null")
    return width


def _spread(values: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[V, W] values of the rows that are there as [M, W], 0 elsewhere. Lists are amounts, so integers become floats."""
    values = values.astype(np.float64) if values.dtype.kind in "iu" else values
    if there.all():
        return values, there
    result = np.zeros((len(there), values.shape[1]), values.dtype)
    result[there] = values
    return result, there


def numbers(table: Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of single numbers: [M] values, 0 where null, and [M] bool: not null. Integers stay integers."""
    column = narrow(table.columns[name])
    if not is_number(column.type):
        texts = column.to_pylist()
        row = next((i for i, value in enumerate(texts) if value is not None and not _is_float(value)), 0)
        raise InputError(f"{table.at(row)}: {name} is {str(texts[row])[:40]!r}; expected a number")
    there = column.is_valid().to_numpy()
    return column.fill_null(0).to_numpy(), there


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
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _is_float(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
