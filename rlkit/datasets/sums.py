"""A short digest of each episode, by which it is known again in another file, in another order and under another name.

A run directory has those of the episodes that its training saw, so that `rlkit judge` can count them in the data that
it is given.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np

from rlkit.datasets import blocks
from rlkit.datasets.episodes import Episodes
from rlkit.types import InputError

FILE = "episodes.sums"
_KIND = np.dtype("<u8")


def of(episodes: Episodes) -> np.ndarray:
    """[E] uint64: of each episode a digest of its observations, actions and rewards, hidden ones too.

    Two episodes have the same one where all those numbers are the same.
    """
    reward = np.asarray(episodes.reward)
    if episodes.hidden is not None:
        reward = np.where(np.isnan(episodes.hidden), reward, episodes.hidden)
    stops = np.append(episodes.starts[1:], len(episodes.t))
    found = np.empty(len(stops), _KIND)
    read = 0  # numbers since the memory of maps was given back
    for number, (start, stop) in enumerate(zip(episodes.starts, stops, strict=True)):
        digest = hashlib.blake2b(digest_size=_KIND.itemsize)
        for column in (episodes.obs, episodes.action, reward):
            width = math.prod(column.shape[1:])
            for part in blocks.blocks(stop - start, width):
                rows = column[start + part.start : start + part.stop]
                digest.update(np.asarray(rows, np.float32) + np.float32(0))  # -0 becomes 0, which it equals
                read += rows.size
            if read > blocks.NUMBERS:
                blocks.forget(episodes.obs)
                blocks.forget(episodes.action)
                read = 0
        found[number] = np.frombuffer(digest.digest(), _KIND)[0]
    return found


def to_bytes(sums: np.ndarray) -> bytes:
    """What FILE holds: 8 bytes an episode, and 8 more that show whether it is as it was written."""
    body = np.asarray(sums, _KIND).tobytes()
    return body + _check(body)


def read(folder: Path) -> np.ndarray | None:
    """The digests that the run in ``folder`` has; None where an earlier version, which wrote none, trained it.

    Raises InputError where they are damaged.
    """
    path = folder / FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    size = _KIND.itemsize
    body, check = content[:-size], content[-size:]
    if len(body) % size or check != _check(body):
        raise InputError(
            f"{path} is damaged: restore it from a copy, or remove it; then it is not known which episodes training saw"
        )
    return np.frombuffer(body, _KIND)


def _check(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_KIND.itemsize).digest()
