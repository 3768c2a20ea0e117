"""Images as Minari keeps them: one compressed file (JPEG) per frame, for a Box of bytes that is large enough."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box

from rlkit.datasets.untrusted.fields import Budget
from rlkit.types import InputError, one_line

LEAST = 32  # pixels along both sides; smaller Boxes of bytes are stored as arrays (minari's is_image_space)


def is_image(space: Space) -> bool:
    """True if Minari compresses the rows of this space."""
    return (
        isinstance(space, Box)
        and len(space.shape) in (2, 3)
        and min(space.shape[:2]) >= LEAST
        and space.dtype == np.uint8
        and bool((space.low == 0).all() and (space.high == 255).all())
    )


def decode(where: str, frames: Iterable[bytes], count: int, shape: tuple[int, ...], budget: Budget) -> np.ndarray:
    """[count, *shape] uint8. The size is read off each frame's header and must be the space's before it is unpacked.

    Raises InputError, which begins with ``where``.
    """
    from PIL import Image

    budget.take(count * math.prod(shape))
    rows = np.empty((count, *shape), np.uint8)
    for i, frame in enumerate(frames):
        try:
            with Image.open(io.BytesIO(frame), formats=("JPEG", "PNG")) as image:
                if (image.height, image.width) != shape[:2]:
                    size = f"{image.height} x {image.width}"
                    raise InputError(f"{where}: image {i} is {size}, but the space has {shape[0]} x {shape[1]}")
                rows[i] = np.asarray(image)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{where}: image {i} cannot be read: {one_line(error)}") from error
    return rows
