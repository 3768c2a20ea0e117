"""Two ways at one step, and only chance tells which one was taken: what a policy does that draws chunks of actions."""

from __future__ import annotations

import jax.numpy as jnp

from agents import bc, diffusion_policy

from .fork import SPEC, first_actions, fork
from .toy import Toy, Variant, prepare, train

UPDATES = 600
NEAR = 0.25  # from the middle of a way, whose actions have a standard deviation of 0.05


def both_ways(config, seed: int) -> float:
    """Twice the share of the rarer way among the first actions at the fork. An action between the ways is on none."""
    trained = train(config, prepare(fork(1.0), SPEC, config), UPDATES, seed)
    actions = first_actions(trained)
    shares = [(jnp.abs(actions - way) < NEAR).mean() for way in (0.5, -0.5)]
    return float(2 * min(shares))


DRAWN = diffusion_policy.Config(
    obs_steps=2, horizon=4, action_steps=2, levels=50, sampler="ddim", steps=10, channels=(16, 32), time_width=16,
    batch_size=64, learning_rate=3e-3, warmup=50, decay=True,
)  # fmt: skip
CLONE = bc.Config(widths=(32, 32), batch_size=64, learning_rate=3e-3)

BOTH = Toy(
    "fork, both ways",
    "Twice the share of the rarer way among the first actions, where the data go right or left by chance. A regression "
    "goes between them.",
    both_ways,
    (
        Variant("ddim, 10 steps", "diffusion-policy", DRAWN, at_least=0.5),
        Variant("clone", "bc", CLONE, at_most=0.1),
    ),
)

TOYS = (BOTH,)
