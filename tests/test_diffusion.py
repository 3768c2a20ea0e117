"""Noise levels, predictions and samplers, on Gaussian data whose exact denoiser is a line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkit.diffusion import prediction, samplers
from rlkit.diffusion.noise import Discrete, Karras, LinearVP, Straight, noised, spread
from rlkit.types import InputError

NOISES = (Discrete("cosine", 8), Discrete("linear", 40), Discrete("vp", 5), LinearVP(), Karras(), Straight())
KEY = jax.random.key(0)
MEAN, VARIANCE = 1.0, 0.25  # of the data
PAIR = jnp.array([[1.0], [-1.0]])  # noise whose mean is 0 and whose standard deviation is 1, exactly


def gaussian(noise, mean=MEAN, variance=VARIANCE):
    """The exact denoiser of N(mean, variance)."""

    def denoise(x, t):
        alpha, sigma = (spread(value, x) for value in noise.at(t))
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        return mean + gain * (x - alpha * mean)

    return denoise


def moments(step, noise, n, x=PAIR, **settings):
    out = samplers.sample(step, gaussian(noise), noise, x, n, KEY, **settings)
    return float(out.mean()), float(out.std())


# --- noise levels ---


def test_the_schedules_are_those_of_the_papers():
    vp = Discrete("vp", 5)
    np.testing.assert_allclose(vp.betas(), [0.19587, 0.45882, 0.63578, 0.75488, 0.83503], atol=1e-5)
    alpha, sigma = vp.at(jnp.arange(6) / 5)
    np.testing.assert_allclose(alpha**2, [1, 0.80413, 0.43518, 0.15850, 0.03885, 0.00641], atol=1e-5)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=1e-6)
    cosine = Discrete("cosine", 100)
    np.testing.assert_allclose(cosine.betas()[[0, 1, 98, 99]], [0.00063, 0.00112, 0.74994, 0.999], atol=1e-5)
    np.testing.assert_allclose(cosine.at(jnp.array(0.51))[0] ** 2, 0.47826, atol=1e-5)
    np.testing.assert_allclose(Discrete("cosine", 200).at(jnp.array(0.505))[0] ** 2, 0.4861, atol=1e-4)
    np.testing.assert_allclose(Discrete("linear", 1000).betas()[[0, -1]], [1e-4, 0.02], rtol=1e-6)
    np.testing.assert_allclose(
        LinearVP().at(jnp.array([0.25, 0.5, 0.75, 1.0]))[0], [0.72366, 0.28118, 0.05866, 0.00657], atol=1e-5
    )


def test_edms_grid_and_training_levels():
    sigma = Karras().at(Karras().grid(18))[1]
    np.testing.assert_allclose(sigma[:4], [80, 57.586, 40.786, 28.375], rtol=1e-4)
    np.testing.assert_allclose(sigma[-4:], [0.02293, 0.00753, 0.002, 0], rtol=1e-3)
    log_sigma = jnp.log(Karras().at(Karras().draw(KEY, (10_000,)))[1])
    np.testing.assert_allclose([log_sigma.mean(), log_sigma.std()], [-1.2, 1.2], atol=0.05)


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_a_grid_goes_from_noise_to_data_and_training_times_lie_between(noise):
    times = noise.grid(5)
    alpha, sigma = noise.at(times)
    assert times.shape == (6,) and times[0] == 1
    assert (jnp.diff(times) < 0).all() and (jnp.diff(alpha / sigma) > 0).all()
    assert sigma[0] > 0.9 and sigma[-1] < 0.011
    drawn = noise.draw(KEY, (64, 2))
    assert drawn.shape == (64, 2) and (drawn > 0).all() and (drawn <= 1).all()
    assert hash(noise) == hash(noise)


def test_more_steps_than_levels_are_refused():
    with pytest.raises(InputError, match="6 sampling steps"):
        Discrete("vp", 5).grid(6)


# --- predictions ---


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_every_target_stands_for_the_data(noise):
    x0, eps = jax.random.normal(KEY, (2, 7, 3, 2))
    t = noise.draw(jax.random.key(1), (7,))
    x = noised(noise, x0, eps, t)
    tolerance = 2e-6 * (1 + jnp.max(noise.at(t)[1]) / jnp.min(noise.at(t)[0]))
    for kind in prediction.KINDS:
        out = prediction.target(kind, noise, x0, eps, t)
        found = prediction.denoised(kind, noise, out, x, t)
        np.testing.assert_allclose(found, x0, atol=10 * tolerance, err_msg=kind)


def test_targets_by_hand():
    noise, t = Karras(), Karras().time(jnp.array([0.5]))
    x0, eps = jnp.array([[2.0]]), jnp.array([[4.0]])
    # sigma = data std = .5: x = 4, c_skip = .5, c_out = .25 sqrt(2), c_in = sqrt(2)
    x = noised(noise, x0, eps, t)
    np.testing.assert_allclose(x, [[4.0]], rtol=1e-5)
    np.testing.assert_allclose(prediction.net_input("edm", noise, x, t), [[4 * 2**0.5]], rtol=1e-5)
    np.testing.assert_allclose(prediction.target("edm", noise, x0, eps, t), [[0.0]], atol=1e-5)
    eps = jnp.array([[1.0]])  # x = 2.5
    np.testing.assert_allclose(prediction.target("uedm", noise, x0, eps, t), [[0.75]], rtol=1e-5)
    np.testing.assert_allclose(prediction.target("edm", noise, x0, eps, t), [[0.75 / 0.125**0.5]], rtol=1e-5)
    assert prediction.target("flow", noise, x0, eps, t) == -1
    vp = Discrete("vp", 5)
    expected = 0.43518**0.5 * 1 - (1 - 0.43518) ** 0.5 * 2
    np.testing.assert_allclose(prediction.target("velocity", vp, x0, eps, jnp.array([0.4])), [[expected]], rtol=1e-4)


def test_weights():
    noise = Karras()
    t = noise.time(jnp.array([0.5, 1.0]))
    for kind in prediction.KINDS:
        np.testing.assert_array_equal(prediction.weight(kind, noise, t), 1)
    edm = [(0.25 + 0.25) / 0.25**2, (1 + 0.25) / 0.5**2]
    np.testing.assert_allclose(prediction.weight("uedm", noise, t, flat=False), edm, rtol=1e-5)


def test_a_perfect_network_has_no_error_and_samples_the_data():
    noise = LinearVP()
    exact = gaussian(noise)

    def net(x, t):
        alpha, sigma = (spread(value, x) for value in noise.at(t))
        return (x - alpha * exact(x, t)) / sigma

    out = samplers.sample(samplers.ddim(), prediction.denoiser("noise", noise, net), noise, PAIR, 5, KEY)
    plain = samplers.sample(samplers.ddim(), exact, noise, PAIR, 5, KEY)
    np.testing.assert_allclose(out, plain, rtol=1e-3)
    x0, eps, t = jnp.ones((4, 2)), jax.random.normal(KEY, (4, 2)), jnp.full(4, 0.5)
    error = prediction.denoising_error("noise", noise, lambda x, t: eps + 2, x0, eps, t)
    np.testing.assert_allclose(error, 4, rtol=1e-6)


# --- samplers ---


def test_ddim_on_a_gaussian():
    for n, std in ((5, 0.2696), (10, 0.3744), (20, 0.4339), (40, 0.4660), (80, 0.4828)):
        mean, found = moments(samplers.ddim(), LinearVP(), n)
        assert mean == pytest.approx(0.997, abs=0.005)
        assert found == pytest.approx(std, abs=1e-4)


def test_dpm_solver_overshoots_on_an_even_grid():
    for n, std in ((5, 0.5861), (10, 0.6875), (20, 0.6118), (40, 0.5397), (80, 0.5108)):
        mean, found = moments(samplers.dpm2m(first_order_last=False), LinearVP(), n)
        assert mean == pytest.approx(0.997, abs=0.005)
        assert found == pytest.approx(std, abs=1e-4)
    _, last_of_first_order = moments(samplers.dpm2m(), LinearVP(), 20)
    assert abs(last_of_first_order - 0.5) < 0.03


def test_dpm_solver_takes_two_steps_by_hand():
    """On the straight line from t = .75 over .5 to .25, where ln(alpha / sigma) goes up by ln 3 at each step."""
    noise = Straight()
    seen = []

    def denoise(x, t):
        seen.append(x)
        return 2 * x

    with jax.disable_jit():
        times = jnp.array([0.75, 0.5, 0.25])
        out = samplers.integrate(samplers.dpm2m(False), denoise, noise, jnp.ones((1, 1)), times, KEY)
    # x0 = 2, eps = (1 - .25 * 2) / .75 = 2/3: x = .5 * 2 + .5 * 2/3 = 4/3, and x0 = 8/3 there
    np.testing.assert_allclose(seen[1], [[4 / 3]], rtol=1e-6)
    # h = h_before: x0 = 8/3 + (8/3 - 2) / 2 = 3, eps = (4/3 - 1.5) / .5 = -1/3, x = .75 * 3 - .25 / 3
    np.testing.assert_allclose(out, [[2.25 - 0.25 / 3]], rtol=1e-6)


def test_eulers_flow_loses_spread_and_keeps_the_mean():
    for n, std in ((1, 0.0), (5, 0.3692), (10, 0.4308), (40, 0.4818)):
        np.testing.assert_allclose(moments(samplers.euler(), Straight(), n), [1, std], atol=1e-4)


def even(low, high, n):
    """Times at which Karras' noise level is evenly spaced."""
    return Karras().time(jnp.linspace(low, high, n + 1))


def even_log_snr(low, high, n):
    """Times at which ln(alpha / sigma) of the straight line is evenly spaced."""
    return jax.nn.sigmoid(-jnp.linspace(low, high, n + 1))


ORDERS = {
    "euler": (samplers.euler(), Straight(), lambda n: jnp.linspace(1.0, 0.05, n + 1), 1),
    "heun": (samplers.heun(), Straight(), lambda n: jnp.linspace(1.0, 0.05, n + 1), 2),
    "heun_edm": (samplers.heun(), Karras(), lambda n: even(2.0, 0.1, n), 2),
    "heun_vp": (samplers.heun(), LinearVP(), lambda n: jnp.linspace(0.9, 0.1, n + 1), 2),
    "dpm2m": (samplers.dpm2m(), Straight(), lambda n: even_log_snr(-3, 3, n), 2),
}


@pytest.mark.parametrize("name", ORDERS)
def test_orders(name):
    """Twice the steps divide the error by 2^order."""
    step, noise, grid, order = ORDERS[name]
    errors = []
    for n in (40, 80):
        alpha, sigma = noise.at(grid(n))
        exact = jnp.sqrt(alpha**2 * VARIANCE + sigma**2)  # standard deviation of x_t
        end = samplers.integrate(step, gaussian(noise), noise, exact[0] * PAIR, grid(n), KEY)
        errors.append(abs(float(end.std() - exact[-1])))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)


def ddpm_std(noise, variance, temperature=1.0, initial=1.0):
    """Standard deviation of DDPM's samples, by the recursion of the posterior's coefficients."""
    betas = noise.betas()
    kept = np.concatenate([[1], np.cumprod(1 - betas)])
    total = initial**2
    for step in range(noise.T, 0, -1):
        beta, at, before = betas[step - 1], kept[step], kept[step - 1]
        gain = np.sqrt(at) * VARIANCE / (at * VARIANCE + 1 - at)
        by_data = np.sqrt(before) * beta / (1 - at)
        by_x = np.sqrt(1 - beta) * (1 - before) / (1 - at)
        fresh = beta * (1 - before) / (1 - at) if variance == "posterior" else beta * (step > 1)
        total = (by_x + by_data * gain) ** 2 * total + fresh * temperature**2
    return total**0.5


MANY = jax.random.normal(jax.random.key(1), (20_000, 1))


def test_few_step_ddpm_is_narrower_than_the_data_and_wider_with_beta():
    for T, expected in ((5, 0.2954), (10, 0.3642), (50, 0.4574)):
        noise = Discrete("vp", T)
        assert ddpm_std(noise, "posterior") == pytest.approx(expected, abs=1e-4)
        _, std = moments(samplers.ddpm(), noise, T, MANY)
        assert std == pytest.approx(expected, abs=0.008)
    _, std = moments(samplers.ddpm("beta"), Discrete("vp", 5), 5, MANY)
    assert std == pytest.approx(ddpm_std(Discrete("vp", 5), "beta"), abs=0.008)
    assert std > 0.4


def test_ddim_with_eta_one_is_ddpm():
    noise = Discrete("cosine", 10)
    x = MANY[:64]
    steps = (samplers.ddpm(), samplers.ddim(1.0))
    first, second = (samplers.sample(step, gaussian(noise), noise, x, 5, KEY) for step in steps)
    np.testing.assert_allclose(first, second, atol=2e-4)


def test_temperature_of_the_std_of_the_variance_and_of_the_initial_noise():
    noise = Discrete("cosine", 100)

    def std(factor, of):
        return moments(samplers.ddpm(), noise, 100, MANY, temperature=factor, temperature_of=of)[1]

    assert std(1.0, "std") == pytest.approx(0.4824, abs=0.008)
    assert std(0.5, "std") == pytest.approx(0.2412, abs=0.004)
    assert std(0.5, "variance") == pytest.approx(0.3411, abs=0.006)
    assert std(0.0, "std") == pytest.approx(0, abs=1e-5)
    assert ddpm_std(noise, "posterior", initial=0.5) == pytest.approx(0.4824, abs=1e-4)
    assert std(0.5, "initial") == pytest.approx(0.4824, abs=0.008)
    # without noise in the steps all is in the initial noise
    flow = moments(samplers.euler(), Straight(), 5, temperature=0.5, temperature_of="initial")
    np.testing.assert_allclose(flow, [1, 0.3692 / 2], atol=1e-4)
    with pytest.raises(InputError, match="temperature_of"):
        std(0.5, "mean")


def test_clipped_data_change_the_noise_too():
    """One Euler step on the straight line from t = 1: x = .5 x0 + .5 eps, with x0 = 3 clipped to 1 and eps = x = 1."""
    times = jnp.array([1.0, 0.5])
    start = jnp.ones((1, 1))
    out = samplers.integrate(samplers.euler(), lambda x, t: 3 * x, Straight(), start, times, KEY, clip=1.0)
    np.testing.assert_allclose(out, [[1.0]])
    # from t = .5: eps = (1 - .5 * 1) / .5 = 1, where the unclipped 3 would give -1
    times = jnp.array([0.5, 0.25])
    out = samplers.integrate(samplers.euler(), lambda x, t: 3 * x, Straight(), start, times, KEY, clip=1.0)
    np.testing.assert_allclose(out, [[0.75 * 1 + 0.25 * 1]])


@pytest.mark.parametrize("step", [samplers.ddpm(), samplers.heun()], ids=("ddpm", "heun"))
def test_what_is_known_is_there_in_every_call_and_at_the_end(step):
    noise = Discrete("cosine", 8)
    mask = jnp.zeros((2, 3, 1), bool).at[:, 0].set(True)
    values = jnp.full((2, 3, 1), 7.0)
    seen = []

    def denoise(x, t):
        seen.append(x[:, 0])
        return jnp.zeros_like(x)

    x = jax.random.normal(KEY, (2, 3, 1))
    with jax.disable_jit():
        out = samplers.sample(step, denoise, noise, x, 4, KEY, known=(mask, values), correct=lambda x, *_: x + 1)
    assert len(seen) >= 4 and all((row == 7).all() for row in seen)
    np.testing.assert_array_equal(out[:, 0], 7.0)
    assert (out[:, 1:] != 7).all()


def test_correct_sees_the_step_and_is_applied_after_it():
    noise = Straight()
    x = jnp.array([[2.0], [4.0]])

    def correct(after, before, x0, t):
        assert t.shape == (2,)
        return jnp.concatenate([after, before, x0], 1)[:, :1] + 10 * t[:, None]

    out = samplers.sample(samplers.euler(), lambda x, t: x / 2, noise, x, 2, KEY, correct=correct)
    # 2 -> .5 * 1 + .5 * 2 + 10 = 11.5, then 11.5 -> 5.75 + 5 at the data
    np.testing.assert_allclose(out[0], 10.75)


def test_gradients_pass_through_a_whole_chain():
    noise = Discrete("vp", 5)
    x = MANY[:4]
    for step in (samplers.ddpm(), samplers.heun(), samplers.dpm2m()):

        def total(mean, step=step):
            return samplers.sample(step, gaussian(noise, mean), noise, x, 5, KEY, clip=5.0).sum()

        slope, wide = jax.grad(total)(1.0), total(2.0) - total(1.0)
        np.testing.assert_allclose(slope, wide, rtol=1e-2)


def test_a_redrawn_denoiser_is_drawn_once_a_step():
    """Heun's two calls of a step see one draw, and two steps see two."""
    draws = []

    def draw(key):
        number = jax.random.uniform(key)

        def denoise(x, t):
            draws.append(float(number))
            return jnp.full_like(x, number)

        return denoise

    with jax.disable_jit():
        samplers.sample(samplers.heun(), samplers.Redrawn(draw), Straight(), PAIR, 3, KEY)
    assert len(draws) == 6 and len(set(draws)) == 3
    assert draws[0] == draws[1] and draws[2] == draws[3]


# --- networks that are not told the noise level (Sun et al. 2025) ---


def test_a_network_without_noise_conditioning_is_never_told_the_time():
    def net(x, t):
        return x + t[:, None]

    x = jnp.ones((3, 2))
    for kind in prediction.KINDS:
        outs = [prediction.net_input(kind, Karras(), x, jnp.full(3, t)) for t in (0.3, 0.9)]
        assert (kind in ("edm", "uedm")) == bool((outs[0] != outs[1]).any())
    blind = prediction.denoiser("sample", Straight(), net, "none")
    np.testing.assert_array_equal(blind(x, jnp.full(3, 0.3)), blind(x, jnp.full(3, 0.9)))
    told = prediction.denoiser("sample", Straight(), net)
    assert (told(x, jnp.full(3, 0.3)) != told(x, jnp.full(3, 0.9))).all()
    errors = [prediction.denoising_error("sample", Straight(), net, x, x, jnp.full(3, t), "none") for t in (0.3, 0.9)]
    np.testing.assert_allclose(errors[0], errors[1], atol=1e-6)


def moments_of_t(squared_norm, d, prior):
    """Weights over the times ``prior`` of a point of that squared norm, for data at the origin and t uniform."""
    _, sigma = Straight().at(prior)
    log_density = -d * jnp.log(sigma) - squared_norm / (2 * sigma**2)
    weight = jnp.exp(log_density - log_density.max())
    return weight / weight.sum()


def test_how_well_the_noise_level_is_seen_in_d_dimensions():
    """The mean over points noised at t = .5; about t / sqrt(2 d) in many dimensions."""
    prior = (jnp.arange(5_000) + 0.5) / 5_000

    def posterior_std(squared_norm, d):
        weight = moments_of_t(squared_norm, d, prior)
        mean = (weight * prior).sum()
        return jnp.sqrt((weight * (prior - mean) ** 2).sum())

    for d, expected in ((2, 0.198), (8, 0.137), (32, 0.0679), (100, 0.0365), (1000, 0.01120)):
        squared_norms = 0.25 * jax.random.chisquare(KEY, d, shape=(300,))
        stds = jax.lax.map(lambda norm, d=d: posterior_std(norm, d), squared_norms)
        assert float(stds.mean()) == pytest.approx(expected, rel=0.04), d


def test_the_error_of_not_being_told_does_not_grow_with_the_dimension():
    d, t = 1000, 0.5
    prior = (jnp.arange(20_000) + 0.5) / 20_000
    squared_norms = t**2 * jax.random.chisquare(KEY, d, shape=(1000,))
    inverse = jax.lax.map(lambda norm: (moments_of_t(norm, d, prior) / prior).sum(), squared_norms)
    error = squared_norms * (1 / t - inverse) ** 2  # |z / t - z E[1 / t | z]|^2
    assert float(error.mean()) == pytest.approx(0.5, rel=0.15)


def landed(kind, rule, d, key, samples=100, points=16, steps=40):
    """Mean distance / sqrt(d) to the nearest of 16 data points, sampled with the optimal network of ``kind``."""
    noise = Straight()
    data_key, key = jax.random.split(key)
    data = jax.random.normal(data_key, (points, d))
    prior = jnp.exp(jnp.linspace(jnp.log(1e-3), 0.0, 300))  # the times of training: uniform, so weighted by t here
    ones = jnp.ones_like(prior)
    alphas, sigmas = noise.at(prior)
    by_data = prediction.target(kind, noise, ones, -alphas / sigmas, prior)  # the target is linear in x0 and in x
    by_x = prediction.target(kind, noise, 0 * ones, 1 / sigmas, prior)
    squares = (data**2).sum(1)

    def optimal(x, t):
        inner = x @ data.T  # [B, points]
        alpha, sigma = alphas[None, :, None], sigmas[None, :, None]
        distance = (x**2).sum(1)[:, None, None] - 2 * alpha * inner[:, None] + alpha**2 * squares[None, None]
        log_density = -distance / (2 * sigma**2) + (1 - d) * jnp.log(sigma)
        weight = jax.nn.softmax(log_density.reshape(len(x), -1), 1).reshape(log_density.shape)
        at_t = weight.sum(2)
        of_data = jnp.einsum("bmp,m,pd->bd", weight, by_data, data)
        return of_data + (at_t * by_x[None]).sum(1)[:, None] * x

    def told(x, t):
        alpha, sigma = 1 - t[0], t[0]
        distance = ((x[:, None] - alpha * data[None]) ** 2).sum(2)
        x0 = jax.nn.softmax(-distance / (2 * sigma**2), 1) @ data
        return prediction.target(kind, noise, x0, (x - alpha * x0) / sigma, t)

    denoise = prediction.denoiser(kind, noise, optimal if rule == "none" else told, rule)
    x = jax.random.normal(key, (samples, d))
    times = jnp.linspace(0.998, 0, steps + 1)
    out = samplers.integrate(samplers.euler(), denoise, noise, x, times, key)
    nearest = jnp.sqrt(((out[:, None] - data[None]) ** 2).sum(2)).min(1)
    return float(nearest.mean() / d**0.5)


def averaged(kind, rule, d, sets=3):
    return np.mean([landed(kind, rule, d, jax.random.key(i)) for i in range(sets)])


def test_not_being_told_costs_most_in_few_dimensions_and_little_in_many():
    blind = {d: averaged("flow", "none", d) for d in (8, 32, 128)}
    for d, expected in ((8, 0.162), (32, 0.100), (128, 0.047)):
        assert blind[d] == pytest.approx(expected, rel=0.3), d
    assert averaged("flow", "embed", 32, 1) < 1e-3
    assert blind[128] < blind[32] < blind[8]


def test_noise_prediction_is_the_one_that_fails_without_the_time():
    found = {kind: averaged(kind, "none", 32) for kind in ("noise", "flow", "sample")}
    assert found["noise"] == pytest.approx(0.288, rel=0.3)
    assert found["flow"] == pytest.approx(0.103, rel=0.3)
    assert found["sample"] < 0.005
