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
from rlkit.types import InputError

_SINGLE = ("episode", "step", "reward", "terminated", "truncated", "labelled")
_OPTIONAL = ("truncated", "labelled")
_KNOWN = {*_SINGLE, "observation", "action"}
_FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


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
    fields.check_exists(path)
    budget = Budget(path.name)
    table, skipped = (_csv(path, budget), []) if path.suffix.lower() == ".csv" else _parquet(path, infos, budget)
    unknown = _check_columns(table, skipped)
    order = _order(table)
    observations, seen = columns.matrix(table, "observation")
    if not seen.all():
        raise InputError(f"{table.at(int(seen.argmin()))}: observation is missing; every row needs one")
    values, acted = columns.matrix(table, "action")
    rewards, rewarded = columns.numbers(table, "reward")
    labelled = _flags(table, "labelled", ~acted) if "labelled" in table.columns else None
    final = _finals(table, order, acted, rewarded if labelled is None else rewarded | (acted & ~labelled))
    terminations, truncations = (_flags(table, name, final) for name in ("terminated", "truncated"))
    steps, finals = order.rows[~final[order.rows]], order.rows[final[order.rows]]
    lengths = np.bincount(order.episode[~final[order.rows]], minlength=len(order.names))
    if not lengths.all():
        raise InputError(f"{path.name}: episode {order.names[int(lengths.argmin())]} has no step; remove it")
    has_final = np.zeros(len(lengths), bool)
    has_final[order.episode[final[order.rows]]] = True
    last = np.zeros((len(lengths), *observations.shape[1:]), observations.dtype)
    last[has_final] = observations[finals]
    notes: list[str] = []
    choices = names.choices(env) if values.ndim == 1 else None
    actions, space = fields.actions(path, values[steps], choices=choices, discrete=None, notes=notes)
    numeric = [name for name in unknown if infos and columns.is_number(table.columns[name].type)]
    if unread := [*skipped, *(name for name in unknown if name not in numeric)]:
        notes.append(f"columns that were not read: {fields.listed(unread)}")
    return Recording(
        name=path.name,
        observations=observations.take(steps, 0),
        actions=actions,
        rewards=rewards[steps],
        terminations=terminations[steps],
        truncations=truncations[steps],
        lengths=lengths,
        finals=last,
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
        raise InputError(f"{path.name}: cannot be read as CSV ({fields.one_line(error)}); correct it there") from error
    return _table(path, table, 2, budget)


def _parquet(path: Path, infos: bool, budget: Budget) -> tuple[Table, list[str]]:
    def wanted(field: Any) -> bool:
        return field.name in _KNOWN or bool(WIDE.fullmatch(field.name)) or (infos and columns.is_number(field.type))

    table, found = parquet.read(path, path.name, budget, wanted)
    return _table(path, table, 0, budget), [name for name in found if name not in table.column_names]


def _table(path: Path, table: Any, first: int, budget: Budget) -> Table:
    # what its columns take is known only now: they are put side by side as float64, then into the order of the steps
    budget.take(2 * table.nbytes)
    budget.plan(table.nbytes // 8)
    found = table.column_names
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise InputError(f"{path.name}: there are two columns {twice[0]}; rename or remove one")
    if not table.num_rows:
        raise InputError(f"{path.name}: has no rows; there is nothing to train on")
    return Table(path, dict(zip(found, table.columns, strict=True)), table.num_rows, first)


def _check_columns(table: Table, skipped: list[str]) -> list[str]:
    """The columns that this layout does not know, besides those that were ``skipped``. Raises InputError for those that
    it needs and lacks."""
    there = set(table.columns)
    missing = [name for name in _SINGLE if name not in there and name not in _OPTIONAL]
    missing += [base for base in ("observation", "action") if not {base, f"{base}_0"} & there]
    if missing:
        raise InputError(
            f"{table.path.name}: no column {', '.join(missing)} (found: "
            f"{fields.listed([*table.columns, *skipped])}); rename the columns"
        )
    return [name for name in table.columns if name not in _KNOWN and not WIDE.fullmatch(name)]


def _order(table: Table) -> _Order:
    """Sort by episode and step, and check that the steps of every episode are 0, 1, 2, ..."""
    for name in ("episode", "step"):
        if table.columns[name].null_count:
            row = int(table.columns[name].is_null().to_numpy().argmax())
            raise InputError(f"{table.at(row)}: {name} is missing; every row needs one")
    step, _ = columns.numbers(table, "step")
    if step.dtype.kind != "i" and (bad := step != np.floor(step)).any():
        raise InputError(f"{table.at(int(bad.argmax()))}: step {step[bad.argmax()]} is not a whole number")
    coded = columns.narrow(table.columns["episode"]).dictionary_encode().unify_dictionaries()
    found = coded.chunk(0).dictionary.to_pylist()
    by_name = sorted(range(len(found)), key=found.__getitem__)
    rank = np.empty(len(found), np.int64)
    rank[by_name] = np.arange(len(found))
    episode = rank[np.concatenate([chunk.indices.to_numpy() for chunk in coded.chunks])]
    rows = np.lexsort((step, episode))
    episode, step = episode[rows], step[rows]
    first = np.append(True, episode[1:] != episode[:-1])
    place = np.arange(len(rows))
    expected = place - np.maximum.accumulate(np.where(first, place, 0))
    if (wrong := step != expected).any():
        i = int(wrong.argmax())
        twice = not first[i] and step[i] == step[i - 1]
        told = f"step {int(step[i])} is there twice" if twice else f"step {expected[i]} is missing before {step[i]:g}"
        raise InputError(f"{table.at(int(rows[i]))}: episode {found[by_name[episode[i]]]}: {told}; steps count from 0")
    return _Order(rows, episode, [found[i] for i in by_name], np.append(first[1:], True))


def _finals(table: Table, order: _Order, acted: np.ndarray, rewarded: np.ndarray) -> np.ndarray:
    """[M] bool in the file's order: the row is a final observation."""
    if (half := acted != rewarded).any():
        row = int(half.argmax())
        there, lacks = ("action", "reward") if acted[row] else ("reward", "action")
        raise InputError(
            f"{table.at(row)}: {lacks} is missing and {there} is not; give both, or neither for a final observation"
        )
    final = ~acted
    if (early := final[order.rows] & ~order.last).any():
        i = int(early.argmax())
        raise InputError(
            f"{table.at(int(order.rows[i]))}: episode {order.names[order.episode[i]]} goes on after this row without "
            "action and reward; only the last row of an episode may be a final observation"
        )
    return final


def _flags(table: Table, name: str, final: np.ndarray) -> np.ndarray:
    """[M] bool. An absent column is all false; rows of final observations must not be flagged."""
    if name not in table.columns:
        return np.zeros(table.rows, bool)
    coded = table.columns[name].dictionary_encode().unify_dictionaries()
    values = [_FLAGS.get(str(value).strip().lower(), 2) for value in coded.chunk(0).dictionary.to_pylist()]
    codes = np.concatenate([chunk.indices.fill_null(len(values)).to_numpy() for chunk in coded.chunks])
    result = np.array([*values, 3], np.int8)[codes]
    if (bad := (result == 2) | ((result == 3) & ~final)).any():
        row = int(bad.argmax())
        value = table.columns[name][row].as_py()
        told = "missing" if value is None else repr(value)
        raise InputError(f"{table.at(row)}: {name} is {told}; expected true or false, or 1 or 0")
    if (late := (result == 1) & final).any():
        raise InputError(
            f"{table.at(int(late.argmax()))}: {name} is set on a final observation; set it on the step that led there"
        )
    return result == 1
