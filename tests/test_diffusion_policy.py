"""Diffusion Policy: where chunks begin, what is learnt from at the ends of episodes, what acts, and two modes."""

import dataclasses
import json

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlkit
from agents import diffusion_policy
from agents.diffusion_policy import DiffusionPolicy
from benchmarks import sampler_steps
from rlkit import optim
from rlkit.acting import first_goal
from rlkit.buffer import Buffer, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.evaluation.evaluate import Evaluator
from rlkit.training import loop
from rlkit.training.sharding import make_mesh
from rlkit.types import InputError, Percept

SMALL = diffusion_policy.Config(
    obs_steps=2, horizon=6, action_steps=3, levels=8, steps=4, sampler="ddim", channels=(4,), time_width=4,
    batch_size=8, warmup=1, learning_rate=1e-2,
)  # fmt: skip


def counting(length, lengths=1):
    """Episodes in which observation and action are the step's number over 100."""
    episodes = []
    for extra in range(lengths):
        steps = np.arange(length + extra + 1, dtype=np.float32)[:, None] / 100
        episodes.append({"observations": steps, "actions": steps[:-1], "rewards": np.zeros(length + extra)})
    return from_episodes(episodes, name="counting", action_space=gymnasium.spaces.Box(-1, 1, (1,)))


def build(config, data, steps=4):
    """(learner, buffer, statistics)"""
    buffer = Buffer.from_episodes(data, Normaliser.fit(data, DataOptions("counting")))
    return config.stages(spec(data, None), steps)[0].learner, buffer, stats(buffer)


# ---- chunks


@dataclasses.dataclass(frozen=True)
class Knowing(DiffusionPolicy):
    """Its chunks are those of `counting`'s data: the action of a place is the number of that step, from the step of the
    first observation on."""

    def plan(self, state, memory, key):
        first = memory[-1] - (self.config.obs_steps - 1) / 100
        return first[None] + jnp.arange(self.config.horizon)[:, None] / 100


class Clock(gymnasium.Env):
    """Observes the number of the step over 100, and keeps the actions of every episode."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, taken):
        self.taken = taken

    def reset(self, *, seed=None, options=None):
        self.t = 0
        self.length = 7 + seed % 5
        self.taken[seed] = []
        self.seed = seed
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.taken[self.seed].append(float(action[0]))
        self.t += 1
        return np.float32([self.t / 100]), 0.0, False, self.t == self.length, {}


@pytest.mark.parametrize("obs_steps, action_steps", [(2, 3), (3, 1), (1, 4)])
def test_executed_actions_are_consecutive_across_plans_and_resets(obs_steps, action_steps):
    """An agent that begins at place 0 of its chunk repeats the past. There are more episodes than environments, so that
    plans of different ages stand side by side."""
    config = dataclasses.replace(SMALL, obs_steps=obs_steps, action_steps=action_steps)
    data = counting(9)
    agent = Knowing(config, spec(data, None), 1)
    taken = {}
    normaliser = Normaliser.fit(data, DataOptions("counting"))
    player = Evaluator(agent, normaliser, lambda: Clock(taken), episodes=5, envs_per_seed=2)
    player.run(jnp.zeros(1))
    assert sorted(taken) == list(range(5))
    for seed, actions in taken.items():
        np.testing.assert_allclose(actions, np.arange(7 + seed) / 100, atol=1e-6)


def test_the_chunks_of_the_data_are_laid_out_as_those_that_are_taken():
    """What `Knowing` believes of chunks is what the network is trained on."""
    agent, buffer, _ = build(SMALL, counting(9, lengths=3))
    batch = agent.sample(buffer, jax.random.key(0))
    assert batch.action.shape == (8, 6, 1)
    knowing = Knowing(agent.config, agent.spec, 1)
    known = jnp.stack([knowing.plan(None, obs, None) for obs in batch.obs[:, :2]])
    # at an episode's start both observations are the first: the chunk begins with the step before
    inside = np.asarray(batch.mask)
    np.testing.assert_allclose(np.asarray(batch.action)[inside], np.asarray(known)[inside], atol=1e-6)


def test_chunks_repeat_the_edges_and_are_learnt_from_as_far_as_they_can_be_taken():
    """An episode of 4 steps, chunks of 6 places, of which number 1 is the present: it is step 0, 2 and 3."""
    agent, buffer, _ = build(SMALL, counting(4))
    windows = buffer.around(jnp.array([0, 2, 3]), 1, 4, 1.0)
    steps = np.round(100 * np.asarray(windows.action[..., 0])).astype(int).tolist()
    assert steps == [[0, 0, 1, 2, 3, 3], [1, 2, 3, 3, 3, 3], [2, 3, 3, 3, 3, 3]]
    observed = np.round(100 * np.asarray(windows.obs[:, :2, 0])).astype(int).tolist()
    assert observed == [[0, 0], [1, 2], [2, 3]]
    # three actions are taken: two of them may lie behind the end
    learnt = np.asarray(agent.learnt(windows.mask)).astype(int).tolist()
    assert learnt == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]]


def test_places_that_cannot_be_taken_move_nothing():
    agent, buffer, moments = build(SMALL, counting(4))
    state = agent.init(jax.random.key(0), None, moments)
    windows = buffer.around(jnp.full(8, 3), 1, 4, 1.0)
    other = windows._replace(mask=jnp.ones_like(windows.mask))
    update = jax.jit(agent.update)
    losses = [update(state, batch, jax.random.key(1), jnp.int32(0))[1]["policy/loss"] for batch in (windows, other)]
    assert abs(losses[0] - losses[1]) > 1e-4


def test_the_memory_begins_with_the_first_observation_repeated():
    agent, _, _ = build(dataclasses.replace(SMALL, obs_steps=3), counting(4))
    memory = agent.begin(None, first_goal(agent))
    seen = []
    for t, value in enumerate((5.0, 6.0, 7.0, 8.0)):
        memory = agent.observe(None, memory, Percept(jnp.full(1, value), jnp.float32(0), jnp.int32(t)))
        seen.append(memory[:, 0].tolist())
    assert seen == [[5, 5, 5], [5, 5, 6], [5, 6, 7], [6, 7, 8]]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"action_steps": 6}, "make it 7 or more"),
        ({"action_steps": 90, "horizon": 99}, "the longest episode has"),
        ({"steps": 9}, "there are 8 noise levels"),
        ({"network": "transformer", "heads": 1, "head_width": 3}, "must be even"),
    ],
)
def test_what_cannot_be_acted_by_is_refused_in_one_line(changes, words):
    with pytest.raises(InputError, match=words):
        build(dataclasses.replace(SMALL, **changes), counting(4))


# ---- training


def test_the_average_warms_up():
    """As the official code's: 1 - (1 + k)^-0.75, at most 0.9999."""
    kept = [float(optim.ema_decay(jnp.int32(k), 0.75, 0.9999)) for k in (0, 1, 15, 10**6)]
    np.testing.assert_allclose(kept, [0, 1 - 2**-0.75, 0.875, 0.9999], rtol=1e-6)


@pytest.fixture(scope="module")
def trained():
    """(agent, its state at the start, after each update, and in the end)"""
    agent, buffer, moments = build(SMALL, counting(9))
    stages = SMALL.stages(agent.spec, 400)
    mesh = make_mesh(1, jax.devices()[:1])
    states = [jax.device_get(p.state) for p in loop.fit(stages, buffer, moments, (0,), log_every=1, mesh=mesh)]
    return agent, [jax.tree.map(lambda leaf: leaf[0], state) for state in states]


def test_the_average_is_that_of_the_parameters_with_the_state_donated(trained):
    """The loop donates the state, which holds the parameters twice at the start: they must not be the same array. After
    each update the average moves to the new parameters, by all of the way at the first."""
    params = [_vector(state.net.params) for state in trained[1][:5]]
    average = [_vector(state.ema) for state in trained[1][:5]]
    np.testing.assert_array_equal(params[0], average[0])
    np.testing.assert_allclose(average[1], params[1], atol=1e-7)
    for k in range(1, 4):
        kept = 1 - (1 + k) ** -0.75
        np.testing.assert_allclose(average[k + 1], kept * average[k] + (1 - kept) * params[k + 1], atol=1e-6)
    assert np.abs(average[4] - params[4]).max() > 1e-5


def _vector(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_the_average_acts_and_the_sampler_is_chosen_after_training(trained):
    agent, (*_, state) = trained
    memory = jnp.full((2, 1), 0.3)

    def plan(state, **changes):
        acting = dataclasses.replace(agent, config=dataclasses.replace(agent.config, **changes))
        return np.asarray(jax.jit(acting.plan)(state, memory, jax.random.key(1)))

    before = plan(state)
    twice = jax.tree.map(lambda leaf: 2 * leaf, state.net.params)
    np.testing.assert_array_equal(plan(state._replace(net=state.net._replace(params=twice))), before)
    assert np.abs(plan(state._replace(ema=twice)) - before).max() > 1e-3
    for changes in ({"steps": 8}, {"sampler": "ddpm"}, {"sampler": "dpm-solver++"}):
        other = plan(state, **changes)
        assert other.shape == before.shape and np.abs(other - before).max() > 1e-4
    shapes = [
        jax.eval_shape(dataclasses.replace(agent, config=config).init, jax.random.key(0), None, None)
        for config in (SMALL, dataclasses.replace(SMALL, steps=2, sampler="ddpm", action_steps=5))
    ]
    assert jax.tree.map(lambda leaf: leaf.shape, shapes[0]) == jax.tree.map(lambda leaf: leaf.shape, shapes[1])


# ---- a run


@pytest.mark.slow
def test_a_run_keeps_its_limits_and_its_sampler_can_be_changed_when_it_is_evaluated(rlkit_command, tmp_path):
    sizes = {
        "obs-steps": 2, "horizon": 6, "action-steps": 3, "levels": 8, "channels": 4, "time-width": 4,
        "batch-size": 16, "steps": 8,
    }  # fmt: skip
    options = [word for name, value in sizes.items() for word in (f"--config.{name}", value)]
    run = tmp_path / "run"
    code, _, err = rlkit_command(
        "train", "diffusion-policy", "--dataset", "pendulum/mixed-v0", "--steps", 4, "--log-every", 2,
        "--normalise", "limits", "--eval-episodes", 1, *options, "--out", run,
    )  # fmt: skip
    assert code == 0, err
    code, out, err = rlkit_command(
        "evaluate", run, "--episodes", 2, "--config.steps", 2, "--config.sampler", "dpm-solver++"
    )
    assert code == 0 and "steps" in out, err
    record = json.loads((run / "run.json").read_text())
    assert record["data"]["options"]["normalise"] == "limits"
    policy = rlkit.load(run, config={"steps": 2, "sampler": "ddim"})
    action = policy.act(np.array([1.0, 0.0, 0.0], np.float32))
    assert action.shape == (1,) and np.abs(action).max() <= 2
    centre = np.asarray(record["normaliser"]["obs_mean"])
    half = np.asarray(record["normaliser"]["obs_scale"])
    assert (np.abs(centre[:2]) < 0.1).all() and (half[:2] > 0.9).all()  # cosine and sine of the angle
    assert set(record["spec"]["observation"]["low"]) == {-1.0}

    # the benchmark of samplers
    found = list(sampler_steps.rows(run, (2,), episodes=2))
    assert [(row["sampler"], row["steps"]) for row in found] == [("ddim", "2"), ("dpm-solver++", "2")]
    for row in found:
        assert float(row["return_low"]) <= float(row["return"]) < 0 and float(row["actions_per_second"]) > 0
    sampler_steps.write(tmp_path / "steps.csv", found)
    sampler_steps.draw(tmp_path / "steps.png", found)
    assert len((tmp_path / "steps.csv").read_text().splitlines()) == 3
    assert (tmp_path / "steps.png").stat().st_size > 5000
