"""Networks against references written here, hand-worked examples and counts, and the policy's density by quadrature."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from rlkit.networks import (
    CONDITIONINGS,
    MLP,
    ConditionedMLP,
    Ensemble,
    GaussianPolicy,
    normal_log_prob,
    normal_sample,
    tanh_normal_log_prob,
    tanh_normal_sample,
)
from rlkit.networks.conditioned import Bilinear
from rlkit.networks.policy import ACTION_LIMIT

KEY = jax.random.key(0)
OBS, ACTION, WIDTH, EMBEDDING = 11, 3, 256, 32  # SAC-RND on Hopper


def normal(number: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.fold_in(KEY, number), shape)


def perturbed(params):
    """Parameters away from their initial values, so that no bias or scale is 0, 0.1 or 1."""
    leaves, tree = jax.tree.flatten(params)
    return tree.unflatten([leaf + 0.3 * normal(i, *leaf.shape) for i, leaf in enumerate(leaves)])


def init(module, *inputs):
    return jax.jit(module.init)(KEY, *inputs)


def size(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def reference_mlp(params, x, hidden: int, layer_norm: bool):
    """The same function from the parameters' names, in the textbook form: ReLU, then LayerNorm, then the next layer."""
    layers = params["params"]
    for i in range(hidden):
        x = jnp.maximum(x @ layers[f"Dense_{i}"]["kernel"] + layers[f"Dense_{i}"]["bias"][None], 0)
        if layer_norm:
            norm = layers[f"LayerNorm_{i}"]
            centred = x - x.mean(-1, keepdims=True)
            deviation = jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
            x = centred / deviation * norm["scale"][None] + norm["bias"][None]
    return x @ layers[f"Dense_{hidden}"]["kernel"] + layers[f"Dense_{hidden}"]["bias"][None]


def assert_same_function(f, g, *args):
    """Equal values and equal gradients of a weighted sum, in every argument."""
    weights = normal(99, *jax.eval_shape(f, *args).shape)

    def value_and_grad(function):
        def weighted(*args):
            out = function(*args)
            return (weights * out).sum(), out

        (_, out), grads = jax.jit(jax.value_and_grad(weighted, tuple(range(len(args))), has_aux=True))(*args)
        return out, grads

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), value_and_grad(f), value_and_grad(g)
    )


@pytest.mark.parametrize("layer_norm", [False, True])
def test_mlp_equals_the_textbook_values_and_gradients(layer_norm):
    module, x = MLP((16, 8), 3, 0.1, layer_norm), normal(1, 5, 4)
    params = perturbed(init(module, x))
    assert_same_function(module.apply, lambda p, x: reference_mlp(p, x, 2, layer_norm), params, x)


def test_parts_of_an_input_are_the_whole_but_repeat_nothing():
    module, state, actions = MLP((16, 8), 3, 0.1), normal(1, 1, 5, 4), normal(2, 7, 5, 2)
    params = perturbed(init(module, state, actions))

    def whole(params, state, actions):
        return module.apply(params, jnp.concatenate([jnp.broadcast_to(state, (7, 5, 4)), actions], -1))

    assert_same_function(module.apply, whole, params, state, actions)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, init(module, normal(3, 5, 6)))
    first = MLP((), 8, 0.1)  # one layer: 5 states once and 35 actions, where the whole would be 35 times 6
    text = str(jax.make_jaxpr(first.apply)(init(first, state, actions), state, actions))
    assert text.count("dot_general") == 2 and "7,5,6" not in text


def test_parts_with_the_same_leading_axes_are_concatenated():
    module, x, y, z = MLP((16, 8), 3, 0.1), normal(1, 5, 4), normal(2, 5, 2), normal(3, 5, 1)
    params = perturbed(init(module, x, y, z))

    def split(params, x, y, z):  # broadcast, hence apart
        return module.apply(params, x[None], jnp.stack([y, y]), z[None])[0]

    assert_same_function(module.apply, split, params, x, y, z)
    text = str(jax.make_jaxpr(MLP((), 8, 0.1).apply)(init(MLP((), 8, 0.1), x, y, z), x, y, z))
    assert text.count("dot_general") == 1  # two or more small products are slower than one


def test_members_with_inputs_of_their_own():
    module, x = Ensemble(3, (8,), 2, 0.1, shared=False), normal(1, 3, 5, 4)
    params = perturbed(init(module, x))
    together = module.clone(shared=True)
    expected = jnp.stack([together.apply(params, x[i])[i] for i in range(3)])
    np.testing.assert_allclose(module.apply(params, x), expected, rtol=1e-5, atol=1e-6)


def test_an_ensemble_is_its_members():
    module, x = Ensemble(3, (8, 8), 2, 0.1, layer_norm=True), normal(1, 5, 4)
    params = perturbed(init(module, x))
    (stacked,) = params["params"].values()

    def members(params, x):
        return jnp.stack([MLP((8, 8), 2, 0.1, layer_norm=True).apply({"params": p}, x) for p in params])

    each = [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(3)]
    np.testing.assert_allclose(jax.jit(module.apply)(params, x), jax.jit(members)(each, x), rtol=1e-5, atol=1e-6)


def test_members_start_from_different_weights():
    kernels = jax.tree.leaves(init(Ensemble(2, (8,), 1, 0.1), normal(1, 1, 4)))
    assert all(not np.array_equal(leaf[0], leaf[1]) for leaf in kernels if leaf.ndim == 3)


def test_bilinear_equals_the_naive_sum():
    module, x, z = Bilinear(6), normal(1, 5, 3), normal(2, 5, 4)
    params = perturbed(init(module, x, z))

    def naive(params, x, z):
        layer = params["params"]["Dense_0"]
        return jnp.einsum("bi,ijk,bj->bk", x, layer["kernel"].reshape(3, 4, 6), z) + layer["bias"][None]

    assert_same_function(module.apply, naive, params, x, z)


def by_hand(module, *inputs):
    """The output where every kernel is 2 and every bias 1, 2, ... within its layer: FiLM's scale and shift differ."""
    shapes = jax.eval_shape(module.init, KEY, *inputs)
    params = jax.tree.map(lambda x: np.full(x.shape, 2.0) if len(x.shape) == 2 else 1.0 + np.arange(x.size), shapes)
    return jax.jit(module.apply)(params, *inputs)


@pytest.mark.parametrize(
    ("conditioning", "expected"),
    [
        # feature 3, context 5, width 1: an unconditioned layer maps h to 2 h + 1; the output is one of those
        ("concat_first", 143),  # 2*3 + 2*5 + 1 = 17, 35, 71, 143
        ("concat_last", 83),  # 7, 15, 2*15 + 2*5 + 1 = 41, 83
        ("concat_full", 203),  # 17, 2*17 + 11 = 45, 2*45 + 11 = 101, 203
        ("bilinear_first", 255),  # 2*3*5 + 1 = 31, 63, 127, 255
        ("bilinear_last", 303),  # 7, 15, 2*15*5 + 1 = 151, 303
        ("bilinear_full", 6223),  # 31, 311, 3111, 6223
        ("film_first", 719),  # scale 2*5 + 1 = 11, shift 2*5 + 2 = 12: 11*7 + 12 = 89, 179, 359, 719
        ("film_last", 707),  # 7, 15, 11*31 + 12 = 353, 707
        ("film_full", 87211),  # 89, 11*179 + 12 = 1981, 11*3963 + 12 = 43605, 87211
    ],
)
def test_conditionings_by_hand(conditioning, expected):
    module, feature, context = ConditionedMLP(conditioning, 1, 1), jnp.full((1, 1), 3.0), jnp.full((1, 1), 5.0)
    np.testing.assert_allclose(by_hand(module, feature, context), [[expected]], rtol=1e-6)


def test_gating_by_hand():
    module, feature, context = ConditionedMLP("gated", 1, 1), jnp.full((1, 1), 0.1), jnp.full((1, 1), -0.2)
    gated = math.tanh(2 * 0.1 + 1) / (1 + math.exp(-(2 * -0.2 + 1)))
    np.testing.assert_allclose(by_hand(module, feature, context), [[8 * gated + 7]], rtol=1e-6)


@pytest.mark.parametrize("conditioning", ["concat_first", "bilinear_first", "film_first"])
def test_hidden_layers_are_rectified(conditioning):
    module, feature, context = ConditionedMLP(conditioning, 1, 1), jnp.full((1, 1), -3.0), jnp.full((1, 1), 1.0)
    # concat -3, bilinear -5, film 3*-5 + 4 = -11; then 0, 1, 3, 7
    np.testing.assert_allclose(by_hand(module, feature, context), [[7.0]])


def dense(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


H = WIDTH
COUNTS = {
    "gated": dense(ACTION, H) + dense(OBS, H) + 2 * dense(H, H),
    "concat_first": dense(ACTION + OBS, H) + 2 * dense(H, H),
    "concat_last": dense(ACTION, H) + dense(H, H) + dense(H + OBS, H),
    "concat_full": dense(ACTION + OBS, H) + 2 * dense(H + OBS, H),
    "bilinear_first": dense(ACTION * OBS, H) + 2 * dense(H, H),
    "bilinear_last": dense(ACTION, H) + dense(H, H) + dense(H * OBS, H),
    "bilinear_full": dense(ACTION * OBS, H) + 2 * dense(H * OBS, H),
    "film_first": dense(ACTION, H) + 2 * dense(H, H) + dense(OBS, 2 * H),
    "film_last": dense(ACTION, H) + 2 * dense(H, H) + dense(OBS, 2 * H),
    "film_full": dense(ACTION, H) + 2 * dense(H, H) + 3 * dense(OBS, 2 * H),
}


def test_parameter_counts():
    def count(module, *inputs) -> int:
        return size(jax.eval_shape(module.init, KEY, *inputs))

    obs, action, both = jnp.ones((1, OBS)), jnp.ones((1, ACTION)), jnp.ones((1, OBS + ACTION))
    assert set(COUNTS) == set(CONDITIONINGS)
    for conditioning, body in COUNTS.items():
        wanted = body + dense(H, EMBEDDING)
        assert count(ConditionedMLP(conditioning, WIDTH, EMBEDDING), action, obs) == wanted, conditioning
    assert count(GaussianPolicy((H, H, H), ACTION), obs) == dense(OBS, H) + 2 * dense(H, H) + dense(H, 2 * ACTION)
    critic = dense(OBS + ACTION, H) + 2 * dense(H, H) + 3 * 2 * H + dense(H, 1)
    assert count(Ensemble(2, (H, H, H), 1, 3e-3, layer_norm=True), both) == 2 * critic


def assert_uniform(leaf, bound: float):
    """Within the bound, symmetric, and filling it."""
    values = np.asarray(leaf).ravel()
    assert np.abs(values).max() <= bound
    assert stats.kstest(values, "uniform", (-bound, 2 * bound)).pvalue > 1e-4


def test_initial_values():
    mlp = init(MLP((64, 64), 32, 3e-3, layer_norm=True), normal(1, 1, 9))["params"]
    for name, fan_in in (("Dense_0", 9), ("Dense_1", 64)):
        assert_uniform(mlp[name]["kernel"], 1 / math.sqrt(fan_in))
        assert np.all(mlp[name]["bias"] == np.float32(0.1))
    assert_uniform(mlp["Dense_2"]["kernel"], 3e-3)
    assert_uniform(mlp["Dense_2"]["bias"], 3e-3)
    policy = init(GaussianPolicy((64,), 16), normal(1, 1, 9))["params"]
    assert_uniform(policy["Dense_0"]["kernel"], 1 / 3)
    assert np.all(policy["Dense_0"]["bias"] == np.float32(0.1))
    assert_uniform(policy["Dense_1"]["kernel"], 1e-3)
    bilinear = init(Bilinear(64), normal(1, 1, 4), normal(2, 1, 9))["params"]["Dense_0"]
    assert_uniform(bilinear["kernel"], 1 / 2)  # the width of x alone, not of the outer product
    assert_uniform(bilinear["bias"], 1 / 2)
    conditioned = init(ConditionedMLP("film_last", 64, 32), normal(1, 1, 4), normal(2, 1, 9))["params"]
    for layer in conditioned.values():
        fan_in = layer["Dense_0"]["kernel"].shape[0]
        assert_uniform(layer["Dense_0"]["kernel"], 1 / math.sqrt(fan_in))
        assert_uniform(layer["Dense_0"]["bias"], 1 / math.sqrt(fan_in))


def test_policy_heads_are_mean_then_clipped_log_deviation():
    module, obs = GaussianPolicy((), 2), jnp.ones((1, 1))
    params = jax.tree.map(jnp.zeros_like, init(module, obs))
    params["params"]["Dense_0"]["bias"] = jnp.array([9.0, -9.0, 9.0, -9.0])
    mean, log_std = module.apply(params, obs)
    np.testing.assert_array_equal(mean, [[9, -9]])
    np.testing.assert_array_equal(log_std, [[2, -5]])


def test_without_a_head_the_deviation_is_one_parameter_for_all_observations():
    module, obs = GaussianPolicy((8,), 2, std_head=False), normal(1, 5, 3)
    params = init(module, obs)
    assert params["params"]["log_std"].shape == (2,) and params["params"]["Dense_1"]["kernel"].shape == (8, 2)
    params["params"]["log_std"] = jnp.array([1.5, -9.0])
    mean, log_std = module.apply(params, obs)
    np.testing.assert_array_equal(log_std, np.tile([[1.5, -5.0]], (5, 1)))
    assert np.ptp(np.asarray(mean), axis=0).min() > 0


def test_the_plain_normal_is_scipys_and_its_samples_stay_within_the_bounds():
    mean, log_std, action = normal(1, 1000, 2), 0.3 * normal(2, 1000, 2), normal(3, 1000, 2)
    expected = stats.norm.logpdf(action, mean, np.exp(log_std)).sum(-1)
    np.testing.assert_allclose(normal_log_prob(mean, log_std, action), expected, rtol=1e-4, atol=1e-4)
    sample = np.asarray(normal_sample(0.2 * mean, log_std - 2, KEY))
    assert np.abs(sample).max() <= 1
    inside = np.abs(sample) < 1
    standard = ((sample - 0.2 * mean) / np.exp(log_std - 2))[inside]
    assert inside.mean() > 0.99 and stats.kstest(standard, "norm").pvalue > 1e-4
    assert (np.asarray(normal_sample(100 + mean, log_std, KEY)) == 1).all()


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.7, -1.0), (-1.0, 0.2)])
def test_the_density_of_actions_integrates_to_one_and_is_the_change_of_variables(mean, log_std):
    def log_density(actions):
        shape = (len(actions), 1)
        return tanh_normal_log_prob(jnp.full(shape, mean), jnp.full(shape, log_std), jnp.asarray(actions)[:, None])

    # in u = arctanh(a) the integrand is smooth up to the ends: p(a) da = p(tanh u) (1 - tanh(u)^2) du
    u = np.linspace(mean - 5 * math.exp(log_std), mean + 5 * math.exp(log_std), 4001)
    u = u[np.abs(u) < 4]  # beyond, float32 rounds tanh(u) to 1
    mass = integrate.trapezoid(np.exp(log_density(np.tanh(u).astype(np.float32))) / np.cosh(u) ** 2, u)
    inside = np.diff(stats.norm.cdf([u[0], u[-1]], mean, math.exp(log_std)))[0]
    np.testing.assert_allclose(mass, inside, atol=1e-4)
    assert inside > 0.99
    actions = np.array([-0.9, -0.3, 0.0, 0.5, 0.95])
    expected = stats.norm.logpdf(np.arctanh(actions), mean, math.exp(log_std)) - np.log(1 - actions**2)
    np.testing.assert_allclose(log_density(actions.astype(np.float32)), expected, rtol=1e-4, atol=1e-4)


def test_a_sample_carries_its_own_log_density_summed_over_dimensions():
    mean, log_std = normal(1, 200, 3), 0.3 * normal(2, 200, 3) - 1
    action, log_prob = tanh_normal_sample(mean, log_std, KEY)
    assert log_prob.shape == (200,)
    np.testing.assert_allclose(log_prob, tanh_normal_log_prob(mean, log_std, action), rtol=1e-2, atol=1e-2)
    u = np.arctanh(np.asarray(action, np.float64).clip(-ACTION_LIMIT, ACTION_LIMIT))
    standard = ((u - mean) / np.exp(log_std)).ravel()
    assert stats.kstest(standard, "norm").pvalue > 1e-4


def test_log_density_and_gradients_are_finite_on_the_bounds():
    mean, log_std = jnp.array([[0.0, 3.0, -8.0]] * 2), jnp.array([[-5.0, 0.0, 2.0]] * 2)
    action = jnp.array([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]])
    value, grads = jax.value_and_grad(lambda *a: tanh_normal_log_prob(*a, action).sum(), (0, 1))(mean, log_std)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in grads)

    def sampled(mean, log_std):
        action, log_prob = tanh_normal_sample(mean, log_std, KEY)
        return log_prob.sum() + action.sum()

    value, grads = jax.value_and_grad(sampled, (0, 1))(jnp.array([[40.0, -40.0, 0.0]]), jnp.array([[2.0, -5.0, 0.0]]))
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in grads)
