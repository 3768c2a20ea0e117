"""Decision transformer: what a token may see, what is learnt from, what a target means, and when luck is not skill."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import agents
import envs
import rlkit
from agents import dt
from rlkit import commands, networks
from rlkit.buffer import Buffer, needs, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.runs.run import evaluations_by_goal
from rlkit.testing import random_episodes
from rlkit.types import InputError, Percept, Windows

SMALL = dt.Config(layers=2, heads=2, head_width=4, mlp=16, context=4, batch_size=8, dropout=0.0, warmup=1)


def prepare(config, data, steps, **options):
    """(stages, buffer, statistics, specification) of ``config`` on ``data``."""
    normaliser = Normaliser.fit(data, DataOptions("toy", **options))
    form = spec(data, None, normaliser)
    stages = config.stages(form, steps)
    buffer = Buffer.from_episodes(data, normaliser, needs(stages))
    return stages, buffer, stats(buffer), form


def first_state(config, data, **options):
    stages, buffer, moments, _ = prepare(config, data, 1, **options)
    agent = stages[0].learner
    return agent, agent.init(jax.random.key(0), None, moments), buffer


def windows(seed=0, batch=2, length=4):
    rng = np.random.default_rng(seed)
    return (
        jnp.asarray(rng.normal(size=(batch, length)), jnp.float32),
        jnp.asarray(rng.normal(size=(batch, length, 3)), jnp.float32),
        jnp.asarray(rng.uniform(-1, 1, (batch, length, 2)), jnp.float32),
        jnp.tile(jnp.arange(length)[None], (batch, 1)),
    )


def small_model(**changes):
    sizes = {"outputs": 2, "horizon": 20, "layers": 2, "heads": 2, "head_width": 4, "mlp": 16, "dropout": 0.0}
    return networks.DecisionTransformer(**(sizes | changes))


def prepared(model, inputs):
    """(apply, parameters): with attention as strong as after training, so that it shows what a token sees."""
    params = model.init(jax.random.key(0), *inputs)
    trunk = jax.tree.map(lambda x: 8 * x, params["params"]["trunk"])
    return jax.jit(model.apply, static_argnames="method"), {"params": params["params"] | {"trunk": trunk}}


def test_an_answer_sees_nothing_that_comes_after_it():
    model, inputs = small_model(), windows()
    apply, params = prepared(model, inputs)
    answer = apply(params, *inputs)
    to_go, obs, action, t = inputs
    # the step's own action, and everything later
    later = (to_go.at[:, 3].add(1.0), obs.at[:, 3].add(1.0), action.at[:, 2:].add(1.0), t.at[:, 3].add(1))
    changed = apply(params, *later)
    np.testing.assert_allclose(changed[:, :3], answer[:, :3], atol=1e-5)
    assert np.abs(changed[:, 3] - answer[:, 3]).min() > 1e-3
    for number, name in enumerate(("to_go", "obs")):
        seen = list(inputs)
        seen[number] = seen[number].at[:, 2].add(1.0)
        assert np.abs(apply(params, *seen)[:, 2] - answer[:, 2]).max() > 1e-3, name


def test_padding_on_the_left_changes_no_answer():
    model, inputs = small_model(), windows()
    apply, params = prepared(model, inputs)
    answer = apply(params, *inputs)
    padded = [jnp.concatenate([jnp.full((2, 5, *x.shape[2:]), 7, x.dtype), x], 1) for x in inputs]
    valid = jnp.tile(jnp.arange(9)[None] >= 5, (2, 1))
    np.testing.assert_allclose(apply(params, *padded, valid)[:, 5:], answer, atol=1e-5)


def test_a_token_sees_as_many_steps_as_the_band_is_wide():
    model, inputs = small_model(layers=1, band=2), windows(length=6)
    apply, params = prepared(model, inputs)
    answer = apply(params, *inputs)
    to_go, obs, action, t = inputs
    changed = apply(params, to_go.at[:, 1].add(1.0), obs.at[:, 1].add(1.0), action.at[:, 1].add(1.0), t)
    moved = np.abs(changed - answer).max((0, 2)) > 1e-4
    assert moved.tolist() == [False, True, True, False, False, False]


@pytest.mark.parametrize("return_token", [True, False])
def test_reading_each_step_once_answers_as_reading_the_whole_episode_under_the_band(return_token):
    model, inputs = small_model(band=3, return_token=return_token), windows(length=12)
    apply, params = prepared(model, inputs)
    whole = apply(params, *inputs)
    to_go, obs, action, t = inputs
    before = jnp.concatenate([jnp.full((2, 1, 2), 7.0), action[:, :-1]], 1)  # anything where none was taken
    past = model.nothing_read(2)
    for step in range(12):
        now = (to_go[:, step], obs[:, step], before[:, step], t[:, step])
        answer, past = apply(params, past, *now, method="extend")
        np.testing.assert_allclose(answer, whole[:, step], rtol=1e-5, atol=1e-5)
    # not what the window of the last three steps answers: deeper layers have seen the steps before it
    window = apply(params, *(x[:, -3:] for x in inputs))[:, -1]
    assert np.abs(window - answer).max() > 1e-3


def test_parameters_at_the_papers_size():
    paper = dataclasses.replace(SMALL, layers=3, heads=1, head_width=128, mlp=512, context=20)
    model = networks.DecisionTransformer(3, 1000, paper.layers, paper.heads, paper.head_width, paper.mlp, 0.1)
    shapes = jnp.zeros((1, 2)), jnp.zeros((1, 2, 11)), jnp.zeros((1, 2, 3)), jnp.zeros((1, 2), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), *shapes)
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params)) == 726_019


def test_the_loss_of_a_half_masked_batch_by_hand():
    agent, state, _ = first_state(SMALL, from_episodes(random_episodes()))
    to_go, obs, action, t = windows()
    mask = jnp.array([[True, True, False, False], [True, False, False, False]])
    batch = Windows(obs, action, to_go, to_go, t, mask, mask, {"return_to_go": to_go})
    _, metrics = jax.jit(agent.update)(state, batch, jax.random.key(1), jnp.int32(0))
    answer = np.tanh(agent._model.apply(state.net.params, to_go / state.scale, obs, action, t))
    error = ((answer - np.asarray(action)) ** 2).mean(-1)
    np.testing.assert_allclose(metrics["policy/loss"], (error[0, 0] + error[0, 1] + error[1, 0]) / 3, rtol=1e-5)


@functools.partial(jax.jit, static_argnums=0)
def step(agent, state, memory, percept):
    """(action, memory) after a step of an episode."""
    memory = agent.observe(state, memory, percept)
    action, memory = agent.act(state, memory, jax.random.key(0), greedy=True)
    return action[0], memory


def played(agent, state, goal, rewards):
    """What is left of the return before each step."""
    memory, left = agent.begin(state, jnp.float32(goal)), []
    for t, reward in enumerate([0.0, *rewards]):
        percept = Percept(jnp.zeros(3), jnp.float32(reward), jnp.int32(t))
        _, memory = step(agent, state, memory, percept)
        left.append(float(memory.left))
    return left, memory


def test_the_return_to_go_of_the_data_is_what_acting_tracks():
    episode = random_episodes(1, 3)[0] | {"rewards": np.array([1.0, 2.0, 3.0], np.float32)}
    agent, state, buffer = first_state(SMALL, from_episodes([episode]))
    assert buffer.extra["return_to_go"][:3].tolist() == [6, 5, 3]
    left, memory = played(agent, state, 6.0, [1.0, 2.0, 3.0])
    assert left == [6, 5, 3, 0]
    assert memory.to_go.tolist() == [6, 5, 3, 0] and memory.t.tolist() == [0, 1, 2, 3]
    left, memory = played(agent, state, 6.0, [1.0, 2.0, 3.0, 4.0, 5.0])  # longer than the context
    assert memory.to_go.tolist() == [3, 0, -4, -9] and memory.t.tolist() == [2, 3, 4, 5]
    assert played(agent, state, float("nan"), [1.0])[0] == [6, 5]  # the best of the data


@pytest.mark.parametrize("return_scale", [None, 3.0])
def test_a_target_is_in_the_environments_units_whatever_the_rewards_are_scaled_by(return_scale):
    data = from_episodes(random_episodes())
    answers = []
    for scale in (1.0, 10.0):
        agent, state, _ = first_state(dataclasses.replace(SMALL, return_scale=return_scale), data, reward_scale=scale)
        memory = agent.begin(state, jnp.float32(3.0))
        for t, reward in enumerate([0.0, 1.5]):
            percept = Percept(jnp.ones(3) * t, jnp.float32(reward * scale), jnp.int32(t))
            action, memory = step(agent, state, memory, percept)
        answers.append(np.asarray(action))
    np.testing.assert_allclose(*answers, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"reward_shift": 1.0}, r"1 x \+ 1"),
        ({"reward_scale": 0.0}, r"0 x \+ 0"),
        ({"reward": "standard"}, r"\S+ x \+ \S+"),
    ],
)
def test_a_return_that_says_nothing_in_the_environments_units_is_refused(options, told):
    data = from_episodes(random_episodes())
    with pytest.raises(InputError, match=f"dt: returns cannot be asked for where rewards are {told}"):
        prepare(SMALL, data, 1, **options)
    prepare(dataclasses.replace(SMALL, return_token=False), data, 1, **options)  # the clone does not look at them


def test_steps_whose_reward_is_not_known_are_refused():
    """What is to go after them is not known either."""
    episodes = [episode | {"labelled": np.arange(20) > 4} for episode in random_episodes()]
    with pytest.raises(InputError, match="30 of 120 steps have no reward label"):
        prepare(SMALL, from_episodes(episodes), 1)


def test_the_step_size_rises_from_the_first_update_on():
    """Adam's first step has the size of the learning rate: at update n of w it is n / w of it."""
    config = dataclasses.replace(SMALL, warmup=4, learning_rate=0.1, weight_decay=0.0)
    agent, state, buffer = first_state(config, from_episodes(random_episodes()))
    moved = []
    update = jax.jit(agent.update)
    batch = agent.sample(buffer, jax.random.key(2))
    for _ in range(2):
        after, _ = update(state, batch, jax.random.key(1), jnp.int32(0))
        bias = [s.net.params["params"]["head"]["Flat_0"]["Dense_0"]["bias"] for s in (state, after)]
        moved.append(float(np.abs(bias[1] - bias[0]).max()))
        state = after
    np.testing.assert_allclose(moved, [0.025, 0.05], rtol=0.02)


def test_rolling_acts_as_the_whole_episode_says_and_as_the_window_does_until_it_is_full():
    data = from_episodes(random_episodes())
    banded = dataclasses.replace(SMALL, band=2)
    window, state, _ = first_state(banded, data)
    rolling, _, _ = first_state(dataclasses.replace(banded, acting="rolling"), data)
    episode = random_episodes(1, 9, seed=3)[0]
    taken = {}
    for agent in (window, rolling):
        memory = agent.begin(state, jnp.float32(5.0))
        taken[agent] = []
        for t, obs in enumerate(episode["observations"][:9]):
            reward = episode["rewards"][t - 1] if t else 0.0
            percept = Percept(jnp.asarray(obs), jnp.float32(reward), jnp.int32(t))
            action, memory = step(agent, state, memory, percept)
            taken[agent].append(np.asarray(action))
    np.testing.assert_allclose(taken[rolling][:4], taken[window][:4], atol=1e-5)  # a window has four steps
    to_go = 5.0 - np.concatenate([[0], np.cumsum(episode["rewards"][:8])], dtype=np.float32)
    actions = jnp.stack(taken[rolling])
    inputs = (to_go / state.scale, episode["observations"][:9], actions, jnp.arange(9))
    whole = rolling._model.apply(state.net.params, *(jnp.asarray(x)[None] for x in inputs))[0]
    np.testing.assert_allclose(actions, np.tanh(whole), atol=1e-5)


@pytest.mark.parametrize("band", [None, 4, 5])
def test_rolling_is_refused_where_no_window_of_training_was_longer_than_the_band(band):
    config = dataclasses.replace(SMALL, acting="rolling", band=band)
    with pytest.raises(InputError, match="dt: --config.acting rolling needs .* below its --config.context of 4"):
        prepare(config, from_episodes(random_episodes()), 1)


# --- the command line, on the embedded pendulum ---

TINY = [
    "--config.layers", "2", "--config.head-width", "4", "--config.mlp", "8", "--config.context", "5",
    "--config.band", "2", "--config.batch-size", "4", "--config.targets", "-200", "-1000",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    """A run of 4 updates that is asked for two returns."""
    folder = tmp_path_factory.mktemp("runs") / "dt"
    pace = ["--steps", "4", "--log-every", "2", "--eval-every", "4", "--eval-episodes", "2", "--seeds", "2"]
    world = commands.Catalog(agents.REGISTRY, envs.make, envs.REFERENCES, envs.DATASETS, envs.episodes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLKIT_CACHE_DIR", str(cache))
        assert commands.main(["train", "dt", *TINY, *pace, "--out", str(folder)], world) == 0
    return folder


def test_a_run_is_scored_by_its_first_target_and_draws_what_came_of_each(run):
    by_goal = evaluations_by_goal(run)
    assert list(by_goal) == ["-200", "-1000"]
    assert (run / "returns.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((run / "result.json").read_text())
    np.testing.assert_array_equal(result["run"]["episode_returns"], by_goal["-200"][-1].returns)
    assert [goal["method"] for goal in result["further_goals"]] == ["dt, asked for -1000"]


def test_other_targets_and_another_way_of_acting_are_evaluated_without_training(run, tmp_path, rlkit_command):
    code, out, _ = rlkit_command("evaluate", run, "--config.targets", "-1000", "-300", "-5", "--out", tmp_path / "w")
    rows = [line for line in out.splitlines() if line.startswith("dt, ")]
    assert code == 0 and [row.split()[3] for row in rows] == ["-1000", "-300", "-5"]
    asked = evaluations_by_goal(run)["-1000"][-1].returns
    assert rows[0].split()[4] == f"{asked.mean():.1f}"
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == ["episodes.json", "returns.png", "table.txt"]
    heading, table = (tmp_path / "w" / "table.txt").read_text().split("\n", 1)
    assert out.startswith(heading) and out.endswith(table)
    code, out, _ = rlkit_command("evaluate", run, "--config.acting", "rolling", "--config.targets", "-1000")
    assert code == 0 and "acting" in out.splitlines()[1]
    code, _, err = rlkit_command("evaluate", run, "--config.acting", "rolling", "--config.band", "5")
    assert code == 2 and err.startswith("rlkit: dt: --config.acting rolling needs") and err.count("\n") == 1


def test_a_loaded_policy_is_asked_for_a_return(run):
    obs = np.array([1.0, 0.0, 0.0], np.float32)

    def first_actions(policy, *goal):
        policy.reset(*goal)
        return np.concatenate([policy.act(obs), policy.act(obs, reward=-3.0)])

    policy = rlkit.load(run)
    first = first_actions(policy)
    np.testing.assert_array_equal(first_actions(policy, -200.0), first)
    assert np.abs(first_actions(policy, -1000.0) - first).max() > 0
    other = rlkit.load(run, config={"targets": (-1000.0,)})
    np.testing.assert_array_equal(first_actions(other), first_actions(policy, -1000.0))
    rolling = rlkit.load(run, config={"acting": "rolling"})
    np.testing.assert_allclose(first_actions(rolling), first, atol=1e-5)


def test_a_dry_run_counts_tokens(rlkit_command):
    code, out, _ = rlkit_command("train", "dt", *TINY, "--dry-run")
    assert code == 0 and "tokens 15 of each window, 60 of a batch" in out and "memory: data" in out
    code, out, _ = rlkit_command("train", "dt", *TINY, "--config.no-return-token", "--dry-run")
    assert code == 0 and "tokens 10 of each window, 40 of a batch" in out
