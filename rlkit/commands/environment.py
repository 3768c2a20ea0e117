"""The environment that a command plays in: what the user named, else what the data or a run name.

A first step is taken before anything is trained or evaluated, so that a fault is told while there is nothing to lose.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from rlkit import messages
from rlkit.commands import Catalog
from rlkit.commands.options import EVAL_SEED, EvaluateOptions, TrainOptions
from rlkit.datasets import Episodes, spaces
from rlkit.evaluation import interface, task
from rlkit.evaluation.evaluate import longest
from rlkit.runs import environments
from rlkit.runs.record import EvaluationRecord, Record
from rlkit.runs.stopping import Guard
from rlkit.types import InputError


class Found(NamedTuple):
    """An environment that works."""

    name: str  # as a run's record has it, see rlkit.runs.environments
    env: gymnasium.Env  # in which a first step was taken
    make: Callable[[], gymnasium.Env]  # makes another one


def named(options: TrainOptions, catalog: Catalog, guard: Guard | None = None) -> Found | None:
    """The environment of --env; None where it names none, or none is needed.

    Raises InputError if it cannot be made, or does not work.
    """
    name = options.data.env
    if not name or name == environments.NONE or not _is_wanted(options):
        return None
    make = functools.partial(environments.make, name, catalog.make_env)
    env = make()
    _try(env, name_of(name, env), options, guard)
    return Found(name, env, make)


def of_data(options: TrainOptions, episodes: Episodes, catalog: Catalog, guard: Guard | None = None) -> Found | None:
    """The environment that the data name. Where there is none, prints why.

    Raises InputError if it can be made but does not work, or if there is none to go online in.
    """
    why = "the data name no environment; --env names one"
    if options.data.env == environments.NONE:
        why = "--env none"
    elif not _is_wanted(options):
        why = "--eval-episodes is 0"
    elif episodes.env_spec:
        make = functools.partial(catalog.make_env, episodes.env_spec)  # what data say is not imported
        try:
            env = make()
        except InputError as error:
            why = str(error)
        else:
            _try(env, task.name_of(env), options, guard)
            return Found(episodes.env_spec, env, make)
    if options.online.steps:
        raise InputError(f"--online.steps {options.online.steps}: there is no environment to act in: {why}")
    messages.tell(f"training without evaluation: {why}")
    return None


def of_run(
    options: EvaluateOptions, record: Record, catalog: Catalog
) -> tuple[Record, Callable[[str], gymnasium.Env], int | None]:
    """The environment to evaluate a run in: the one that the user typed, else that of its record.

    Returns the record as it reads with that environment, its episodes and its reference; what makes an environment by
    its name; and the time limit. Raises InputError where there is no environment, where the record names code that was
    not typed again, and where it does not work or the run does not fit into it.
    """
    recorded = record.evaluation
    if recorded is None and not options.env:
        raise InputError(f"{options.run} names no environment to evaluate in: name one with --env")
    make = functools.partial(environments.make, known=catalog.make_env)
    name = options.env or environments.again(recorded, options.imports)

    # --- does it work, and does the run fit into it? ---
    env = make(name)
    seed = options.eval_seed
    if seed is None:
        seed = recorded.seed if recorded else EVAL_SEED
    called = name_of(name, env)
    for sentence in interface.check(env, called, seed):
        messages.tell(sentence)
    check_fits(options.run, record, called, env)

    # --- what to play, and what it is measured by ---
    episodes = options.episodes
    if episodes is None:
        episodes = recorded.episodes if recorded else catalog.episodes(env.spec.id if env.spec else "")
    evaluation = EvaluationRecord(name, episodes, seed)
    reference, unscored = record.reference, record.unscored
    if recorded is None or name != recorded.environment:
        reference, unscored = environments.reference(env, catalog.references)
    limit = task.time_limit(env)
    if limit is None:
        say_endless(called, longest(record.spec))
    close(env)
    return replace(record, evaluation=evaluation, reference=reference, unscored=unscored), make, limit


def check_fits(run: Path | str, record: Record, name: str, env: gymnasium.Env) -> None:
    """InputError that lists what differs, where the policy of a run cannot act in ``env``, which is called ``name``."""
    differences = []
    for field in ("observation", "action"):
        form = getattr(record.data, f"{field}_space")
        space = getattr(env, f"{field}_space")
        differences += _misfit(form, space, field)
    if differences:
        listed = "; ".join(differences)
        raise InputError(f"{run} cannot act in {name}: {listed}")


def _misfit(form: dict[str, Any], other: gymnasium.Space, field: str) -> list[str]:
    """Reasons why what a run knows, its data's space in JSON, does not fit the environment's space ``other``."""
    known = spaces.from_json(form)
    if not isinstance(known, Box):
        return spaces.difference(known, other, field)
    reasons = spaces.misfit(known, other, field)  # the data may not have named its bounds
    if reasons or field == "observation":
        return reasons
    slack = 1e-5
    is_beyond = (known.low < other.low - slack) | (known.high > other.high + slack)
    if not is_beyond.any():
        return []
    i = int(np.argmax(is_beyond))
    low, high = known.low.ravel()[i], known.high.ravel()[i]
    allowed = f"{other.low.ravel()[i]:g} to {other.high.ravel()[i]:g}"
    return [f"{field}[{i}] goes from {low:g} to {high:g}, the environment's from {allowed}"]


def name_of(name: str, env: gymnasium.Env) -> str:
    """What messages call an environment: what the user typed, else its id."""
    return name if environments.is_typed(name) else task.name_of(env)


def close(env: gymnasium.Env) -> None:
    """Close an environment that is not needed any more, whatever it says to that: it is other people's code."""
    with contextlib.suppress(Exception):
        env.close()


def say_endless(name: str, longest_episode: int) -> None:
    """Say of an environment without a time limit how long its episodes may be."""
    messages.tell(
        f"environment {name} has no time limit: an episode of {longest_episode} steps, ten times the longest of "
        "the data, fails its evaluation; gymnasium.wrappers.TimeLimit sets another limit"
    )


def _is_wanted(options: TrainOptions) -> bool:
    """Whether there is something to play."""
    return options.eval_episodes != 0 or options.online.steps > 0


def _try(env: gymnasium.Env, name: str, options: TrainOptions, guard: Guard | None) -> None:
    """Take a first step, from the start of the first episode of the evaluations."""
    if guard is not None:
        guard.enter("evaluation")  # the phase in which an environment that hangs is noticed
    try:
        sentences = interface.check(env, name, options.eval_seed)
    except InputError as fault:
        if options.online.steps:
            raise
        raise InputError(f"{fault} (--env none trains without an environment)") from fault
    for sentence in sentences:
        messages.tell(sentence)
    if guard is not None:
        guard.enter("loading")
