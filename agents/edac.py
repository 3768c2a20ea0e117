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
        """One stage."""
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
        # every critic has a copy of the actions: the gradients of all of them for the price of one each
        obs, action = (jnp.broadcast_to(x, (self.config.critics, *x.shape)) for x in (batch.obs, batch.action))
        members = self._critic.clone(shared=False)
        q, pullback = jax.vjp(lambda action: members.apply(params, obs, action).squeeze(-1), action)
        cosine = diversity(pullback(jnp.ones_like(q))[0]).mean()
        loss = ((q - target[None]) ** 2).mean(1).sum(0) + self.config.eta * cosine
        return loss, {"critic/loss": loss, "critic/q": q.mean(), "critic/std": q.std(0).mean(), "critic/cosine": cosine}


def diversity(gradients: Array) -> Array:
    """[N, B, A] -> [B]: the sum of the cosines of all ordered pairs of critics' gradients, over N - 1 (eq. 6).

    It is N where all agree, and not below -N / (N - 1)."""
    n = len(gradients)
    unit = gradients / jnp.sqrt((gradients**2).sum(-1, keepdims=True) + 1e-20)
    total = unit.sum(0)
    # the pairs' cosines add up to the squared norm of the sum, less the N cosines of each with itself
    return ((total**2).sum(-1) - (unit**2).sum((0, 2))) / (n - 1)


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
# (critics, eta)
_GYM_SETS = {"halfcheetah": (10, 1.0), "walker2d": (10, 1.0), "hopper": (50, 1.0)}
_KINDS = ("random", "medium", "expert", "medium-expert", "medium-replay", "full-replay")

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
for _world, (_critics, _eta) in _GYM_SETS.items():
    for _kind in _KINDS:
        _set = Config(critics=_critics, eta=5.0 if _kind == "medium-expert" and _world != "hopper" else _eta)
        _listed = _kind in ("medium", "medium-expert", "medium-replay")
        PRESETS[f"{_world}/{_kind}"] = Preset(_set, 3_000_000, _GYM if _listed else _UNLISTED)
for _world in ("pen", "door", "hammer", "relocate"):
    for _kind in ("human", "cloned", "expert"):
        _critics, _eta = ((20, 1000.0) if _kind == "human" else (20, 10.0)) if _world == "pen" else (50, 200.0)
        _set = Config(critics=_critics, eta=_eta, actor_learning_rate=3e-5, alpha_learning_rate=3e-5)
        PRESETS[f"{_world}/{_kind}"] = Preset(_set, 200_000, _ADROIT, {"reward": "standard"})
