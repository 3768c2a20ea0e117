"""Held-out episodes in the form that the estimators take, with their rewards, or with survival in their place."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from gymnasium.spaces import Discrete, MultiBinary, MultiDiscrete

from rlkit import buffer as buffers
from rlkit.buffer import Buffer
from rlkit.datasets import DataOptions, Episodes, Normaliser
from rlkit.datasets.episodes import HAS_ACTION, TERMINAL
from rlkit.evaluation import statistics
from rlkit.ope import importance
from rlkit.ope.replicated import Replicated, weighted_mean
from rlkit.types import InputError, Stats


class Held(NamedTuple):
    """E held-out episodes, as FQE learns from them."""

    episodes: Episodes
    buffer: Buffer  # with the column `episode`; rewards as recorded
    moments: Stats
    normaliser: Normaliser  # of the buffer's rows, with the actions as the judged run has them
    survived: float | None = None  # the least last reward of a survivor, where survival stands in place of the rewards

    @property
    def is_step(self) -> np.ndarray:
        """[rows] bool: the rows that are steps, and not final observations."""
        return (np.asarray(self.episodes.flags) & HAS_ACTION) > 0

    @property
    def has_ended(self) -> np.ndarray:
        """[E] bool: the episodes that ended in a terminal state, and were not cut short."""
        return has_ended(self.episodes)

    @property
    def cut_short(self) -> int:
        """Episodes that did not end in a terminal state."""
        return int((~self.has_ended).sum())

    def returns(self, gamma: float) -> np.ndarray:
        """[E] what was recorded of each episode: its discounted rewards, or 1 for a survivor and 0."""
        return importance.discounted_returns(self.episodes, gamma)

    def observed(self, gamma: float) -> statistics.Estimate:
        """Mean of `returns` with Student's interval. Survival is that of the episodes that ended: of the others nobody
        knows it."""
        returns = self.returns(gamma)
        if self.survived is not None:
            returns = returns[self.has_ended]
        return statistics.estimate(returns[None])

    def replicated(self, gamma: float, weights: np.ndarray) -> Replicated | None:
        """Mean of `returns` with each of the ``weights`` [R, E]. None where episodes were cut short: what a policy is
        worth goes on beyond the cut, and cannot be compared with them."""
        if self.cut_short:
            return None
        return weighted_mean(self.returns(gamma), weights)


def hold(episodes: Episodes, trained: Normaliser, survived: float | None = None) -> Held:
    """The data as FQE learns from them.

    Args:
        episodes: held out. trained: the Normaliser of the judged run. survived: judge survival, see `survival`.

    Returns:
        Held. Actions are those of the run's own scale, rewards are as recorded, whatever transform training had, and
        observations are standardised anew, unless they are choices.

    Raises:
        InputError: where rewards are not known, or as `survival`.

    Example:
        held = hold(episodes, Normaliser.from_json(record.normaliser))
    """
    if survived is not None:
        episodes = survival(episodes, survived)
    are_choices = isinstance(episodes.observation_space, Discrete | MultiDiscrete | MultiBinary)
    own = Normaliser.fit(episodes, DataOptions(episodes.name, normalise="none" if are_choices else "standard"))
    normaliser = own._replace(
        action_centre=trained.action_centre,
        action_half=trained.action_half,
        action_low=trained.action_low,
        action_high=trained.action_high,
        action_start=trained.action_start,
    )
    rows = Buffer.from_episodes(episodes, normaliser, ("episode",))
    return Held(episodes, rows, buffers.stats(rows), normaliser, survived)


def survival(episodes: Episodes, least: float) -> Episodes:
    """The episodes with other rewards: 1 for the last step of a patient who survived, 0 elsewhere.

    Survived has who came to an end of the episode with a reward of ``least`` or more. Raises InputError where that are
    none or all of them, which says nothing of either.
    """
    last = _last_steps(episodes)
    reward = np.asarray(episodes.reward)
    ended = has_ended(episodes)
    if not ended.any():
        raise InputError(f"--survived {least:g}: no episode of {episodes.name} ends in a terminal state")
    at_end = reward[last[ended]]
    survivors = int((at_end >= least).sum())
    if survivors in (0, len(at_end)):
        raise InputError(
            f"--survived {least:g}: {survivors:,} of the {len(at_end):,} episodes of {episodes.name} that ended have "
            f"so high a last reward (they go from {at_end.min():g} to {at_end.max():g})"
        )
    survived = np.zeros_like(reward)
    survived[last] = ended & (reward[last] >= least)
    return dataclasses.replace(episodes, reward=survived)


def has_ended(episodes: Episodes) -> np.ndarray:
    """[E] bool: the episodes whose last step led to a terminal state."""
    return (np.asarray(episodes.flags)[_last_steps(episodes)] & TERMINAL) > 0


def _last_steps(episodes: Episodes) -> np.ndarray:
    """[E] row of the last step of each episode; the row after it is the final observation."""
    return np.append(episodes.starts[1:], len(episodes.t)) - 2
