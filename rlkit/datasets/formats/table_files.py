"""The files of a table (see table.py) as one Table of Arrow columns: CSV or Parquet, one file or several."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlkit.datasets.formats import csv_file, table_columns
from rlkit.datasets.formats.table_columns import FileColumns, Part, Table
from rlkit.datasets.formats.table_roles import FindRoles, Roles
from rlkit.datasets.untrusted import fields, parquet
from rlkit.datasets.untrusted.fields import Budget
from rlkit.types import InputError, one_line

PARQUET = ".parquet"
SUFFIXES = (*csv_file.SUFFIXES, PARQUET)


def suffix(path: Path) -> str | None:
    """The suffix by which a file is known as a table's; None for any other file."""
    for known in SUFFIXES:
        if path.name.lower().endswith(known):
            return known
    return None


def read(name: str, paths: Sequence[Path], find_roles: FindRoles, infos: bool) -> tuple[Table, Roles]:
    """The rows of all ``paths``, and the roles of their columns.

    Args:
        name: of the dataset, for messages. find_roles: gives the roles of a file's columns by their names. infos: read
        other columns of numbers too.

    Raises:
        InputError: a file is damaged or too big, all are without rows, or two have different columns. MemoryError.
    """
    budget = Budget(name)
    files: list[FileColumns] = []
    parts = []
    rows = 0
    for path in paths:
        fields.check_exists(path)
        reader = _parquet if suffix(path) == PARQUET else csv_file.read
        file = reader(path, find_roles, infos, budget)
        # What its columns take is known only now: they are put side by side as float64, then in the order of the steps.
        budget.take(2 * file.columns.nbytes)
        budget.plan(file.columns.nbytes // 8)
        parts.append(Part(path.name, rows, file.first))
        rows += file.columns.num_rows
        files.append(file)
    if not rows:
        raise InputError(f"{name}: has no rows; there is nothing to train on")
    roles = files[0].roles
    for path, file in zip(paths, files, strict=True):
        _check_same(path, roles, file.roles)
    columns = _joined(name, [file.columns for file in files])
    notes = _distinct(note for file in files for note in (*file.notes, *file.roles.notes))
    unread = _distinct(column for file in files for column in file.unread)
    return Table(name, columns, rows, tuple(parts), notes, unread), roles


def _distinct(values: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _check_same(path: Path, first: Roles, other: Roles) -> None:
    """Raises InputError where a part has other columns than the first part."""
    if dataclasses.replace(first, notes=()) == dataclasses.replace(other, notes=()):
        return
    mine = fields.listed(first.columns())
    theirs = fields.listed(other.columns())
    problem = f"its columns are {theirs}, and those of the first part {mine}; all parts of a table have the same"
    raise InputError(f"{path.name}: {problem}")


def _joined(name: str, tables: list[Any]) -> dict[str, Any]:
    """Name -> column of all rows, of the columns that every part has. Integers in one part and floats in another
    become floats."""
    import pyarrow as pa

    first, *others = tables
    if not others:
        return dict(zip(first.column_names, first.columns, strict=True))
    in_all = set(first.column_names).intersection(*(table.column_names for table in others))
    common = [column for column in first.column_names if column in in_all]
    try:
        joined = pa.concat_tables([table.select(common) for table in tables], promote_options="permissive")
    except pa.ArrowException as error:
        problem = f"its parts do not go together ({one_line(error)}); write each column with one type"
        raise InputError(f"{name}: {problem}") from error
    return dict(zip(common, joined.columns, strict=True))


def _parquet(path: Path, find_roles: FindRoles, infos: bool, budget: Budget) -> FileColumns:
    names = parquet.names(path, path.name)
    roles = find_roles(path.name, names)
    wanted = set(roles.columns())

    def is_wanted(field: Any) -> bool:
        return field.name in wanted or (infos and table_columns.is_number(field.type))

    columns, _ = parquet.read(path, path.name, is_wanted)
    read = set(columns.column_names)
    unread = [name for name in names if name not in read]
    return FileColumns(columns, roles, 0, (), tuple(unread))
