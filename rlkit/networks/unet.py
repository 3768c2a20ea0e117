"""A U-Net over the steps of a sequence, which is told the noise level and a condition."""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp

from rlkit.networks.conditioned import Dense
from rlkit.networks.embeddings import sinusoidal
from rlkit.networks.mlp import fan_in_uniform
from rlkit.networks.transformer import Flat
from rlkit.types import Array

GROUPS = 8  # of a GroupNorm, or as many of them as divide the channels


def mish(x: Array) -> Array:
    """x tanh(ln(1 + e^x)) (Misra 2019)."""
    return x * jnp.tanh(nn.softplus(x))


class Conv(nn.Module):
    """A convolution over T of [B, T, C], padded with zeros, initialised as PyTorch's are. ``stride`` 2 halves T.

    It is a matrix product of each place's neighbours: on a CPU the U-Net's gradient takes less than half the time of
    XLA's convolutions, and seeds that are vmapped stay matrix products, while convolutions become grouped ones.
    """

    channels: int
    kernel: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        length = x.shape[1]
        around = _padded(x, self.kernel // 2)
        neighbours = []
        for first in range(self.kernel):
            last = first + length
            neighbours.append(around[:, first : last : self.stride])
        joined = jnp.concatenate(neighbours, -1)
        init = fan_in_uniform(joined.shape[-1])
        return Flat(self.channels, init, init)(joined)


class Doubled(nn.Module):
    """[B, T, C] -> [B, 2 T, C]: a transposed convolution of kernel 4 and stride 2, as two matrix products, one for the
    even places, which lie before those of x, and one for the odd ones behind them."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, length, channels = x.shape
        around = _padded(x, 1)
        init = fan_in_uniform(4 * channels)
        bias = self.param("bias", init, (channels,), x.dtype)
        before = around[:, :length]
        behind = around[:, 2:]
        halves = []
        for pair in ([before, x], [x, behind]):
            without_bias = nn.Dense(channels, use_bias=False, kernel_init=init)
            joined = jnp.concatenate(pair, -1)
            halves.append(without_bias(joined))
        doubled = jnp.stack(halves, 2)
        doubled = doubled.reshape(batch, 2 * length, channels)
        return doubled + bias[None, None]


def _padded(x: Array, places: int) -> Array:
    """[B, T, C] with zeros at both ends."""
    return jnp.pad(x, ((0, 0), (places, places), (0, 0)))


class ConvBlock(nn.Module):
    """Convolution, GroupNorm, Mish."""

    channels: int
    kernel: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Conv(self.channels, self.kernel)(x)
        groups = math.gcd(GROUPS, self.channels)
        # the plain variance: that of the squares' mean loses digits, and a sampler feeds them back many times
        norm = nn.GroupNorm(groups, epsilon=1e-5, use_fast_variance=False)
        return mish(norm(x))


class ResidualBlock(nn.Module):
    """Two ConvBlocks, the first one's output scaled and shifted by the condition (FiLM), beside a residual path."""

    channels: int
    kernel: int

    @nn.compact
    def __call__(self, x: Array, condition: Array) -> Array:
        """x [B, T, C], condition [B, D] -> [B, T, channels]."""
        scale_and_bias = Dense(2 * self.channels)(mish(condition))
        scale, bias = jnp.split(scale_and_bias[:, None], 2, -1)
        y = ConvBlock(self.channels, self.kernel)(x)
        y = scale * y + bias
        y = ConvBlock(self.channels, self.kernel)(y)
        if x.shape[-1] != self.channels:
            x = Conv(self.channels, 1)(x)
        return x + y


class UNet1D(nn.Module):
    """The 1-D conditional U-Net of Diffusion Policy (Chi et al. 2023, arXiv 2303.04137, section 3.1), after Janner et
    al. 2022: two residual blocks at each resolution on the way down, in the middle, and on the way up.

    channels: at each resolution, the finest first; T is halved between two of them. A T that cannot be halved as often
    is made up on the way down and cut again on the way up. time_width: of the noise level's features. kernel: an odd
    number of steps.
    """

    outputs: int
    channels: tuple[int, ...]
    time_width: int
    kernel: int = 5

    @nn.compact
    def __call__(self, x: Array, t: Array, condition: Array) -> Array:
        """x [B, T, A], t [B] number of the noise level, condition [B, D] -> [B, T, outputs]."""
        length = x.shape[1]
        time = sinusoidal(t, self.time_width)
        time = Dense(4 * self.time_width)(time)
        time = Dense(self.time_width)(mish(time))
        condition = jnp.concatenate([time, condition], -1)

        # --- down ---
        passed = []
        for number, channels in enumerate(self.channels):
            x = ResidualBlock(channels, self.kernel)(x, condition)
            x = ResidualBlock(channels, self.kernel)(x, condition)
            passed.append(x)
            if number < len(self.channels) - 1:
                x = Conv(channels, 3, stride=2)(x)

        # --- middle ---
        for _ in range(2):
            x = ResidualBlock(self.channels[-1], self.kernel)(x, condition)

        # --- up: the finest resolution's own features are not passed over, as in the official code ---
        for channels, beside in zip(self.channels[-2::-1], passed[:0:-1], strict=True):
            x = jnp.concatenate([x[:, : beside.shape[1]], beside], -1)
            x = ResidualBlock(channels, self.kernel)(x, condition)
            x = ResidualBlock(channels, self.kernel)(x, condition)
            x = Doubled()(x)

        x = ConvBlock(self.channels[0], self.kernel)(x[:, :length])
        return Conv(self.outputs, 1)(x)
