"""Runs that go on: by their folder alone, longer, evaluated otherwise; and runs that begin with another's weights."""

import contextlib
import dataclasses
import io
import json
import shlex
import shutil

import jax
import numpy as np
import pytest
from conftest import PACE, SMALL, _catalog, final_bits

import envs
import rlkit
from rlkit import commands
from rlkit.commands import announce, preparation
from rlkit.commands.parsing import parse
from rlkit.runs import serialization
from rlkit.runs.job import Job
from rlkit.runs.record import Parent, Record
from rlkit.runs.restored import restore
from rlkit.runs.run import earlier_records, evaluations
from rlkit.testing import bits

TRAIN = ["train", "bc", *SMALL, *PACE]
HALF = [*TRAIN, "--steps", "20"]
CATALOG = _catalog(envs.make)


@pytest.fixture(scope="module")
def made(tmp_path_factory, cache):
    """The first 20 of the 40 updates of `trained`, as a run of its own, and the lines that its training said."""
    folder = tmp_path_factory.mktemp("runs") / "half a run"
    told = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(told):
        patch.setenv("RLKIT_CACHE_DIR", str(cache))
        assert commands.main([*HALF, "--out", str(folder)], CATALOG) == 0
    return folder, told.getvalue().splitlines()


@pytest.fixture(scope="module")
def half(made):
    """Its folder."""
    folder, _ = made
    return folder


@pytest.fixture
def run(half, tmp_path):
    """A copy of it."""
    return shutil.copytree(half, tmp_path / "run")


def logged(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# ---- with nothing but the folder


def test_a_run_goes_on_with_nothing_but_its_folder(rlkit_command, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "40")
    (run / "result.json").unlink()
    code, out, err = rlkit_command("train", "--resume", "auto", "--out", run)
    assert (code, err) == (0, "") and "going on after 30 updates" in out
    assert final_bits(run) == final_bits(trained)
    for name in ("metrics.jsonl", "result.json"):
        assert (run / name).read_bytes() == (trained / name).read_bytes()
    code, out, err = rlkit_command("train", "--out", run, "--resume", "must")
    assert (code, err) == (0, "") and "already finished" in out


def test_what_a_run_was_made_with_is_read_and_what_is_typed_wins(trained):
    asked = parse(["train", "--resume", "auto", "--out", str(trained), "--eval-episodes", "7"], CATALOG)
    again = parse([*TRAIN, "--out", str(trained), "--resume", "auto"], CATALOG)
    assert asked.config == again.config and asked.data == again.data
    for name in ("agent", "module", "steps", "seeds", "seed", "eval_every", "log_every", "eval_seed", "out"):
        assert getattr(asked, name) == getattr(again, name), name
    assert (asked.eval_episodes, again.eval_episodes) == (7, 2)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--resume", "auto", "--out", "nothing"], "nothing is no run to go on with: it has no run.json"),
        (["--out", "RUN"], "rlkit train --resume auto --out RUN"),
        (["--resume", "auto", "bc", "--out", "RUN"], "before its options: rlkit train bc --resume auto --out "),
        (["--resume", "auto", "--out", "RUN", "--preset", "pendulum"], "goes on with its own settings"),
        (["--resume", "auto", "--out", "RUN", "--sweep", "config.learning-rate=1,2"], "is one run"),
        (["--resume", "auto", "--out", "RUN", "--config.learning-rate", "0.5"], "config.learning_rate: 0.0003 -> 0.5"),
    ],
)
def test_a_mistake_in_going_on_is_told_in_one_line(rlkit_command, half, argv, message):
    code, _, err = rlkit_command("train", *(half if word == "RUN" else word for word in argv))
    assert code == 2 and message in err and err.count("\n") == 1


def test_an_agent_of_the_users_own_has_to_be_typed(rlkit_command, run):
    """Nothing is imported because a run's record names it."""
    form = json.loads((run / "run.json").read_text()) | {"module": "elsewhere:Config", "agent": "elsewhere:Config"}
    (run / "run.json").write_text(json.dumps(form))
    code, _, err = rlkit_command("train", "--resume", "auto", "--out", run)
    assert code == 2 and "add --agent elsewhere:Config" in err and err.count("\n") == 1
    code, _, err = rlkit_command("train", "--agent", "elsewhere:Config", "--resume", "auto", "--out", run)
    assert code == 2 and "there is no module elsewhere" in err


def test_an_environment_of_the_users_own_has_to_be_typed(rlkit_command, run):
    recorded = json.loads((run / "run.json").read_text())
    for changed, told in (
        ({"environment": "elsewhere:make"}, "add --env elsewhere:make"),
        ({"imports": ["elsewhere"]}, "add --import elsewhere"),
    ):
        form = recorded | {"evaluation": recorded["evaluation"] | changed}
        (run / "run.json").write_text(json.dumps(form))
        code, _, err = rlkit_command("train", "--resume", "auto", "--out", run)
        assert code == 2 and told in err and err.count("\n") == 1
    form = recorded | {"data": recorded["data"] | {"options": recorded["data"]["options"] | {"env": "elsewhere:make"}}}
    (run / "run.json").write_text(json.dumps(form))
    code, _, err = rlkit_command("train", "--resume", "auto", "--out", run)
    assert code == 2 and "add --env elsewhere:make" in err and err.count("\n") == 1


# ---- longer


def test_a_run_that_is_made_longer_ends_with_the_bits_of_the_long_run(rlkit_command, run, trained):
    before = (run / "run.json").read_bytes()
    code, out, err = rlkit_command("train", "--resume", "auto", "--out", run, "--steps", "40")
    assert code == 0 and err.count("\n") == 1 and "goes on with other settings (steps: 20 -> 40)" in err
    assert "going on after 20 updates" in out
    assert final_bits(run) == final_bits(trained)
    for name in ("metrics.jsonl", "result.json"):
        assert (run / name).read_bytes() == (trained / name).read_bytes()
    assert Record.read(run).identity() == Record.read(trained).identity()
    (kept,) = earlier_records(run)
    assert kept.read_bytes() == before
    code, out, _ = rlkit_command("verify", run)
    assert code == 0 and "damaged" not in out
    code, out, err = rlkit_command("train", "--resume", "auto", "--out", run)
    assert (code, err) == (0, "") and "already finished" in out
    (run / "run.json").write_text((run / "run.json").read_text().replace('"steps": 40', '"steps": 41'))
    code, out, _ = rlkit_command("verify", run)
    assert code == 1 and "run.json" in out and "damaged" in out, "the record since is sealed with the checkpoints since"


def test_steps_are_not_lowered(rlkit_command, run):
    code, _, err = rlkit_command("train", "--resume", "auto", "--out", run, "--steps", "10")
    assert code == 2 and "has 20, which can be raised and not lowered" in err and err.count("\n") == 1
    assert (run / "result.json").exists() and not earlier_records(run)


def test_a_schedule_over_the_steps_refuses_more_of_them_and_says_what_to_do(rlkit_command, tmp_path):
    """A cosine that has fallen to 0 cannot fall to 0 later: the first update would have been another one."""
    argv = ["train", "iql", "--eval-episodes", "0", "--out", str(tmp_path)]
    serialization.write_json(
        tmp_path / "run.json", preparation.resolve(parse([*argv, "--steps", "100"], CATALOG), CATALOG)
    )
    before = (tmp_path / "run.json").read_bytes()
    code, _, err = rlkit_command(*argv, "--steps", "200", "--eval-every", "5", "--log-every", "5", "--resume", "auto")
    assert code == 2 and "--init-from" in err and "a schedule of iql" in err
    assert (tmp_path / "run.json").read_bytes() == before


def test_a_run_that_has_been_online_is_finetuned_and_not_made_longer(rlkit_command, tmp_path):
    begun = parse(["train", "bc", "--steps", "100", "--online.steps", "20", "--eval-episodes", "0"], CATALOG)
    record = preparation.resolve(begun, CATALOG)
    finetuned = dataclasses.replace(record, parent=Parent(100, "0" * 64, str(tmp_path / "before")))
    for recorded, more in (
        (record, ["--steps", "200"]),
        (record, ["--online.steps", "40"]),
        (finetuned, ["--steps=200"]),
    ):
        serialization.write_json(tmp_path / "run.json", recorded)
        code, _, err = rlkit_command("train", "--resume", "auto", "--out", tmp_path, *more)
        assert code == 2 and f"rlkit finetune {tmp_path} --online.steps N" in err and err.count("\n") == 1


# ---- evaluated and logged otherwise


def test_other_evaluations_and_log_lines_leave_what_is_learnt_as_it_is(rlkit_command, run, trained, tmp_path):
    other = ["--eval-episodes", "3", "--eval-seed", "77", "--eval-every", "8", "--log-every", "4"]
    code, _, err = rlkit_command("train", "--resume", "auto", "--out", run, "--steps", "40", *other)
    assert code == 0 and "evaluation.episodes: 2 -> 3; evaluation.seed: 1000000 -> 77" in err
    assert final_bits(run) == final_bits(trained)

    # --- each evaluation is what it was; the score is of the last ones, from the same starts ---
    found = [(one.position.step, one.starts) for one in evaluations(run)]
    old, new = (1_000_000, 2), (77, 3)
    assert found == [(0, old), (10, old), (20, old), (24, new), (32, new), (40, new)]
    result = json.loads((run / "result.json").read_text())["run"]
    last = evaluations(run)[-1].returns
    assert result["episode_returns"] == last.tolist() and last.shape == (2, 3)
    code, out, _ = rlkit_command("report", run, trained, "--out", tmp_path)
    assert code == 0 and (tmp_path / "curve.png").exists()

    # --- the first mean after the change is that of the updates since the last line ---
    steps = [line["step"] for line in logged(run) if "metrics" in line]
    assert steps == [5, 10, 15, 20, 24, 28, 32, 36, 40]
    losses = {line["step"]: np.array(line["metrics"]["policy/loss"]) for line in logged(run) if "metrics" in line}
    straight = {line["step"]: np.array(line["metrics"]["policy/loss"]) for line in logged(trained) if "metrics" in line}
    np.testing.assert_allclose(
        4 * sum(losses[step] for step in range(24, 41, 4)), 5 * sum(straight[step] for step in range(25, 41, 5)), 1e-5
    )


def test_a_finished_run_is_not_evaluated_otherwise(rlkit_command, run):
    kept = [(run / name).read_bytes() for name in ("run.json", "metrics.jsonl")]
    code, out, err = rlkit_command("train", "--resume", "auto", "--out", run, "--eval-episodes", "3")
    assert code == 0 and "already finished" in out and "rlkit evaluate makes other evaluations" in err
    assert [(run / name).read_bytes() for name in ("run.json", "metrics.jsonl")] == kept


@pytest.mark.parametrize(
    ("words", "intervals"),
    [
        (["--steps", "20"], (4, 20)),
        (["--steps", "150"], (20, 100)),
        (["--steps", "10000"], (100, 500)),
        (["--steps", "20", "--log-every", "30"], (30, 30)),
        (["--steps", "20", "--eval-every", "1"], (1, 1)),
        (["--steps", "0", "--online.steps", "60"], (12, 60)),
    ],
)
def test_a_short_run_is_evaluated_at_its_ends_alone_unless_it_is_asked_for_more(words, intervals):
    assert preparation.intervals(parse(["train", "bc", *words], CATALOG)) == intervals


# ---- begun with another run's weights


def state_of(folder):
    return restore(folder, Record.read(folder)).state


def test_a_run_begins_with_the_arrays_of_another_and_a_new_optimiser(rlkit_command, half, tmp_path):
    """At a step size of 0 the parameters stay, and the optimiser's count tells where it began."""
    still = ["--config.learning-rate", "0", "--steps", "1", "--seed", "5", "--reward-scale", "2"]
    words = [*TRAIN, *still, "--eval-episodes", "0", "--init-from", half, "--out", tmp_path / "run"]
    code, out, err = rlkit_command(*words)
    assert code == 0 and f"checkpoint 20 of {half}" in " ".join(out.split())
    assert "was trained with another reward_scale" in err
    before, after = state_of(half), state_of(tmp_path / "run")
    assert bits(after.params) == bits(before.params)
    counts = [leaf for leaf in jax.tree.leaves(after.opt) if leaf.dtype == np.int32]
    assert counts and all((count == 1).all() for count in counts)
    record = Record.read(tmp_path / "run")
    assert record.parent.begins and (record.parent.checkpoint, record.parent.run) == (20, str(half))
    code, out, _ = rlkit_command("train", "--resume", "auto", "--out", tmp_path / "run")
    assert code == 0 and "already finished" in out


@pytest.mark.parametrize(
    ("agent", "other", "message"),
    [
        ("bc", ["--config.widths", "4"], "arrays differ: "),
        ("bc", ["--seeds", "1"], "it has 2 seeds: add --seeds 2"),
        ("td3-bc", [], "a run of bc has other arrays than td3-bc"),
        ("bc", ["--init-from", "nothing"], "nothing is not a run directory"),
    ],
)
def test_a_run_that_cannot_be_begun_with_is_refused_in_one_line(rlkit_command, half, tmp_path, agent, other, message):
    small = SMALL if agent == "bc" else ["--steps", "4", "--seeds", "2", "--eval-episodes", "0"]
    argv = ["train", agent, *small, "--init-from", half, *other]
    code, _, err = rlkit_command(*argv, "--out", tmp_path / "run")
    assert code == 2 and message in err and err.count("\n") == 1
    if "arrays" in message and agent == "bc":
        assert "Dense_0/bias: saved float32[2, 8], wanted float32[2, 4]" in err
    assert not (tmp_path / "run").exists()


# ---- what is said


def after(lines, title):
    """What stands in the header under ``title``, and the lines that continue it."""
    number = next(number for number, line in enumerate(lines) if line.startswith(f"{title} "))
    words = [lines[number].removeprefix(title)]
    for line in lines[number + 1 :]:
        if not line.startswith(" " * 13):
            break
        words.append(line)
    return " ".join(" ".join(words).split())


def test_what_will_be_done_is_said_before_it_is_done(made):
    folder, lines = made
    assert lines[0] == "reading pendulum/mixed-v0"
    assert after(lines, "agent") == "bc"
    data = "pendulum/mixed-v0: 45 episodes, 9,000 steps"
    assert after(lines, "dataset") == f"{data} (embedded, since --dataset names none)"
    assert after(lines, "environment") == "Pendulum-v1, 2 episodes each 10 updates, from seed 1,000,000"
    assert after(lines, "updates") == "bc 20" and after(lines, "seeds") == "0, 1"
    assert after(lines, "device") == Record.read(folder).device and after(lines, "folder") == str(folder)
    header = lines.index(next(line for line in lines if line.startswith("folder")))
    phases = [line for line in lines[header:] if line.startswith("bc: ")]
    assert phases == ["bc: compiling", "bc: evaluating", "bc: compiling", "bc: training"]


def test_at_the_end_it_is_said_where_everything_is_and_what_can_come_next(made):
    folder, lines = made
    written = lines.index(f"written to {folder}:")
    following = lines.index("next:")
    named = [line.split()[0] for line in lines[written + 1 : following]]
    assert named == ["result.json", "curve.png", "metrics.jsonl", "checkpoints/20"]
    assert all((folder / name).exists() for name in named)
    commands_told = [line.strip() for line in lines[following + 1 :]]
    asked = [parse(shlex.split(line)[1:], CATALOG) for line in commands_told if line.startswith("rlkit ")]
    assert [one.command for one in asked] == ["evaluate", "report", "finetune"]
    assert [getattr(one, "run", None) or one.runs[0] for one in asked] == [folder] * 3
    (loading,) = [line for line in commands_told if not line.startswith("rlkit ")]
    scope = {"rlkit": rlkit}
    exec(loading, scope)
    assert scope["policy"].act(np.zeros(3)).shape == (1,)


def test_what_is_said_fits_a_terminal_of_80_columns(made):
    folder, lines = made
    assert [line for line in lines if len(line.replace(str(folder), "runs/half")) > 80 and "[" not in line] == []


def test_what_had_to_be_taken_from_the_data_is_said_in_the_header(half):
    recorded = Record.read(half)
    notes = ("the bounds of the actions are those of the data: [0, 0.8]", "3 rows of one step are left out")
    record = dataclasses.replace(recorded, data=dataclasses.replace(recorded.data, notes=notes))
    job = Job(record, (), None, None, None, None)
    lines = announce.opening(job, half, parse(["train", "bc"], CATALOG)).splitlines()
    assert [line for line in lines if "note" in line] == [f"  note       {note}" for note in notes]
