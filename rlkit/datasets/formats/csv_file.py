"""One CSV file as Arrow columns, compressed or not, in any dialect (see csv_dialect.py)."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from pathlib import Path
from typing import Any

from rlkit.datasets.formats import csv_dialect, table_columns, table_recoding
from rlkit.datasets.formats.csv_dialect import Dialect
from rlkit.datasets.formats.table_columns import FileColumns
from rlkit.datasets.formats.table_roles import FindRoles
from rlkit.datasets.untrusted.fields import Budget
from rlkit.types import InputError, one_line

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_CELL = re.compile(r"CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to \w+: invalid value '(.*)'", re.DOTALL)
_THOUSANDS = r"[-+]?[1-9]\d{0,2}(,\d{3})+"  # a number whose commas can part its thousands
_WITH_COMMA = r"\s*[-+]?\d+,\d+([eE][-+]?\d+)?\s*"


def read(path: Path, find_roles: FindRoles, infos: bool, budget: Budget) -> FileColumns:
    """The columns that ``find_roles`` names, those of the action and observation as numbers where they are several.

    Raises InputError that names the line and the column where the text is no table of numbers.
    """
    import pyarrow as pa

    dialect = csv_dialect.find(path.name, _beginning(path))
    roles = find_roles(path.name, dialect.names)
    if not _is_compressed(path):
        budget.take(path.stat().st_size)

    # --- what is read, and as what ---
    as_numbers = set(roles.as_numbers())
    # columns that may be read in more than one way come as text
    types = {name: pa.float64() if name in as_numbers else pa.string() for name in roles.columns()}
    others = [name for name in dialect.names if name not in types]
    if infos:
        types |= {name: pa.string() for name in others if name}
    text = _Text(path, dialect, budget)
    columns = text.columns(types)

    # --- other columns, which are infos where they are numbers ---
    unread = []
    for name in others:
        if name in types:
            column = table_columns.narrow(columns.pop(name))
            if table_columns.is_number(column.type):
                columns[name] = column
                continue
        unread.append(name or "(without a name)")
    return FileColumns(pa.table(columns), roles, dialect.first, tuple(text.notes), tuple(unread))


class _Text:
    """The text of a file, and what is found out of it where the usual way to read it fails."""

    def __init__(self, path: Path, dialect: Dialect, budget: Budget) -> None:
        self._path = path
        self._dialect = dialect
        self._budget = budget
        self._encoding = dialect.encoding
        self._missing = [""]  # cells that stand for no value
        self._decimal = "."
        self._block = 2**20  # bytes that are read at once; a line must not be longer
        self.notes = list(dialect.notes)

    def columns(self, types: dict[str, Any]) -> dict[str, Any]:
        """Name -> pyarrow.ChunkedArray of the columns in ``types``, each read as its type. Raises InputError."""
        import pyarrow as pa

        while True:
            try:
                parsed = self._parse(types)
                break
            except (pa.ArrowException, OSError, EOFError, zlib.error, UnicodeError) as error:
                if "Empty CSV file" in str(error):  # a header alone, as a part may have it
                    parsed = pa.schema(types).empty_table()
                    break
                if not self._learns_from(error):
                    raise self._refusal(error) from error
        columns = {}
        for name, column in zip(types, parsed.columns, strict=True):
            columns[name] = self._cleaned(column) if types[name] == pa.string() else column
        return columns

    def _parse(self, types: dict[str, Any]) -> Any:
        from pyarrow import csv as arrow

        with _open(self._path, self._budget) as stream:
            return arrow.read_csv(
                stream,
                read_options=arrow.ReadOptions(
                    block_size=self._block,
                    use_threads=False,  # so that an error names its row
                    skip_rows=self._dialect.first - 1,
                    column_names=list(self._dialect.names),
                    encoding=self._encoding,
                ),
                parse_options=arrow.ParseOptions(delimiter=self._dialect.delimiter),
                convert_options=arrow.ConvertOptions(
                    column_types=types,
                    include_columns=list(types),
                    null_values=self._missing,
                    strings_can_be_null=True,
                    decimal_point=self._decimal,
                ),
            )

    def _learns_from(self, error: Exception) -> bool:
        """Whether what could not be read shows how the file has to be read instead."""
        if "invalid UTF8" in str(error) and self._encoding == "utf8":
            self._encoding = "latin-1"
            self.notes.append(csv_dialect.LATIN)
            return True
        if "straddling" in str(error) and self._block < csv_dialect.LONGEST_LINE:
            self._block *= 16
            return True
        match = _CELL.search(str(error))
        if match is None:
            return False
        cell = match[3]
        if csv_dialect.is_missing(cell) and len(self._missing) == 1:
            self._missing += csv_dialect.MISSING_CELLS
            self._note_missing(cell)
            return True
        if re.fullmatch(_WITH_COMMA, cell) and self._decimal == ".":
            if re.fullmatch(_THOUSANDS, cell.strip()) and not self._has_decimal_comma():
                return False
            self._decimal = ","
            number = cell.strip()
            self.notes.append(f"numbers have a decimal comma: {number} was read as {number.replace(',', '.')}")
            return True
        return False

    def _has_decimal_comma(self) -> bool:
        """Whether some number near the beginning of the file has a comma that cannot part its thousands."""
        text = _beginning(self._path).decode(self._encoding, errors="replace")
        for line in text.splitlines():
            for cell in csv_dialect.cells(line, self._dialect.delimiter):
                if re.fullmatch(_WITH_COMMA, cell) and not re.fullmatch(_THOUSANDS, cell.strip()):
                    return True
        return False

    def _note_missing(self, cell: str) -> None:
        note = f"cells such as {cell.strip()} were read as missing"
        if cell.strip() and note not in self.notes:
            self.notes.append(note)

    def _refusal(self, error: Exception) -> InputError:
        match = _CELL.search(str(error))
        if match is None:
            reason = one_line(error)
            return InputError(f"{self._path.name}: cannot be read as CSV ({reason}); correct it at that place")
        number, row, cell = match.groups()
        name = self._dialect.names[int(number)]
        where = f"line {row}: " if row else ""
        expected = "a number" if self._decimal == "." else "a number with a decimal comma, as there are others"
        if self._decimal == "." and re.fullmatch(_THOUSANDS, cell.strip()):
            both = f"{cell.strip().replace(',', '.')} or {cell.strip().replace(',', '')}"
            expected = (
                f"a number; with its comma it can be {both}: write decimal points, and no commas between thousands"
            )
        told = table_recoding.cure(name, self._cells(name))
        return InputError(f"{self._path.name}: {where}{name} is {cell[:40]!r}; expected {expected}{told}")

    def _cells(self, name: str) -> list[str | None]:
        """The texts of a column; none where they cannot be read."""
        import pyarrow as pa

        try:
            return self._parse({name: pa.string()}).column(name).to_pylist()
        except (pa.ArrowException, OSError, EOFError, zlib.error, UnicodeError):
            return []

    def _cleaned(self, column: Any) -> Any:
        """A column of text with nulls where it has no value, without blanks around the cells, with decimal points."""
        import pyarrow as pa
        import pyarrow.compute as pc

        is_missing = pc.is_in(column, pa.array(csv_dialect.MISSING_CELLS))
        if pc.any(is_missing).as_py():
            first = column.filter(is_missing)[0]
            self._note_missing(first.as_py())
            column = pc.if_else(is_missing, None, column)
        if self._dialect.blanks:
            column = pc.utf8_trim_whitespace(column)
        if self._decimal == ".":
            return column
        if pc.any(pc.starts_with(column, "[")).as_py():
            problem = "lists of numbers with a decimal comma cannot be told apart; write decimal points"
            raise InputError(f"{self._path.name}: {problem}")
        with_comma = pc.match_substring_regex(column, f"^{_WITH_COMMA}$")
        return pc.if_else(with_comma, pc.replace_substring(column, ",", "."), column)


class _Unpacked(io.RawIOBase):
    """A compressed file as it unpacks, a part at a time. The Budget is asked before each part."""

    def __init__(self, path: Path, budget: Budget) -> None:
        self._file = gzip.open(path)  # noqa: SIM115  (it is closed with this one)
        self._budget = budget
        self._size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._budget.check(self._budget.taken + self._size + len(buffer))
        count = self._file.readinto(buffer)
        self._size += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _is_compressed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _open(path: Path, budget: Budget) -> Any:
    """The text's bytes as a stream."""
    if _is_compressed(path):
        return _Unpacked(path, budget)
    return path.open("rb")


def _beginning(path: Path) -> bytes:
    """The first bytes of the text. Raises InputError where they cannot be unpacked."""
    opened = gzip.open(path) if _is_compressed(path) else path.open("rb")
    try:
        with opened as stream:
            start = stream.read(csv_dialect.SAMPLE)
            while b"\n" not in start and b"\r" not in start and len(start) < csv_dialect.LONGEST_LINE:
                more = stream.read(len(start))
                if not more:
                    break
                start += more
            return start
    except (OSError, EOFError, zlib.error) as error:
        problem = f"cannot be unpacked ({one_line(error)}); copy or write it again"
        raise InputError(f"{path.name}: {problem}") from error
