"""The page's account of how the runs were made: what differs between them, commands, settings and versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rlkit.report import markup
from rlkit.report.comparison import Comparison, Entry
from rlkit.report.markup import Html, Section
from rlkit.report.settings import settings
from rlkit.runs import serialization
from rlkit.runs.record import Record
from rlkit.runs.run import earlier_records

MOST_COLUMNS = 5  # of settings or runs, whichever are fewer


def of_differences(comparison: Comparison) -> Section | None:
    """Every setting in which two runs differ."""
    entries = comparison.entries
    if len(entries) < 2:
        return None
    if not comparison.differences:
        text = "The runs have the same settings."
        return Section("differences", "What differs", markup.paragraph(text))
    names = [_name(comparison, entry, panel) for panel in comparison.panels for entry in panel.entries]
    by_setting = [[name, *values] for name, values in comparison.differences.items()]
    if len(entries) <= MOST_COLUMNS:
        table = _table(["setting", *names], by_setting)
    else:
        settings_of_each = list(zip(*comparison.differences.values(), strict=True))
        parts = [
            [(name, value) for name, value in zip(comparison.differences, values, strict=True) if value]
            for values in settings_of_each
        ]
        table = Html(
            "".join(markup.heading(name) + markup.facts(told) for name, told in zip(names, parts, strict=True))
        )
    return Section("differences", "What differs", table)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    return markup.table(header, rows, caption="Settings of which two runs have other values")


def of_commands(comparison: Comparison) -> Section:
    """The command of every run, with all that it was told and what it ran with."""
    parts = []
    for panel in comparison.panels:
        for entry in panel.entries:
            parts.append(markup.heading(_name(comparison, entry, panel)))
            parts += _of_entry(entry)
    parts.append(markup.heading("Versions"))
    parts += _versions(comparison)
    return Section("commands", "Commands and versions", "".join(parts))


def _name(comparison: Comparison, entry: Entry, panel: object) -> str:
    return entry.label if len(comparison.panels) == 1 else f"{entry.label} on {panel.name}"


def _of_entry(entry: Entry) -> list[Html]:
    parts = []
    for folder in entry.folders:
        record = Record.read(folder)
        words = [f"{name} {steps:,}" for name, steps in record.stages]
        told = f"{folder}: seeds {' '.join(map(str, record.seeds))}; updates: {', '.join(words)}"
        parts.append(markup.paragraph(told))
        commands = _commands(folder, record)
        if commands:
            parts.append(markup.commands(commands))
        else:
            parts.append(
                markup.paragraph("Its record has no command: it was trained from Python, or by an earlier version.")
            )
    told = [(name, value) for name, value in settings(entry.record).items() if not name.startswith("versions.")]
    parts.append(Html(f"<details><summary>All settings</summary>{markup.facts(told)}</details>"))
    return parts


def _commands(folder: Path, record: Record) -> list[list[str]]:
    """What was typed to begin the run, and each time that it went on with other settings."""
    typed = []
    for path in earlier_records(folder):
        form = serialization.read_json(path)
        words = form.get("command") if isinstance(form, Mapping) else None
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            typed.append(words)
    typed.append(list(record.command))
    return [["rlkit", *words] for words in typed if words]


def _versions(comparison: Comparison) -> list[Html]:
    """Versions, commits and devices, once for all runs that have the same."""
    alike: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for panel in comparison.panels:
        for entry in panel.entries:
            for folder in entry.folders:
                record = Record.read(folder)
                told = [*record.versions.items(), ("device", record.device)]
                if record.commit:
                    told.append(("commit", record.commit))
                alike.setdefault(tuple(told), []).append(str(folder))
    parts = []
    for told, folders in alike.items():
        if len(alike) > 1:
            parts.append(markup.paragraph(f"Of {', '.join(folders)}:"))
        parts.append(markup.facts(told))
    return parts


def of_notes(comparison: Comparison, notes: Sequence[str]) -> Section | None:
    """What was left out, pooled or lost, and why."""
    sentences = list(dict.fromkeys([*comparison.notes, *notes]))
    if not sentences:
        return None
    return Section("notes", "Notes", markup.listed(sentences))
