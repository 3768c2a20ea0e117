"""Models that know how sure they are: the bound by hand, and disagreement where there are no labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkit.models.rewards import UNBOUNDED, Ensemble, GaussianProcess, HeldOut, Labels, Quantile, far, pinball


def fitted(model, x, y, steps=1, seed=0):
    """The state after ``steps`` updates on batches of the labels."""
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)

    @jax.jit
    def train(state, key):
        def body(step, state):
            number, there = model.draw(jax.random.fold_in(key, step), jnp.int32(len(x)))
            labels = Labels(x[number], y[number], there.astype(jnp.float32), number.astype(jnp.int32))
            return model.update(state, labels)[0]

        return jax.lax.fori_loop(0, steps, body, state)

    return train(model.init(jax.random.key(seed), x.shape[1]), jax.random.key(seed + 1))


def test_the_conformal_factor_by_hand():
    scores = jnp.array([0.5, 9.0, 0.1, 0.4, 0.2, 0.3])
    held = jnp.array([True, False, True, True, True, True])
    # 5 scores: ceil(6 * 0.8) = 5, the largest of 0.1 ... 0.5; ceil(6 * 0.5) = 3; ceil(6 * 0.9) = 6 is beyond them
    five = HeldOut.of(scores, held)
    assert five.conformal(0.2) == np.float32(0.5)
    assert five.conformal(0.5) == np.float32(0.3)
    assert five.conformal(0.1) == UNBOUNDED
    assert HeldOut.of(scores, jnp.zeros(6, bool)).conformal(0.5) == UNBOUNDED
    nineteen = HeldOut.of(jnp.arange(19.0), jnp.ones(19, bool))
    assert nineteen.conformal(0.05) == 18, "20 * 0.95 is 19, whatever float32 makes of it"


def test_the_share_up_to_a_score_counts_that_score():
    scores = jnp.array([0.5, 9.0, 0.1, 0.4, 0.2, 0.3])
    five = HeldOut.of(scores, scores < 1)
    shares = [float(five.share_up_to(c)) for c in (five.conformal(0.2), five.conformal(0.5), 0.0, UNBOUNDED)]
    assert shares == pytest.approx([1, 0.6, 0, 1])
    assert HeldOut.of(scores, jnp.zeros(6, bool)).share_up_to(1.0) == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_conformal_factor_covers_exactly_its_place_whatever_rounding_makes_of_the_bound(seed):
    """The label whose score is the factor lies on the bound: reward >= mean - factor * spread holds or not by rounding
    alone, and does not for some of these seeds. Its score is counted all the same."""
    keys = jax.random.split(jax.random.key(seed), 3)
    mean, noise = jax.random.normal(keys[0], (200,)), jax.random.normal(keys[1], (200,))
    spread = jax.random.uniform(keys[2], (200,), minval=0.1)

    @jax.jit
    def coverage(mean, spread, reward):
        held_out = HeldOut.of((mean - reward) / spread, jnp.arange(200) < 99)
        return held_out.share_up_to(held_out.conformal(0.05))

    assert round(99 * float(coverage(mean, spread, mean + noise)), 3) == 95


def test_a_row_that_repeats_is_not_far():
    """At width 17 the squared distance of a row to itself comes out as anything up to a few 1e-6."""
    distinct = jax.random.normal(jax.random.key(0), (50, 17))
    x = jnp.tile(distinct, (12, 1))
    row = jnp.arange(600)
    near, held, asked = row < 200, (row >= 200) & (row < 205), row >= 400
    assert far(x, near, held, asked, jax.random.key(1)) == 0
    assert far(jnp.where(asked[:, None], x + 0.1, x), near, held, asked, jax.random.key(1)) == 1


def test_a_conformal_bound_covers_as_often_as_promised():
    scores = jax.random.gumbel(jax.random.key(0), (2000, 60))
    held = jnp.arange(60) < 59
    covered = jax.vmap(lambda row: row[59] <= HeldOut.of(row, held).conformal(0.1))(scores)
    assert abs(covered.mean() - 0.9) < 0.03


def test_pinball_by_hand():
    assert pinball(jnp.array([2.0, -2.0]), 0.1).tolist() == pytest.approx([0.2, 1.8])


@pytest.mark.slow
@pytest.mark.learning
def test_members_disagree_where_there_are_no_labels_and_without_priors_they_do_not():
    x = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    queries = jnp.concatenate([x, x * 0.5 + np.array([6.0, -6.0])]).astype(jnp.float32)
    spreads = {}
    for scale in (0.0, 1.0):
        model = Ensemble(5, (32, 32), scale, bootstrap=True, gaussian=False, learning_rate=3e-3, batch_size=64)
        spread = model.predict(fitted(model, x, np.zeros(200), 1000), queries)[1]
        spreads[scale] = float(spread[:200].mean()), float(spread[200:].mean())
    assert spreads[0.0][1] < 0.02, "all members know no better than 0"
    assert spreads[1.0][1] > 0.5 and spreads[1.0][0] < 0.1


def test_each_member_has_a_resample_of_its_own_that_does_not_change():
    model = Ensemble(4, (8,), 1.0, bootstrap=True, gaussian=False, learning_rate=1e-3, batch_size=8)
    state = model.init(jax.random.key(0), 1)
    rows = jnp.arange(5000)
    weight = np.asarray(jax.jit(model._resample)(state, rows))
    np.testing.assert_array_equal(weight[:, 17], np.asarray(jax.jit(model._resample)(state, rows[17:18]))[:, 0])
    assert abs(weight.mean() - 1) < 0.03 and abs((weight == 0).mean() - np.exp(-1)) < 0.02
    assert abs(np.corrcoef(weight[0], weight[1])[0, 1]) < 0.05


@pytest.mark.slow
@pytest.mark.learning
@pytest.mark.parametrize("gaussian", [False, True])
def test_an_ensemble_learns_the_mean_and_held_out_labels_do_not_count(gaussian):
    x = np.random.default_rng(0).uniform(-2, 2, (400, 1))
    y = np.sin(2 * x[:, 0])
    model = Ensemble(3, (32, 32), 1.0, bootstrap=not gaussian, gaussian=gaussian, learning_rate=3e-3, batch_size=64)
    mean, _ = model.predict(fitted(model, x, y, 1500), jnp.asarray(x, jnp.float32))
    assert np.abs(mean - y).mean() < 0.1
    state = model.init(jax.random.key(0), 1)
    one, other = (
        Labels(jnp.ones((2, 1)), jnp.array([1.0, v]), jnp.array([1.0, 0.0]), jnp.arange(2)) for v in (5.0, -5.0)
    )
    jax.tree.map(np.testing.assert_array_equal, model.update(state, one), model.update(state, other))


@pytest.mark.slow
@pytest.mark.learning
def test_quantiles_follow_skewed_noise():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (4000, 1))
    y = 1 - rng.exponential(1 + x[:, 0] * 0.5)
    model = Quantile(0.1, (32, 32), 3e-3, 256)
    median, gap = model.predict(fitted(model, x, y, 1500), jnp.asarray(x, jnp.float32))
    assert abs((y < median).mean() - 0.5) < 0.04 and abs((y < median - gap).mean() - 0.1) < 0.03
    right = x[:, 0] > 0.5
    assert gap[right].mean() > 1.5 * gap[x[:, 0] < -0.5].mean()


def test_the_process_is_the_posterior_by_hand():
    model = GaussianProcess(length=1.0, noise=0.5, limit=4)
    mean, std = model.predict(fitted(model, [[0.0]], [2.0]), jnp.array([[0.0], [1.0], [9.0]]))
    k = np.exp(-0.5)
    np.testing.assert_allclose(mean, [2 / 1.25, 2 * k / 1.25, 0], atol=1e-5)
    np.testing.assert_allclose(std, np.sqrt([1 - 1 / 1.25, 1 - k**2 / 1.25, 1]), atol=1e-5)
    number, there = model.draw(jax.random.key(0), jnp.int32(3))
    assert number.tolist() == [0, 1, 2, 2] and there.tolist() == [True] * 3 + [False]
    assert model.draw(jax.random.key(0), jnp.int32(10))[0].tolist() == [0, 2, 5, 7]


def test_far_rows_are_those_beyond_the_held_out_ones():
    x = jnp.concatenate([jnp.linspace(0, 1, 100), jnp.linspace(0, 1, 50), jnp.linspace(5, 6, 50)])[:, None]
    near, held, asked = (
        jnp.arange(200) < 90,
        (jnp.arange(200) >= 90) & (jnp.arange(200) < 100),
        jnp.arange(200) >= 100,
    )
    assert abs(far(x, near, held, asked, jax.random.key(0)) - 0.5) < 0.02
    assert far(x, near, jnp.zeros(200, bool), asked, jax.random.key(0)) == 0
