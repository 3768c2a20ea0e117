"""SAC, the soft actor-critic: offline the base of the methods that make it pessimistic, online SAC and RLPD.

Haarnoja et al.: Soft Actor-Critic Algorithms and Applications, 2018, arXiv 1812.05905 (twin critics, learned
temperature). Alone it follows its critics wherever they extrapolate; where data cover everything it is hard to beat.

RLPD is SAC with other settings, which learns online from data and replay alike: Ball, Smith, Kostrikov, Levine:
Efficient Online Reinforcement Learning with Offline Data, ICML 2023, arXiv 2302.02948. Official code: ikostrikov/rlpd
(JAX). Its batches are half data with --online.share 0.5; it trains on nothing before it collects: --steps 0.

Siblings replace single functions of the learner: the actor's loss, the critics' target, the critics' loss.

Deviations: initialisation and the clip of the log standard deviation are EDAC's (An et al. 2021), see rlkit.networks;
the critics see the new actor and the old temperature, the order of SAC-RND's official code. RLPD's code moves the
critics first, clips the log standard deviation at -20 rather than -5, takes the mean over the critics' losses where
their sum is taken here, which Adam hardly sees, and draws the actions before the first update uniformly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlkit import losses, networks, optim
from rlkit.acting import Reactive
from rlkit.buffer import Buffer
from rlkit.optim import Net
from rlkit.ranges import Count, Discount, Finite, LearningRate, Positive, TargetShare, Widths
from rlkit.types import Array, InputError, Key, Metrics, Preset, Spec, Stage, Stats, Transitions


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of SAC."""

    widths: Widths = (256, 256)
    """Hidden layers of the actor and of each critic."""
    critics: Count = 2
    """Critics."""
    target_critics: Count | None = None
    """Critics, drawn anew for each target, whose smallest value counts in it; all of them if not given."""
    actor_q: Literal["min", "mean"] = "min"
    """Which of the critics' values the actor ascends: the smallest, or the mean of all."""
    critic_updates: Count = 1
    """Updates of the critics in each update, on a batch each. The actor and the temperature take one, on the last."""
    critic_layer_norm: bool = False
    """LayerNorm after each ReLU of the critics."""
    critic_norm_first: bool = False
    """LayerNorm before each ReLU of the critics."""
    initialisation: Literal["fan-in", "xavier"] = "fan-in"
    """Of all networks: EDAC's, or Xavier-uniform kernels and biases of 0."""
    backup_entropy: bool = True
    """Whether the backed-up value contains the policy's entropy."""
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
    """Steps in a batch; one update draws as many for each update of the critics."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        spec.require_bounded_action("sac")
        if self.target_critics is not None and self.target_critics > self.critics:
            raise InputError(
                f"sac: the target takes {self.target_critics} of {self.critics} critics: change "
                "--config.target-critics or --config.critics"
            )
        return (Stage("sac", RLPD(self, spec), steps),)


class SACState(NamedTuple):
    """Networks, optimisers, the target critics and the temperature: all that acting and training need."""

    actor: Net
    critic: Net
    target: Any
    log_alpha: Net


@dataclass(frozen=True)
class SAC(Reactive):
    """Learner of SAC as it was published, without what RLPD adds: the base of the siblings. ``config`` has the fields
    of theirs; states of siblings may have more."""

    config: Any
    spec: Spec
    needs: tuple[str, ...] = ()

    @property
    def intrinsic_reward(self) -> float:
        """Size of |alpha log pi| at a step.

        The log-density of one action dimension is at most about as large as the least log standard deviation."""
        dimensions = self.spec.action.shape[0]
        return self.config.initial_alpha * dimensions * abs(networks.LOG_STD_MIN)

    def init(self, key: Key, prev: None, stats: Stats) -> SACState:
        """Target critics start as copies of the critics."""
        actor_key, critic_key = jax.random.split(key)
        obs = stats.obs_mean[None]
        action = stats.action_mean[None]
        actor = self._actor.init(actor_key, obs)
        critic = self._critic.init(critic_key, obs, action)
        log_alpha = jnp.log(jnp.float32(self.config.initial_alpha))
        return SACState(
            actor=optim.init(actor, self._actor_optimiser),
            critic=optim.init(critic, self._critic_optimiser),
            target=optim.target_copy(critic),
            log_alpha=optim.init(log_alpha, self._alpha_optimiser),
        )

    def sample(self, buffer: Buffer, key: Key) -> Transitions:
        return buffer.transitions(key, self.config.batch_size, self.config.gamma)

    def update(self, state: SACState, batch: Transitions, key: Key, step: Array) -> tuple[SACState, Metrics]:
        """Update the actor, then the critics, which see the new actor and the old temperature."""
        alpha = jnp.exp(state.log_alpha.params)
        actor_key, critic_key = jax.random.split(key)
        state, actor_metrics = self.update_actor(state, alpha, batch, actor_key)
        state, critic_metrics = self.update_critic(state, alpha, batch, critic_key)
        return state, actor_metrics | critic_metrics

    def update_actor(self, state: SACState, alpha: Array, batch: Transitions, key: Key) -> tuple[SACState, Metrics]:
        """One step of the actor and one of the temperature."""

        def actor_loss(params):
            return self.actor_loss(params, state, alpha, batch, key)

        def alpha_loss(log_alpha):
            return self.alpha_loss(log_alpha, metrics["actor/entropy"])

        actor, metrics = optim.descend(actor_loss, state.actor, self._actor_optimiser)
        log_alpha, alpha_metrics = optim.descend(alpha_loss, state.log_alpha, self._alpha_optimiser)
        state = state._replace(actor=actor, log_alpha=log_alpha)
        return state, metrics | alpha_metrics

    def update_critic(self, state: SACState, alpha: Array, batch: Transitions, key: Key) -> tuple[SACState, Metrics]:
        """One step of the critics towards ``target_value``, then of the target critics towards the critics."""
        target_value = self.target_value(state, alpha, batch, key)

        def critic_loss(params):
            return self.critic_loss(params, target_value, batch)

        critic, metrics = optim.descend(critic_loss, state.critic, self._critic_optimiser)
        target = optim.polyak(state.target, critic.params, self.config.tau)
        state = state._replace(critic=critic, target=target)
        return state, metrics

    def actor_loss(
        self, params: Any, state: SACState, alpha: Array, batch: Transitions, key: Key
    ) -> tuple[Array, Metrics]:
        """mean[alpha log pi(a|s) - min_i Q_i(s, a)], a ~ pi (eq. 7)."""
        mean, log_std = self._actor.apply(params, batch.obs)
        action, log_prob = networks.tanh_normal_sample(mean, log_std, key)
        q = self.ascended(self._q(state.critic.params, batch.obs, action))
        loss = (alpha * log_prob - q).mean()
        metrics = {
            "actor/loss": loss,
            "actor/entropy": -log_prob.mean(),
            "actor/q": q.mean(),
            "actor/distance": ((action - batch.action) ** 2).mean(),
        }
        return loss, metrics

    def ascended(self, values: Array) -> Array:
        """[N, B] of all critics -> [B], what the actor ascends."""
        return values.min(0)

    def alpha_loss(self, log_alpha: Array, entropy: Array) -> tuple[Array, Metrics]:
        """exp(log alpha) (entropy - target entropy) (eq. 18)."""
        target_entropy = self.config.target_entropy
        if target_entropy is None:
            target_entropy = -float(self.spec.action.shape[0])
        alpha = jnp.exp(log_alpha)
        loss = alpha * (entropy - target_entropy)
        return loss, {"alpha/value": alpha}

    def target_value(self, state: SACState, alpha: Array, batch: Transitions, key: Key) -> Array:
        """y = r + discount [min_i Q'_i(s', a') - alpha log pi(a'|s')], a' ~ pi (eqs. 2 and 3)."""
        mean, log_std = self._actor.apply(state.actor.params, batch.next_obs)
        action, log_prob = networks.tanh_normal_sample(mean, log_std, key)
        q = self._q(state.target, batch.next_obs, action).min(0)
        value = q - alpha * log_prob
        return batch.reward + batch.discount * value

    def critic_loss(self, params: Any, target: Array, batch: Transitions) -> tuple[Array, Metrics]:
        """sum_i mean (Q_i(s, a) - y)^2 (eq. 5, without its half)."""
        q = self._q(params, batch.obs, batch.action)
        loss = losses.critic_error(q, target)
        return loss, {"critic/loss": loss, "critic/q": q.mean()}

    def act(self, state: SACState, memory: Array, key: Key, *, greedy: bool) -> tuple[Array, Array]:
        """One action: tanh of the mean if ``greedy``, else a sample."""
        mean, log_std = self._actor.apply(state.actor.params, memory)
        if greedy:
            action = jnp.tanh(mean)
        else:
            action, _ = networks.tanh_normal_sample(mean, log_std, key)
        return action[None], memory

    def value(self, state: SACState, obs: Array, action: Array) -> Array:
        """min_i Q_i(s, a) [] of one observation and one action."""
        return self._q(state.critic.params, obs, action).min()

    def network(self, state: SACState) -> networks.Network:
        """The greedy policy as a list of layers."""
        return networks.Network(self._actor.layers(state.actor.params), "tanh")

    def _q(self, params: Any, obs: Array, action: Array) -> Array:
        """Every critic's value [N, ...] of ``obs`` and ``action``, whose leading axes are broadcast."""
        values = self._critic.apply(params, obs, action)
        return values.squeeze(-1)

    @property
    def _actor(self) -> networks.GaussianPolicy:
        return networks.GaussianPolicy(self.config.widths, actions=self.spec.action.shape[0])

    @property
    def _critic(self) -> networks.Ensemble:
        return networks.Ensemble(
            size=self.config.critics,
            widths=self.config.widths,
            out=1,
            out_bound=3e-3,
            layer_norm=self.config.critic_layer_norm,
        )

    @property
    def _actor_optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.config.actor_learning_rate)

    @property
    def _critic_optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.config.critic_learning_rate)

    @property
    def _alpha_optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.config.alpha_learning_rate)


@dataclass(frozen=True)
class RLPD(SAC):
    """Learner of RLPD, of whose settings the defaults leave SAC, bit for bit."""

    @property
    def intrinsic_reward(self) -> float:
        """SAC's where the entropy is backed up, else 0."""
        if not self.config.backup_entropy:
            return 0.0
        return super().intrinsic_reward

    def sample(self, buffer: Buffer, key: Key) -> Transitions:
        """The batches of all updates of the critics, see `minibatches`."""
        size = self.config.batch_size * self.config.critic_updates
        return buffer.transitions(key, size, self.config.gamma)

    def update(self, state: SACState, batch: Transitions, key: Key, step: Array) -> tuple[SACState, Metrics]:
        """Update the actor on the last minibatch, then the critics on each in turn (RLPD, algorithm 1)."""
        number = self.config.critic_updates
        if number == 1:
            return super().update(state, batch, key, step)
        alpha = jnp.exp(state.log_alpha.params)
        actor_key, critic_key = jax.random.split(key)
        parts = minibatches(batch, number)
        last = jax.tree.map(lambda leaf: leaf[-1], parts)
        state, actor_metrics = self.update_actor(state, alpha, last, actor_key)

        def update_critic(state, part_and_key):
            part, part_key = part_and_key
            return self.update_critic(state, alpha, part, part_key)

        keys = jax.random.split(critic_key, number)
        state, critic_metrics = jax.lax.scan(update_critic, state, (parts, keys))
        means = {name: values.mean() for name, values in critic_metrics.items()}
        return state, actor_metrics | means

    def ascended(self, values: Array) -> Array:
        """The mean of all critics, or the smallest."""
        if self.config.actor_q == "mean":
            return values.mean(0)
        return super().ascended(values)

    def target_value(self, state: SACState, alpha: Array, batch: Transitions, key: Key) -> Array:
        """y = r + discount [min_{i in Z} Q'_i(s', a') - alpha log pi(a'|s')], a' ~ pi, Z the drawn critics (RLPD,
        algorithm 1); the entropy's term only where it is backed up."""
        mean, log_std = self._actor.apply(state.actor.params, batch.next_obs)
        action, log_prob = networks.tanh_normal_sample(mean, log_std, key)
        value = self.drawn_q(state.target, batch.next_obs, action, key).min(0)
        if self.config.backup_entropy:
            value = value - alpha * log_prob
        return batch.reward + batch.discount * value

    def drawn_q(self, params: Any, obs: Array, action: Array, key: Key) -> Array:
        """[M, B], the values of as many critics as the target takes. Only those are computed."""
        number = self.config.target_critics
        if number is None:
            return self._q(params, obs, action)
        subset_key = jax.random.fold_in(key, 1)
        chosen = jax.random.choice(subset_key, self.config.critics, (number,), replace=False)
        params = jax.tree.map(lambda leaf: leaf[chosen], params)
        values = self._critic.clone(size=number).apply(params, obs, action)
        return values.squeeze(-1)

    @property
    def _actor(self) -> networks.GaussianPolicy:
        return super()._actor.clone(xavier=self._is_xavier)

    @property
    def _critic(self) -> networks.Ensemble:
        return super()._critic.clone(norm_first=self.config.critic_norm_first, xavier=self._is_xavier)

    @property
    def _is_xavier(self) -> bool:
        return self.config.initialisation == "xavier"


def minibatches(batch: Any, number: int) -> Any:
    """[N B, ...] -> [N, B, ...]. Minibatch i has every Nth row from row i on: each has the same share of the rows that
    come from the data, which are the first ones of a batch."""

    def cut(leaf):
        parts = leaf.reshape(-1, number, *leaf.shape[1:])
        return jnp.moveaxis(parts, 1, 0)

    return jax.tree.map(cut, batch)


_RLPD = Config(
    critics=10,
    target_critics=2,
    actor_q="mean",
    critic_updates=20,
    critic_norm_first=True,
    initialisation="xavier",
)
_RLPD_SOURCE = (
    "ikostrikov/rlpd, configs/rlpd_config.py and README: 20 updates of the critics a step, batches of 256. Its run is "
    "--steps 0 --online.steps STEPS, where STEPS are this preset's"
)
_WITHOUT_ENTROPY = {"backup_entropy": False, "widths": (256, 256, 256)}
# robot -> (target entropy, which is minus half the number of action dimensions; changes; steps)
_RLPD_SETS = {
    "halfcheetah": (-3.0, {}, 250_000),
    "hopper": (-1.5, {}, 250_000),
    "walker2d": (-3.0, {}, 250_000),
    "antmaze": (-4.0, _WITHOUT_ENTROPY | {"target_critics": 1}, 300_000),
    "pen": (-12.0, _WITHOUT_ENTROPY, 1_000_000),
    "door": (-14.0, _WITHOUT_ENTROPY, 1_000_000),
    "relocate": (-15.0, _WITHOUT_ENTROPY, 1_000_000),
}

PRESETS = {
    "pendulum": Preset(
        Config(widths=(64, 64), actor_learning_rate=1e-3, critic_learning_rate=1e-3, alpha_learning_rate=1e-3),
        6_000,
        "this project, for the embedded dataset: small networks that train in a minute or two on two cores",
    ),
    "d4rl": Preset(
        Config(),
        1_000_000,
        "the paper's appendix D: 2 x 256, Adam 3e-4, batch 256, tau 0.005; offline it is the baseline that fails "
        "where data are narrow",
    ),
    "pendulum/online": Preset(
        Config(
            widths=(64, 64),
            gamma=0.95,
            tau=0.02,
            actor_learning_rate=1e-3,
            critic_learning_rate=1e-3,
            alpha_learning_rate=1e-3,
            batch_size=128,
        ),
        6_000,
        "this project, from scratch: --dataset random:200 --env Pendulum-v1 --online.steps 4000; its first "
        "settings, not tuned",
        {"reward_scale": 0.1},
        {"share": 0.0},
    ),
}
for _name, (_target_entropy, _changes, _steps) in _RLPD_SETS.items():
    _config = replace(_RLPD, target_entropy=_target_entropy, **_changes)
    _data = {"reward_shift": -1.0} if _name == "antmaze" else {}
    PRESETS[f"rlpd/{_name}"] = Preset(_config, _steps, _RLPD_SOURCE, _data, {"warmup": 5_000, "share": 0.5})
VARIANTS = (
    {
        "critics": 10,
        "target_critics": 1,
        "actor_q": "mean",
        "critic_updates": 20,
        "critic_norm_first": True,
        "initialisation": "xavier",
        "backup_entropy": False,
    },
)
