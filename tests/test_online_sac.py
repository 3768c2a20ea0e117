"""SAC and its siblings online: in every stage that collects, all that should learn moves."""

import functools
import operator

import jax
import numpy as np
import pytest
from test_online import SEEDS, Setting, on_host, rows_in_order

from agents import cql, sac, sac_rnd
from rlkit.online import Online

SIZES = {"widths": (8,), "batch_size": 4}
CQL = SIZES | {"critic_widths": (8,), "candidates": 2, "lagrange_gap": 0.8, "gamma": 0.9}
BY_STEP = Online(steps=12, warmup=3, share=0.5)
BY_EPISODE = Online(steps=4, unit="episode", warmup=2, updates=3, share=0.5)
RLPD = sac.Config(critics=3, target_critics=2, critic_updates=2, actor_q="mean", critic_norm_first=True, **SIZES)
CAL_QL = cql.Config(calibrate=True, **CQL)
SAC_RND = sac_rnd.Config(rnd_steps=2, rnd_width=8, rnd_embedding=4, **SIZES)
OF_SAC = ("actor.params", "critic.params", "target", "log_alpha.params")
# module, config, how it collects, and which parts of the state are learnt
METHODS = {
    "rlpd": (sac, RLPD, BY_STEP, OF_SAC),
    "cql": (cql, cql.Config(**CQL), BY_STEP, (*OF_SAC, "log_multiplier.params")),
    "cal-ql": (cql, CAL_QL, BY_EPISODE, (*OF_SAC, "log_multiplier.params")),
    "sac-rnd": (sac_rnd, SAC_RND, BY_STEP, (*OF_SAC, "rnd.predictor.params")),
}
pytestmark = pytest.mark.slow


@functools.cache
def ends(name):
    """What the online stage begins and ends with."""
    module, config, how, _ = METHODS[name]
    setting = Setting(how, config, module=module)
    number = len(setting.stages) - 1
    points = [on_host(point) for point in setting.fit() if point.stage == number]
    return points[0], points[-1]


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_moves_online(name):
    first, last = ends(name)
    *_, parts = METHODS[name]
    for part in parts:
        find = operator.attrgetter(part)
        before, _ = jax.tree_util.tree_flatten_with_path(find(first.state))
        after = jax.tree.leaves(find(last.state))
        for (path, a), b in zip(before, after, strict=True):
            for member in range(len(SEEDS)):
                assert not np.array_equal(a[member], b[member]), part + jax.tree_util.keystr(path)


def test_the_betas_have_fallen_at_the_last_update():
    _, last = ends("sac-rnd")
    assert last.metrics["rnd/beta"] == pytest.approx([0.5, 0.5])


def test_the_floor_of_collected_steps_is_their_discounted_return_to_go():
    _, last = ends("cal-ql")
    replay = last.live.replay
    for member in range(len(SEEDS)):
        written = int(replay.place.head[member])
        assert written > 4
        rows = rows_in_order(replay, member)[-written:]
        expected = np.zeros(written + 1)
        for number in reversed(range(written)):
            _, _, reward, _, flags = rows[number]
            if flags:
                expected[number] = reward + 0.9 * expected[number + 1]
        column = replay.extra["return_to_go@0.9"][member]
        np.testing.assert_allclose(column[:written], expected[:-1], rtol=1e-5, atol=1e-6)
