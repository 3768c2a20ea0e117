"""An agent and environments that break in chosen ways, and the command line with them: `python tests/faulty.py train
faulty --config.fault stuck ...`. With --fault-env NAME (first) environments are broken too."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import soak

import envs
from agents import bc
from rlkit import commands
from rlkit.optim import Net
from rlkit.types import Preset, Spec, Stage


class State(NamedTuple):
    """Behaviour cloning's, and whether this seed is one that breaks."""

    net: Net
    marked: Any


@dataclass(frozen=True)
class Config:
    """Behaviour cloning that breaks at update ``at``, in about every second seed. A gate holds that update until the
    file that FAULT_GATE names exists; without the variable it is open."""

    fault: Literal["none", "gate", "compile", "stuck", "nan", "q"] = "none"
    at: int = 12

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        """One stage."""
        return (Stage("faulty", Faulty(self, bc.BC(bc.Config(widths=(8,), batch_size=8), spec)), steps),)


@dataclass(frozen=True)
class Faulty:
    """The learner."""

    config: Config
    bc: bc.BC
    needs: tuple[str, ...] = ()

    def init(self, key, prev, stats):
        return State(self.bc.init(key, None, stats), jax.random.bernoulli(key))

    def sample(self, buffer, key):
        return self.bc.sample(buffer, key)

    def update(self, state, batch, key, step):
        net, metrics = self.bc.update(state.net, batch, key, step)
        fault, now = self.config.fault, step >= self.config.at
        if fault == "compile":  # for a minute
            x = jnp.eye(4) * metrics["policy/loss"]
            for i in range(6000):
                x = jnp.sin(x @ x) + jnp.cos(x[i % 4])[None]
            metrics["policy/chain"] = x.sum()
            _mark()
        if fault in ("gate", "stuck"):
            shape, call = jax.ShapeDtypeStruct((), jnp.float32), _sleep if fault == "stuck" else _wait
            now = step == self.config.at
            metrics["policy/loss"] += jax.lax.cond(now, lambda: jax.pure_callback(call, shape), lambda: 0.0)
        if fault == "nan":
            spoil = jnp.where(now & state.marked, jnp.nan, 0.0)
            net = net._replace(params=jax.tree.map(lambda leaf: leaf + spoil, net.params))
        if fault == "q":
            metrics["critic/q"] = jnp.where(now & state.marked, -1e12, 1.0)
        return State(net, state.marked), metrics

    @property
    def goals(self):
        return self.bc.goals

    def begin(self, state, goal):
        return self.bc.begin(state.net, goal)

    def observe(self, state, memory, percept):
        return self.bc.observe(state.net, memory, percept)

    def act(self, state, memory, key, *, greedy):
        return self.bc.act(state.net, memory, key, greedy=greedy)


def _mark() -> np.ndarray:
    """Say that the fault begins."""
    if path := os.environ.get("FAULT_MARK"):
        Path(path).touch()
    return np.float32(0)


def _wait() -> np.ndarray:
    """Say so, and wait for the gate to open."""
    zero = _mark()
    gate = os.environ.get("FAULT_GATE")
    while gate and not Path(gate).exists():
        time.sleep(0.02)
    return zero


def _sleep() -> np.ndarray:
    zero = _mark()
    time.sleep(600)
    return zero


PRESETS: dict[str, Preset] = {}

ROOT = Path(__file__).parent.parent
PROMPT = 20.0  # seconds; one or two on an idle machine, whose processes need not share it
ARGV = ["--steps", "80", "--eval-every", "40", "--log-every", "40", "--eval-episodes", "2", "--resume", "auto"]
# Chunks grow from 1 update to at most 4, 16, ...: the one with the gate, at update 4, ends before the log line at 40.
GATED = ["--config.fault", "gate", "--config.at", "4"]
LATE = ["--config.fault", "gate", "--config.at", "44"]  # after the checkpoint at 40


class Sleepy(gymnasium.Wrapper):
    """Sleeps at its third step."""

    steps = 0

    def step(self, action):
        Sleepy.steps += 1
        if Sleepy.steps == 3:
            _mark()
            time.sleep(600)
        return super().step(action)


class Busy(gymnasium.Wrapper):
    """Is deaf to signals at its third step: one long call of native code."""

    steps = 0

    def step(self, action):
        Busy.steps += 1
        if Busy.steps == 3:
            _mark()
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
        return super().step(action)


class Greedy(gymnasium.Wrapper):
    """Hangs in native code that does not give Python's lock back."""

    def step(self, action):
        _mark()
        ctypes.PyDLL(None).sleep(600)


class Endless(gymnasium.Wrapper):
    """Never ends."""

    def step(self, action):
        return *super().step(action)[:2], False, False, {}


class Gated(gymnasium.Wrapper):
    """Waits at the gate in the middle of its third episode. Its spec is that of what it wraps."""

    episodes = 0

    @property
    def spec(self):
        return self.env.spec

    def reset(self, **how):
        Gated.episodes += 1
        self.steps = 0
        return super().reset(**how)

    def step(self, action):
        self.steps += 1
        if Gated.episodes == 3 and self.steps == 10:
            _wait()
        return super().step(action)


def slow_to_make(env: gymnasium.Env) -> gymnasium.Env:
    """Sleeps while data and environment are loaded."""
    _mark()
    time.sleep(600)
    return env


WRAPPERS = {
    "none": lambda env: env,
    "slow": slow_to_make,
    "gate": Gated,
    "sleepy": Sleepy,
    "busy": Busy,
    "greedy": Greedy,
    "endless": Endless,
}


def catalog(wrapper: str = "none") -> commands.Catalog:
    """The project's, with the faulty agent, and environments in a wrapper."""
    agents = {"faulty": SimpleNamespace(module="faulty", summary="breaks")}
    return commands.Catalog(
        agents, lambda spec: WRAPPERS[wrapper](envs.make(spec)), envs.REFERENCES, envs.DATASETS, envs.episodes
    )


def command(out: Path, *argv: str) -> list[str]:
    """The words of a training of the faulty agent."""
    return ["train", "faulty", *ARGV, "--out", str(out), *argv]


class Child:
    """A training of the faulty agent in a process of its own. Its gate is shut until `open` is called. What it says
    and the gate are kept in ``files``, beside the run if that is not given."""

    def __init__(self, cache, out, *argv, wrapper="none", files=None):
        files = files or out.parent
        self.mark, self._gate, self._stderr = (files / f"{out.name}.{name}" for name in ("mark", "gate", "stderr"))
        words = ["--fault-env", wrapper, *command(out, *argv)]
        told = {"RLKIT_CACHE_DIR": cache, "PYTHONPATH": ROOT, "FAULT_MARK": self.mark, "FAULT_GATE": self._gate}
        with self._stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "tests/faulty.py", *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr,
                env=os.environ | {name: str(value) for name, value in told.items()},
            )  # fmt: skip

    @property
    def told(self):
        """What it has written to stderr."""
        return self._stderr.read_text()

    def open(self):
        self._gate.touch()

    def wait_for(self, condition):
        until = time.monotonic() + 120
        while not condition():
            assert self.process.poll() is None and time.monotonic() < until, self.told
            time.sleep(0.05)

    def end(self, timeout=PROMPT):
        """(exit code, stderr)"""
        try:
            self.process.wait(timeout)
        finally:
            self.process.kill()
        return self.process.returncode, self.told


def assert_same_run(run: Path, straight: Path) -> None:
    """The same bytes on disk, and the same arrays."""
    for name in ("metrics.jsonl", "result.json"):
        assert (run / name).read_bytes() == (straight / name).read_bytes()
    assert soak.outcome(run) == soak.outcome(straight)


if __name__ == "__main__":
    words = sys.argv[1:]
    wrapper = words.pop(1) if words[0] == "--fault-env" else "none"
    sys.exit(commands.main(words[words[0] == "--fault-env" :], catalog(wrapper)))
