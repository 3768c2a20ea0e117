"""Tables: CSV or Parquet, one row per step, in one file or several.

    episode            an integer or a name
    step               0, 1, 2, ... within the episode
    observation        a list per row; or observation_0 ... observation_{O-1}, a number each; or one number
    action             the same three ways; one column of integers called `action` means choices (discrete)
    reward             a number
    terminated         true/false, yes/no or 1/0: the step led to a terminal state
    truncated          the same: a time limit cut the episode (optional)
    labelled           the same: the reward is known (optional); where it is not, it may be missing
    next_observation   as observation (optional): what the step led to

--columns names others (table_roles.py), and then the step may be a time, or none (table_order.py). Lists are Parquet
lists; in CSV they are text such as "[0.1, 0.2]". Rows may come in any order: they are sorted by episode and step. A
last row of an episode whose action and reward are missing (empty, NA, NaN) is its final observation, and its flags are
missing or false; an episode without such a row, and without a next_observation in its last row, has no final
observation. Other columns are left out, or read as infos where they are numbers and infos are asked for. The
environment is what --env says. LeRobot's Parquet files are tables with names of their own (lerobot.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlkit.datasets.episodes import Names
from rlkit.datasets.formats import csv_dialect, lerobot, table_columns, table_files, table_order, table_roles
from rlkit.datasets.formats.table_columns import Column, Table
from rlkit.datasets.formats.table_order import Order
from rlkit.datasets.formats.table_roles import Roles
from rlkit.datasets.options import DataOptions
from rlkit.datasets.recording import Recording
from rlkit.datasets.untrusted import fields
from rlkit.types import InputError

_FLAGS = {"true": 1, "1": 1, "1.0": 1, "yes": 1, "false": 0, "0": 0, "0.0": 0, "no": 0}
_NEITHER = 2  # what a cell of a flag holds that is neither true nor false
_NULL = 3
_ROUNDING = 1e-5  # relative difference of two numbers that are the same but for how they were written


def read(
    path: Path,
    *,
    options: DataOptions,
    infos: bool,
    name: str | None = None,
    parts: Sequence[Path] = (),
    info: Path | None = None,
) -> Recording:
    """Read a table.

    Args:
        path: a file (.csv or .parquet), or what stands for several. infos: read other columns of numbers too. name: of
        the dataset; the file's if not given. parts: the files, if they are several. info: LeRobot's meta/info.json.

    Raises:
        InputError: names the line (CSV, counted as an editor does) or row (Parquet, from 0), or the column.
    """
    # --- the columns, and the order of the rows ---
    name = name or path.name

    def find_roles(file: str, header: Sequence[str]) -> Roles:
        if lerobot.is_frames(header):
            return _lerobot_roles(file, header, options)
        return table_roles.find(file, header, options.columns)

    table, roles = table_files.read(name, parts or (path,), find_roles, infos)
    described = {}
    if info is not None and roles.is_lerobot:
        described = lerobot.read_info(info)
        if path.is_dir():
            lerobot.check_frames(name, described, table.rows)
    notes = list(table.notes)
    order = table_order.find(table, roles, notes)

    # --- values, in the files' order ---
    observations = _observations(table, roles)
    values, has_action = table_columns.matrix(table, roles.action, "action" in roles.numbered)
    rewards, has_reward, labelled = _rewards(table, roles, has_action, notes)
    final = _finals(table, order, has_action, has_reward)
    terminations = _flags(table, roles.terminated, final, notes)
    truncations = _flags(table, roles.truncated, final, notes)

    # --- steps and final observations, by episode ---
    is_final = final[order.rows]
    steps = order.rows[~is_final]
    lengths = np.bincount(order.episode[~is_final], minlength=len(order.names))
    if not lengths.all():
        empty = int(lengths.argmin())
        raise InputError(f"{name}: episode {order.names[empty]} has no step; remove it")
    finals, has_final = _final_observations(table, roles, order, observations, is_final)

    # --- what else the table has ---
    if table.unread:
        notes.append(f"columns that were not read: {fields.listed(table.unread)}")
    choices, ambiguous = _meaning(roles, values, has_action)
    actions = values[steps]
    return Recording(
        name=name,
        observations=observations.take(steps, 0),
        actions=actions,
        rewards=rewards[steps],
        terminations=terminations[steps],
        truncations=truncations[steps],
        lengths=lengths,
        finals=finals,
        has_final=has_final,
        env_spec=options.env,
        infos=_infos(table, roles, steps),
        notes=notes,
        labelled=None if labelled is None else labelled[steps],
        names=_names(roles, observations, actions, described),
        choices=choices,
        ambiguous=ambiguous,
    )


def _lerobot_roles(file: str, header: Sequence[str], options: DataOptions) -> Roles:
    """Roles of LeRobot's columns: those that the user did not name are as if they had the usual names."""
    told = options.columns
    columns = lerobot.columns(file, header, told)
    roles = table_roles.find(file, header, columns)
    by_user = {field.name for field in dataclasses.fields(told) if getattr(told, field.name)}
    notes = lerobot.notes(header, told)
    return dataclasses.replace(roles, told=frozenset(by_user), is_lerobot=True, notes=tuple(notes))


def _infos(table: Table, roles: Roles, steps: np.ndarray) -> dict[str, np.ndarray]:
    """[N] of every column of numbers without a role, NaN where a step has none."""
    infos = {}
    with_role = set(roles.columns())
    for name in table.columns:
        if name in with_role:
            continue
        values, has_value = table_columns.numbers(table, name)
        if not has_value.all():
            values = np.where(has_value, values, np.nan)
        infos[name] = values[steps]
    return infos


def _observations(table: Table, roles: Roles) -> np.ndarray:
    """[M, O] or [M] in the table's order. Raises InputError for a row without one."""
    is_list = "observation" in roles.numbered
    cure = "fill such gaps before: with the last value, say, and a further column that tells so"
    observations, has_observation = table_columns.matrix(table, roles.observation, is_list, cure)
    if not has_observation.all():
        row = int(has_observation.argmin())
        raise InputError(f"{table.at(row)}: observation is missing; every row needs one")
    return observations


def _rewards(
    table: Table, roles: Roles, has_action: np.ndarray, notes: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Rewards [M]; [M] bool, the row has all that it needs of one; and [M] bool, which of them are known, or None."""
    if roles.reward is None:
        notes.append("no reward is known; agents that learn from rewards refuse these data")
        nothing = np.zeros(table.rows)
        return nothing, has_action, np.zeros(table.rows, bool)
    rewards, has_reward = table_columns.numbers(table, roles.reward)
    if roles.labelled is None:
        return rewards, has_reward, None
    labelled = _flags(table, roles.labelled, ~has_action, notes)
    return rewards, has_reward | (has_action & ~labelled), labelled


def _finals(table: Table, order: Order, has_action: np.ndarray, has_reward: np.ndarray) -> np.ndarray:
    """[M] bool in the table's order: the row is a final observation."""
    has_one = has_action != has_reward
    if has_one.any():
        row = int(has_one.argmax())
        given = "reward"
        absent = "action"
        if has_action[row]:
            given = "action"
            absent = "reward"
        cure = "give both (a reward of 0 where nothing was earned), or neither for a final observation"
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


def _final_observations(
    table: Table, roles: Roles, order: Order, observations: np.ndarray, is_final: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """[E, ...] final observations, and [E] bool, which episodes have one: in a row of its own, or as the
    next_observation of the last step. ``is_final``: [M] in the order of the steps."""
    episodes = len(order.names)
    has_final = np.zeros(episodes, bool)
    finals = np.zeros((episodes, *observations.shape[1:]), observations.dtype)
    if roles.next_observation:
        following, has_following = _following(table, roles, order, observations)
        rows = order.rows[order.last]
        has_final[:] = has_following[rows]
        finals[has_final] = following[rows][has_final]
    with_row = order.episode[is_final]
    has_final[with_row] = True
    finals[with_row] = observations[order.rows[is_final]]
    return finals, has_final


def _following(table: Table, roles: Roles, order: Order, observations: np.ndarray) -> Column:
    """next_observation in the table's order. Raises InputError where it is not the observation of the row that
    follows in the episode."""
    following, has_following = table_columns.matrix(table, roles.next_observation, "next_observation" in roles.numbered)
    if following.shape != observations.shape:
        width = following.size // table.rows
        problem = f"next_observation is {width} numbers wide, and observation {observations.size // table.rows}"
        raise InputError(f"{table.name}: {problem}; name the same columns in the same order")
    here = order.rows[:-1][~order.last[:-1]]
    there = order.rows[1:][~order.first[1:]]
    expected = observations[there].reshape(len(there), -1)
    said = following[here].reshape(len(here), -1)
    differs = np.abs(said - expected) > _ROUNDING * np.maximum(np.abs(expected), 1)
    wrong = differs.any(1) & has_following[here]
    if wrong.any():
        i = int(wrong.argmax())
        column = int(differs[i].argmax())
        raise InputError(
            f"{table.at(int(here[i]))}: next_observation is {said[i, column]:g} in component {column}, where the next "
            f"row of the episode has {expected[i, column]:g}; {int(wrong.sum())} rows like it: correct the column of "
            "episodes or of steps, or say --columns.next-observation none"
        )
    return following, has_following


def _meaning(roles: Roles, values: np.ndarray, has_action: np.ndarray) -> tuple[bool | None, str]:
    """What a table says of its actions: choices (True), amounts (False) or nothing (None), and a sentence where it may
    mean either. One column of integers called `action` means choices."""
    if values.ndim > 1:
        return False, ""
    (column,) = roles.action
    present = values[has_action]
    if values.dtype.kind in "iu":
        if column.lower() == "action":
            return True, ""
        return None, f"the column {column} holds whole numbers, which may be choices or amounts"
    if (present != np.floor(present)).any():
        return False, ""
    if has_action.all():
        return None, ""
    return None, f"the column {column} holds whole numbers written as floats, and is empty in some rows"


def _names(roles: Roles, observations: np.ndarray, actions: np.ndarray, info: Mapping[str, Any]) -> Names:
    """Names of the components: the columns that the user named, or those of LeRobot's meta/info.json."""

    def names(role: str, values: np.ndarray) -> tuple[str, ...]:
        columns = getattr(roles, role)
        width = values.size // len(values)
        if len(columns) == 1:
            described = lerobot.names(info, columns[0], width)
            if described:
                return described
        if role in roles.told and len(columns) == width:
            return columns
        return ()

    return Names(names("observation", observations), names("action", actions))


def _flags(table: Table, name: str | None, final: np.ndarray, notes: list[str]) -> np.ndarray:
    """[M] bool. A column that is not there is all false; rows of final observations must not be flagged."""
    if name is None:
        return np.zeros(table.rows, bool)
    column = table.columns[name]
    values, indices = table_order.distinct(column)
    codes = np.array([_flag_code(value) for value in values] + [_NULL], np.int8)[indices]
    missing = (codes == _NULL) & ~final
    bad = (codes == _NEITHER) | missing
    if bad.any():
        row = int(bad.argmax())
        shown = "missing"
        if not missing[row]:
            shown = repr(column[row].as_py())
        raise InputError(f"{table.at(row)}: {name} is {shown}; expected true or false, yes or no, or 1 or 0")
    flagged = codes == 1
    late = flagged & final
    if late.any():
        row = int(late.argmax())
        raise InputError(f"{table.at(row)}: {name} is set on a final observation; set it on the step that led to it")
    if any(str(value).strip().lower() in ("yes", "no") for value in values):
        notes.append(f"{name}: yes was read as true and no as false")
    return flagged


def _flag_code(value: Any) -> int:
    """1 true, 0 false, _NULL or _NEITHER."""
    text = str(value).strip().lower()
    if csv_dialect.is_missing(text):
        return _NULL
    return _FLAGS.get(text, _NEITHER)
