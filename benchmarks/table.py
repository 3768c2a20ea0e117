"""Make a table of results cell by cell, over days and machines.

    python -m benchmarks.table run benchmarks/tables/baselines.toml --cores 0 1
    python -m benchmarks.table render benchmarks/tables/baselines.toml
    python -m benchmarks.table insert README.md docs/results.md docs/discrete.md

A cell is one agent on one dataset with one seed: a resumable run of ``train.py`` in a folder of its own. What came of
it is a row of the tracked CSV beside the TOML file. ``run`` trains the cells that have no row, ``render`` prints the
table in Markdown, ``insert`` writes the tables into documents, between the lines ``<!-- table FILE.toml -->`` and
``<!-- end -->``.

A row belongs to a cell if its command and its configuration are the cell's. The configuration is a digest of what the
command means: every hyper-parameter, the data's fingerprint, how the policy is evaluated. It follows from run.json of
the run as it was trained; for a cell that has no run yet the command is resolved in the same way, and nothing is
trained. So a row ends with the preset, the default or the data that it was made with: ``run`` removes it and trains the
cell anew.

A run that failed or diverged leaves a row that says so, and is not tried again without ``--retry``, which goes on from
its last checkpoint. A run that was interrupted leaves none; the next ``run`` goes on with it. The commit is that at the
start of the run, "-dirty" where the code that trains differs from it. Core-minutes are CPU-seconds of the process / 60,
evaluations included, of all its parts if it was interrupted. "Last fifth" is the mean of the evaluations after more
than 80 % of the updates.

Datasets that are files are named in the folder ``--files``, so that no path of a machine gets into the table:

    python -m benchmarks.table run benchmarks/tables/discrete.toml --files ../shared/hdf5

The TOML file: ``args`` for every cell, then [[cells]] with ``agent``, ``datasets``, ``seeds`` and ``args`` (as on the
command line), and ``label`` to tell two settings of one agent apart.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import hashlib
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rlkit.types import InputError

if TYPE_CHECKING:
    from rlkit.evaluation.statistics import Estimate
    from rlkit.runs.record import Record

ROOT = Path(__file__).parent.parent
CODE = ("agents", "envs", "rlkit", "train.py")  # what a run executes
COLUMNS = (
    "label", "agent", "dataset", "seed", "configuration", "status", "problem", "steps", "returns_last",
    "returns_last_fifth", "random", "expert", "reference", "data_return", "data_low", "data_high", "core_minutes",
    "commit", "date", "device", "versions", "command",
)  # fmt: skip
FINISHED, DIVERGED, FAILED = "finished", "diverged", "failed"
INTERRUPTED = (75, 130, 143)  # exit codes of a run that is to go on (docs/reliability.md)
HEADER = ("dataset", "method", "return, last checkpoint", "score, last checkpoint", "score, last fifth", "core-minutes")
NOTE = "Mean [95 % interval over seeds and starts] (number of seeds); of the data, over episodes."
ONE_SEED = "\\* The interval is over the episodes of the only seed."
DIRECTORIES = re.compile(r"(?:/[^\s/:]+)+/")  # of absolute paths


class Cell(NamedTuple):
    """One run. ``args`` are those of ``rlkit train`` beyond agent, dataset, seed and folder."""

    label: str
    agent: str
    dataset: str
    seed: int
    args: tuple[str, ...]

    def arguments(self, out: str = "OUT") -> list[str]:
        """Arguments of train.py."""
        where = ["--dataset", self.dataset, "--seed", str(self.seed), "--out", out, "--resume", "auto"]
        return ["train", self.agent, *where, *self.args]

    @property
    def command(self) -> str:
        """The command line, without any path of this machine."""
        return shlex.join(["python", "train.py", *self.arguments()])

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.label} on {self.dataset}, seed {self.seed}"


class Key(NamedTuple):
    """What a row and a cell must share."""

    command: str
    configuration: str


class Outcome(NamedTuple):
    """What came of a run, and what it took. ``core_minutes`` is None if a part of it was never counted."""

    status: str
    problem: str
    commit: str
    core_minutes: float | None


def cells(path: Path) -> list[Cell]:
    """The cells of a TOML file, in the order of their seeds, so that an unfinished table has its rows filled evenly."""
    table = tomllib.loads(path.read_text())
    found = []
    for entry in table["cells"]:
        args = tuple(shlex.split(table.get("args", "")) + shlex.split(entry.get("args", "")))
        for seed, dataset in itertools.product(entry["seeds"], entry["datasets"]):
            found.append(Cell(entry.get("label", entry["agent"]), entry["agent"], dataset, seed, args))
    return sorted(found, key=lambda cell: cell.seed)


def rows(path: Path, columns: Sequence[str] = COLUMNS) -> list[dict[str, str]]:
    """The rows of the CSV file ``path``, none if it has not been begun. InputError if its columns are not those."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        found = list(reader)
    if tuple(reader.fieldnames or ()) != tuple(columns):
        raise InputError(f"{path}: its columns are not those of this version; remove the file and run the table anew")
    return found


def write_rows(path: Path, found: Iterable[Mapping[str, object]], columns: Sequence[str] = COLUMNS) -> None:
    """Write the CSV file ``path`` anew, at once or not at all."""
    part = path.with_name(f"{path.name}.part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    part.replace(path)


def configuration(record: Record) -> str:
    """Digest of what a run is, its seed left out, so that the rows of one method on one dataset share it."""
    identity = record.identity()
    del identity["seeds"]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def resolve(cell: Cell, files: Path | None) -> str:
    """The configuration of a run that is still to be made, its dataset sought in the folder ``files``.

    InputError if the command is refused.
    """
    import train as composition_root
    from rlkit.commands import parsing, preparation

    catalog = composition_root.catalog()
    try:
        with contextlib.chdir(files or Path.cwd()):
            record = preparation.resolve(parsing.parse(cell.arguments(), catalog), catalog)
    except SystemExit:  # of the parser of the command line, which has told why
        raise InputError("the command is refused") from None
    return configuration(record)


def commit() -> str:
    """The commit that is checked out, "-dirty" where the code that trains differs from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=ROOT)
        return done.stdout.strip()

    try:
        name = git("rev-parse", "--short", "HEAD")
        changes = git("status", "--porcelain", "--", *CODE)
    except FileNotFoundError:
        return "unknown"
    return f"{name}-dirty" if name and changes else name or "unknown"


def train_cell(cell: Cell, folder: Path, core: int, files: Path | None) -> Outcome | None:
    """Run ``cell`` to its end in ``folder`` on one core; None if it was interrupted.

    Beside the folder stand the log and FOLDER.parts: a line for each start of the run, and one for each end.
    """
    from rlkit.runs.run import finished
    from rlkit.training.divergence import ADVICE

    parts, log = folder.with_suffix(".parts"), folder.with_suffix(".log")
    folder.parent.mkdir(parents=True, exist_ok=True)
    _note(parts, {"commit": commit()})
    with log.open("ab") as stream:
        begun = stream.tell()
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *cell.arguments(str(folder))],
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=files,
        )
        os.sched_setaffinity(process.pid, {core})
        _, status, used = os.wait4(process.pid, 0)
    code = process.returncode = os.waitstatus_to_exitcode(status)
    _note(parts, {"seconds": used.ru_utime + used.ru_stime, "code": code})
    if code in INTERRUPTED:
        return None
    told = log.read_bytes()[begun:].decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(told) if line.strip()), "")
    problem = DIRECTORIES.sub("", last)
    if code == 0:
        return _outcome(FINISHED, "", parts)
    if code == 1 and finished(folder):  # some evaluation before the last is invalid
        return _outcome(FINISHED, problem, parts)
    if code == 1 and ADVICE in problem:
        return _outcome(DIVERGED, problem, parts)
    return _outcome(FAILED, f"exit code {code}: {problem}", parts)


def _note(path: Path, line: dict) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _outcome(status: str, problem: str, parts: Path) -> Outcome:
    lines = [json.loads(line) for line in parts.read_text().splitlines()]
    commits = dict.fromkeys(line["commit"] for line in lines if "commit" in line)
    seconds = [line["seconds"] for line in lines if "seconds" in line]
    counted = 2 * len(seconds) == len(lines)  # each start has its end
    return Outcome(status, problem, " then ".join(commits), sum(seconds) / 60 if counted else None)


def measure(cell: Cell, key: Key, outcome: Outcome, folder: Path) -> dict[str, object]:
    """The CSV row of a run that came to its end in ``folder``. A run that failed early has no run.json."""
    row: dict[str, object] = dict.fromkeys(COLUMNS, "") | {
        "label": cell.label,
        "agent": cell.agent,
        "dataset": cell.dataset,
        "seed": cell.seed,
        "configuration": key.configuration,
        "status": outcome.status,
        "problem": outcome.problem,
        "core_minutes": "" if outcome.core_minutes is None else f"{outcome.core_minutes:.2f}",
        "commit": outcome.commit,
        "date": datetime.date.today().isoformat(),
        "command": key.command,
    }
    if (folder / "run.json").exists():
        row |= _recorded(folder)
    if outcome.status == FINISHED:
        row |= _returns(folder)
    return row


def _recorded(folder: Path) -> dict[str, object]:
    from rlkit.runs.record import Record

    record = Record.read(folder)
    data = record.data.mean_return
    row = {
        "configuration": configuration(record),
        "steps": record.steps,
        "data_return": _number(data.value),
        "data_low": _number(data.low),
        "data_high": _number(data.high),
        "device": record.device,
        "versions": json.dumps(record.versions, sort_keys=True),
    }
    if record.reference:
        row["random"] = _number(record.reference.random)
        row["expert"] = _number(record.reference.expert)
        row["reference"] = record.reference.source
    return row


def _returns(folder: Path) -> dict[str, object]:
    """Each episode's return: at the last checkpoint, and its mean over the evaluations of the last fifth."""
    from rlkit.evaluation.statistics import last_fifth
    from rlkit.runs.run import evaluations

    done = evaluations(folder)
    if not done:  # a run without an environment, or with --eval-episodes 0
        return {}
    late = last_fifth([one.position.step for one in done], [one.returns[0] for one in done])
    return {"returns_last": _numbers(done[-1].returns[0]), "returns_last_fifth": _numbers(late)}


def _number(value: float) -> str:
    return f"{value:.7g}"


def _numbers(values: Iterable[float]) -> str:
    return " ".join(map(_number, values))


def run(
    path: Path, out: Path, cores: Sequence[int], only: str | None = None, files: Path | None = None, retry: bool = False
) -> int:
    """Run the cells that the CSV lacks, one process per core at a time; returns how many have no sound result.

    Rows whose cell has another configuration by now, or is no longer in the table, are removed first; with ``only``,
    those of that label. With ``retry`` those of runs that failed or diverged are, too.
    """
    table, results = cells(path), path.with_suffix(".csv")
    asked = [cell for cell in table if only in (None, cell.label)]
    keys, refused = _keys(asked, files)
    known = rows(results)
    kept = [row for row in known if _stays(row, only, keys, refused, retry)]
    if len(kept) < len(known):
        print(f"{results}: {len(known) - len(kept)} rows removed, of other configurations or to be tried again")
        write_rows(results, kept)
    have = {(row["command"], row["configuration"]) for row in kept}
    todo = [(cell, key) for cell, key in keys.items() if key not in have]
    lock, stop = threading.Lock(), threading.Event()
    free: Queue[int] = Queue()
    for core in cores:
        free.put(core)

    def one(cell: Cell, key: Key) -> bool:
        core = free.get()
        folder = out.resolve() / cell.label / cell.dataset / f"{cell.seed}-{key.configuration}"
        try:
            if stop.is_set():
                return False
            outcome = train_cell(cell, folder, core, files)
        finally:
            free.put(core)
        if outcome is None:
            stop.set()
            print(f"{cell.name}: interrupted; the same command goes on with it", file=sys.stderr)
            return False
        row = measure(cell, key, outcome, folder)
        with lock:
            write_rows(results, [*rows(results), row])
        told = f"{outcome.status} {outcome.problem}".strip()
        print(f"{cell.name}: {told} ({row['core_minutes'] or '?'} core-minutes)", flush=True)
        return outcome.status == FINISHED

    with ThreadPoolExecutor(len(cores)) as pool:
        bad = sum(not good for good in pool.map(one, *zip(*todo, strict=True))) if todo else 0
    return bad + len(refused)


def _keys(asked: Sequence[Cell], files: Path | None) -> tuple[dict[Cell, Key], list[Cell]]:
    """The keys of the cells, and the cells whose command is refused, of which each is told in a line."""
    resolved: dict[Cell, str] = {}
    keys, refused = {}, []
    for cell in asked:
        like = cell._replace(seed=0)  # a configuration has no seed
        try:
            if like not in resolved:
                resolved[like] = resolve(cell, files)
        except InputError as error:
            print(f"{cell.name}: {error}", file=sys.stderr)
            refused.append(cell)
        else:
            keys[cell] = Key(cell.command, resolved[like])
    return keys, refused


def _stays(row: dict, only: str | None, keys: dict[Cell, Key], refused: Sequence[Cell], retry: bool) -> bool:
    if only not in (None, row["label"]):
        return True
    if row["command"] in {cell.command for cell in refused}:  # whether it is still true cannot be told here
        return True
    current = (row["command"], row["configuration"]) in set(keys.values())
    return current and not (retry and row["status"] != FINISHED)


def render(path: Path, agent: str | None = None) -> str:
    """The table of the TOML file ``path`` in Markdown, from the CSV beside it; of one ``agent`` alone if it is given.

    Rows of commands that are no longer in the table are left out. InputError if rows of one method on one dataset have
    different configurations, or the same seed.
    """
    order = [cell for cell in cells(path) if agent in (None, cell.agent)]
    labels = {cell.command: cell.label for cell in order}  # not the row's: a method may be called otherwise by now
    done = [row for row in rows(path.with_suffix(".csv")) if row["command"] in labels]
    lines = ["| " + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|"]
    for dataset in dict.fromkeys(cell.dataset for cell in order):
        here = [row for row in done if row["dataset"] == dataset]
        lines += [_data_line(row) for row in here if row["data_return"]][:1]
        for label in dict.fromkeys(cell.label for cell in order):
            if group := [row for row in here if labels[row["command"]] == label]:
                lines.append(_line(label, group, path))
    note = f"{NOTE} {ONE_SEED}" if any("]*" in line for line in lines) else NOTE
    return "\n".join([*lines, "", note])


def _data_line(row: dict[str, str]) -> str:
    returns = np.array([float(row[name]) for name in ("data_return", "data_low", "data_high")])
    scores = _text(*_score(returns, row)) if row["random"] else "-"
    return f"| {row['dataset']} | data | {_text(*returns)} | {scores} | | |"


def _line(label: str, group: Sequence[dict[str, str]], path: Path) -> str:
    """The line of one method on one dataset."""
    first = group[0]
    name = f"{path.with_suffix('.csv')}: rows of {label} on {first['dataset']}"
    if len({row["configuration"] for row in group}) > 1:
        raise InputError(f"{name} have different configurations; run the table, which removes the old ones")
    if len({row["seed"] for row in group}) < len(group):
        raise InputError(f"{name} have the same seed twice; remove one of the two")
    sound = [row for row in group if row["status"] == FINISHED]
    lost = [f"{sum(row['status'] == status for row in group)} {status}" for status in (DIVERGED, FAILED)]
    lost = [text for text in lost if not text.startswith("0 ")]
    count = ", ".join([str(len(sound)), *lost])
    texts = []
    for column, scored in (("returns_last", False), ("returns_last", True), ("returns_last_fifth", True)):
        returns = [row[column].split() for row in sound if row[column]]
        if not returns or (scored and not first["random"]):
            texts.append(f"- ({count})")
            continue
        values = np.array(returns, np.float64)
        texts.append(f"{_interval(_score(values, first) if scored else values)} ({count})")
    minutes = [float(row["core_minutes"]) for row in sound if row["core_minutes"]]
    spent = f"{np.mean(minutes):.1f}" if minutes else "-"
    return f"| {first['dataset']} | `{label}` | {' | '.join(texts)} | {spent} |"


def _score(returns: np.ndarray, row: dict[str, str]) -> np.ndarray:
    from rlkit.evaluation.evaluate import score

    return score(returns, (float(row["random"]), float(row["expert"])))


def _interval(values: np.ndarray) -> str:
    """Mean and interval of [S, E] values, which are of the same E starts for every seed."""
    from rlkit.evaluation.statistics import estimate

    found: Estimate = estimate(values)
    star = "*" if len(values) == 1 else ""
    return _text(found.value, found.low, found.high) + star


def _text(value: float, low: float, high: float) -> str:
    if np.isnan(low):  # of one number
        return f"{value:z.1f}"
    return f"{value:z.1f} [{low:z.1f}, {high:z.1f}]"


def insert(text: str, name: str, markdown: str) -> str:
    """``text`` with ``markdown`` between its line "<!-- table NAME -->" and the next "<!-- end -->"."""
    mark = f"<!-- table {name} -->"
    before, found, after = text.partition(mark)
    _, ended, rest = after.partition("<!-- end -->")
    if not found or not ended:
        raise InputError(f"there is no line {mark} with an <!-- end --> after it")
    return f"{before}{mark}\n\n{markdown}\n\n{ended}{rest}"


def insert_all(document: Path) -> str:
    """The text of ``document`` with each of its tables rendered anew."""
    text = document.read_text()
    for name in re.findall(r"<!-- table (\S+\.toml) -->", text):
        text = insert(text, name, render(ROOT / name))
    return text


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    actions = parser.add_subparsers(dest="action", required=True)
    runner = actions.add_parser("run", help="train the cells that have no row")
    runner.add_argument("table", type=Path)
    runner.add_argument("--out", type=Path, default=Path("runs/table"), help="folder of the runs")
    runner.add_argument("--files", type=Path, help="folder of datasets that are files; default: this one")
    runner.add_argument("--cores", type=int, nargs="+", default=[0], help="CPU cores, one run on each at a time")
    runner.add_argument("--only", metavar="LABEL", help="the cells of this label alone")
    runner.add_argument("--retry", action="store_true", help="try cells again that failed or diverged")
    actions.add_parser("render", help="print the table in Markdown").add_argument("table", type=Path)
    writer = actions.add_parser("insert", help="write the tables into documents")
    writer.add_argument("documents", type=Path, nargs="+")
    options = parser.parse_args()
    try:
        if options.action == "run":
            bad = run(options.table, options.out, options.cores, options.only, options.files, options.retry)
            return min(bad, 1)
        if options.action == "render":
            print(render(options.table))
            return 0
        for document in options.documents:
            document.write_text(insert_all(document))
        return 0
    except InputError as error:
        print(f"table: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
