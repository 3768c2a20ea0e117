"""Importance sampling: recorded returns, weighted by how much likelier the policy's actions are than the recorded ones.

With rho_t = pi(a_t|s_t) / b(a_t|s_t) and w_t = rho_0 ... rho_t:

    weighted         sum_i w_T G / sum_i w_T                            (G: discounted return)
    per-decision     sum_t gamma^t sum_i w_t r_t / sum_i w_t            (weighted, too)
    doubly robust    mean_i V(s_0) + sum_t gamma^t w_t (r_t + gamma V(s_t+1) - Q(s_t, a_t))

An episode that has ended keeps its last weight in the later sums: without it the live episodes alone would divide, and
survival came out as 7.5. Per-decision and doubly robust estimates are in Precup, Sutton, Singh (2000) and in Jiang and
Li (2016) with Thomas and Brunskill (2016).

Ten steps with a ratio of 2 or 1/2 leave few episodes that count, and the intervals do not know it. So an estimate is
made only where `refusal` has nothing to say, and its interval is a lower bound of the uncertainty even there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlkit.datasets import Episodes
from rlkit.datasets.episodes import HAS_ACTION, TERMINAL

LEAST_ESS = 100.0  # effective number of episodes
MEAN_WEIGHT = (0.8, 1.25)  # its expectation is 1
LARGEST_SHARE = 0.05  # of one episode in the sum of the weights
REPLICATES = 200


class Ratios(NamedTuple):
    """Of every recorded step: log pi(a|s) - log b(a|s), in the rows [R] of the episodes; and where the episodes lie.

    start: [E] row of the first step. length: [E] steps.
    """

    log: np.ndarray
    start: np.ndarray
    length: np.ndarray

    def final(self) -> np.ndarray:
        """[E] w_T, the product of an episode's ratios."""
        sums = np.add.reduceat(self.log, self.start)  # rows of final observations have log ratio 0
        return np.exp(sums)


def ratios(episodes: Episodes, policy: np.ndarray, behaviour: np.ndarray) -> Ratios:
    """The Ratios of a policy. policy, behaviour: [R] probabilities of the recorded actions; those of final observations
    do not matter."""
    is_step = (np.asarray(episodes.flags) & HAS_ACTION) > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.log(np.asarray(policy, np.float64)) - np.log(np.asarray(behaviour, np.float64))
    start = episodes.starts
    length = np.diff(start, append=len(is_step)) - 1
    return Ratios(np.where(is_step, log, 0.0), start, length)


def effective_size(weight: np.ndarray) -> float:
    """(sum w)^2 / sum w^2, how many episodes of equal weight say as much (Kish 1965)."""
    return float(weight.sum() ** 2 / max((weight**2).sum(), 1e-300))


def refusal(weight: np.ndarray, behaviour: np.ndarray) -> str:
    """Why importance sampling is not offered; "" where it is.

    weight: [E] of whole episodes. behaviour: [N] probabilities of the recorded actions.
    """
    if not ((behaviour > 0) & (behaviour <= 1)).all():
        wrong = int((~((behaviour > 0) & (behaviour <= 1))).sum())
        return f"{wrong:,} recorded actions have a behaviour probability that is not above 0 and at most 1"
    reasons = []
    size = effective_size(weight)
    if size < LEAST_ESS:
        reasons.append(f"effective sample size {size:.0f} of {len(weight)} episodes (at least {LEAST_ESS:.0f})")
    mean = float(weight.mean())
    low, high = MEAN_WEIGHT
    if not low <= mean <= high:
        reasons.append(f"mean weight {mean:.2f} ({low} to {high}: it should be 1)")
    share = float(weight.max() / max(weight.sum(), 1e-300))
    if share > LARGEST_SHARE:
        reasons.append(f"one episode has {share:.0%} of the weight (at most {LARGEST_SHARE:.0%})")
    return "; ".join(reasons)


def weighted(episodes: Episodes, steps: Ratios, gamma: float, weights: np.ndarray) -> np.ndarray:
    """[R] weighted importance sampling, for the bootstrap weights [R, E] of the episodes."""
    final = steps.final()
    returns = discounted_returns(episodes, gamma)
    return (weights @ (final * returns)) / (weights @ final)


def per_decision(episodes: Episodes, steps: Ratios, gamma: float, weights: np.ndarray) -> np.ndarray:
    """[R] weighted per-decision importance sampling, likewise."""
    reward = np.asarray(episodes.reward, np.float64)
    log = np.zeros(len(steps.start))
    total = np.zeros(len(weights))
    for t in range(int(steps.length.max())):
        live = np.flatnonzero(steps.length > t)
        rows = steps.start[live] + t
        log[live] += steps.log[rows]  # an episode that has ended keeps its last weight
        ratio = np.exp(log)
        earned = weights[:, live] @ (ratio[live] * reward[rows])
        total += gamma**t * earned / (weights @ ratio)
    return total


def doubly_robust(
    episodes: Episodes, steps: Ratios, gamma: float, value: np.ndarray, q: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """[R] doubly robust estimates, likewise.

    value: [rows] V of each row under the policy, q: [rows] Q of each recorded action, both fitted on other episodes.
    Where a time limit cut an episode short, V of its last observation stands for the rest.
    """
    flags = np.asarray(episodes.flags)
    is_terminal = (flags & TERMINAL) > 0
    following = np.where(is_terminal, 0.0, np.roll(value, -1))
    surprise = np.asarray(episodes.reward, np.float64) + gamma * following - q
    of_episode = value[steps.start].copy()
    log = np.zeros(len(steps.start))
    for t in range(int(steps.length.max())):
        live = np.flatnonzero(steps.length > t)
        rows = steps.start[live] + t
        log[live] += steps.log[rows]
        of_episode[live] += gamma**t * np.exp(log[live]) * surprise[rows]
    return (weights @ of_episode) / weights.sum(1)


def discounted_returns(episodes: Episodes, gamma: float) -> np.ndarray:
    """[E] sum of gamma^t r_t over each episode, as far as it was recorded."""
    discounted = np.asarray(episodes.reward, np.float64) * gamma ** np.asarray(episodes.t, np.float64)
    return np.add.reduceat(discounted, episodes.starts)


def bootstrap_weights(episodes: int, seed: int = 0, replicates: int = REPLICATES) -> np.ndarray:
    """[1 + replicates, episodes] Exp(1) weights; those of the first row are 1: the estimate itself."""
    drawn = np.random.default_rng(seed).exponential(size=(replicates, episodes))
    return np.concatenate([np.ones((1, episodes)), drawn])
