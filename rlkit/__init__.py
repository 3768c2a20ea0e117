"""rlkit: offline reinforcement learning in JAX. ``rlkit.train("iql", data)`` trains, ``rlkit.load(run).act(obs)`` is a
trained policy; ``rlkit.check(data)`` and ``rlkit.judge(run)`` say what data and a policy are worth."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlkit import datasets
    from rlkit.commands.script import check, judge, train
    from rlkit.runs.policy import load

__version__ = "0.1.0"
__all__ = ["__version__", "check", "datasets", "judge", "load", "train"]


def __getattr__(name: str) -> Any:
    """Import what is named at its first use, so that a command line can be answered before jax is imported."""
    if name == "load":
        from rlkit.runs.policy import load

        return load
    if name in ("check", "judge", "train"):
        return getattr(importlib.import_module("rlkit.commands.script"), name)
    if name == "datasets":
        return importlib.import_module("rlkit.datasets")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What a user is meant to see; completion shows it too."""
    return sorted(__all__)
