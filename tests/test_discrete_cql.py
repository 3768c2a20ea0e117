"""CQL for discrete actions: the bandit whose values are known, the double target, and poor data of a pole."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.discrete_cql import Config, DiscreteCQLState
from rlkit import loop
from rlkit.buffer import Buffer, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.optim import Net
from rlkit.types import Box, Discrete, InputError, Spec, Stats, Transitions

STATS = Stats(*(jnp.zeros(n) for n in (1, 1, 0, 0)))


def learner(config, actions=4):
    (stage,) = config.stages(Spec(Box((1,), (-1.0,), (1.0,)), Discrete(actions), 1), 1)
    return stage.learner


@pytest.mark.parametrize(
    "cql_alpha, expected",
    [(0.0, (0, 1, 0.5, 2)), (0.1, (0.075, 0.976, 0.352, 0.698)), (1.0, (0.420, 0.604, -0.406, -1.040))],
)
def test_the_bandits_values(cql_alpha, expected):
    """Behaviour (.6, .3, .08, .02), rewards (0, 1, .5, 2); a linear critic of one constant state is a table.
    Expected are the minima of a loss that has a half at the squared error, hence twice its weight."""
    arm = jnp.asarray(np.repeat(np.arange(4), (30, 15, 4, 1)), jnp.int32)
    reward = jnp.array([0, 1, 0.5, 2])[arm]
    batch = Transitions(jnp.ones((50, 1)), arm, reward, jnp.zeros(50), jnp.ones((50, 1)), {})
    agent = learner(Config(cql_alpha=2 * cql_alpha, widths=()))
    params = agent.init(jax.random.key(0), None, STATS).critic.params

    def descend(_, params):
        gradient, _ = jax.grad(agent.critic_loss, has_aux=True)(params, reward, batch)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)

    params = jax.jit(lambda params: jax.lax.fori_loop(0, 3000, descend, params))(params)
    np.testing.assert_allclose(agent._critic.apply(params, jnp.ones(1)), expected, atol=0.01)


def table(*rows):
    """Parameters of a linear critic of one-hot states [S] with these values."""
    return {"params": {"Dense_0": {"kernel": jnp.array(rows), "bias": jnp.zeros(len(rows[0]))}}}


def test_the_online_critic_chooses_and_the_target_values():
    agent = learner(Config(widths=()), actions=3)
    online, target = table([1.0, 5, 2], [9, 3, 0]), table([4.0, -1, 7], [0.5, 8, 6])
    batch = Transitions(
        obs=jnp.eye(2)[jnp.array([0, 1, 0])],
        action=jnp.array([0, 1, 2]),
        reward=jnp.array([1.0, 2, 3]),
        discount=jnp.array([0.9, 0.9, 0]),
        next_obs=jnp.eye(2)[jnp.array([0, 1, 1])],
        extra={},
    )
    state = DiscreteCQLState(Net(online, None), target)
    y = agent.target_value(state, batch)
    np.testing.assert_allclose(y, [1 + 0.9 * -1, 2 + 0.9 * 0.5, 3], rtol=1e-6)
    q = np.array([1.0, 3, 2])
    gap = np.mean([np.log(np.exp(row).sum()) for row in ([1.0, 5, 2], [9, 3, 0], [1, 5, 2])] - q)
    loss, metrics = agent.critic_loss(online, y, batch)
    np.testing.assert_allclose(loss, np.mean((q - np.asarray(y)) ** 2) + gap, rtol=1e-5)
    np.testing.assert_allclose(metrics["critic/gap"], gap, rtol=1e-5)
    for greedy in (True, False):
        assert agent.act(state, jnp.eye(2)[1], jax.random.key(0), greedy=greedy)[0].tolist() == [0]


def test_continuous_actions_are_refused():
    with pytest.raises(InputError, match="discrete"):
        Config().stages(Spec(Box((1,), (-1.0,), (1.0,)), Box((1,), (-1.0,), (1.0,)), 1), 1)


def poles(episodes, seed):
    """CartPole-v1 under a controller that balances in one of three episodes and else acts at random."""
    env, rng = gymnasium.make("CartPole-v1"), np.random.default_rng(seed)
    recorded = []
    for episode in range(episodes):
        obs, done = [env.reset(seed=seed * 1000 + episode)[0]], False
        action, reward, terminal, truncated = [], [], [], []
        while not done:
            good = episode % 3 == 0 and rng.random() > 0.2
            action.append(int(obs[-1] @ [0.1, 0.5, 1, 1] > 0) if good else int(rng.integers(2)))
            step = env.step(action[-1])
            obs.append(step[0])
            reward.append(step[1]), terminal.append(step[2]), truncated.append(step[3])
            done = step[2] or step[3]
        recorded.append(
            {
                "observations": np.array(obs, np.float32),
                "actions": np.array(action),
                "rewards": np.array(reward, np.float32),
                "terminations": np.array(terminal),
                "truncations": np.array(truncated),
            }
        )
    return recorded


def returns(agent, state, episodes=5):
    env, act = gymnasium.make("CartPole-v1"), jax.jit(lambda o: agent.act(state, o, None, greedy=True)[0][0])
    found = []
    for episode in range(episodes):
        obs, total, done = env.reset(seed=episode)[0], 0.0, False
        while not done:
            obs, reward, terminal, truncated, _ = env.step(int(act(obs)))
            total, done = total + reward, terminal or truncated
        found.append(total)
    return np.mean(found)


@pytest.mark.learning
def test_it_balances_from_data_that_mostly_do_not(mesh):
    data = from_episodes(poles(150, seed=100))
    buffer = Buffer.from_episodes(data, Normaliser.fit(data, DataOptions(dataset="poles")))
    behaviour = float(np.asarray(buffer.reward).sum()) / 150
    stages = Config(learning_rate=1e-3, widths=(64, 64), batch_size=128).stages(spec(data, None), 4000)
    *_, last = loop.fit(stages, buffer, stats(buffer), (100,), log_every=4000, mesh=mesh)
    score = returns(stages[-1].learner, jax.tree.map(lambda x: x[0], last.state))
    assert score > 400 > 1.5 * behaviour, (score, behaviour)
