"""A small world in which cloning, trust and distrust of a critic give visibly different policies (a test's tool).

A point in the plane, 30 steps, reward minus the distance from the origin. It moves by 0.1 action if the action points
to within 36 degrees of the goal, or of the direction 120 degrees beside it; otherwise it slips away from the goal by as
much. The data: 30 % of a good controller, 70 % of one that is off by those 120 degrees. The mean of both actions lies
within the second cone, so that a clone wanders off; outside the two cones an action is a trap that no critic has seen.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from agents import awac, bc, cql, iql, rebrac, sac_rnd, td3_bc
from rlkit.datasets import Episodes, from_episodes
from rlkit.types import Box, Spec

from .toy import UNIT, Toy, Trained, Variant, greedy, prepare, train

STEPS, GAMMA = 30, 0.95
SPEC = Spec(Box((2,), (-np.inf,) * 2, (np.inf,) * 2), Box((2,), (-1.0,) * 2, (1.0,) * 2), STEPS)
_ASIDE = np.deg2rad(120)
_WIDTH = np.cos(np.deg2rad(36))


def starts(number: int, rng: np.random.Generator) -> np.ndarray:
    """[number, 2] points at distances 0.6 to 1 from the goal."""
    angle, radius = rng.uniform(0, 2 * np.pi, number), rng.uniform(0.6, 1, number)
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)


def _directions(position):
    """Unit vectors [N, 2] towards the goal, and beside it."""
    goal = -position / jnp.maximum(jnp.linalg.norm(position, axis=-1, keepdims=True), 1e-6)
    cos, sin = np.cos(_ASIDE), np.sin(_ASIDE)
    return goal, goal @ jnp.array([[cos, sin], [-sin, cos]])


@jax.jit
def move(position, action):
    """The next position [N, 2]."""
    goal, aside = _directions(position)
    size = jnp.linalg.norm(action, axis=-1, keepdims=True)
    unit = action / jnp.maximum(size, 1e-6)
    grips = jnp.maximum((unit * goal).sum(-1, keepdims=True), (unit * aside).sum(-1, keepdims=True)) > _WIDTH
    return position + 0.1 * jnp.where(grips, action, -size * goal)


def episodes(good_share: float = 0.3, number: int = 400, seed: int = 0) -> list[dict]:
    """The recorded episodes; the first ``good_share`` of them are the good controller's."""
    rng = np.random.default_rng(seed)
    good = np.arange(number)[:, None] < good_share * number
    position = [starts(number, rng)]
    action = []
    for _ in range(STEPS):
        goal, aside = _directions(position[-1])
        speed = np.minimum(0.7, np.linalg.norm(position[-1], axis=-1, keepdims=True) / 0.1)
        wanted = np.where(good, speed * goal, 0.7 * aside) + 0.08 * rng.normal(size=(number, 2))
        action.append(np.clip(wanted, -1, 1))
        position.append(np.asarray(move(position[-1], action[-1])))
    position, action = np.stack(position, 1).astype(np.float32), np.stack(action, 1).astype(np.float32)
    reward = -np.linalg.norm(position[:, 1:], axis=-1)
    return [{"observations": o, "actions": a, "rewards": r} for o, a, r in zip(position, action, reward, strict=True)]


@functools.cache
def recorded(good_share: float) -> Episodes:
    """The episodes of ``good_share``, as the readers of data give them."""
    return from_episodes(episodes(good_share), name="point mass", action=UNIT)


@functools.partial(jax.jit, static_argnums=0)
def _play(agent, state, first):
    def step(position, _):
        position = move(position, greedy(agent, state, position))
        return position, -jnp.linalg.norm(position, axis=-1)

    reward = jax.lax.scan(step, first, None, STEPS)[1].mean(1)
    return reward.sum(), reward @ GAMMA ** jnp.arange(float(STEPS))


def play(trained: Trained, number: int = 200) -> tuple[float, float]:
    """Mean return of the greedy policy over the same starts, without and with discount."""
    first = jnp.asarray(starts(number, np.random.default_rng(1)), jnp.float32)
    total, discounted = _play(trained.agent, trained.state, first)
    return float(total), float(discounted)


def believed(trained: Trained, number: int = 200) -> float:
    """Mean over the starts of the smaller critic's value of the greedy action."""
    first = jnp.asarray(starts(number, np.random.default_rng(1)), jnp.float32)
    action = greedy(trained.agent, trained.state, first)
    return float(trained.agent._critic.apply(trained.state.critic.params, first, action).min(0).mean())


STEPS_OF_TRAINING = 3000
SHAPE = {"widths": (64, 64), "batch_size": 128, "gamma": GAMMA}
RATES = {"actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3}
COLD = {"initial_alpha": 1e-3, "alpha_learning_rate": 0.0, "tau": 0.02}
MIXED, NARROW = 0.3, 1.0  # shares of the good controller


@functools.cache
def _trained(config, good_share: float, steps: int, seed: int) -> Trained:
    """One training serves every toy that measures it."""
    return train(config, prepare(recorded(good_share), SPEC, config), steps, seed)


def mixed_return(config, seed: int) -> float:
    """Return in the world of both controllers."""
    return play(_trained(config, MIXED, STEPS_OF_TRAINING, seed))[0]


def anchored_return(config, seed: int) -> float:
    """The same after twice the updates: TD3+BC's actor moves at every second one."""
    return play(_trained(config, MIXED, 2 * STEPS_OF_TRAINING, seed))[0]


def narrow_return(config, seed: int) -> float:
    """Return where the good controller alone was recorded."""
    return play(_trained(config, NARROW, STEPS_OF_TRAINING, seed))[0]


def reserve(config, seed: int) -> float:
    """Realised discounted return less the critic's belief. The value has no end and all rewards are negative, so that
    a correct belief is the lower of the two."""
    trained = _trained(config, MIXED, STEPS_OF_TRAINING, seed)
    return play(trained)[1] - believed(trained)


CLONE = bc.Config(widths=(64, 64), batch_size=128, learning_rate=1e-3)
TD3 = td3_bc.Config(alpha=1e4, **SHAPE, **RATES)  # the anchor does not count
CQL_SHAPE = SHAPE | {"critic_widths": (64, 64), "candidates": 4, "alpha_learning_rate": 1e-3, "tau": 0.02}
CQL = cql.Config(cql_alpha=1.0, **CQL_SHAPE, **RATES)


def _anti_explore(beta: float) -> sac_rnd.Config:
    return sac_rnd.Config(
        beta=beta, critic_layer_norm=False, rnd_width=64, rnd_learning_rate=1e-3, rnd_steps=3000,
        **SHAPE, **RATES, **COLD,
    )  # fmt: skip


def _anchor(alpha: float) -> td3_bc.Config:
    return td3_bc.Config(alpha=alpha, widths=(128, 128), batch_size=128, gamma=GAMMA, tau=0.01, **RATES)


MIXED_TOY = Toy(
    "point mass",
    "Return over 30 steps. The data's mean is -30.2, that of the good third of them -4.8. A clone inherits the poor "
    "controller.",
    mixed_return,
    (
        Variant("clone", "bc", CLONE, at_most=-25, reference=-32.8),
        Variant("expectile 0.9, beta 10", "iql", iql.Config(expectile=0.9, beta=10.0, **SHAPE, **RATES),
                at_least=-9, reference=-6.5),
        Variant("temperature 0.1", "awac", awac.Config(temperature=0.1, learning_rate=1e-3, **SHAPE), at_least=-20),
        Variant("alpha = 1", "cql", CQL, at_least=-16.3, reference=-13.3, in_suite=False),
        Variant("actor 0.1, critic 0.01", "rebrac", rebrac.Config(actor_beta=0.1, critic_beta=0.01, **SHAPE, **RATES),
                at_most=-60),
    ),
)  # fmt: skip
ANCHOR = Toy(
    "point mass: anchor",
    "Return of TD3+BC: too strong an anchor clones, too weak a one trusts the critic. The reference asks for 10 "
    "between alpha = 10 and both others.",
    anchored_return,
    (
        Variant("alpha = 10", "td3-bc", _anchor(10.0), at_least=-16, reference=-4.8),
        Variant("alpha = 2.5", "td3-bc", _anchor(2.5), at_most=-22, reference=-32.5),
        Variant("alpha = 160", "td3-bc", _anchor(160.0), at_most=-14.8, reference=-21.9, in_suite=False),
    ),
    seeds=4,
)
NARROW_TOY = Toy(
    "narrow point mass",
    "Return where the good controller alone was recorded, with little noise: nothing says what other actions do, and a "
    "critic without pessimism believes the best of them.",
    narrow_return,
    (
        Variant("beta = 10", "sac-rnd", _anti_explore(10.0), at_least=-50),
        Variant("beta = 0", "sac-rnd", _anti_explore(0.0), at_most=-70),
        Variant("clone", "bc", CLONE, at_least=-9),
    ),
)
BELIEF = Toy(
    "point mass: belief",
    "Realised discounted return less the critic's belief: negative where the critic promises more than comes.",
    reserve,
    (
        Variant("CQL, alpha = 1", "cql", CQL, at_least=3, reference=28),
        Variant("TD3", "td3-bc", TD3, at_most=-3, reference=-5.5),
    ),
)
TOYS = (MIXED_TOY, ANCHOR, NARROW_TOY, BELIEF)
