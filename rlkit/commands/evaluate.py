"""``rlkit evaluate RUN``: the scores of a run's last checkpoint."""

from __future__ import annotations

import functools

from rlkit import report
from rlkit.commands import World
from rlkit.commands.options import EvaluateOptions
from rlkit.commands.report import data_row, heading, score_row
from rlkit.compilation import keep_compiled
from rlkit.datasets import Normaliser
from rlkit.evaluate import EvaluationError, Evaluator, longest
from rlkit.policy import restore
from rlkit.run import Record
from rlkit.types import InputError, RunError


def run(options: EvaluateOptions, world: World) -> int:
    """Print the scores of the seeds that did not diverge, and how many did.

    Raises InputError if the run has no checkpoint or no environment, RunError if every seed diverged.
    """
    record = Record.read(options.run)
    if record.evaluation is None:
        raise InputError(f"{options.run} names no environment to evaluate in")
    keep_compiled()
    restored = restore(options.run, record)
    evaluator = Evaluator(
        restored.agent,
        Normaliser.from_json(record.normaliser),
        functools.partial(world.make_env, record.evaluation.environment),
        episodes=options.episodes or record.evaluation.episodes,
        seed=record.evaluation.seed if options.eval_seed is None else options.eval_seed,
        longest=longest(record.spec),
    )
    try:
        returns = evaluator.run(restored.state).returns
    except EvaluationError as error:
        raise RunError(f"{options.run}: {error}") from error
    evaluator.close()
    print(heading(record))
    report.show([data_row(record), score_row(record.agent, record, returns)])
    return 0
