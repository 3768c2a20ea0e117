"""From noise to data: steps of several solvers, and the loop over them.

All steps go through a denoiser's estimate x0 of the data; the noise that it implies is eps = (x - alpha x0) / sigma.
Where x0 is clipped, eps is thereby that of the clipped one. Within a step the order is: guidance (inside the denoiser),
clip, step, correct, overwrite what is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from rlkit.diffusion.noise import Noise
from rlkit.diffusion.prediction import Denoise
from rlkit.types import Array, InputError, Key

Temperature = Literal["std", "variance", "initial"]
TEMPERATURES = ("std", "variance", "initial")


@dataclass(frozen=True)
class Redrawn:
    """A denoiser with random numbers of its own, drawn once a step: both calls of a Heun step see the same."""

    draw: Callable[[Key], Denoise]
    """From a key to the denoiser of one step."""


class Level(NamedTuple):
    """A time and its noise, scalars."""

    t: Array
    alpha: Array
    sigma: Array

    @property
    def log_snr(self) -> Array:
        """ln(alpha / sigma)."""
        return jnp.log(self.alpha) - jnp.log(self.sigma)


class Span(NamedTuple):
    """What a step is told of where it goes."""

    before: Level
    """Where the last step began; where this one begins, if it is the first."""
    here: Level
    there: Level
    last: Array
    """Whether this is the last step."""


Step = Callable[[Denoise, Array, Span, Array, Array], tuple[Array, Array]]
"""(denoise, x, span, z, previous x0) -> (x at span.there, x0): z is noise like x, for steps that need some."""
Correct = Callable[[Array, Array, Array, Array], Array]
"""(x after the step, x before it, x0, t [B]) -> x after the step."""


def _at(t: Array, x: Array) -> Array:
    return jnp.full(x.shape[:1], t)


def _noise_in(x: Array, x0: Array, level: Level) -> Array:
    """The noise eps in ``x`` if ``x0`` are the data."""
    return (x - level.alpha * x0) / level.sigma


def _line(x: Array, x0: Array, span: Span) -> Array:
    """Where x arrives if x0 and eps stay what they are: Euler's step, and DDIM's without noise."""
    eps = _noise_in(x, x0, span.here)
    return span.there.alpha * x0 + span.there.sigma * eps


def _replaced(span: Span) -> Array:
    """The variance that noise gains from span.there to span.here: beta, where alpha^2 + sigma^2 = 1."""
    ratio = span.here.alpha / span.there.alpha
    carried = ratio * span.there.sigma
    return jnp.maximum(span.here.sigma**2 - carried**2, 0.0)  # rounding may go below


def ddpm(variance: Literal["posterior", "beta"] = "posterior") -> Step:
    """Ancestral sampling (Ho et al. 2020, eq. 7), between any two noise levels (Kingma et al. 2021, appendix A).

    The variance of the noise is that of the posterior, or "beta", which is larger and what IDQL has. There is none in a
    step that arrives at the data. IDQL clips x after every step besides: a ``correct`` of `sample` does.
    """

    def step(denoise, x, span, z, previous):
        here, there = span.here, span.there
        x0 = denoise(x, _at(here.t, x))
        beta = _replaced(span)
        kept = (there.sigma / here.sigma) ** 2
        by_x = kept * here.alpha / there.alpha
        by_data = there.alpha * beta / here.sigma**2
        fresh = beta * kept
        if variance == "beta":
            fresh = jnp.where(there.sigma > 0, beta, 0.0)
        mean = by_x * x + by_data * x0
        return mean + jnp.sqrt(fresh) * z, x0

    return step


def ddim(eta: float = 0.0) -> Step:
    """DDIM (Song et al. 2021, eq. 12 and 16): eta 0 is deterministic, eta 1 is `ddpm`."""

    def step(denoise, x, span, z, previous):
        here, there = span.here, span.there
        x0 = denoise(x, _at(here.t, x))
        eps = _noise_in(x, x0, here)
        kept = (there.sigma / here.sigma) ** 2
        fresh = eta**2 * kept * _replaced(span)
        old = jnp.maximum(there.sigma**2 - fresh, 0.0)
        moved = there.alpha * x0 + jnp.sqrt(old) * eps
        return moved + jnp.sqrt(fresh) * z, x0

    return step


def euler() -> Step:
    """Euler's step of the probability flow: in t for straight lines, in sigma for EDM, and DDIM's elsewhere."""

    def step(denoise, x, span, z, previous):
        x0 = denoise(x, _at(span.here.t, x))
        return _line(x, x0, span), x0

    return step


def heun() -> Step:
    """Heun's step, of second order with two calls (Karras et al. 2022, algorithm 1); Euler's where it ends at the data.

    dx = x0 dalpha + eps dsigma, with the mean of x0 and of eps at both ends: EDM's step for alpha = 1, and Heun's in t
    for straight lines.
    """

    def step(denoise, x, span, z, previous):
        here, there = span.here, span.there
        x0 = denoise(x, _at(here.t, x))
        eps = _noise_in(x, x0, here)
        guess = _line(x, x0, span)
        # --- the slope at the other end; at the data there is none, and a harmless level stands in ---
        at_data = there.sigma == 0
        level = jax.tree.map(lambda stand_in, value: jnp.where(at_data, stand_in, value), here, there)
        x0_there = denoise(guess, _at(level.t, x))
        eps_there = _noise_in(guess, x0_there, level)
        # --- the mean of both slopes ---
        mean_x0 = (x0 + x0_there) / 2
        mean_eps = (eps + eps_there) / 2
        by_data = (there.alpha - here.alpha) * mean_x0
        by_noise = (there.sigma - here.sigma) * mean_eps
        return jnp.where(at_data, guess, x + by_data + by_noise), x0

    return step


def dpm2m(first_order_last: bool = True) -> Step:
    """DPM-Solver++(2M) (Lu et al. 2022, "DPM-Solver++", algorithm 2): second order with one call a step.

    The first step is of first order, and so is the last one with ``first_order_last``, or where it ends at the data.
    """

    def step(denoise, x, span, z, previous):
        x0 = denoise(x, _at(span.here.t, x))
        h = span.there.log_snr - span.here.log_snr
        h_before = span.here.log_snr - span.before.log_snr
        first = h_before == 0
        last = span.last & first_order_last
        first_order = first | last | ~jnp.isfinite(h)
        share = jnp.where(first_order, 0.0, h / (2 * h_before))
        extrapolated = x0 + share * (x0 - previous)
        return _line(x, extrapolated, span), x0

    return step


def integrate(
    step: Step,
    denoise: Denoise | Redrawn,
    noise: Noise,
    x: Array,
    times: Array,
    key: Key,
    clip: float | None = None,
    known: tuple[Array, Array] | None = None,
    correct: Correct | None = None,
    temperature: Array | float = 1.0,
) -> Array:
    """From ``x`` [B, ...] at ``times[0]`` to ``times[-1]``, one step between any two neighbours: one `lax.scan`.

    Where sampling does not begin with pure noise, as in a warm start from a noised plan, this is what to call.

    Args:
        clip: x0 is kept in [-clip, clip].
        known: (mask, values) that broadcast to x: where the mask is true x is the value, before and after each step.
        correct: applied after each step.
        temperature: factor of the standard deviation of the noise of each step.
    """
    mask, values = known or (None, None)

    def overwritten(x: Array) -> Array:
        return x if mask is None else jnp.where(mask, values, x)

    def one(carry: tuple[Array, Array], at: tuple[Span, Key]) -> tuple[tuple[Array, Array], None]:
        x, previous = carry
        span, key = at
        draw_key, noise_key = jax.random.split(key)
        drawn = denoise.draw(draw_key) if isinstance(denoise, Redrawn) else denoise

        def estimate(x: Array, t: Array) -> Array:
            x0 = drawn(overwritten(x), t)
            return x0 if clip is None else jnp.clip(x0, -clip, clip)

        z = temperature * jax.random.normal(noise_key, x.shape, x.dtype)
        moved, x0 = step(estimate, x, span, z, previous)
        if correct is not None:
            moved = correct(moved, x, x0, _at(span.here.t, x))
        return (overwritten(moved), x0), None

    steps = len(times) - 1
    spans = _spans(noise, times)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(steps))
    (x, _), _ = jax.lax.scan(one, (overwritten(x), jnp.zeros_like(x)), (spans, keys))
    return x


def _spans(noise: Noise, times: Array) -> Span:
    levels = Level(times, *noise.at(times))
    here = jax.tree.map(lambda v: v[:-1], levels)
    there = jax.tree.map(lambda v: v[1:], levels)
    before = jax.tree.map(lambda v: jnp.concatenate([v[:1], v[:-1]]), here)
    steps = len(times) - 1
    return Span(before, here, there, jnp.arange(steps) == steps - 1)


def sample(
    step: Step,
    denoise: Denoise | Redrawn,
    noise: Noise,
    x: Array,
    n: int,
    key: Key,
    clip: float | None = None,
    known: tuple[Array, Array] | None = None,
    correct: Correct | None = None,
    temperature: Array | float = 1.0,
    temperature_of: Temperature = "std",
) -> Array:
    """Data [B, ...] from ``x`` [B, ...], noise of standard deviation 1, in ``n`` steps. See `integrate`.

    Args:
        temperature_of: what the temperature multiplies: "std" or "variance" of all noise, that which sampling begins
            with included; or the standard deviation of the "initial" noise alone.

    Example:
        >>> noise = LinearVP()
        >>> net = lambda x, t: model.apply(params, x, t)
        >>> eps = jax.random.normal(key, (32, 3))
        >>> actions = sample(ddim(), denoiser("noise", noise, net), noise, eps, 10, key, clip=1.0)
    """
    if temperature_of not in TEMPERATURES:
        raise InputError(f"temperature_of is {temperature_of!r}: choose one of {', '.join(TEMPERATURES)}")
    factor = jnp.sqrt(temperature) if temperature_of == "variance" else temperature
    later = 1.0 if temperature_of == "initial" else factor
    start = noise.prior_std * factor * x
    return integrate(step, denoise, noise, start, noise.grid(n), key, clip, known, correct, later)
