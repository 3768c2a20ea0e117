"""Behaviour cloning: supervised learning of the data's actions.

Continuous actions: a deterministic policy tanh(f(obs)), without the tanh where an action has no bounds, under the mean
squared error; discrete actions: a softmax under the cross-entropy. Sizes and learning rate are those of the BC baseline
of CORL (Tarasov et al. 2022, arXiv 2210.07105).

This file is the template for a new agent: a Config of hyper-parameters, a Learner of pure functions, PRESETS, and one
line in agents/__init__.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlkit import networks, optim
from rlkit.acting import Reactive
from rlkit.buffer import Buffer
from rlkit.optim import Net
from rlkit.ranges import Count, LearningRate, Widths
from rlkit.types import Array, Discrete, Key, Metrics, Preset, Spec, Stage, Stats, Transitions


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of behaviour cloning."""

    widths: Widths = (256, 256)
    """Hidden layers of the policy."""
    learning_rate: LearningRate = 3e-4
    """Adam's step size."""
    batch_size: Count = 256
    """Steps in a batch."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        return (Stage("bc", BC(self, spec), steps),)


@dataclass(frozen=True)
class BC(Reactive):
    """Learner of behaviour cloning; its state is one Net."""

    config: Config
    spec: Spec
    needs: tuple[str, ...] = ()
    uses_rewards: bool = False

    def init(self, key: Key, prev: None, stats: Stats) -> Net:
        """A policy that starts at the middle of the action range."""
        params = self._policy.init(key, stats.obs_mean)
        return optim.init(params, self._optimiser)

    def sample(self, buffer: Buffer, key: Key) -> Transitions:
        """Recorded steps; their discount and next observation are not used."""
        return buffer.transitions(key, self.config.batch_size, gamma=1.0)

    def update(self, state: Net, batch: Transitions, key: Key, step: Array) -> tuple[Net, Metrics]:
        return optim.descend(lambda params: self.policy_loss(params, batch), state, self._optimiser)

    def policy_loss(self, params: Any, batch: Transitions) -> tuple[Array, Metrics]:
        """mean (tanh(f(s)) - a)^2, or mean -log softmax(f(s))_a for discrete actions."""
        output = self._policy.apply(params, batch.obs)
        if self._discrete:
            loss = optax.softmax_cross_entropy_with_integer_labels(output, batch.action).mean()
        else:
            loss = jnp.mean((self._squashed(output) - batch.action) ** 2)
        return loss, {"policy/loss": loss}

    def act(self, state: Net, memory: Array, key: Key, *, greedy: bool) -> tuple[Array, Array]:
        """One action. The continuous policy is deterministic; the discrete one samples unless ``greedy``."""
        output = self._policy.apply(state.params, memory)
        if not self._discrete:
            action = self._squashed(output)
        elif greedy:
            action = jnp.argmax(output).astype(jnp.int32)
        else:
            action = jax.random.categorical(key, output).astype(jnp.int32)
        return action[None], memory

    def probabilities(self, state: Net, obs: Array) -> Array:
        """[n] of the choices, where actions are discrete."""
        return jax.nn.softmax(self._policy.apply(state.params, obs))

    def network(self, state: Net) -> networks.Network:
        """The greedy policy as a list of layers."""
        head = "softmax" if self._discrete else "tanh"
        return networks.Network(self._policy.layers(state.params), head)

    def _squashed(self, output: Array) -> Array:
        """tanh of the components [..., A] that have bounds; the others may be any number."""
        bounded = np.isfinite(self.spec.action.high)
        if bounded.all():
            return jnp.tanh(output)
        return jnp.where(np.broadcast_to(bounded, output.shape), jnp.tanh(output), output)

    @property
    def _discrete(self) -> bool:
        return isinstance(self.spec.action, Discrete)

    @property
    def _policy(self) -> networks.MLP:
        action = self.spec.action
        out = action.n if self._discrete else action.shape[0]
        return networks.MLP(self.config.widths, out, out_bound=1e-3)

    @property
    def _optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.config.learning_rate)


_CORL = "CORL, algorithms/offline/any_percent_bc.py: 2 x 256, Adam 3e-4, batch 256, 1M updates, for every dataset"
_PENDULUM = "this project, for the embedded dataset: CORL's sizes, few updates"
_CARTPOLE = "this project, for small sets of CartPole: small networks, few updates; not tuned"
_SEPSIS = "this project, for one-hot observations: one narrow layer, few updates; not tuned"

PRESETS = {
    "pendulum": Preset(Config(), 3_000, _PENDULUM),
    "cartpole": Preset(Config(widths=(64, 64), learning_rate=1e-3), 5_000, _CARTPOLE),
    "icu-sepsis": Preset(Config(widths=(64,), learning_rate=1e-3), 5_000, _SEPSIS),
    "d4rl": Preset(Config(), 1_000_000, _CORL, {"normalise": "standard"}),
}
