"""Runs that go online, from the command line: what they say, what they keep, and how they are interrupted."""

import json
import shutil
import signal

import faulty
import numpy as np
import pytest
from faulty import Child

import agents
import envs
from rlkit import commands
from rlkit.runs.record import Record

SMALL = ["--config.widths", "8", "--config.batch-size", "8", "--seeds", "2", "--eval-episodes", "2"]
ONLINE = ["--online.steps", "450", "--online.warmup", "300", "--online.every", "2", "--online.updates", "2"]
# the gate, of update 44, is in the online stage alone, after the checkpoint at 40 and in the second episode
GATED = ["--config.fault", "gate", "--config.at", "44", "--steps", "4", *ONLINE]


@pytest.fixture
def train(rlkit_command):
    """Train the faulty agent in this process, where its gate is open: (code, stdout, stderr)."""
    return lambda out, *argv: rlkit_command(*faulty.command(out, *argv), catalog=faulty.catalog())


@pytest.fixture(scope="module")
def straight(tmp_path_factory, cache):
    """A gated run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "straight"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLKIT_CACHE_DIR", str(cache))
        assert commands.main(faulty.command(out, *GATED), faulty.catalog()) == 0
    return out


@pytest.fixture(scope="module")
def parent(tmp_path_factory, cache):
    """A run of 40 updates that has not been online."""
    folder = tmp_path_factory.mktemp("runs") / "parent"
    catalog = commands.Catalog(agents.REGISTRY, envs.make, envs.REFERENCES, envs.DATASETS, envs.episodes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLKIT_CACHE_DIR", str(cache))
        assert commands.main(["train", "sac", *SMALL, "--steps", "40", "--out", str(folder)], catalog) == 0
    return folder


def last_line(text):
    return text.strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143)])
def test_a_run_that_is_interrupted_online_goes_on_to_the_same_bits(tmp_path, cache, train, straight, number, code):
    """In the middle of an episode: the environment is brought back by the recorded actions."""
    run = tmp_path / "run"
    child = Child(cache, run, *GATED)
    child.wait_for(child.mark.exists)
    child.process.send_signal(number)
    if code > 0:
        child.wait_for(lambda: child.told)
        child.open()
    assert child.end()[0] == code
    again, out, err = train(run, *GATED)
    assert (again, err) == (0, "") and "going on after" in out
    faulty.assert_same_run(run, straight)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = [line["metrics"] for line in lines if "metrics" in line and line["stage"] == 1]
    assert measured[-1]["online/steps"] == [450.0]
    places = [(line["stage"], line["step"]) for line in lines if "returns" in line]
    assert len(set(places)) == len(places), "each evaluation is made once"


@pytest.mark.slow
def test_finetuning_goes_on_from_the_run_and_shows_the_drop_at_the_switch(rlkit_command, parent, tmp_path):
    out = tmp_path / "online"
    argv = ["finetune", parent, "--online.steps", "60", "--online.warmup", "20", "--eval-every", "20", "--out", out]
    code, told, err = rlkit_command(*argv)
    assert (code, err) == (0, "")
    result = json.loads((out / "result.json").read_text())
    before = json.loads((parent / "result.json").read_text())["run"]
    assert result["before_online"]["returns"] == before["returns"], "the same policy on the same starts"
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    since = [np.mean(line["returns"]) for line in lines if "returns" in line and line["stage"] == 1]
    assert len(since) == 2 and result["lowest_online"]["returns"]["value"] == pytest.approx(min(since))
    assert result["run"]["returns"]["value"] == pytest.approx(since[-1])
    for label in ("sac, before online", "sac, lowest online (after ", "sac  "):
        assert any(line.startswith(label) for line in told.splitlines()), label
    record = Record.read(out)
    assert record.parent.checkpoint == 40 and record.online_from == 1
    assert (out / "curve.png").exists()
    code, told, err = rlkit_command(*argv, "--resume", "auto")
    assert (code, err) == (0, "") and "already finished" in told
    code, told, err = rlkit_command("train", "--resume", "auto", "--out", out)
    assert (code, err) == (0, "") and "already finished" in told
    code, _, err = rlkit_command("train", "--resume", "auto", "--out", out, "--online.steps", "70")
    assert code == 2 and "(online.steps: 60 -> 70)" in err
    code, told, err = rlkit_command("evaluate", out)
    assert (code, err) == (0, "") and "sac" in told


def test_a_run_is_one_with_both_phases(rlkit_command, parent, tmp_path):
    """``train --online.*`` and ``finetune`` of a run give the same policy."""
    plan = ["--online.steps", "60", "--online.warmup", "20", "--eval-every", "20", "--log-every", "20"]
    code, _, err = rlkit_command("train", "sac", *SMALL, "--steps", "40", *plan, "--out", tmp_path / "both")
    assert (code, err) == (0, "")
    code, _, err = rlkit_command("finetune", parent, *plan, "--out", tmp_path / "after")
    assert (code, err) == (0, "")
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("both", "after")]
    assert results[0]["run"] == results[1]["run"] and results[0]["before_online"] == results[1]["before_online"]


@pytest.mark.slow
def test_from_scratch_there_is_no_update_before_the_first_step(rlkit_command, tmp_path):
    argv = ["train", "sac", *SMALL, "--dataset", "random:60", "--env", "Pendulum-v1", "--online.steps", "20"]
    code, told, err = rlkit_command(*argv, "--out", tmp_path / "run")
    assert code == 0 and "after 0 updates: return" in told
    assert Record.read(tmp_path / "run").stages == (("sac", 0), ("sac online", 20))


@pytest.mark.slow
def test_a_parent_that_was_trained_on_is_noticed(rlkit_command, parent, tmp_path):
    own = tmp_path / "parent"
    shutil.copytree(parent, own)
    argv = ["finetune", own, "--online.steps", "20", "--out", tmp_path / "out", "--resume", "auto"]
    assert rlkit_command(*argv)[0] == 0
    (tmp_path / "out" / "result.json").unlink()
    manifest = own / "checkpoints" / "40" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"step": 40', '"step":  40'))
    code, _, err = rlkit_command(*argv)
    assert code == 2 and err.count("\n") == 1 and "parent.manifest" in err


@pytest.mark.parametrize(("argv", "told"), [
    (["finetune", "RUN"], "say how many with --online.steps"),
    (["finetune", "RUN", "--online.steps", "5", "--online.warmup", "5"], "no round of updates fits"),
    (["finetune", "RUN", "--online.steps", "5", "--online.share", "1"], "share 1.0: must be at least 0 and below"),
    (["finetune", "RUN", "--online.steps", "5", "--config.widths", "9", "9"], "arrays differ"),
    (["train", "sac", "--online.steps", "5", "--dataset", "random:50"], "--env"),
    (["train", "sac", "--steps", "0"], "--steps 0: must be at least 1"),
    (["finetune", "RUN", "--online.steps", "5", "--env", "CartPole-v1"], "does not belong to environment CartPole-v1"),
    (["train", "decision-diffuser", "--steps", "9", "--online.steps", "9", "--dry-run"], "diffuser online: the"),
])  # fmt: skip
def test_a_mistake_is_told_in_one_line(rlkit_command, parent, tmp_path, argv, told):
    words = [str(parent) if word == "RUN" else word for word in argv]
    code, out, err = rlkit_command(*words, "--out", tmp_path / "out")
    assert code == 2 and err.count("\n") == 1 and told in err
    assert not (tmp_path / "out" / "run.json").exists()


def test_room_for_the_replay_is_looked_for_before_training(rlkit_command, small_disk):
    argv = ["train", "sac", *SMALL, "--steps", "4", "--online.steps", "100000", "--out", small_disk / "run"]
    code, _, err = rlkit_command(*argv)
    assert code == 2 and "make room" in err and err.count("\n") == 1


def test_the_memory_of_a_dry_run_counts_the_replay(rlkit_command):
    argv = ["train", "sac", *SMALL, "--steps", "4", "--online.steps", "100000", "--dry-run"]
    code, out, _ = rlkit_command(*argv)
    # rows of 3 + 1 + 1 floats, t, index and flags, for two seeds, twice as many as steps
    mebibytes = 2 * 200_002 * (5 * 4 + 4 + 4 + 1) / 2**20
    assert code == 0 and f"replay {mebibytes:.1f} MiB" in last_line(out)
