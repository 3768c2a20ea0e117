"""``rlkit report RUNS``: a table and a figure of several runs, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlkit.commands import Catalog
from rlkit.commands.options import ReportOptions
from rlkit.evaluation import tables
from rlkit.evaluation.tables import Row
from rlkit.runs import serialization
from rlkit.runs.record import Record
from rlkit.runs.run import evaluations_by_goal
from rlkit.runs.scores import (
    ASKED,
    data_row,
    draw_asked,
    draw_curves,
    heading,
    label_of,
    last_returns,
    run_row,
    sound_evaluations,
    switch_rows,
)
from rlkit.types import InputError


def run(options: ReportOptions, catalog: Catalog) -> int:
    """Print one table of the runs, the data first; with ``--out`` write it and the figures to that folder."""
    if not options.runs:
        raise InputError("report: name the run directories: rlkit report RUN RUN ...")
    serialization.make_folder(options.out)
    # --- read the runs: one curve for each run and goal ---
    run_records = [Record.read(folder) for folder in options.runs]
    run_labels = _labels(options.runs, run_records)
    labels = []
    records = []
    curves = []
    last = {}
    rows = []
    for folder, record, label in zip(options.runs, run_records, run_labels, strict=True):
        by_goal = sound_evaluations(folder)
        if not by_goal:
            rows.append(Row(f"{label}: {_why_none(folder)}", None))
            continue
        rows += switch_rows(label, record, by_goal).values()
        last[label] = record, last_returns(by_goal)
        for goal, evaluated in by_goal.items():
            labels.append(label_of(label, goal))
            records.append(record)
            curves.append(evaluated)
            rows.append(run_row(label_of(label, goal), record, evaluated))
    if not curves:
        listed = "; ".join(f"{folder}: {_why_none(folder)}" for folder in options.runs)
        raise InputError(f"there is nothing to report ({listed})")

    # --- the table ---
    rows = [*_data_rows(records), *rows]
    headings = [heading(record) for record in _by_dataset(records).values()]
    print(*headings, sep="\n")
    tables.show(rows)
    if options.out is None:
        return 0

    # --- files ---
    text = "\n".join([*headings, tables.table(rows), ""])
    serialization.write_text(options.out / "table.txt", text)
    draw_curves(options.out / "curve.png", labels, records, curves)
    draw_asked(options.out / ASKED, last)
    return 0


def _why_none(folder: Path) -> str:
    """Why a run has no row of its own."""
    return "every seed diverged" if evaluations_by_goal(folder) else "no evaluations"


def _by_dataset(records: Sequence[Record]) -> dict[str, Record]:
    """Dataset -> the last record of a run on it, in the order of the runs."""
    return {record.data.name: record for record in records}


def _data_rows(records: Sequence[Record]) -> list[Row]:
    by_dataset = _by_dataset(records)
    if len(by_dataset) == 1:
        (record,) = by_dataset.values()
        return [data_row(record)]
    return [data_row(record, f"data ({name})") for name, record in by_dataset.items()]


def _labels(folders: Sequence[Path], records: Sequence[Record]) -> list[str]:
    """The agents' names, with the folder where that alone does not tell the runs apart."""
    names = [record.agent for record in records]
    labels = []
    for name, folder in zip(names, folders, strict=True):
        is_unique = names.count(name) == 1
        labels.append(name if is_unique else f"{name} ({folder})")
    return labels
