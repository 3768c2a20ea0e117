"""The runner of the results tables (benchmarks/table.py)."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import PACE, SMALL

from agents import bc
from benchmarks import icu_sepsis, table
from benchmarks.table import COLUMNS, Cell, configuration
from rlkit.evaluation import statistics
from rlkit.evaluation.statistics import Estimate
from rlkit.runs.record import Record
from rlkit.runs.run import evaluations
from rlkit.training.divergence import ADVICE
from rlkit.types import InputError

PENDULUM = "pendulum/mixed-v0"

# Stands for train.py: notes how it was called, and does what the dataset's name says.
FAKE = """
import os, shutil, subprocess, sys
from pathlib import Path

words = sys.argv
out, dataset = Path(words[words.index("--out") + 1]), words[words.index("--dataset") + 1]
home = Path(__file__).parent
with (home / "calls.txt").open("a") as file:
    print(os.getcwd(), *words[1:], file=file)
print("training")
if dataset == "diverges":
    sys.exit(f"rlkit: {out}: seed 0 diverged by step 5 of bc: policy/loss is nan; ADVICE")
if dataset == "fails":
    sys.exit(f"rlkit: {out}/run.json cannot be written to (No space left on device): make room")
if dataset == "is-killed":
    os.kill(os.getpid(), 9)
if dataset == "is-interrupted" and not out.exists():
    out.mkdir(parents=True)
    sys.exit(143)
if dataset == "moves-the-commit":
    subprocess.run(["git", "commit", "--quiet", "--allow-empty", "-m", "later"], cwd=home, check=True)
if dataset == "toy.h5":
    assert Path(dataset).exists()
shutil.copytree("TRAINED", out, dirs_exist_ok=True)
if dataset == "has-an-invalid-evaluation":
    print(f"rlkit: {out}: 1 evaluations are invalid; metrics.jsonl says why", file=sys.stderr)
    sys.exit(1)
"""


@pytest.fixture
def home(tmp_path, monkeypatch, trained):
    """A project whose train.py is the fake; every cell resolves to the configuration of the run ``trained``."""
    home = tmp_path / "home"
    (home / "agents").mkdir(parents=True)
    (home / "train.py").write_text(FAKE.replace("ADVICE", ADVICE).replace("TRAINED", str(trained)))
    monkeypatch.setattr(table, "ROOT", home)
    monkeypatch.setattr(table, "resolve", lambda cell, files: configuration(Record.read(trained)))
    monkeypatch.chdir(home)
    return home


def toml(home: Path, *datasets: str, args: str = "--steps 5", seeds: tuple[int, ...] = (0,)) -> Path:
    path = home / "toy.toml"
    path.write_text(f'args = "{args}"\n[[cells]]\nagent = "bc"\nseeds = {list(seeds)}\ndatasets = {list(datasets)}\n')
    return path


def run(path: Path, **options) -> int:
    return table.run(path, path.parent / "runs", [min(os.sched_getaffinity(0))], **options)


def rows(home: Path) -> list[dict[str, str]]:
    return table.rows(home / "toy.csv")


def called(home: Path) -> list[str]:
    """The datasets that train.py was called for, in order; forgets them."""
    calls = home / "calls.txt"
    words = [line.split() for line in calls.read_text().splitlines()] if calls.exists() else []
    calls.unlink(missing_ok=True)
    return [call[call.index("--dataset") + 1] for call in words]


# ---- what a run is


def test_a_command_resolves_to_the_configuration_of_the_run_that_it_makes(trained, monkeypatch):
    cell = Cell("bc", "bc", PENDULUM, 0, (*SMALL, *PACE))
    as_trained = configuration(Record.read(trained))
    assert table.resolve(cell, None) == as_trained
    assert table.resolve(cell._replace(seed=7), None) == as_trained
    assert table.resolve(cell._replace(args=(*cell.args, "--config.batch-size", "16")), None) != as_trained


def test_a_configuration_ends_with_the_preset_and_with_the_data(trained, monkeypatch):
    cell = Cell("bc", "bc", PENDULUM, 0, ("--preset", "pendulum"))
    before = table.resolve(cell, None)
    preset = bc.PRESETS["pendulum"]
    other = dataclasses.replace(preset, config=dataclasses.replace(preset.config, learning_rate=1e-2))
    monkeypatch.setitem(bc.PRESETS, "pendulum", other)
    assert table.resolve(cell, None) != before
    record = Record.read(trained)
    other_data = dataclasses.replace(record, data=dataclasses.replace(record.data, fingerprint="another"))
    assert configuration(other_data) != configuration(record)


def test_a_command_that_is_refused_is_an_input_error(capsys):
    with pytest.raises(InputError, match="unknown preset"):
        table.resolve(Cell("bc", "bc", PENDULUM, 0, ("--preset", "nonesuch")), None)
    with pytest.raises(InputError, match="refused"):
        table.resolve(Cell("bc", "bc", PENDULUM, 0, ("--nonesuch",)), None)


# ---- what a run leaves


def test_a_finished_cell_carries_each_episodes_return_and_what_it_took(home, trained):
    assert run(toml(home, "good")) == 0
    (row,) = rows(home)
    done = evaluations(trained)
    assert row["returns_last"].split() == [f"{x:.7g}" for x in done[-1].returns[0]]
    # 40 updates, evaluated every 10: one evaluation after more than 32
    assert row["returns_last_fifth"] == row["returns_last"]
    assert row["status"] == "finished" and row["problem"] == "" and row["steps"] == "40"
    assert float(row["core_minutes"]) >= 0 and row["configuration"] == configuration(Record.read(trained))
    command = "python train.py train bc --dataset good --seed 0 --out OUT --resume auto --steps 5"
    assert row["command"] == command


def test_the_last_fifth_is_the_mean_of_each_start(tmp_path, trained):
    shutil.copytree(trained, tmp_path / "run")
    lines = [(k, [float(k), 10.0 * k]) for k in (20, 36, 38, 40)]
    text = "".join(
        f'{{"stage": 0, "step": {k}, "updates": {k}, "returns": [{r}], "lengths": [[1, 1]]}}\n' for k, r in lines
    )
    (tmp_path / "run" / "metrics.jsonl").write_text(text)
    cell = Cell("bc", "bc", "x", 0, ())
    row = table.measure(cell, table.Key("", ""), table.Outcome("finished", "", "", None), tmp_path / "run")
    assert row["returns_last"] == "40 400" and row["returns_last_fifth"] == "38 380"


def test_runs_that_failed_leave_rows_that_say_so_and_are_not_tried_again_unasked(home, tmp_path):
    path = toml(home, "diverges", "fails", "is-killed", "good", "has-an-invalid-evaluation")
    assert run(path) == 3
    assert called(home) == ["diverges", "fails", "is-killed", "good", "has-an-invalid-evaluation"]
    problems = {row["dataset"]: (row["status"], row["problem"]) for row in rows(home)}
    assert problems["diverges"][0] == "diverged" and "policy/loss is nan" in problems["diverges"][1]
    assert problems["fails"] == ("failed", "exit code 1: rlkit: run.json cannot be written to (No space left on "
                                 "device): make room")  # fmt: skip
    assert problems["is-killed"] == ("failed", "exit code -9: training")
    assert problems["has-an-invalid-evaluation"][0] == "finished"
    assert "1 evaluations are invalid" in problems["has-an-invalid-evaluation"][1]
    assert all(row["returns_last"] == "" for row in rows(home) if row["status"] != "finished")
    assert str(tmp_path) not in (home / "toy.csv").read_text()
    assert run(path) == 0 and called(home) == []
    assert run(path, retry=True) == 3
    assert called(home) == ["diverges", "fails", "is-killed"] and len(rows(home)) == 5


def test_a_row_ends_with_its_configuration(home, monkeypatch, capsys):
    path = toml(home, "good", "fails")
    run(path)
    called(home)
    monkeypatch.setattr(table, "resolve", lambda cell, files: "another")
    assert run(path) == 1
    assert called(home) == ["good", "fails"] and len(rows(home)) == 2
    assert "2 rows removed" in capsys.readouterr().out


def test_a_row_ends_with_its_command(home):
    run(toml(home, "good"))
    called(home)
    run(toml(home, "good", args="--steps 6"))
    assert called(home) == ["good"]
    (row,) = rows(home)
    assert row["command"].endswith("--steps 6")


def test_rows_of_other_labels_and_of_cells_that_cannot_be_resolved_here_stay(home, monkeypatch, capsys):
    path = toml(home, "good", "fails")
    other = '[[cells]]\nlabel = "other"\nagent = "iql"\nseeds = [0]\ndatasets = ["good"]\n'
    path.write_text(path.read_text() + other)
    assert run(path, only="other") == 0
    assert run(path, only="bc") == 1
    before = rows(home)
    assert len(before) == 3

    def resolve(cell, files):
        raise InputError("there is no such dataset here")

    monkeypatch.setattr(table, "resolve", resolve)
    assert run(path) == 3
    assert rows(home) == before
    assert "bc on fails, seed 0: there is no such dataset here" in capsys.readouterr().err


def test_an_interrupted_run_leaves_no_row_and_the_next_goes_on_with_it(home, monkeypatch):
    path = toml(home, "is-interrupted", "good")
    monkeypatch.setattr(table, "commit", lambda: "aaaaaaa")
    assert run(path) == 2  # nothing is begun after it
    assert called(home) == ["is-interrupted"] and rows(home) == []
    monkeypatch.setattr(table, "commit", lambda: "bbbbbbb")
    assert run(path) == 0
    assert called(home) == ["is-interrupted", "good"]
    assert [row["commit"] for row in rows(home)] == ["aaaaaaa then bbbbbbb", "bbbbbbb"]


def test_core_minutes_are_those_of_all_parts_or_unknown(tmp_path):
    parts = tmp_path / "0.parts"
    parts.write_text('{"commit": "a"}\n{"seconds": 90, "code": 75}\n{"commit": "a"}\n{"seconds": 30, "code": 0}\n')
    assert table._outcome("finished", "", parts) == ("finished", "", "a", 2.0)
    parts.write_text('{"commit": "a"}\n{"commit": "a"}\n{"seconds": 30, "code": 0}\n')  # one end was never written
    assert table._outcome("finished", "", parts).core_minutes is None


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_the_start_and_uncommitted_code_is_marked(home, monkeypatch):
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "somebody")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "somebody@example.org")

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=home, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("add", "train.py")
    git("commit", "--quiet", "-m", "first")
    first = git("rev-parse", "--short", "HEAD")
    path = toml(home, "moves-the-commit", seeds=(0, 1))  # what is not code may differ
    run(path)
    before = [row["commit"] for row in rows(home)]
    assert before == [first, git("rev-parse", "--short", "HEAD^")]
    (home / "agents" / "new.py").write_text("")
    assert table.commit() == git("rev-parse", "--short", "HEAD") + "-dirty"


def test_files_are_named_from_their_folder_and_no_path_gets_into_the_table(home, tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    (files / "toy.h5").touch()
    assert run(toml(home, "toy.h5"), files=files) == 0
    (call,) = (home / "calls.txt").read_text().splitlines()
    assert call.startswith(f"{files} train bc --dataset toy.h5 --seed 0 --out {home}/runs/bc/toy.h5/0-")
    assert str(tmp_path) not in (home / "toy.csv").read_text()


def test_an_older_table_is_refused(home):
    (home / "toy.csv").write_text("label,score\nbc,1\n")
    with pytest.raises(InputError, match="toy.csv.*remove the file"):
        run(toml(home, "good"))


# ---- what is shown


def row(dataset: str, label: str, seed: int, last: str, late: str, status: str = "finished", **others: str) -> dict:
    cell = Cell(label, label, dataset, seed, ("--steps", "5"))
    scale = {"random": "0", "expert": "200", "data_return": "20", "data_low": "10", "data_high": "30"}
    made = dict.fromkeys(COLUMNS, "") | scale | {"label": label, "dataset": dataset, "seed": str(seed)}
    made |= {"status": status, "returns_last": last, "returns_last_fifth": late, "command": cell.command}
    return made | {"configuration": "c", "core_minutes": "1.5"} | others


@pytest.fixture
def estimates(monkeypatch):
    """What estimate is asked for; the interval is the mean, one below and one above."""
    asked = []

    def estimate(values):
        asked.append(np.asarray(values).tolist())
        mean = float(np.mean(values))
        return Estimate(mean, mean - 1, mean + 1, "seeds")

    monkeypatch.setattr(statistics, "estimate", estimate)
    return asked


def test_a_table_shows_means_with_intervals_over_seeds_and_starts_and_what_was_lost(home, estimates):
    path = toml(home, "y", "x", seeds=(0, 1, 2))
    made = [
        row("x", "bc", 0, "10 30", "12 32", core_minutes="1"),
        row("x", "bc", 2, "30 50", "32 52", core_minutes="2") | {"label": "as it was called before"},
        row("x", "bc", 1, "", "", "diverged"),
        row("y", "bc", 0, "-1 -3", "2 4"),
        row("z", "bc", 0, "5 5", "5 5"),  # no longer in the table
    ]
    table.write_rows(home / "toy.csv", made)
    lines = table.render(path).splitlines()
    assert lines[2:6] == [
        "| y | data | 20.0 [10.0, 30.0] | 10.0 [5.0, 15.0] | | |",
        "| y | `bc` | -2.0 [-3.0, -1.0]* (1) | -1.0 [-2.0, 0.0]* (1) | 1.5 [0.5, 2.5]* (1) | 1.5 |",
        "| x | data | 20.0 [10.0, 30.0] | 10.0 [5.0, 15.0] | | |",
        "| x | `bc` | 30.0 [29.0, 31.0] (2, 1 diverged) | 15.0 [14.0, 16.0] (2, 1 diverged) | "
        "16.0 [15.0, 17.0] (2, 1 diverged) | 1.5 |",
    ]
    assert lines[6] == "" and "only seed" in lines[7] and len(lines) == 8
    # each row is a seed, each column a start
    assert estimates[3:] == [[[10, 30], [30, 50]], [[5, 15], [15, 25]], [[6, 16], [16, 26]]]


def test_a_cell_without_a_sound_run_shows_none(home):
    table.write_rows(home / "toy.csv", [row("x", "bc", 0, "", "", "failed", data_return="", random="")])
    line = table.render(toml(home, "x")).splitlines()[2]
    assert line == "| x | `bc` | - (0, 1 failed) | - (0, 1 failed) | - (0, 1 failed) | - |"


def test_rows_of_two_configurations_are_no_cell(home):
    made = [row("x", "bc", 0, "1", "1"), row("x", "bc", 1, "2", "2", configuration="d")]
    table.write_rows(home / "toy.csv", made)
    with pytest.raises(InputError, match="bc on x have different configurations"):
        table.render(toml(home, "x", seeds=(0, 1)))


def test_a_seed_counts_once(home):
    table.write_rows(home / "toy.csv", [row("x", "bc", 0, "1", "1"), row("x", "bc", 0, "2", "2")])
    with pytest.raises(InputError, match="bc on x have the same seed twice"):
        table.render(toml(home, "x"))


def test_a_table_is_written_between_its_marks(home, estimates):
    path = toml(home, "x")
    table.write_rows(home / "toy.csv", [row("x", "bc", 0, "10", "12")])
    document = home / "page.md"
    document.write_text("a\n<!-- table toy.toml -->\nold\n<!-- end -->\nb\n<!-- end -->\n")
    text = table.insert_all(document)
    assert text == f"a\n<!-- table toy.toml -->\n\n{table.render(path)}\n\n<!-- end -->\nb\n<!-- end -->\n"
    with pytest.raises(InputError, match="<!-- table other.toml -->"):
        table.insert(text, "other.toml", "")


def test_exact_values_have_intervals_over_seeds_alone(monkeypatch):
    asked = []

    def estimate(values):
        asked.append(np.asarray(values).tolist())
        return Estimate(0.8, 0.7, 0.9, "seeds")

    monkeypatch.setattr(icu_sepsis, "estimate", estimate)
    rows = [
        icu_sepsis._row("uniform", sampled=0.7801),
        icu_sepsis._row("`bc`", "0", 0.75, 0.5, "c"),
        icu_sepsis._row("`bc`", "1", 0.85, 0.5, "c"),
    ]
    lines = icu_sepsis.render(rows).splitlines()
    assert lines[2:] == [
        "| uniform | - | 0.7801 |",
        "| `bc` | 0.8000 [0.7000, 0.9000] (2) | 0.8000 [0.7000, 0.9000] (2) |",
    ]
    assert asked == [[[0.75], [0.85]], [[0.5], [0.5]]]
    with pytest.raises(InputError, match="different configurations"):
        icu_sepsis.render([*rows, icu_sepsis._row("`bc`", "2", 0.8, 0.8, "d")])


@pytest.mark.parametrize(
    "name", ["README.md", "docs/results.md", "docs/discrete.md", "docs/sequence.md", "docs/diffusion_policy.md"]
)
def test_documents_show_what_the_tracked_rows_say(name):
    document = table.ROOT / name
    text = document.read_text()
    assert "<!-- table benchmarks/tables/" in text
    assert table.insert_all(document) == text, f"python -m benchmarks.table insert {name}"
    if name == "docs/discrete.md":
        values = "benchmarks/tables/icu_sepsis_values.csv"
        rows = table.rows(table.ROOT / values, icu_sepsis.COLUMNS)
        assert rows and table.insert(text, values, icu_sepsis.render(rows)) == text
