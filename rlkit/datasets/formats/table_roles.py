"""Which columns of a table hold what: by the usual names, or by those that --columns says."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from rlkit.datasets.options import ColumnOptions
from rlkit.datasets.untrusted.fields import listed
from rlkit.types import InputError

NONE = "none"  # what --columns says of what a table does not have
SEVERAL = ("observation", "next_observation", "action")  # what may be spread over several columns
SINGLE = ("episode", "step", "reward", "terminated", "truncated", "labelled")
_REQUIRED = ("episode", "step", "observation", "action", "reward", "terminated")
# what NONE means for the roles that it can be said of
_WITHOUT = {
    "step": "the rows of each episode are in order",
    "next_observation": "it is not read",
    "reward": "no reward is known",
    "terminated": "no episode ends in a terminal state",
}
_NUMBERED = re.compile(r"(next_observation|observation|action)_(0|[1-9][0-9]*)")


@dataclass(frozen=True)
class Roles:
    """Names of columns, as the file has them. None or an empty tuple: the table has no such column.

    told: what the user named. numbered: what is spread over columns such as action_0. is_lerobot: see lerobot.py.
    """

    episode: str
    step: str | None
    observation: tuple[str, ...]
    next_observation: tuple[str, ...]
    action: tuple[str, ...]
    reward: str | None
    terminated: str | None
    truncated: str | None
    labelled: str | None
    told: frozenset[str]
    numbered: frozenset[str]
    is_lerobot: bool = False
    notes: tuple[str, ...] = ()

    def columns(self) -> list[str]:
        """Every column that has a role."""
        single = [getattr(self, role) for role in SINGLE]
        names = [name for name in single if name is not None]
        for role in SEVERAL:
            names += getattr(self, role)
        return names

    def as_numbers(self) -> list[str]:
        """The columns that can only hold a number in each row. Others may hold lists, flags or names."""
        names = []
        if self.reward is not None:
            names.append(self.reward)
        for role in SEVERAL:
            columns = getattr(self, role)
            if len(columns) > 1 or role in self.numbered:
                names += columns
        return names


FindRoles = Callable[[str, Sequence[str]], Roles]  # of the columns with these names in the file of that name


def option(role: str) -> str:
    """The option of the command line that names the columns of a role."""
    return f"--columns.{role.replace('_', '-')}"


def find(name: str, header: Sequence[str], columns: ColumnOptions) -> Roles:
    """The roles of the columns called ``header``.

    Raises InputError, which begins with ``name``, for a role that a table needs and has no column for, and for a column
    that was told and is not there.
    """
    usual = _Usual(name, header)
    roles: dict[str, str | tuple[str, ...] | None] = {}
    told = set()
    for field in fields(columns):
        role = field.name
        value = getattr(columns, role)
        if not value:
            continue
        told.add(role)
        roles[role] = named(name, header, role, value)
    for role in SINGLE:
        if role not in told:
            roles[role] = usual.single(role)
    for role in SEVERAL:
        if role not in told:
            roles[role] = usual.several(role)
    missing = [role for role in _REQUIRED if role not in told and not roles[role]]
    if missing:
        raise InputError(f"{name}: {_missing(missing, header)}")
    _refuse_twice(name, header, roles)
    notes = ()
    if usual.other_case:
        notes = (f"capitals in names make no difference: {listed(usual.other_case)}",)
    return Roles(**roles, told=frozenset(told), numbered=frozenset(usual.numbered), notes=notes)


class _Usual:
    """Columns with the usual names, in small letters or capitals."""

    def __init__(self, name: str, header: Sequence[str]) -> None:
        self._name = name
        self._by_small: dict[str, str] = {}
        for column in header:
            small = column.lower()
            if small not in self._by_small or column == small:
                self._by_small[small] = column
        self.other_case: list[str] = []
        self.numbered: set[str] = set()

    def single(self, role: str) -> str | None:
        column = self._by_small.get(role)
        if column is not None and column != role:
            self.other_case.append(column)
        return column

    def several(self, role: str) -> tuple[str, ...]:
        """One column called ``role``, or those called role_0, role_1, ..."""
        numbers = set()
        for small in self._by_small:
            match = _NUMBERED.fullmatch(small)
            if match and match[1] == role:
                numbers.add(int(match[2]))
        one = self.single(role)
        if not numbers:
            return () if one is None else (one,)
        if one is not None:
            raise InputError(f"{self._name}: has both {role} and {role}_0; keep one, or name one with {option(role)}")
        columns = []
        for i in range(len(numbers)):
            if i not in numbers:
                problem = f"no column {role}_{i}, but {role}_{max(numbers)}; count from 0"
                raise InputError(f"{self._name}: {problem}")
            columns.append(self.single(f"{role}_{i}"))
        self.numbered.add(role)
        return tuple(columns)


def named(name: str, header: Sequence[str], role: str, value: str | tuple[str, ...]) -> str | tuple[str, ...] | None:
    """The columns that the user named for a role."""
    if isinstance(value, str):
        if value == NONE and role in _WITHOUT:
            return None
        return _column(name, header, role, value)
    if value == (NONE,) and role in _WITHOUT:
        return ()
    columns = []
    for pattern in value:
        if "*" not in pattern:
            columns.append(_column(name, header, role, pattern))
            continue
        form = re.escape(pattern).replace(r"\*", ".*")
        matching = [column for column in header if re.fullmatch(form, column)]
        if not matching:
            raise InputError(f"{name}: {option(role)} {pattern}: no column is like that (found: {listed(header)})")
        columns += matching
    return tuple(columns)


def _column(name: str, header: Sequence[str], role: str, wanted: str) -> str:
    """The column that is called ``wanted``."""
    if wanted in header:
        return wanted
    near = difflib.get_close_matches(wanted, header, cutoff=0.6)
    hint = f"; do you mean {' or '.join(near)}?" if near else ""
    raise InputError(f"{name}: {option(role)} {wanted}: there is no such column (found: {listed(header)}){hint}")


def _missing(roles: list[str], header: Sequence[str]) -> str:
    """The problem and the cure, where columns with the usual names are missing."""
    options = [f"{option(role)} NAME" for role in roles]
    cure = f"say which it is with {' '.join(options)}"
    for role in roles:
        if role in _WITHOUT:
            cure += f"; {option(role)} {NONE}: {_WITHOUT[role]}"
    problem = f"no column {', '.join(roles)} (found: {listed(header)})"
    if list(header) == [str(i) for i in range(len(header))]:
        problem = f"the first line names no columns, so they are called 0 to {len(header) - 1}; {problem}"
    return f"{problem}; {cure}"


def _refuse_twice(name: str, header: Sequence[str], roles: dict[str, str | tuple[str, ...] | None]) -> None:
    """Raises InputError for a column that two roles name, or of which the file has two."""
    holder: dict[str, str] = {}
    counts = Counter(header)
    for role, value in roles.items():
        columns = (value,) if isinstance(value, str) else value or ()
        for column in columns:
            if column in holder:
                raise InputError(f"{name}: {column} is named for {holder[column]} and for {role}; it can be only one")
            holder[column] = role
            if counts[column] > 1:
                raise InputError(f"{name}: there are two columns {column}; rename or remove one")
