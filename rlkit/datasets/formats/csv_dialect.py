"""How a text file writes a table: its encoding, what separates the cells, whether its first line names the columns.

It is found out from the beginning of the file. What is not the usual way (UTF-8, commas, a header) is a note.
"""

from __future__ import annotations

import codecs
import csv
import re
from dataclasses import dataclass

from rlkit.types import InputError, one_line

SAMPLE = 2**18  # bytes of the beginning of a file that are looked at; more where they hold no whole line
LONGEST_LINE = 2**28
LINES = 20  # lines that are compared with each other
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}  # the usual one first
_EXCEL = re.compile(r'"?sep=(.)"?', re.IGNORECASE)  # a first line by which Excel is told the separator
_MARKS = {codecs.BOM_UTF8: "utf8", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}

# Cells that stand for no value, in small letters. An empty cell always does.
MISSING = ("na", "n/a", "#n/a", "<na>", "nan", "null", "none")
LATIN = "the text is not UTF-8 and was read as Latin-1: look whether names have the right letters"
_SPELLINGS = {form(word) for word in MISSING for form in (str.lower, str.upper, str.title)} | {"NaN"}
MISSING_CELLS = sorted({blank + word for word in _SPELLINGS for blank in ("", " ")} | {" "})


@dataclass(frozen=True)
class Dialect:
    """How one file is written.

    names: of the columns, in the file's order; "0", "1", ... where it has no header. first: the number of the line that
    holds the first row. blanks: there are blanks around cells.
    """

    encoding: str  # "utf8", or a name that Python knows
    delimiter: str
    names: tuple[str, ...]
    first: int
    blanks: bool
    notes: tuple[str, ...]


def find(name: str, start: bytes) -> Dialect:
    """The dialect of a file that begins with ``start``. Raises InputError, which begins with ``name``."""
    notes = []
    encoding = _encoding(start)
    if encoding.startswith("utf-16"):
        notes.append("the text is UTF-16")
    if encoding == "latin-1":
        notes.append(LATIN)
    lines, skipped, told = _lines(name, start, encoding)
    delimiter = told or _delimiter(name, lines)
    if delimiter != ",":
        notes.append(f"cells are separated by {DELIMITERS.get(delimiter, repr(delimiter))}")
    if any(re.search(re.escape(delimiter) + ' +"', line) for line in lines):
        raise InputError(f"{name}: there are blanks before quotation marks; write it without blanks after separators")
    rows = [cells(line, delimiter) for line in lines]
    blanks = any(cell != cell.strip() for row in rows for cell in row)
    if blanks:
        notes.append("blanks around cells were left out")
    names = [cell.strip() for cell in rows[0]]
    names[0] = names[0].lstrip("# ")  # numpy.savetxt begins the header so
    if _is_header(names, rows[1:]):
        skipped += 1
    else:
        names = [str(i) for i in range(len(names))]
        notes.append(f"the first line holds no names, so the columns are called 0 to {len(names) - 1}")
    return Dialect(encoding, delimiter, tuple(names), skipped + 1, blanks, tuple(notes))


def is_missing(text: str) -> bool:
    """Whether a cell stands for no value."""
    word = text.strip().lower()
    return not word or word in MISSING


def _encoding(start: bytes) -> str:
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding
    # Most characters of a table have one byte that is not zero: where UTF-16 is not marked, this shows.
    pairs = max(len(start) // 2, 1)
    if start[1::2].count(0) > 0.4 * pairs:
        return "utf-16-le"
    if start[0::2].count(0) > 0.4 * pairs:
        return "utf-16-be"
    try:
        codecs.getincrementaldecoder("utf8")().decode(start)
    except UnicodeDecodeError:
        return "latin-1"
    return "utf8"


def _lines(name: str, start: bytes, encoding: str) -> tuple[list[str], int, str | None]:
    """The first lines that are not empty, how many lines stand before them, and the separator that Excel's line names.
    Raises InputError where there is no line."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(start)
    except UnicodeDecodeError as error:
        problem = f"cannot be read as CSV ({one_line(error)}); save it as UTF-8"
        raise InputError(f"{name}: {problem}") from error
    every = re.split(r"\r\n|\r|\n", text)
    if len(start) >= SAMPLE and len(every) > 1:
        every.pop()  # which may be the beginning of a line
    told = None
    skipped = 0
    for line in every:
        excel = _EXCEL.fullmatch(line.strip("\ufeff"))
        if excel:
            told = excel[1]
        elif line.strip():
            break
        skipped += 1
    lines = [line for line in every[skipped:] if line.strip()]
    if not lines:
        raise InputError(f"{name}: has no rows; there is nothing to train on")
    lines[0] = lines[0].removeprefix("\ufeff")
    return lines[:LINES], skipped, told


def _delimiter(name: str, lines: list[str]) -> str:
    """The separator by which all lines have the same number of cells, and the most of them. Raises InputError where
    none separates anything."""
    best = (False, 1)
    found = None
    for delimiter in DELIMITERS:
        widths = [len(cells(line, delimiter)) for line in lines]
        alike = len(set(widths)) == 1
        if widths[0] > 1 and (alike, widths[0]) > best:
            best = (alike, widths[0])
            found = delimiter
    if found is None:
        shown = lines[0][:60]
        raise InputError(
            f"{name}: what separates its columns is not known: the first line is {shown!r}; write the table with "
            f"commas, semicolons, tabs or vertical bars between the cells"
        )
    return found


def cells(line: str, delimiter: str) -> list[str]:
    """The cells of one line."""
    try:
        return next(csv.reader([line], delimiter=delimiter))
    except (csv.Error, StopIteration):
        return [line]


def _is_header(cells: list[str], below: list[list[str]]) -> bool:
    """Whether the first line names the columns: a cell of it is a word where a line ``below`` it has a number, or its
    cells count the columns."""
    if cells == [str(i) for i in range(len(cells))]:
        return True
    words = [i for i, cell in enumerate(cells) if not _is_value(cell)]
    if not below:
        return bool(words)
    return any(_is_number(line[i]) for line in below for i in words if i < len(line))


def _is_value(cell: str) -> bool:
    return is_missing(cell) or cell.lower() in ("true", "false") or _is_number(cell)


def _is_number(cell: str) -> bool:
    """Whether a cell holds a number or a list of them."""
    try:
        float(cell.replace(",", "."))
    except ValueError:
        return cell.startswith("[")
    return True
