"""``rlkit evaluate RUN``: the scores of a run's last checkpoint."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

from rlkit.commands import Catalog, environment
from rlkit.commands.options import EvaluateOptions
from rlkit.evaluation import film, tables
from rlkit.evaluation.evaluate import longest
from rlkit.runs import environments, policy, serialization
from rlkit.runs.record import Record, recorded_config
from rlkit.runs.restored import Played, play
from rlkit.runs.scores import ASKED, data_row, draw_asked, heading, label_of, score_row
from rlkit.training.compilation import keep_compiled


def run(options: EvaluateOptions, catalog: Catalog) -> int:
    """Print the scores of the seeds that did not diverge, and how many did.

    Raises InputError if the run has no checkpoint or no environment, or does not fit into the one that was named,
    RunError if every seed diverged.
    """
    trained = Record.read(options.run)
    serialization.make_folder(options.out)
    if options.video is not None:
        film.check_path(options.video)
        film.draw_off_screen()
    keep_compiled()
    record, make_env, limit = environment.of_run(options, trained, catalog)
    played = play(options.run, trained, make_env, options.config, evaluation=record.evaluation, horizon=limit)
    print(heading(record))
    where = record.evaluation.environment
    if trained.evaluation is None or where != trained.evaluation.environment:
        print(f"evaluated in {where}, which is not the environment of its training")
    given = serialization.encode(options.config)
    changed = serialization.differences(record.config, given)
    if changed:
        print(f"with other settings than in training: {'; '.join(changed)}")
    rows = [data_row(trained)]
    for goal, returns in played.returns.items():
        label = label_of(record.agent, goal)
        rows.append(score_row(label, record, returns, played.success[goal]))
    tables.show(rows)
    if options.out is not None:
        text = "\n".join([heading(record), tables.table(rows), ""])
        serialization.write_text(options.out / "table.txt", text)
        serialization.write_json(options.out / "episodes.json", _episodes(record, played))
        draw_asked(options.out / ASKED, {record.agent: (record, played.returns)})
    if options.video is not None:
        _film(options, record, catalog)
    return 0


def _episodes(record: Record, played: Played) -> list[dict[str, Any]]:
    """Every episode: whose it is, where it began, and what came of it."""
    found = []
    for goal, returns in played.returns.items():
        for row, member in enumerate(played.members):
            for episode in range(returns.shape[1]):
                one: dict[str, Any] = {"goal": goal} if goal else {}
                one["seed"] = record.seeds[member]
                one["reset_seed"] = record.evaluation.seed + episode
                one["return"] = float(returns[row, episode])
                one["length"] = int(played.lengths[goal][row, episode])
                success = float(played.success[goal][row, episode])
                if math.isfinite(success):
                    one["success"] = bool(success)
                found.append(one)
    return found


def _film(options: EvaluateOptions, record: Record, catalog: Catalog) -> None:
    """Film the first episode of the first seed that did not diverge, and say so."""
    name = record.evaluation.environment
    drawn = functools.partial(catalog.make_env, render_mode="rgb_array")
    env = environments.make(name, drawn)
    trained_with = recorded_config(record, options.agent)
    changes = {}
    for field in dataclasses.fields(options.config):
        value = getattr(options.config, field.name)
        if value != getattr(trained_with, field.name):
            changes[field.name] = value
    acting = policy.load(options.run, config=changes, agent=options.agent)
    called = environment.name_of(name, env)
    pictures, total = film.film(env, called, acting.act, record.evaluation.seed, longest(record.spec))
    film.write(options.video, pictures, film.per_second(env))
    environment.close(env)
    print(f"{options.video}: {len(pictures)} pictures of the first episode, whose return is {total:.1f}")
