"""``rlkit evaluate RUN``: the scores of a run's last checkpoint."""

from __future__ import annotations

from rlkit.commands import Catalog, environment
from rlkit.commands.options import EvaluateOptions
from rlkit.evaluation import tables
from rlkit.runs import serialization
from rlkit.runs.record import Record
from rlkit.runs.restored import play
from rlkit.runs.scores import ASKED, data_row, draw_asked, heading, label_of, score_row
from rlkit.training.compilation import keep_compiled


def run(options: EvaluateOptions, catalog: Catalog) -> int:
    """Print the scores of the seeds that did not diverge, and how many did.

    Raises InputError if the run has no checkpoint or no environment, or does not fit into the one that was named,
    RunError if every seed diverged.
    """
    trained = Record.read(options.run)
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
        options.out.mkdir(parents=True, exist_ok=True)
        text = "\n".join([heading(record), tables.table(rows), ""])
        serialization.write_text(options.out / "table.txt", text)
        draw_asked(options.out / ASKED, {record.agent: (record, played.returns)})
    return 0
