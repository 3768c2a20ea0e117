"""Short rollouts of a learnt model under any agent: the model-based half of semi-pessimistic RL (MBPO offline).

Janner, Fu, Zhang, Levine: When to Trust Your Model: Model-Based Policy Optimization, NeurIPS 2019, arXiv 1906.08253:
branched rollouts of a few steps from recorded observations, under the current policy, mixed with some real steps. Stage
``dynamics`` fits the model to all steps, whether their rewards are known or not; then the model is frozen.

Our choices: every update makes new rollouts, from the observations of its batch, and does not keep them; a next
observation outside the range of the data is clipped to it; the reward of a step comes from a function that the caller
gives, not from the model; the model's uncertainty is not penalised.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlkit.acting import AgentWrapper, first_goal
from rlkit.buffer import Buffer
from rlkit.datasets.episodes import HAS_NEXT
from rlkit.models import dynamics, rewards
from rlkit.models.dynamics import Ensemble, Moves, Scale, Steps
from rlkit.optim import Net
from rlkit.types import Agent, Array, Key, Metrics, Percept, Spec, Stats, Transitions


class RewardAndScale(NamedTuple):
    """What the stage of the dynamics begins with: the reward function's state, and the Scale of the data."""

    reward: Any
    scale: Scale


class DynamicsState(NamedTuple):
    """The model, and the moments [D] that standardise its inputs."""

    known: RewardAndScale
    net: Net
    mean: Array
    std: Array


@dataclass(frozen=True)
class DynamicsModel:
    """Learner of the stage ``dynamics``."""

    model: Ensemble
    spec: Spec
    batch_size: int
    needs: tuple[str, ...] = ("row",)

    def init(self, key: Key, prev: RewardAndScale, stats: Stats) -> DynamicsState:
        mean, std = rewards.input_moments(self.spec, stats)
        net = self.model.init(key, mean)
        return DynamicsState(prev, net, mean, std)

    def sample(self, buffer: Buffer, key: Key) -> Transitions:
        """Recorded steps with discount 1, or 0 at a terminal state. Their rewards are not used."""
        batch = buffer.transitions(key, self.batch_size, gamma=1.0)
        flags = buffer.flags[batch.extra["row"]]
        extra = batch.extra | {"has_next": (flags & HAS_NEXT) > 0}
        return batch._replace(extra=extra)

    def update(self, state: DynamicsState, batch: Transitions, key: Key, step: Array) -> tuple[DynamicsState, Metrics]:
        """One step of the model."""
        scale = state.known.scale
        change = batch.next_obs - batch.obs
        change = (change - scale.mean[None]) / scale.std[None]
        moves = Moves(
            x=rewards.inputs(self.spec, state.mean, state.std, batch.obs, batch.action),
            change=change,
            terminal=batch.discount == 0,
            weight=batch.extra["has_next"].astype(jnp.float32),
        )
        net, metrics = self.model.update(state.net, moves)
        return state._replace(net=net), metrics


class FrozenModel(NamedTuple):
    """The model as the stage ``dynamics`` left it, and the moments [D] that standardise its inputs."""

    known: RewardAndScale
    params: Any
    mean: Array
    std: Array


class RolloutState(NamedTuple):
    """The base's state, and the model of its rollouts. Checkpoints hold the names of these fields: keep them."""

    base: Any
    world: FrozenModel


@dataclass(frozen=True)
class Rollouts(AgentWrapper):
    """Learner that trains the base on batches of recorded steps and of rollouts.

    reward(state, obs, action): values [B] steps. length: steps of a rollout. real_share: share of recorded steps in a
    batch. gamma: the base's discount.
    """

    base: Agent
    model: Ensemble
    reward: Callable[[Any, Array, Array], Array]
    spec: Spec
    length: int
    real_share: float
    gamma: float
    needs: tuple[str, ...] = ()

    def init(self, key: Key, prev: DynamicsState, stats: Stats) -> RolloutState:
        """The base's state, and the model as it was learnt."""
        base = self.base.init(key, None, stats)
        model = FrozenModel(
            known=prev.known,
            params=prev.net.params,
            mean=prev.mean,
            std=prev.std,
        )
        return RolloutState(base, model)

    def sample(self, buffer: Buffer, key: Key) -> Transitions:
        """The base's batch: its first steps stay, and rollouts begin at the observations of the others."""
        return self.base.sample(buffer, key)

    def update(self, state: RolloutState, batch: Transitions, key: Key, step: Array) -> tuple[RolloutState, Metrics]:
        """The base's update on the mixed batch."""
        rollout_key, key = jax.random.split(key)
        batch, rollout_metrics = self.mix(state, batch, rollout_key)
        base, metrics = self.base.update(state.base, batch, key, step)
        return state._replace(base=base), metrics | rollout_metrics

    def mix(self, state: RolloutState, batch: Transitions, key: Key) -> tuple[Transitions, Metrics]:
        """A batch of the same size: recorded steps first, then steps of rollouts, of which there is at least one."""
        size = len(batch.obs)
        real = round(self.real_share * size)
        real = min(real, size - 1)
        count = size - real
        # --- rollouts, cut to the steps that are needed ---
        number = math.ceil(count / self.length)
        width = batch.obs.shape[1]
        starts = jnp.resize(batch.obs[real:], (self.length, number, width))
        steps = self.imagine(state, starts, key)
        steps = jax.tree.map(lambda leaf: _first(leaf, count), steps)
        reward = self.reward(state.world.known.reward, steps.obs, steps.action)
        discount = jnp.where(steps.terminal, 0.0, self.gamma)
        # --- recorded steps and rollouts together ---
        mixed = Transitions(
            obs=jnp.concatenate([batch.obs[:real], steps.obs]),
            action=jnp.concatenate([batch.action[:real], steps.action]),
            reward=jnp.concatenate([batch.reward[:real], reward]),
            discount=jnp.concatenate([batch.discount[:real], discount]),
            next_obs=jnp.concatenate([batch.next_obs[:real], steps.next_obs]),
            extra={},
        )
        at_edge = self._at_edge(state.world.known.scale, steps.next_obs)
        metrics = {
            "rollout/reward": reward.mean(),
            "rollout/terminal": steps.terminal.mean(),
            "rollout/edge": at_edge.mean(),
        }
        return mixed, metrics

    def imagine(self, state: RolloutState, starts: Array, key: Key) -> Steps:
        """Rollouts of the base's present policy from ``starts`` [H, M, O]."""
        model = state.world
        scale = model.known.scale
        low = scale.low[None]
        high = scale.high[None]

        def act(obs, key):
            percept = Percept(obs, reward=jnp.float32(0), t=jnp.int32(0))
            goal = first_goal(self.base)
            memory = self.base.begin(state.base, goal)
            memory = self.base.observe(state.base, memory, percept)
            actions, _ = self.base.act(state.base, memory, key, greedy=False)
            return actions[0]

        def policy(obs, key):
            keys = jax.random.split(key, len(obs))
            return jax.vmap(act)(obs, keys)

        def step(obs, action, key):
            x = rewards.inputs(self.spec, model.mean, model.std, obs, action)
            change, terminal = self.model.sample(model.params, x, key)
            next_obs = obs + scale.mean[None] + scale.std[None] * change
            next_obs = jnp.clip(next_obs, low, high)
            return next_obs, terminal & scale.ends

        return dynamics.rollout(policy, step, starts, key)

    def _at_edge(self, scale: Scale, obs: Array) -> Array:
        """Which of ``obs`` [B, O] lie on the range of the data in a dimension that varies, [B]."""
        low = scale.low[None]
        high = scale.high[None]
        outside = (obs <= low) | (obs >= high)
        varies = low < high
        return (outside & varies).any(-1)


def _first(leaf: Array, count: int) -> Array:
    """The first ``count`` steps of rollouts [H, M, ...], [count, ...]."""
    steps = leaf.reshape(-1, *leaf.shape[2:])
    return steps[:count]
