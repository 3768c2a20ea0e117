"""Make a table of results cell by cell, over days and machines.

    python -m benchmarks.table run benchmarks/tables/sac_rnd.toml --cores 0 1
    python -m benchmarks.table show benchmarks/tables/sac_rnd.toml

A cell is one agent on one dataset with one seed: a resumable run of ``train.py`` in a folder of its own. A finished run
is appended to the tracked CSV beside the TOML file, with its command, versions and device; a cell that is there is not
run again. ``show`` prints the table in Markdown, with the mean over seeds and its 95 % interval, and the commands.

Datasets that are files are named in the folder ``--files``, so that no path of a machine gets into the table:

    python -m benchmarks.table run benchmarks/tables/discrete.toml --files ../shared/hdf5

The TOML file: ``args`` for every cell, then [[cells]] with ``agent``, ``datasets``, ``seeds`` and ``args`` (as on the
command line), and ``label`` to tell two settings of one agent apart.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import itertools
import json
import os
import shlex
import subprocess
import sys
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).parent.parent
COLUMNS = (
    "label", "agent", "dataset", "seed", "steps", "return_last", "score_last", "score_last_fifth", "episodes",
    "data_return", "data_score", "reference", "date", "commit", "device", "versions", "command",
)  # fmt: skip


class Cell(NamedTuple):
    """One run. ``args`` are those of ``rlkit train`` beyond agent, dataset, seed and folder."""

    label: str
    agent: str
    dataset: str
    seed: int
    args: tuple[str, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it apart in the CSV."""
        return self.label, self.dataset, str(self.seed)

    def command(self, out: str = "OUT") -> list[str]:
        """Arguments of train.py."""
        where = ["--dataset", self.dataset, "--seed", str(self.seed), "--out", out, "--resume", "auto"]
        return ["train", self.agent, *where, *self.args]


def cells(path: Path) -> list[Cell]:
    """The cells of a TOML file, in the order of their seeds, so that an unfinished table has its rows filled evenly."""
    table, found = tomllib.loads(path.read_text()), []
    for entry in table["cells"]:
        args = tuple(shlex.split(table.get("args", "")) + shlex.split(entry.get("args", "")))
        for seed, dataset in itertools.product(entry["seeds"], entry["datasets"]):
            found.append(Cell(entry.get("label", entry["agent"]), entry["agent"], dataset, seed, args))
    return sorted(found, key=lambda cell: cell.seed)


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table's CSV, none if it has not been begun."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def measure(cell: Cell, folder: Path) -> dict[str, object]:
    """The CSV row of a finished run."""
    from rlkit.evaluate import score
    from rlkit.run import Record, evaluations
    from rlkit.statistics import last_fifth

    record, done = Record.read(folder), evaluations(folder)
    scale = (record.reference.random, record.reference.expert)
    returns = np.array([e.returns[0].mean() for e in done])
    late = last_fifth([e.place.step for e in done], score(returns, scale))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    return {
        "label": cell.label,
        "agent": cell.agent,
        "dataset": cell.dataset,
        "seed": cell.seed,
        "steps": record.steps,
        "return_last": round(float(returns[-1]), 2),
        "score_last": round(float(score(returns[-1], scale)), 2),
        "score_last_fifth": round(float(late), 2),
        "episodes": done[-1].returns.shape[1],
        "data_return": round(record.data.mean_return.value, 2),
        "data_score": round(float(score(record.data.mean_return.value, scale)), 2),
        "reference": record.reference.source,
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip() or "uncommitted",
        "device": record.device,
        "versions": json.dumps(record.versions, sort_keys=True),
        "command": shlex.join(["python", "train.py", *cell.command()]),
    }


def run(path: Path, out: Path, cores: list[int], only: str | None, files: Path | None = None) -> int:
    """Run the cells that the CSV lacks, one process per core at a time, in the folder ``files``; returns how many
    failed."""
    results, lock, free = path.with_suffix(".csv"), threading.Lock(), Queue()
    have = {(r["label"], r["dataset"], r["seed"]) for r in rows(results)}
    for core in cores:
        free.put(core)

    def one(cell: Cell) -> bool:
        core, folder = free.get(), out.resolve() / cell.label / cell.dataset / str(cell.seed)
        try:
            command = [sys.executable, str(ROOT / "train.py"), *cell.command(str(folder))]
            folder.parent.mkdir(parents=True, exist_ok=True)
            with folder.with_suffix(".log").open("a") as log:
                process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=files)
                os.sched_setaffinity(process.pid, {core})
                code = process.wait()
        finally:
            free.put(core)
        if code:
            print(f"{cell.key}: exit code {code}, see {folder.with_suffix('.log')}", file=sys.stderr)
            return False
        with lock:
            row, new = measure(cell, folder), not results.exists()
            with results.open("a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                if new:
                    writer.writeheader()
                writer.writerow(row)
        print(f"{cell.key}: score {row['score_last']}, last fifth {row['score_last_fifth']}", flush=True)
        return True

    todo = [cell for cell in cells(path) if cell.key not in have and only in (None, cell.label)]
    with ThreadPoolExecutor(len(cores)) as pool:
        return sum(not good for good in pool.map(one, todo))


def show(path: Path) -> str:
    """The table in Markdown: normalised scores, mean over seeds [95 % interval]."""
    from rlkit.statistics import estimate

    done = rows(path.with_suffix(".csv"))
    labels, datasets = (list(dict.fromkeys(r[c] for r in done)) for c in ("label", "dataset"))

    def cell(label: str, dataset: str, column: str) -> str:
        values = [[float(r[column])] for r in done if (r["label"], r["dataset"]) == (label, dataset)]
        if not values:
            return "-"
        value = estimate(values)
        interval = f" [{value.low:.1f}, {value.high:.1f}]" if len(values) > 1 else ""
        return f"{value.value:.1f}{interval} ({len(values)})"

    lines = ["| dataset | data | " + " | ".join(f"{x}, last | {x}, last fifth" for x in labels) + " |"]
    lines.append("|---|---|" + "---|---|" * len(labels))
    for dataset in datasets:
        data = next(r["data_score"] for r in done if r["dataset"] == dataset)
        scores = [cell(x, dataset, c) for x in labels for c in ("score_last", "score_last_fifth")]
        lines.append(f"| {dataset} | {float(data):.1f} | " + " | ".join(scores) + " |")
    commands = dict.fromkeys(r["command"] for r in done if r["seed"] == "0")
    return "\n".join([*lines, "", "Mean over seeds [95 % bootstrap interval] (number of seeds).", "", *commands])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("action", choices=("run", "show"))
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/table"), help="folder of the runs")
    parser.add_argument("--files", type=Path, help="folder of datasets that are files; default: this one")
    parser.add_argument("--cores", type=int, nargs="+", default=[0], help="CPU cores, one run on each at a time")
    parser.add_argument("--only", metavar="LABEL", help="run the cells of this label alone")
    options = parser.parse_args()
    if options.action == "show":
        print(show(options.table))
        return 0
    return min(run(options.table, options.out, options.cores, options.only, options.files), 1)


if __name__ == "__main__":
    sys.exit(main())
