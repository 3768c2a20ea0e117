"""A policy takes and gives what the environment's spaces hold, refuses the rest by name, and says what it is."""

import re
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

import agents
import rlkit
from agents import bc, discrete_cql, iql
from rlkit.acting import Reactive, is_reactive
from rlkit.buffer import Buffer, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.evaluation import interface
from rlkit.runs import registry
from rlkit.runs.policy import Policy
from rlkit.training.loop import fit
from rlkit.training.sharding import make_mesh
from rlkit.types import Box as AgentBox
from rlkit.types import Discrete as AgentDiscrete
from rlkit.types import InputError, Spec, Stats

# what an agent sees of these bounds are float32 numbers, which lie beyond -0.1 and 0.3
FLOAT64 = Box(np.array([-0.1, 0.0]), np.array([0.3, 5.0]), dtype=np.float64)
SPACES = {
    "float32": Box(-2, 2, (1,), np.float32),
    "float64": FLOAT64,
    "two-dimensional": Box(-0.1, 0.3, (2, 3), np.float64),
    "float16": Box(-0.1, 0.3, (2,), np.float16),
    "one number": Box(-1, 1, (), np.float32),
    "integers": Box(0, 10, (2,), np.uint8),
    "half-bounded": Box(np.array([0.0]), np.array([np.inf]), dtype=np.float64),
    "unbounded": Box(-np.inf, np.inf, (2,), np.float32),
    "choices": Discrete(4),
    "choices from 3": Discrete(4, start=3),
    "choices below 0": Discrete(2, start=-1),
}


@dataclass(frozen=True)
class Fixed(Reactive):
    """Acts in all components, or chooses, as the observation's first number says."""

    spec: Spec

    def act(self, state, memory, key, *, greedy):
        action = self.spec.action
        if isinstance(action, AgentDiscrete):
            return jnp.clip(memory[:1], 0, action.n - 1).astype(jnp.int32), memory
        return jnp.broadcast_to(memory[0], (1, *action.shape)), memory


def steps(actions):
    """An episode with a two-dimensional observation and these actions [T, ...]."""
    length = len(actions)
    return {
        "observations": np.linspace(0, 1, 2 * (length + 1), dtype=np.float32).reshape(-1, 2),
        "actions": actions,
        "rewards": np.ones(length),
    }


def data(space, episodes=1):
    space.seed(0)
    return [steps(np.stack([np.asarray(space.sample()) for _ in range(6)])) for _ in range(episodes)]


def policy_of(agent, episodes, state=None, **options):
    normaliser = Normaliser.fit(episodes, DataOptions("test"))
    spaces = episodes.observation_space, episodes.action_space
    return Policy(agent, {} if state is None else state, normaliser, *spaces, **options)


def fixed(space, **options):
    episodes = from_episodes(data(space), action_space=space)
    return policy_of(Fixed(spec(episodes, None)), episodes, **options)


@pytest.mark.parametrize("name", SPACES)
def test_an_action_is_what_the_space_holds(name):
    """At both bounds, where rounding leads out of them, and everywhere between."""
    space = SPACES[name]
    policy = fixed(space)
    for first in (-1.0, -0.37, 0.0, 0.5, 1.0, 3.0):
        obs = np.array([first, 0.0])
        action = policy.act(obs)
        assert space.contains(action), (first, action)
        batch = policy.act_batch(np.stack([obs, obs]))
        assert len(batch) == 2 and space.contains(batch[0, ...]) and space.contains(batch[1, ...])
        np.testing.assert_array_equal(batch[1], action)


def test_evaluation_too_hands_over_what_the_space_holds():
    at_bounds = np.array([-0.1, 5.0], np.float32)
    assert not FLOAT64.contains(at_bounds)
    assert FLOAT64.contains(interface.in_form(FLOAT64, at_bounds))


def test_a_choice_is_a_number_that_environments_take_as_a_key():
    action = fixed(SPACES["choices from 3"]).act([2.0, 0.0])
    assert {5: "up"}[action] == "up"
    env = gymnasium.make("FrozenLake-v1")
    env.reset(seed=0)
    env.step(fixed(Discrete(4)).act([2.0, 0.0]))


def test_integers_are_rounded_not_cut():
    assert fixed(SPACES["integers"]).act([0.98, 0.0]).tolist() == [10, 10]  # 9.9


def test_what_is_not_finite_is_refused_by_its_element():
    policy = fixed(SPACES["float32"])
    with pytest.raises(InputError, match="observation: element 1 is nan"):
        policy.act([0.0, np.nan])
    with pytest.raises(InputError, match="element 0 is inf in float32"):
        policy.act([1e39, 0.0])
    with pytest.raises(InputError, match="element 1 is -inf .* in row 2"):
        policy.act_batch([[0, 0], [0, 0], [0, -np.inf]])
    with pytest.raises(InputError, match="no array of numbers"):
        policy.act((np.zeros(2), {}))  # what env.reset() returns
    policy.act([0.0, 0.0])
    with pytest.raises(InputError, match="the reward is nan"):
        policy.act([0.0, 0.0], reward=np.nan)


def test_a_goal_that_is_not_finite_is_refused():
    @dataclass(frozen=True)
    class Asked(Fixed):
        @property
        def goals(self):
            return {"both": np.zeros(2)}

        def begin(self, state, goal):
            return jnp.zeros(2)

    episodes = from_episodes(data(SPACES["float32"]), action_space=SPACES["float32"])
    policy = policy_of(Asked(spec(episodes, None)), episodes)
    policy.reset(goal=[1.0, 2.0])
    with pytest.raises(InputError, match=r"element \[1\] of the goal is nan"):
        policy.reset(goal=[1.0, np.nan])


def test_names_give_the_order_and_others_are_refused():
    policy = fixed(SPACES["float32"], observation_names=["heart_rate", "pressure"])
    plain = policy.act([0.25, 0.75])
    assert policy.act({"pressure": 0.75, "heart_rate": 0.25}) == plain
    table = {"pressure": np.array([0.75, 0.1]), "heart_rate": np.array([0.25, 0.1])}
    assert policy.act_batch(table)[0] == plain
    assert policy.act_batch([{"pressure": 0.75, "heart_rate": 0.25}, {"heart_rate": 0.1, "pressure": 0.1}])[0] == plain
    assert policy.act_batch([np.array([0.25, 0.75]), [0.1, 0.1]])[0] == plain
    with pytest.raises(InputError, match=r"missing \['pressure'\], unknown \['presure'\]"):
        policy.act({"presure": 0.75, "heart_rate": 0.25})
    with pytest.raises(InputError, match=r"element 1 is nan .*\(pressure\)"):
        policy.act({"pressure": None, "heart_rate": 0.25})
    with pytest.raises(InputError, match="have no names"):
        fixed(SPACES["float32"]).act({"pressure": 0.75, "heart_rate": 0.25})


def test_a_dict_space_is_read_by_its_keys():
    space = Dict({"position": Box(-1, 1, (1,)), "mode": Discrete(2)})
    obs = {"position": np.zeros((7, 1), np.float32), "mode": np.zeros(7, int)}
    episode = steps(np.zeros((6, 1))) | {"observations": obs}
    episodes = from_episodes([episode], observation_space=space, action_space=SPACES["float32"])
    policy = policy_of(Fixed(spec(episodes, None)), episodes)
    assert policy.act({"mode": 1, "position": np.array([0.5], np.float32)}).shape == (1,)
    batch = {"mode": np.array([0, 1]), "position": np.array([[0.5], [0.1]])}
    assert policy.act_batch(batch).shape == (2, 1)
    with pytest.raises(InputError, match="observation/mode: missing"):
        policy.act({"position": np.array([0.5])})

    # --- N of them in a list ---
    rows = [{"mode": 0, "position": np.array([0.5])}, {"position": [0.1], "mode": 1}]
    actions = policy.act_batch(rows)
    assert actions.tolist() == policy.act_batch(batch).tolist() and actions[0] != actions[1]
    with pytest.raises(InputError, match=r"row 1 has \['mode'\], and row 0 \['mode', 'position'\]"):
        policy.act_batch([rows[0], {"mode": 1}])
    with pytest.raises(InputError, match="row 1 is a ndarray, and row 0 a mapping"):
        policy.act_batch([rows[0], np.zeros(3)])
    with pytest.raises(InputError, match="not a mapping, though the space is a Dict of mode, position"):
        policy.act_batch(np.zeros((2, 3)))


def test_the_documentation_names_all_that_a_policy_has():
    text = (Path(__file__).parent.parent / "docs" / "python.md").read_text()
    own = {*vars(fixed(SPACES["float32"])), *vars(Policy)}
    assert [name for name in own if not name.startswith("_") and not re.search(rf"`{name}\b", text)] == []


def test_a_batch_is_compiled_once_for_its_size(monkeypatch):
    policy = fixed(SPACES["float32"])
    traced = []
    act = Fixed.act

    def noted(self, state, obs, key, *, greedy):
        traced.append(obs)
        return act(self, state, obs, key, greedy=greedy)

    monkeypatch.setattr(Fixed, "act", noted)
    for _ in range(3):
        policy.act_batch(np.zeros((17, 2)))
    assert len(traced) == 1


def test_sampled_actions_of_a_batch_differ():
    episodes = from_episodes(data(Discrete(4)), action_space=Discrete(4))
    learner = bc.Config(widths=(4,)).stages(spec(episodes, None), 1)[0].learner
    policy = policy_of(learner, episodes, learner.init(jax.random.key(0), None, moments(episodes)), greedy=False)
    assert len(set(policy.act_batch(np.zeros((40, 2))))) > 1


def moments(episodes) -> Stats:
    return stats(Buffer.from_episodes(episodes, Normaliser.fit(episodes, DataOptions("test"))))


def test_an_agent_with_memory_takes_no_batch(trained):
    @dataclass(frozen=True)
    class Remembering(Fixed):
        def observe(self, state, memory, percept):
            return memory + percept.obs

    episodes = from_episodes(data(SPACES["float32"]), action_space=SPACES["float32"])
    policy = policy_of(Remembering(spec(episodes, None)), episodes)
    with pytest.raises(InputError, match="remembers its episode"):
        policy.act_batch(np.zeros((3, 2)))
    assert is_reactive(rlkit.load(trained)._agent)


# --- actions without bounds ---


def unbounded_spec():
    infinite = (np.inf, np.inf)
    return Spec(AgentBox((2,), (-np.inf,) * 2, infinite), AgentBox((2,), (-np.inf,) * 2, infinite), horizon=10)


@pytest.mark.parametrize("name", agents.REGISTRY)
def test_unbounded_actions_are_served_without_tanh_or_refused(name):
    method = registry.named(agents.REGISTRY[name].module)
    try:
        *_, last = method.config().stages(unbounded_spec(), 10)
    except InputError as refusal:
        assert "\n" not in str(refusal) and "actions" in str(refusal)
        return
    zero, one = np.zeros(2, np.float32), np.ones(2, np.float32)
    state = last.learner.init(jax.random.key(0), None, Stats(zero, one, zero, one))
    large = jax.tree.map(lambda leaf: 1000 * leaf if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, state)
    actions, _ = last.learner.act(large, one, jax.random.key(0), greedy=True)
    assert np.abs(actions).max() > 2


def test_cloning_reaches_actions_beyond_one_where_they_have_no_bounds():
    """The first component is bounded by 8, the second not at all."""
    space = Box(np.array([-8, -np.inf], np.float32), np.array([8, np.inf], np.float32))
    actions = np.tile(np.array([6.0, 3.0], np.float32), (6, 1))
    episodes = from_episodes([steps(actions)], action_space=space)
    normaliser = Normaliser.fit(episodes, DataOptions("test"))
    stages = bc.Config(widths=(8,), learning_rate=0.03, batch_size=6).stages(spec(episodes, None), 300)
    rows = Buffer.from_episodes(episodes, normaliser)
    *_, last = fit(stages, rows, stats(rows), (0,), log_every=300, mesh=make_mesh(1, jax.devices()[:1]))
    policy = policy_of(stages[0].learner, episodes, jax.tree.map(lambda leaf: leaf[0], last.state))
    np.testing.assert_allclose(policy.act(episodes.obs[2]), [6.0, 3.0], atol=0.1)


# --- what the agent thinks of actions ---


def untrained(module, space, **settings):
    episodes = from_episodes(data(space), action_space=space)
    learner = module.Config(widths=(4,), **settings).stages(spec(episodes, None), 1)[-1].learner
    state = learner.init(jax.random.key(1), None, moments(episodes))
    return policy_of(learner, episodes, state, about={"agent": module.__name__.split(".")[-1]})


def test_probabilities_are_those_of_the_choices():
    policy = untrained(bc, SPACES["choices from 3"])
    obs = np.array([0.4, 0.1])
    probabilities = policy.probabilities(obs)
    assert probabilities.shape == (4,) and probabilities.sum() == pytest.approx(1)
    assert policy.act(obs) == 3 + probabilities.argmax()
    with pytest.raises(InputError, match="bc has no Q"):
        policy.q(obs)


def test_q_of_the_choices_is_the_value_of_each():
    policy = untrained(discrete_cql, SPACES["choices from 3"])
    obs = np.array([0.4, 0.1])
    q = policy.q(obs)
    assert len(set(q.tolist())) == 4 and policy.act(obs) == 3 + q.argmax()
    assert [policy.value(obs, choice) for choice in range(3, 7)] == pytest.approx(q.tolist())
    with pytest.raises(InputError, match="not one of the whole numbers 3 to 6"):
        policy.value(obs, 7)
    with pytest.raises(InputError, match="discrete_cql has no probabilities"):
        policy.probabilities(obs)


def test_value_is_that_of_the_action_in_the_environments_units():
    policy = untrained(iql, FLOAT64)
    obs, action = np.array([0.4, 0.1]), np.array([0.2, 1.0])
    state = policy._state
    scaled = policy._normaliser.action(action)
    both = policy._agent._q(state.critic.params, np.float32(obs)[None], scaled[None])
    assert policy.value(obs, action) == pytest.approx(float(both.min()), rel=1e-5)
    assert policy.value(obs, FLOAT64.low) == pytest.approx(policy.value(obs, policy_bound(policy)), rel=1e-5)
    with pytest.raises(InputError, match="lies outside"):
        policy.value(obs, [0.2, 5.5])
    with pytest.raises(InputError, match="amounts, not choices"):
        policy.q(obs)


def policy_bound(policy):
    """The action that agents see as -1, by way of float32."""
    return np.asarray(policy._normaliser.env_action(np.full(2, -1, np.float32)))


# --- what it is ---


def test_a_policy_says_what_it_is(trained):
    text = repr(rlkit.load(trained, member=1))
    for part in ("agent='bc'", f"run='{trained}'", "member=1", "dataset='pendulum/mixed-v0'", "steps=40"):
        assert part in text
    assert "actions=Box(-2.0, 2.0, (1,), float32)" in text and "\n" not in text
    named = fixed(SPACES["float32"], observation_names=["a", "b"], action_names=["dose"])
    assert "observation_names=['a', 'b'], action_names=['dose']" in repr(named)
