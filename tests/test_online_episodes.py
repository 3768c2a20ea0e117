"""Learning online from whole episodes, as the online decision transformer does: what the replay begins with, what
episodes are told, what is asked for, and that an interruption changes no bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from test_online import SEEDS, Setting, data, on_host

import agents
import envs
from agents import odt
from rlkit import buffer, commands
from rlkit.acting import first_goal
from rlkit.commands import preparation
from rlkit.commands.parsing import parse
from rlkit.online import Online
from rlkit.runs import serialization
from rlkit.testing import bits
from rlkit.training import collect
from rlkit.types import InputError

TARGET, EXPLORING = -1.0, -0.5
CONFIG = odt.Config(
    targets=(TARGET,),
    exploring_target=EXPLORING,
    layers=1,
    heads=1,
    head_width=4,
    mlp=8,
    context=3,
    acting_context=2,
    batch_size=4,
    warmup=2,
    learning_rate=1e-2,
)
HOW = Online(steps=4, unit="episode", updates=2, share=0.0, best=3)


@pytest.fixture(scope="module")
def straight():
    """(setting, all that an uninterrupted training yields). The replay is written four rows at a time, so that it can
    be as small as three episodes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "CHUNK", 4)
        setting = Setting(HOW, CONFIG)
        yield setting, [on_host(point) for point in setting.fit()]


def episodes_of(replay, seed):
    """The episodes that one seed's ring holds whole, the oldest first: [(obs, reward, return to go)] of their steps."""
    rows = replay.t.shape[1]
    order = (np.arange(rows) + replay.place.head[seed]) % rows
    columns = (replay.t, replay.flags, replay.obs, replay.reward, replay.extra["return_to_go"])
    t, flags, *values = (np.asarray(column)[seed, order] for column in columns)
    found, first = [], None
    for row in range(rows):
        if t[row] == 0:
            first = row
        if flags[row] == 0 and first is not None and row > first:
            found.append(tuple(column[first:row] for column in values))
            first = None
    return found


def recorded_by_return():
    """The data's episodes, the worst first, in the same form."""
    recorded, normaliser = data()
    rows = buffer.Buffer.from_episodes(recorded, normaliser, ["return_to_go"])
    starts = np.flatnonzero(np.asarray(rows.t) == 0)
    columns = [np.asarray(column) for column in (rows.obs, rows.reward, rows.extra["return_to_go"])]
    ends = [*starts[1:], len(rows.t)]
    found = [tuple(column[a : b - 1] for column in columns) for a, b in zip(starts, ends, strict=True)]
    return sorted(found, key=lambda episode: episode[1].sum())


def assert_same(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_replay_begins_with_the_best_episodes_and_the_worst_of_them_goes_first(straight):
    setting, points = straight
    begun = next(point for point in points if point.stage == 1)
    after_one = next(point for point in points if point.stage == 1 and point.live.play.units.min() == 1)
    best = recorded_by_return()[-3:]
    for member in range(len(SEEDS)):
        assert_same(episodes_of(begun.live.replay, member), best)
        kept = episodes_of(after_one.live.replay, member)[:-1]
        assert kept
        assert_same(kept, best[-len(kept) :])
    rows = sum(len(episode[0]) + 1 for episode in best)
    assert begun.live.replay.t.shape[1] == rows, "it is full from the start"


def test_each_episode_is_told_the_return_that_came(straight):
    _, points = straight
    for member in range(len(SEEDS)):
        *_, latest = episodes_of(points[-1].live.replay, member)
        _, reward, to_go = latest
        np.testing.assert_allclose(to_go, np.cumsum(reward[::-1])[::-1], rtol=1e-5)
        assert abs(to_go[0] - EXPLORING * 0.5) > 1e-3, "not what was asked for"


def test_more_is_asked_for_while_it_collects_than_when_it_is_evaluated(straight):
    """What is left of the return at an episode's last step is what was asked for, less the rewards before."""
    setting, points = straight
    scale = setting.spec.reward_scale
    begun = next(point for point in points if point.stage == 1)
    np.testing.assert_allclose(begun.live.played.memory.left, np.full((len(SEEDS), 1), EXPLORING * scale))
    for member in range(len(SEEDS)):
        *_, (_, reward, _) = episodes_of(points[-1].live.replay, member)
        left = points[-1].live.played.memory.left[member, 0]
        np.testing.assert_allclose(left, EXPLORING * scale - reward[:-1].sum(), rtol=1e-4)
    assert first_goal(setting.stages[-1].learner) == TARGET


def test_rounds_are_of_one_episode(straight):
    _, points = straight
    episodes = [point.live.play.finished[0] for point in points if point.stage == 1]
    assert episodes == [0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.slow
def test_a_run_goes_on_from_every_update_to_the_same_bits(straight):
    setting, points = straight
    for point in points[:-1]:
        *_, last = setting.fit(resume=point)
        assert bits((last.state, last.live, last.metrics)) == bits(
            (points[-1].state, points[-1].live, points[-1].metrics)
        )


def test_a_replay_of_few_rows_begins_with_those_of_the_best_that_fit():
    rows = [len(episode[0]) + 1 for episode in recorded_by_return()]
    plan = Online(steps=4, unit="episode", updates=2, share=0.0, best=100)
    assert plan.rows(5, rows) == sum(rows) + 5 * 6, "room for what is collected, too"
    assert Online(steps=1000, unit="episode", best=8).rows(5, rows) == sum(rows) + 2 * 6, "for two more"
    assert Online(steps=4, unit="episode", best=6, capacity=12).rows(5, rows) == 12


def test_whole_episodes_are_not_mixed_with_single_steps():
    with pytest.raises(
        InputError, match="--online.unit step: .* 3 best episodes .* --online.unit episode, or .* --online.best 0"
    ):
        Setting(Online(steps=14, best=3))


# --- what a paper fixes ---

CATALOG = commands.Catalog(agents.REGISTRY, envs.make, envs.REFERENCES, envs.DATASETS, envs.episodes)


def test_what_the_paper_fixes_is_the_default_and_what_is_typed_wins():
    """Of the agent, and of a preset, which wins over it."""
    fixed = Online(unit="episode", updates=300, share=0.0, best=1000)
    assert parse(["train", "odt"], CATALOG).online == fixed
    argv = ["train", "odt", "--preset", "hopper/small", "--dataset", "hopper/medium-v0"]
    typed = ["--online.steps", "7", "--online.updates", "5"]
    assert parse([*argv, *typed], CATALOG).online == dataclasses.replace(fixed, steps=7, updates=5)
    argv = ["train", "fql", "--dataset", "cube.npz"]
    assert parse(argv, CATALOG).online == Online()
    assert parse([*argv, "--preset", "cube-double-play/chunks"], CATALOG).online == Online(warmup=5000)


def test_finetuning_begins_with_what_the_runs_agent_and_preset_fix(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("RLKIT_CACHE_DIR", str(cache))
    options = parse(["train", "odt", "--preset", "pendulum", "--eval-episodes", "0"], CATALOG)
    serialization.write_json(tmp_path / "run.json", preparation.resolve(options, CATALOG))
    asked = parse(["finetune", str(tmp_path), "--online.steps", "9"], CATALOG)
    assert asked.online == Online(steps=9, unit="episode", updates=300, share=0.0, best=1000)
    preset = dataclasses.replace(odt.PRESETS["pendulum"], online={"updates": 50})
    monkeypatch.setitem(odt.PRESETS, "pendulum", preset)
    asked = parse(["finetune", str(tmp_path), "--online.steps", "9"], CATALOG)
    assert asked.online == Online(steps=9, unit="episode", updates=50, share=0.0, best=1000)
