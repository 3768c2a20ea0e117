"""Minari's Arrow and Parquet forms: a folder per episode, data/<k>/part-0.arrow or .parquet, and its metadata.json.

Columns observations, actions, rewards, terminations, truncations and infos have T+1 rows; the last row holds the final
observation alone. Rows of a Box are lists, a Dict is a struct. Source: minari/dataset/_storages/arrow_storage.py.
A member `labelled` of infos is of our own: the reward is known (the first row belongs to reset); if not, it may be NaN.

This runs in the process of reader_process.py. The arrays of an Arrow file are taken as they lie there, so that damaged
offsets would be followed out of the file: every table is validated in full before it is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict

from rlkit.datasets import images, parquet
from rlkit.datasets.columns import is_number
from rlkit.datasets.fields import Budget
from rlkit.types import InputError, one_line

_FLAT = ("rewards", "terminations", "truncations")
_MAGIC = b"ARROW1"  # an Arrow file's first bytes, which pyarrow does not look at
_REQUIRED = ("observations", "actions", *_FLAT)


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
        folder = data / str(number)
        table = _table(where, folder, infos)
        columns = dict(zip(table.column_names, table.columns, strict=True))
        for field in _REQUIRED:
            if field not in columns:
                raise InputError(f"{where}, {field}: missing")
        steps = max(table.num_rows - 1, 0)
        episode = {
            "observations": _column(f"{where}, observations", columns["observations"], observation_space, jpeg, budget),
            "actions": _column(f"{where}, actions", columns["actions"].slice(0, steps), action_space, jpeg, budget),
            "labelled": _labelled(f"{where}, infos/labelled", columns.get("infos")),
            "infos": {},
            "total_steps": _promised_steps(where, folder / "metadata.json"),
        }
        for field in _FLAT:
            values = _numbers(f"{where}, {field}", columns[field])
            episode[field] = values[:-1]
        if infos and "infos" in columns:
            episode["infos"] = _infos(columns["infos"])
        yield episode


def _table(where: str, folder: Path, infos: bool) -> Any:
    """The rows of one episode, a pyarrow.Table with one chunk a column."""
    import pyarrow as pa

    def wanted(field: Any) -> bool:
        if field.name == "infos":
            return infos or _says_labels(field.type)
        return field.name in _REQUIRED

    try:
        parts = [path for path in sorted(folder.iterdir()) if path.suffix in (".arrow", ".parquet")]
        if len(parts) != 1:
            raise InputError(f"{where}: {len(parts)} files of data in its folder, not one; fetch or write it anew")
        if parts[0].suffix == ".parquet":
            table, _ = parquet.read(parts[0], where, wanted)
        else:
            table = _ipc(parts[0])
        parquet.refuse_extensions(where, table.schema)
        str(table.schema)  # raises where a name is no text
    except (InputError, MemoryError):
        raise
    except (pa.ArrowException, *parquet.DAMAGE) as error:
        raise InputError(f"{where}: cannot be read: {one_line(error)}; fetch or write it anew") from error
    if len(set(table.column_names)) < table.num_columns:
        raise InputError(f"{where}: two columns have one name; write it anew")
    return table.combine_chunks()


def _ipc(path: Path) -> Any:
    """The table in an Arrow file, validated in full."""
    import pyarrow as pa

    with pa.OSFile(str(path)) as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("no Arrow file")
        table = pa.ipc.open_file(file).read_all()
    table.validate(full=True)
    return table


def _column(where: str, column: Any, space: Space, jpeg: bool, budget: Budget) -> Any:
    """The rows of a space: an array, or for a Dict space a mapping of such."""
    import pyarrow as pa

    if isinstance(space, Dict):
        members = _members(where, column, space)
        return {key: _column(f"{where}/{key}", members[key], sub, jpeg, budget) for key, sub in space.spaces.items()}
    if jpeg and images.is_image(space):
        if not pa.types.is_binary(column.type):
            raise InputError(f"{where}: no compressed images, though the space is one of images")
        frames = (frame.as_py() or b"" for frame in column)
        return images.decode(where, frames, len(column), space.shape, budget)
    if isinstance(space, Box):
        return _rows(where, column, space)
    return _numbers(where, column)


def _members(where: str, column: Any, space: Dict) -> dict[str, Any]:
    """The members of a struct column that a Dict space names."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_struct(column.type):
        raise InputError(f"{where}: no struct, though the space is a Dict")
    names = [field.name for field in column.type]
    for key in space.spaces:
        if key not in names:
            raise InputError(f"{where}/{key}: missing, though the space names it")
    return {key: pc.struct_field(column, key) for key in space.spaces}


def _rows(where: str, column: Any, space: Box) -> np.ndarray:
    """[N, *shape of the space] of a column of lists."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)):
        raise InputError(f"{where}: {column.type}, though the space is a Box")
    width = math.prod(space.shape)
    lengths = pc.list_value_length(column).to_numpy()
    if (lengths != width).any():  # a null becomes NaN, and differs too
        raise InputError(f"{where}: rows are not {width} numbers wide, as the space is")
    values = _numbers(where, pc.list_flatten(column))
    return values.reshape(len(column), *space.shape)


def _numbers(where: str, column: Any) -> np.ndarray:
    """[N] of a column of numbers or booleans."""
    import pyarrow as pa

    if not (is_number(column.type) or pa.types.is_boolean(column.type)):
        raise InputError(f"{where}: {column.type}, not numbers")
    if column.null_count:
        row = int(column.is_null().to_numpy().argmax())
        raise InputError(f"{where}: index {row} is null; give a number")
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
        raise InputError(f"{where}: in the file twice; write it again")
    column = pc.struct_field(infos, "labelled").slice(1)
    if not pa.types.is_fixed_size_list(column.type):
        return _numbers(where, column)
    flat = _numbers(where, pc.list_flatten(column))
    return flat.reshape(-1, column.type.list_size)


def _infos(column: Any) -> dict[str, Any]:
    """The members of a struct column that are numbers, or lists of one length of them; the rest is left out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_struct(column.type):
        return {}
    members: dict[str, Any] = {}
    for i, field in enumerate(column.type):
        values = pc.struct_field(column, [i])
        if pa.types.is_struct(field.type):
            members[field.name] = _infos(values)
        elif values.null_count:
            continue
        elif is_number(field.type):
            members[field.name] = values.to_numpy()
        elif pa.types.is_fixed_size_list(field.type) and is_number(field.type.value_type):
            flat = pc.list_flatten(values)
            if len(flat) and not flat.null_count:
                members[field.name] = _shaped(flat.to_numpy().reshape(len(values), -1), field)
    return members


def _shaped(rows: np.ndarray, field: Any) -> np.ndarray:
    """[N, W] numbers in the shape that Minari notes in the metadata of the pyarrow.Field, where it fits."""
    noted = (field.metadata or {}).get(b"shape", b"")
    shape = [int(size) for size in noted.split(b",") if size.isdigit()]
    return rows.reshape(-1, *shape) if math.prod(shape) == rows.shape[1] else rows


def _promised_steps(where: str, path: Path) -> Any:
    try:
        return json.loads(path.read_text()).get("total_steps")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{where}: metadata.json cannot be read: {one_line(error)}") from error
