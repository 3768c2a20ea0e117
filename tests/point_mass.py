"""A small world in which cloning, trust and distrust of a critic give visibly different policies (a test's tool).

A point in the plane, 30 steps, reward minus the distance from the origin. It moves by 0.1 action if the action points
to within 36 degrees of the goal, or of the direction 120 degrees beside it; otherwise it slips away from the goal by as
much. The data: 30 % of a good controller, 70 % of one that is off by those 120 degrees. The mean of both actions lies
within the second cone, so that a clone wanders off; outside the two cones an action is a trap that no critic has seen.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rlkit.buffer import Buffer, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes
from rlkit.types import Box, Spec

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


def episodes(number: int = 400, seed: int = 0) -> list[dict]:
    """The recorded episodes; the first 30 % are the good controller's."""
    rng = np.random.default_rng(seed)
    good = np.arange(number)[:, None] < 0.3 * number
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


def data(needs: tuple[str, ...] = (), reward_scale: float = 1.0) -> tuple:
    """(buffer, statistics) of the recorded episodes."""
    found = from_episodes(episodes(), name="point mass")
    options = DataOptions(dataset="point mass", reward_scale=reward_scale)
    buffer = Buffer.from_episodes(found, Normaliser.fit(found, options), needs)
    return buffer, stats(buffer)


def returns(agent, state, number: int = 200) -> np.ndarray:
    """[S] mean return of the greedy policy of each seed of ``state``, over the same starts."""
    first = jnp.asarray(starts(number, np.random.default_rng(1)), jnp.float32)

    def one(state):
        def step(position, _):
            act = jax.vmap(lambda obs: agent.act(state, obs, jax.random.key(0), greedy=True)[0][0])
            position = move(position, act(position))
            return position, -jnp.linalg.norm(position, axis=-1)

        return jax.lax.scan(step, first, None, STEPS)[1].sum(0).mean()

    return np.asarray(jax.jit(jax.vmap(one))(state))
