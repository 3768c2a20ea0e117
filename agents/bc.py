"""Behaviour cloning: supervised learning of the data's actions.

Continuous actions: a deterministic policy tanh(f(obs)) under the mean squared error; discrete actions: a softmax under
the cross-entropy. Sizes and learning rate are those of the BC baseline of CORL (Tarasov et al. 2022, arXiv 2210.07105).

This file is the template for a new agent: a Config of hyper-parameters, a Learner of pure functions, PRESETS, and one
line in agents/__init__.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
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
        """One stage."""
        return (Stage("bc", BC(self, spec), steps),)


@dataclass(frozen=True)
class BC(Reactive):
    """The learner; its state is one Net."""

    config: Config
    spec: Spec
    needs: tuple[str, ...] = ()

    def init(self, key: Key, prev: None, stats: Stats) -> Net:
        """A policy that starts at the middle of the action range."""
        return optim.init(self._policy.init(key, stats.obs_mean), self._optimiser)

    def sample(self, buffer: Buffer, key: Key) -> Transitions:
        """Recorded steps; their successors are not used."""
        return buffer.transitions(key, self.config.batch_size, gamma=1.0)

    def update(self, state: Net, batch: Transitions, key: Key, step: Array) -> tuple[Net, Metrics]:
        """One step down the imitation loss."""

        def loss(params: dict) -> tuple[Array, Metrics]:
            output = self._policy.apply(params, batch.obs)
            if isinstance(self.spec.action, Discrete):
                value = optax.softmax_cross_entropy_with_integer_labels(output, batch.action).mean()
            else:
                value = jnp.mean((jnp.tanh(output) - batch.action) ** 2)
            return value, {"policy/loss": value}

        return optim.descend(loss, state, self._optimiser)

    def act(self, state: Net, memory: Array, key: Key, *, greedy: bool) -> tuple[Array, Array]:
        """One action. The continuous policy is deterministic; the discrete one samples unless ``greedy``."""
        output = self._policy.apply(state.params, memory)
        if not isinstance(self.spec.action, Discrete):
            return jnp.tanh(output)[None], memory
        action = jnp.argmax(output) if greedy else jax.random.categorical(key, output)
        return action.astype(jnp.int32)[None], memory

    @property
    def _policy(self) -> networks.MLP:
        action = self.spec.action
        return networks.MLP(
            self.config.widths, action.n if isinstance(action, Discrete) else action.shape[0], out_bound=1e-3
        )

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
