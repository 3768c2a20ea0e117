"""Whether an exported policy acts as the run's own: it is run in a process that can import NumPy alone."""

from __future__ import annotations

import functools
import io
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlkit.acting import unwrapped
from rlkit.datasets import spaces
from rlkit.runs.policy import Policy, act_on_rows
from rlkit.types import Agent, Array, RunError, State

TOLERANCE = 1e-4  # of half the range of an action
PATIENCE = 600.0  # seconds for the process
# Run with the folder as its argument and observations on its input. It may import what is Python's own, NumPy, and the
# policy. Its output: [4, N, outputs] for batches of 1, 2, 7 and N observations, then the N actions.
_ALONE = """
import io, sys

class OnlyNumPy:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "numpy", "policy"}:
            raise ImportError(f"{name} cannot be imported here")

folder = sys.argv[1]
sys.meta_path.insert(0, OnlyNumPy())
sys.path.insert(0, folder)
import warnings
import numpy as np
import policy

warnings.simplefilter("ignore")
observation = policy.read_contract(folder)["observation"]
names = [feature["name"] for feature in observation["features"]] if observation["named"] else None
acting = policy.load(folder, names)
rows = np.load(io.BytesIO(sys.stdin.buffer.read()))
outputs = [np.stack([acting.output(row) for row in rows])]
for size in (2, 7, len(rows)):
    parts = [acting.output(rows[first : first + size]) for first in range(0, len(rows), size)]
    outputs.append(np.concatenate(parts))
for array in (np.stack(outputs), acting.act(rows)):
    buffer = io.BytesIO()
    np.save(buffer, array)
    sys.stdout.buffer.write(buffer.getvalue())
"""


class Expected(NamedTuple):
    """What the run's own code gives for N observations."""

    output: np.ndarray  # [N, A] float32 amounts, or [N, n] probabilities or values of the choices
    action: np.ndarray  # [N, ...] members of the action space
    size: np.ndarray  # [A] or [1], half the range of an output
    chooses: bool  # whether actions are choices


def expected(policy: Policy, head: str, rows: np.ndarray) -> Expected:
    """What ``policy`` gives for ``rows`` [N, O], flat observations in the environment's units. ``head``: of its
    Network."""
    obs = policy.normaliser.obs(rows)
    plans = act_on_rows(policy.agent, True, policy.state, obs, jax.random.key(0))
    own = np.asarray(policy.normaliser.env_action(np.asarray(plans[:, 0])))
    action = spaces.members(policy.action_space, own)
    if head in ("tanh", "clip"):
        return Expected(own, action, policy.normaliser.action_half, chooses=False)
    agent, state = unwrapped(policy.agent, policy.state)
    output = np.asarray(_scores(agent, head, int(policy.action_space.n), state, obs))
    half = 0.5 if head == "softmax" else (output.max() - output.min()) / 2
    return Expected(output, action, np.array([max(half, 1e-6)], np.float32), chooses=True)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _scores(agent: Agent, head: str, choices: int, state: State, obs: Array) -> jax.Array:
    """[N, n] what the agent tells of each choice, for ``obs`` [N, O]."""
    if head == "softmax":
        return jax.vmap(agent.probabilities, in_axes=(None, 0))(state, obs)
    of_choices = jax.vmap(agent.value, in_axes=(None, None, 0))
    of_rows = jax.vmap(of_choices, in_axes=(None, 0, None))
    return of_rows(state, obs, jnp.arange(choices))


def check_alone(folder: Path, rows: np.ndarray, own: Expected) -> float:
    """The largest difference between the policy in ``folder``, run with NumPy alone, and the run's own, as a share
    of half the range of an action. Raises RunError if it fails, or if the difference is larger than TOLERANCE."""
    outputs, actions = run_alone(_ALONE, folder, rows)
    largest = compare(outputs, own)
    check_actions(actions, own)
    return largest


def run_alone(code: str, folder: Path, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What ``code`` prints in a process of its own: outputs [4, N, ...] for batches of four sizes, and actions
    [N, ...].

    Its argument is ``folder``, on its input are ``rows`` [N, O]. Raises RunError if it fails.
    """
    sent = io.BytesIO()
    np.save(sent, rows)
    command = [sys.executable, "-B", "-P", "-c", code, str(folder)]
    try:
        done = subprocess.run(command, input=sent.getvalue(), capture_output=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        why = f"gave no actions within {PATIENCE:g} seconds"
        raise RunError(f"the exported policy {why}; nothing was written") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise RunError(f"the exported policy fails in a process of its own ({lines[-1]}); nothing was written")
    received = io.BytesIO(done.stdout)
    return np.load(received), np.load(received)


def compare(outputs: np.ndarray, own: Expected) -> float:
    """The largest difference of ``outputs`` [..., N, ...], as a share of half the range of an action. Raises RunError
    if it is larger than TOLERANCE."""
    shares = np.abs(outputs - own.output) / own.size
    largest = float(np.nan_to_num(shares, nan=np.inf).max())
    if largest > TOLERANCE:
        raise RunError(
            f"the exported policy differs from the run's own by {largest:.2g} of half the range of an action, "
            f"{TOLERANCE:g} are allowed; nothing was written"
        )
    return largest


def check_actions(found: np.ndarray, own: Expected) -> None:
    """Raises RunError where actions differ by more than outputs may: other choices, numbers rounded elsewhere."""
    if found.shape != own.action.shape or found.dtype.kind != own.action.dtype.kind:
        raise RunError("the exported policy's actions have another form than the run's own; nothing was written")
    if own.chooses:
        best = np.sort(own.output, -1)[:, -2:]
        is_clear = best[:, -1] - best[:, 0] > 2 * TOLERANCE * own.size  # else two choices are worth the same
        differs = is_clear & (found != own.action)
    else:
        size = own.size.reshape(own.action.shape[1:])
        away = np.abs(found.astype(np.float64) - own.action)
        differs = away > TOLERANCE * size + _rounding(own.action)
    if differs.any():
        raise RunError("the exported policy takes other actions than the run's own; nothing was written")


def _rounding(action: np.ndarray) -> np.ndarray | float:
    """How far apart two nearly equal numbers may come to lie as members of the action space."""
    if action.dtype.kind != "f":
        return 1.0
    return np.finfo(action.dtype).eps * np.abs(action, dtype=np.float64)
