"""Recording: the arrays that a reader takes from a source, before any check of their values.

rows.py checks them and lays them out as Episodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import gymnasium
import numpy as np

from rlkit.datasets.episodes import Names


@dataclass
class Recording:
    """E episodes of N steps in all, end to end, in the source's own values and dtypes.

    A source guarantees that the shapes agree with each other (it raises InputError itself where they do not, since
    only it knows the file's field names); values, end flags, bounds and widths are checked afterwards, for every source
    alike. A space left None is told by the user or derived from the data (action_space.py).
    """

    name: str
    observations: np.ndarray  # [N, ...] the observation that each step acted on
    actions: np.ndarray  # [N, ...]
    rewards: np.ndarray  # [N]
    terminations: np.ndarray  # [N] bool
    truncations: np.ndarray  # [N] bool
    lengths: np.ndarray  # [E] steps per episode, all positive
    finals: np.ndarray  # [E, ...] final observations; ignored where has_final is False
    has_final: np.ndarray  # [E] bool
    observation_space: gymnasium.Space | None = None
    action_space: gymnasium.Space | None = None
    choices: bool | None = None  # what the source says of its actions: True choices, False amounts; None: nothing
    ambiguous: str = ""  # why the actions can be read as either, so that the user has to say which they are
    env_spec: str | None = None
    reference: tuple[float, float] | None = None
    infos: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    labelled: np.ndarray | None = None  # [N] the reward is known; None: all are. Where it is not, it may be NaN
    names: Names = Names()
