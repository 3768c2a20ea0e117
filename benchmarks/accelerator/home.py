"""What is done at home, on a CPU, before and after a call: packing, run directories, scores."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import train as composition_root
from benchmarks import table
from benchmarks.accelerator import files
from benchmarks.accelerator.files import CARRIED, MIB, ROWS, Carried, Cell, digest
from benchmarks.accelerator.training import bytes_kept, shapes_of
from rlkit.commands import parsing, preparation
from rlkit.datasets import Episodes, load
from rlkit.evaluation.evaluate import Evaluation
from rlkit.runs import serialization
from rlkit.runs.checkpoint import Checkpoints
from rlkit.runs.record import Record
from rlkit.runs.restored import play
from rlkit.runs.run import Position, evaluations
from rlkit.runs.scores import conclude
from rlkit.runs.trainer import among_all
from rlkit.training.loop import Progress
from rlkit.types import InputError

MEASURED = table.ROOT / "benchmarks" / "accelerator.jsonl"  # what parts a, b and c of the calls so far have told


def pack(path: Path, home: Path) -> int:
    """Make HOME/carry: the cells of a table as they are resolved here, and their data; print what it takes.

    What an earlier call left there stays. Raises InputError for a cell that cannot be made, and where tree and data
    alone are more than can be carried.
    """
    folder, catalog = home / "carry", composition_root.catalog()
    folder.mkdir(parents=True, exist_ok=True)
    cells, packed = [], set()
    for cell in table.cells(path):
        asked = parsing.parse(cell.arguments(), catalog)
        record = preparation.resolve(asked, catalog)
        name = f"{'-'.join(Path(cell.dataset).parts)}.npz"
        if name not in packed:
            _pack_rows(folder / name, load(asked.data, roots=[catalog.datasets]))
            packed.add(name)
        key = serialization.dumps([cell.command, table.configuration(record)])
        identity = hashlib.sha256(key.encode()).hexdigest()[:12]
        cells.append(Cell(identity, cell.label, cell.dataset, name, cell.command, record))
    for old in set(folder.glob("*.npz")) - {folder / name for name in packed}:
        old.unlink()
    form = {"table": digest(path), "commit": table.commit(), "tree": tree_bytes(), "cells": cells}
    serialization.write_json(folder / "cells.json", form)
    carried = Carried(folder)
    print(f"tree {carried.tree / MIB:.1f} MiB, data {(carried.bytes - carried.tree) / MIB:.1f} MiB in {folder}")
    if carried.bytes > CARRIED:
        raise InputError(f"that is more than the {CARRIED / MIB:.0f} MiB that can be carried: use fewer datasets")
    for cell in carried.cells:
        policy, state = bytes_kept(cell.record)
        why = files.obstacle(carried.bytes, [], policy, state) or "fits"
        sizes = f"policy {policy / MIB:.1f} MiB, full state {state / MIB:.1f} MiB"
        print(f"{cell.id} {cell.label} on {cell.dataset}: {sizes}: {why}")
    return 0


def _pack_rows(path: Path, episodes: Episodes) -> None:
    if episodes.hidden is not None:
        raise InputError(f"{episodes.name}: hidden rewards are not carried: leave --label-share out of the table")
    np.savez_compressed(path, **{name: np.asarray(getattr(episodes, name)) for name in ROWS})


def tree_bytes() -> int:
    """Of the files that git does not ignore, tracked or not."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=table.ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    paths = (table.ROOT / name for name in listed if name)
    return sum(path.stat().st_size for path in paths if path.is_file() and not path.is_symlink())


def collect(folder: Path, home: Path) -> int:
    """Make a run directory of every finished cell that a call has brought back, note what parts a to c have told, and
    put the state of the cell that was cut off with what the next call takes along."""
    carried = Carried(home / "carry")
    finished = files.read_finished(folder)
    for identity, (meta, arrays) in finished.items():
        run = home / "runs" / identity
        if not run.exists():
            run_directory(run, meta, arrays)
            print(f"{run}: {meta['cell']['label']} on {meta['cell']['dataset']}")
    done = carried.finished | set(finished)
    serialization.write_json(carried.folder / "finished.json", sorted(done))
    parts = files.parts(folder)
    if parts or (carried.unfinished and carried.unfinished[0]["id"] in done):
        for old in files.parts(carried.folder):
            old.unlink()
    for part in parts:
        shutil.copy(part, carried.folder)
    left = Carried(carried.folder).unfinished
    print(f"cell {left[0]['id']} goes on from step {left[0]['step']}" if left else "no cell was cut off")
    _note_measurements(folder / "report.jsonl")
    return 0


def _note_measurements(report: Path) -> None:
    known = MEASURED.read_text().splitlines() if MEASURED.exists() else []
    told = report.read_text().splitlines() if report.exists() else []
    new = [line for line in told if _part(line) in ("a", "b", "c") and line not in known]
    if new:
        MEASURED.write_text("\n".join([*known, *new]) + "\n")


def _part(line: str) -> str | None:
    try:
        return json.loads(line)["part"]
    except ValueError:  # the last line of a call that was cut off
        return None


def run_directory(folder: Path, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """The run directory of a finished cell, at once or not at all.

    Its checkpoint has the arrays that the policy reads, and zeros for the others: `evaluate` and `rlkit.load` look at
    the former alone, and training has come to its end. A cell of which all seeds diverged has no checkpoint.
    """
    cell = serialization.decode(Cell, meta["cell"], f"{folder}: cell")
    record = cell.record
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        run = Path(scratch) / "run"
        run.mkdir()
        serialization.write_json(run / "run.json", record)
        serialization.write_text(
            run / "metrics.jsonl", "".join(serialization.dumps(line) + "\n" for line in meta["metrics"])
        )
        told = {name: meta[name] for name in ("commit", "seconds", "diverged")}
        serialization.write_json(run / "cell.json", {**told, "label": cell.label, "command": cell.command})
        if len(meta["diverged"]) < len(record.seeds):
            position = Position(meta["stage"], meta["step"], sum(steps for _, steps in record.stages))
            state = files.filled(shapes_of(record)[-1], arrays, partial=True)
            state = jax.device_put(state, jax.devices()[0])
            with Checkpoints(run / "checkpoints", keep=1, identity=record.identity()) as checkpoints:
                checkpoints.save(
                    position.updates, Progress(position.stage, position.step, state, {}, {}, np.zeros(0, bool))
                )
        run.rename(folder)


def score(path: Path, home: Path) -> int:
    """Evaluate the runs that have no row in the table's CSV, and add one row for each of their seeds."""
    cells = {cell.command: cell for cell in table.cells(path)}
    results = path.with_suffix(".csv")
    for folder in sorted((home / "runs").glob("*")):
        meta, record = serialization.read_json(folder / "cell.json"), Record.read(folder)
        key = table.Key(meta["command"], table.configuration(record))
        have = {(row["command"], row["configuration"]) for row in table.rows(results)}
        if key in have or meta["command"] not in cells:
            continue
        new = list(_rows(cells[meta["command"]], key, meta, folder))
        table.write_rows(results, [*table.rows(results), *new])
        print(f"{folder}: {len(new)} rows")
    return 0


def _rows(cell: table.Cell, key: table.Key, meta: dict[str, Any], folder: Path) -> Iterator[dict[str, object]]:
    """A row for each seed, as `benchmarks.table` writes them for runs of one seed."""
    record, minutes = Record.read(folder), meta["seconds"] / 60
    lost = {int(number): what for number, what in meta["diverged"].items()}
    returns = {} if len(lost) == len(record.seeds) else _returns(folder, record)
    for number, seed in enumerate(record.seeds):
        status = table.FINISHED if number in returns else table.DIVERGED
        outcome = table.Outcome(status, lost.get(number, ""), meta["commit"], None)
        row = table.measure(cell._replace(seed=seed), key, outcome, folder)
        row["device"] = f"{record.device}, {minutes:.1f} minutes for {len(record.seeds)} seeds"
        row["returns_last"] = " ".join(f"{value:.7g}" for value in returns.get(number, ()))
        row["returns_last_fifth"] = ""  # of the last fifth of training, only its end was brought back
        yield row


def _returns(folder: Path, record: Record) -> dict[int, np.ndarray]:
    """[episodes] of each seed that did not diverge, by its number; the evaluation is noted in the run's log."""
    if not evaluations(folder):
        played = play(folder, record, composition_root.catalog().make_env)
        last = len(record.stages) - 1
        position = Position(last, record.stages[last][1], sum(steps for _, steps in record.stages))
        for goal in played.returns:
            sound = Evaluation(*(part[goal][None] for part in (played.returns, played.lengths, played.success)))
            whole = among_all(sound, np.array(played.members), len(record.seeds))
            asked = {"goal": goal} if goal else {}
            parts = {name: values[0] for name, values in whole._asdict().items()}
            if np.isnan(whole.success).all():
                del parts["success"]
            line = {**position._asdict(), **asked, **parts}
            with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(serialization.dumps(line) + "\n")
        conclude(folder)
    played = evaluations(folder)[-1].returns
    return {number: one for number, one in enumerate(played) if np.isfinite(one).all()}
