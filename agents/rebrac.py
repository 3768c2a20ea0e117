"""ReBRAC: TD3+BC with deeper networks, LayerNorm in the critics, and a penalty in the critics' target too.

Tarasov, Kurenkov, Nikulin, Kolesnikov: Revisiting the Minimalist Approach to Offline Reinforcement Learning, NeurIPS
2023, arXiv 2305.09836. Official code: DT6A/ReBRAC (JAX); the defaults are its settings for Gym-MuJoCo.

Deviations from the official code: the last step of an episode that a time limit cut is trained on, without the critics'
penalty, since the data hold no action after it (the official loader drops the step); the target actor follows the actor
after its step, not before. From equal parameters and one batch, losses and the step are the official ones.

On the point mass of docs/toys.md (actor_beta 0.1, critic_beta 0.01, two layers of 128, 6000 updates, two seeds) the
return is -82 and -79, and -79 and -80 with the official code, where the data's is -30. Probably because the critics
start at 0, which promises much for unseen actions where every reward is negative and the anchor is weak.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from agents.td3_bc import TD3BC, TD3State
from rlkit import networks
from rlkit.ranges import Count, Discount, LearningRate, TargetShare, Weight, Widths
from rlkit.types import Array, Key, Metrics, Preset, Spec, Stage, Transitions


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of ReBRAC."""

    actor_beta: Weight = 0.01
    """Weight of the squared distance to the data's action in the actor's loss, against Q divided by its mean size."""
    critic_beta: Weight = 0.01
    """Weight of the squared distance to the data's next action in the critics' target."""
    widths: Widths = (256, 256, 256)
    """Hidden layers of the actor and of each critic."""
    critic_layer_norm: bool = True
    """LayerNorm after each ReLU of the critics."""
    gamma: Discount = 0.99
    """Discount per step."""
    tau: TargetShare = 0.005
    """Share of the online networks that their targets take over whenever the actor moves."""
    policy_delay: Count = 2
    """Updates of the critics for one of the actor and the targets."""
    policy_noise: Weight = 0.2
    """Standard deviation of the noise on the target policy's actions."""
    noise_clip: Weight = 0.5
    """Largest size of that noise."""
    actor_learning_rate: LearningRate = 1e-3
    """Adam's step size for the actor."""
    critic_learning_rate: LearningRate = 1e-3
    """Adam's step size for the critics."""
    batch_size: Count = 1024
    """Steps in a batch."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        """One stage."""
        spec.require_bounded_action("rebrac")
        return (Stage("rebrac", ReBRAC(self, spec), steps),)


@dataclass(frozen=True)
class ReBRAC(TD3BC):
    """The learner: TD3+BC's, with other losses and critics."""

    config: Config
    needs: tuple[str, ...] = ("next_action", "has_next_action")

    @property
    def intrinsic_reward(self) -> float:
        """The penalty of the largest distance: 2 in each dimension of the action."""
        return 4 * self.config.critic_beta * self.spec.action.shape[0]

    def target_value(self, state: TD3State, batch: Transitions, key: Key) -> Array:
        """y = r + discount [min_i Q'_i(s', a') - critic_beta |a' - a'_data|^2], a' the noisy target policy's (paper,
        eq. 4)."""
        action = self._next_action(state, batch, key)
        distance = batch.extra["has_next_action"] * ((action - batch.extra["next_action"]) ** 2).sum(-1)
        value = self._next_value(state, batch, action) - self.config.critic_beta * distance
        return batch.reward + batch.discount * value

    def actor_loss(self, params: Any, critic: Any, batch: Transitions) -> tuple[Array, Metrics]:
        """mean [actor_beta |pi(s) - a|^2 - lambda min_i Q_i(s, pi(s))], lambda = 1 / mean |min_i Q_i| (eq. 3)."""
        action = jnp.tanh(self._actor.apply(params, batch.obs))
        q = self._critic.apply(critic, batch.obs, action).squeeze(-1).min(0)
        distance = ((action - batch.action) ** 2).sum(-1).mean()
        loss = self.config.actor_beta * distance - q.mean() / jax.lax.stop_gradient(jnp.abs(q).mean())
        return loss, {"actor/loss": loss, "actor/q": q.mean(), "actor/distance": distance}

    @property
    def _critic(self) -> networks.Ensemble:
        return networks.Ensemble(2, self.config.widths, 1, out_bound=3e-3, layer_norm=self.config.critic_layer_norm)


_OFFICIAL = "DT6A/ReBRAC, configs/rebrac (Tarasov et al. 2023, arXiv 2305.09836): betas of each dataset, 1M updates, "
_GYM = _OFFICIAL + (
    "batch 1024, learning rates 1e-3. hopper: the paper's table has a critic beta of 0.001 for medium and for expert, "
    "these files and CORL's have 0.01 and 0.1. The files were taken, since the authors' runs for their results "
    "(configs/sweeps/eval) read them"
)
_ANTMAZE = _OFFICIAL + (
    "gamma 0.999, reward x 100, batch 256, actor's learning rate 3e-4, critics' 5e-5. The paper's text has 1e-4 for "
    "the critics: the files were taken, as for hopper"
)
_ADROIT = _OFFICIAL + "batch 256, learning rates 3e-4"
_PENDULUM = "this project, for the embedded dataset: small networks and batches, few updates"

# (actor, critic) for random, medium, expert, medium-expert, medium-replay, full-replay
_KINDS = ("random", "medium", "expert", "medium-expert", "medium-replay", "full-replay")
_GYM_BETAS = {
    "halfcheetah": ((0.001, 0.1), (0.001, 0.01), (0.01, 0.01), (0.01, 0.1), (0.01, 0.001), (0.001, 0.1)),
    "hopper": ((0.001, 0.01), (0.01, 0.01), (0.1, 0.1), (0.1, 0.01), (0.05, 0.5), (0.01, 0.01)),
    "walker2d": ((0.01, 0.0), (0.05, 0.1), (0.01, 0.5), (0.01, 0.01), (0.05, 0.01), (0.01, 0.01)),
}
# (actor, critic) for human, cloned, expert
_ADROIT_BETAS = {
    "pen": ((0.1, 0.5), (0.05, 0.5), (0.01, 0.01)),
    "door": ((0.1, 0.1), (0.01, 0.1), (0.05, 0.01)),
    "hammer": ((0.01, 0.5), (0.1, 0.5), (0.01, 0.01)),
    "relocate": ((0.1, 0.01), (0.1, 0.01), (0.05, 0.01)),
}
_ANTMAZE_BETAS = {
    "umaze": (0.003, 0.002),
    "umaze-diverse": (0.003, 0.001),
    "medium-play": (0.001, 0.0005),
    "medium-diverse": (0.001, 0.0),
    "large-play": (0.002, 0.001),
    "large-diverse": (0.002, 0.002),
}
_SLOW = {"batch_size": 256, "actor_learning_rate": 3e-4, "critic_learning_rate": 3e-4}
_SLOWER = _SLOW | {"gamma": 0.999, "critic_learning_rate": 5e-5}

PRESETS = {"pendulum": Preset(Config(widths=(64, 64, 64), batch_size=256), 6_000, _PENDULUM)}
for _world, _betas in _GYM_BETAS.items():
    for _kind, _pair in zip(_KINDS, _betas, strict=True):
        PRESETS[f"{_world}/{_kind}"] = Preset(Config(*_pair), 1_000_000, _GYM)
for _world, _betas in _ADROIT_BETAS.items():
    for _kind, _pair in zip(("human", "cloned", "expert"), _betas, strict=True):
        PRESETS[f"{_world}/{_kind}"] = Preset(Config(*_pair, **_SLOW), 1_000_000, _ADROIT)
for _kind, _pair in _ANTMAZE_BETAS.items():
    PRESETS[f"antmaze/{_kind}"] = Preset(Config(*_pair, **_SLOWER), 1_000_000, _ANTMAZE, {"reward_scale": 100.0})
