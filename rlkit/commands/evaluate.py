"""``rlkit evaluate RUN``: the scores of a run's last checkpoint."""

from __future__ import annotations

import functools
from pathlib import Path

from rlkit import report
from rlkit.commands import World
from rlkit.commands.options import EvaluateOptions
from rlkit.commands.report import data_row, heading, score_row
from rlkit.compilation import keep_compiled
from rlkit.datasets import Normaliser
from rlkit.evaluate import Evaluation, EvaluationError, Evaluator, longest
from rlkit.policy import restore
from rlkit.run import Record
from rlkit.types import InputError, RunError


def run(options: EvaluateOptions, world: World) -> int:
    """Print the scores of the seeds that did not diverge, and how many did.

    Raises InputError if the run has no checkpoint or no environment, RunError if every seed diverged.
    """
    record = Record.read(options.run)
    keep_compiled()
    played, _ = play(options.run, record, world, options.episodes, options.eval_seed)
    print(heading(record))
    report.show([data_row(record), score_row(record.agent, record, played.returns)])
    return 0


def play(
    folder: Path, record: Record, world: World, episodes: int | None = None, seed: int | None = None
) -> tuple[Evaluation, tuple[int, ...]]:
    """Evaluate the run in ``folder`` as it was evaluated in training, but for what is given: the returns and lengths
    [K, episodes] of the seeds that did not diverge, and which of the run's K seeds they are, from 0. Raises as `run`.
    """
    if record.evaluation is None:
        raise InputError(f"{folder} names no environment to evaluate in")
    restored = restore(folder, record)
    evaluator = Evaluator(
        restored.agent,
        Normaliser.from_json(record.normaliser),
        functools.partial(world.make_env, record.evaluation.environment),
        episodes=episodes or record.evaluation.episodes,
        seed=record.evaluation.seed if seed is None else seed,
        longest=longest(record.spec),
    )
    try:
        played = evaluator.run(restored.state)
    except EvaluationError as error:
        raise RunError(f"{folder}: {error}") from error
    evaluator.close()
    return played, restored.members
