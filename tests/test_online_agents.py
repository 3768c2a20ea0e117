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
from rlkit.online import Online
from rlkit.optim import Net
from rlkit.testing import bits, shrink
from rlkit.types import InputError

# CQL and SAC-RND are in test_online_sac.py, ODT in test_online_episodes.py, PDT in test_online_futures.py
TRAINED = ("iql", "idql", "rebrac", "bc")
QUICK = {"iql"}  # whose step size has run out when it goes online; the others are slow


def planned(name, **changes):
    """(small Config, plan) of two rounds online of one episode each."""
    module = importlib.import_module(REGISTRY[name].module)
    config = shrink(module.Config(**changes))
    plan = online.defaults(module.Config)
    plan = dataclasses.replace(plan, steps=2, unit="episode", updates=2, warmup=0, best=min(plan.best, 2))
    return config, plan


def setting(name):
    """A small agent that goes online for these two rounds."""
    config, plan = planned(name)
    return Setting(plan, config, seeds=(3,))


@pytest.mark.parametrize("name", REGISTRY)
def test_a_learner_that_counts_down_its_updates_does_not_stand_still_online(name):
    """What falls within ``steps`` updates has fallen when they are over: it must go on by another number, or by none.
    Agents that cannot go online say so in one line."""
    offline_spec = Setting(Online(steps=10)).spec
    for changes in ({}, {"decay": True}):
        try:
            config, plan = planned(name, **changes)
            stages = online.stages(config, offline_spec, 40, [plan])
        except TypeError:
            assert changes, "a Config without a field of that name"
            continue
        except InputError as refusal:
            assert len(str(refusal).splitlines()) == 1
            continue
        before = next(stage for stage in reversed(stages) if stage.online is None)
        if hasattr(before.learner, "steps"):
            assert stages[-1].learner.steps != before.learner.steps


def nets(state):
    """Path -> parameters of every network in ``state`` that an optimiser moves."""
    leaves = jax.tree_util.tree_leaves_with_path(state, is_leaf=lambda node: isinstance(node, Net))
    return {jax.tree_util.keystr(path): bits(leaf.params) for path, leaf in leaves if isinstance(leaf, Net)}


def moved(points, number):
    """The networks that stage ``number`` has moved."""
    of_stage = [point.state for point in points if point.stage == number]
    before, after = nets(of_stage[0]), nets(of_stage[-1])
    return {path for path in before if before[path] != after[path]}


CASES = [pytest.param(name, id=name, marks=() if name in QUICK else pytest.mark.slow) for name in TRAINED]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_what_learns_offline_learns_online(name):
    tried = setting(name)
    points = [on_host(point) for point in tried.fit()]
    numbers = [number for number, stage in enumerate(tried.stages) if stage.online]
    offline = moved(points, numbers[0] - 1)
    assert offline
    assert moved(points, numbers[-1]) >= offline
    for point in points:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(point.state))
