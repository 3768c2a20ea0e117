"""``rlkit evaluate RUN``: the scores of a run's last checkpoint."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlkit.commands import World
from rlkit.commands.options import EvaluateOptions
from rlkit.commands.report import ASKED, data_row, draw_asked, heading, label_of, score_row
from rlkit.datasets import Normaliser
from rlkit.evaluation import tables
from rlkit.evaluation.evaluate import EvaluationError, Evaluator, longest
from rlkit.runs import serialization
from rlkit.runs.policy import restore
from rlkit.runs.run import Record
from rlkit.training.compilation import keep_compiled
from rlkit.types import InputError, RunError


def run(options: EvaluateOptions, world: World) -> int:
    """Print the scores of the seeds that did not diverge, and how many did.

    Raises InputError if the run has no checkpoint or no environment, RunError if every seed diverged.
    """
    record = Record.read(options.run)
    keep_compiled()
    played = play(options.run, record, world, options.config, options.episodes, options.eval_seed)
    print(heading(record))
    if changed := serialization.differences(record.config, serialization.encode(options.config)):
        print(f"with other settings than in training: {'; '.join(changed)}")
    rows = [data_row(record)]
    rows += [score_row(label_of(record.agent, goal), record, returns) for goal, returns in played.returns.items()]
    tables.show(rows)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        serialization.write_text(options.out / "table.txt", "\n".join([heading(record), tables.table(rows), ""]))
        draw_asked(options.out / ASKED, {record.agent: (record, played.returns)})
    return 0


class Played(NamedTuple):
    """An evaluation of the K seeds of a run that did not diverge. The first goal is the score."""

    returns: dict[str, np.ndarray]  # label of the goal -> [K, episodes]
    lengths: dict[str, np.ndarray]  # steps
    members: tuple[int, ...]  # [K], which of the run's seeds they are, from 0


def play(
    folder: Path,
    record: Record,
    world: World,
    config: Any = None,
    episodes: int | None = None,
    seed: int | None = None,
) -> Played:
    """Evaluate the run in ``folder`` as it was evaluated in training, but for what is given. Raises as `run`."""
    if record.evaluation is None:
        raise InputError(f"{folder} names no environment to evaluate in")
    restored = restore(folder, record, config)
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
    returns = dict(zip(evaluator.goals, played.returns, strict=True))
    lengths = dict(zip(evaluator.goals, played.lengths, strict=True))
    return Played(returns, lengths, restored.members)
