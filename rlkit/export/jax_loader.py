"""A trained policy for jax, with its memory and its plans. It needs jax, flatbuffers and NumPy, and nothing else.

``rlkit export --format stablehlo`` writes this file as policy_jax.py beside policy.py, on which it builds. What it runs
are the programs of the folder: StableHLO, which can compute and nothing else. They are for the versions of jax that the
contract names and those of the half year after it.

    import policy_jax
    acting = policy_jax.load("folder", names=["angle", "speed"])
    acting.reset()
    action = acting.act([0.1, -0.3], reward=0.0)
"""

from __future__ import annotations

import jax
import numpy as np
from jax import export

from rlkit.export import loader


def load(folder, names=None, low=None, high=None):
    """The policy in ``folder``, see policy.load. Raises Refused as that does, and for programs of another jax."""
    return Policy(folder, names, low, high)


class Policy(loader.Policy):
    """A greedy policy for one environment at a time: call `reset` at the start of each episode, at each switch and
    after each fault, and `act` at each step."""

    def reset(self, seed=None):
        """Begin an episode: empty memory, no plan. ``seed``: where an agent that draws starts from anew."""
        self._memory = self._initial
        self._plan = []
        self._t = 0
        if seed is not None:
            self._key, self._plans = jax.random.key(seed), 0

    def act(self, observation, reward=0.0):
        """The action for an observation [O], both in the environment's units. ``reward``: what the step before
        returned, ignored after a reset; only agents that track their return use it."""
        action = self.output(observation, reward)
        return int(action) if self.choices else self._members(action)

    def output(self, observation, reward=0.0):
        """The action before it is rounded to the space's dtype and bounds: float32 [A], or a choice."""
        values = self._read(observation)
        if values.shape != (self.width,):
            raise loader.Refused(f"observation: its shape is {list(values.shape)}, one environment gives {self.width}")
        self._count(values)
        return self._step(values, reward)

    def _step(self, values, reward):
        t = np.array([self._t], np.int32)
        self._memory = self._observe(self._weights, self._memory, values[None], np.array([reward], np.float32), t)
        self._t += 1
        if not self._plan:
            key = jax.random.key_data(jax.random.fold_in(self._key, self._plans))
            self._plans += 1
            plan, self._memory = self._act(self._weights, self._memory, np.asarray(key)[None])
            self._plan = list(np.asarray(plan)[0])
        return self._plan.pop(0)

    def _read_network(self, tensors):
        entry = self.contract["stablehlo"]
        self._weights = {name: tensors[name] for name in entry["weights"]}
        self._initial = {name: tensors[name][None] for name in entry["memory"]}
        self._observe, self._act = (self._program(name) for name in ("observe.stablehlo", "act.stablehlo"))

    def _program(self, name):
        data = loader.read_file(self.folder, self.contract, name)
        try:
            exported = export.deserialize(bytearray(data))
        except Exception as error:  # of another version, whatever that raises
            versions = self.contract["written"]["versions"]
            raise loader.Refused(
                f"{self.folder}/{name}: jax {jax.__version__} does not read what jax {versions.get('jax')} wrote "
                f"({str(error).splitlines()[0][:200]}): export the policy again"
            ) from None
        return jax.jit(exported.call)

    def _replay(self, tensors):
        check = self.contract["stablehlo"]["check"]
        observations, expected = tensors["episode.observation"], tensors["episode.output"]
        tolerance = float(check["tolerance"])
        loader.require(0 < tolerance <= loader.LARGEST_TOLERANCE, "checks with a tolerance")
        self.reset(seed=0)
        found = [self._step(row, reward) for row, reward in zip(observations, tensors["episode.reward"], strict=True)]
        self.reset(seed=0)
        found = np.stack(found)
        loader.require(found.shape == expected.shape, "an output for each action")
        share = np.abs(found - expected) / (1 if self.choices else self._half)
        if not (share <= tolerance).all():
            step = int(np.argmin((share <= tolerance).reshape(len(share), -1).all(-1)))
            raise loader.Refused(
                f"{self.folder}: step {step} of the stored episode: the action differs by {share[step].max():.2g} of "
                f"half its range from that of the training's own code, {tolerance:g} are allowed: export it again"
            )
        return float(share.max())
