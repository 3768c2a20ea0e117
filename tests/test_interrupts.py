"""Stopping a run from outside: how soon, with which exit code, and that it goes on to the same bits."""

import json
import os
import signal
import sys
import time

import faulty
import pytest
from faulty import GATED, LATE, PROMPT, Child

from rlkit import commands
from rlkit.runs.stopping import PULSE, Guard, Stop


def _steps(out):
    path = out / "metrics.jsonl"
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


# ---- in this process


def _guard(**options):
    return Guard(**{"time_limit": None, "watchdog": 0, "pulse": lambda: None, **options})


def test_a_signal_is_kept_while_training_and_stops_where_nothing_is_to_be_saved():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stop) as stop, _guard() as guard:
        guard.enter("training")
        signal.raise_signal(signal.SIGTERM)
        assert guard.code == 143
        guard.enter("saving")
        guard.enter("evaluation")
    assert stop.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stop_that_a_finaliser_swallows_is_raised_again_and_not_reported(capfd, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)  # not that of pytest, which keeps reports back

    class Finalised:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stop) as stop, _guard() as guard:
        guard.enter("evaluation")
        Finalised()
        guard.beat()
    assert stop.value.code == 143
    assert "Traceback" not in capfd.readouterr().err


def test_a_signal_ends_what_sleeps_at_once(capfd):
    began = time.monotonic()
    with pytest.raises(Stop) as stop, _guard() as guard:
        guard.enter("evaluation")
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)
    assert stop.value.code == 130 and time.monotonic() - began < PROMPT
    assert capfd.readouterr().err == "rlkit: SIGINT during evaluation: there is nothing new to save; stopping\n"


def test_a_time_limit_is_noticed_in_the_middle_and_has_its_own_code(capfd):
    with pytest.raises(Stop) as stop, _guard(time_limit=0.3) as guard:
        guard.enter("training")
        until = time.monotonic() + PROMPT
        while guard.code is None and time.monotonic() < until:
            time.sleep(0.1)
        assert guard.code == 75
        guard.enter("saving")
        guard.enter("compilation")
    assert stop.value.code == 75
    assert capfd.readouterr().err.count("time limit: stopping with a checkpoint") == 1


def test_what_sleeps_longer_than_the_watchdog_allows_is_woken():
    """A beat comes long before the watchdog, so that a busy machine may be late with it."""
    with _guard(watchdog=2) as guard:
        guard.enter("evaluation")
        for _ in range(5):
            time.sleep(0.5)
            guard.beat()
        with pytest.raises(TimeoutError, match="no answer within 2 seconds"):
            time.sleep(30)
        guard.enter("loading")
        time.sleep(2.5)


# ---- in a process of its own


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


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_training_leaves_a_checkpoint_and_the_run_goes_on_to_the_same_bits(
    tmp_path, cache, train, straight, number, code
):
    run = tmp_path / "run"
    child = Child(cache, run, *GATED)
    child.wait_for(child.mark.exists)
    child.process.send_signal(number)
    child.wait_for(lambda: child.told)
    child.open()
    ended, err = child.end()
    assert ended == code and err.count("\n") == 1 and "stopping with a checkpoint" in err
    last = max(int(path.name) for path in (run / "checkpoints").iterdir())
    assert 4 < last < 40, "in the middle of an interval"
    assert not (run / ".lock").exists()
    assert train(run, *GATED)[0] == 0
    faulty.assert_same_run(run, straight)


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_checkpoint_to_the_same_bits(tmp_path, cache, train):
    """In the middle of a chunk. At random moments: `make soak`."""
    run = tmp_path / "run"
    child = Child(cache, run, *LATE)
    child.wait_for(child.mark.exists)
    child.process.send_signal(signal.SIGKILL)
    assert child.end() == (-signal.SIGKILL, "")
    assert (run / ".lock").exists() and not (run / "result.json").exists()
    code, out, err = train(run, *LATE)
    assert (code, err) == (0, "") and "going on after 40 updates" in out
    assert train(tmp_path / "straight", *LATE)[0] == 0
    faulty.assert_same_run(run, tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "number"), [
    ("loading", signal.SIGINT), ("compilation", signal.SIGTERM), ("compilation", signal.SIGINT),
    ("evaluation", signal.SIGTERM), ("deaf evaluation", signal.SIGINT),
])  # fmt: skip
def test_a_signal_is_answered_promptly_where_nothing_is_to_be_saved(tmp_path, cache, phase, number):
    wrapper = {"loading": "slow", "evaluation": "sleepy", "deaf evaluation": "busy"}.get(phase, "none")
    fault = ["--config.fault", "compile", "--eval-episodes", "0"] if phase == "compilation" else []
    child = Child(cache, tmp_path / "run", *fault, wrapper=wrapper)
    child.wait_for(child.mark.exists)
    time.sleep(2)
    child.process.send_signal(number)
    code, err = child.end()
    told = [line for line in err.splitlines() if line.startswith("rlkit: SIG")]
    assert code == 128 + number
    assert told == [f"rlkit: {number.name} during {phase.split()[-1]}: there is nothing new to save; stopping"]
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_stuck_device_ends_the_run_with_code_70_or_at_a_second_signal(tmp_path, cache):
    stuck = ["--config.fault", "stuck", "--watchdog", "5"]
    code, err = Child(cache, tmp_path / "run", *stuck).end(120)
    assert code == 70 and "the device has not answered for 5 seconds (--watchdog) in training" in err
    assert "Thread" in err, "a dump of the stacks"
    child = Child(cache, tmp_path / "second", "--config.fault", "stuck")
    child.wait_for(child.mark.exists)
    child.process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert child.process.poll() is None
    child.process.send_signal(signal.SIGTERM)
    code, err = child.end()
    assert code == 143 and "SIGTERM again: stopping now" in err


@pytest.mark.slow
@pytest.mark.parametrize(("wrapper", "code", "told"), [
    ("sleepy", 1, "is invalid: evaluation of seed 0, episode"),
    ("busy", 70, "the environment has not answered for 5 seconds"),
    ("endless", 1, "the episode does not end; give the environment a time limit"),
])  # fmt: skip
def test_an_environment_that_hangs_costs_its_evaluation_or_ends_the_run(tmp_path, cache, wrapper, code, told):
    ended, err = Child(cache, tmp_path / "run", "--watchdog", "5", wrapper=wrapper).end(120)
    assert ended == code and told in err
    assert "Traceback" not in err
    if wrapper == "sleepy":
        assert _steps(tmp_path / "run")[-1] == 80 and (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_native_code_that_keeps_pythons_lock_ends_the_run_too(tmp_path, cache):
    child = Child(cache, tmp_path / "run", "--watchdog", "5", wrapper="greedy")
    child.wait_for(child.mark.exists)
    began = time.monotonic()
    code, err = child.end(60)
    assert code == 1 and "Timeout" in err and "in step" in err, "a dump of the stacks"
    assert 5 < time.monotonic() - began < 5 + 3 * PULSE + PROMPT


@pytest.mark.slow
def test_a_time_limit_asks_to_be_run_again_until_the_run_is_finished(tmp_path, cache, train, straight):
    """It passes while an update is held at the gate; where this machine takes longer to come so far, the limit is
    doubled."""
    run, limit, saved = tmp_path / "run", 8, False
    while not saved:
        child = Child(cache, run, *GATED, "--time-limit", str(limit))
        child.wait_for(lambda child=child: "time limit" in child.told)
        child.open()
        assert child.end(60)[0] == 75
        saved = any((run / "checkpoints").glob("[0-9]*"))
        limit *= 2
        assert limit < 600
    assert train(run, *GATED, "--time-limit", "600")[0] == 0
    assert train(run, *GATED, "--time-limit", "600")[0] == 0, "already finished"
    faulty.assert_same_run(run, straight)
