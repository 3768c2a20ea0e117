"""Compiled programs are kept between processes, so that the second run of a program starts at once."""

from __future__ import annotations

import os
from pathlib import Path

import jax


def keep_compiled() -> None:
    """Keep them under $RLKIT_CACHE_DIR or ~/.cache/rlkit, unless the user has set a folder of jax's own."""
    if jax.config.jax_compilation_cache_dir is not None:
        return
    root = os.environ.get("RLKIT_CACHE_DIR")
    if not root:
        root = Path.home() / ".cache" / "rlkit"
    folder = Path(root).expanduser() / "xla"
    jax.config.update("jax_compilation_cache_dir", str(folder))
