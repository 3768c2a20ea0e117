"""The run directory: everything that a run says about itself.

run.json       what was run: agent, configuration, data, spec, statistics, versions (Record)
metrics.jsonl  training metrics and evaluations; holds no clock reading, so that a run that was interrupted and resumed
               leaves the same bytes as one that was not; "nan" stands for seeds that diverged
timing.jsonl   rates, times, memory
checkpoints/   see rlkit.runs.checkpoint
tensorboard/   the scalars of metrics.jsonl, means over seeds
result.json    final scores, and every episode's return in the last evaluation; its presence says that the run is
               finished
curve.png      the learning curve
returns.png    of a run that is asked for several returns: what came of each
.lock          who writes here, while somebody does
"""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

import numpy as np

from rlkit.evaluation.statistics import Estimate
from rlkit.runs import loggers, registry, serialization
from rlkit.types import InputError, RunError, Spec, Stage, one_line

FORMAT = 1
Resume = Literal["auto", "never", "must"]


@dataclass(frozen=True)
class Reference:
    """Mean returns of a random and of an expert policy: scores 0 and 100."""

    random: float
    expert: float
    source: str


@dataclass(frozen=True)
class DataRecord:
    """The data that a run was trained on."""

    name: str
    fingerprint: str
    episodes: int
    steps: int  # that can be drawn
    rows: int  # of the buffer, final observations included
    mean_return: Estimate  # over its episodes
    observation_space: dict[str, Any]  # as stored, in Minari's JSON form
    action_space: dict[str, Any]
    options: dict[str, Any]  # rlkit.datasets.DataOptions


@dataclass(frozen=True)
class EvaluationRecord:
    """How policies were evaluated. environment: a gymnasium EnvSpec as JSON, or an id. seed: episode i of every seed of
    the run was reset with seed + i."""

    environment: str
    episodes: int
    seed: int


@dataclass(frozen=True)
class Record:
    """run.json. ``config`` are the fields of the Config in ``module``; ``stages`` are (name, updates)."""

    agent: str
    module: str
    config: dict[str, Any]
    preset: str | None
    steps: int
    stages: tuple[tuple[str, int], ...]
    seeds: tuple[int, ...]
    log_every: int
    eval_every: int
    data: DataRecord
    spec: Spec
    normaliser: dict[str, Any]
    stats: dict[str, tuple[float, ...]]
    evaluation: EvaluationRecord | None
    reference: Reference | None
    versions: dict[str, str]
    device: str
    format: int = FORMAT

    @classmethod
    def read(cls, folder: Path) -> Record:
        """The record of the run in ``folder``; InputError if there is none or it is not ours."""
        path = folder / "run.json"
        if not path.exists():
            raise InputError(f"{folder} is not a run directory: it has no run.json")
        value = serialization.read_json(path)
        if isinstance(value, dict) and value.get("format", FORMAT) != FORMAT:
            raise InputError(f"{path}: format {value['format']}; this version reads format {FORMAT}")
        if isinstance(value, dict) and isinstance(value.get("data"), dict):
            value["data"].pop("iqm", None)  # written by the first versions, and read by nothing
        return serialization.decode(cls, value, str(path))

    def differences(self, other: Record) -> list[str]:
        """What must be equal for ``other`` to go on with this run and is not, as "key: mine -> theirs"."""
        return serialization.differences(self.identity(), other.identity())

    def drift(self, other: Record) -> list[str]:
        """What may differ, but changes the last bits of a result: versions and devices."""
        return serialization.differences(*({**record.versions, "device": record.device} for record in (self, other)))

    def identity(self) -> dict[str, Any]:
        """What must be equal for two runs to be the same."""
        # not the positions where data were found, nor what follows from the rest
        same = ("agent", "module", "config", "steps", "seeds", "log_every", "eval_every", "evaluation", "spec")
        options = ("repair", "normalise", "reward", "reward_scale", "reward_shift")
        options += ("label_share", "label_from", "label_seed")
        identity = {name: serialization.encode(getattr(self, name)) for name in same}
        identity["data"] = {name: serialization.encode(self.data.options.get(name)) for name in options}
        return identity | {"dataset fingerprint": self.data.fingerprint}


def recorded_config(record: Record, agent: str | None = None) -> Any:
    """The Config of a run, an instance of the class in the module that its record names.

    agent: ``module:Config`` as the user typed it, for an agent in a module of their own, which a record alone does not
    import.
    """
    method = registry.recorded(record.module, agent)
    return serialization.decode(method.config, record.config, "run.json: config")


def rebuild(record: Record, config: Any = None) -> tuple[Stage, ...]:
    """The stages of a run; those of ``config`` in place of the recorded one, if it is given."""
    config = recorded_config(record) if config is None else config
    return config.stages(record.spec, record.steps)


class Position(NamedTuple):
    """Where a run stands: after ``step`` updates of stage number ``stage``, and ``updates`` of all stages."""

    stage: int
    step: int
    updates: int


class Evaluated(NamedTuple):
    """One evaluation: where it was made, [S, episodes] returns and lengths, and the label of what was asked for."""

    position: Position
    returns: np.ndarray
    lengths: np.ndarray
    goal: str = ""


def claim(folder: Path, resume: Resume) -> None:
    """Raise InputError if a run may not be written to ``folder``; changes nothing."""
    exists = (folder / "run.json").exists()
    if exists and resume == "never":
        raise InputError(f"{folder} holds a run: add --resume auto to continue it, or choose another --out")
    if resume == "must" and not any(path.name.isdigit() for path in (folder / "checkpoints").glob("*")):
        raise InputError(f"{folder} holds no checkpoint to continue from: name a run with --out, or use --resume auto")
    if not exists and folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no run: choose another --out")


def finished(folder: Path) -> bool:
    """Whether the run in ``folder`` has come to its end."""
    return (folder / "result.json").exists()


def evaluations(folder: Path) -> list[Evaluated]:
    """The evaluations of the run in ``folder`` that are its score, those of its first goal, in order."""
    by_goal = evaluations_by_goal(folder)
    return next(iter(by_goal.values()), [])


def evaluations_by_goal(folder: Path) -> dict[str, list[Evaluated]]:
    """Label of a goal -> the evaluations of the run in ``folder``, in order, all of the same seeds and starts."""
    by_goal: dict[str, list[Evaluated]] = {}
    for evaluated in _evaluations(folder):
        by_goal.setdefault(evaluated.goal, []).append(evaluated)
    return by_goal


def _evaluations(folder: Path) -> list[Evaluated]:
    path = folder / "metrics.jsonl"
    found = []
    for line in lines(path):
        if "returns" not in line:
            continue
        try:
            returns = np.array(line["returns"], np.float64)
            lengths = np.array(line["lengths"], np.int64)
        except (KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: an evaluation is not what was written ({reason})") from None
        expected = found[0].returns.shape if found else returns.shape
        if returns.ndim != 2 or returns.shape != expected or lengths.shape != expected:
            raise InputError(f"{path}: not every evaluation has the same seeds and episodes")
        found.append(Evaluated(_position(line), returns, lengths, str(line.get("goal", ""))))
    return found


def final_metrics(folder: Path) -> dict[str, list[float]]:
    """The metrics that the run in ``folder`` logged last, [S] each."""
    logged = [line["metrics"] for line in lines(folder / "metrics.jsonl") if "metrics" in line]
    return logged[-1] if logged else {}


def diverged(folder: Path) -> set[int]:
    """Numbers, from 0, of the seeds of the run in ``folder`` that had diverged by its last line of metrics."""
    return _nan(final_metrics(folder))


class Run:
    """A run directory that is open for writing; a context manager.

    Makes the directory and its record, or checks that the record there is the same run: InputError lists what differs.
    ``wandb`` adds Weights & Biases to the loggers. A logger that fails is dropped with one line on stderr.
    """

    def __init__(self, folder: Path, record: Record, *, wandb: bool = False):
        self.folder, self.record = folder, record
        if (folder / "run.json").exists():
            recorded = Record.read(folder)
            if differences := recorded.differences(record):
                raise InputError(f"{folder} holds another run ({'; '.join(differences)}): choose another --out")
            if drift := recorded.drift(record):
                print(f"rlkit: {folder} goes on, but not to the same bits ({'; '.join(drift)})", file=sys.stderr)
        else:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                serialization.write_json(folder / "run.json", record)
            except OSError as error:
                raise self._unwritten(error) from error
        self.diverged: set[int] = set()  # numbers of the seeds whose metrics are no longer meant
        self.evaluated = False  # where the run goes on from
        self.failed = 0  # evaluations that are invalid
        self._wandb = wandb
        self._metrics: TextIO | None = None
        self._timing: TextIO | None = None
        self._loggers: list[loggers.Logger] = []

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
        kept = [line for line in lines(path) if position and _position(line) <= position]
        evaluated = [line for line in kept if "returns" in line and _position(line) == position]
        self.evaluated = len(evaluated) == goals
        unsound = {"invalid"} if self.evaluated else {"invalid", "returns"}
        kept = [line for line in kept if _position(line) != position or not unsound & set(line)]
        self.failed = sum("invalid" in line for line in kept)
        logged = [line["metrics"] for line in kept if "metrics" in line]
        self.diverged = _nan(logged[-1]) if logged else set()
        try:
            serialization.write_text(path, "".join(serialization.dumps(line) + "\n" for line in kept))
            self._metrics = path.open("a", encoding="utf-8")
            self._timing = (self.folder / "timing.jsonl").open("a", encoding="utf-8")
        except OSError as error:
            raise self._unwritten(error) from error
        done = position.updates if position else 0
        self._loggers = loggers.start(self.folder, serialization.encode(self.record), done, wandb=self._wandb)

    def metrics(self, position: Position, metrics: Mapping[str, np.ndarray]) -> None:
        """Log training metrics, [S] each. RunError if the disk takes no more."""
        values = {name: np.asarray(metrics[name]) for name in sorted(metrics)}
        self._write(self._metrics, {**position._asdict(), "metrics": values})
        self._tell(position, {name: _mean(value) for name, value in values.items()})

    def evaluation(
        self, position: Position, returns: np.ndarray, lengths: np.ndarray, goals: Sequence[str] = ("",)
    ) -> None:
        """Log one evaluation, [G, S, episodes] returns and lengths, a line for each of ``goals``; NaN and 0 for the
        seeds that diverged."""
        lines, scalars = [], {}
        for goal, goal_returns, goal_lengths in zip(goals, returns, lengths, strict=True):
            asked = {"goal": goal} if goal else {}
            lines.append({**position._asdict(), **asked, "returns": goal_returns, "lengths": goal_lengths})
            played = goal_lengths > 0
            suffix = "" if goal == goals[0] else f" of {goal}"
            scalars[f"evaluation/return{suffix}"] = _mean(goal_returns[played])
            scalars[f"evaluation/length{suffix}"] = _mean(goal_lengths[played])
        self._write(self._metrics, *lines)
        self._tell(position, scalars)

    def invalid(self, position: Position, problem: str) -> None:
        """Log that an evaluation failed, and why."""
        self._write(self._metrics, {**position._asdict(), "invalid": problem})
        self.failed += 1

    def timing(self, values: Mapping[str, float]) -> None:
        """Log what depends on the machine: rates, times, memory."""
        self._write(self._timing, values)

    def _write(self, stream: TextIO, *values: Mapping[str, Any]) -> None:
        try:
            stream.write("".join(serialization.dumps(value) + "\n" for value in values))
            stream.flush()
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> RunError:
        return RunError(
            f"{self.folder} cannot be written to ({error.strerror}); the checkpoints so far are kept: make room and "
            "continue with --resume auto"
        )

    def _tell(self, position: Position, scalars: Mapping[str, float]) -> None:
        known = {name: value for name, value in scalars.items() if not math.isnan(value)}  # all seeds diverged
        for logger in tuple(self._loggers):
            self._attempt(logger, functools.partial(logger.scalars, position.updates, known))

    def _attempt(self, logger: loggers.Logger, call: Callable[[], None]) -> None:
        try:
            call()
        except logger.errors as error:
            self._loggers.remove(logger)
            print(f"rlkit: {type(logger).__name__} failed and is off from here on: {error}", file=sys.stderr)


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a JSON lines file; a last line that a killed process left unfinished is skipped."""
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if line.endswith(b"\n"):
            try:
                form = json.loads(line)
                _position(form)
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path}: line {number} is not what was written ({one_line(error)})") from None
            yield form


def _position(line: Mapping[str, Any]) -> Position:
    position = Position(line["stage"], line["step"], line["updates"])
    if any(type(value) is not int for value in position):
        raise TypeError(f"{position} is no position")
    return position


def _nan(metrics: Mapping[str, Sequence[Any]]) -> set[int]:
    """The seeds for which a metric is NaN."""
    return {seed for values in metrics.values() for seed, value in enumerate(values) if value == "nan"}


def _mean(values: np.ndarray) -> float:
    """Over what is not NaN; NaN where nothing is left."""
    sound = values[~np.isnan(values)]
    return float(np.mean(sound)) if sound.size else float("nan")
