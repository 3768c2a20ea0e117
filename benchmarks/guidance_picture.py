"""What guidance does to samples of a class that has two modes, with exact denoisers: a table and a picture.

    python -m benchmarks.guidance_picture --out docs/guidance.png

Class A has two modes at x = 0.3 and 1.5, class B the mirrored ones, all with variance 0.04 and equally likely. The
table has the mean of x, the shares of samples beyond 0.9 (A's far mode) and below 0 (class B), and the standard
deviations. Sampled with Heun's method on EDM's grid of 64 levels. Takes 20 seconds on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rlkit.diffusion.guidance import cads, guided, icg, interval, tcfg
from rlkit.diffusion.noise import Karras, spread
from rlkit.diffusion.prediction import Denoise
from rlkit.diffusion.samplers import Redrawn, heun, sample
from rlkit.types import Array, Key

NOISE = Karras()
MODES = np.array([[0.3, 0.0], [1.5, 0.0], [-0.3, 0.0], [-1.5, 0.0]])
VARIANCE = 0.04
CLASS_A = np.array([0.5, 0.5, 0.0, 0.0])  # shares of the modes
CLASS_B = CLASS_A[[2, 3, 0, 1]]
BOTH = (CLASS_A + CLASS_B) / 2
STEPS = 64


def mixture(x: Array, t: Array, shares: Array, variance: float = VARIANCE) -> Array:
    """The exact denoiser [B, 2] of the modes in the shares [B, 4], for x [B, 2] at t [B]."""
    alpha, sigma = (spread(value, x) for value in NOISE.at(t))
    modes = jnp.asarray(MODES, jnp.float32)[None]
    total = alpha**2 * variance + sigma**2
    from_modes = x[:, None] - alpha[:, None] * modes
    squared = (from_modes**2).sum(2)
    belief = jax.nn.softmax(jnp.log(jnp.maximum(shares, 1e-30)) - squared / (2 * total), 1)
    around = modes + (alpha * variance / total)[:, None] * from_modes
    return (belief[:, :, None] * around).sum(1)


def rows(shares: Array, count: int) -> Array:
    """``shares`` [4] for each of ``count`` samples."""
    return jnp.broadcast_to(jnp.asarray(shares, jnp.float32), (count, 4))


def of(shares: Array, variance: float = VARIANCE) -> Denoise:
    """The denoiser of the modes in the shares [4]."""
    return lambda x, t: mixture(x, t, rows(shares, len(x)), variance)


def random_class(scale: float, count: int) -> Redrawn:
    """Guidance away from a class drawn at random for each sample and each step."""

    def draw(key: Key) -> Array:
        heads = jax.random.bernoulli(key, shape=(count, 1))
        return jnp.where(heads, rows(CLASS_A, count), rows(CLASS_B, count))

    return icg(mixture, rows(CLASS_A, count), draw, scale)


def annealed(scale: float) -> Redrawn:
    """Classifier-free guidance with CADS: the class as the number 1, -1 for class B, which is noisy at early times."""

    def draw(key: Key) -> Denoise:
        def strong(x: Array, t: Array) -> Array:
            label = cads(key, jnp.ones((len(x), 1)), t, low=0.3, high=0.9, noise=1.0, psi=0.0)
            of_a = (1 + jnp.clip(label, -1, 1)) / 2
            shares = of_a * rows(CLASS_A, len(x)) + (1 - of_a) * rows(CLASS_B, len(x))
            return mixture(x, t, shares)

        return guided(strong, of(BOTH), scale)

    return Redrawn(draw)


def runs(count: int) -> dict[str, Denoise | Redrawn]:
    """Every row of the table by its label."""
    a, both = of(CLASS_A), of(BOTH)
    mid = interval(3.0, float(NOISE.time(0.1)), float(NOISE.time(2.0)))
    found = {"no condition (s = 0)": both, "class A (s = 1)": a}
    found |= {f"CFG s = {scale}": guided(a, both, scale) for scale in (1.5, 2.0, 3.0, 5.0)}
    found["CFG s = 3, 0.1 < sigma < 2"] = guided(a, both, mid)
    found["TCFG s = 3"] = tcfg(a, both, 3.0, NOISE)
    found["ICG s = 2"] = random_class(2.0, count)
    found["CADS, CFG s = 3"] = annealed(3.0)
    main, bad = of(CLASS_A, 0.08), of(CLASS_A, 0.16)
    found |= {f"autoguidance s = {scale}": guided(main, bad, scale) for scale in (1.0, 1.5, 2.0, 3.0)}
    return found


def even_noise(count: int) -> Array:
    """Noise [count, 2] whose values are the normal distribution's quantiles on each axis, in random pairs.

    Its shares and moments are exact, where those of random noise would need many more samples."""
    values = jax.scipy.special.ndtri((jnp.arange(count) + 0.5) / count)
    return jnp.stack([values, jax.random.permutation(jax.random.key(1), values)], 1)


def sampled(denoise: Denoise | Redrawn, x: Array) -> np.ndarray:
    """Samples [B, 2] from the noise ``x`` [B, 2]."""
    return np.asarray(sample(heun(), denoise, NOISE, x, STEPS, jax.random.key(0)))


def row(points: np.ndarray) -> tuple[float, ...]:
    """The table's numbers: mean x, shares of x > 0.9 and x < 0, std of x and of y."""
    x, y = points.T
    return x.mean(), (x > 0.9).mean(), (x < 0).mean(), x.std(), y.std()


PANELS = (
    "no condition (s = 0)", "class A (s = 1)", "CFG s = 1.5", "CFG s = 3.0",
    "CFG s = 3, 0.1 < sigma < 2", "ICG s = 2", "CADS, CFG s = 3", "autoguidance s = 2.0",
)  # fmt: skip


def draw(points: dict[str, np.ndarray], path: str) -> None:
    """Write the picture: eight panels over the data's modes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 4, figsize=(11, 3.2), sharex=True, sharey=True, layout="constrained")
    for label, ax in zip(PANELS, axes.flat, strict=True):
        for mode in MODES:
            ax.add_patch(pyplot.Circle(mode, 2 * VARIANCE**0.5, fill=False, color="0.6", lw=0.8))
        shown = points[label][:: len(points[label]) // 800]
        ax.scatter(*shown.T, s=2, color="tab:blue", alpha=0.5, linewidths=0)
        ax.set_title(label, fontsize=9)
        ax.set_xlim(-2.6, 3.6)
        ax.set_ylim(-1.4, 1.4)
        ax.set_aspect("equal")
    figure.savefig(path, dpi=80)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="docs/guidance.png", help="the picture's file")
    parser.add_argument("--count", type=int, default=20_000, help="samples for each row")
    options = parser.parse_args(argv)
    points = {}
    noise = even_noise(options.count)
    print("| run | mean x | x > 0.9 | x < 0 | std x | std y |\n|---|---|---|---|---|---|")
    for label, denoise in runs(options.count).items():
        points[label] = sampled(denoise, noise)
        numbers = " | ".join(f"{value:.3f}" for value in row(points[label]))
        print(f"| {label} | {numbers} |", flush=True)
    draw(points, options.out)


if __name__ == "__main__":
    main()
