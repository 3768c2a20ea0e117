"""Reward labels: hides some by the episode, as protocols of semi-supervised RL do, and gives advice on the rest.

Hidden rewards are set aside in Episodes.hidden, where diagnostics find them and no learner does.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from rlkit.datasets.episodes import HAS_ACTION, LABELLED, TERMINAL, Episodes
from rlkit.datasets.options import DataOptions
from rlkit.types import InputError

SPARSE = 0.95  # share of the labelled rewards that are one and the same number


def hide(episodes: Episodes, options: DataOptions) -> Episodes:
    """Keep the rewards of ``label_share`` of the episodes that are labelled throughout; at least one keeps them.

    Raises InputError for a share that its choice of episodes cannot give.
    """
    share = options.label_share
    choice = options.label_from
    if share == 1:
        return episodes
    if choice == "top-half" and share > 0.5:
        raise InputError(f"--label-share {share}: at most 0.5 with --label-from top-half")

    # --- which episodes keep their rewards ---
    flags = np.asarray(episodes.flags)
    is_step = (flags & HAS_ACTION) > 0
    labelled = (flags & LABELLED) > 0
    starts = episodes.starts
    is_whole = np.logical_and.reduceat(labelled | ~is_step, starts)
    whole = np.flatnonzero(is_whole)
    if not whole.size:
        raise InputError(f"{episodes.name}: no episode is labelled throughout, so --label-share has none to choose")
    kept = _kept(episodes, whole, options)
    hidden_episodes = np.setdiff1d(whole, kept)

    # --- their rows ---
    lengths = np.diff(starts, append=len(flags))
    is_hidden = np.isin(np.arange(len(starts)), hidden_episodes)
    rows = is_step & np.repeat(is_hidden, lengths)
    unlabelled = flags & ~np.uint8(LABELLED)
    reward = np.where(rows, 0, episodes.reward)
    hidden = np.where(rows, episodes.reward, np.nan)
    note = f"{len(kept)} of {len(starts)} episodes keep their rewards (--label-share {share} --label-from {choice})"
    notes = (*episodes.report.notes, note)
    return dataclasses.replace(
        episodes,
        reward=reward.astype(np.float32),
        flags=np.where(rows, unlabelled, flags),
        hidden=hidden.astype(np.float32),
        report=dataclasses.replace(episodes.report, notes=notes),
    )


def advice(episodes: Episodes) -> list[str]:
    """Sentences on data with unlabelled steps of which a lower bound of the reward is known to make poor labels."""
    flags = np.asarray(episodes.flags)
    is_step = (flags & HAS_ACTION) > 0
    labelled = is_step & ((flags & LABELLED) > 0)
    all_labelled = labelled.sum() == is_step.sum()
    if all_labelled or not labelled.any():
        return []
    rewards = np.asarray(episodes.reward)[labelled]
    _, counts = np.unique(rewards, return_counts=True)
    most_frequent = counts.max()
    if most_frequent >= SPARSE * len(rewards):
        share = most_frequent / len(rewards)
        return [
            f"{share:.0%} of the labelled rewards are one number: the lower bound of a sparse reward misses the "
            "successes among unlabelled steps"
        ]
    has_terminals = (flags & TERMINAL).any()
    if has_terminals and rewards.mean() > 0:
        return [
            "episodes end in terminal states and rewards are mostly positive: labels that are too low make an early "
            "end look better than it is"
        ]
    return []


def _kept(episodes: Episodes, whole: np.ndarray, options: DataOptions) -> np.ndarray:
    """Numbers of the episodes, out of ``whole``, that keep their rewards."""
    count = round(options.label_share * len(whole))
    count = max(1, count)
    if options.label_from == "early":
        return whole[:count]
    if options.label_from == "top-half":
        returns = dataclasses.replace(episodes, hidden=None).returns()  # of `whole`, in its order
        best_first = np.argsort(-returns, kind="stable")
        half = max(len(whole) // 2, 1)
        best = np.sort(best_first[:half])
        whole = whole[best]
    generator = np.random.default_rng(options.label_seed)
    drawn = generator.permutation(whole)[:count]
    return np.sort(drawn)
