"""The order of a table's rows: by episode, and in each by step, by time, or as they stand in the file."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlkit.datasets.formats import table_columns, table_recoding
from rlkit.datasets.formats.table_columns import Table
from rlkit.datasets.formats.table_roles import Roles
from rlkit.types import InputError

_SECOND = 1e6  # microseconds


@dataclass(frozen=True)
class Order:
    """The rows sorted by episode and step. ``episode`` is in that order, ``rows`` leads back to the table's."""

    rows: np.ndarray  # [M]
    episode: np.ndarray  # [M] index of the episode
    names: list[Any]  # [E] as the table calls them
    first: np.ndarray  # [M] bool: the first row of its episode
    last: np.ndarray  # [M] bool: the last one


def find(table: Table, roles: Roles, notes: list[str]) -> Order:
    """Sort by episode and step.

    Steps count 0, 1, 2, ... in every episode. Where the user named their column, they may also be times or any other
    numbers, no two of an episode the same; where the user said that there is none, the rows are in order.

    Raises InputError that names the row. ``notes`` gets a sentence where steps do not count.
    """
    _refuse_missing(table, roles.episode)
    episode, names = _episodes(table, roles.episode)
    if roles.step is None:
        rows = np.argsort(episode, kind="stable")
        order = _order(rows, episode[rows], names)
        _refuse_crossing(table, order)
        notes.append("the rows of each episode were taken in the order in which they stand")
        return order
    _refuse_missing(table, roles.step)
    step, is_time = _steps(table, roles)
    rows = np.lexsort((step, episode))
    order = _order(rows, episode[rows], names)
    _check_steps(table, roles, order, step[rows], is_time, notes)
    return order


def _order(rows: np.ndarray, episode: np.ndarray, names: list[Any]) -> Order:
    goes_on = episode[1:] == episode[:-1]
    first = np.append(True, ~goes_on)
    last = np.append(~goes_on, True)
    return Order(rows, episode, names, first, last)


def _refuse_missing(table: Table, name: str) -> None:
    """Raises InputError for a row without a value in the column ``name``."""
    column = table.columns[name]
    if column.null_count:
        is_null = column.is_null().to_numpy()
        row = int(is_null.argmax())
        raise InputError(f"{table.at(row)}: {name} is missing; every row needs one")


def _refuse_crossing(table: Table, order: Order) -> None:
    """Raises InputError where an episode goes on in another part: the order of the parts is not known."""
    part = table.part_of_row()[order.rows]
    crosses = (part[1:] != part[:-1]) & ~order.first[1:]
    if crosses.any():
        i = int(crosses.argmax()) + 1
        name = order.names[order.episode[i]]
        raise InputError(
            f"{table.at(int(order.rows[i]))}: episode {name} began in another part, and nothing tells the order of its "
            "rows; name a column of numbers or times with --columns.step"
        )


def _check_steps(table: Table, roles: Roles, order: Order, step: np.ndarray, is_time: bool, notes: list[str]) -> None:
    """Raises InputError where steps, which are in order, do not count from 0, or in a column that the user named are
    there twice."""
    position = np.arange(len(step))
    start = np.maximum.accumulate(np.where(order.first, position, 0))
    expected = position - start
    wrong = step != expected
    if not wrong.any():
        return
    told = "step" in roles.told
    twice = np.append(False, step[1:] == step[:-1]) & ~order.first
    if told:
        wrong = twice
    if wrong.any():
        i = int(wrong.argmax())
        row = int(order.rows[i])
        problem = f"step {expected[i]} is missing before {step[i]:g}; steps count from 0"
        if twice[i]:
            shown = table.columns[roles.step][row].as_py()
            problem = f"{roles.step} {shown} is there twice"
        elif not told:
            problem += f" (with --columns.step {roles.step} any numbers or times will do)"
        name = order.names[order.episode[i]]
        raise InputError(f"{table.at(row)}: episode {name}: {problem}")
    notes.append(_spacing(roles.step, order, step, is_time))


def _spacing(name: str, order: Order, step: np.ndarray, is_time: bool) -> str:
    """A sentence on how far apart the steps of a column of times or numbers are."""
    apart = np.diff(step)[~order.first[1:]]
    sentence = f"rows are ordered by {name}"
    if not apart.size:
        return sentence
    unit = ""
    if is_time:
        apart = apart / _SECOND
        unit = " s"
    least = apart.min()
    most = apart.max()
    if most - least <= 1e-6 * most:
        return f"{sentence}, whose values are {least:g}{unit} apart"
    middle = np.median(apart)
    return f"{sentence}, whose values are {least:g} to {most:g}{unit} apart ({middle:g} as a rule)"


def _steps(table: Table, roles: Roles) -> tuple[np.ndarray, bool]:
    """[M] where each row belongs in its episode, and whether that is a time, in microseconds. Raises InputError for
    fractions, unless the user named the column."""
    name = roles.step
    told = "step" in roles.told
    column = table.columns[name]
    if not table_columns.is_number(table_columns.narrow(column).type):
        if told:
            return _times(table, name), True
        row = table_columns.first_without(column, table_columns.is_float)
        cell = str(column[row].as_py())[:40]
        expected = f"expected a number: 0, 1, 2, ... (--columns.step {name} takes times too)"
        raise InputError(f"{table.at(row)}: {name} is {cell!r}; {expected}")
    step, has_step = table_columns.numbers(table, name)
    if not has_step.all():
        row = int(has_step.argmin())
        raise InputError(f"{table.at(row)}: {name} is missing; every row needs one")
    if step.dtype.kind in "iu" or told:
        return step, False
    is_fraction = step != np.floor(step)
    if is_fraction.any():
        row = int(is_fraction.argmax())
        raise InputError(
            f"{table.at(row)}: {name} {step[row]} is not a whole number; --columns.step {name} takes it as a time"
        )
    return step, False


def _times(table: Table, name: str) -> np.ndarray:
    """[M] microseconds of a column of dates or times, which may be text such as 2026-11-27 14:05. Raises InputError."""
    import pyarrow as pa

    column = table.columns[name]
    kinds = [pa.timestamp("us"), pa.timestamp("us", tz="UTC")]  # text may end with a zone
    if pa.types.is_duration(column.type):
        kinds = [pa.duration("us")]
    if pa.types.is_time(column.type):
        kinds = [pa.time64("us")]
    for kind in kinds:
        try:
            return column.cast(kind).cast(pa.int64()).to_numpy()
        except pa.ArrowException:
            continue
    row = table_columns.first_without(column, _is_step)
    shown = str(column[row].as_py())[:40]
    expected = "expected a number, or a time such as 2026-11-27 14:05 (--columns.step none: the rows are in order)"
    told = table_recoding.cure_of_times(name, column.to_pylist())
    raise InputError(f"{table.at(row)}: {name} is {shown!r}; {expected}{told}")


def _is_step(text: Any) -> bool:
    """Whether a cell holds a number or a time."""
    for reads in (float, datetime.datetime.fromisoformat):
        try:
            reads(text)
        except (TypeError, ValueError):
            continue
        return True
    return False


def _episodes(table: Table, name: str) -> tuple[np.ndarray, list[Any]]:
    """[M] the number of each row's episode, and the episodes' names, sorted.

    Names that are text are compared as they are written: 0017 is not 17, and an id of twenty digits keeps them all."""
    names, codes = distinct(_without_blanks(table.columns[name]))
    are_counts = all(isinstance(name, str) and name.isascii() and name.isdigit() for name in names)
    by_name = sorted(range(len(names)), key=lambda i: (int(names[i]), names[i]) if are_counts else names[i])
    rank = np.empty(len(names), np.int64)
    rank[by_name] = np.arange(len(names))
    sorted_names = [names[i] for i in by_name]
    return rank[codes], sorted_names


def _without_blanks(column: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return pc.utf8_trim_whitespace(column) if is_text else column


def distinct(column: Any) -> tuple[list[Any], np.ndarray]:
    """The distinct values of a column, and [M] the index of each row's value; their number where a row has none."""
    coded = column.dictionary_encode().unify_dictionaries()
    values = coded.chunk(0).dictionary.to_pylist()
    null = len(values)
    parts = []
    for chunk in coded.chunks:
        indices = chunk.indices.fill_null(null)
        parts.append(indices.to_numpy())
    return values, np.concatenate(parts)
