"""The run directory: everything that a run says about itself.

run.json       what was run: agent, configuration, data, spec, statistics, versions (rlkit.runs.record)
run.1.json     of a run that went on with more updates, or with other evaluations or log lines: what run.json was before
metrics.jsonl  training metrics and evaluations; holds no clock reading, so that a run that was interrupted and resumed
               leaves the same bytes as one that was not; "nan" stands for seeds that diverged
timing.jsonl   rates, times, memory
checkpoints/   see rlkit.runs.checkpoint
tensorboard/   the scalars of metrics.jsonl, means over seeds
result.json    final scores, and every episode's return in the last evaluation; its presence says that the run is
               finished
curve.png      the learning curve
episodes.sums  a digest of each episode that training saw (rlkit.datasets.sums)
returns.png    of a run that is asked for several returns: what came of each
.lock          who writes here, while somebody does
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

import numpy as np

from rlkit import messages
from rlkit.datasets import sums as episode_sums
from rlkit.evaluation.evaluate import Evaluation
from rlkit.runs import loggers, serialization
from rlkit.runs.record import Record
from rlkit.types import InputError, RunError, one_line

Resume = Literal["auto", "never", "must"]


class Position(NamedTuple):
    """A point of a run: after ``step`` updates of stage number ``stage``, which are ``updates`` of all stages."""

    stage: int
    step: int
    updates: int


class Evaluated(NamedTuple):
    """One evaluation, as metrics.jsonl has it."""

    position: Position  # where in the run it was made
    returns: np.ndarray  # [S, episodes], NaN for seeds that diverged
    lengths: np.ndarray  # [S, episodes], steps
    success: np.ndarray  # [S, episodes], 1 or 0; NaN for seeds that diverged and where the environment does not tell
    goal: str = ""  # label of what the agent was asked for
    seed: int | None = None  # episode i was reset with seed + i; the first versions did not say

    @property
    def starts(self) -> tuple[int | None, int]:
        """What two evaluations must share to have begun from the same starts."""
        return self.seed, self.returns.shape[1]


def claim(folder: Path, resume: Resume) -> None:
    """Raise InputError if a run may not be written to ``folder``; changes nothing."""
    if serialization.exists(folder) and not folder.is_dir():
        raise InputError(f"{folder} is a file: choose a folder for --out")
    exists = (folder / "run.json").exists()
    if exists and resume == "never":
        raise InputError(f"{folder} holds a run: add --resume auto to continue it, or choose another --out")
    if resume == "must" and not checkpoint_numbers(folder / "checkpoints"):
        raise InputError(f"{folder} holds no checkpoint to continue from: name a run with --out, or use --resume auto")
    if exists or not folder.exists():
        return
    if any(not path.name.startswith(".") for path in folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no run: choose another --out")


def finished(folder: Path) -> bool:
    """Whether the run in ``folder`` has come to its end."""
    return (folder / "result.json").exists()


def run_folders(root: Path) -> Iterator[Path]:
    """Run directories in ``root``, itself too, sorted, numbers in their names by size: those of a sweep are named by
    its values. Nothing below a run is looked at."""
    for name, below, files in os.walk(root):
        below.sort(key=_by_numbers)
        if "run.json" in files:
            below.clear()
            yield Path(name)


def _by_numbers(name: str) -> list[tuple[float, str]]:
    """Sorts beta=3 before beta=10, and 1e-4 before 0.01. A minus is a sign only after "="."""
    parts = re.split(r"((?:(?<==)-)?\d+(?:\.\d+)?(?:e[-+]?\d+)?)", name)
    return [(float(part), part) if number % 2 else (0.0, part) for number, part in enumerate(parts)]


def named_runs(folders: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """The runs that a user named, by their folders or by one that holds them, as often as they were named; and whether
    by its own.

    Raises InputError for a folder that is none, or that holds no run.
    """
    for folder in folders:
        if not serialization.exists(folder):
            raise InputError(f"{folder}: no such folder; name a run directory, or a folder that holds runs")
        below = list(run_folders(folder))
        if not below:
            raise InputError(f"{folder} is not a run directory, and holds none: rlkit train writes one")
        for run in below:
            yield run, run == folder


def earlier_records(folder: Path) -> list[Path]:
    """What run.json of the run in ``folder`` was before each change, oldest first."""
    numbers = []
    for path in folder.glob("run.*.json"):
        _, number, _ = path.name.split(".", 2)
        if number.isdigit():
            numbers.append(int(number))
    return [folder / f"run.{number}.json" for number in sorted(numbers)]


def checkpoint_numbers(folder: Path) -> list[int]:
    """Checkpoints in ``folder``, by their updates, oldest first; whether they are sound is not known."""
    names = [path.name for path in folder.glob("*")]
    return sorted(int(name) for name in names if name.isdigit())


# --- reading metrics.jsonl ---


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a JSON lines file; a last line that a killed process left unfinished is skipped."""
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            continue
        try:
            form = json.loads(line)
            _position(form)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: line {number} is not what was written ({one_line(error)})") from None
        yield form


def evaluations(folder: Path) -> list[Evaluated]:
    """The evaluations of the run in ``folder`` that are its score, those of its first goal, in order."""
    by_goal = evaluations_by_goal(folder)
    return next(iter(by_goal.values()), [])


def evaluations_by_goal(folder: Path) -> dict[str, list[Evaluated]]:
    """Label of a goal -> the evaluations of the run in ``folder``, in order, all of the same seeds. How many episodes
    there are, and from which starts, is as it was at each: a run may go on with other ones."""
    path = folder / "metrics.jsonl"
    by_goal: dict[str, list[Evaluated]] = {}
    seeds = None
    for line in lines(path):
        if "returns" not in line:
            continue
        evaluated = _evaluated(line, path)
        shapes = {evaluated.returns.shape, evaluated.lengths.shape, evaluated.success.shape}
        if evaluated.returns.ndim != 2 or len(shapes) > 1:
            raise InputError(f"{path}: an evaluation has not as many episodes for each seed")
        if seeds is None:
            seeds = len(evaluated.returns)
        if len(evaluated.returns) != seeds:
            raise InputError(f"{path}: not every evaluation has the same seeds")
        by_goal.setdefault(evaluated.goal, []).append(evaluated)
    return by_goal


def _evaluated(line: Mapping[str, Any], path: Path) -> Evaluated:
    try:
        returns = np.array(line["returns"], np.float64)
        lengths = np.array(line["lengths"], np.int64)
        success = np.full(returns.shape, np.nan)  # where the environment does not tell, the line does not either
        if "success" in line:
            success = np.array(line["success"], np.float64)
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: an evaluation is not what was written ({reason})") from None
    goal = str(line.get("goal", ""))
    seed = line.get("seed")
    if seed is not None and type(seed) is not int:
        raise InputError(f"{path}: an evaluation is not what was written (seed {seed!r})")
    return Evaluated(_position(line), returns, lengths, success, goal, seed)


def _position(line: Mapping[str, Any]) -> Position:
    position = Position(line["stage"], line["step"], line["updates"])
    if any(type(value) is not int for value in position):
        raise TypeError(f"{position} is no position")
    return position


def final_metrics(folder: Path) -> dict[str, list[float]]:
    """The metrics that the run in ``folder`` logged last, [S] each."""
    return _last_metrics(lines(folder / "metrics.jsonl"))


def logged_metrics(folder: Path) -> list[tuple[Position, dict[str, np.ndarray]]]:
    """Each line of metrics of the run in ``folder``: where the run stood, and "net/quantity" -> [S], NaN for seeds that
    had diverged. InputError where a metric has not a number for each seed."""
    path = folder / "metrics.jsonl"
    found = []
    seeds = set()
    for line in lines(path):
        if "metrics" not in line:
            continue
        try:
            values = {str(name): np.array(numbers, np.float64) for name, numbers in line["metrics"].items()}
        except (AttributeError, OverflowError, TypeError, ValueError) as error:
            raise InputError(f"{path}: a line of metrics is not what was written ({one_line(error)})") from None
        seeds.update(numbers.shape for numbers in values.values())
        if len(seeds) > 1 or any(len(shape) != 1 for shape in seeds):
            raise InputError(f"{path}: not every metric has a number for each seed")
        found.append((_position(line), values))
    return found


def diverged(folder: Path) -> set[int]:
    """Numbers, from 0, of the seeds of the run in ``folder`` that had diverged by its last line of metrics."""
    return _seeds_with_nan(final_metrics(folder))


def _last_metrics(logged: Iterable[Mapping[str, Any]]) -> dict[str, list[float]]:
    metrics: dict[str, list[float]] = {}
    for line in logged:
        metrics = line.get("metrics", metrics)
    return metrics


def _seeds_with_nan(metrics: Mapping[str, Sequence[Any]]) -> set[int]:
    seeds = set()
    for values in metrics.values():
        seeds.update(seed for seed, value in enumerate(values) if value == "nan")
    return seeds


# --- writing ---


class Run:
    """A run directory that is open for writing; a context manager.

    Makes the directory and its record, or checks that the record there is the same run: InputError lists what differs.
    What may differ (rlkit.runs.record.CHANGEABLE) is recorded, and the record so far is kept as run.1.json and so on.
    ``wandb`` adds Weights & Biases to the loggers. A logger that fails is dropped with one line on stderr. ``sums`` are
    those of the episodes that it trains on, see rlkit.datasets.sums.
    """

    def __init__(self, folder: Path, record: Record, *, wandb: bool = False, sums: np.ndarray | None = None):
        self.folder = folder
        self.record = record
        self.diverged: set[int] = set()  # numbers of the seeds that have diverged, whose metrics are NaN from then on
        self.evaluated = False  # whether the position that the run goes on from has its evaluation
        self.failed = 0  # evaluations that are invalid
        self._wandb = wandb
        self._metrics: TextIO | None = None
        self._timing: TextIO | None = None
        self._loggers: list[loggers.Logger] = []
        if (folder / "run.json").exists():
            self._check_record()
        else:
            self._write_record()
        if sums is not None and not (folder / episode_sums.FILE).exists():
            self._write_sums(sums)

    def _check_record(self) -> None:
        recorded = Record.read(self.folder)
        differences = recorded.differences(self.record)
        if differences:
            cure = "choose another --out"
            if recorded.online != self.record.online:
                cure += (
                    f", or collect more in a run that goes on from it: rlkit finetune {self.folder} --online.steps N"
                )
            raise InputError(f"{self.folder} holds another run ({'; '.join(differences)}): {cure}")
        drift = recorded.drift(self.record)
        if drift:
            messages.tell(f"{self.folder} goes on, but not to the same bits ({'; '.join(drift)})")
        changes = recorded.changes(self.record)
        if not changes:
            return
        listed = "; ".join(changes)
        if finished(self.folder) and self.record.steps == recorded.steps:
            self.record = recorded
            told = f"{self.folder} is finished and stays as it is ({listed})"
            messages.tell(f"{told}: rlkit evaluate makes other evaluations")
            return
        messages.tell(f"{self.folder} goes on with other settings ({listed})")
        self._change_record()

    def _change_record(self) -> None:
        """Keep the record so far, which the checkpoints so far are sealed with, and write the new one. Whenever this is
        cut off, what is there is a run that can go on."""
        path = self.folder / "run.json"
        earlier = earlier_records(self.folder)
        try:
            (self.folder / "result.json").unlink(missing_ok=True)
            text = path.read_text(encoding="utf-8")
            serialization.write_text(self.folder / f"run.{len(earlier) + 1}.json", text)
        except OSError as error:
            raise self._unwritten(error) from error
        self._write_record()

    def _write_record(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            serialization.write_json(self.folder / "run.json", self.record)
        except OSError as error:
            raise self._unwritten(error) from error

    def _write_sums(self, sums: np.ndarray) -> None:
        try:
            serialization.write_bytes(self.folder / episode_sums.FILE, episode_sums.to_bytes(sums))
        except OSError as error:
            raise self._unwritten(error) from error

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        for stream in (self._metrics, self._timing):
            if stream is not None:
                stream.close()
        for logger in tuple(self._loggers):
            self._attempt(logger, logger.close)

    def begin(self, position: Position | None, goals: int = 1) -> None:
        """Open the logs to go on after ``position``, None for a new start; what metrics.jsonl says of later is dropped.

        An evaluation at ``position`` that was invalid, or lacks one of the ``goals``, is dropped too: it is to be made
        again.
        """
        path = self.folder / "metrics.jsonl"
        kept = self._lines_to_keep(path, position, goals)
        self.failed = sum("invalid" in line for line in kept)
        self.diverged = _seeds_with_nan(_last_metrics(kept))
        text = "".join(f"{serialization.dumps(line)}\n" for line in kept)
        try:
            serialization.write_text(path, text)
            self._metrics = path.open("a", encoding="utf-8")
            self._timing = (self.folder / "timing.jsonl").open("a", encoding="utf-8")
        except OSError as error:
            raise self._unwritten(error) from error
        done = position.updates if position else 0
        config = serialization.encode(self.record)
        self._loggers = loggers.start(self.folder, config, done, wandb=self._wandb)

    def _lines_to_keep(self, path: Path, position: Position | None, goals: int) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl that still hold at ``position``; sets ``evaluated``."""
        before = []
        here = []
        for line in lines(path):
            if position is None or _position(line) > position:
                continue
            group = here if _position(line) == position else before
            group.append(line)
        returned = [line for line in here if "returns" in line]
        self.evaluated = len(returned) == goals
        dropped = {"invalid"} if self.evaluated else {"invalid", "returns"}
        return before + [line for line in here if dropped.isdisjoint(line)]

    def metrics(self, position: Position, metrics: Mapping[str, np.ndarray]) -> None:
        """Log training metrics, [S] each. RunError if the disk takes no more."""
        values = {}
        means = {}
        for name in sorted(metrics):
            values[name] = np.asarray(metrics[name])
            means[name] = _mean(values[name])
        self._write(self._metrics, {**position._asdict(), "metrics": values})
        self._log_scalars(position, means)

    def evaluation(self, position: Position, played: Evaluation, goals: Sequence[str] = ("",)) -> None:
        """Log one evaluation, a line for each goal. RunError if the disk takes no more.

        Args:
            position: where the run stands.
            played: of G goals and all S seeds; those that diverged have returns NaN and lengths 0.
            goals: [G] labels; the first goal's scalars are named without it.
        """
        new_lines = []
        scalars = {}
        for goal, returns, lengths, success in zip(goals, *played, strict=True):
            line: dict[str, Any] = position._asdict()
            if goal:
                line["goal"] = goal
            if self.record.evaluation is not None:
                line["seed"] = self.record.evaluation.seed
            line["returns"] = returns
            line["lengths"] = lengths
            sound = lengths > 0
            suffix = "" if goal == goals[0] else f" of {goal}"
            scalars[f"evaluation/return{suffix}"] = _mean(returns[sound])
            scalars[f"evaluation/length{suffix}"] = _mean(lengths[sound])
            if np.isfinite(success).any():
                line["success"] = success
                scalars[f"evaluation/success{suffix}"] = _mean(success[sound])
            new_lines.append(line)
        self._write(self._metrics, *new_lines)
        self._log_scalars(position, scalars)

    def invalid(self, position: Position, problem: str) -> None:
        """Log that an evaluation failed, and why."""
        self._write(self._metrics, {**position._asdict(), "invalid": problem})
        self.failed += 1

    def timing(self, values: Mapping[str, float]) -> None:
        """Log what depends on the machine: rates, times, memory."""
        self._write(self._timing, values)

    def _write(self, stream: TextIO, *values: Mapping[str, Any]) -> None:
        text = "".join(f"{serialization.dumps(value)}\n" for value in values)
        try:
            stream.write(text)
            stream.flush()
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> RunError:
        return RunError(
            f"{self.folder} cannot be written to ({error.strerror}); the checkpoints so far are kept: make room and "
            "continue with --resume auto"
        )

    def _log_scalars(self, position: Position, scalars: Mapping[str, float]) -> None:
        # a mean is NaN where every seed has diverged
        finite = {name: value for name, value in scalars.items() if not math.isnan(value)}
        for logger in tuple(self._loggers):
            log = functools.partial(logger.scalars, position.updates, finite)
            self._attempt(logger, log)

    def _attempt(self, logger: loggers.Logger, call: Callable[[], None]) -> None:
        try:
            call()
        except logger.errors as error:
            self._loggers.remove(logger)
            messages.tell(f"{type(logger).__name__} failed and is off from here on: {error}")


def _mean(values: np.ndarray) -> float:
    """Mean of what is not NaN; NaN where nothing is left."""
    sound = values[~np.isnan(values)]
    if sound.size == 0:
        return float("nan")
    return float(np.mean(sound))
