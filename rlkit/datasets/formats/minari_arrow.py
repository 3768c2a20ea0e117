"""Minari's Arrow and Parquet forms: a folder per episode, data/<k>/part-0.arrow or .parquet, and its metadata.json.

Columns observations, actions, rewards, terminations, truncations and infos have T+1 rows; the last row holds the final
observation alone. Rows of a Box are lists, a Dict is a struct. Source: minari/dataset/_storages/arrow_storage.py.
A member `labelled` of infos is of our own: the reward is known (the first row belongs to reset); if not, it may be NaN.

This runs in the process of reader_process.py. The arrays of an Arrow file are used as they are stored, so that damaged
offsets would lead out of the file: every table is validated in full before it is used.
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

from rlkit.datasets.formats.table_columns import is_number
from rlkit.datasets.untrusted import images, parquet
from rlkit.datasets.untrusted.fields import Budget
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
    stored_episodes = 0
    for entry in data.iterdir():
        if entry.name.isdigit() and entry.is_dir():
            stored_episodes += 1
    if stored_episodes != promised:
        raise InputError(
            f"{name}: metadata promise {promised} episodes, the folder holds {stored_episodes}; fetch or write it again"
        )
    budget = Budget(name)
    for number in range(promised):
        where = f"{name}: episode {number}"
        folder = data / str(number)
        columns = _columns(where, folder, infos)
        rows = len(columns["actions"])
        steps = max(rows - 1, 0)
        actions = columns["actions"].slice(0, steps)
        episode = {
            "observations": _column(f"{where}, observations", columns["observations"], observation_space, jpeg, budget),
            "actions": _column(f"{where}, actions", actions, action_space, jpeg, budget),
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


def _columns(where: str, folder: Path, infos: bool) -> dict[str, Any]:
    """The columns of one episode by name, each in one chunk. Raises InputError for one that is missing."""
    table = _table(where, folder, infos)
    columns = dict(zip(table.column_names, table.columns, strict=True))
    for field in _REQUIRED:
        if field not in columns:
            raise InputError(f"{where}, {field}: missing")
    return columns


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
            raise InputError(f"{where}: {len(parts)} files of data in its folder, not one; fetch or write it again")
        part = parts[0]
        if part.suffix == ".parquet":
            table, _ = parquet.read(part, where, wanted)
        else:
            table = _ipc(part)
        parquet.refuse_extensions(where, table.schema)
        str(table.schema)  # raises an error where a name is no text
    except (InputError, MemoryError):
        raise
    except (pa.ArrowException, *parquet.DAMAGE) as error:
        reason = one_line(error)
        raise InputError(f"{where}: cannot be read: {reason}; fetch or write it again") from error
    if len(set(table.column_names)) < table.num_columns:
        raise InputError(f"{where}: two columns have one name; write it again")
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
        columns = {}
        members = _members(where, column, space)
        for key, member in space.spaces.items():
            columns[key] = _column(f"{where}/{key}", members[key], member, jpeg, budget)
        return columns
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
    members = {}
    for key in space.spaces:
        if key not in names:
            raise InputError(f"{where}/{key}: missing, though the space names it")
        members[key] = pc.struct_field(column, key)
    return members


def _rows(where: str, column: Any, space: Box) -> np.ndarray:
    """[N, *shape of the space] of a column of lists."""
    import pyarrow as pa
    import pyarrow.compute as pc

    is_list = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
    if not is_list:
        raise InputError(f"{where}: {column.type}, though the space is a Box")
    width = math.prod(space.shape)
    lengths = pc.list_value_length(column).to_numpy()
    wrong = lengths != width  # a null becomes NaN, and differs too
    if wrong.any():
        raise InputError(f"{where}: rows are not {width} numbers wide, as the space is")
    values = _numbers(where, pc.list_flatten(column))
    return values.reshape(len(column), *space.shape)


def _numbers(where: str, column: Any) -> np.ndarray:
    """[N] of a column of numbers or booleans."""
    import pyarrow as pa

    is_numeric = is_number(column.type) or pa.types.is_boolean(column.type)
    if not is_numeric:
        raise InputError(f"{where}: {column.type}, not numbers")
    if column.null_count:
        is_null = column.is_null().to_numpy()
        row = int(is_null.argmax())
        raise InputError(f"{where}: index {row} is null; give a number")
    return column.to_numpy()


def _says_labels(kind: Any) -> bool:
    """True if infos of this type have a member `labelled`."""
    import pyarrow as pa

    if not pa.types.is_struct(kind):
        return False
    names = [field.name for field in kind]
    return "labelled" in names


def _labelled(where: str, infos: Any) -> np.ndarray | None:
    """Flags of the known rewards, [T] or [T, 1] as Minari has them; None where the file has none."""
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
                rows = flat.to_numpy().reshape(len(values), -1)
                members[field.name] = _shaped(rows, field)
    return members


def _shaped(rows: np.ndarray, field: Any) -> np.ndarray:
    """[N, W] numbers in the shape that Minari notes in the metadata of the pyarrow.Field, where it fits."""
    metadata = field.metadata or {}
    noted = metadata.get(b"shape", b"")
    shape = [int(size) for size in noted.split(b",") if size.isdigit()]
    width = rows.shape[1]
    if math.prod(shape) != width:
        return rows
    return rows.reshape(-1, *shape)


def _promised_steps(where: str, path: Path) -> Any:
    try:
        metadata = json.loads(path.read_text())
        return metadata.get("total_steps")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        reason = one_line(error)
        raise InputError(f"{where}: metadata.json cannot be read: {reason}") from error
