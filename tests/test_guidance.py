"""Guidance with exact denoisers: closed forms on Gaussians, and a mixture of two classes with two modes each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import guidance_picture as toy
from rlkit.diffusion.guidance import (
    beyond,
    cads,
    classifier_free,
    composed,
    energy,
    guided,
    icg,
    interval,
    tangential,
    tcfg,
    tsg,
)
from rlkit.diffusion.noise import Discrete, Karras, Straight, spread
from rlkit.diffusion.samplers import Redrawn, Span, ddim, heun, sample

KEY = jax.random.key(0)
EDM = Karras()
PAIR = jnp.array([[1.0], [-1.0]])  # noise whose mean is 0 and whose standard deviation is 1, exactly


def gaussian(mean, variance, noise=EDM):
    """The exact denoiser of N(mean, variance)."""

    def denoise(x, t):
        alpha, sigma = (spread(value, x) for value in noise.at(t))
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        return mean + gain * (x - alpha * mean)

    return denoise


def moments(denoise, n, x=PAIR):
    out = sample(heun(), denoise, EDM, x, n, KEY)
    return float(out.mean()), float(out.std())


# --- the scale ---


X = jax.random.normal(jax.random.key(1), (64, 2))
T = jnp.linspace(0.2, 1, 64)
A, BOTH = toy.of(toy.CLASS_A), toy.of(toy.BOTH)
LABEL_A, LABEL_B, LABEL_BOTH = (toy.rows(shares, 64) for shares in (toy.CLASS_A, toy.CLASS_B, toy.BOTH))


def noisy_time(x, t, shift):
    """The exact denoiser of class A, whose time embedding, ln sigma, is moved by ``shift`` [B, 1]."""
    sigma = EDM.at(t)[1] * jnp.exp(shift[:, 0])
    return A(x, EDM.time(sigma))


OFF = {
    "guided": guided(A, BOTH, 1.0),
    "classifier_free": classifier_free(toy.mixture, LABEL_A, LABEL_BOTH, 1.0),
    "interval": guided(A, BOTH, interval(7.0, 2.0, 3.0)),
    "tcfg": tcfg(A, BOTH, 1.0, EDM),
    "icg": icg(toy.mixture, LABEL_A, lambda key: LABEL_B, 1.0).draw(KEY),
    "tsg": tsg(noisy_time, 1, 1.0).draw(KEY),
    "tsg without noise": tsg(noisy_time, 1, 3.0, noise=0.0).draw(KEY),
    "tsg outside": tsg(noisy_time, 1, 3.0, low=1.5, high=2.0).draw(KEY),
    "a weak one as good": guided(A, A, 3.0),
    "cads before it begins": lambda x, t: toy.mixture(x, t, cads(KEY, LABEL_A, 0 * t)),
    "guided twice": guided(guided(A, BOTH, 1.0), toy.of(toy.CLASS_B), 1.0),
}


@pytest.mark.parametrize("name", OFF)
def test_switched_off_it_is_the_strong_denoiser_bit_for_bit(name):
    strong = noisy_time(X, T, jnp.zeros((64, 1))) if name.startswith("tsg") else A(X, T)
    np.testing.assert_array_equal(OFF[name](X, T), strong)


def test_at_scale_zero_it_is_the_weak_denoiser():
    weak = BOTH(X, T)
    for denoise in (
        guided(A, BOTH, 0.0),
        classifier_free(toy.mixture, LABEL_A, LABEL_BOTH, 0.0),
        composed(BOTH, [A], [0.0]),
    ):
        np.testing.assert_allclose(denoise(X, T), weak, atol=1e-6)


def test_the_scale_may_be_one_for_each_sample_or_a_function_of_the_time():
    strong, weak = jnp.array([[2.0], [2.0]]), jnp.array([[1.0], [1.0]])
    t = jnp.array([0.25, 0.75])
    np.testing.assert_array_equal(beyond(strong, weak, 3.0, t), [[4], [4]])
    np.testing.assert_array_equal(beyond(strong, weak, jnp.array([0.0, 3.0]), t), [[1], [4]])
    np.testing.assert_array_equal(beyond(strong, weak, interval(3.0, 0.5, 0.75), t), [[2], [4]])


def test_one_call_of_both_conditions_equals_two_calls():
    shapes = []

    def counted(x, t, shares):
        shapes.append(x.shape)
        return toy.mixture(x, t, shares)

    found = classifier_free(counted, LABEL_A, LABEL_BOTH, 2.5)(X, T)
    np.testing.assert_allclose(found, guided(A, BOTH, 2.5)(X, T), atol=1e-5)
    assert shapes == [(128, 2)]


def test_compositions_are_sums_over_the_null():
    one, two = gaussian(1.0, 0.25), gaussian(3.0, 0.5)
    null = gaussian(0.0, 1.0)
    x, t = PAIR, EDM.time(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(composed(null, [one], [1.7])(x, t), guided(one, null, 1.7)(x, t), atol=1e-6)
    np.testing.assert_allclose(composed(null, [one, one], [1.7] * 2)(x, t), guided(one, null, 3.4)(x, t), atol=1e-5)
    n, a, b = null(x, t), one(x, t), two(x, t)
    not_two = composed(null, [one, two], [1.5, -1.5])(x, t)
    np.testing.assert_allclose(not_two, n + 1.5 * (a - n) - 1.5 * (b - n), atol=1e-6)


# --- Gaussians ---


def test_classifier_free_guidance_has_its_closed_form():
    """Prior N(0, 1), condition N(1, 1/4): the std is .5^s, and not that of the product of the densities."""
    scales = jnp.array([1.0, 1.2, 1.5, 2.0, 4.0])
    x = jnp.tile(PAIR, (5, 1))
    denoise = guided(gaussian(1.0, 0.25), gaussian(0.0, 1.0), jnp.repeat(scales, 2))
    out = sample(heun(), denoise, EDM, x, 256, KEY).reshape(5, 2)
    # sigma begins at 80, not at infinity: the means may lack half a percent
    np.testing.assert_allclose(out.mean(1), [1.000, 1.110, 1.238, 1.380, 1.518], rtol=0.007)
    np.testing.assert_allclose(out.std(1), [0.5, 0.4353, 0.3536, 0.25, 0.0625], rtol=0.01)


def test_guidance_keeps_the_order_of_the_solver():
    denoise = guided(gaussian(1.0, 0.25), gaussian(0.0, 1.0), 2.0)
    for n, mean, std in ((18, 1.357, 0.279), (32, 1.370, 0.258), (64, 1.373, 0.252), (256, 1.3739, 0.2504)):
        found = moments(denoise, n)
        assert found[0] == pytest.approx(mean, abs=0.001)
        assert found[1] == pytest.approx(std, abs=0.001)


def test_equal_variances_move_the_mean_to_scale_times_it():
    mean, std = moments(guided(gaussian(0.5, 1.0), gaussian(0.0, 1.0), 3.0), 64)
    assert mean == pytest.approx(1.5, abs=0.03)
    assert std == pytest.approx(1.0, abs=0.01)


def test_composition_of_gaussians_is_no_product_of_experts():
    prior, variances, s = 1.0, (0.25, 0.5), 1.2
    parts = [gaussian(0.0, variance) for variance in variances]
    _, std = moments(composed(gaussian(0.0, prior), parts, [s, s]), 256)
    closed = prior ** ((1 - 2 * s) / 2) * np.prod([variance ** (s / 2) for variance in variances])
    product = ((1 - 2 * s) / prior + sum(s / variance for variance in variances)) ** -0.5
    assert std == pytest.approx(closed, rel=0.01)
    assert abs(closed - product) > 0.1


def test_autoguidance_undoes_an_error_that_both_networks_have():
    """Variances 1.1 and 1.21 for a true 1: exact at the scale 2."""
    denoise = guided(gaussian(0.0, 1.1), gaussian(0.0, 1.21), 2.0)
    for n, std in ((18, 1.046), (32, 1.014), (64, 1.004)):
        assert moments(denoise, n)[1] == pytest.approx(std, abs=0.002)


# --- CADS ---


def exact_step(denoise, x, span: Span, z, previous):
    """The flow of N(mean, S) between two levels of EDM, for a mean that stays during the step."""
    spread_of = SMALL + span.here.sigma**2
    share = SMALL / spread_of
    x0 = denoise(x, jnp.full(len(x), span.here.t))
    mean = (x0 - share * x) / (1 - share)
    ratio = jnp.sqrt((SMALL + span.there.sigma**2) / spread_of)
    return mean + ratio * (x - mean), x0


SMALL = 0.04
LEVELS = 50


def annealed_moments(low, high, size, count=4000):
    """Mean and std of samples of N(y, .04) for y = 1 under CADS, whose time goes down evenly with the steps."""
    times = EDM.grid(LEVELS)

    def draw(key):
        def denoise(x, t):
            progress = (t - times[-2]) / (1 - times[-2]) * (1 - 1 / LEVELS) + 1 / LEVELS
            label = cads(key, jnp.ones((len(x), 1)), progress, low=low, high=high, noise=size, psi=0.0)
            return gaussian(label, SMALL)(x, t)

        return denoise

    x = jax.random.normal(jax.random.key(2), (count, 1))
    out = sample(exact_step, Redrawn(draw), EDM, x, LEVELS, KEY)
    return float(out.mean()), float(out.std())


def annealed_closed_form(low, high, size):
    """The mean is a weighted sum of the steps' conditions; each adds its noise's share of the variance."""
    variances = np.asarray(EDM.at(EDM.grid(LEVELS))[1], np.float64) ** 2
    scale = (SMALL + variances) ** -0.5
    weights = SMALL**0.5 * (scale[1:] - scale[:-1])
    time = 1 - np.arange(LEVELS) / LEVELS
    kept = np.clip((high - time) / (high - low), 0, 1)
    mean = (weights * np.sqrt(kept)).sum()
    return mean, np.sqrt(SMALL + (weights**2 * size**2 * (1 - kept)).sum())


def test_cads_has_its_closed_form():
    for low, high, size, mean, std in (
        (0.6, 0.9, 0.25, 0.989, 0.200),
        (0.3, 0.9, 0.25, 0.933, 0.2006),
        (0.0, 0.5, 0.25, 0.518, 0.206),
        (0.0, 0.5, 1.0, 0.518, 0.282),
    ):
        closed = annealed_closed_form(low, high, size)
        assert closed[0] == pytest.approx(mean, abs=1e-3)
        assert closed[1] == pytest.approx(std, abs=3e-4)
        found = annealed_moments(low, high, size)
        np.testing.assert_allclose(found, closed, atol=0.012)


def test_cads_by_hand():
    condition = jnp.array([[1.0, 3.0]])
    at = jnp.array([0.75])  # half way: gamma = .5
    plain = cads(KEY, condition, at, low=0.5, high=1.0, noise=0.0, psi=0.0)
    np.testing.assert_allclose(plain, condition * 0.5**0.5, rtol=1e-6)
    noisy = cads(KEY, condition, at, low=0.5, high=1.0, noise=2.0, psi=0.0)
    drawn = 2 * jax.random.normal(KEY, (1, 2))
    np.testing.assert_allclose(noisy, 0.5**0.5 * (condition + drawn), rtol=1e-5)
    rescaled = cads(KEY, condition, at, low=0.5, high=1.0, noise=2.0, psi=1.0)
    np.testing.assert_allclose([rescaled.mean(), rescaled.std()], [2, 1], rtol=1e-5)
    late = cads(KEY, condition, jnp.array([1.0]), low=0.5, high=0.9, noise=2.0, psi=0.0)
    np.testing.assert_allclose(late, drawn, rtol=1e-6)


# --- TCFG ---


def test_the_tangential_part_by_hand():
    for strong, weak, expected in (
        ((1, 0, 0), (0.6, 0.8, 0), (0.8, 0.4, 0)),
        ((2, 1, 0), (1, 1, 0), (1.1708, 0.7236, 0)),
        ((1, 2, 2), (2, 4, 4), (2, 4, 4)),  # parallel: unchanged
        ((2, 0, 0), (0, 1, 0), (0, 0, 0)),  # orthogonal and shorter: gone
        ((1, 0, 0), (0, 2, 0), (0, 2, 0)),  # orthogonal and longer: unchanged
        ((1, 0, 0), (0, 1, 0), (0, 0, 0)),  # a tie, which the strong one wins
    ):
        found = tangential(jnp.array([strong], jnp.float32), jnp.array([weak], jnp.float32))
        np.testing.assert_allclose(found, [expected], atol=1e-4)


def test_the_tangential_part_is_that_of_the_singular_value_decomposition():
    strong, weak = jax.random.normal(KEY, (2, 5, 3, 2))
    found = tangential(strong, weak)
    for row in range(5):
        first = np.linalg.svd(np.stack([strong[row].ravel(), weak[row].ravel()]))[2][0]
        np.testing.assert_allclose(found[row].ravel(), (weak[row].ravel() @ first) * first, atol=1e-5)


def test_tcfg_projects_the_noise_and_not_the_data():
    noise = Straight()
    x, t = jnp.array([[0.0, 0.0, 0.0]]), jnp.array([0.5])  # eps = -x0
    strong, weak = jnp.array([[1.0, 0, 0]]), jnp.array([[0.6, 0.8, 0]])
    denoise = tcfg(lambda x, t: strong, lambda x, t: weak, 3.0, noise)
    np.testing.assert_allclose(denoise(x, t), [[1.4, -0.8, 0]], atol=1e-5)
    x = jnp.array([[1.0, 0, 0]])  # eps of the strong one is 1 - .5 * 2 = 0: the weak one's is the direction
    np.testing.assert_allclose(
        tcfg(lambda x, t: 2 * strong, lambda x, t: weak, 3.0, noise)(x, t)[0, 1], -1.6, atol=1e-5
    )
    at_noise = denoise(x, jnp.array([1.0]))  # nothing is seen of the data: plain guidance
    np.testing.assert_allclose(at_noise, strong + 2 * (strong - weak), atol=1e-5)


# --- time-step guidance ---


def test_guidance_by_a_noisy_time_grows_with_the_noise_and_the_scale():
    """For little noise it is (s - 1) times the derivative by the embedding, in the direction of the noise."""
    plain = A(X, T)

    def moved(noise, scale, power=1.0):
        return tsg(noisy_time, 1, scale, noise, power).draw(KEY)(X, T) - plain

    little = moved(1e-2, 2.0)
    largest = float(jnp.abs(little).max())
    assert largest > 1e-4
    np.testing.assert_allclose(moved(2e-2, 2.0), 2 * little, atol=0.1 * largest)
    np.testing.assert_allclose(moved(1e-2, 3.0), 2 * little, atol=0.01 * largest)
    shift = 1e-2 * T[:, None] * jax.random.normal(KEY, (64, 1))
    _, slope = jax.jvp(lambda shift: noisy_time(X, T, shift), (jnp.zeros((64, 1)),), (shift,))
    np.testing.assert_allclose(little, -slope, atol=0.05 * largest)
    np.testing.assert_allclose(moved(1e-2, 2.0, power=0.0) * T[:, None], little, atol=0.05 * largest)


# --- energies ---


def test_a_constant_weight_of_an_energy_optimises():
    """N(0, 1) and the energy (x0 - 2)^2: the recursion is linear, and its end is no posterior (mean 1.33, std .58)."""
    noise = Discrete("cosine", 50)
    prior = gaussian(0.0, 1.0, noise)
    alphas, sigmas = (np.asarray(value, np.float64) for value in noise.at(noise.grid(50)))
    for rho, mean, std in ((0.0, 0.0, None), (0.05, 2.015, 0.078), (0.1, 2.046, 0.005), (0.2, 2.009, 9e-6)):
        correct = energy(lambda x0: ((x0 - 2) ** 2).sum(1), prior, lambda t, rho=rho: jnp.full_like(t, rho))
        out = sample(ddim(), prior, noise, PAIR, 50, KEY, correct=correct)
        x = np.array([1.0, -1.0])
        for k, sigma, k_next, sigma_next in zip(alphas[:-1], sigmas[:-1], alphas[1:], sigmas[1:], strict=True):
            a = k_next * k + sigma_next * (1 - k**2) / sigma
            x = (a - 2 * rho * k**2) * x + 2 * rho * k * 2
        np.testing.assert_allclose(out[:, 0], x, atol=1e-4)
        assert float(out.mean()) == pytest.approx(mean, abs=1e-3)
        if std is not None:
            assert float(out.std()) == pytest.approx(std, abs=6e-4)


BETWEEN = 32
ALONG = jnp.linspace(0, 1, BETWEEN + 2)[1:-1]


def paths(weigh, count=500):
    """Paths [count, 32, 2] from (-1, 0) to (1, 0) about which Brownian bridges lie, pushed out of a disc."""
    noise = Discrete("cosine", 50)
    covariance = 0.6 * (jnp.minimum(ALONG[:, None], ALONG[None]) - ALONG[:, None] * ALONG[None])
    values, vectors = np.linalg.eigh(np.asarray(covariance))
    values = jnp.maximum(jnp.asarray(values), 0.0)
    mean = jnp.stack([2 * ALONG - 1, jnp.zeros(BETWEEN)], 1)[None]

    def denoise(x, t):
        alpha, sigma = (value[0] for value in noise.at(t))
        gain = alpha * values / (alpha**2 * values + sigma**2)
        return mean + jnp.einsum("ij,j,kj,bkd->bid", vectors, gain, vectors, x - alpha * mean)

    def cost(x0):
        distance = jnp.sqrt((x0**2).sum(2) + 1e-12)
        return (jnp.maximum(0.35 - distance, 0) ** 2).sum(1)

    x = jax.random.normal(KEY, (count, BETWEEN, 2))
    correct = None if weigh is None else energy(cost, denoise, lambda t: weigh(noise.at(t)[0]))
    out = sample(ddim(), denoise, noise, x, 50, KEY, correct=correct)
    inside = (jnp.sqrt((out**2).sum(2)) < 0.3).any(1).mean()
    steps = jnp.sqrt((jnp.diff(out, axis=1) ** 2).sum(2)).mean()
    return float(inside), float(out[..., 1].std()), float(steps)


def test_paths_keep_out_of_an_obstacle():
    for weigh, inside, lateral, step in (
        (None, 0.807, 0.311, 0.154),
        (lambda alpha: 0.2 * jnp.ones_like(alpha), 0.048, 0.411, 0.155),
        (lambda alpha: jnp.ones_like(alpha), 0.0, 0.545, 0.158),
        (lambda alpha: alpha, 0.0, 0.439, 0.155),
    ):
        found = paths(weigh)
        print(found)
        np.testing.assert_allclose(found[0], inside, atol=0.05)
        np.testing.assert_allclose(found[1:], (lateral, step), rtol=0.06)


# --- the mixture ---


MANY = toy.even_noise(4000)


@pytest.fixture(scope="module")
def by_scale():
    """The toy's numbers for classifier-free guidance, many scales in one program: the scale is one for each sample."""
    scales = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)
    x = jnp.tile(MANY, (len(scales), 1))
    out = toy.sampled(guided(A, BOTH, jnp.repeat(jnp.array(scales), len(MANY))), x)
    return dict(zip(scales, map(toy.row, out.reshape(len(scales), *MANY.shape)), strict=True))


def test_classifier_free_guidance_drops_a_mode_and_leaves_the_support(by_scale):
    for scale, expected in {
        0.0: (0.003, 0.252, 0.501, 1.101, 0.202),
        1.0: (0.893, 0.495, 0.035, 0.633, 0.202),
        1.5: (1.120, 0.647, 0, 0.556, 0.202),
        2.0: (1.314, 0.799, 0, 0.455, 0.202),
        3.0: (1.563, 0.974, 0, 0.235, 0.202),
        5.0: (1.739, 1.000, 0, 0.131, 0.202),
    }.items():
        np.testing.assert_allclose(by_scale[scale], expected, atol=0.02, err_msg=str(scale))


def test_guidance_in_an_interval_keeps_more_of_both_modes():
    scale = interval(3.0, float(EDM.time(0.1)), float(EDM.time(2.0)))
    mean, far, *_, std_y = toy.row(toy.sampled(guided(A, BOTH, scale), MANY))
    np.testing.assert_allclose((mean, far, std_y), (1.304, 0.814, 0.202), atol=0.02)


def test_autoguidance_sharpens_and_keeps_the_modes():
    scales = (1.0, 1.5, 2.0, 3.0)
    count = len(MANY)
    x = jnp.tile(MANY, (4, 1))
    main, bad = toy.of(toy.CLASS_A, 0.08), toy.of(toy.CLASS_A, 0.16)
    out = toy.sampled(guided(main, bad, jnp.repeat(jnp.array(scales), count)), x).reshape(4, count, 2)
    for numbers, std_y in zip(map(toy.row, out), (0.286, 0.240, 0.202, 0.143), strict=True):
        np.testing.assert_allclose((numbers[0], numbers[1], numbers[4]), (0.893, 0.495, std_y), atol=0.02)


def test_a_random_condition_overshoots_what_the_classes_hold(by_scale):
    """The farthest mode is at 1.5; the proper null condition gives 1.314 at the same scale."""
    mean, far, *_ = toy.row(toy.sampled(toy.random_class(2.0, len(MANY)), MANY))
    assert mean == pytest.approx(2.087, abs=0.08)
    assert far == pytest.approx(0.901, abs=0.02)
    assert mean > by_scale[2.0][0] + 0.5


def test_cads_and_an_interval_keep_the_near_mode_that_guidance_drops(by_scale):
    near = 1 - toy.row(toy.sampled(toy.annealed(3.0), MANY))[1]
    assert near > 5 * (1 - by_scale[3.0][1])


def test_a_good_prior_and_a_negative_model_move_samples_further():
    """A null prediction that leans to the class guides less than a good one. What is unwanted is left, the more the
    larger the scale is."""
    count = 1000
    x = jnp.tile(toy.even_noise(count), (4, 1))
    leaning = toy.of(0.8 * toy.CLASS_A + 0.2 * toy.CLASS_B)

    def near_share(strong, weak, scales):
        out = toy.sampled(guided(strong, weak, jnp.repeat(jnp.array(scales), count)), x)
        return 1 - (out[:, 0].reshape(4, count) > 0.9).mean(1)

    good = near_share(A, BOTH, (1.5, 2.0, 2.5, 3.0))
    damaged = near_share(A, leaning, (1.5, 2.0, 2.5, 3.0))
    assert (damaged > good + 0.03).all()
    unwanted = toy.of(np.array([0.9, 0.1, 0.0, 0.0]))
    kept = near_share(A, unwanted, (1.0, 1.5, 2.0, 3.0))
    assert (np.diff(kept) < -0.05).all()
