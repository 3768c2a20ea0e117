"""The temporal U-Net of the diffusion planners: convolutions over the steps of a plan, at several lengths of a step.

Janner et al. 2022 (arXiv 2205.09991), appendix C, with the conditions of Ajay et al. 2023 (arXiv 2211.15657); sizes and
quirks are those of anuragajay/decision-diffuser, code/diffuser/models/temporal.py. Two of its quirks stay: the way up
has one level less than the way down, so that the first level's skip is not used, and there is no FiLM: what the network
is told is added.

Convolutions are dense layers on the joined neighbours of a step. A convolution whose parameters have an axis for the
seeds would become a grouped one, which is slow; these become batched products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from rlkit.networks.embeddings import sinusoidal
from rlkit.networks.mlp import Joined, fan_in_uniform
from rlkit.types import Array

GROUPS = 8  # of a GroupNorm, or as many as divide the width
KERNEL = 5
TIME_SCALE = 4  # hidden widths of the embeddings, in units of the embedding's


def mish(x: Array) -> Array:
    """x tanh(softplus(x)) (Misra 2019)."""
    return x * jnp.tanh(nn.softplus(x))


def shortest_plan(levels: int) -> int:
    """What a plan's length must be a multiple of, for a U-Net of that many levels."""
    return 2 ** (levels - 1)


class Dense(nn.Module):
    """A dense layer with PyTorch's initialisation, uniform by the fan-in."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = fan_in_uniform(x.shape[-1])
        return Joined(self.width, init, init)(x)


class Conv(nn.Module):
    """[B, T, C] -> [B, T / stride, width]; beyond the ends there are zeros."""

    width: int
    kernel: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return Dense(self.width)(_neighbours(x, self.kernel, self.stride))


def _neighbours(x: Array, kernel: int, stride: int) -> Array:
    """[B, T, C] -> [B, T / stride, kernel C]: each step with those around it."""
    length = x.shape[1]
    reach = kernel // 2
    padded = _padded(x, reach)
    shifted = []
    for start in range(kernel):
        end = start + length
        shifted.append(padded[:, start:end:stride])
    return jnp.concatenate(shifted, -1)


def _padded(x: Array, reach: int) -> Array:
    """[B, T, C] with ``reach`` steps of zeros at either end."""
    both_ends = (reach, reach)
    return jnp.pad(x, ((0, 0), both_ends, (0, 0)))


class Upsample(nn.Module):
    """[B, T, C] -> [B, 2 T, C]: the transposed convolution of kernel 4, stride 2 and padding 1.

    A new step sees the step that it lies in and the neighbour that it lies next to.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, length, width = x.shape
        fan_in = 4 * width  # as PyTorch counts it for a transposed convolution of as many channels
        init = fan_in_uniform(fan_in)
        kernel = self.param("kernel", init, (2, 2 * width, width), x.dtype)
        bias = self.param("bias", init, (width,), x.dtype)
        padded = _padded(x, 1)
        before = padded[:, :-2]
        after = padded[:, 2:]
        first = jnp.concatenate([before, x], -1) @ kernel[0]
        second = jnp.concatenate([x, after], -1) @ kernel[1]
        both = jnp.stack([first, second], 2)
        both = both + bias.reshape(1, 1, 1, width)
        return both.reshape(batch, 2 * length, width)


class ConvBlock(nn.Module):
    """Convolution, GroupNorm, Mish."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Conv(self.width, KERNEL)(x)
        x = nn.GroupNorm(math.gcd(GROUPS, self.width), epsilon=1e-5)(x)
        return mish(x)


class ResidualBlock(nn.Module):
    """Two convolution blocks beside a skip; what the network is told is added between them."""

    width: int

    @nn.compact
    def __call__(self, x: Array, told: Array) -> Array:
        """x [B, T, C], told [B, E] -> [B, T, width]."""
        added = Dense(self.width)(mish(told))
        h = ConvBlock(self.width)(x)
        h = h + added[:, None]
        h = ConvBlock(self.width)(h)
        if x.shape[-1] != self.width:
            x = Dense(self.width)(x)
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
            x = Upsample()(x)

        x = ConvBlock(self.width)(x)
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
