"""Runs read for a report: those of one method pooled, one panel for each dataset, and what differs between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlkit.runs.record import Record
from rlkit.runs.run import Evaluated, Position


class Entry(NamedTuple):
    """One method on one dataset: a run, or several that differ in their seeds alone."""

    label: str  # the agent's name, then the settings that tell it from the others: "sac-rnd, beta 3"
    folders: tuple[Path, ...]
    record: Record  # of the first folder
    by_goal: dict[str, list[Evaluated]]  # label of a goal -> its evaluations, of the sound seeds of all folders; may be
    #   empty. The goal that comes first is the score
    seeds: int  # that were trained
    diverged: int  # of them, which no evaluation in ``by_goal`` has
    metrics: list[tuple[Position, dict[str, np.ndarray]]]  # at each position that all folders logged: "net/quantity" ->
    #   [S] of all seeds trained, NaN from where one diverged


class Panel(NamedTuple):
    """What was run on one dataset."""

    name: str  # of the dataset
    record: Record  # for its data and its reference returns
    entries: list[Entry]


class Comparison(NamedTuple):
    """Everything that a report shows. Entries with the same label on several datasets are the same method."""

    panels: list[Panel]  # one for each dataset
    differences: dict[str, list[str]]  # setting -> its value in each entry, panel by panel; "" where it has none. Only
    #   settings of which two entries have other values
    notes: list[str]  # what was left out or pooled, and why

    @property
    def entries(self) -> list[Entry]:
        """Of all panels, in the order of ``differences``."""
        return [entry for panel in self.panels for entry in panel.entries]


def read(folders: Sequence[Path]) -> Comparison:
    """The runs in ``folders``: each is a run directory, or a folder below which all runs are taken.

    Raises:
        InputError: for a folder that is missing or has no run below it, or for a run that cannot be read.

    Example:
        comparison = read([Path("runs/hopper"), Path("runs/sweep")])
    """
