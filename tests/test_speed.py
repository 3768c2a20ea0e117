"""What the speed benchmark computes from its clock, and the FLOPs that it counts."""

import jax
import jax.numpy as jnp
import numpy as np

from agents import bc
from benchmarks.speed import COLUMNS, executed, figures
from rlkit.buffer import Buffer
from rlkit.types import Box, Spec, Stage, Stats


def test_rates_shares_and_compilation():
    seconds = np.array([5.0, 1.0, 2.0, 4.0])
    row = figures("sac-rnd:sac", 1024, 10, seconds, 3e9, (50e9, 100e9))
    assert (row["median_updates_s"], row["min_updates_s"], row["max_updates_s"]) == ("5", "2.5", "10")
    # 5 updates a second are 15 GFLOP/s of our own and 32.46 of the official code's 6.492 GFLOP, under 100
    assert (row["share_executed"], row["share_official"], row["compile_s"]) == ("0.150", "0.325", 3.0)
    assert figures("bc", 256, 10, seconds, 3e9, (50e9, 100e9))["share_official"] == ""
    assert set(row) < set(COLUMNS)


def test_executed_counts_the_forward_and_both_backward_products():
    def box(width: int) -> Box:
        return Box((width,), (-1.0,) * width, (1.0,) * width)

    zeros = np.zeros((5, 1), np.float32)
    columns = (zeros.repeat(4, 1), zeros.repeat(3, 1), zeros[:, 0], *np.zeros((3, 5), np.int32))
    buffer = Buffer(*map(jnp.asarray, columns), extra={})
    stats = Stats(np.zeros(4, np.float32), np.ones(4, np.float32), np.zeros(3, np.float32), np.ones(3, np.float32))
    stages = bc.Config(widths=(16, 8), batch_size=32).stages(Spec(box(4), box(3), 10), 1)
    weights = 4 * 16 + 16 * 8 + 8 * 3
    # forward, gradients of the weights, and of the inputs of all layers but the first
    assert executed(stages, buffer, stats) == [2 * 32 * (2 * weights + 16 * 8 + 8 * 3)]


def test_a_scan_counts_as_often_as_it_runs():
    class Learner:
        def init(self, key, prev, stats):
            return jnp.zeros((4, 4))

        def sample(self, buffer, key):
            return jnp.zeros((8, 4))

        def update(self, state, batch, key, step):
            total, _ = jax.lax.scan(lambda total, x: (total + (x @ state).sum(), None), 0.0, batch.reshape(4, 2, 4))
            return state, total

    stage = Stage("one", Learner(), 1)
    assert executed([stage], None, None) == [4 * 2 * 2 * 4 * 4]
