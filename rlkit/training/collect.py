"""Collecting: the environments that the agents of a run act in while they train, and the replay that is filled so.

The environments are stepped by the same compiled step as in evaluation (rlkit.evaluation.play), with sampled actions.
What is in the middle of something is kept on the host; the replay and the agents' memories are on the device.

Nothing of an environment is saved. A run that goes on after an interruption resets the environment with the running
episode's seed and takes the recorded actions again. Where the environment does not come to the same observation, one
line says so, and the episode ends there.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlkit import columns, messages, ring
from rlkit.acting import collecting_goal
from rlkit.buffer import Buffer
from rlkit.datasets import Normaliser
from rlkit.evaluation import play, task
from rlkit.evaluation.play import Acting, EvaluationError, Lane, Played, Seen
from rlkit.ring import Rows
from rlkit.training.sharding import per_seed
from rlkit.types import Agent, Array, Discrete, InputError, Metrics, RunError, Spec, Stage, State

CHUNK = 128  # rows of an episode that are written at once
Place = tuple[int, int]  # numbers of the seed and of its lane


class Play(NamedTuple):
    """Where E environments of S seeds are. NumPy arrays, as the environment has the values."""

    obs: Array  # [S, E, O] float32, the latest
    reward: Array  # [S, E] float32, the latest
    t: Array  # [S, E] int32, steps since reset
    ended: Array  # [S, E] bool: the episode is over, and its final observation is not in the replay yet
    episode: Array  # [S, E] int32, number of the running episode
    taken: Array  # [S, E, L, A] or [S, E, L], actions of the running episode; L is the time limit
    begun: Array  # [S] int32, episodes that have begun
    units: Array  # [S] int32, what was collected, see rlkit.online
    steps: Array  # [S] int32, steps that were collected
    finished: Array  # [S] int32, episodes that have ended
    returns: Array  # [S] float32, of the episode that ended last
    stopped: Array  # [S] bool: the policy's action was not finite, so nothing is collected any more


class Live(NamedTuple):
    """All that an online stage needs beside the learner's state, to go on to the same bits."""

    replay: Buffer  # [S, C, ...] on the device
    played: Played  # memories and plans, [S, E, ...]
    play: Play


@contextlib.contextmanager
def _keeping_checkpoints() -> Iterator[None]:
    """Where an environment fails, the run ends with one line, and its checkpoints stay."""
    try:
        yield
    except EvaluationError as error:
        raise RunError(f"{error}; the last checkpoint is kept: continue with --resume auto") from error


class Collector:
    """Environments and replay of the online stages of a run.

    Args:
        seeds: of the run.
        spec: that the agents are built for.
        normaliser: between the environment's units and those of the agents.
        make_env: makes one environment; it must have a time limit.
        mesh: that the run trains on.
        beat: called after every step of the environments.
        data: with whose best episodes a replay may begin.

    `begin` or `resume` comes first in each online stage, then `run` before each round of updates. `live` is what is to
    be saved; its replay is donated to the next `run`.

    Raises InputError for an environment without a time limit, and RunError if an environment fails.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        spec: Spec,
        normaliser: Normaliser,
        make_env: Callable[[], gymnasium.Env],
        mesh: Mesh,
        beat: Callable[[], None] = lambda: None,
        data: Buffer | None = None,
    ):
        self._seeds = seeds
        self._spec = spec
        self._normaliser = normaliser
        self._device = mesh.devices.flat[0]  # on which the agents of all seeds act
        self._on_device = jax.device_put(normaliser, self._device)
        self._make_env = make_env
        self._mesh = mesh
        self._beat = beat
        self._data = data
        self._envs: list[gymnasium.Env] = []
        self._lanes: dict[Place, Lane] = {}
        self._pending: dict[Place, _Episode] = {}
        self._limit = 0
        self.replay: Buffer | None = None

    @_keeping_checkpoints()
    def begin(self, stage: Stage, number: int, state: State) -> None:
        """Begin online stage ``number`` with new episodes. The replay of an online stage before it is kept."""
        self._set_stage(stage, number)
        begun = play.begin(self._agent, self._width, self._acting(self._gathered(state)))
        self._played = jax.device_put(begun, self._device)
        self._play = self._nothing_played()
        if self.replay is None:
            self.replay = jax.device_put(self._empty(), per_seed(self._mesh))
            self._write_best()
        for place in self._lanes:
            self._next_episode(place)

    @_keeping_checkpoints()
    def resume(self, stage: Stage, number: int, live: Live) -> None:
        """Go on in online stage ``number`` from ``live``: running episodes are played again up to where they were."""
        self._set_stage(stage, number)
        self._play = jax.tree.map(np.array, live.play)
        self._played = jax.device_put(live.played, self._device)
        self.replay = jax.device_put(live.replay, per_seed(self._mesh))
        for place in self._lanes:
            self._play_again(place)

    @_keeping_checkpoints()
    def run(self, state: State, target: int) -> None:
        """Collect until every seed has ``target`` units, with the agents' states ``state``, [S] on every leaf."""
        acting = None
        while True:
            is_due = (self._play.units < target) & ~self._play.stopped
            if not is_due.any():
                return
            if acting is None:
                acting = self._acting(self._gathered(state))
            self._tick(acting, is_due)
            self._beat()

    @property
    def live(self) -> Live:
        """What is to be saved now."""
        return Live(self.replay, self._played, jax.tree.map(np.array, self._play))

    def metrics(self) -> Metrics:
        """What was collected so far, [S] each; the latest return once each seed has one."""
        measured = {
            "online/steps": self._play.steps.astype(np.float32),
            "online/episodes": self._play.finished.astype(np.float32),
        }
        if self._play.finished.all():
            measured["online/return"] = self._play.returns.copy()
        return measured

    @_keeping_checkpoints()
    def abstract(self, stage: Stage, state: State) -> Live:
        """Shapes and dtypes of the `live` of ``stage``. ``state`` may be abstract."""
        self._set_stage(stage, 0)
        begin = functools.partial(play.begin, self._agent, self._width)
        played = jax.eval_shape(begin, self._acting(state))

        def shape(leaf: Array) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

        return Live(jax.tree.map(shape, self._empty()), played, jax.tree.map(shape, self._nothing_played()))

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            with contextlib.suppress(Exception):  # other people's code, which is not needed any more
                env.close()
        self._envs.clear()

    # --- a stage ---

    def _set_stage(self, stage: Stage, number: int) -> None:
        self._online = stage.online
        self._agent: Agent = stage.learner
        self._number = number
        self._width = stage.online.lanes
        goals = play.stack_goals([collecting_goal(self._agent)])
        keys = np.array([_seed(seed, number) for seed in self._seeds], np.uint32)
        self._asked = jax.device_put((goals, keys), self._device)
        total = len(self._seeds) * self._width
        while len(self._envs) < total:
            self._envs.append(play.another(self._make_env, self._envs, "collecting"))
        self._limit = task.needed_time_limit(self._envs[0])
        self._by_episode = stage.online.unit == "episode"
        try:
            stored = ring.stored_columns(self._agent.needs)
        except InputError as refusal:
            raise InputError(f"stage {stage.name}: {refusal}") from None
        if stored and not self._by_episode:
            names = ", ".join(str(getattr(need, "name", need)) for need in stored)
            raise InputError(
                f"stage {stage.name}: it learns from {names}, which is known when an episode has ended: "
                "--online.unit episode"
            )
        places = list(np.ndindex(len(self._seeds), self._width))
        self._lanes = {}
        for place, env in zip(places, self._envs, strict=False):
            self._lanes[place] = Lane(env, place[0], 0, self._limit, doing="collecting")
        self._pending = {place: _Episode() for place in places}

    def _empty(self) -> Buffer:
        """NumPy arrays of which nothing is written, and which take no memory yet."""
        best = [len(rows) for rows in self._best()]
        capacity = self._online.rows(self._limit, best)
        lanes = 1 if self._by_episode else self._width
        if self._by_episode:
            capacity = max(capacity, 2 * CHUNK)
        return ring.empty(self._spec, self._agent.needs, len(self._seeds), capacity, lanes)

    def _nothing_played(self) -> Play:
        seeds, width = len(self._seeds), self._width
        lanes = (seeds, width)
        if isinstance(self._spec.action, Discrete):
            taken = np.zeros((*lanes, self._limit), np.int32)
        else:
            taken = np.zeros((*lanes, self._limit, *self._spec.action.shape), np.float32)

        def of_each_seed(dtype: type = np.int32) -> np.ndarray:
            return np.zeros(seeds, dtype)

        return Play(
            obs=np.zeros((*lanes, *self._spec.observation.shape), np.float32),
            reward=np.zeros(lanes, np.float32),
            t=np.zeros(lanes, np.int32),
            ended=np.zeros(lanes, bool),
            episode=np.zeros(lanes, np.int32),
            taken=taken,
            begun=of_each_seed(),
            units=of_each_seed(),
            steps=of_each_seed(),
            finished=of_each_seed(),
            returns=of_each_seed(np.float32),
            stopped=of_each_seed(bool),
        )

    def _acting(self, state: State) -> Acting:
        goals, keys = self._asked
        return Acting(state, goals, self._on_device, keys)

    def _gathered(self, state: State) -> State:
        """The states of all seeds on the device on which they act."""
        if self._mesh.size == 1:
            return state
        return jax.device_put(state, self._device)

    # --- episodes ---

    def _next_episode(self, place: Place) -> None:
        """Reset an environment for the next episode of its seed."""
        seed = place[0]
        number = int(self._play.begun[seed])
        self._play.begun[seed] += 1
        self._play.episode[place] = number
        self._play.ended[place] = False
        self._reset(place, number)
        self._look(place)

    def _reset(self, place: Place, number: int) -> None:
        lane = self._lanes[place]
        lane.reset(number, _seed(self._seeds[place[0]], self._number, number))
        self._pending[place] = _Episode([lane.obs])

    def _play_again(self, place: Place) -> None:
        """Bring an environment to where its running episode was."""
        lane = self._lanes[place]
        steps = int(self._play.t[place])
        seen = self._play.obs[place].copy()
        if self._play.ended[place]:
            lane.obs, lane.t = seen, steps
            return
        number = int(self._play.episode[place])
        try:
            self._reset(place, number)
            has_ended = False
            for action in self._play.taken[place][:steps]:
                has_ended = lane.step(action)
                self._pending[place].add(lane.obs, action, lane.reward)
                self._beat()
            is_there = not has_ended and np.array_equal(lane.obs, seen)
        except EvaluationError:
            is_there = False
        if is_there:
            return
        messages.tell(
            f"the environment of seed {self._seeds[place[0]]} does not play episode {number} again as it was: "
            "collecting goes on with a new episode, but not to the same bits"
        )
        if self._by_episode:
            self._next_episode(place)
        else:
            self._play.ended[place] = True
            lane.obs, lane.t = seen, steps

    def _look(self, place: Place) -> None:
        """Note what an environment gave last."""
        lane = self._lanes[place]
        self._play.obs[place] = lane.obs
        self._play.reward[place] = lane.reward
        self._play.t[place] = lane.t

    # --- one row of each lane ---

    def _tick(self, acting: Acting, is_due: np.ndarray) -> None:
        """A step of every lane of the seeds that are due, or the final observation of an episode that has ended."""
        is_active = is_due[:, None] & ~self._play.ended
        actions = None
        if is_active.any():
            actions = self._act(acting, is_active)
            is_due = is_due & ~self._play.stopped
        rows = None if self._by_episode else self._no_rows()
        for place in self._lanes:
            if not is_due[place[0]]:
                continue
            if self._play.ended[place]:
                self._note_final(rows, place)
                self._next_episode(place)
            else:
                self._step(rows, place, actions[place])
        if rows is not None:
            self._insert(rows, is_due * self._width)

    def _act(self, acting: Acting, is_active: np.ndarray) -> np.ndarray:
        """The actions of all lanes, [S, E, A] or [S, E]. Seeds whose actions are not finite stop."""
        play_now = self._play
        seen = Seen(play_now.obs, play_now.reward, play_now.t, play_now.episode, np.zeros_like(play_now.t))
        # NumPy arrays as arguments are moved by the compiled call itself, ten times as fast as by jax.device_put
        actions, self._played = _act(self._agent, acting, self._played, seen, is_active)
        actions = np.asarray(jax.device_get(actions))
        is_finite = np.isfinite(actions).reshape(len(self._seeds), -1).all(1)
        self._play.stopped[~is_finite] = True
        return actions

    def _step(self, rows: Rows | None, place: Place, action: np.ndarray) -> None:
        """One step of an environment."""
        seed = place[0]
        lane = self._lanes[place]
        obs, t = lane.obs, lane.t
        self._play.taken[place][t] = action
        has_ended = lane.step(action)
        self._look(place)
        self._play.steps[seed] += 1
        if has_ended:
            self._play.finished[seed] += 1
            self._play.returns[seed] = lane.total
        if rows is not None:
            self._play.units[seed] += 1
            self._play.ended[place] = has_ended
            rows.obs[place] = self._normaliser.obs(obs)
            rows.action[place] = self._normaliser.action(action)
            rows.reward[place] = self._normaliser.reward(np.float32(lane.reward))
            rows.t[place] = t
            rows.flags[place] = ring.TERMINAL_STEP if lane.terminated else ring.STEP
            return
        self._pending[place].add(lane.obs, action, lane.reward)
        if has_ended:
            self._play.units[seed] += 1
            self._write_episode(seed, self._pending[place], lane.terminated)
            self._next_episode(place)

    def _note_final(self, rows: Rows, place: Place) -> None:
        """The final observation of an episode."""
        lane = self._lanes[place]
        rows.obs[place] = self._normaliser.obs(lane.obs)
        rows.t[place] = lane.t
        rows.flags[place] = ring.FINAL

    def _write_episode(self, seed: int, episode: _Episode, is_terminal: bool) -> None:
        """Write a whole episode of one seed, with its columns."""
        one = ring.one_episode(
            self._normaliser.obs(np.array(episode.obs)),
            self._normaliser.action(np.array(episode.actions)),
            self._normaliser.reward(np.array(episode.rewards, np.float32)),
            is_terminal,
        )
        made = columns.make(ring.stored_columns(self._agent.needs), one)
        self._write([seed], one._replace(extra=made))

    def _best(self) -> list[np.ndarray]:
        """The rows of each of the data's best episodes that the replay begins with, the worst first."""
        if not self._online.best:
            return []
        t, reward = jax.device_get((self._data.t, self._data.reward))
        starts = np.flatnonzero(t == 0)
        returns = np.add.reduceat(np.asarray(reward, np.float64), starts)
        rows = np.split(np.arange(len(t)), starts[1:])
        best_first = np.argsort(-returns, kind="stable")[: self._online.best]
        lengths = [len(rows[number]) for number in best_first]
        fits = np.cumsum(lengths) <= self._online.capacity
        return [rows[number] for number in reversed(best_first[: fits.sum()])]

    def _write_best(self) -> None:
        """Write the best of the data, of which every seed has a copy."""
        best = self._best()
        if not best:
            return
        rows = np.concatenate(best)
        extra = {name: self._data.extra[name] for name in self.replay.extra}
        data = jax.device_get(self._data._replace(extra=extra, index=None, labels=None))
        written = jax.tree.map(lambda column: column[rows], data)
        self._write(range(len(self._seeds)), written)

    def _write(self, members: Sequence[int], written: Buffer) -> None:
        """Write rows, NumPy arrays, into the rings of the seeds with the numbers ``members``."""
        members = np.asarray(members)
        for first in range(0, len(written.t), CHUNK):
            rows = self._no_rows(CHUNK)
            piece = slice(first, first + CHUNK)
            number = len(written.t[piece])
            for name in ("obs", "action", "reward", "t", "flags"):
                getattr(rows, name)[members, :number] = getattr(written, name)[piece]
            for name, column in written.extra.items():
                if column is not None:
                    rows.extra[name][members, :number] = column[piece]
            count = np.zeros(len(self._seeds), np.int32)
            count[members] = number
            self._insert(rows, count)

    def _no_rows(self, number: int | None = None) -> Rows:
        """Rows to be filled in, ``number`` of each seed or one of each lane."""
        shape = (len(self._seeds), number or self._width)

        def like(column: Array) -> np.ndarray:
            return np.zeros((*shape, *column.shape[2:]), column.dtype)

        replay = self.replay
        extra = {name: like(column) for name, column in replay.extra.items() if column is not None}
        return Rows(*map(like, (replay.obs, replay.action, replay.reward, replay.t, replay.flags)), extra)

    def _insert(self, rows: Rows, count: np.ndarray) -> None:
        self.replay = ring.insert(self.replay, rows, count.astype(np.int32))


class _Episode:
    """What was seen and done in a running episode, as the environment has it."""

    def __init__(self, obs: Sequence[np.ndarray] = ()):
        self.obs = list(obs)  # one more than actions
        self.actions: list[np.ndarray] = []
        self.rewards: list[float] = []

    def add(self, obs: np.ndarray, action: np.ndarray, reward: float) -> None:
        """A step."""
        self.obs.append(obs)
        self.actions.append(action)
        self.rewards.append(reward)


def _seed(*numbers: int) -> int:
    """A seed of 32 bits that follows from the numbers: of the run's seed, the stage, and the episode."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@functools.partial(jax.jit, static_argnums=0)
def _act(agent: Agent, acting: Acting, played: Played, seen: Seen, is_active: Array) -> tuple[Array, Played]:
    """One step of the agents, sampled; those of lanes [S, E] that are not active keep what they had."""
    actions, acted = play.step(agent, False, acting, played, seen)

    def choose(new: Array, old: Array) -> Array:
        missing_axes = (1,) * (new.ndim - 2)
        return jnp.where(is_active.reshape(*is_active.shape, *missing_axes), new, old)

    return actions, jax.tree.map(choose, acted, played)
