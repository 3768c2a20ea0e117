"""SAC-N and EDAC: offline SAC whose pessimism is the minimum over an ensemble of critics.

An, Moon, Kim, Song: Uncertainty-Based Offline Reinforcement Learning with Diversified Q-Ensemble, NeurIPS 2021,
arXiv 2110.01548. Official code: snu-mllab/EDAC (PyTorch). eta = 0 is SAC-N, which needs critics by the hundred where
data are narrow; EDAC keeps the critics' action gradients apart, so that ten disagree as many would.

Deviations from the official code: the order of the updates is SAC's here (the temperature after the actor); no
max-backup for pen/cloned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from agents.sac import SAC
from rlkit import losses
from rlkit.ranges import Count, Discount, Finite, LearningRate, Positive, TargetShare, Weight, Widths
from rlkit.types import Array, InputError, Metrics, Preset, Spec, Stage, Transitions


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of SAC-N and EDAC."""

    critics: Count = 10
    """Critics; the smallest of their values counts."""
    eta: Weight = 1.0
    """Weight of the diversity of the critics' action gradients; 0 is SAC-N."""
    widths: Widths = (256, 256, 256)
    """Hidden layers of the actor and of each critic."""
    critic_layer_norm: bool = False
    """LayerNorm after each ReLU of the critics."""
    gamma: Discount = 0.99
    """Discount per step."""
    tau: TargetShare = 0.005
    """Share of the online critics that the target critics take over at each update."""
    actor_learning_rate: LearningRate = 3e-4
    """Adam's step size for the actor."""
    critic_learning_rate: LearningRate = 3e-4
    """Adam's step size for the critics."""
    alpha_learning_rate: LearningRate = 3e-4
    """Adam's step size for the logarithm of the temperature."""
    initial_alpha: Positive = 1.0
    """Temperature at the start."""
    target_entropy: Finite | None = None
    """Entropy that the temperature is steered to; minus the number of action dimensions if not given."""
    batch_size: Count = 256
    """Steps in a batch."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        spec.require_bounded_action("edac")
        if self.eta and self.critics < 2:
            raise InputError("edac: one critic has none to differ from; give --config.critics 2 or --config.eta 0")
        return (Stage("edac", EDAC(self, spec), steps),)


@dataclass(frozen=True)
class EDAC(SAC):
    """SAC with a diversity term in the loss of its critics."""

    def critic_loss(self, params: Any, target: Array, batch: Transitions) -> tuple[Array, Metrics]:
        """SAC's + eta times the mean over the batch of `diversity` (eq. 6). One forward pass gives the values and the
        gradients in the actions."""
        if not self.config.eta:
            return super().critic_loss(params, target, batch)
        # each critic has its own copy of the actions: one backward pass then gives the gradient of every critic
        size = self.config.critics
        obs = jnp.broadcast_to(batch.obs, (size, *batch.obs.shape))
        action = jnp.broadcast_to(batch.action, (size, *batch.action.shape))
        network = self._critic.clone(shared=False)
        q, pullback = jax.vjp(lambda action: network.apply(params, obs, action).squeeze(-1), action)
        (gradients,) = pullback(jnp.ones_like(q))
        cosine = diversity(gradients).mean()
        loss = losses.critic_error(q, target) + self.config.eta * cosine
        metrics = {
            "critic/loss": loss,
            "critic/q": q.mean(),
            "critic/std": q.std(0).mean(),
            "critic/cosine": cosine,
        }
        return loss, metrics


def diversity(gradients: Array) -> Array:
    """[N, B, A] -> [B]: the sum of the cosines of all ordered pairs of critics' gradients, over N - 1 (eq. 6).

    It is N where all agree, and at least -N / (N - 1)."""
    n = len(gradients)
    squared_norm = (gradients**2).sum(-1, keepdims=True)
    unit = gradients / jnp.sqrt(squared_norm + 1e-20)
    total = unit.sum(0)
    # the squared norm of the sum holds the cosines of all pairs, and the N cosines of each critic with itself
    all_pairs = (total**2).sum(-1)
    own_pairs = (unit**2).sum((0, 2))
    return (all_pairs - own_pairs) / (n - 1)


_CORL = "CORL, algorithms/offline/edac.py and configs/offline/edac: 3M updates of 256, Adam 3e-4, "
_GYM = _CORL + "critics and eta of each dataset"
_UNLISTED = _CORL + (
    "critics and eta of medium, since that folder has no file for this set; what the paper's appendix has for it is "
    "not verified"
)
_ADROIT = (
    "critics and eta: CORL, configs/offline/edac, and for pen README of snu-mllab/EDAC too. The rest is the latter's, "
    "which is the authors': 200k updates, standardised rewards, and 3e-5 as the learning rate of the policy and, with "
    "it, of the temperature (CORL has 3M updates, 3e-4 and plain rewards); its max-backup for pen/cloned is not taken "
    "over"
)
# dataset -> (critics, eta)
_GYM_SETS = {
    "halfcheetah/random": (10, 1.0),
    "halfcheetah/medium": (10, 1.0),
    "halfcheetah/expert": (10, 1.0),
    "halfcheetah/medium-expert": (10, 5.0),
    "halfcheetah/medium-replay": (10, 1.0),
    "halfcheetah/full-replay": (10, 1.0),
    "walker2d/random": (10, 1.0),
    "walker2d/medium": (10, 1.0),
    "walker2d/expert": (10, 1.0),
    "walker2d/medium-expert": (10, 5.0),
    "walker2d/medium-replay": (10, 1.0),
    "walker2d/full-replay": (10, 1.0),
    "hopper/random": (50, 1.0),
    "hopper/medium": (50, 1.0),
    "hopper/expert": (50, 1.0),
    "hopper/medium-expert": (50, 1.0),
    "hopper/medium-replay": (50, 1.0),
    "hopper/full-replay": (50, 1.0),
}
_ADROIT_SETS = {
    "pen/human": (20, 1000.0),
    "pen/cloned": (20, 10.0),
    "pen/expert": (20, 10.0),
    "door/human": (50, 200.0),
    "door/cloned": (50, 200.0),
    "door/expert": (50, 200.0),
    "hammer/human": (50, 200.0),
    "hammer/cloned": (50, 200.0),
    "hammer/expert": (50, 200.0),
    "relocate/human": (50, 200.0),
    "relocate/cloned": (50, 200.0),
    "relocate/expert": (50, 200.0),
}
_LISTED = ("medium", "medium-expert", "medium-replay")  # of Gym-MuJoCo, in the folder of CORL

PRESETS = {
    "pendulum": Preset(
        Config(
            widths=(64, 64), actor_learning_rate=1e-3, critic_learning_rate=1e-3, alpha_learning_rate=1e-3, critics=5
        ),
        6_000,
        "this project, for the embedded dataset: five small critics, few updates; not tuned",
    ),
    "antmaze": Preset(Config(), 3_000_000, f"{_GYM}, rewards as they are. It scores 0 there"),
    "maze2d": Preset(Config(eta=0.1), 3_000_000, _GYM),
}
for _name, (_critics, _eta) in _GYM_SETS.items():
    _robot, _, _kind = _name.partition("/")
    _source = _GYM if _kind in _LISTED else _UNLISTED
    PRESETS[_name] = Preset(Config(critics=_critics, eta=_eta), 3_000_000, _source)
for _name, (_critics, _eta) in _ADROIT_SETS.items():
    _config = Config(critics=_critics, eta=_eta, actor_learning_rate=3e-5, alpha_learning_rate=3e-5)
    _data = {"reward": "standard"}
    PRESETS[_name] = Preset(_config, 200_000, _ADROIT, _data)
