"""rlkit: offline reinforcement learning in JAX. ``rlkit.train("iql", data)`` trains, ``rlkit.load(run).act(obs)`` is a
trained policy."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlkit import datasets
    from rlkit.commands.script import train
    from rlkit.runs.policy import load

__version__ = "0.1.0"
__all__ = ["__version__", "datasets", "load", "train"]


def __getattr__(name: str) -> Any:
    """Import what is named at its first use, so that a command line can be answered before jax is imported."""
    if name == "load":
        from rlkit.runs.policy import load

        return load
    if name == "train":
        from rlkit.commands.script import train

        return train
    if name == "datasets":
        return importlib.import_module("rlkit.datasets")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What a user is meant to see; completion shows it too."""
    return sorted(__all__)
