"""States that repeat: counts of what was tried in them, and FQE in the world that was counted.

Where observations are states of a list, Q is the mean of what followed each pair of state and action, and the fit is a
linear recursion without random numbers. A policy's probability on actions that were never tried in a state has no
such mean. It is moved to those that were ("supported"): the value is then that of the policy as far as the data go,
and `Support` says how far that is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

from rlkit.datasets import Episodes
from rlkit.datasets.episodes import TERMINAL

REPEATS = 10.0  # rows for each distinct observation, on average, from which observations count as states
FEW = 5  # times an action was tried in a state: below this it is hardly known
MOST_SWEEPS = 10_000
TOLERANCE = 1e-10
LOOK_EVERY = 10  # sweeps, whether they still change anything: the look costs as much as a sweep


class Table(NamedTuple):
    """N recorded steps in S states with n actions. A step that can be used ends in a terminal state or has a successor.

    state, next_state, action, episode: [N] int. reward: [N]. terminal: [N] bool. first: [E] state that each episode
    begins in.
    """

    state: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_state: np.ndarray
    terminal: np.ndarray
    episode: np.ndarray
    first: np.ndarray
    states: int
    actions: int

    def counts(self, weight: np.ndarray | None = None) -> np.ndarray:
        """[S, n] how often each action was tried in each state, each step counted with its ``weight`` [N]."""
        pair = self.state * self.actions + self.action
        size = self.states * self.actions
        return np.bincount(pair, weight, minlength=size).reshape(self.states, self.actions)


def number_states(episodes: Episodes) -> np.ndarray | None:
    """[R] int, the number of the observation in each row, where observations are states that repeat; else None."""
    rows = np.ascontiguousarray(episodes.obs)
    most = len(rows) / REPEATS
    numbers: dict[bytes, int] = {}
    number = np.empty(len(rows), np.int64)
    for row, obs in enumerate(rows):
        number[row] = numbers.setdefault(obs.tobytes(), len(numbers))
        if len(numbers) > most:
            return None
    return number


def table(episodes: Episodes, number: np.ndarray, choices: np.ndarray, actions: int) -> Table:
    """The steps of ``episodes`` as a Table. number: from `number_states`. choices: [R] int recorded actions from 0 on.
    actions: how many there are."""
    flags = np.asarray(episodes.flags)
    begins = np.asarray(episodes.t) == 0
    rows = np.flatnonzero(episodes.drawable())
    return Table(
        state=number[rows],
        action=choices[rows],
        reward=np.asarray(episodes.reward, np.float64)[rows],
        next_state=number[np.minimum(rows + 1, len(number) - 1)],
        terminal=(flags[rows] & TERMINAL) > 0,
        episode=(np.cumsum(begins) - 1)[rows],
        first=number[begins],
        states=int(number.max()) + 1,
        actions=actions,
    )


def by_state(policy: np.ndarray, number: np.ndarray) -> np.ndarray:
    """[S, n] the policy's probabilities in each state, of those in each row [R, n]: a policy without memory has
    the same in all rows of a state."""
    _, row = np.unique(number, return_index=True)
    return np.asarray(policy, np.float64)[row]


def supported(policy: np.ndarray, tried: np.ndarray) -> np.ndarray:
    """[S, n] ``policy`` on the actions that were tried alone, with a sum of 1 again. tried: [S, n] counts.

    Where it takes none of them, it acts as was recorded; where nothing was recorded, as it was.
    """
    kept = np.where(tried > 0, policy, 0.0)
    total = kept.sum(1, keepdims=True)
    recorded = tried / np.maximum(tried.sum(1, keepdims=True), 1e-300)
    was_visited = tried.sum(1, keepdims=True) > 0
    instead = np.where(was_visited, recorded, policy)
    return np.where(total > 0, kept / np.where(total > 0, total, 1), instead)


class Values(NamedTuple):
    """The fit of a policy: ``q`` [S, n], ``v`` [S], and its ``estimate``, the mean of V over the first states."""

    q: np.ndarray
    v: np.ndarray
    estimate: float


def evaluate(
    steps: Table, policy: np.ndarray, gamma: float, weight: np.ndarray | None = None, *, untried: float | None = None
) -> Values:
    """Fitted Q evaluation with a mean for each pair of state and action.

    Args:
        steps: the data. policy: [S, n] probabilities. gamma: discount. weight: [E] of the episodes, 1 each by default.
        untried: Q of actions that were never tried. None: the policy is restricted to those that were, see `supported`.

    Returns:
        The Values; the estimate's mean over first states has the same weights.

    Example:
        evaluate(steps, policy, 0.99).estimate
    """
    if weight is None:
        weight = np.ones(len(steps.first))
    step_weight = weight[steps.episode]
    counts = steps.counts(step_weight)
    tried = counts > 0
    followed = policy if untried is not None else supported(policy, counts)

    # --- E[r] and the transitions of every pair, then of the policy ---
    divisor = np.where(tried, counts, 1)
    reward = steps.counts(step_weight * steps.reward) / divisor
    if untried is not None:
        reward = np.where(tried, reward, untried)
    goes_on = ~steps.terminal
    pair = steps.state * steps.actions + steps.action
    share = step_weight / divisor.ravel()[pair]
    shape = (steps.states * steps.actions, steps.states)
    moves = sparse.csr_matrix((share[goes_on], (pair[goes_on], steps.next_state[goes_on])), shape)
    rows = np.repeat(np.arange(steps.states), steps.actions)
    columns = np.arange(steps.states * steps.actions)
    mixing = sparse.csr_matrix((followed.ravel(), (rows, columns)))
    of_policy = mixing @ moves

    # --- V = r + gamma P V, from 0 on ---
    one_step = (followed * reward).sum(1)
    v = one_step
    for sweep in range(MOST_SWEEPS):
        following = one_step + gamma * (of_policy @ v)
        has_settled = sweep % LOOK_EVERY == 0 and np.abs(following - v).max() < TOLERANCE
        v = following
        if has_settled:
            break
    q = reward + gamma * (moves @ v).reshape(reward.shape)
    if untried is None:
        q = np.where(tried, q, v[:, None])  # so that V = sum_a pi Q holds for the policy as it is, too
    estimate = float((weight * v[steps.first]).sum() / weight.sum())
    return Values(q, v, estimate)


def replicates(steps: Table, policy: np.ndarray, gamma: float, weights: np.ndarray) -> np.ndarray:
    """[R] estimates with the weights [R, E] of the episodes, each fitted anew."""
    return np.array([evaluate(steps, policy, gamma, weight).estimate for weight in weights])


class Support(NamedTuple):
    """Shares of steps on actions that were tried fewer than FEW times in their state, and of the policy's episodes that
    are still going when the recursion ends."""

    policy: float  # of the policy's own steps, in the world that was counted
    recorded: float  # of the recorded steps
    endless: float  # mass of the policy's first states that has not ended after ten times the longest recorded episode


def support(steps: Table, policy: np.ndarray, longest: int) -> Support:
    """How much of what the policy does was tried, see Support. longest: steps of the longest recorded episode."""
    counts = steps.counts()
    few = counts < FEW
    followed = supported(policy, counts)
    pair = steps.state * steps.actions + steps.action
    goes_on = ~steps.terminal
    # share of pi on the pair, spread over the steps that were recorded for it
    step_share = (followed / np.maximum(counts, 1)).ravel()[pair]
    shape = (steps.states, steps.states)
    moves = sparse.csr_matrix((step_share[goes_on], (steps.state[goes_on], steps.next_state[goes_on])), shape)

    mass = np.bincount(steps.first, minlength=steps.states) / len(steps.first)
    visits = np.zeros(steps.states)
    for _ in range(10 * longest):
        visits += mass
        mass = moves.T @ mass
        if mass.sum() < TOLERANCE:
            break
    of_state = (policy * few).sum(1)
    recorded = (counts * few).sum() / counts.sum()
    return Support(float(visits @ of_state / visits.sum()), float(recorded), float(mass.sum()))


def cross_fitted(
    steps: Table, policy: np.ndarray, gamma: float, number: np.ndarray, choices: np.ndarray, episode: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """V of each row under the policy and Q of each recorded action, [R] both, fitted on the other half of the episodes.

    number, choices, episode: [R] the state, the recorded action and the episode of each row. A state that the other
    half has not seen gets the mean value of those that it has.
    """
    value = np.zeros(len(number))
    q = np.zeros(len(number))
    for half in (0, 1):
        weight = (np.arange(len(steps.first)) % 2 != half).astype(np.float64)
        fitted = evaluate(steps, policy, gamma, weight)
        was_visited = steps.counts(weight[steps.episode]).sum(1) > 0
        usual = fitted.v[was_visited].mean()
        v_of_state = np.where(was_visited, fitted.v, usual)
        q_of_pair = np.where(was_visited[:, None], fitted.q, usual)
        rows = episode % 2 == half
        value[rows] = v_of_state[number[rows]]
        q[rows] = q_of_pair[number[rows], choices[rows]]
    return value, q
