"""Runs side by side: what is pooled, what is told apart, and the tables and figures of `rlkit report`."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import shutil

import matplotlib.image
import numpy as np
import pytest

from rlkit.evaluation import tables
from rlkit.evaluation.statistics import Estimate, estimate
from rlkit.evaluation.tables import Group, Line, Row, csv_text, latex, markdown, table, under_titles
from rlkit.online import Online
from rlkit.report import comparison, page, rows
from rlkit.report.aggregates import aggregate
from rlkit.runs import serialization
from rlkit.runs.record import DataRecord, EvaluationRecord, Parent, Record, Reference
from rlkit.runs.run import run_folders
from rlkit.types import Box, Discrete, InputError, Spec

MEAN = Estimate(20.0, 19.0, 21.0, "episodes")
RECORD = Record(
    agent="bc",
    module="agents.bc",
    config={"beta": 3.0, "widths": [64, 64]},
    preset=None,
    steps=20,
    stages=(("bc", 20),),
    seeds=(0, 1),
    log_every=10,
    eval_every=10,
    data=DataRecord("toy/a-v0", "ab12", 3, 60, 63, MEAN, {}, {}, {"normalise": "none"}),
    spec=Spec(Box((1,), (-np.inf,), (np.inf,)), Discrete(2), 20),
    normaliser={"obs_mean": [0.0]},
    stats={"obs_mean": (0.5,), "obs_std": (0.3,), "action_mean": (), "action_std": ()},
    evaluation=EvaluationRecord("Toy-v0", 2, 1_000_000),
    reference=Reference(0.0, 200.0, "a table"),
    versions={"jax": "0.10.2"},
    device="1 x cpu",
)


def on(name, **changes):
    """RECORD on another dataset."""
    return dataclasses.replace(RECORD, data=dataclasses.replace(RECORD.data, name=name, fingerprint=name), **changes)


def with_beta(beta, record=RECORD, **changes):
    return dataclasses.replace(record, config=record.config | {"beta": beta}, **changes)


def write(folder, record=RECORD, returns=100.0, updates=(10, 20), lost=()):
    """A run directory whose seed number n has the returns ``returns`` + n and + n + 2 at every evaluation. ``updates``:
    of its lines. ``lost``: numbers of the seeds that diverge at the last of them."""
    folder.mkdir(parents=True)
    serialization.write_json(folder / "run.json", record)
    text = []
    for update in updates:
        position = {"stage": 0, "step": update, "updates": update}
        is_last = update == updates[-1]
        losses = ["nan" if is_last and n in lost else float(seed) for n, seed in enumerate(record.seeds)]
        text.append(position | {"metrics": {"policy/loss": losses}})
        if record.evaluation is not None:
            played = [[returns + n, returns + n + 2.0] for n in range(len(record.seeds))]
            for n in lost if is_last else ():
                played[n] = ["nan", "nan"]
            lengths = [[0 if "nan" in of_seed else 5] * 2 for of_seed in played]
            text.append(position | {"seed": record.evaluation.seed, "returns": played, "lengths": lengths})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in text))
    return folder


def labels(*folders):
    return [[entry.label for entry in panel.entries] for panel in comparison.read(folders).panels]


# ---- pooling


def test_runs_that_differ_in_their_seeds_alone_are_one_method(tmp_path):
    first = write(tmp_path / "first", dataclasses.replace(RECORD, seeds=(0, 1)), 10.0)
    second = write(
        tmp_path / "second", dataclasses.replace(RECORD, seeds=(5,), log_every=5, versions={"jax": "0.11"}), 50.0
    )
    found = comparison.read([first, second])
    ((entry,),) = [panel.entries for panel in found.panels]
    assert entry.label == "bc" and entry.folders == (first, second) and entry.record == Record.read(first)
    assert (entry.seeds, entry.diverged) == (3, 0)
    assert [one.position.updates for one in entry.by_goal[""]] == [10, 20]
    assert entry.by_goal[""][-1].returns.tolist() == [[10, 12], [11, 13], [50, 52]]
    assert [(position.updates, values["policy/loss"].tolist()) for position, values in entry.metrics] == [
        (10, [0, 1, 5]), (20, [0, 1, 5])
    ]  # fmt: skip
    assert found.notes == ["pooled, since they differ in their seeds alone: bc on toy/a-v0 (2 runs)"]
    assert found.differences == {}, "one entry differs from none"
    row = rows.lines(found)[1].row
    assert row.returns == estimate([[10, 12], [11, 13], [50, 52]]) and row.score.value == pytest.approx(148 / 12)


def test_a_seed_never_counts_twice(tmp_path):
    first = write(tmp_path / "first", dataclasses.replace(RECORD, seeds=(0, 1)))
    copy = write(tmp_path / "copy", dataclasses.replace(RECORD, seeds=(1, 2)))
    third = write(tmp_path / "third", dataclasses.replace(RECORD, seeds=(7,)))
    found = comparison.read([first, copy, third])
    (panel,) = found.panels
    assert [(entry.label, entry.folders) for entry in panel.entries] == [
        (f"bc ({first})", (first, third)), (f"bc ({copy})", (copy,))
    ]  # fmt: skip
    assert f"{copy} is not pooled with {first}: they have seeds in common" in found.notes
    found = comparison.read([first, tmp_path / "first" / ".", third])
    assert [entry.seeds for entry in found.entries] == [3]
    assert any("was named twice, and counts once" in note for note in found.notes)


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"steps": 30, "stages": (("bc", 30),)}, "bc, steps 30"),
        ({"config": RECORD.config | {"widths": [8]}}, "bc, widths 8"),
        ({"evaluation": EvaluationRecord("Toy-v0", 2, 77)}, "bc, eval_seed 77"),
        ({"evaluation": EvaluationRecord('{"id": "Other-v0"}', 2, 1_000_000)}, "bc, environment Other-v0"),
        ({"data": dataclasses.replace(RECORD.data, options={"normalise": "limits"})}, "bc, normalise limits"),
        ({"online": (Online(steps=5),)}, "bc, online.steps 5"),
        ({"parent": Parent(7, "x", "runs/other", begins=True)}, "bc, init_from runs/other"),
    ],
)
def test_what_was_run_or_played_otherwise_is_kept_apart_and_named_by_it(tmp_path, changes, label):
    first = write(tmp_path / "first")
    other = write(tmp_path / "other", dataclasses.replace(RECORD, seeds=(8, 9), **changes))
    ((plain, told),) = labels(first, other)
    assert told == label and plain != label and len(re.findall(",", plain)) == 1


def test_runs_of_other_data_with_the_same_name_are_kept_apart(tmp_path):
    other = dataclasses.replace(RECORD, seeds=(8,), data=dataclasses.replace(RECORD.data, fingerprint="cd34"))
    found = comparison.read([write(tmp_path / "first"), write(tmp_path / "other", other)])
    assert [len(entry.folders) for entry in found.entries] == [1, 1]
    assert found.differences["fingerprint"] == ["ab12", "cd34"]
    assert any("not trained on the same rows" in note for note in found.notes)
    names = [f"data of bc ({tmp_path / name})" for name in ("first", "other")]
    assert [line.row.method for line in rows.lines(found)][:2] == names
    made = page.page(found)
    for name, fingerprint in zip(names, ("ab12", "cd34"), strict=True):
        card = made[made.index(f"<h3>toy/a-v0, {name}</h3>") :]
        assert f"<dd>{fingerprint}</dd>" in card[: card.index("</dl>")]


def test_runs_that_go_on_from_runs_of_their_own_seeds_are_pooled(tmp_path):
    """Each has another parent, whose settings are their own; a run that begins with another's arrays does not tell
    these."""
    for begins, entries in (False, 1), (True, 2):
        folders = []
        for seed in (0, 1):
            parent = Parent(20, f"digest of {seed}", f"runs/{seed}", begins)
            record = dataclasses.replace(RECORD, seeds=(seed,), parent=parent)
            folders.append(write(tmp_path / f"{begins}-{seed}", record))
        assert len(comparison.read(folders).entries) == entries


def test_a_run_that_is_not_as_far_is_kept_apart(tmp_path):
    """Its last evaluation is of other updates; pooled, it would cut the others off at its own."""
    whole = write(tmp_path / "whole")
    half = write(tmp_path / "half", dataclasses.replace(RECORD, seeds=(8,)), updates=(10,))
    found = comparison.read([whole, half])
    assert [entry.label for entry in found.entries] == ["bc, at update 20", "bc, at update 10"]
    assert any("bc, at update 10 on toy/a-v0: not at its end" in note and "10 of 20" in note for note in found.notes)


def test_seeds_that_diverged_are_left_out_and_counted(tmp_path):
    some = write(tmp_path / "some", lost=(0,))
    all_lost = write(tmp_path / "all", dataclasses.replace(RECORD, seeds=(7,)), updates=(10,), lost=(0,))
    found = comparison.read([some, all_lost])
    (entry,) = found.entries
    assert (entry.seeds, entry.diverged) == (3, 2)
    assert [one.returns.tolist() for one in entry.by_goal[""]] == [[[101, 103]], [[101, 103]]]
    assert [position.updates for position, _ in entry.metrics] == [10, 20], "the run that ended early cuts off no other"
    np.testing.assert_array_equal(entry.metrics[1][1]["policy/loss"], [np.nan, 1, np.nan])
    assert any("2 of 3 seeds diverged" in note for note in found.notes)
    assert rows.lines(found)[1].row.method == "bc (2 of 3 seeds diverged)"
    (entry,) = comparison.read([all_lost]).entries
    assert entry.by_goal == {} and entry.diverged == 1


def test_a_run_without_evaluations_is_an_entry_with_its_losses(tmp_path):
    silent = write(tmp_path / "silent", dataclasses.replace(RECORD, evaluation=None, reference=None, eval_every=0))
    found = comparison.read([silent])
    (entry,) = found.entries
    assert entry.by_goal == {} and len(entry.metrics) == 2 and entry.diverged == 0
    (note,) = found.notes
    assert note.startswith("bc on toy/a-v0: no evaluations: it has no environment") and f"rlkit judge {silent} " in note


# ---- names and differences


def test_the_name_has_only_what_tells_methods_apart_and_is_one_on_all_datasets(tmp_path):
    """Both agents have other betas on the second dataset, by which nobody is to be told apart there."""
    folders = [
        write(tmp_path / "a" / "beta=1", with_beta(1.0)),
        write(tmp_path / "a" / "beta=0.3", with_beta(0.3, preset="toy")),
        write(tmp_path / "b" / "one", with_beta(1.0, on("toy/b-v0"))),
        write(tmp_path / "b" / "other", with_beta(9.0, on("toy/b-v0"), agent="iql", module="agents.iql")),
        write(tmp_path / "a" / "other", dataclasses.replace(RECORD, agent="iql", module="agents.iql")),
    ]
    found = comparison.read(folders)
    assert [panel.name for panel in found.panels] == ["toy/a-v0", "toy/b-v0"]
    assert labels(*folders) == [["bc, beta 1", "bc, beta 0.3", "iql"], ["bc, beta 1", "iql"]]
    assert labels(tmp_path / "a", tmp_path / "b") == [["bc, beta 0.3", "bc, beta 1", "iql"], ["bc, beta 1", "iql"]]
    assert found.differences["config.beta"] == ["1", "0.3", "3", "1", "9"]
    assert found.differences["preset"] == ["none", "toy", "none", "none", "none"]
    assert set(found.differences) == {"agent", "config.beta", "preset", "dataset", "fingerprint"}
    assert "iql has other settings from one dataset to the next: config.beta" in found.notes
    assert not any("bc, beta 1 has other" in note for note in found.notes)


def test_a_name_of_many_settings_has_as_many_as_tell_the_methods_apart(tmp_path):
    def record(number, other):
        changed = {name: float(number) for name in "abcde"}
        return dataclasses.replace(RECORD, config=changed | {"f": float(other)})

    folders = [write(tmp_path / str(n), record(*case)) for n, case in enumerate([(1, 1), (2, 1), (2, 2)])]
    assert labels(*folders) == [["bc, a 1, f 1", "bc, a 2, f 1", "bc, a 2, f 2"]]
    assert len(comparison.read(folders).differences) == 6


def test_a_setting_that_one_method_has_alone_is_no_difference(tmp_path):
    other = dataclasses.replace(RECORD, agent="iql", module="agents.iql", config={"expectile": 0.7, "widths": [64, 64]})
    assert list(comparison.read([write(tmp_path / "a"), write(tmp_path / "b", other)]).differences) == ["agent"]


def test_methods_that_were_not_treated_alike_are_told(tmp_path):
    other = dataclasses.replace(
        RECORD, agent="iql", module="agents.iql", steps=40, stages=(("x", 40),),
        evaluation=EvaluationRecord("Toy-v0", 2, 5), versions={"jax": "0.11"},
    )  # fmt: skip
    found = comparison.read([write(tmp_path / "a"), write(tmp_path / "b", other, updates=(10, 40))])
    assert "toy/a-v0: other numbers of updates: 20 (bc); 40 (iql)" in found.notes
    starts = "2 episodes from seed 1,000,000 (bc); 2 episodes from seed 5 (iql)"
    assert f"toy/a-v0: evaluated from other starts: {starts}" in found.notes
    assert found.differences["versions.jax"] == ["0.10.2", "0.11"]


def test_a_control_character_of_a_file_reaches_no_name(tmp_path):
    folders = [write(tmp_path / name, dataclasses.replace(RECORD, config={"kind": kind}))
               for name, kind in (("a", "x\x1b[31m\n"), ("b", "y"))]  # fmt: skip
    ((first, _),) = labels(*folders)
    assert first == "bc, kind x\\x1b[31m\\n"


# ---- folders


def test_a_parent_folder_stands_for_all_runs_below_it(tmp_path):
    for beta in (1.0, 2.0):
        write(tmp_path / "sweep" / f"beta={beta:g}", with_beta(beta))
    (tmp_path / "sweep" / "table.txt").write_text("")
    shutil.copytree(tmp_path / "sweep" / "beta=1", tmp_path / "sweep" / "beta=1" / "inside")
    assert list(run_folders(tmp_path)) == [tmp_path / "sweep" / "beta=1", tmp_path / "sweep" / "beta=2"]
    assert labels(tmp_path) == [["bc, beta 1", "bc, beta 2"]]


def test_the_runs_of_a_sweep_stand_by_the_size_of_their_values(tmp_path):
    for name in ("beta=-1", "beta=-0.5", "beta=1e-4", "beta=0.01", "beta=1", "beta=3", "beta=10", "beta=10,x=a", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("")
    assert [path.name for path in run_folders(tmp_path)] == [
        "beta=-1", "beta=-0.5", "beta=1e-4", "beta=0.01", "beta=1", "beta=3", "beta=10", "beta=10,x=a", "c"
    ]  # fmt: skip


def test_a_run_that_cannot_be_read_is_told(tmp_path):
    good, bad = write(tmp_path / "good"), write(tmp_path / "bad")
    (bad / "run.json").write_text("{")
    found = comparison.read([tmp_path])
    assert [entry.folders for entry in found.entries] == [(good,)]
    assert any("left out, since it cannot be read" in note and str(bad) in note for note in found.notes)
    for named in [bad], [good, bad]:
        with pytest.raises(InputError, match=r"bad/run\.json: not readable"):
            comparison.read(named)
    shutil.rmtree(good)
    with pytest.raises(InputError, match=r"no run can be read: .*bad"):
        comparison.read([tmp_path])


@pytest.mark.parametrize(
    "logged",
    ['{"a": [1, 2], "b": [1]}', '{"a": 1}', "3", '{"a": ["x", 1]}', '{"a": [[1, 2]]}', f'{{"a": [1{"0" * 400}]}}'],
)
def test_metrics_that_are_not_what_was_written_are_an_input_error(tmp_path, logged):
    folder = write(tmp_path / "x", dataclasses.replace(RECORD, evaluation=None))
    (folder / "metrics.jsonl").write_text(f'{{"stage": 0, "step": 5, "updates": 5, "metrics": {logged}}}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl"):
        comparison.read([folder])


def test_a_folder_without_a_run_is_an_input_error(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, words in ("empty", "is not a run directory, and holds none"), ("absent", "no such folder"):
        with pytest.raises(InputError, match=words):
            comparison.read([tmp_path / name])


# ---- over the datasets


def two_datasets(folder):
    """bc on both, iql on both (better on the first, worse on the second), cql on the first alone."""
    for number, (name, returns) in enumerate({"toy/a-v0": (100.0, 120.0), "toy/b-v0": (50.0, 40.0)}.items()):
        for agent, mean in zip(("bc", "iql"), returns, strict=True):
            write(folder / f"{agent}-{number}", on(name, agent=agent, module=f"agents.{agent}"), mean)
    write(folder / "cql", on("toy/a-v0", agent="cql", module="agents.cql"), 0.0)
    return folder


def test_means_are_over_the_datasets_that_all_their_methods_have(tmp_path):
    found = aggregate(comparison.read([two_datasets(tmp_path)]))
    assert found.datasets == ["toy/a-v0", "toy/b-v0"]
    by_label = {method.label: method for method in found.methods}
    assert set(by_label) == {"bc", "iql"}
    assert any("cql is in no mean" in note and "toy/b-v0" in note for note in found.notes)
    assert found.seed_notes == found.notes[-1:]
    assert found.notes[-1].startswith(
        "with 2 seeds the intervals over seeds are too short (docs/report.md): bc on toy/a"
    )
    # runs of bc have the returns 101, 102, 51, 52: the middle two are left
    assert by_label["bc"].interquartile_mean.value == pytest.approx((101 + 52) / 2 / 2)
    first, last = by_label["bc"].profile.share[[0, -1]]
    assert (first, last) == (1, 0) and by_label["iql"].profile.share[-2] > 0
    assert found.improvement["iql", "bc"].value == 0.5, "on one dataset always, on the other never"
    assert found.improvement["bc", "cql"].value == 1 and found.improvement["cql", "bc"].value == 0


def test_one_seed_has_no_interval_and_no_reference_no_score(tmp_path):
    single = dataclasses.replace(RECORD, seeds=(0,))
    found = aggregate(comparison.read([write(tmp_path / "a", single)]))
    (method,) = found.methods
    assert np.isnan([method.interquartile_mean.low, *method.profile.high]).all()
    assert found.notes == ["one seed, so no interval over seeds: bc on toy/a-v0"]
    unscored = dataclasses.replace(RECORD, reference=None)
    other = dataclasses.replace(unscored, agent="iql", module="agents.iql")
    found = aggregate(comparison.read([write(tmp_path / "b", unscored), write(tmp_path / "c", other, 200.0)]))
    assert found.methods == [] and found.datasets == []
    assert found.improvement["iql", "bc"].value == 1, "returns on one dataset can be compared without a score"


def test_every_method_with_few_seeds_is_named_beside_one_with_a_single_seed(tmp_path):
    write(tmp_path / "single", dataclasses.replace(RECORD, seeds=(0,)))
    write(tmp_path / "three", dataclasses.replace(RECORD, seeds=(0, 1, 2), agent="iql", module="agents.iql"))
    write(tmp_path / "five", dataclasses.replace(RECORD, seeds=(0, 1, 2, 3, 4), agent="cql", module="agents.cql"))
    found = aggregate(comparison.read([tmp_path]))
    assert found.seed_notes == [
        "one seed, so no interval over seeds: bc on toy/a-v0",
        "with 3 seeds the intervals over seeds are too short (docs/report.md): iql on toy/a-v0",
    ]


# ---- the tables

GROUPS = [
    Group("a_b & 50%", [Row("data", Estimate(-1.5, -2.0, -1.0, "episodes")), Row("x|y", None)]),
    Group("[z]^~\\", [Row("bc #1 $", Estimate(3.0, 2.0, 4.0, "seeds"), Estimate(7.0, np.nan, np.nan, "seeds"))]),
]


def test_a_table_of_several_datasets_has_them_as_titles():
    text = table(under_titles(GROUPS)).splitlines()
    starts = ["a_b & 50%", "  data ", "  x|y", "[z]^~\\", "  bc #1 $ "]
    assert all(line.startswith(start) for line, start in zip(text[2:7], starts, strict=True))
    assert under_titles(GROUPS[:1]) == GROUPS[0].rows


def test_markdown_has_a_row_for_each_and_no_live_character():
    text = markdown(GROUPS, ["a_b: score 0 is a return of -1.0"]).splitlines()
    assert text[:2] == ["| method | return | score, last checkpoint |", "| --- | ---: | ---: |"]
    assert text[2] == r"| **a\_b \& 50%** |  |  |"
    assert text[3] == r"| data | -1.5 \[-2.0, -1.0\]\* |  |"
    assert text[4] == r"| x\|y |  |  |"
    assert text[6] == r"| bc \#1 \$ | 3.0 \[2.0, 4.0\]\*\* | 7.0 |"
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in text[:7]]
    assert set(cells) == {4}
    assert text[-1] == r"a\_b: score 0 is a return of -1.0" and "over episodes alone" in text[8]


def test_latex_escapes_what_would_be_a_command():
    text = latex(GROUPS, ["a line\nof words"]).splitlines()
    assert text[1] == "% a line of words" and text[2] == r"\begin{tabular}{lrr}"
    assert r"\multicolumn{3}{l}{\textit{a\_b \& 50\%}} \\" in text
    assert r"\multicolumn{3}{l}{\textit{{[}z]\textasciicircum{}\textasciitilde{}\textbackslash{}}} \\" in text
    assert r"data & $-$1.5 [$-$2.0, $-$1.0]* &  \\" in text
    assert r"bc \#1 \$ & 3.0 [2.0, 4.0]** & 7.0 \\" in text
    assert text[-2:] == [r"\hline", r"\end{tabular}"]


def test_csv_has_all_digits_and_leaves_empty_what_is_not_known():
    third = Estimate(1 / 3, 0.1, 2 / 3, "seeds and starts")
    lines = [Line("a,b", "data", Row("data", third)), Line("a,b", "bc", Row("bc (1 of 3)", third, third), "30", 2, 1)]
    first, second = csv.DictReader(io.StringIO(csv_text(lines)))
    assert float(first["return_mean"]) == 1 / 3 and float(first["return_high"]) == 2 / 3
    assert (first["dataset"], first["method"], first["seeds"], first["score_mean"]) == ("a,b", "data", "", "")
    assert (second["method"], second["goal"], second["seeds"], second["diverged"]) == ("bc", "30", "2", "1")
    assert second["score_over"] == "seeds and starts"
    single = [Line("x", "bc", Row("bc", Estimate(1.0, np.nan, np.nan, "episodes")))]
    (only,) = csv.DictReader(io.StringIO(csv_text(single)))
    assert only["return_mean"] == "1.0" and only["return_low"] == ""


# ---- the command


def test_a_run_without_an_environment_is_a_row_below_that_of_its_data(rlkit_command, tmp_path):
    silent = write(tmp_path / "silent", dataclasses.replace(RECORD, evaluation=None, reference=None, eval_every=0))
    code, out, err = rlkit_command("report", silent, "--out", tmp_path / "all")
    assert code == 0, err
    assert re.search(r"^data +20\.0 \[19\.0, 21\.0\]", out, re.MULTILINE) and f"rlkit judge {silent}" in out
    assert "bc: no evaluations" in out
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [
        "report.html", "table.csv", "table.md", "table.tex", "table.txt"
    ]  # fmt: skip
    code, _, err = rlkit_command("report", silent, "--out", tmp_path / "curve.png")
    assert code == 2 and "there is no curve to draw" in err and err.count("\n") == 1


def test_files_are_there_before_the_table_is_printed(rlkit_command, tmp_path, monkeypatch):
    def closed(*_):
        raise ZeroDivisionError  # a BrokenPipeError would end standard output

    run = write(tmp_path / "run")
    monkeypatch.setattr(tables, "show", closed)
    with pytest.raises(ZeroDivisionError):
        rlkit_command("report", run, "--out", tmp_path / "table.csv")
    assert (tmp_path / "table.csv").exists()


@pytest.mark.parametrize("name", ["report.pdf", "report.htm", "report.json", "curve.jpg", "-", ""])
def test_an_unknown_ending_or_no_name_is_refused_with_the_known_ones(rlkit_command, tmp_path, monkeypatch, name):
    run = write(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    code, told, err = rlkit_command("report", run, "--out", name)
    assert code == 2 and not told and err.count("\n") == 1, err
    assert not name or (".html" in err and "a folder has no ending" in err)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_no_report_is_written_into_a_run(rlkit_command, tmp_path):
    run = write(tmp_path / "run")
    code, told, err = rlkit_command("report", run, "--out", run)
    assert code == 2 and not told and "is a run directory" in err and err.count("\n") == 1
    assert sorted(path.name for path in run.iterdir()) == ["metrics.jsonl", "run.json"]


def test_report_groups_by_dataset_and_writes_what_is_asked_for(rlkit_command, tmp_path):
    runs = two_datasets(tmp_path / "runs")
    code, out, err = rlkit_command("report", runs, "--out", tmp_path / "all")
    assert code == 0, err
    lines = out.splitlines()
    places = [next(n for n, line in enumerate(lines) if line.startswith(words))
              for words in ("toy/a-v0  ", "  cql", "toy/b-v0  ", "interquartile mean, 2 datasets")]  # fmt: skip
    assert places == sorted(places)
    assert re.match(r"  bc +38\.2 \[38\.0, 38\.5\]\*\*\*", lines[places[-1] + 1]), lines[places[-1] + 1]
    assert any(line.startswith("note: cql is in no mean") for line in lines)
    names = {path.name for path in (tmp_path / "all").iterdir()}
    assert {"table.txt", "table.md", "table.tex", "table.csv", "curve.png", "curve.svg"} <= names
    written = (tmp_path / "all" / "table.txt").read_text()
    assert out.startswith(written), "what was printed"
    (found,) = [row for row in csv.DictReader((tmp_path / "all" / "table.csv").open())
                if (row["dataset"], row["method"]) == ("toy/b-v0", "iql")]  # fmt: skip
    assert float(found["score_mean"]) == 20.75 and found["seeds"] == "2" and found["score_over"] == "seeds and starts"
    for name in ("table.md", "table.tex", "table.csv"):
        alone = tmp_path / "alone" / name
        code, _, err = rlkit_command("report", runs, "--out", alone)
        assert code == 0 and alone.read_text() == (tmp_path / "all" / name).read_text(), err
    assert {path.name for path in (tmp_path / "alone").iterdir()} == {"table.md", "table.tex", "table.csv"}


def test_curves_have_a_panel_for_each_dataset(rlkit_command, tmp_path):
    runs = two_datasets(tmp_path / "runs")
    sizes = {}
    for name, folders in {"both": [runs], "one": [runs / "bc-0"]}.items():
        assert rlkit_command("report", *folders, "--out", tmp_path / f"{name}.png")[0] == 0
        sizes[name] = matplotlib.image.imread(tmp_path / f"{name}.png").shape
    assert sizes["both"][1] > sizes["one"][1]
    assert rlkit_command("report", runs, "--out", tmp_path / "both.SVG")[0] == 0
    drawn = (tmp_path / "both.SVG").read_text()
    assert drawn.count('<g id="axes_') == 2


def test_an_output_that_cannot_be_written_is_told_before_anything_is_read(rlkit_command, tmp_path):
    run = write(tmp_path / "run")
    (tmp_path / "x.csv").mkdir()
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "x.csv", tmp_path / "file", tmp_path / "file" / "x.md"):
        code, told, err = rlkit_command("report", run, "--out", out)
        assert code == 2 and err.count("\n") == 1 and str(tmp_path) in err and not told
    assert (tmp_path / "file").read_text() == "mine"
