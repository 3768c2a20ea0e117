"""Minari's Arrow and Parquet forms: a folder per episode, data/<k>/part-0.arrow or .parquet, and its metadata.json.

Columns observations, actions, rewards, terminations, truncations and infos have T+1 rows; the last row holds the final
observation alone. Rows of a Box are lists, a Dict is a struct. Source: minari/dataset/_storages/arrow_storage.py.
A member `labelled` of infos is of our own: the reward is known (the first row belongs to reset); if not, it may be NaN.

The arrays of an Arrow file are taken as they lie there, so that damaged offsets would be followed out of the file and
end the process: every table is validated in full first. Compressed ones can declare any size and are refused; Minari
writes none.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict

from rlkit.datasets import images, parquet
from rlkit.datasets.columns import is_number
from rlkit.datasets.fields import Budget, one_line
from rlkit.types import InputError

_FLAT = ("rewards", "terminations", "truncations")


def read(
    name: str, data: Path, observation_space: Space, action_space: Space, *, promised: int, jpeg: bool, infos: bool
) -> Iterator[dict[str, Any]]:
    """The episodes in order, as episode_list.read takes them. ``promised``: how many there must be.

    Raises InputError, one line that names episode and field.
    """
    held = sum(entry.name.isdigit() and entry.is_dir() for entry in data.iterdir())
    if held != promised:
        raise InputError(
            f"{name}: metadata promise {promised} episodes, the folder holds {held}; fetch or write it anew"
        )
    budget = Budget(name)
    for number in range(promised):
        where = f"{name}: episode {number}"
        table = _table(where, data / str(number), infos, budget)
        columns = dict(zip(table.column_names, table.columns, strict=True))
        if missing := [field for field in ("observations", "actions", *_FLAT) if field not in columns]:
            raise InputError(f"{where}, {missing[0]}: missing")
        arrays = {field: _numbers(f"{where}, {field}", columns[field]) for field in _FLAT}
        yield {
            "observations": _column(f"{where}, observations", columns["observations"], observation_space, jpeg, budget),
            "actions": _column(
                f"{where}, actions", columns["actions"].slice(0, max(table.num_rows - 1, 0)), action_space, jpeg, budget
            ),
            **{field: values[:-1] for field, values in arrays.items()},
            "labelled": _labelled(f"{where}, infos/labelled", columns.get("infos")),
            "infos": _infos(columns["infos"]) if infos and "infos" in columns else {},
            "total_steps": _promised_steps(where, data / str(number) / "metadata.json"),
        }


def _table(where: str, folder: Path, infos: bool, budget: Budget) -> Any:
    """The rows of one episode."""
    import pyarrow as pa

    try:
        parts = [path for path in sorted(folder.iterdir()) if path.suffix in (".arrow", ".parquet")]
        if len(parts) != 1:
            raise InputError(f"{where}: {len(parts)} files of data in its folder, not one; fetch or write it anew")
        if parts[0].suffix == ".parquet":
            wanted = ("observations", "actions", *_FLAT)
            table, _ = parquet.read(
                parts[0],
                where,
                budget,
                lambda field: field.name in wanted or (field.name == "infos" and (infos or _says_labels(field.type))),
            )
        else:
            table = _ipc(parts[0], budget)
        table.validate(full=True)
        str(table.schema)  # raises where a name is no text
    except (pa.ArrowException, OSError, ValueError, StopIteration, struct.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: cannot be read: {one_line(error)}; fetch or write it anew") from error
    if len(set(table.column_names)) < table.num_columns:
        raise InputError(f"{where}: two columns have one name; write it anew")
    return table.combine_chunks()


def _ipc(path: Path, budget: Budget) -> Any:
    """The table in an Arrow file, read as the stream that it contains. Raises ValueError for what is no such file."""
    import pyarrow as pa

    budget.take(path.stat().st_size)
    content = path.read_bytes()
    if content[:8] != b"ARROW1\0\0" or content[-6:] != b"ARROW1":
        raise ValueError("no Arrow file, or its end is missing")
    messages = list(pa.ipc.MessageReader.open_stream(pa.py_buffer(content)[8:]))
    kinds = [message.type for message in messages]  # pyarrow dies of a schema that is none
    if kinds[:1] != ["schema"] or set(kinds[1:]) - {"record batch"}:
        raise ValueError(f"holds {', '.join(kinds[:5]) or 'nothing'}, not a schema and its rows")
    schema = pa.ipc.read_schema(messages[0])
    batches = []
    for message in messages[1:]:
        if _is_compressed(message.metadata.to_pybytes()):
            raise ValueError("its arrays are compressed; write it without compression")
        batches.append(pa.ipc.read_record_batch(message, schema))
    return pa.Table.from_batches(batches, schema)


def _is_compressed(message: bytes) -> bool:
    """Whether a record batch has the field `compression` (the fourth; format: Message.fbs, FlatBuffers)."""

    def number(kind: str, place: int) -> int:
        return struct.unpack_from(kind, message, place)[0]

    def field(table: int, index: int) -> int:  # its place, 0 where it is absent
        slots = table - number("<i", table)
        offset = number("<H", slots + 4 + 2 * index) if 4 + 2 * index < number("<H", slots) else 0
        return table + offset if offset else 0

    header = field(number("<I", 0), 2)
    return bool(header and field(header + number("<I", header), 3))


def _column(where: str, column: Any, space: Space, jpeg: bool, budget: Budget) -> Any:
    """The rows of a space: an array, or for a Dict space a mapping of such."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(space, Dict):
        if not pa.types.is_struct(column.type):
            raise InputError(f"{where}: no struct, though the space is a Dict")
        there = {column.type.field(i).name for i in range(column.type.num_fields)}
        if missing := [key for key in space.spaces if key not in there]:
            raise InputError(f"{where}/{missing[0]}: missing, though the space names it")
        parts = {key: pc.struct_field(column, key) for key in space.spaces}
        return {key: _column(f"{where}/{key}", parts[key], sub, jpeg, budget) for key, sub in space.spaces.items()}
    if jpeg and images.is_image(space):
        if not pa.types.is_binary(column.type):
            raise InputError(f"{where}: no compressed images, though the space is one of images")
        return images.decode(where, (frame.as_py() or b"" for frame in column), len(column), space.shape, budget)
    if not isinstance(space, Box):
        return _numbers(where, column)
    if not (pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)):
        raise InputError(f"{where}: {column.type}, though the space is a Box")
    width = math.prod(space.shape)
    if (pc.list_value_length(column).to_numpy() != width).any():  # a null becomes NaN, and differs too
        raise InputError(f"{where}: rows are not {width} numbers wide, as the space is")
    values = _numbers(where, pc.list_flatten(column))
    return values.reshape(len(column), *space.shape)


def _numbers(where: str, column: Any) -> np.ndarray:
    """[N] of a column of numbers or booleans."""
    import pyarrow as pa

    if not (is_number(column.type) or pa.types.is_boolean(column.type)):
        raise InputError(f"{where}: {column.type}, not numbers")
    if column.null_count:
        raise InputError(f"{where}: index {int(column.is_null().to_numpy().argmax())} is null; give a number")
    return column.to_numpy()


def _says_labels(kind: Any) -> bool:
    """Whether infos of this type have a member `labelled`."""
    import pyarrow as pa

    return pa.types.is_struct(kind) and "labelled" in [field.name for field in kind]


def _labelled(where: str, infos: Any) -> np.ndarray | None:
    """Which rewards are known, [T] or [T, 1] as Minari has it; None where the file does not say."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if infos is None or not _says_labels(infos.type):
        return None
    if infos.type.get_field_index("labelled") < 0:
        raise InputError(f"{where}: there twice; write it anew")
    column = pc.struct_field(infos, "labelled").slice(1)
    if not pa.types.is_fixed_size_list(column.type):
        return _numbers(where, column)
    return _numbers(where, pc.list_flatten(column)).reshape(-1, column.type.list_size)


def _infos(column: Any) -> dict[str, Any]:
    """What is numbers, or lists of one length of them; the rest is left out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: dict[str, Any] = {}
    for i in range(column.type.num_fields if pa.types.is_struct(column.type) else 0):
        field = column.type.field(i)
        values = pc.struct_field(column, [i])
        if pa.types.is_struct(field.type):
            found[field.name] = _infos(values)
        elif pa.types.is_fixed_size_list(field.type) and is_number(field.type.value_type) and not values.null_count:
            flat = pc.list_flatten(values)
            if len(flat) and not flat.null_count:
                shape = [int(n) for n in ((field.metadata or {}).get(b"shape") or b"").split(b",") if n.isdigit()]
                flat = flat.to_numpy().reshape(len(values), -1)
                found[field.name] = flat.reshape(-1, *shape) if math.prod(shape) == flat.shape[1] else flat
        elif is_number(field.type) and not values.null_count:
            found[field.name] = values.to_numpy()
    return found


def _promised_steps(where: str, path: Path) -> Any:
    try:
        return json.loads(path.read_text()).get("total_steps")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{where}: metadata.json cannot be read: {one_line(error)}") from error
