"""Evaluation in live environments: all seeds, goals and several environments in lock-step, one compiled policy.

Nothing depends on how many environments run side by side: episode i starts from ``reset(seed=seed + i)``, and the
agent's key is folded from the number of the episode and the step. (A matrix product over more rows may round its last
digit differently.)
"""

from __future__ import annotations

import contextlib
import copy
import itertools
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
    """The episodes of G goals and S seeds."""

    returns: np.ndarray  # [G, S, episodes] float64: raw rewards, summed without discount
    lengths: np.ndarray  # [G, S, episodes] steps
    success: np.ndarray  # [G, S, episodes] info["success"] of the last step, 1 or 0; NaN where there is none


def score(returns: Any, reference: Sequence[Any]) -> Any:
    """Normalised score: 0 for random, 100 for an expert. ``reference`` begins with their mean returns."""
    low, high = reference[:2]
    above_random = np.asarray(returns, np.float64) - low
    return 100 * above_random / (high - low)


def longest(spec: Spec) -> int:
    """Steps after which an episode counts as endless: ten times the longest one of the data and the environment."""
    return 10 * spec.horizon


class Evaluator:
    """Plays episodes with the greedy policies of all seeds, through the run's normaliser.

    Args:
        agent: what acts.
        normaliser: between the environment's units and those of the agent.
        make_env: makes one environment, whose observations are flattened here.
        episodes: for each goal and seed.
        seed: episode i is reset with seed + i, for every seed of the run and every goal alike.
        goals: label -> goal, handed to ``agent.begin``; the agent's own ones by default.
        envs_per_seed: environments side by side for each seed and goal, which changes the speed only; by default one
            for each episode, at most 20.
        longest: steps after which an episode that has not ended is an error.

    Returns:
        An Evaluator, whose `run` plays the episodes; its environments are made then.

    Raises:
        ValueError: for less than one episode.

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
        self.goals = dict(agent.goals if goals is None else goals)
        self._agent = agent
        self._normaliser = normaliser
        self._make_env = make_env
        self._episodes = episodes
        self._seed = seed
        self._longest = longest
        self._width = min(envs_per_seed or LANES, episodes)
        self._envs: list[gymnasium.Env] = []

    def run(self, state: State, beat: Callable[[], None] = lambda: None) -> Evaluation:
        """Play all episodes.

        Args:
            state: the states of S agents, [S] on every leaf; neither changed nor donated.
            beat: called after every step.

        Returns:
            Returns, lengths and successes of the episodes.

        Raises:
            EvaluationError: if an environment cannot be made, raises, or returns what gymnasium does not allow, if an
                observation, a reward or an action is not finite, or if an episode does not end.

        Example:
            returns, lengths, success = evaluator.run(state)
        """
        try:
            return self._play(state, beat)
        except EvaluationError:
            self.close()  # an environment that failed may be in any state: the next run makes new ones
            raise

    def of(self, agent: Agent) -> Evaluator:
        """The same episodes for another agent, in the same environments."""
        other = copy.copy(self)
        other.goals = dict(agent.goals)
        other._agent = agent
        return other

    def close(self) -> None:
        """Close the environments; a further run makes new ones."""
        for env in self._envs:
            with contextlib.suppress(Exception):  # other people's code, which is not needed any more
                env.close()
        self._envs.clear()

    def _play(self, state: State, beat: Callable[[], None]) -> Evaluation:
        device = jax.devices()[0]
        seeds = jax.tree.leaves(state)[0].shape[0]
        goals = play.stack_goals(list(self.goals.values()))
        keys = np.full(seeds, self._seed, np.uint32)
        acting = jax.device_put(Acting(state, goals, self._normaliser, keys), device)
        # The memory is put on the device too. Else, if begin does not use the state, its memory is bound to no device,
        # while the memory after the first step is, and the step would be compiled twice.
        begun = play.begin(self._agent, len(self.goals) * self._width, acting)
        kept = jax.device_put(begun, device)

        shape = (len(self.goals), seeds, self._episodes)
        returns = np.zeros(shape, np.float64)
        lengths = np.zeros(shape, np.int64)
        success = np.full(shape, np.nan)
        lanes = self._lanes(seeds)
        queues = self._queues(seeds)
        for lane in lanes:
            self._next_episode(lane, queues)
            beat()
        while any(lane.live for lane in lanes):
            # --- one compiled step for all lanes ---
            seen = jax.device_put(play.show(lanes, seeds), device)
            actions, kept = play.step(self._agent, True, acting, kept, seen)
            actions = np.asarray(jax.device_get(actions))
            action_shape = actions.shape[2:]
            lane_actions = actions.reshape(len(lanes), *action_shape)

            # --- one step of each environment ---
            for lane, action in zip(lanes, lane_actions, strict=True):
                if not lane.live:
                    continue
                has_ended = lane.step(action)
                if has_ended:
                    episode = (lane.goal, lane.member, lane.episode)
                    returns[episode] = lane.total
                    lengths[episode] = lane.t
                    success[episode] = lane.success
                    self._next_episode(lane, queues)
            beat()
        return Evaluation(returns, lengths, success)

    def _lanes(self, seeds: int) -> list[Lane]:
        """Lanes of all seeds; of one seed those of each goal side by side."""
        number = seeds * len(self.goals) * self._width
        while len(self._envs) < number:
            self._envs.append(play.another(self._make_env, self._envs))
        lanes = []
        envs = iter(self._envs)
        for member in range(seeds):
            for goal in range(len(self.goals)):
                for env in itertools.islice(envs, self._width):
                    lanes.append(Lane(env, member, goal, self._longest))
        return lanes

    def _queues(self, seeds: int) -> Mapping[tuple[int, int], Iterator[int]]:
        """Goal and seed -> episodes to play. Their lanes take the next one as they become free."""
        queues = {}
        for goal in range(len(self.goals)):
            for member in range(seeds):
                queues[goal, member] = iter(range(self._episodes))
        return queues

    def _next_episode(self, lane: Lane, queues: Mapping[tuple[int, int], Iterator[int]]) -> None:
        episode = next(queues[lane.goal, lane.member], None)
        if episode is None:
            lane.stop()
        else:
            lane.reset(episode, self._seed + episode)
