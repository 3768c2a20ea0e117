"""Hours of trouble in minutes: kill a training at random moments, stop it at others and time its answer, and watch
memory and files over a long evaluation.

    python -m tests.soak --rounds 50

Prints the figures for docs/reliability.md and exits with 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import jax
import orbax.checkpoint

import envs
from agents import bc
from rlkit.buffer import Buffer, stats
from rlkit.datasets import DataOptions, Normaliser, load, spec
from rlkit.evaluation.evaluate import Evaluator

ROOT = Path(__file__).parent.parent
ARGV = ["train", "bc", "--config.widths", "8", "--config.batch-size", "8", "--seeds", "2", "--eval-episodes", "1"]
PACE = ["--steps", "400", "--eval-every", "20", "--log-every", "10", "--resume", "auto", "--out"]
FILES = ("metrics.jsonl", "result.json")


class Killed(NamedTuple):
    """What a series of killed trainings came to."""

    kills: int  # of a process that had not ended
    goings_on: int  # processes that went on from a checkpoint
    refusals: int  # processes that ended with another code than 0
    finished: int  # runs that came to their end
    equal: int  # of those with the same files and the same final arrays as an uninterrupted run


def kill(folder: Path, rounds: int, seed: int = 0) -> Killed:
    """Kill trainings ``rounds`` times with SIGKILL, each up to the moment when it would end; compare what ends."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, straight = random.Random(seed), folder / "straight"
    _launch(straight, folder).wait()
    began = time.monotonic()
    _launch(folder / "again", folder).wait()  # compiled by now
    length = time.monotonic() - began
    wanted = outcome(straight)
    kills = goings_on = refusals = finished = equal = 0
    while kills < rounds:
        run = folder / f"run-{finished}"
        while not (run / "result.json").exists():
            goings_on += any((run / "checkpoints").glob("[0-9]*"))
            child = _launch(run, folder)
            try:
                child.wait(rng.uniform(0.3 * length, length) if kills < rounds else None)
                refusals += child.returncode != 0
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                kills += 1
        finished += 1
        _launch(run, folder).wait()  # the process may have been killed between its result and its picture
        equal += outcome(run) == wanted
    return Killed(kills, goings_on, refusals, finished, equal)


class Stopped(NamedTuple):
    """Seconds from a SIGTERM to each answer."""

    noticed: list[float]  # until the line that says so; none where it came before Python had set its handler
    ended: list[float]  # until the process had ended, its checkpoint saved
    sound: bool  # whether all ended as a stopped run does, if they had not finished


def stop(folder: Path, rounds: int, seed: int = 0) -> Stopped:
    """Stop trainings ``rounds`` times with SIGTERM, from their loading to their last evaluation. Call after ``kill``,
    which has compiled."""
    rng, stopped = random.Random(seed), Stopped([], [], True)
    began = time.monotonic()
    _launch(folder / "timed", folder).wait()
    length = time.monotonic() - began
    for number in range(rounds):
        child = _launch(folder / f"stopped-{number}", folder, stderr=subprocess.PIPE)
        time.sleep(rng.uniform(0, 0.9 * length))
        began = time.monotonic()
        child.send_signal(signal.SIGTERM)
        lines = ((line, time.monotonic() - began) for line in child.stderr)
        noticed = [seconds for line, seconds in lines if b"SIGTERM" in line][:1]
        code = child.wait()
        if code == 0:
            continue  # it had finished, or was about to
        stopped.noticed.extend(noticed)
        stopped.ended.append(time.monotonic() - began)
        stopped = stopped._replace(sound=stopped.sound and code in (143, -signal.SIGTERM))
    return stopped


def outcome(run: Path) -> list[bytes]:
    """The bytes of the metrics, of the result and of the final state."""
    last = max((path for path in (run / "checkpoints").iterdir() if path.name.isdigit()), key=lambda p: int(p.name))
    state = orbax.checkpoint.StandardCheckpointer().restore((last / "state").resolve())
    arrays = jax.device_get(jax.tree.leaves(state))
    return [*((run / name).read_bytes() for name in FILES), *(leaf.tobytes() for leaf in arrays)]


def _launch(run: Path, folder: Path, stderr: int | None = None) -> subprocess.Popen:
    env = {**os.environ, "RLKIT_CACHE_DIR": str(folder / "cache"), "JAX_COMPILATION_CACHE_DIR": str(folder / "xla")}
    return subprocess.Popen(
        [sys.executable, "train.py", *ARGV, *PACE, str(run)],
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
    )


def leak(evaluations: int) -> tuple[int, int, int]:
    """Evaluate again and again: (environment steps, growth of the resident memory in KiB after the first tenth, growth
    of the number of open files)."""
    episodes = load(DataOptions("pendulum/mixed-v0"), roots=[envs.DATASETS])
    agent = bc.Config(widths=(8,)).stages(spec(episodes, None), 1)[-1].learner
    normaliser = Normaliser.fit(episodes, DataOptions("pendulum/mixed-v0"))
    moments = stats(Buffer.from_episodes(episodes, normaliser))
    state = jax.vmap(lambda key: agent.init(key, None, moments))(jax.random.split(jax.random.key(0), 2))
    evaluator = Evaluator(agent, normaliser, lambda: envs.make("Pendulum-v1"), episodes=10)
    steps = 0
    for number in range(evaluations):
        if number == max(evaluations // 10, 1):
            before = _resident(), _files()
        steps += int(evaluator.run(state).lengths.sum())
    after = _resident(), _files()
    return steps, after[0] - before[0], after[1] - before[1]


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def _files() -> int:
    return len(os.listdir("/proc/self/fd"))


def main() -> int:
    """Run all three and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, help="kills, and stops")
    parser.add_argument("--evaluations", type=int, default=100, help="of 2 seeds x 10 episodes x 200 steps")
    options = parser.parse_args()
    print(f"{datetime.date.today()}, {jax.devices()[0].device_kind}, python {platform.python_version()}, "
          f"jax {jax.__version__}, orbax {orbax.checkpoint.__version__}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        killed = kill(Path(folder), options.rounds)
        print(" ".join(f"{name} {value}" for name, value in killed._asdict().items()), flush=True)
        stopped = stop(Path(folder), options.rounds)
    print(f"{len(stopped.ended)} stops with SIGTERM", end="")
    for what in ("noticed", "ended"):
        seconds = getattr(stopped, what)
        print(f"; {what} after {statistics.median(seconds):.2f} s (median), {max(seconds):.2f} s at most", end="")
    print(flush=True)
    steps, memory, files = leak(options.evaluations)
    print(f"{steps:,} environment steps: resident memory {memory:+,} KiB, open files {files:+}")
    sound = (
        killed.refusals == 0 and killed.equal == killed.finished and stopped.sound and files <= 0 and memory < 20_000
    )
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
