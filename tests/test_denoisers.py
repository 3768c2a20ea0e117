"""The networks that denoise sequences of actions: what each place sees, and how many parameters there are."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkit.networks import DenoisingTransformer, UNet1D
from rlkit.networks.unet import Conv, ConvBlock, Doubled


def parameters(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


UNET = UNet1D(outputs=2, channels=(8, 16), time_width=6)
UNET_INPUTS = normal(0, 3, 8, 2), jnp.array([1.0, 5.0, 9.0]), normal(1, 3, 4)
TRANSFORMER = DenoisingTransformer(outputs=2, layers=2, heads=2, head_width=4)
TRANSFORMER_INPUTS = normal(0, 3, 8, 2), jnp.array([1.0, 5.0, 9.0]), normal(1, 3, 2, 4)


@pytest.fixture(scope="module", params=["unet", "transformer"])
def built(request):
    """(apply, parameters with a strong condition, inputs). At the start the transformer's paths are weak, so that what
    a place sees would hardly show."""
    model, inputs = {"unet": (UNET, UNET_INPUTS), "transformer": (TRANSFORMER, TRANSFORMER_INPUTS)}[request.param]
    params = model.init(jax.random.key(0), *inputs)
    if request.param == "transformer":
        params = jax.tree.map(lambda leaf: 8 * leaf if leaf.ndim == 2 else leaf, params)
    return jax.jit(model.apply), params, inputs


def test_a_row_of_a_batch_is_what_it_is_alone(built):
    apply, params, inputs = built
    together = apply(params, *inputs)
    assert together.shape == (3, 8, 2)
    # other neighbours, in a batch of the same size
    others = [jnp.concatenate([x[:1], x[1:] + 1]) for x in inputs]
    np.testing.assert_allclose(apply(params, *others)[0], together[0], rtol=1e-5, atol=1e-5)


def test_the_level_and_every_observation_matter(built):
    apply, params, (x, t, condition) = built
    before = apply(params, x, t, condition)
    assert np.abs(apply(params, x, t + 1, condition) - before).max() > 1e-2
    flat = condition.reshape(3, -1)
    for number in range(flat.shape[1]):
        moved = flat.at[:, number].add(1.0).reshape(condition.shape)
        assert np.abs(apply(params, x, t, moved) - before).max() > 1e-3, number


def test_a_place_of_the_transformer_sees_no_later_action_and_no_later_observation():
    params = TRANSFORMER.init(jax.random.key(0), *TRANSFORMER_INPUTS)
    params = jax.tree.map(lambda leaf: 8 * leaf if leaf.ndim == 2 else leaf, params)
    apply = jax.jit(TRANSFORMER.apply)
    x, t, obs = TRANSFORMER_INPUTS
    before = apply(params, x, t, obs)
    later = apply(params, x.at[:, 5].add(1.0), t, obs)
    np.testing.assert_allclose(later[:, :5], before[:, :5], atol=1e-5)
    assert (np.abs(later - before).max((0, 2))[5:] > 1e-4).all()
    # the second observation is that of step 1
    seen = apply(params, x, t, obs.at[:, 1].add(1.0))
    np.testing.assert_allclose(seen[:, 0], before[:, 0], atol=1e-5)
    assert (np.abs(seen - before).max((0, 2))[1:] > 1e-4).all()


def test_the_parameters_of_the_unet_are_those_of_its_layers():
    def conv(kernel, inputs, outputs):
        return kernel * inputs * outputs + outputs

    def residual(inputs, outputs):
        condition = 6 + 4  # features of the level, and the observations
        blocks = conv(5, inputs, outputs) + conv(5, outputs, outputs) + 2 * 2 * outputs  # with two GroupNorms
        film = condition * 2 * outputs + 2 * outputs
        beside = conv(1, inputs, outputs) if inputs != outputs else 0
        return blocks + film + beside

    level = (6 * 24 + 24) + (24 * 6 + 6)
    down = residual(2, 8) + residual(8, 8) + conv(3, 8, 8) + residual(8, 16) + residual(16, 16)
    middle = 2 * residual(16, 16)
    up = residual(32, 8) + residual(8, 8) + conv(4, 8, 8)
    last = conv(5, 8, 8) + 2 * 8 + conv(1, 8, 2)
    shapes = jax.eval_shape(UNET.init, jax.random.key(0), *UNET_INPUTS)
    assert parameters(shapes) == level + down + middle + up + last


def test_the_parameters_of_the_transformer_are_those_of_its_layers():
    def dense(inputs, outputs):
        return inputs * outputs + outputs

    norm = 2 * 8
    attention = dense(8, 24) + dense(8, 8)
    cross = dense(8, 8) + dense(8, 16) + dense(8, 8)
    block = 3 * norm + attention + cross + dense(8, 32) + dense(32, 8)
    positions = (8 + 1 + 2) * 8
    memory = dense(4, 8) + dense(8, 32) + dense(32, 8)
    shapes = jax.eval_shape(TRANSFORMER.init, jax.random.key(0), *TRANSFORMER_INPUTS)
    assert parameters(shapes) == dense(2, 8) + memory + positions + 2 * block + norm + dense(8, 2)


def test_a_length_that_cannot_be_halved_keeps_its_steps():
    model = UNet1D(outputs=2, channels=(4, 4, 4), time_width=4)
    x, t, condition = normal(0, 1, 7, 2), jnp.ones(1), normal(1, 1, 3)
    shape = jax.eval_shape(lambda key: model.init_with_output(key, x, t, condition)[0], jax.random.key(0))
    assert shape.shape == (1, 7, 2)


@pytest.mark.parametrize("channels, groups", [(12, 4), (2, 2), (7, 1), (16, 8)])
def test_groups_divide_any_number_of_channels_and_are_normalised_each_by_itself(channels, groups):
    block = ConvBlock(channels, 5)
    x = normal(0, 1, 6, channels)
    params = block.init(jax.random.key(0), x)
    _, kept = block.apply(params, x, capture_intermediates=lambda module, _: isinstance(module, nn.GroupNorm))
    (normed,) = jax.tree.leaves(kept)
    by_group = np.asarray(normed).reshape(6, groups, -1)
    np.testing.assert_allclose(by_group.mean((0, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(by_group.std((0, 2)), 1, atol=1e-2)


def test_products_of_neighbours_are_the_convolutions_that_they_stand_for():
    x = normal(0, 2, 7, 3)
    dimensions = ("NWC", "WIO", "NWC")
    for kernel, stride in ((5, 1), (3, 2), (1, 1)):
        layer = Conv(4, kernel, stride)
        params = layer.init(jax.random.key(0), x)
        dense = params["params"]["Flat_0"]["Dense_0"]
        weights = dense["kernel"].reshape(kernel, 3, 4)
        padding = [(kernel // 2, kernel // 2)]
        expected = jax.lax.conv_general_dilated(x, weights, (stride,), padding, dimension_numbers=dimensions)
        np.testing.assert_allclose(layer.apply(params, x), expected + dense["bias"][None, None], rtol=1e-5, atol=1e-5)
    params = Doubled().init(jax.random.key(0), x)["params"]
    even, odd = (params[f"Dense_{half}"]["kernel"].reshape(2, 3, 3) for half in range(2))
    # place 2 i is made of x[i - 1] and x[i], place 2 i + 1 of x[i] and x[i + 1]
    weights = jnp.stack([even[0], odd[0], even[1], odd[1]])
    spread = jnp.zeros((2, 14, 3)).at[:, ::2].set(x)
    expected = jax.lax.conv_general_dilated(spread, weights, (1,), [(2, 1)], dimension_numbers=dimensions)
    found = Doubled().apply({"params": params}, x)
    np.testing.assert_allclose(found, expected + params["bias"][None, None], rtol=1e-5, atol=1e-5)
