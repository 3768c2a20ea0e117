"""Short rollouts of a learnt model under any agent: the model-based half of semi-pessimistic RL (MBPO offline).

Janner, Fu, Zhang, Levine: When to Trust Your Model: Model-Based Policy Optimization, NeurIPS 2019, arXiv 1906.08253:
branched rollouts of a few steps from recorded observations, under the current policy, mixed with some real steps. Stage
``dynamics`` fits the model to all steps, whether their rewards are known or not; then the model is frozen.

Ours: rollouts are made anew at every update, from the observations of the batch itself, and are not kept; a state
that would leave the range of the data is clipped to it; the reward of a step is a function of the state handed in, not
a head of the model; there is no penalty on the model's doubt.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlkit.acting import Delegating, first_goal
from rlkit.buffer import Buffer
from rlkit.datasets.episodes import HAS_NEXT
from rlkit.models import dynamics, rewards
from rlkit.models.dynamics import Ensemble, Moves, Scale, Steps
from rlkit.optim import Net
from rlkit.types import Agent, Array, Key, Metrics, Percept, Spec, Stats, Transitions


class Known(NamedTuple):
    """What stands before the dynamics are learnt: the reward function's state, and what to know of the data."""

    reward: Any
    scale: Scale


class DynamicsState(NamedTuple):
    """The model, and the moments [D] that standardise its inputs."""

    known: Known
    net: Net
    mean: Array
    std: Array


@dataclass(frozen=True)
class DynamicsModel:
    """The learner of the stage; it begins with what is ``Known``."""

    model: Ensemble
    spec: Spec
    batch_size: int
    needs: tuple[str, ...] = ("row",)

    def init(self, key: Key, prev: Known, stats: Stats) -> DynamicsState:
        """An untrained model."""
        mean, std = rewards.input_moments(self.spec, stats)
        return DynamicsState(prev, self.model.init(key, mean), mean, std)

    def sample(self, buffer: Buffer, key: Key) -> Transitions:
        """Recorded steps; what is not yet needed of the reward may be unknown. An end has discount 0, a step 1."""
        batch = buffer.transitions(key, self.batch_size, 1.0)
        return batch._replace(extra=batch.extra | {"there": (buffer.flags[batch.extra["row"]] & HAS_NEXT) > 0})

    def update(self, state: DynamicsState, batch: Transitions, key: Key, step: Array) -> tuple[DynamicsState, Metrics]:
        """One step of the model."""
        moves = state.known.scale
        change = (batch.next_obs - batch.obs - moves.mean[None]) / moves.std[None]
        x = rewards.inputs(self.spec, state.mean, state.std, batch.obs, batch.action)
        weight = batch.extra["there"].astype(jnp.float32)
        net, metrics = self.model.update(state.net, Moves(x, change, batch.discount == 0, weight))
        return state._replace(net=net), metrics


class World(NamedTuple):
    """All that a rollout needs, frozen."""

    known: Known
    params: Any
    mean: Array
    std: Array


class RolloutState(NamedTuple):
    """The base's state, and the world of its rollouts."""

    base: Any
    world: World


@dataclass(frozen=True)
class Rollouts(Delegating):
    """A learner of the base that sees ``real_share`` of each batch and rollouts of ``length`` steps for the rest.

    ``reward(state, obs, action)`` values steps [B]; ``gamma`` is the base's discount.
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
        """The base's state, beside the model as it was learnt."""
        return RolloutState(self.base.init(key, None, stats), World(prev.known, prev.net.params, prev.mean, prev.std))

    def sample(self, buffer: Buffer, key: Key) -> Transitions:
        """The base's batch: its first steps stay, the observations of the others are where rollouts begin."""
        return self.base.sample(buffer, key)

    def update(self, state: RolloutState, batch: Transitions, key: Key, step: Array) -> tuple[RolloutState, Metrics]:
        """The base's update on the mixed batch."""
        rollout_key, key = jax.random.split(key)
        batch, told = self.mix(state, batch, rollout_key)
        base, metrics = self.base.update(state.base, batch, key, step)
        return state._replace(base=base), metrics | told

    def mix(self, state: RolloutState, batch: Transitions, key: Key) -> tuple[Transitions, Metrics]:
        """A batch of the same size: real steps first, then those of rollouts. At least one is of a rollout."""
        size = len(batch.obs)
        real = min(round(self.real_share * size), size - 1)
        count, known = size - real, state.world.known
        rows = math.ceil(count / self.length)
        starts = jnp.resize(batch.obs[real:], (self.length, rows, batch.obs.shape[1]))
        steps = self.imagine(state, starts, key)
        steps = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], steps)
        reward = self.reward(known.reward, steps.obs, steps.action)
        model = (steps.obs, steps.action, reward, jnp.where(steps.terminal, 0.0, self.gamma), steps.next_obs)
        low, high = known.scale.low[None], known.scale.high[None]
        edge = ((steps.next_obs <= low) | (steps.next_obs >= high)) & (low < high)
        told = {
            "rollout/reward": reward.mean(),
            "rollout/terminal": steps.terminal.mean(),
            "rollout/edge": edge.any(-1).mean(),
        }
        both = (jnp.concatenate([mine[:real], theirs]) for mine, theirs in zip(batch[:5], model, strict=True))
        return Transitions(*both, extra={}), told

    def imagine(self, state: RolloutState, starts: Array, key: Key) -> Steps:
        """Rollouts of the base's present policy from ``starts`` [H, M, O]."""
        world, scale = state.world, state.world.known.scale

        def one(obs: Array, key: Key) -> Array:
            percept = Percept(obs, jnp.float32(0), jnp.int32(0))
            memory = self.base.begin(state.base, first_goal(self.base))
            memory = self.base.observe(state.base, memory, percept)
            return self.base.act(state.base, memory, key, greedy=False)[0][0]

        def policy(obs: Array, key: Key) -> Array:
            return jax.vmap(one)(obs, jax.random.split(key, len(obs)))

        def step(obs: Array, action: Array, key: Key) -> tuple[Array, Array]:
            x = rewards.inputs(self.spec, world.mean, world.std, obs, action)
            change, terminal = self.model.sample(world.params, x, key)
            next_obs = obs + scale.mean[None] + scale.std[None] * change
            return jnp.clip(next_obs, scale.low[None], scale.high[None]), terminal & scale.ends

        return dynamics.rollout(policy, step, starts, key)
