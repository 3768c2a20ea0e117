"""Normaliser: from raw values to what agents see, and back, with the same numbers for the data and the environment.

Also what an agent is built for (`spec`), which looks at gymnasium's spaces and imports it itself: a machine that only
trains may not have it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rlkit import types
from rlkit.datasets import blocks
from rlkit.datasets.episodes import LABELLED, Episodes
from rlkit.datasets.options import DataOptions
from rlkit.types import Array, InputError

if TYPE_CHECKING:
    import gymnasium

CORL_EPSILON = 1e-3  # added to the standard deviation of observations, as CORL does
RETURN_RANGE = 1000.0  # what the range of returns becomes under "return-range"


class Normaliser(NamedTuple):
    """Statistics in float32, and the transforms that use them: of the data in training, of the environment's
    observations and actions in evaluation.

    The methods take NumPy or JAX arrays with any leading axes and work under jit. Without normalisation and with bounds
    [-1, 1] they return their input's values bit for bit.

    Example:
        normaliser = Normaliser.fit(episodes, DataOptions("hopper/medium-v0", normalise="standard"))
        agent_obs = normaliser.obs(raw_obs)
        raw_action = normaliser.env_action(agent_action)
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
        centred = x.astype(np.float32) - self.obs_mean
        return centred / self.obs_scale

    def action(self, a: Array) -> Array:
        """[..., A] environment units -> [-1, 1], float32; Discrete [...] -> choices from 0, int32."""
        if self.action_half.size == 0:
            return a.astype(np.int32) - self.action_start
        low = (self.action_low - self.action_centre) / self.action_half
        high = (self.action_high - self.action_centre) / self.action_half
        centred = a.astype(np.float32) - self.action_centre
        scaled = centred / self.action_half
        return scaled.clip(low, high)

    def env_action(self, a: Array) -> Array:
        """[..., A] in [-1, 1] -> environment units, within the bounds; Discrete [...] -> the space's own numbers."""
        if self.action_half.size == 0:
            return a.astype(np.int32) + self.action_start
        offset = a.astype(np.float32) * self.action_half
        action = offset + self.action_centre
        return action.clip(self.action_low, self.action_high)

    def reward(self, r: Array) -> Array:
        """[...] raw rewards -> what agents learn from, float32."""
        centred = r.astype(np.float32) - self.reward_mean
        standardised = centred / self.reward_std
        return standardised * self.reward_scale + self.reward_shift

    @classmethod
    def fit(cls, episodes: Episodes, options: DataOptions) -> Normaliser:
        """Compute the statistics from the rows that can be drawn.

        Args:
            episodes: the data.
            options: normalise, reward, reward_scale and reward_shift say which transforms are wanted.

        Returns:
            The Normaliser of these data, with NumPy arrays in it.

        Raises:
            InputError: where a transform would divide by zero, or needs reward labels that the data do not have.
        """
        drawable = episodes.drawable()
        width = episodes.obs.shape[1]
        mean = np.zeros(width)
        scale = np.ones(width)
        if options.normalise == "standard":
            mean, std = blocks.moments(episodes.obs, drawable)
            scale = std + CORL_EPSILON
        elif options.normalise == "limits":
            # Final observations count too: a window of an episode holds them, and what is clipped must lie within.
            # Actions are in [-1, 1] already, by the environment's bounds, see `action`.
            least, largest = blocks.extremes(episodes.obs)
            mean = (least + largest) / 2
            half = (largest - least) / 2
            scale = np.where(half > 0, half, 1.0)  # an element that never moves becomes 0
        fields = {"obs_mean": mean, "obs_scale": scale}
        fields |= _reward_fields(episodes, drawable, options)
        fields |= _action_fields(episodes.action_space)
        return cls._make_float32(**fields)

    @classmethod
    def _make_float32(cls, **fields: Any) -> Normaliser:
        arrays = {}
        for name, value in fields.items():
            dtype = np.int32 if name == "action_start" else np.float32
            arrays[name] = np.asarray(value, dtype)
        return cls(**arrays)

    def to_json(self) -> dict[str, Any]:
        """JSON form, exact: a float32 is written as the double of equal value, an infinity as a string."""
        form = {}
        for name, array in self._asdict().items():
            form[name] = _finite_or_text(np.asarray(array).tolist())
        return form

    @classmethod
    def from_json(cls, form: Mapping[str, Any]) -> Normaliser:
        """Inverse of `to_json`. Raises InputError if fields are missing, unknown or no numbers."""
        if set(form) != set(cls._fields):
            raise InputError(f"normaliser: fields are {sorted(form)}, expected {sorted(cls._fields)}")
        try:
            return cls._make_float32(**form)  # numpy reads "inf" and "-inf"
        except (TypeError, ValueError) as error:
            raise InputError(f"normaliser: {error}") from error


def _finite_or_text(value: Any) -> Any:
    """A number or a list of numbers for JSON, which has no infinity: that becomes text."""
    if isinstance(value, list):
        return [_finite_or_text(element) for element in value]
    if np.isfinite(value):
        return value
    return str(value)


def spec(
    episodes: Episodes, env_horizon: int | None, normaliser: Normaliser | None = None, normalise: str = "none"
) -> types.Spec:
    """The Spec that an agent is built for: flat observations (without bounds, since normalisation moves them), actions
    within [-1, 1] (infinite where the environment is unbounded), and the longest episode of data or environment.

    normalise: of DataOptions. Under "limits" observations have the bounds -1 and 1, which are the data's: in the
    environment an agent may see what lies beyond them.
    """
    from gymnasium.spaces import Discrete

    width = episodes.obs.shape[1]
    bound = 1.0 if normalise == "limits" else np.inf
    observation = types.Box((width,), (-bound,) * width, (bound,) * width)
    space = episodes.action_space
    action: types.Box | types.Discrete
    if isinstance(space, Discrete):
        action = types.Discrete(int(space.n))
    else:
        bounded = np.isfinite(space.low) & np.isfinite(space.high)
        bounds = np.where(bounded, 1.0, np.inf).ravel()
        low = tuple((-bounds).tolist())
        high = tuple(bounds.tolist())
        action = types.Box((len(high),), low, high)
    longest = int(np.max(episodes.t))  # the final observation's row carries the number of steps
    horizon = max(longest, env_horizon or 0)
    if normaliser is None:
        return types.Spec(observation, action, horizon)
    scale = float(normaliser.reward_scale / normaliser.reward_std)
    shift = float(normaliser.reward_shift - scale * normaliser.reward_mean)
    return types.Spec(observation, action, horizon, scale, shift)


def _action_fields(space: gymnasium.Space) -> dict[str, Any]:
    from gymnasium.spaces import Discrete

    if isinstance(space, Discrete):
        return {
            "action_centre": (),
            "action_half": (),
            "action_low": (),
            "action_high": (),
            "action_start": space.start,
        }
    low = np.asarray(space.low, np.float64).ravel()
    high = np.asarray(space.high, np.float64).ravel()
    bounded = np.isfinite(low) & np.isfinite(high)
    low = np.where(bounded, low, -np.inf)
    high = np.where(bounded, high, np.inf)
    with np.errstate(invalid="ignore"):
        middle = (low + high) / 2
        half = (high - low) / 2
    centre = np.where(bounded, middle, 0.0)
    half = np.where(bounded, half, 1.0)
    half = np.where(half > 0, half, 1.0)  # a component that cannot move
    return {
        "action_centre": centre,
        "action_half": half,
        "action_low": low,
        "action_high": high,
        "action_start": 0,
    }


def _reward_fields(episodes: Episodes, drawable: np.ndarray, options: DataOptions) -> dict[str, float]:
    mean = 0.0
    std = 1.0
    scale = options.reward_scale
    if options.reward == "standard":
        mean, std = _reward_moments(episodes, drawable)
    if options.reward == "return-range":
        scale *= RETURN_RANGE / _return_range(episodes)
    return {
        "reward_mean": mean,
        "reward_std": std,
        "reward_scale": scale,
        "reward_shift": options.reward_shift,
    }


def _reward_moments(episodes: Episodes, drawable: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the labelled rewards that can be drawn."""
    labelled = (np.asarray(episodes.flags) & LABELLED) > 0
    reward = episodes.reward[drawable & labelled]
    if not reward.size:
        raise InputError(f"{episodes.name}: no step that can be drawn has a reward label, as --reward standard needs")
    mean = float(reward.mean(dtype=np.float64))
    std = float(reward.std(dtype=np.float64))
    if std == 0:
        raise InputError(f"{episodes.name}: every reward is {mean}, so --reward standard would divide by zero")
    return mean, std


def _return_range(episodes: Episodes) -> float:
    """The best return of a labelled episode minus the worst."""
    labelled = dataclasses.replace(episodes, hidden=None)  # returns() would count hidden rewards too
    returns = labelled.returns()
    if not returns.size:
        raise InputError(f"{episodes.name}: no episode is labelled throughout; --reward return-range needs one")
    span = float(returns.max() - returns.min())
    if span == 0:
        raise InputError(f"{episodes.name}: all returns are equal, so --reward return-range would divide by zero")
    return span
