"""An actor and critics where XLA compiles as it does for a user: the conformance suite, which makes the same claims of
every agent, is compiled without its optimiser."""

import jax
import numpy as np
import pytest

from agents import td3_bc
from rlkit.testing import bits, build, final


@pytest.mark.learning
def test_neither_chunks_nor_an_interruption_change_a_bit(mesh):
    agent = build(td3_bc, "continuous")
    saved = {}
    for progress in agent.fit(mesh, chunk_seconds=0):  # one update after another
        saved[progress.step] = progress._replace(
            state=jax.device_get(progress.state), sums=jax.device_get(progress.sums)
        )
    straight = final(agent.fit(mesh))
    assert straight.step == max(saved)
    middle = saved[7]  # of a log interval
    for other in (saved[straight.step], final(agent.fit(mesh, resume=middle))):
        assert bits(straight.state) == bits(other.state)
        for name, value in straight.metrics.items():
            np.testing.assert_array_equal(value, other.metrics[name], err_msg=name)
