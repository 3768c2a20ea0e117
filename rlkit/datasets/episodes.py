"""Episodes: the form that the data of every source get, and the only one from which a Buffer is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rlkit.types import InputError

if TYPE_CHECKING:
    import gymnasium

# Bits of the `flags` column.
HAS_ACTION = 1  # the row holds a step; a row without it is the final observation of an episode
HAS_NEXT = 2  # the next row holds the observation that this step led to
TERMINAL = 4  # the step ended in a terminal state: bootstrap with zero
LABELLED = 8  # the step's reward is known; that of a step without is stored as 0 and never used


class DataWarning(NamedTuple):
    """Something about the data that looks wrong and may be right, see rlkit.datasets.inspection."""

    check: str  # the kind of thing: digits, leak, scale, constant, time, repeats, lengths, rewards, bounds
    serious: bool  # `train` says it too
    sentence: str

    @property
    def kind(self) -> str:
        """The word before the sentence."""
        return "warning" if self.serious else "notice"


@dataclass(frozen=True)
class Names:
    """Names of the components of observations and actions, as the source has them; empty where it has none."""

    observation: tuple[str, ...] = ()  # one for each column of Episodes.obs
    action: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """Counts of the rows of the source, of those that are used, and of the reasons why others are not. They count steps
    where nothing else is said."""

    episodes: int
    steps: int  # steps in the source
    used: int  # steps that can be drawn as transitions
    terminal_episodes: int  # episodes whose last step is terminal
    truncated_episodes: int  # episodes cut by a time limit or by the end of the recording
    unflagged_ends: int  # episodes stored with neither flag at the end: taken as truncated
    both_flags: int  # steps flagged terminal and truncated: terminal wins
    no_successor: int  # truncated last steps whose next observation was not recorded: kept in order, never drawn
    on_bounds: int  # steps with an action component exactly on its bound
    repaired: int = 0  # steps changed by --repair
    notes: tuple[str, ...] = ()  # anything else that a reader should know, one sentence each
    warnings: tuple[DataWarning, ...] = ()  # what looks wrong, the serious first

    def __str__(self) -> str:
        """What `rlkit data check` says: the counts, then a line for each note and warning."""
        counts = _counts(self)
        width = max(len(label) for label, _ in counts)
        lines = [f"{label:{width}}  {value}" for label, value in counts]
        lines += [f"note: {sentence}" for sentence in self.notes]
        lines += [f"{warning.kind}: {warning.sentence}" for warning in self.warnings]
        return "\n".join(lines)


def summary(report: Report) -> list[tuple[str, str]]:
    """(label, value) pairs for a table; notes come last, each under the label "note"."""
    return [*_counts(report), *(("note", note) for note in report.notes)]


def _counts(report: Report) -> list[tuple[str, str]]:
    """(label, value) of each number."""
    labels = {
        "episodes": "episodes",
        "steps": "steps in the source",
        "used": "steps used",
        "no_successor": "steps not drawn: next observation not recorded",
        "terminal_episodes": "episodes ended by a terminal state",
        "truncated_episodes": "episodes cut short (time limit or end of recording)",
        "unflagged_ends": "episodes without an end flag, taken as cut short",
        "both_flags": "steps flagged terminal and truncated, taken as terminal",
        "on_bounds": "steps with an action exactly on a bound",
        "repaired": "steps changed by --repair",
    }
    lines = []
    for name, label in labels.items():
        count = getattr(report, name)
        lines.append((label, f"{count:,}"))
    return lines


@dataclass(frozen=True)
class Episodes:
    """E episodes of N steps in all, laid end to end as R = N + E rows: T steps, then one row for the final observation.

    Values are the source's own (not normalised); wide observations are flattened. Rows of final observations have
    action and reward 0. If the final observation was not recorded, its row repeats the last one and the step before
    lacks HAS_NEXT. Arrays may be read-only memory maps.
    """

    name: str
    fingerprint: str  # of the source's bytes and of the options that change the rows
    obs: np.ndarray  # [R, O] float32
    action: np.ndarray  # [R, A] float32, or [R] int32 for a discrete action space
    reward: np.ndarray  # [R] float32
    t: np.ndarray  # [R] int32, steps since reset
    flags: np.ndarray  # [R] uint8, bits above
    observation_space: gymnasium.Space  # as stored, before flattening
    action_space: gymnasium.Space
    env_spec: str | None  # gymnasium EnvSpec as JSON, or an environment id; None if unknown
    reference: tuple[float, float] | None  # (random, expert) mean returns named by the dataset itself
    report: Report
    infos: Mapping[str, np.ndarray] = field(default_factory=dict)  # [N, ...] each, only when asked for
    names: Names = Names()
    # [R] float32: the rewards that --label-share hid (see labels.py), NaN elsewhere; None where it hid none. They are
    # for diagnostics and for the returns of the data: no agent learns from them
    hidden: np.ndarray | None = None
    # what the spaces say that no source and no user told: "observation", "action kind", "action bounds". An environment
    # may have others, which are then taken, see `check_env`
    derived: tuple[str, ...] = ()

    @property
    def starts(self) -> np.ndarray:
        """[E] row of each episode's first step."""
        return np.flatnonzero(self.t == 0)

    def drawable(self) -> np.ndarray:
        """[R] bool: the steps that can be drawn, with a successor that was recorded or needs none. Raises InputError if
        there is no such step."""
        flags = np.asarray(self.flags)
        has_target = (flags & (HAS_NEXT | TERMINAL)) > 0
        drawable = has_target & ((flags & HAS_ACTION) > 0)
        if not drawable.any():
            raise InputError(f"{self.name}: no step has a recorded successor or a terminal; nothing can be drawn")
        return drawable

    def returns(self) -> np.ndarray:
        """[E'] float64 undiscounted return of each episode of which every reward was recorded, hidden or not."""
        reward = self.reward.astype(np.float64)
        known = (np.asarray(self.flags) & (HAS_ACTION | LABELLED)) != HAS_ACTION
        if self.hidden is not None:
            is_hidden = ~np.isnan(self.hidden)
            reward = np.where(is_hidden, self.hidden, reward)
            known = known | is_hidden
        whole = np.logical_and.reduceat(known, self.starts)
        returns = np.add.reduceat(reward, self.starts)
        return returns[whole]
