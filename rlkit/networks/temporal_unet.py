"""The temporal U-Net of the diffusion planners: convolutions over the steps of a plan, at several lengths of a step.

Janner et al. 2022 (arXiv 2205.09991), appendix C, with the conditions of Ajay et al. 2023 (arXiv 2211.15657); sizes and
quirks are those of anuragajay/decision-diffuser, code/diffuser/models/temporal.py. Two of its quirks stay: the way up
has one level less than the way down, so that the first level's skip is not used, and there is no FiLM: what the network
is told is added.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from rlkit.networks.conditioned import Dense
from rlkit.networks.embeddings import sinusoidal
from rlkit.networks.unet import Conv, ConvBlock, Doubled, mish
from rlkit.types import Array

KERNEL = 5
TIME_SCALE = 4  # hidden widths of the embeddings, in units of the embedding's


def shortest_plan(levels: int) -> int:
    """What a plan's length must be a multiple of, for a U-Net of that many levels."""
    return 2 ** (levels - 1)


class ResidualBlock(nn.Module):
    """Two convolution blocks beside a skip; what the network is told is added between them."""

    width: int

    @nn.compact
    def __call__(self, x: Array, told: Array) -> Array:
        """x [B, T, C], told [B, E] -> [B, T, width]."""
        added = Dense(self.width)(mish(told))
        h = ConvBlock(self.width, KERNEL)(x)
        h = h + added[:, None]
        h = ConvBlock(self.width, KERNEL)(h)
        if x.shape[-1] != self.width:
            x = Conv(self.width, 1)(x)
        return x + h


class TemporalUNet(nn.Module):
    """Noise in a plan, from the noised plan, its noise level and a condition.

    Args:
        width: of the first level, and of the embeddings. multipliers: width of each level, in units of it. Where there
        are L levels, a plan's length must be a multiple of 2^(L - 1).
    """

    width: int
    multipliers: Sequence[int]

    @nn.compact
    def __call__(self, x: Array, t: Array, condition: Array, given: Array) -> Array:
        """The network's answer.

        Args:
            x: [B, T, O], noised. t: [B], the noise level in steps, 1 to some hundred. condition: [B, C].
            given: [B] bool: where it is false, the condition's embedding is multiplied by zero.

        Returns:
            [B, T, O].
        """
        time = self._embed_time(t)
        wanted = self._embed_condition(condition, given)
        told = jnp.concatenate([time, wanted], -1)
        widths = [self.width * multiplier for multiplier in self.multipliers]
        outputs = x.shape[-1]

        # --- down: the last level keeps its length ---
        skips = []
        for level, width in enumerate(widths):
            if level > 0:
                x = Conv(x.shape[-1], 3, stride=2)(x)
            x = ResidualBlock(width)(x, told)
            x = ResidualBlock(width)(x, told)
            skips.append(x)

        # --- middle ---
        x = ResidualBlock(widths[-1])(x, told)
        x = ResidualBlock(widths[-1])(x, told)

        # --- up, to the first level's length, without its skip ---
        skips_up = skips[:0:-1]
        widths_up = widths[-2::-1]
        for skip, width in zip(skips_up, widths_up, strict=True):
            x = jnp.concatenate([x, skip], -1)
            x = ResidualBlock(width)(x, told)
            x = ResidualBlock(width)(x, told)
            x = Doubled()(x)

        x = ConvBlock(self.width, KERNEL)(x)
        return Dense(outputs)(x)

    def _embed_time(self, t: Array) -> Array:
        """[B] -> [B, width]"""
        h = sinusoidal(t, self.width)
        h = Dense(TIME_SCALE * self.width)(h)
        return Dense(self.width)(mish(h))

    def _embed_condition(self, condition: Array, given: Array) -> Array:
        """[B, C] -> [B, width]; null, which is zero with the biases included, where it is not ``given``."""
        h = Dense(self.width)(condition)
        h = Dense(TIME_SCALE * self.width)(mish(h))
        h = Dense(self.width)(mish(h))
        return jnp.where(given[:, None], h, 0.0)
