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

from rlkit.datasets import columns, fields, names, parquet
from rlkit.datasets.columns import WIDE, Table
from rlkit.datasets.fields import Budget
from rlkit.datasets.recording import Recording
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


def read(path: Path, *, env: str | None, infos: bool) -> Recording:
    """Read ``path`` (.csv or .parquet). env: an environment id. infos: read other columns of numbers too.

    Raises InputError naming the line (CSV, the header being line 1) or row (Parquet, from 0), or the column.
    """
    # --- the columns, and the order of the rows ---
    fields.check_exists(path)
    budget = Budget(path.name)
    table, skipped = (_csv(path, budget), []) if path.suffix.lower() == ".csv" else _parquet(path, infos, budget)
    unknown = _check_columns(table, skipped)
    order = _order(table)

    # --- values, in the file's order ---
    observations, observed = columns.matrix(table, "observation")
    if not observed.all():
        row = int(observed.argmin())
        raise InputError(f"{table.at(row)}: observation is missing; every row needs one")
    values, acted = columns.matrix(table, "action")
    rewards, rewarded = columns.numbers(table, "reward")
    labelled = None
    if "labelled" in table.columns:
        labelled = _flags(table, "labelled", ~acted)
        rewarded = rewarded | (acted & ~labelled)
    final = _finals(table, order, acted, rewarded)
    terminations = _flags(table, "terminated", final)
    truncations = _flags(table, "truncated", final)

    # --- steps and final observations, by episode ---
    is_final = final[order.rows]
    steps = order.rows[~is_final]
    lengths = np.bincount(order.episode[~is_final], minlength=len(order.names))
    if not lengths.all():
        empty = order.names[int(lengths.argmin())]
        raise InputError(f"{path.name}: episode {empty} has no step; remove it")
    has_final = np.zeros(len(lengths), bool)
    has_final[order.episode[is_final]] = True
    finals = np.zeros((len(lengths), *observations.shape[1:]), observations.dtype)
    finals[has_final] = observations[order.rows[is_final]]

    # --- actions, and what else the table has ---
    notes: list[str] = []
    choices = names.choices(env) if values.ndim == 1 else None
    actions, space = fields.actions(path, values[steps], choices=choices, discrete=None, notes=notes)
    numeric = [name for name in unknown if infos and columns.is_number(table.columns[name].type)]
    unread = skipped + [name for name in unknown if name not in numeric]
    if unread:
        notes.append(f"columns that were not read: {fields.listed(unread)}")
    return Recording(
        name=path.name,
        observations=observations.take(steps, 0),
        actions=actions,
        rewards=rewards[steps],
        terminations=terminations[steps],
        truncations=truncations[steps],
        lengths=lengths,
        finals=finals,
        has_final=has_final,
        action_space=space,
        env_spec=env,
        infos={name: columns.numbers(table, name)[0][steps] for name in numeric},
        notes=notes,
        labelled=None if labelled is None else labelled[steps],
    )


def _csv(path: Path, budget: Budget) -> Table:
    import pyarrow as pa
    from pyarrow import csv as arrow

    budget.take(path.stat().st_size)
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            header = next(csv.reader(stream), [])
        # Columns that may be read in more than one way come as text; one thread, so that an error tells its row.
        text = {name: pa.string() for name in (*_SINGLE, "observation", "action") if name != "reward"}
        numbers = {name: pa.float64() for name in header if name == "reward" or WIDE.fullmatch(name)}
        convert = arrow.ConvertOptions(column_types=text | numbers, null_values=[""], strings_can_be_null=True)
        read_options = arrow.ReadOptions(use_threads=False)
        table = arrow.read_csv(path, read_options=read_options, convert_options=convert)
    except (pa.ArrowException, csv.Error, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name}: cannot be read as CSV ({one_line(error)}); correct it there") from error
    return _table(path, table, 2, budget)


def _parquet(path: Path, infos: bool, budget: Budget) -> tuple[Table, list[str]]:
    """The table, and the names of the columns that were not read."""

    def wanted(field: Any) -> bool:
        if field.name in _KNOWN or WIDE.fullmatch(field.name):
            return True
        return infos and columns.is_number(field.type)

    table, all_names = parquet.read(path, path.name, wanted)
    return _table(path, table, 0, budget), [name for name in all_names if name not in table.column_names]


def _table(path: Path, table: Any, first: int, budget: Budget) -> Table:
    # what its columns take is known only now: they are put side by side as float64, then into the order of the steps
    budget.take(2 * table.nbytes)
    budget.plan(table.nbytes // 8)
    column_names = table.column_names
    twice = sorted({name for name in column_names if column_names.count(name) > 1})
    if twice:
        raise InputError(f"{path.name}: there are two columns {twice[0]}; rename or remove one")
    if not table.num_rows:
        raise InputError(f"{path.name}: has no rows; there is nothing to train on")
    return Table(path, dict(zip(column_names, table.columns, strict=True)), table.num_rows, first)


def _check_columns(table: Table, skipped: list[str]) -> list[str]:
    """The columns that this layout does not know, besides those that were ``skipped``. Raises InputError for those that
    it needs and lacks."""
    missing = [name for name in _SINGLE if name not in table.columns and name not in _OPTIONAL]
    for base in ("observation", "action"):
        if base not in table.columns and f"{base}_0" not in table.columns:
            missing.append(base)
    if missing:
        present = fields.listed([*table.columns, *skipped])
        raise InputError(f"{table.path.name}: no column {', '.join(missing)} (found: {present}); rename the columns")
    return [name for name in table.columns if name not in _KNOWN and not WIDE.fullmatch(name)]


def _order(table: Table) -> _Order:
    """Sort by episode and step, and check that the steps of every episode are 0, 1, 2, ..."""
    for name in ("episode", "step"):
        column = table.columns[name]
        if column.null_count:
            row = int(column.is_null().to_numpy().argmax())
            raise InputError(f"{table.at(row)}: {name} is missing; every row needs one")
    step, _ = columns.numbers(table, "step")
    if step.dtype.kind != "i":
        fraction = step != np.floor(step)
        if fraction.any():
            row = int(fraction.argmax())
            raise InputError(f"{table.at(row)}: step {step[row]} is not a whole number")
    episode, episode_names = _episodes(table)
    rows = np.lexsort((step, episode))
    episode = episode[rows]
    step = step[rows]
    first = np.append(True, episode[1:] != episode[:-1])
    place = np.arange(len(rows))
    start = np.maximum.accumulate(np.where(first, place, 0))
    expected = place - start
    if (step != expected).any():
        i = int((step != expected).argmax())
        problem = f"step {expected[i]} is missing before {step[i]:g}"
        if not first[i] and step[i] == step[i - 1]:
            problem = f"step {int(step[i])} is there twice"
        name = episode_names[episode[i]]
        raise InputError(f"{table.at(int(rows[i]))}: episode {name}: {problem}; steps count from 0")
    return _Order(rows, episode, episode_names, np.append(first[1:], True))


def _episodes(table: Table) -> tuple[np.ndarray, list[Any]]:
    """[M] the number of each row's episode, and the episodes' names, sorted."""
    coded = columns.narrow(table.columns["episode"]).dictionary_encode().unify_dictionaries()
    unsorted = coded.chunk(0).dictionary.to_pylist()
    by_name = sorted(range(len(unsorted)), key=unsorted.__getitem__)
    rank = np.empty(len(unsorted), np.int64)
    rank[by_name] = np.arange(len(unsorted))
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in coded.chunks])
    return rank[codes], [unsorted[i] for i in by_name]


def _finals(table: Table, order: _Order, acted: np.ndarray, rewarded: np.ndarray) -> np.ndarray:
    """[M] bool in the file's order: the row is a final observation."""
    half = acted != rewarded
    if half.any():
        row = int(half.argmax())
        given, lacks = ("action", "reward") if acted[row] else ("reward", "action")
        cure = "give both, or neither for a final observation"
        raise InputError(f"{table.at(row)}: {lacks} is missing and {given} is not; {cure}")
    final = ~acted
    early = final[order.rows] & ~order.last
    if early.any():
        i = int(early.argmax())
        where = f"{table.at(int(order.rows[i]))}: episode {order.names[order.episode[i]]}"
        raise InputError(
            f"{where} goes on after this row without action and reward; only the last row of an episode may be a final "
            "observation"
        )
    return final


def _flags(table: Table, name: str, final: np.ndarray) -> np.ndarray:
    """[M] bool. An absent column is all false; rows of final observations must not be flagged."""
    if name not in table.columns:
        return np.zeros(table.rows, bool)
    codes = _flag_codes(table.columns[name])
    bad = (codes == _NEITHER) | ((codes == _NULL) & ~final)
    if bad.any():
        row = int(bad.argmax())
        value = table.columns[name][row].as_py()
        shown = "missing" if value is None else repr(value)
        raise InputError(f"{table.at(row)}: {name} is {shown}; expected true or false, or 1 or 0")
    late = (codes == 1) & final
    if late.any():
        row = int(late.argmax())
        raise InputError(f"{table.at(row)}: {name} is set on a final observation; set it on the step that led there")
    return codes == 1


def _flag_codes(column: Any) -> np.ndarray:
    """[M] int8: 0 false, 1 true, or one of the two below."""
    coded = column.dictionary_encode().unify_dictionaries()
    meanings = []
    for value in coded.chunk(0).dictionary.to_pylist():
        text = str(value).strip().lower()
        meanings.append(_FLAGS.get(text, _NEITHER))
    null = len(meanings)
    codes = np.concatenate([chunk.indices.fill_null(null).to_numpy() for chunk in coded.chunks])
    return np.array([*meanings, _NULL], np.int8)[codes]
