"""What is exported, and what one format adds to the folder of an exported policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlkit.export.sample import Sample
from rlkit.runs.policy import Policy


class Subject(NamedTuple):
    """What is exported.

    policy: of a loaded run. contract: what rlkit.export.contract.describe says of it. sample: observations on which it
    is tried.
    """

    policy: Policy
    contract: Mapping[str, Any]
    sample: Sample


class Part(NamedTuple):
    """The share of one format.

    files: name -> bytes of further files. tensors: for the file of weights. said: fields of the contract. check: tries
    what is in a folder in a process of its own, and returns its largest difference from the run's own policy, as a
    share of half the range of an action; raises RunError if that is too large.
    """

    files: dict[str, bytes]
    tensors: dict[str, np.ndarray]
    said: dict[str, Any]
    check: Callable[[Path], float]
