"""Every agent that goes online: all that learnt before goes on to learn, whatever schedule it had."""

from __future__ import annotations

import dataclasses
import importlib

import jax
import numpy as np
import pytest
from test_online import Setting, on_host

from agents import REGISTRY
from rlkit import online
from rlkit.optim import Net
from rlkit.testing import bits, shrink
from rlkit.types import InputError

QUICK = {"iql"}  # whose step size has run out when it goes online; the others are slow


def setting(name, changes):
    """A small agent with two rounds online of one episode each."""
    module = importlib.import_module(REGISTRY[name].module)
    config = shrink(module.Config(**changes))
    plan = online.defaults(module.Config)
    plan = dataclasses.replace(plan, steps=2, unit="episode", updates=2, warmup=0, best=min(plan.best, 2))
    return Setting(plan, config, seeds=(3,))


def nets(state):
    """Path -> parameters of every network in ``state`` that an optimiser moves."""
    leaves = jax.tree_util.tree_leaves_with_path(state, is_leaf=lambda node: isinstance(node, Net))
    return {jax.tree_util.keystr(path): bits(leaf.params) for path, leaf in leaves if isinstance(leaf, Net)}


def moved(points, number):
    """The networks that stage ``number`` has moved."""
    of_stage = [point.state for point in points if point.stage == number]
    before, after = nets(of_stage[0]), nets(of_stage[-1])
    return {path for path in before if before[path] != after[path]}


CASES = [pytest.param(name, {}, id=name, marks=() if name in QUICK else pytest.mark.slow) for name in REGISTRY]
for _name in ("diffusion-policy", "doc"):
    CASES.append(pytest.param(_name, {"decay": True}, id=f"{_name}-decay", marks=pytest.mark.slow))


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_what_learns_offline_learns_online(name, changes):
    try:
        tried = setting(name, changes)
        points = [on_host(point) for point in tried.fit()]
    except InputError as refusal:
        assert len(str(refusal).splitlines()) == 1
        pytest.skip(f"does not go online: {refusal}")
    numbers = [number for number, stage in enumerate(tried.stages) if stage.online]
    offline = moved(points, numbers[0] - 1)
    assert offline
    assert moved(points, numbers[-1]) == offline
    for point in points:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(point.state))
