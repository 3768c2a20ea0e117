"""Which rewards are known: hiding some by the episode, as protocols of semi-supervised RL do, and advice on the rest.

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
    way = options.label_from
    if share == 1:
        return episodes
    if way == "top-half" and share > 0.5:
        raise InputError(f"--label-share {share}: at most 0.5 with --label-from top-half")
    flags = np.asarray(episodes.flags)
    is_step = (flags & HAS_ACTION) > 0
    labelled = ~is_step | ((flags & LABELLED) > 0)
    starts = episodes.starts
    whole = np.flatnonzero(np.logical_and.reduceat(labelled, starts))
    if not whole.size:
        raise InputError(f"{episodes.name}: no episode is labelled throughout, so --label-share has none to choose")
    kept = _kept(episodes, whole, options)
    hidden = np.isin(np.arange(len(starts)), np.setdiff1d(whole, kept))
    lengths = np.diff(starts, append=len(flags))
    rows = is_step & np.repeat(hidden, lengths)
    count = f"{len(kept)} of {len(starts)} episodes keep their rewards (--label-share {share} --label-from {way})"
    return dataclasses.replace(
        episodes,
        reward=np.where(rows, 0, episodes.reward).astype(np.float32),
        flags=np.where(rows, flags & ~np.uint8(LABELLED), flags),
        hidden=np.where(rows, episodes.reward, np.nan).astype(np.float32),
        report=dataclasses.replace(episodes.report, notes=(*episodes.report.notes, count)),
    )


def advice(episodes: Episodes) -> list[str]:
    """Sentences on data with unlabelled steps of which a lower bound of the reward is known to make poor labels."""
    flags = np.asarray(episodes.flags)
    step = (flags & HAS_ACTION) > 0
    labelled = step & ((flags & LABELLED) > 0)
    if labelled.sum() == step.sum() or not labelled.any():
        return []
    rewards = np.asarray(episodes.reward)[labelled]
    sentences = []
    _, counts = np.unique(rewards, return_counts=True)
    if counts.max() >= SPARSE * len(rewards):
        sentences.append(
            f"{counts.max() / len(rewards):.0%} of the labelled rewards are one number: the lower bound of a sparse "
            "reward misses the successes among unlabelled steps"
        )
    elif (flags & TERMINAL).any() and rewards.mean() > 0:
        sentences.append(
            "episodes end in terminal states and rewards are mostly positive: labels that are too low make an early "
            "end look better than it is"
        )
    return sentences


def _kept(episodes: Episodes, whole: np.ndarray, options: DataOptions) -> np.ndarray:
    """Numbers of the episodes, out of ``whole``, that keep their rewards."""
    count = max(1, round(options.label_share * len(whole)))
    if options.label_from == "early":
        return whole[:count]
    if options.label_from == "top-half":
        returns = dataclasses.replace(episodes, hidden=None).returns()  # of `whole`, in its order
        half = np.argsort(-returns, kind="stable")[: max(len(whole) // 2, 1)]
        whole = whole[np.sort(half)]
    return np.sort(np.random.default_rng(options.label_seed).permutation(whole)[:count])
