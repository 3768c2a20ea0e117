"""The two doors between raw values and what agents see: the dataset's and the environment's use the same numbers.

Also what an agent is built for (`spec`), and whether an environment is the one that the data come from (`check_env`).
Those look at gymnasium's spaces and import it themselves: a machine that only trains may not have it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rlkit import types
from rlkit.datasets import blocks
from rlkit.datasets.episodes import HAS_ACTION, LABELLED, Episodes
from rlkit.datasets.options import DataOptions
from rlkit.types import Array, InputError

if TYPE_CHECKING:
    import gymnasium

CORL_EPSILON = 1e-3  # added to the standard deviation of observations, as CORL does
RETURN_RANGE = 1000.0  # what the range of returns becomes under "return-range"


class Normaliser(NamedTuple):
    """Statistics in float32. The doors take NumPy or JAX arrays with any leading axes and work under jit.

    Without normalisation and with bounds [-1, 1] they return their input's values bit for bit.
    """

    obs_mean: Array  # [O]
    obs_scale: Array  # [O] divisor
    action_centre: Array  # [A]; 0 for an unbounded component; the four action fields are empty for Discrete
    action_half: Array  # [A] half the range; 1 for an unbounded component
    action_low: Array  # [A] environment units
    action_high: Array  # [A]
    action_start: Array  # [] int32, number of a Discrete space's first choice
    reward_mean: Array  # []
    reward_std: Array  # [] divisor
    reward_scale: Array  # []
    reward_shift: Array  # []

    def obs(self, x: Array) -> Array:
        """[..., O] flat raw observations -> what agents see, float32."""
        return (x.astype(np.float32) - self.obs_mean) / self.obs_scale

    def action(self, a: Array) -> Array:
        """[..., A] environment units -> [-1, 1], float32; Discrete [...] -> choices from 0, int32."""
        if self.action_half.size == 0:
            return a.astype(np.int32) - self.action_start
        low, high = ((bound - self.action_centre) / self.action_half for bound in (self.action_low, self.action_high))
        return ((a.astype(np.float32) - self.action_centre) / self.action_half).clip(low, high)

    def env_action(self, a: Array) -> Array:
        """[..., A] in [-1, 1] -> environment units, within the bounds; Discrete [...] -> the space's own numbers."""
        if self.action_half.size == 0:
            return a.astype(np.int32) + self.action_start
        return (a.astype(np.float32) * self.action_half + self.action_centre).clip(self.action_low, self.action_high)

    def reward(self, r: Array) -> Array:
        """[...] raw rewards -> what agents learn from, float32."""
        return (r.astype(np.float32) - self.reward_mean) / self.reward_std * self.reward_scale + self.reward_shift

    @classmethod
    def fit(cls, episodes: Episodes, options: DataOptions) -> Normaliser:
        """Statistics over the rows that can be drawn. Raises InputError where a transform would divide by zero."""
        drawable = episodes.drawable()
        width = episodes.obs.shape[1]
        mean, scale = np.zeros(width), np.ones(width)
        if options.normalise == "standard":
            mean, std = blocks.moments(episodes.obs, drawable)
            scale = std + CORL_EPSILON
        fields = {"obs_mean": mean, "obs_scale": scale, **_reward_fields(episodes, drawable, options)}
        return cls._make_float32(**fields, **_action_fields(episodes.action_space))

    @classmethod
    def _make_float32(cls, **fields: Any) -> Normaliser:
        kinds = dict.fromkeys(fields, np.float32) | {"action_start": np.int32}
        return cls(**{name: np.asarray(value, kinds[name]) for name, value in fields.items()})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, exact: a float32 is written as the double of equal value, an infinity as a string."""

        def plain(value: Any) -> Any:
            if isinstance(value, list):
                return [plain(v) for v in value]
            return value if np.isfinite(value) else str(value)

        return {name: plain(np.asarray(value).tolist()) for name, value in self._asdict().items()}

    @classmethod
    def from_json(cls, form: Mapping[str, Any]) -> Normaliser:
        """Inverse of `to_json`. Raises InputError if fields are missing, unknown or no numbers."""
        if set(form) != set(cls._fields):
            raise InputError(f"normaliser: fields are {sorted(form)}, expected {sorted(cls._fields)}")
        try:
            return cls._make_float32(**form)  # numpy reads "inf" and "-inf"
        except (TypeError, ValueError) as error:
            raise InputError(f"normaliser: {error}") from error


def spec(episodes: Episodes, env_horizon: int | None) -> types.Spec:
    """What an agent is built for: flat observations (no bounds promised, since normalisation moves them), actions
    within [-1, 1] (infinite where the environment is unbounded), and the longest episode of data or environment."""
    from gymnasium.spaces import Discrete

    width = episodes.obs.shape[1]
    observation = types.Box((width,), (-np.inf,) * width, (np.inf,) * width)
    if isinstance(episodes.action_space, Discrete):
        action: types.Box | types.Discrete = types.Discrete(int(episodes.action_space.n))
    else:
        bounded = np.isfinite(episodes.action_space.low) & np.isfinite(episodes.action_space.high)
        high = np.where(bounded, 1.0, np.inf).ravel().tolist()
        action = types.Box((len(high),), tuple(-bound for bound in high), tuple(high))
    longest = int(np.max(episodes.t))  # the final observation's row carries the number of steps
    return types.Spec(observation, action, max(longest, env_horizon or 0))


def check_env(episodes: Episodes, env: gymnasium.Env) -> Episodes:
    """Compare the stored spaces with the environment's: kind, shape, bounds, integer against float.

    Returns ``episodes``; a space that the source did not name is taken from the environment, if the data fit into it.
    Raises InputError that lists what differs.
    """
    from rlkit.datasets import spaces

    notes = " ".join(episodes.report.notes)
    taken, found = {}, []
    if spaces.UNNAMED_OBSERVATION in notes:
        taken["observation_space"] = env.observation_space
        found += spaces.misfit(episodes.observation_space, env.observation_space, "observation")
    else:
        found += spaces.difference(episodes.observation_space, env.observation_space, "observation")
    if spaces.UNNAMED_ACTION in notes:
        taken["action_space"] = env.action_space
        steps = episodes.action[(np.asarray(episodes.flags) & HAS_ACTION) > 0]
        found += spaces.misfit(episodes.action_space, env.action_space, "action", steps)
    else:
        found += spaces.difference(episodes.action_space, env.action_space, "action")
    if found:
        name = env.spec.id if env.spec else type(env.unwrapped).__name__
        raise InputError(f"{episodes.name} does not belong to environment {name}: {'; '.join(found)}")
    return dataclasses.replace(episodes, **taken) if taken else episodes


def _action_fields(space: gymnasium.Space) -> dict[str, Any]:
    from gymnasium.spaces import Discrete

    if isinstance(space, Discrete):
        empty = dict.fromkeys(("action_centre", "action_half", "action_low", "action_high"), ())
        return {**empty, "action_start": space.start}
    low, high = (np.asarray(bound, np.float64).ravel() for bound in (space.low, space.high))
    bounded = np.isfinite(low) & np.isfinite(high)
    low, high = np.where(bounded, low, -np.inf), np.where(bounded, high, np.inf)
    with np.errstate(invalid="ignore"):
        centre, half = np.where(bounded, (low + high) / 2, 0.0), np.where(bounded, (high - low) / 2, 1.0)
    half = np.where(half > 0, half, 1.0)  # a component that cannot move
    return {"action_centre": centre, "action_half": half, "action_low": low, "action_high": high, "action_start": 0}


def _reward_fields(episodes: Episodes, drawable: np.ndarray, options: DataOptions) -> dict[str, float]:
    mean, std, scale = 0.0, 1.0, options.reward_scale
    if options.reward == "standard":
        reward = episodes.reward[drawable & ((np.asarray(episodes.flags) & LABELLED) > 0)]
        if not reward.size:
            raise InputError(
                f"{episodes.name}: no step that can be drawn has a reward label, as --reward standard needs"
            )
        mean, std = float(reward.mean(dtype=np.float64)), float(reward.std(dtype=np.float64))
        if std == 0:
            raise InputError(f"{episodes.name}: every reward is {mean}, so --reward standard would divide by zero")
    if options.reward == "return-range":
        returns = dataclasses.replace(episodes, hidden=None).returns()
        if not returns.size:
            raise InputError(f"{episodes.name}: no episode is labelled throughout; --reward return-range needs one")
        span = float(returns.max() - returns.min())
        if span == 0:
            raise InputError(f"{episodes.name}: all returns are equal, so --reward return-range would divide by zero")
        scale *= RETURN_RANGE / span
    return {"reward_mean": mean, "reward_std": std, "reward_scale": scale, "reward_shift": options.reward_shift}
