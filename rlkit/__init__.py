"""rlkit: offline reinforcement learning in JAX. ``rlkit.load(run).act(obs)`` is a trained policy."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """`load` on first use, so that a command line can be answered before jax is imported."""
    if name == "load":
        from rlkit.runs.policy import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
