"""Stopping a run from outside: how soon, with which exit code, and that it goes on to the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlkit.interrupts import PULSE, Guard, Stop

ROOT = Path(__file__).parent.parent
ARGV = ["--steps", "40", "--eval-every", "20", "--log-every", "10", "--eval-episodes", "2", "--resume", "auto"]
PROMPT = 20.0  # seconds; one or two on an idle machine, whose processes need not share it


class Child:
    """A training in a process of its own, read line by line."""

    def __init__(self, cache, out, *argv, wrapper="none"):
        self.mark = Path(f"{out}.mark")
        words = ["--fault-env", wrapper, "train", "faulty", *ARGV, "--out", str(out), *argv]
        env = {**os.environ, "RLKIT_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT), "FAULT_MARK": str(self.mark)}
        self.process = subprocess.Popen(
            [sys.executable, "tests/faulty.py", *words], cwd=ROOT, env=env, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def wait_for(self, condition):
        until = time.monotonic() + 120
        while not condition():
            assert self.process.poll() is None and time.monotonic() < until, self.process.stderr.read()
            time.sleep(0.05)

    def end(self, timeout=PROMPT):
        """(exit code, stderr)"""
        try:
            _, err = self.process.communicate(timeout=timeout)
        finally:
            self.process.kill()
        return self.process.returncode, err


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
        time.sleep(1)
        assert guard.code == 75
        guard.enter("saving")
        guard.enter("compilation")
    assert stop.value.code == 75
    assert capfd.readouterr().err.count("time limit: stopping with a checkpoint") == 1


def test_what_sleeps_longer_than_the_watchdog_allows_is_woken():
    with _guard(watchdog=0.5) as guard:
        guard.enter("evaluation")
        for _ in range(4):
            time.sleep(0.3)
            guard.beat()
        with pytest.raises(TimeoutError, match="no answer within 0.5 seconds"):
            time.sleep(30)
        guard.enter("loading")
        time.sleep(0.8)


# ---- in a process of its own


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_training_leaves_a_checkpoint_and_the_run_goes_on_to_the_same_bits(tmp_path, cache, number, code):
    steps = ["--steps", "30000", "--eval-every", "30000", "--log-every", "30000"]
    steps += ["--config.fault", "mark", "--config.at", "2000"]
    child = Child(cache, tmp_path / "run", *steps)
    child.wait_for(child.mark.exists)
    child.process.send_signal(number)
    ended, err = child.end()
    assert ended == code and err.count("\n") == 1 and "stopping with a checkpoint" in err
    (kept,) = (path for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert 2000 < int(kept.name) < 30000, "in the middle of an interval"
    assert not (tmp_path / "run" / ".lock").exists()
    assert Child(cache, tmp_path / "run", *steps).end(240)[0] == 0
    assert Child(cache, tmp_path / "straight", *steps).end(240)[0] == 0
    for name in ("metrics.jsonl", "result.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("phase", ["loading", "compilation", "evaluation", "deaf evaluation"])
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
        assert _steps(tmp_path / "run")[-1] == 40 and (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_native_code_that_keeps_pythons_lock_ends_the_run_too(tmp_path, cache):
    child = Child(cache, tmp_path / "run", "--watchdog", "5", wrapper="greedy")
    child.wait_for(child.mark.exists)
    began = time.monotonic()
    code, err = child.end(60)
    assert code == 1 and "Timeout" in err and "in step" in err, "a dump of the stacks"
    assert 5 < time.monotonic() - began < 5 + 3 * PULSE + PROMPT


@pytest.mark.slow
def test_a_time_limit_asks_to_be_run_again_until_the_run_is_finished(tmp_path, cache):
    argv = ["--steps", "40000", "--eval-every", "20000", "--log-every", "10000", "--time-limit", "20"]
    codes = []
    while not codes or codes[-1] == 75:
        codes.append(Child(cache, tmp_path / "run", *argv).end(60)[0])
        assert len(codes) < 20
    assert codes[-1] == 0
    assert Child(cache, tmp_path / "run", *argv).end(60)[0] == 0, "already finished"
