"""What to do with a column of words or dates where numbers are needed: the line of pandas that recodes it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from rlkit.datasets.formats import csv_dialect

_DATE = re.compile(r"(\d{1,4})[./-](\d{1,2})[./-]\d{1,4}(?:[T ].*)?")
_WORD = re.compile(r"[^\W\d_].{0,29}")
MOST = 6  # words that are numbered one by one


def cure(name: str, cells: Iterable[Any]) -> str:
    """The end of a message about a column that holds no numbers, from "; " on.

    Nothing where some of its ``cells`` are numbers, which are then not what is wrong with it, or where they are neither
    all words nor all dates.
    """
    distinct = _distinct(cells)
    if distinct and all(_DATE.fullmatch(text) for text in distinct):
        days = f"t[{name!r}] = {_read_dates(name, distinct)}.pipe(lambda day: (day - day.min()).dt.days)"
        return f"; count the days in pandas: `{days}`"
    if not distinct or not all(_WORD.fullmatch(text) for text in distinct):
        return ""
    if {text.lower() for text in distinct} <= {"true", "false"}:  # which pandas reads as such
        return f"; number them in pandas: `t[{name!r}] = t[{name!r}].astype('boolean').astype('Int64')`"
    if len(distinct) <= MOST:
        numbers = repr({text: number for number, text in enumerate(distinct)})
    else:
        numbers = f"{{word: n for n, word in enumerate(sorted(t[{name!r}].dropna().unique()))}}"
    return f"; number its words in pandas: `t[{name!r}] = t[{name!r}].map({numbers}).astype('Int64')`"


def cure_of_times(name: str, cells: Iterable[Any]) -> str:
    """The same of a column whose dates only have to be written in another way; nothing where they are no dates."""
    distinct = _distinct(cells)
    if not distinct or not all(_DATE.fullmatch(text) for text in distinct):
        return ""
    return f"; write it so in pandas: `t[{name!r}] = {_read_dates(name, distinct)}`"


def _distinct(cells: Iterable[Any]) -> list[str]:
    """What the cells say, each once, sorted, without those that are missing."""
    texts = {str(cell).strip() for cell in cells if cell is not None}
    return sorted(text for text in texts if not csv_dialect.is_missing(text))


def _read_dates(name: str, dates: Iterable[str]) -> str:
    """The call that reads them: does the day come first, as in 31.01.2021, or the month? Where no date tells, the
    day does, as it is written in most countries."""
    parts = [_DATE.fullmatch(date).groups() for date in dates]
    year_first = all(len(first) == 4 for first, _ in parts)
    month_first = any(int(second) > 12 for _, second in parts)
    how = "" if year_first or month_first else ", dayfirst=True"
    return f"pandas.to_datetime(t[{name!r}]{how})"
