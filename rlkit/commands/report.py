"""``rlkit report RUNS``: several runs side by side, as a table, as figures and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rlkit.commands import Catalog
from rlkit.commands.options import ReportOptions
from rlkit.evaluation import tables
from rlkit.evaluation.tables import Group, Line
from rlkit.report import comparison, page, rows
from rlkit.report.aggregates import aggregate
from rlkit.report.comparison import Comparison, Entry
from rlkit.runs import serialization
from rlkit.runs.scores import ASKED, draw_asked, draw_curves, label_of, last_returns
from rlkit.types import InputError

FILES = ("table.txt", "table.md", "table.tex", "table.csv", "curve.png", "curve.svg", "report.html")  # in a folder
SUFFIXES = tuple(dict.fromkeys(Path(name).suffix for name in FILES))  # of a file that is asked for alone
CURVES = (".png", ".svg")


class _Report(NamedTuple):
    """All that is shown."""

    comparison: Comparison
    lines: list[Line]
    groups: list[Group]
    headings: list[str]
    notes: list[str]


def run(options: ReportOptions, catalog: Catalog) -> int:
    """Print one table of the runs, the data first; with ``--out`` write what its name asks for.

    Raises InputError for what cannot be read or written, where there is nothing to report yet, and for a picture of
    curves where nothing has been evaluated.
    """
    if not options.runs:
        raise InputError("report: name the run directories: rlkit report RUN RUN ...")
    out = options.out
    is_file = out is not None and _is_file(out)
    serialization.make_folder(out.parent if is_file else out)
    report = _read(options.runs, is_page=is_file and out.suffix.lower() == ".html")
    # the files first: whoever reads the table may close the pipe before its end
    written = [] if out is None else _write_all(out, is_file, report)
    print(*report.headings, sep="\n")
    tables.show(tables.under_titles(report.groups))
    for note in report.notes:
        print(f"note: {note}")
    if written:
        print(f"written: {', '.join(map(str, written))}")
    return 0


def _is_file(out: Path) -> bool:
    """Whether ``out`` names one file, and no folder. Raises InputError for what it must not name."""
    suffix = out.suffix.lower()
    if suffix in SUFFIXES:
        if out.is_dir():
            raise InputError(f"--out {out} is a folder: name a file, or a folder without such an ending")
        return True
    if suffix or out.name == "-":
        raise InputError(f"--out {out}: a file ends in {', '.join(SUFFIXES)}; a folder has no ending")
    if (out / "run.json").exists():
        raise InputError(f"--out {out} is a run directory: name another folder")
    return False


def _write_all(out: Path, is_file: bool, report: _Report) -> list[Path]:
    """Write what ``out`` asks for and return the files. Where nothing was evaluated, a folder has no curves."""
    has_curves = any(entry.by_goal for entry in report.comparison.entries)
    written = [out] if is_file else [out / name for name in FILES]
    if not has_curves:
        if is_file and out.suffix.lower() in CURVES:
            raise InputError(f"--out {out}: there is no curve to draw ({'; '.join(report.notes)})")
        written = [path for path in written if path.suffix.lower() not in CURVES]
    try:
        for path in written:
            _write(path, report)
        if not is_file and _draw_asked(out / ASKED, report.comparison):
            written.append(out / ASKED)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written to ({error.strerror})") from error
    return written


def _read(folders: Sequence[Path], is_page: bool) -> _Report:
    """InputError where every run was lost or is yet to be evaluated, but for a page, which has their losses to show.
    One that has no environment never is evaluated, and has a row that says so."""
    compared = comparison.read(folders)
    if not is_page and not any(_has_row(entry) for entry in compared.entries):
        raise InputError(f"there is nothing to report ({'; '.join(compared.notes)})")
    means = aggregate(compared)
    lines = rows.lines(compared)
    groups = rows.groups(lines, means)
    notes = compared.notes
    if len(means.datasets) > 1:  # else no mean over them is shown
        notes = [*notes, *means.notes]
    return _Report(compared, lines, groups, rows.headings(compared), notes)


def _has_row(entry: Entry) -> bool:
    is_trained_alone = entry.record.evaluation is None and entry.diverged < entry.seeds
    return bool(entry.by_goal) or is_trained_alone


def _write(path: Path, report: _Report) -> None:
    """Write the one file that the ending of ``path`` asks for."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        serialization.write_text(path, tables.csv_text(report.lines))
    elif suffix == ".md":
        serialization.write_text(path, tables.markdown(report.groups, report.headings))
    elif suffix == ".tex":
        serialization.write_text(path, tables.latex(report.groups, report.headings))
    elif suffix == ".txt":
        table = tables.table(tables.under_titles(report.groups))
        notes = [f"note: {note}" for note in report.notes]
        serialization.write_text(path, "\n".join([*report.headings, table, *notes, ""]))
    elif suffix == ".html":
        page.write(path, report.comparison)
    else:
        _draw_curves(path, report.comparison)


def _draw_curves(path: Path, compared: Comparison) -> None:
    """A curve for each method and goal."""
    labels = []
    records = []
    curves = []
    for entry in compared.entries:
        for goal, evaluated in entry.by_goal.items():
            labels.append(label_of(entry.label, goal))
            records.append(entry.record)
            curves.append(evaluated)
    draw_curves(path, labels, records, curves)


def _draw_asked(path: Path, compared: Comparison) -> bool:
    """What came of the returns that were asked for; False where no method was asked for several."""
    last = {}
    for panel in compared.panels:
        where = f" ({panel.name})" if len(compared.panels) > 1 else ""
        for entry in panel.entries:
            if entry.by_goal:
                last[f"{entry.label}{where}"] = entry.record, last_returns(entry.by_goal)
    return draw_asked(path, last)
