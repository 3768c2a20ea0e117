"""The evaluator: who is stepped when, what the agent perceives, and that nothing depends on how lanes are filled."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from rlkit.datasets import DataOptions, Normaliser, from_episodes
from rlkit.evaluation import play
from rlkit.evaluation.evaluate import Evaluator, score
from rlkit.evaluation.play import EvaluationError
from rlkit.training.sharding import make_mesh, per_seed
from rlkit.types import Agent, Percept


class Counter(gymnasium.Env):
    """Ends after `lengths[reset seed]` steps (3 by default); observation (t, reset seed), reward 10 t + action."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space = Box(-2.0, 2.0, (1,), np.float32)

    def __init__(self, lengths: dict[int, int] | None = None, log: list | None = None):
        self.lengths, self.log = lengths or {}, [] if log is None else log

    def reset(self, *, seed=None, options=None):
        self.seed, self.t, self.done = seed, 0, False
        self.log.append(("reset", seed))
        return self._obs(), {}

    def step(self, action):
        assert not self.done, "stepped after its end"
        assert action in self.action_space
        self.t += 1
        self.log.append(("step", self.seed, self.t, float(action[0])))
        self.done = self.t == self.lengths.get(self.seed, 3)
        return self._obs(), 10.0 * self.t + float(action[0]), self.done and self.seed % 2 == 0, self.done, {}

    def _obs(self):
        return np.array([self.t, self.seed], np.float64)


class Memory(NamedTuple):
    seen: jax.Array  # [16, 4] obs, reward and t of each percept
    count: jax.Array


@dataclass(frozen=True)
class Recorder:
    """Acts by its parameter plus what it perceived; `horizon` actions a call."""

    horizon: int = 1
    noise: float = 0.0
    needs: tuple[str, ...] = ()

    def init(self, key, prev, stats): ...
    def sample(self, buffer, key): ...
    def update(self, state, batch, key, step): ...

    @property
    def goals(self):
        return {"": np.int32(0)}

    def begin(self, state, goal):
        return Memory(jnp.zeros((16, 4)), goal)

    def observe(self, state, memory, percept):
        row = jnp.concatenate([percept.obs, percept.reward[None], percept.t[None].astype(jnp.float32)])
        return Memory(memory.seen.at[memory.count].set(row), memory.count + 1)

    def act(self, state, memory, key, *, greedy):
        assert greedy
        noise = self.noise * jax.random.uniform(key, (self.horizon, 1))
        first = state + 0.01 * memory.seen[:, :3].sum() + 0.001 * memory.count
        return first + 0.1 * jnp.arange(self.horizon, dtype=jnp.float32)[:, None] + noise, memory


def normaliser(**options) -> Normaliser:
    rng = np.random.default_rng(0)
    rows = {
        "observations": rng.normal(size=(9, 2)) * [3, 2] + [1, 4],
        "actions": rng.uniform(-1, 1, (8, 1)),
        "rewards": rng.normal(size=8),
        "truncations": [False] * 7 + [True],
    }
    episodes = from_episodes([rows], observation_space=Counter.observation_space, action_space=Counter.action_space)
    return Normaliser.fit(episodes, DataOptions("test", **options))


LENGTHS = {7: 5, 8: 2, 9: 1, 10: 7}  # by reset seed; 3 for others


OBSERVE = jax.jit(Recorder.observe, static_argnums=0)
ACT = jax.jit(functools.partial(Recorder.act, greedy=True), static_argnums=0)


def by_hand(agent, state, norm, episode, goal) -> tuple[float, int]:
    """The protocol of one episode, written as a plain loop."""
    memory, plan, t, total, done, reward = agent.begin(state, goal), [], 0, 0.0, False, np.float32(0)
    env = Counter(LENGTHS)
    obs, _ = env.reset(seed=7 + episode)
    key = jax.random.fold_in(jax.random.key(7), episode)
    while not done:
        memory = OBSERVE(agent, state, memory, Percept(norm.obs(obs), jnp.float32(reward), jnp.int32(t)))
        if not plan:
            actions, memory = ACT(agent, state, memory, jax.random.fold_in(key, t))
            plan = list(np.asarray(actions))
        obs, raw, terminated, truncated, _ = env.step(norm.env_action(plan.pop(0)))
        reward, total, t, done = norm.reward(np.float64(raw)), total + raw, t + 1, terminated or truncated
    return total, t


def steps(log) -> int:
    return sum(entry[0] == "step" for entry in log)


class Door(Counter):
    """Tells at each step whether the episode is won: at the last one of episodes with an even seed."""

    def step(self, action):
        *rest, _ = super().step(action)
        return *rest, {"success": np.bool_(self.done and self.seed % 2 == 0)}


def test_a_success_is_what_the_last_step_says_and_nothing_where_no_step_does():
    evaluation = Evaluator(Recorder(), normaliser(), Door, episodes=4, envs_per_seed=2).run(jnp.zeros(2))
    assert evaluation.success.tolist() == [[[1.0, 0.0, 1.0, 0.0]] * 2]
    assert np.isnan(Evaluator(Recorder(), normaliser(), Counter, episodes=2).run(jnp.zeros(1)).success).all()


def test_a_success_is_a_single_flag_or_number():
    for value in (True, 2.0, np.int8(1), [True], np.ones((1, 1))):
        assert play._success({"success": value}) == 1
    for value in (False, 0, np.zeros(1)):
        assert play._success({"success": value}) == 0
    for value in (None, "yes", [1, 0], [[1], [1, 0]], {}, np.nan):
        assert np.isnan(play._success({"success": value}))
    assert np.isnan(play._success({}))


def test_a_three_step_environment_is_stepped_three_times_an_episode():
    logs: list[list] = []

    def make():
        logs.append([])
        return Counter(log=logs[-1])

    evaluation = Evaluator(Recorder(), normaliser(), make, episodes=5, envs_per_seed=2).run(jnp.zeros(2))
    assert evaluation.lengths.tolist() == [[[3] * 5] * 2]
    assert sum(map(steps, logs)) == 2 * 5 * 3  # no reset transitions, and idle environments are left alone
    resets = sorted(entry[1] for log in logs for entry in log if entry[0] == "reset")
    assert resets == sorted(2 * list(range(5)))


def test_recorder_is_an_agent():
    assert isinstance(Recorder(), Agent)


@pytest.mark.parametrize(("horizon", "goal"), [(1, 0), (3, 2)])
def test_equals_a_plain_loop_whatever_the_number_of_environments(horizon, goal):
    agent, state = Recorder(horizon, noise=0.5), jnp.array([0.1, -0.4])
    norm = normaliser(normalise="standard", reward="standard", reward_scale=0.1, reward_shift=-0.3)
    expected = [[by_hand(agent, member, norm, episode, goal) for episode in range(5)] for member in state]
    for width in (1, 3):
        evaluator = Evaluator(
            agent, norm, lambda: Counter(LENGTHS), episodes=5, seed=7, goals={"": np.int32(goal)}, envs_per_seed=width
        )
        run = evaluator.run(state)
        np.testing.assert_array_equal(run.lengths[0], [[length for _, length in row] for row in expected])
        np.testing.assert_allclose(run.returns[0], [[total for total, _ in row] for row in expected], rtol=1e-6)


@pytest.mark.parametrize(("horizon", "width"), [(1, 2), (3, 1), (3, 5)])
def test_goals_side_by_side_equal_each_alone(horizon, width):
    """A lane's second episode is played for its own goal too."""
    agent, state = Recorder(horizon, noise=0.5), jnp.array([0.1, -0.4])
    goals = {"near": np.int32(1), "far": np.int32(6), "nothing": np.int32(0)}

    def play_for(goals):
        make = functools.partial(Counter, LENGTHS)
        return Evaluator(agent, normaliser(), make, episodes=5, seed=7, goals=goals, envs_per_seed=width).run(state)

    together = play_for(goals)
    assert together.returns.shape == (3, 2, 5)
    for number, label in enumerate(goals):
        alone = play_for({label: goals[label]})
        np.testing.assert_allclose(together.returns[number], alone.returns[0], rtol=1e-6)
        np.testing.assert_array_equal(together.lengths[number], alone.lengths[0])
    assert (np.ptp(together.returns, axis=0) > 1e-3).all()


class Clock(Counter):
    """Lets the action be the number of the step, and says where it is not."""

    def step(self, action):
        obs, _, terminated, truncated, info = super().step(action)
        return obs, float(abs(action[0] - 0.1 * (self.t - 1)) > 1e-3), terminated, truncated, info


@dataclass(frozen=True)
class Metronome(Recorder):
    """Plans the numbers of the steps to come, a tenth of them, halved by the bounds."""

    def act(self, state, memory, key, *, greedy):
        t = memory.seen[memory.count - 1, 3]
        return 0.05 * (t + jnp.arange(self.horizon, dtype=jnp.float32))[:, None], memory


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_plan_goes_on_across_replans_and_is_dropped_at_a_reset(width):
    evaluator = Evaluator(Metronome(3), normaliser(), lambda: Clock(LENGTHS), episodes=5, seed=7, envs_per_seed=width)
    assert evaluator.run(jnp.zeros(1)).returns.tolist() == [[[0.0] * 5]]


def test_returns_are_raw_rewards_summed_in_float64():
    class Large(Counter):
        def step(self, action):
            obs, _, terminated, truncated, info = super().step(action)
            return obs, 2.0**24 if self.t == 1 else 1.0, terminated, truncated, info

    evaluator = Evaluator(Recorder(), normaliser(reward_scale=100.0), Large, episodes=1)
    assert evaluator.run(jnp.zeros(1)).returns.item() == 2.0**24 + 2  # float32 would give 2**24


def test_a_state_that_is_spread_over_devices_is_evaluated_on_one():
    state = jnp.array([0.1, -0.4])
    spread = jax.device_put(state, per_seed(make_mesh(2)))
    assert len(spread.sharding.device_set) > 1
    returns = [Evaluator(Recorder(), normaliser(), Counter, episodes=2).run(s).returns for s in (state, spread)]
    np.testing.assert_array_equal(*returns)


def test_policy_is_compiled_once():
    agent, before = Recorder(horizon=2, noise=0.123), play.step._cache_size()
    evaluator = Evaluator(agent, normaliser(), lambda: Counter({1: 6, 2: 1}), episodes=4, envs_per_seed=3)
    zeros, ones = jnp.zeros(2), jnp.ones(2)
    with jax.transfer_guard("disallow"):
        first, second = evaluator.run(zeros), evaluator.run(ones)
    Evaluator(agent, normaliser(), Counter, episodes=4, envs_per_seed=3).run(jnp.ones(2))
    assert play.step._cache_size() == before + 1
    assert (second.returns > first.returns).all()
    np.testing.assert_array_equal(evaluator.run(zeros).returns, first.returns)


def test_actions_are_in_environment_units_and_within_the_bounds():
    log: list = []
    Evaluator(Recorder(), normaliser(), lambda: Counter(log=log), episodes=1).run(jnp.array([0.5]))
    assert log[1] == ("step", 0, 1, pytest.approx(1.002))  # 0.5 + 0.001, doubled by the bounds
    log.clear()
    Evaluator(Recorder(), normaliser(), lambda: Counter(log=log), episodes=1).run(jnp.array([9.0]))
    assert {entry[3] for entry in log[1:]} == {2.0}


class Choices(gymnasium.Env):
    """Three choices from 1; a Dict observation; the return is the number of right answers."""

    observation_space = Dict({"ends": Box(0, 99, (1,), np.float32), "hint": Discrete(3)})
    action_space = Discrete(3, start=1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.hint = 0, int(self.np_random.integers(3))
        return self._obs(), {}

    def step(self, action):
        assert isinstance(action, int)
        right, self.t, self.hint = action == self.hint + 1, self.t + 1, int(self.np_random.integers(3))
        return self._obs(), float(right), False, self.t == 20, {}

    def _obs(self):
        return {"hint": self.hint, "ends": np.array([self.t], np.float32)}


@dataclass(frozen=True)
class Follow(Recorder):
    """Names the choice that is hinted at, offset by its parameter."""

    def begin(self, state, goal):
        return jnp.zeros(4)

    def observe(self, state, memory, percept):
        return percept.obs

    def act(self, state, memory, key, *, greedy):
        return ((jnp.argmax(memory[1:]) + state) % 3).astype(jnp.int32)[None], memory


def test_discrete_actions_and_dict_observations():
    rows = {
        "observations": {"hint": np.zeros(3, np.int64), "ends": np.zeros((3, 1), np.float32)},
        "actions": np.array([1, 2]),
        "rewards": np.zeros(2),
    }
    episodes = from_episodes([rows], observation_space=Choices.observation_space, action_space=Choices.action_space)
    norm = Normaliser.fit(episodes, DataOptions("test"))
    evaluation = Evaluator(Follow(), norm, Choices, episodes=2).run(jnp.array([0, 1]))
    assert evaluation.returns.tolist() == [[[20.0, 20.0], [0.0, 0.0]]]


class Broken(Counter):
    fault: str

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        if self.seed == 11 and self.t == 2:
            if self.fault == "raise":
                raise KeyError("joint\nlost")
            if self.fault == "exit":
                raise SystemExit(3)
            if self.fault == "four":
                return obs, reward, terminated, info
            obs = {"obs": obs * [1, np.nan], "wide": np.zeros(3), "text": ["a", "b"], "none": None}.get(self.fault, obs)
            reward = {"reward": np.inf, "rewards": [1.0, 2.0], "no reward": None}.get(self.fault, reward)
            info = None if self.fault == "info" else info
            truncated = "no" if self.fault == "flag" else truncated
        return obs, reward, terminated, truncated, info


FAULTS = {
    "raise": "step raised KeyError: 'joint",
    "exit": "step raised SystemExit: 3",
    "four": "step returned four values",
    "obs": "observation element 1 is not finite",
    "wide": "the observation has the shape [3], but its space has [2]",
    "text": "the observation holds <U1, not numbers",
    "none": "the observation has the shape [], but its space has [2]",
    "reward": "inf",
    "rewards": "the reward is a list of 2 values, not one number",
    "no reward": "the reward is None, not one number",
    "info": "the info of step is None, not a mapping",
    "flag": "truncated is 'no': return True or False",
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.items(), ids=FAULTS)
def test_a_failing_environment_is_named_and_replaced(fault, message, monkeypatch):
    monkeypatch.setattr(Broken, "fault", fault, raising=False)
    made = []

    def make():
        made.append(Broken())
        return made[-1]

    evaluator = Evaluator(Recorder(), normaliser(), make, episodes=3, seed=10)
    with pytest.raises(EvaluationError, match="seed 0, episode 1 .reset with seed 11., step [12]: .*") as caught:
        evaluator.run(jnp.zeros(1))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(EvaluationError):
        evaluator.run(jnp.zeros(1))
    assert len(made) == 6


@pytest.mark.parametrize(
    ("third", "told"),
    [
        (lambda: 1 / 0, "environment 2 cannot be made: ZeroDivisionError"),
        (lambda: sys.exit("no licence"), "environment 2 cannot be made: SystemExit: no licence"),
        (Choices, "environment 2 has other spaces than the first"),
    ],
)
def test_an_environment_that_cannot_be_made_again_fails_the_evaluation(third, told):
    made = []

    def make():
        made.append(Counter() if len(made) < 2 else third())
        return made[-1]

    with pytest.raises(EvaluationError, match=told):
        Evaluator(Recorder(), normaliser(), make, episodes=3).run(jnp.zeros(1))


def test_a_reward_in_an_array_is_a_number_and_an_action_may_be_written_into():
    class Arrays(Counter):
        def step(self, action):
            obs, reward, *rest = super().step(action)
            action *= 0
            return obs, np.array([reward]), *rest

    plain, arrays = (
        Evaluator(Recorder(), normaliser(), env, episodes=2).run(jnp.zeros(1)) for env in (Counter, Arrays)
    )
    np.testing.assert_array_equal(plain.returns, arrays.returns)


def test_an_action_that_is_not_finite_is_the_policys_fault():
    with pytest.raises(EvaluationError, match=r"seed 1, episode 0 .*, step 0: the policy's action is \[nan\]"):
        Evaluator(Recorder(), normaliser(), Counter, episodes=1).run(jnp.array([0.0, jnp.nan]))


def test_no_episodes_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Evaluator(Recorder(), normaliser(), Counter, episodes=0)


def test_score_is_0_for_random_and_100_for_an_expert():
    assert score([-20.0, 80.0, 30.0], (-20.0, 80.0, "source")).tolist() == [0.0, 100.0, 50.0]
