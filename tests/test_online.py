"""Online stages: what is collected, what is learnt from it, and that an interruption changes no bit."""

from __future__ import annotations

import dataclasses
import functools

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import sac
from rlkit import online, ring
from rlkit.buffer import Buffer, needs, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.online import Online
from rlkit.testing import bits, one_device
from rlkit.training import collect, loop
from rlkit.training.collect import Collector
from rlkit.types import InputError, RunError

CONFIG = sac.Config(widths=(8,), batch_size=4)
SEEDS = (3, 4)
LIMIT = 5  # steps of an episode


class Line(gymnasium.Env):
    """A point on a line, which moves by the action and is pushed at random. Episodes with an even push end early."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
    noise = 0.0  # that reset does not repeat

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._x = self.np_random.normal()
        self._ends_early = self.np_random.integers(2)
        self._t = 0
        return self._obs(), {}

    def step(self, action):
        self._x += 0.3 * float(action[0]) + 0.1 * self.np_random.normal() + self.noise * np.random.normal()
        self._t += 1
        terminated = bool(self._ends_early and self._t == 3)
        return self._obs(), -abs(self._x), terminated, False, {}

    def _obs(self):
        return np.array([self._x, self._t], np.float32)


class Noisy(Line):
    noise = 0.1


class Unplugged(Line):
    def reset(self, *, seed=None, options=None):
        raise OSError("no such port")


class Shrinks(Line):
    """Its observation loses a number at its third step."""

    def step(self, action):
        obs, *rest = super().step(action)
        return obs[: 1 if self._t == 3 else 2], *rest


gymnasium.register("Line-v0", Line, max_episode_steps=LIMIT)
gymnasium.register("Noisy-v0", Noisy, max_episode_steps=LIMIT)
gymnasium.register("Endless-v0", Line)
gymnasium.register("Unplugged-v0", Unplugged, max_episode_steps=LIMIT)
gymnasium.register("Shrinks-v0", Shrinks, max_episode_steps=LIMIT)


@functools.cache
def data():
    """(episodes, normaliser) of random actions on the line."""
    env, episodes = gymnasium.make("Line-v0"), []
    rng = np.random.default_rng(0)
    for seed in range(6):
        obs, _ = env.reset(seed=seed)
        rows = {"observations": [obs], "actions": [], "rewards": [], "terminations": [], "truncations": []}
        done = False
        while not done:
            action = rng.uniform(-2, 2, 1).astype(np.float32)
            obs, reward, terminated, truncated, _ = env.step(action)
            for name, value in zip(rows, (obs, action, reward, terminated, truncated), strict=True):
                rows[name].append(value)
            done = terminated or truncated
        episodes.append({name: np.array(values) for name, values in rows.items()})
    recorded = from_episodes(episodes, action_space=Line.action_space)
    return recorded, Normaliser.fit(recorded, DataOptions("line", normalise="standard", reward_scale=0.5))


class Setting:
    """A SAC that goes on online after a few updates offline."""

    def __init__(self, how, config=CONFIG, env="Line-v0", seeds=SEEDS, module=sac):
        recorded, self.normaliser = data()
        self.spec = spec(recorded, LIMIT, self.normaliser)
        self.stages = online.stages(config, self.spec, 4, [how])
        self.buffer = Buffer.from_episodes(recorded, self.normaliser, needs(self.stages))
        self.moments = stats(self.buffer)
        self.seeds = seeds
        self._env = env

    def collector(self):
        """Environments of its own: a process that goes on has new ones."""
        make = functools.partial(gymnasium.make, self._env)
        return Collector(self.seeds, self.spec, self.normaliser, make, one_device(), data=self.buffer)

    def fit(self, resume=None, collector=None, **options):
        """Training, of which every update is yielded."""
        return loop.fit(
            self.stages, self.buffer, self.moments, self.seeds, log_every=1, mesh=one_device(), resume=resume,
            collector=collector or self.collector(), **options,
        )  # fmt: skip


def on_host(progress):
    """A copy that stays when arrays are donated."""
    state, live = jax.tree.map(np.array, jax.device_get((progress.state, progress.live)))
    return progress._replace(state=state, live=live)


HOW = {
    "mixed": Online(steps=14, warmup=3),
    "half": Online(steps=14, warmup=3, share=0.5, updates=2, every=2),
    "alone": Online(steps=14, warmup=3, share=0.0, lanes=2),
    "a small ring": Online(steps=14, warmup=3, share=0.5, capacity=8),
}


@pytest.fixture(
    scope="module", params=["mixed", *(pytest.param(name, marks=pytest.mark.slow) for name in list(HOW)[1:])]
)
def straight(request):
    """(setting, all that an uninterrupted training yields)."""
    setting = Setting(HOW[request.param])
    return setting, [on_host(progress) for progress in setting.fit()]


def test_a_run_goes_on_from_every_update_to_the_same_bits(straight):
    """State, replay, the agents' memories, what was measured, and what the environments are in the middle of."""
    setting, points = straight
    for point in points[:-1]:
        *_, last = setting.fit(resume=point)
        assert bits((last.state, last.live, last.metrics)) == bits(
            (points[-1].state, points[-1].live, points[-1].metrics)
        )


def rows_in_order(replay, seed):
    """The written rows of one seed's ring, the oldest first: [(obs, action, reward, t, flags)]."""
    head = int(replay.place.head[seed])
    capacity = replay.t.shape[1]
    order = (np.arange(capacity) + head) % capacity
    columns = [
        np.asarray(column)[seed, order] for column in (replay.obs, replay.action, replay.reward, replay.t, replay.flags)
    ]
    return list(zip(*columns, strict=True))


def test_the_replay_holds_the_environments_steps():
    """Played again with the recorded actions, each episode gives the recorded rows, in the agents' units."""
    setting = Setting(HOW["mixed"])
    collector = setting.collector()
    *_, last = setting.fit(collector=collector)
    normaliser = setting.normaliser
    for member, seed in enumerate(SEEDS):
        replay = last.live.replay
        written = int(replay.place.head[member])
        rows = rows_in_order(replay, member)[-written:]
        env = gymnasium.make("Line-v0")
        number, done = -1, True
        for obs, action, reward, t, flags in rows:
            if t == 0:
                assert done
                number += 1
                seen, _ = env.reset(seed=int(np.random.SeedSequence((seed, 1, number)).generate_state(1)[0]))
                done = False
            np.testing.assert_array_equal(obs, normaliser.obs(seen))
            if done:
                assert flags == 0
                continue
            seen, paid, terminated, truncated, _ = env.step(np.float32(normaliser.env_action(action)))
            np.testing.assert_allclose(reward, normaliser.reward(np.float32(paid)), rtol=1e-5, atol=1e-6)
            assert bool(flags & 4) == terminated
            done = terminated or truncated
        assert last.live.play.steps[member] == 14
        assert number + 1 == last.live.play.begun[member]
        assert last.metrics["online/episodes"][member] == last.live.play.finished[member] >= 2


def test_steps_are_collected_as_the_pace_says():
    steps = [point.live.play.steps[0] for point in Setting(HOW["half"]).fit() if point.stage == 1]
    assert steps == [0, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13]
    assert [Online(steps=100, warmup=10, every=5).target(u) for u in range(4)] == [15, 20, 25, 30]
    assert Online(steps=100, lanes=3).target(0) == 6, "two ticks, before which nothing can be drawn"


@pytest.mark.parametrize("share", [0.0, 0.5, None])
def test_a_batch_has_its_share_of_the_data(share):
    """The data's actions are marked, and so is their number in a batch."""
    setting = Setting(Online(steps=6, share=share))
    *_, last = setting.fit()
    marked = setting.buffer._replace(action=jnp.full_like(setting.buffer.action, 7.0))
    replay = ring.of_seed(last.live.replay, jnp.int32(0))
    learner = dataclasses.replace(setting.stages[1].learner, config=dataclasses.replace(CONFIG, batch_size=200))
    batch = loop._mixed(learner, share, marked, replay, jax.random.key(0))
    from_data = np.asarray(batch.action[:, 0]) == 7.0
    if share is None:
        expected = marked.count / (marked.count + int(replay.count))
        assert from_data.mean() == pytest.approx(expected, abs=0.1)
    else:
        assert from_data.tolist() == [number < 200 * share for number in range(200)]


def test_what_a_seed_collects_does_not_depend_on_its_neighbours():
    both = Setting(HOW["half"])
    alone = Setting(HOW["half"], seeds=SEEDS[1:])
    *_, together = both.fit()
    *_, single = alone.fit()
    for name in ("obs", "action", "reward", "t"):
        np.testing.assert_allclose(
            getattr(together.live.replay, name)[1], getattr(single.live.replay, name)[0], rtol=1e-4, atol=1e-5
        )


def test_nothing_is_compiled_or_transferred_in_silence_once_an_online_stage_runs():
    setting = Setting(HOW["half"])
    list(setting.fit())
    programs = (loop._chunk, ring.insert, collect._act)
    compiled = [program._cache_size() for program in programs]
    # what the environments gave is an argument of compiled calls, which move it
    with jax.transfer_guard_device_to_host("disallow"):
        for progress in setting.fit():
            jax.block_until_ready(progress.state)
    assert [program._cache_size() for program in programs] == compiled and min(compiled) > 0


def test_no_seed_gets_a_copy_of_the_replay():
    """Memory that a chunk of two seeds allocates beside its inputs and outputs, with rings of a million rows."""
    setting = Setting(HOW["half"])
    stage = setting.stages[1]
    large = ring.empty(setting.spec, stage.learner.needs, 2, 1_000_000, 1)
    rows = sum(leaf.nbytes for leaf in jax.tree.leaves(large))
    replay, buffer = jax.eval_shape(lambda: (large, setting.buffer))
    _, keys = jax.eval_shape(lambda: loop._stage_keys(np.arange(2, dtype=np.uint32), 0))
    state = loop.abstract_state(setting.stages, 1, buffer, setting.moments, SEEDS)
    number = jax.ShapeDtypeStruct((), np.int32)
    sums = jax.eval_shape(lambda: {name: jnp.zeros(2) for name in metric_names(stage, setting)})
    lowered = loop._chunk.lower(stage.learner, one_device(), 0.5, state, sums, buffer, replay, keys, number, number)
    assert rows > 40_000_000
    assert lowered.compile().memory_analysis().temp_size_in_bytes < rows / 10


def metric_names(stage, setting):
    """Names of the metrics of an update."""
    state = jax.jit(stage.learner.init, static_argnums=1)(jax.random.key(0), None, setting.moments)
    batch = stage.learner.sample(setting.buffer, jax.random.key(0))
    _, metrics = jax.eval_shape(stage.learner.update, state, batch, jax.random.key(0), np.int32(0))
    return metrics


def test_an_environment_that_does_not_play_again_costs_its_episode_and_one_line(capsys):
    setting = Setting(HOW["half"], env="Noisy-v0")
    points = [on_host(progress) for progress in setting.fit()]
    middle = next(point for point in points if point.stage == 1 and (point.live.play.t > 0).all() and point.step > 2)
    capsys.readouterr()
    *_, last = setting.fit(resume=middle)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == len(SEEDS) and all("does not play episode" in line for line in told)
    assert (last.live.play.steps == 13).all()
    for member in range(len(SEEDS)):
        t = [row[3] for row in rows_in_order(last.live.replay, member)]
        written = int(last.live.replay.place.head[member])
        pairs = zip(t[-written:], t[-written + 1 :], strict=False)
        assert all(after in (before + 1, 0) for before, after in pairs), "no gap within an episode"


def test_an_environment_without_a_time_limit_is_refused_in_one_line():
    with pytest.raises(InputError, match="Endless-v0 has no time limit"):
        list(Setting(HOW["half"], env="Endless-v0").fit())


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ("Unplugged-v0", "episode 0 .*, step 0: the environment's reset raised OSError: no such port"),
        ("Shrinks-v0", r"step 2: the observation has the shape \[1\], but its space has \[2\]"),
    ],
)
def test_an_environment_that_fails_ends_the_run_with_one_line_and_its_checkpoint_stays(env, told):
    with pytest.raises(RunError, match=f"collecting of seed 0, .*{told}.*; the last checkpoint is kept") as caught:
        list(Setting(HOW["half"], env=env).fit())
    assert "\n" not in str(caught.value)


def test_steps_that_are_too_few_for_a_round_are_refused():
    with pytest.raises(InputError, match="no round of updates fits"):
        Setting(Online(steps=5, warmup=5))


def test_a_seed_whose_actions_are_not_finite_stands_still_and_the_others_go_on():
    setting = Setting(HOW["half"])
    points = [on_host(progress) for progress in setting.fit()]
    start = next(point for point in points if point.stage == 1 and point.step == 4)

    def spoil(leaf):
        if not np.issubdtype(leaf.dtype, np.floating):
            return leaf
        return np.concatenate([np.full_like(leaf[:1], np.nan), leaf[1:]])

    *_, last = setting.fit(resume=start._replace(state=jax.tree.map(spoil, start.state)))
    assert last.live.play.stopped.tolist() == [True, False]
    assert last.live.play.steps.tolist() == [7, 13]
    of_second = functools.partial(jax.tree.map, lambda leaf: np.asarray(leaf)[1])
    assert bits(of_second(last.state)) == bits(of_second(points[-1].state))
