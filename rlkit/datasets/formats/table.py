"""Tables: CSV (with a header) or Parquet, one row per step.

    episode            an integer or a name
    step               0, 1, 2, ... within the episode
    observation        a list per row; or observation_0 ... observation_{O-1}, a number each; or one number
    action             the same three ways; one column of integers called `action` means choices (discrete)
    reward             a number
    terminated         true/false or 1/0: the step led to a terminal state
    truncated          the same: a time limit cut the episode (optional)
    labelled           the same: the reward is known (optional); where it is not, it may be missing or NaN

Lists are Parquet lists; in CSV they are text such as "[0.1, 0.2]". Rows may come in any order: they are sorted by
episode and step. A last row of an episode whose action and reward are null (empty in CSV) is its final observation, and
its flags are null or false; an episode without such a row has no final observation. Other columns are left out, or read
as infos where they are numbers and infos are asked for. The environment is what --env says.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlkit.datasets.formats import table_columns
from rlkit.datasets.formats.table_columns import WIDE, Table
from rlkit.datasets.options import DataOptions
from rlkit.datasets.recording import Recording
from rlkit.datasets.untrusted import fields, parquet
from rlkit.datasets.untrusted.fields import Budget
from rlkit.types import InputError, one_line

_SINGLE = ("episode", "step", "reward", "terminated", "truncated", "labelled")
_OPTIONAL = ("truncated", "labelled")
_KNOWN = {*_SINGLE, "observation", "action"}
_FLAGS = {"true": 1, "1": 1, "1.0": 1, "false": 0, "0": 0, "0.0": 0}
_NEITHER = 2  # what a cell of a flag holds that is neither true nor false
_NULL = 3


@dataclass(frozen=True)
class _Order:
    """The rows sorted by episode and step. ``episode`` is in that order, ``rows`` leads back to the file's."""

    rows: np.ndarray  # [M]
    episode: np.ndarray  # [M] index of the episode
    names: list[Any]  # [E] as the file calls them
    last: np.ndarray  # [M] bool: the last row of its episode


def read(path: Path, *, options: DataOptions, infos: bool) -> Recording:
    """Read ``path`` (.csv or .parquet). options.env: the environment. infos: read other columns of numbers too.

    Raises InputError naming the line (CSV, the header being line 1) or row (Parquet, from 0), or the column.
    """
    # --- the columns, and the order of the rows ---
    fields.check_exists(path)
    budget = Budget(path.name)
    if path.suffix.lower() == ".csv":
        table = _csv(path, budget)
        unread = []
    else:
        table, unread = _parquet(path, infos, budget)
    unknown = _check_columns(table, unread)
    order = _order(table)

    # --- values, in the file's order ---
    observations = _observations(table)
    values, has_action = table_columns.matrix(table, "action")
    rewards, has_reward = table_columns.numbers(table, "reward")
    labelled = None
    if "labelled" in table.columns:
        labelled = _flags(table, "labelled", ~has_action)
        has_reward = has_reward | (has_action & ~labelled)
    final = _finals(table, order, has_action, has_reward)
    terminations = _flags(table, "terminated", final)
    truncations = _flags(table, "truncated", final)

    # --- steps and final observations, by episode ---
    is_final = final[order.rows]
    steps = order.rows[~is_final]
    episode_of_step = order.episode[~is_final]
    lengths = np.bincount(episode_of_step, minlength=len(order.names))
    if not lengths.all():
        empty = int(lengths.argmin())
        raise InputError(f"{path.name}: episode {order.names[empty]} has no step; remove it")
    has_final = np.zeros(len(lengths), bool)
    has_final[order.episode[is_final]] = True
    finals = np.zeros((len(lengths), *observations.shape[1:]), observations.dtype)
    final_rows = order.rows[is_final]
    finals[has_final] = observations[final_rows]

    # --- actions, and what else the table has ---
    notes: list[str] = []
    choices = values.ndim == 1 and values.dtype.kind in "iu"
    ambiguous = ""
    if values.ndim == 1 and not choices:
        ambiguous = _ambiguous(values[steps], has_final)
    infos_by_name = {}
    for name in unknown:
        if infos and table_columns.is_number(table.columns[name].type):
            column, _ = table_columns.numbers(table, name)
            infos_by_name[name] = column[steps]
        else:
            unread.append(name)
    if unread:
        notes.append(f"columns that were not read: {fields.listed(unread)}")
    if labelled is not None:
        labelled = labelled[steps]
    return Recording(
        name=path.name,
        observations=observations.take(steps, 0),
        actions=values[steps],
        rewards=rewards[steps],
        terminations=terminations[steps],
        truncations=truncations[steps],
        lengths=lengths,
        finals=finals,
        has_final=has_final,
        choices=choices,
        ambiguous=ambiguous,
        env_spec=options.env,
        infos=infos_by_name,
        notes=notes,
        labelled=labelled,
    )


def _ambiguous(actions: np.ndarray, has_final: np.ndarray) -> str:
    """Why single numbers may be choices, though they are floats: pandas writes integers so where a row has none."""
    is_whole = actions == np.floor(actions)
    if has_final.any() and is_whole.all():
        return "the actions are whole numbers written as floats, in a column with empty rows"
    return ""


def _observations(table: Table) -> np.ndarray:
    """[M, O] or [M] in the file's order. Raises InputError for a row without one."""
    observations, has_observation = table_columns.matrix(table, "observation")
    if not has_observation.all():
        row = int(has_observation.argmin())
        raise InputError(f"{table.at(row)}: observation is missing; every row needs one")
    return observations


def _csv(path: Path, budget: Budget) -> Table:
    import pyarrow as pa
    from pyarrow import csv as arrow

    budget.take(path.stat().st_size)
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            lines = csv.reader(stream)
            header = next(lines, [])
        column_types = {}
        for name in header:
            if WIDE.fullmatch(name):
                column_types[name] = pa.float64()
        # columns that may be read in more than one way come as text
        for name in _KNOWN:
            column_types[name] = pa.string()
        column_types["reward"] = pa.float64()
        convert_options = arrow.ConvertOptions(
            column_types=column_types,
            null_values=[""],
            strings_can_be_null=True,
        )
        read_options = arrow.ReadOptions(use_threads=False)  # so that an error names its row
        columns = arrow.read_csv(path, read_options=read_options, convert_options=convert_options)
    except (pa.ArrowException, csv.Error, OSError, UnicodeDecodeError) as error:
        reason = one_line(error)
        raise InputError(f"{path.name}: cannot be read as CSV ({reason}); correct it at that place") from error
    return _table(path, columns, 2, budget)


def _parquet(path: Path, infos: bool, budget: Budget) -> tuple[Table, list[str]]:
    """The table, and the names of the columns that were not read."""

    def wanted(field: Any) -> bool:
        if field.name in _KNOWN or WIDE.fullmatch(field.name):
            return True
        return infos and table_columns.is_number(field.type)

    columns, all_names = parquet.read(path, path.name, wanted)
    unread = [name for name in all_names if name not in columns.column_names]
    return _table(path, columns, 0, budget), unread


def _table(path: Path, columns: Any, first: int, budget: Budget) -> Table:
    """A Table of a pyarrow.Table. Raises InputError if it has no rows, has a name twice or is too big."""
    # What its columns take is known only now: they are put side by side as float64, then into the order of the steps.
    budget.take(2 * columns.nbytes)
    budget.plan(columns.nbytes // 8)
    by_name = {}
    twice = []
    for name, column in zip(columns.column_names, columns.columns, strict=True):
        if name in by_name:
            twice.append(name)
        by_name[name] = column
    if twice:
        raise InputError(f"{path.name}: there are two columns {min(twice)}; rename or remove one")
    if not columns.num_rows:
        raise InputError(f"{path.name}: has no rows; there is nothing to train on")
    return Table(path, by_name, columns.num_rows, first)


def _check_columns(table: Table, unread: list[str]) -> list[str]:
    """The columns that this layout does not know, besides those that are ``unread``. Raises InputError for those that
    it needs and lacks."""
    missing = []
    for name in _SINGLE:
        if name not in table.columns and name not in _OPTIONAL:
            missing.append(name)
    for base in ("observation", "action"):
        if base not in table.columns and f"{base}_0" not in table.columns:
            missing.append(base)
    if missing:
        names = ", ".join(missing)
        present = fields.listed([*table.columns, *unread])
        raise InputError(f"{table.path.name}: no column {names} (found: {present}); rename the columns")
    unknown = []
    for name in table.columns:
        if name not in _KNOWN and not WIDE.fullmatch(name):
            unknown.append(name)
    return unknown


def _order(table: Table) -> _Order:
    """Sort by episode and step, and check that the steps of every episode are 0, 1, 2, ..."""
    for name in ("episode", "step"):
        column = table.columns[name]
        if column.null_count:
            is_null = column.is_null().to_numpy()
            row = int(is_null.argmax())
            raise InputError(f"{table.at(row)}: {name} is missing; every row needs one")
    step = _steps(table)
    episode, names = _episodes(table)
    rows = np.lexsort((step, episode))
    episode = episode[rows]
    step = step[rows]
    goes_on = episode[1:] == episode[:-1]
    first = np.append(True, ~goes_on)
    last = np.append(~goes_on, True)
    position = np.arange(len(rows))
    start = np.maximum.accumulate(np.where(first, position, 0))
    expected = position - start
    wrong = step != expected
    if wrong.any():
        i = int(wrong.argmax())
        problem = f"step {expected[i]} is missing before {step[i]:g}"
        if not first[i] and step[i] == step[i - 1]:
            problem = f"step {int(step[i])} is there twice"
        row = int(rows[i])
        name = names[episode[i]]
        raise InputError(f"{table.at(row)}: episode {name}: {problem}; steps count from 0")
    return _Order(rows, episode, names, last)


def _steps(table: Table) -> np.ndarray:
    """[M] the number of each row's step in its episode, as stored. Raises InputError for fractions."""
    step, _ = table_columns.numbers(table, "step")
    if step.dtype.kind == "i":
        return step
    is_fraction = step != np.floor(step)
    if is_fraction.any():
        row = int(is_fraction.argmax())
        raise InputError(f"{table.at(row)}: step {step[row]} is not a whole number")
    return step


def _episodes(table: Table) -> tuple[np.ndarray, list[Any]]:
    """[M] the number of each row's episode, and the episodes' names, sorted."""
    names, codes = _distinct(table_columns.narrow(table.columns["episode"]))
    by_name = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names), np.int64)
    rank[by_name] = np.arange(len(names))
    sorted_names = [names[i] for i in by_name]
    return rank[codes], sorted_names


def _distinct(column: Any) -> tuple[list[Any], np.ndarray]:
    """The distinct values of a column, and [M] the index of each row's value; their number where a row has none."""
    coded = column.dictionary_encode().unify_dictionaries()
    values = coded.chunk(0).dictionary.to_pylist()
    null = len(values)
    parts = []
    for chunk in coded.chunks:
        indices = chunk.indices.fill_null(null)
        parts.append(indices.to_numpy())
    return values, np.concatenate(parts)


def _finals(table: Table, order: _Order, has_action: np.ndarray, has_reward: np.ndarray) -> np.ndarray:
    """[M] bool in the file's order: the row is a final observation."""
    has_one = has_action != has_reward
    if has_one.any():
        row = int(has_one.argmax())
        given = "reward"
        absent = "action"
        if has_action[row]:
            given = "action"
            absent = "reward"
        cure = "give both, or neither for a final observation"
        raise InputError(f"{table.at(row)}: {absent} is missing and {given} is not; {cure}")
    final = ~has_action
    early = final[order.rows] & ~order.last
    if early.any():
        i = int(early.argmax())
        row = int(order.rows[i])
        name = order.names[order.episode[i]]
        raise InputError(
            f"{table.at(row)}: episode {name} goes on after this row without action and reward; only the last row of "
            "an episode may be a final observation"
        )
    return final


def _flags(table: Table, name: str, final: np.ndarray) -> np.ndarray:
    """[M] bool. An absent column is all false; rows of final observations must not be flagged."""
    if name not in table.columns:
        return np.zeros(table.rows, bool)
    column = table.columns[name]
    codes = _flag_codes(column)
    missing = (codes == _NULL) & ~final
    bad = (codes == _NEITHER) | missing
    if bad.any():
        row = int(bad.argmax())
        shown = "missing"
        if not missing[row]:
            shown = repr(column[row].as_py())
        raise InputError(f"{table.at(row)}: {name} is {shown}; expected true or false, or 1 or 0")
    flagged = codes == 1
    late = flagged & final
    if late.any():
        row = int(late.argmax())
        raise InputError(f"{table.at(row)}: {name} is set on a final observation; set it on the step that led to it")
    return flagged


def _flag_codes(column: Any) -> np.ndarray:
    """[M] int8: 0 false, 1 true, _NEITHER or _NULL."""
    values, indices = _distinct(column)
    codes = []
    for value in values:
        text = str(value).strip().lower()
        code = _FLAGS.get(text, _NEITHER)
        codes.append(code)
    codes.append(_NULL)
    return np.array(codes, np.int8)[indices]
