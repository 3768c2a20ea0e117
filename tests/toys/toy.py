"""What a toy is: a small world, a number that is measured in it, and methods that must or must not do well there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from rlkit.buffer import Buffer, needs, stats
from rlkit.datasets import ActionOptions, DataOptions, Episodes, Normaliser
from rlkit.training import loop
from rlkit.training.sharding import make_mesh
from rlkit.types import Agent, Metrics, Spec, State, Stats

UNIT = ActionOptions(low=(-1.0,), high=(1.0,))  # the amounts of a toy, whatever part of them its data show


@dataclass(frozen=True)
class Variant:
    """A method with its settings, and the value that it must reach (``at_least``) or must not exceed (``at_most``).

    ``method`` is its name in the registry of agents. ``reference`` is the mean value of an independent implementation
    of the same toy, where there is one. The suite leaves out what is not ``in_suite``: what holds for the mean over
    seeds alone, and what costs more than it shows.
    """

    name: str
    method: str
    config: Any
    at_least: float | None = None
    at_most: float | None = None
    reference: float | None = None
    in_suite: bool = True

    @property
    def expected(self) -> str:
        """Whether this variant passes the toy or fails it."""
        return "fails" if self.at_least is None else "passes"

    @property
    def threshold(self) -> float:
        """The value that decides."""
        return self.at_most if self.at_least is None else self.at_least

    def holds(self, value: float) -> bool:
        """Whether ``value`` is on the expected side of the threshold."""
        return value <= self.threshold if self.at_least is None else value >= self.threshold


@dataclass(frozen=True)
class Toy:
    """``measure`` trains a variant's config with one seed and returns the value; larger values are better.

    ``claim`` says what the value is and what the toy shows. ``seeds`` is over how many seeds (from 0) the claim is
    about the mean; ``suite_seed`` is the one that the test suite runs.
    """

    name: str
    claim: str
    measure: Callable[[Any, int], float]
    variants: tuple[Variant, ...]
    seeds: int = 3
    suite_seed: int = 0

    @property
    def suite(self) -> tuple[Variant, ...]:
        """The variants that the test suite runs."""
        return tuple(variant for variant in self.variants if variant.in_suite)


class Trained(NamedTuple):
    """The last stage's learner, its state after the last update without a seed axis, and the last metrics."""

    agent: Agent
    state: State
    metrics: Metrics


class Data(NamedTuple):
    """Recorded steps on the device, their moments and what the environment is told to be."""

    buffer: Buffer
    moments: Stats
    spec: Spec


def prepare(episodes: Episodes, spec: Spec, config: Any, options: DataOptions | None = None) -> Data:
    """The columns that ``config`` needs of the episodes."""
    options = options or DataOptions(dataset="toy")
    columns = needs(config.stages(spec, 1))
    buffer = Buffer.from_episodes(episodes, Normaliser.fit(episodes, options), columns)
    return Data(buffer, stats(buffer), spec)


def train(config: Any, data: Data, steps: int, seed: int, stages: int | None = None) -> Trained:
    """What ``rlkit train`` does: the config's stages (or the first ``stages`` of them) through ``fit``, on a device."""
    mesh = make_mesh(1, jax.devices()[:1])
    chosen = config.stages(data.spec, steps)[:stages]
    *_, end = loop.fit(chosen, data.buffer, data.moments, (seed,), log_every=steps, mesh=mesh)
    state = jax.tree.map(lambda leaf: leaf[0], end.state)
    metrics = {name: float(value[0]) for name, value in end.metrics.items()}
    return Trained(chosen[-1].learner, state, metrics)


@functools.partial(jax.jit, static_argnums=0)
def greedy(agent: Agent, state: State, obs: jax.Array) -> jax.Array:
    """The greedy actions [N, ...] of observations [N, ...] for an agent without memory."""

    def act(one: jax.Array) -> jax.Array:
        return agent.act(state, one, jax.random.key(0), greedy=True)[0][0]

    return jax.vmap(act)(obs)
