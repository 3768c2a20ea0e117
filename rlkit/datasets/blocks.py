"""Columns processed a block at a time, so that no second copy of the data is ever in memory."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator

import numpy as np

NUMBERS = 2**17  # in a block: 0.5 MiB of float32


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices that cover ``rows`` rows of ``width`` numbers, in order."""
    size = NUMBERS // max(width, 1)
    size = max(size, 1)
    for start in range(0, rows, size):
        stop = min(start + size, rows)
        yield slice(start, stop)


def forget(column: np.ndarray) -> None:
    """Give back the memory of what was read of a memory map; it is read again when it is touched. Else do nothing."""
    base = column
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(base, "madvise"):
        base.madvise(mmap.MADV_DONTNEED)


def through(function: Callable[[np.ndarray], np.ndarray], column: np.ndarray) -> np.ndarray:
    """``function(column)``, for a function that treats every row by itself."""
    result = None
    width = math.prod(column.shape[1:])
    for part in blocks(len(column), width):
        block = np.asarray(column[part])
        values = function(block)
        if result is None:
            shape = (len(column), *values.shape[1:])
            result = np.empty(shape, values.dtype)
        result[part] = values
        forget(column)
    if result is None:  # no row, so no block
        return function(column)
    return result


def moments(column: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [W] in float64 of the rows of ``column`` [N, W] where ``mask`` [N] is true.

    Two passes, of which the second sums the squared distances to the mean: exact where the mean is large.
    """
    count = int(mask.sum())
    total = _sum(column, mask, 0.0, 1)
    mean = total / count
    squares = _sum(column, mask, mean, 2)
    std = np.sqrt(squares / count)
    return mean, std


def extremes(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest value [W] in float64 of each of the W numbers in the rows of ``column`` [N, W]."""
    rows, width = column.shape
    least = np.full(width, np.inf)
    largest = np.full(width, -np.inf)
    for part in blocks(rows, width):
        least = np.minimum(least, column[part].min(0))
        largest = np.maximum(largest, column[part].max(0))
        forget(column)
    return least, largest


def _sum(column: np.ndarray, mask: np.ndarray, centre: np.ndarray | float, power: int) -> np.ndarray:
    """The sum [W] over the rows of (column - centre) ** power."""
    rows, width = column.shape
    total = np.zeros(width)
    for part in blocks(rows, width):
        selected = column[part][mask[part]]
        distance = selected.astype(np.float64) - centre
        powers = distance**power
        total += powers.sum(0)
        forget(column)
    return total
