"""``rlkit runs``: the runs below a folder, how far they are, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlkit.commands import Catalog
from rlkit.commands.options import RunsOptions
from rlkit.evaluation.evaluate import score
from rlkit.runs import lock
from rlkit.runs.record import Record
from rlkit.runs.run import checkpoint_numbers, diverged, finished, run_folders
from rlkit.runs.scores import sound_evaluations
from rlkit.types import InputError

TITLES = ("run", "agent", "dataset", "state", "updates", "return", "score")
NUMBERS = ("updates", "return", "score")  # set to the right


def run(options: RunsOptions, catalog: Catalog) -> int:
    """List the runs, by their folders. Raises InputError if a folder is missing or there is none below any."""
    rows = []
    for root in options.folders:
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; name one that holds runs")
        rows += [_row(folder) for folder in run_folders(root)]
    if not rows:
        listed = ", ".join(map(str, options.folders))
        raise InputError(f"no run below {listed}: rlkit train writes one")
    print(_table(rows))
    return 0


def _row(folder: Path) -> list[str]:
    """A cell for each of TITLES."""
    try:
        record = Record.read(folder)
        total = sum(steps for _, steps in record.stages)
        numbers = checkpoint_numbers(folder / "checkpoints")
        done = total if finished(folder) else max(numbers, default=0)
        return [str(folder), record.agent, record.data.name, _state(folder, record), f"{done:,} of {total:,}",
                *_outcome(folder, record)]  # fmt: skip
    except InputError as error:
        return [str(folder), "", "", f"cannot be read: {error}", "", "", ""]


def _state(folder: Path, record: Record) -> str:
    lost = len(diverged(folder))
    if lost == len(record.seeds):
        return "diverged"
    state = "stopped"
    if finished(folder):
        state = "finished"
    elif lock.is_held(folder):
        state = "running"
    return f"{state}, {lost} of {len(record.seeds)} seeds diverged" if lost else state


def _outcome(folder: Path, record: Record) -> tuple[str, str]:
    """Mean return and score of the last evaluation, over the seeds that did not diverge; empty where there is none."""
    by_goal = sound_evaluations(folder)
    evaluated = next(iter(by_goal.values()), [])
    if not evaluated:
        return "", ""
    mean = float(np.mean(evaluated[-1].returns))
    if record.reference is None:
        return f"{mean:.1f}", ""
    return f"{mean:.1f}", f"{float(score(mean, (record.reference.random, record.reference.expert))):.1f}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    columns = []
    for title, *cells in zip(TITLES, *rows, strict=True):
        if not any(cells):
            continue
        width = max(map(len, [title, *cells]))
        align = str.rjust if title in NUMBERS else str.ljust
        columns.append([align(cell, width) for cell in [title, "-" * width, *cells]])
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))
