"""Evaluation in live environments: all seeds, goals and several environments in lock-step, one compiled policy.

Nothing depends on how many environments run side by side: episode i starts from ``reset(seed=seed + i)``, and the
agent's key is folded from the number of the episode and the step. (A matrix product over more rows may round its last
digit differently.)
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np

from rlkit.datasets import Normaliser
from rlkit.evaluation import play
from rlkit.evaluation.play import Acting, EvaluationError, Lane
from rlkit.types import Agent, Spec, State

LANES = 20  # environments side by side for each seed and goal, at most


class Evaluation(NamedTuple):
    """G goals, S seeds. ``returns`` [G, S, episodes] float64: raw rewards, summed without discount. ``lengths``
    [G, S, episodes]: steps."""

    returns: np.ndarray
    lengths: np.ndarray


def score(returns: Any, reference: Sequence[Any]) -> Any:
    """Normalised score: 0 for random, 100 for an expert. ``reference`` begins with their mean returns."""
    low, high = reference[:2]
    return 100 * (np.asarray(returns, np.float64) - low) / (high - low)


def longest(spec: Spec) -> int:
    """Steps after which an episode counts as endless: ten times the longest one of the data and the environment."""
    return 10 * spec.horizon


class Evaluator:
    """Plays ``episodes`` episodes for each goal with each seed's greedy policy, through the run's normaliser.

    Args:
        make_env: makes one environment, whose observations are flattened here.
        seed: episode i is reset with seed + i, for every seed of the run and every goal alike.
        goals: label -> goal, handed to ``agent.begin``; the agent's own ones by default.
        envs_per_seed: environments side by side for each seed and goal, which changes the speed only; by default one
            for each episode, at most 20.
        longest: steps after which an episode that has not ended is an error.

    Example:
        evaluator = Evaluator(agent, normaliser, lambda: gymnasium.make("Hopper-v5"), episodes=10)
        evaluator.run(state).returns.mean((1, 2))  # of each goal
    """

    def __init__(
        self,
        agent: Agent,
        normaliser: Normaliser,
        make_env: Callable[[], gymnasium.Env],
        *,
        episodes: int = 10,
        seed: int = 0,
        goals: Mapping[str, Any] | None = None,
        envs_per_seed: int | None = None,
        longest: float = math.inf,
    ):
        if episodes < 1:
            raise ValueError(f"episodes is {episodes}, but at least 1 is needed")
        self._agent, self._normaliser, self._make_env = agent, normaliser, make_env
        self._episodes, self._seed, self._longest = episodes, seed, longest
        self.goals = dict(agent.goals if goals is None else goals)
        self._width = min(envs_per_seed or LANES, episodes)
        self._envs: list[gymnasium.Env] = []

    def run(self, state: State, beat: Callable[[], None] = lambda: None) -> Evaluation:
        """Evaluate ``state``, which has a leading seed axis [S] on every leaf; it is neither changed nor donated.

        ``beat`` is called after every step. Raises EvaluationError if an environment raises, if an observation or a
        reward is not finite, or an action, or if an episode does not end.
        """
        device = jax.devices()[0]
        seeds = jax.tree.leaves(state)[0].shape[0]
        goals = play.stack_goals(list(self.goals.values()))
        acting = jax.device_put(Acting(state, goals, self._normaliser, np.uint32(self._seed)), device)
        # put there like the rest: where begin uses no state, its result is bound to no device, and the second step,
        # whose memory is, would be compiled anew
        played = jax.device_put(play.begin(self._agent, len(self.goals) * self._width, acting), device)
        shape = (len(self.goals), seeds, self._episodes)
        result = Evaluation(np.zeros(shape, np.float64), np.zeros(shape, np.int64))
        lanes = self._lanes(seeds)
        # the lanes of one seed and goal share out its episodes as they get free
        queues = {(lane.goal, lane.member): iter(range(self._episodes)) for lane in lanes}
        try:
            for lane in lanes:
                self._next_episode(lane, queues)
                beat()
            while any(lane.live for lane in lanes):
                seen = jax.device_put(play.show(lanes, seeds), device)
                actions, played = play.step(self._agent, True, acting, played, seen)
                actions = np.asarray(jax.device_get(actions))
                for lane, action in zip(lanes, actions.reshape(len(lanes), *actions.shape[2:]), strict=True):
                    if lane.live and lane.step(action):
                        place = lane.goal, lane.member, lane.episode
                        result.returns[place], result.lengths[place] = lane.total, lane.t
                        self._next_episode(lane, queues)
                beat()
        except EvaluationError:
            self.close()  # what an environment does after it failed is not known: the next run makes new ones
            raise
        return result

    def close(self) -> None:
        """Close the environments; a further run makes new ones."""
        for env in self._envs:
            with contextlib.suppress(Exception):  # foreign code, which is not needed any more
                env.close()
        self._envs.clear()

    def _next_episode(self, lane: Lane, queues: Mapping[tuple[int, int], Iterator[int]]) -> None:
        episode = next(queues[lane.goal, lane.member], None)
        if episode is None:
            lane.stop()
        else:
            lane.reset(episode, self._seed + episode)

    def _lanes(self, seeds: int) -> list[Lane]:
        """Lanes of all seeds; of one seed those of each goal side by side."""
        places = [
            (member, goal) for member in range(seeds) for goal in range(len(self.goals)) for _ in range(self._width)
        ]
        while len(self._envs) < len(places):
            self._envs.append(self._make_env())
        return [Lane(env, member, goal, self._longest) for env, (member, goal) in zip(self._envs, places, strict=False)]
