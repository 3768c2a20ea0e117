"""The rows of a comparison's table: the data and the methods of each dataset, and what these come to over all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rlkit.evaluation.tables import Group, Line, Row
from rlkit.report.aggregates import Aggregates
from rlkit.report.comparison import Comparison, Entry, Panel
from rlkit.runs.scores import data_row, heading, label_of, run_row, switch_rows


def headings(comparison: Comparison) -> list[str]:
    """What the scores of each dataset stand for."""
    return [heading(panel.record) for panel in comparison.panels]


def lines(comparison: Comparison) -> list[Line]:
    """The data and the methods, dataset by dataset; a method has a line for each goal, and two more if it went online.

    The row's own name says how many seeds diverged, or why there are no numbers."""
    found = []
    for panel in comparison.panels:
        found += [Line(panel.name, name, data_row(record, name)) for name, record in panel.data.items()]
        for entry in panel.entries:
            found += _entry_lines(panel, entry)
    return found


def _entry_lines(panel: Panel, entry: Entry) -> Iterator[Line]:
    label = entry.label
    record = replace(entry.record, seeds=tuple(range(entry.seeds)))  # whose number the rows tell
    sound = entry.seeds - entry.diverged
    if not entry.by_goal:
        why = "no evaluations" if sound else "every seed diverged"
        yield Line(panel.name, label, Row(f"{label}: {why}", None), "", sound, entry.diverged)
        return
    for when, row in switch_rows(label, record, entry.by_goal).items():
        words = when.replace("_", " ")
        yield Line(panel.name, f"{label}, {words}", row, next(iter(entry.by_goal)), sound, entry.diverged)
    for goal, evaluated in entry.by_goal.items():
        row = run_row(label_of(label, goal), record, evaluated)
        yield Line(panel.name, label, row, goal, sound, entry.diverged)


def groups(found: Sequence[Line], aggregates: Aggregates) -> list[Group]:
    """``found`` by dataset, and, where there are several that have scores, the interquartile means over them."""
    by_dataset: dict[str, list[Row]] = {}
    for line in found:
        by_dataset.setdefault(line.dataset, []).append(line.row)
    grouped = [Group(name, rows) for name, rows in by_dataset.items()]
    if len(aggregates.datasets) > 1 and aggregates.methods:
        rows = [Row(method.label, None, method.interquartile_mean) for method in aggregates.methods]
        grouped.append(Group(f"interquartile mean, {len(aggregates.datasets)} datasets", rows))
    return grouped
