"""A run's agent at its last checkpoint, rebuilt from the run directory: restored, and evaluated as in training."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np

from rlkit import buffer, ranges
from rlkit.datasets import Normaliser
from rlkit.evaluation.evaluate import EvaluationError, Evaluator, longest
from rlkit.runs import serialization
from rlkit.runs.checkpoint import Checkpoints, OtherArrays
from rlkit.runs.record import EvaluationRecord, Record, rebuild
from rlkit.runs.run import diverged
from rlkit.training.loop import finite
from rlkit.training.sharding import make_mesh
from rlkit.types import Agent, InputError, RunError, State, Stats


class Restored(NamedTuple):
    """A run's agent and the state of its K seeds that did not diverge."""

    agent: Agent
    state: State  # [K] on every leaf, on the first device
    members: tuple[int, ...]  # [K], which of the run's seeds they are, from 0


class Played(NamedTuple):
    """An evaluation of the K seeds of a run that did not diverge. The first goal is the score."""

    returns: dict[str, np.ndarray]  # label of the goal -> [K, episodes]
    lengths: dict[str, np.ndarray]  # label of the goal -> [K, episodes], steps
    success: dict[str, np.ndarray]  # label of the goal -> [K, episodes], 1 or 0; NaN where the environment tells none
    members: tuple[int, ...]  # [K], which of the run's seeds they are, from 0


def altered(config: Any, changes: Mapping[str, Any]) -> Any:
    """``config`` with other values of some fields. Raises InputError for a name that it does not have, and for a value
    of another type or out of its range."""
    names = [field.name for field in dataclasses.fields(config)]
    for name in changes:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names
            raise InputError(f"config has no setting {name!r}; did you mean {', '.join(near)}?")
    changed = dataclasses.replace(config, **changes)
    typed = serialization.decode(type(config), serialization.encode(changed), "config")
    ranges.check(typed, "config")
    return typed


def restore(folder: Path, record: Record, config: Any = None) -> Restored:
    """The agent of a run and its state at the last checkpoint, without the seeds that diverged by then or since.

    config: the agent's Config in place of the recorded one. Raises InputError if there is no checkpoint of the last
    stage, or if its arrays are not those of ``config``, RunError if every seed diverged.
    """
    stages = rebuild(record, config)
    stats = _recorded_stats(folder, record)

    # --- the checkpoint, on the first device; the data are needed for their shapes alone ---
    columns = buffer.needs(stages)
    rows = buffer.abstract(record.spec, record.data.rows, record.data.steps, columns)
    mesh = make_mesh(len(record.seeds), jax.devices()[:1])
    with Checkpoints(folder / "checkpoints", identity=record.identity()) as checkpoints:
        try:
            progress = checkpoints.last(stages, rows, stats, record.seeds, mesh)
        except OtherArrays as error:
            raise _explained(error, folder, record, config) from None
    if progress is None or progress.stage != len(stages) - 1:
        raise InputError(f"{folder} has no checkpoint of its last stage yet: continue it with train --resume auto")

    # --- the seeds that did not diverge ---
    state = progress.state
    members = _sound_members(folder, state)
    if len(members) < len(record.seeds):
        rows_kept = np.array(members)
        state = jax.tree.map(lambda leaf: leaf[rows_kept], state)
    return Restored(stages[-1].learner, state, members)


def _explained(error: OtherArrays, folder: Path, record: Record, config: Any) -> InputError:
    """The settings that were changed, where the arrays of the agent are others for that."""
    if config is None:
        return error
    changed = serialization.differences(record.config, serialization.encode(config))
    if not changed:
        return error
    names = ", ".join(field.name for field in dataclasses.fields(config))
    return InputError(
        f"config ({'; '.join(changed)}): the networks of {folder} are others: leave out what changes them; the agent's "
        f"settings are {names}"
    )


def _recorded_stats(folder: Path, record: Record) -> Stats:
    required = set(Stats._fields) - set(Stats._field_defaults)  # older runs lack what has a default
    if not required <= set(record.stats) <= set(Stats._fields):
        raise InputError(f"{folder}/run.json: stats are {sorted(record.stats)}, expected {sorted(Stats._fields)}")
    arrays = {}
    for name, value in record.stats.items():
        arrays[name] = np.array(value, np.float32)
    return Stats(**arrays)


def _sound_members(folder: Path, state: State) -> tuple[int, ...]:
    """The seeds whose state is finite and that had not diverged by the last line of metrics. RunError if none is left.

    Both are asked: a run that was stopped between two lines of metrics may have saved a state that no line has judged.
    """
    is_finite = jax.device_get(finite(state, {}))
    lost = diverged(folder)
    members = []
    for member in np.flatnonzero(is_finite):
        if member not in lost:
            members.append(int(member))
    if not members:
        raise RunError(f"{folder}: every seed of this run diverged in training, so it has no policy: train it again")
    return tuple(members)


def play(
    folder: Path,
    record: Record,
    make_env: Callable[[str], gymnasium.Env],
    config: Any = None,
    episodes: int | None = None,
    seed: int | None = None,
    evaluation: EvaluationRecord | None = None,
    horizon: int | None = None,
) -> Played:
    """Evaluate the last checkpoint of the run in ``folder`` as in training, but for what is given.

    Args:
        folder: the run directory.
        record: what its run.json says.
        make_env: makes an environment by its name, see rlkit.runs.environments.
        config: the agent's Config in place of the recorded one.
        episodes: episodes of each seed and goal.
        seed: episode i is reset with seed + i.
        evaluation: environment, episodes and seed in place of those of the record.
        horizon: time limit of the environment, if it is another one.

    Returns:
        Returns, lengths and successes of the seeds that did not diverge.

    Raises:
        InputError: if the run has no checkpoint or names no environment.
        RunError: if every seed diverged, or if an environment fails.
    """
    evaluation = evaluation or record.evaluation
    if evaluation is None:
        raise InputError(f"{folder} names no environment to evaluate in")
    restored = restore(folder, record, config)
    evaluator = Evaluator(
        restored.agent,
        Normaliser.from_json(record.normaliser),
        lambda: make_env(evaluation.environment),
        episodes=episodes or evaluation.episodes,
        seed=evaluation.seed if seed is None else seed,
        longest=max(longest(record.spec), 10 * (horizon or 0)),
    )
    try:
        played = evaluator.run(restored.state)
    except EvaluationError as error:
        raise RunError(f"{folder}: {error}") from error
    evaluator.close()
    returns = dict(zip(evaluator.goals, played.returns, strict=True))
    lengths = dict(zip(evaluator.goals, played.lengths, strict=True))
    success = dict(zip(evaluator.goals, played.success, strict=True))
    return Played(returns, lengths, success, restored.members)
