"""Episodes played into a dataset: ``rlkit data collect``, and the steps that ``--dataset random:5000`` stands for.

An episode follows from the policy and its seed alone, whatever was played before. So a collection that was interrupted
goes on to the same data, and the same command plays the same random steps.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from rlkit import datasets, ranges
from rlkit.commands import Catalog, environment
from rlkit.commands.options import DataCollect
from rlkit.datasets import DataOptions, Episodes, holdout, labels, spaces, writing
from rlkit.datasets.writing import Act, GrowingDataset, Rows
from rlkit.evaluation import interface, task
from rlkit.evaluation.interface import BadReturn
from rlkit.ranges import Count, Seed
from rlkit.runs import environments, serialization
from rlkit.runs import policy as policies
from rlkit.runs.lock import RunLock
from rlkit.runs.policy import Policy
from rlkit.runs.progress import Display
from rlkit.runs.record import Record
from rlkit.runs.stopping import Stop
from rlkit.training.compilation import keep_compiled
from rlkit.types import InputError, RunError, one_line

RANDOM = "random"
_STEPS = re.compile(f"{RANDOM}:(.*)", re.DOTALL)
NAME = re.compile(r"(?=[^/]{2})([-\w]+/)+[-\w]+-v\d+")  # Minari refuses a namespace of one letter
_STORABLE = (Box, Discrete, MultiBinary, MultiDiscrete)  # and Dict and Tuple of them
_ACTIONS = 1  # number of the stream of random numbers from which uniform actions are drawn


def run(options: DataCollect, catalog: Catalog) -> int:
    """Play what is missing of a collection and store it. Returns 0.

    Raises InputError for what the user can correct, RunError if the environment or the disk fails. What ends it, a
    signal too, costs the episode that is being played and no other.
    """
    _check(options)
    record = None
    if options.policy != RANDOM:
        record = Record.read(Path(options.policy))
    name, env = _environment(options, record, catalog)
    acting = _acting(options, record, env)
    collection = {
        "policy": RANDOM if record is None else record.agent,
        "state": acting.fingerprint() if acting else None,
        "greedy": options.greedy,
        "environment": _spec(name, env),
        "seed": options.seed,
        "episodes": options.episodes,
    }
    folder = options.out / options.name
    with RunLock(folder) as lock:
        about = _about(options, record, env, catalog)
        growing = GrowingDataset(options.out, options.name, env, options.seed, collection, about)
        differences = serialization.differences(growing.collection, collection)
        if differences:
            listed = "; ".join(differences)
            raise InputError(
                f"{folder} is there already, and it is another collection ({listed}): choose another --name"
            )
        if growing.episodes == options.episodes:
            print(f"{folder} already has its {options.episodes} episodes")
            return 0
        try:
            _collect(options, growing, env, acting, lock.touch)
        except OSError as error:
            raise RunError(f"{folder} cannot be written to ({one_line(error)}): the same command goes on") from error
    env.close()
    return 0


def load(options: DataOptions, catalog: Catalog, *, infos: bool = False, use_cache: bool = True) -> Episodes:
    """The data that ``options`` name, as `rlkit.datasets.load` reads them; for random:N they are played.

    Raises InputError as that does, or where nothing can be played, RunError if the environment fails.
    """
    played = [name for name in options.names if _STEPS.fullmatch(name)]
    if not played:
        options = dataclasses.replace(options, env=environments.for_readers(options.env))
        return datasets.load(options, roots=[catalog.datasets], infos=infos, use_cache=use_cache)

    # --- what is to be played ---
    name = played[0]
    named = _STEPS.fullmatch(name)
    if len(options.names) > 1:
        raise InputError(f"{name} stands for itself alone: `rlkit data collect random` stores steps that can be joined")
    allowed = ranges.find(Count)
    try:
        steps = ranges.whole(named[1])
    except ValueError:
        steps = -1
    if steps not in allowed:
        low, high = allowed.bounds
        raise InputError(f"{name}: write a whole number of steps from {low:.0f} to {high:.0f}, such as {RANDOM}:5000")
    if not options.env or options.env == environments.NONE:
        raise InputError(f"{name}: name the environment to play in with --env")
    env = environments.make(options.env, catalog.make_env)
    spaces.check_supported(name, env.observation_space, env.action_space)

    # --- through the same door as a user's own episodes ---
    episodes = datasets.from_episodes(
        _random_steps(name, env, steps),
        name=name,
        observation_space=env.observation_space,
        action_space=env.action_space,
        env=options.env,
        repair=options.repair,
    )
    env.close()
    return labels.hide(holdout.training(episodes, options), options)


def uniform(env: gymnasium.Env, seed: int) -> Act:
    """Uniform actions of the environment's action space, for one episode.

    The environment's reset with ``seed`` draws from a generator of that seed. Actions from a generator of the same seed
    would be the same numbers as the start, so theirs is another one.
    """
    stream = np.random.SeedSequence([seed, _ACTIONS])
    action_space = copy.deepcopy(env.action_space)
    action_space.seed(int(stream.generate_state(1)[0]))
    return lambda obs, reward: action_space.sample()


def _check(options: DataCollect) -> None:
    """Raises InputError for a name or a number that cannot be, before anything is made."""
    if not NAME.fullmatch(options.name):
        form = "NAMESPACE/NAME-v0 of letters, digits, - and _, such as pendulum/random-v0"
        raise InputError(f"--name {options.name}: not {form}")
    last_seed = options.seed + options.episodes - 1
    if last_seed not in ranges.find(Seed):
        raise InputError(f"--episodes {options.episodes}: the last seed, {last_seed}, must be {ranges.find(Seed)}")
    if options.greedy and options.policy == RANDOM:
        raise InputError("--greedy: uniform actions have no greedy ones; leave it out, or name a run")


def _environment(options: DataCollect, record: Record | None, catalog: Catalog) -> tuple[str, gymnasium.Env]:
    """The environment to play in, with its name. Raises InputError if there is none, or if the run's policy cannot act
    in it."""
    name = options.env
    if not name and record is not None and record.evaluation is not None:
        name = environments.again(record.evaluation, options.imports)
    if not name:
        raise InputError(f"{options.policy}: name the environment with --env")
    env = environments.make(name, catalog.make_env)
    where = f"environment {environment.name_of(name, env)}"
    _check_storable(f"{where}: observations", env.observation_space)
    _check_storable(f"{where}: actions", env.action_space)
    if record is not None:
        environment.check_fits(options.policy, record, environment.name_of(name, env), env)
    return name, env


def _check_storable(where: str, space: gymnasium.Space) -> None:
    """Raises InputError for a space whose values are no arrays of numbers."""
    if isinstance(space, Dict):
        members = space.spaces.values()
    elif isinstance(space, Tuple):
        members = space.spaces
    elif isinstance(space, _STORABLE):
        return
    else:
        names = ", ".join(kind.__name__ for kind in (*_STORABLE, Dict, Tuple))
        raise InputError(f"{where}: {type(space).__name__} spaces cannot be stored; these can: {names}")
    for member in members:
        _check_storable(where, member)


def _spec(name: str, env: gymnasium.Env) -> str:
    """What tells the environment from others: its spec as JSON, or its name where it was not made by an id.

    Raises InputError if the spec cannot be written down.
    """
    if env.spec is None:
        return name
    try:
        return env.spec.to_json()
    except (TypeError, ValueError) as error:
        raise InputError(
            f"environment {env.spec.id} cannot be named in a dataset ({one_line(error)}): register it with its entry "
            "point as text, module:Class, and with keyword arguments that are JSON values"
        ) from error


def _acting(options: DataCollect, record: Record | None, env: gymnasium.Env) -> Policy | None:
    """The policy of the run; None for uniform actions."""
    if record is None:
        _check_bounds(env)
        return None
    keep_compiled()
    return policies.load(options.policy, greedy=options.greedy, agent=options.agent)


def _check_bounds(env: gymnasium.Env) -> None:
    space = env.action_space
    if isinstance(space, Box) and not space.is_bounded():
        raise InputError(f"{task.name_of(env)}: the action space has no bounds, so no uniform actions")


def _about(options: DataCollect, record: Record | None, env: gymnasium.Env, catalog: Catalog) -> dict[str, Any]:
    """What the dataset says of itself in words and reference scores."""
    policy = "uniform actions"
    algorithm = RANDOM
    if record is not None:
        actions = "greedy" if options.greedy else "sampled"
        policy = f"{actions} actions of {record.agent} trained on {record.data.name}"
        algorithm = record.agent
    known, _ = environments.reference(env, catalog.references)
    return {
        "references": None if known is None else (known.random, known.expert),
        "command": "rlkit data collect",
        "description": f"{policy}; episode i is reset with seed {options.seed} + i",
        "algorithm": algorithm,
    }


def _collect(
    options: DataCollect, growing: GrowingDataset, env: gymnasium.Env, acting: Policy | None, beat: Callable[[], None]
) -> None:
    """Play and store the episodes that are missing, and say how many there are, however it ends."""
    first = growing.episodes
    if first:
        print(f"{growing.folder}: going on after {first} episodes")
    begun = time.monotonic()
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        with Display(options.episodes, first, "episodes") as display:
            for number in range(first, options.episodes):
                growing.add(_episode(env, acting, number, options.seed + number))
                beat()
                done = number + 1
                elapsed = time.monotonic() - begun
                display.update("collecting", done, (done - first) / elapsed)
    finally:
        _finish(options, growing)
        signal.signal(signal.SIGTERM, before)


def _finish(options: DataCollect, growing: GrowingDataset) -> None:
    """Write what is not on the disk yet, and say what is."""
    try:
        growing.write()
    finally:
        done = f"{growing.episodes} of {options.episodes} episodes"
        if growing.episodes == options.episodes:
            done = f"{growing.episodes} episodes"
        print(f"{growing.folder}: {done}, {growing.steps} steps")


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stop(128 + number)


def _episode(env: gymnasium.Env, acting: Policy | None, number: int, seed: int) -> Rows:
    if acting is None:
        act = uniform(env, seed)
    else:
        acting.reset(seed=seed)
        act = acting.act
    return _played(f"episode {number} (reset with seed {seed})", env, act, seed)


def _played(where: str, env: gymnasium.Env, act: Act, seed: int, longest: int | None = None) -> Rows:
    """The rows of one episode. Raises RunError, one line, where the environment fails or returns what is not finite."""
    try:
        rows = writing.rollout(interface.Checked(env), act, seed, longest)
    except BadReturn as fault:
        raise RunError(f"{where}: {fault}") from fault
    except (Exception, SystemExit) as error:  # an environment is other people's code, which may raise anything
        told = f"{type(error).__name__}: {one_line(error)}{interface.cure(error)}"
        raise RunError(f"{where}: {told}") from error
    named = {"an observation": "observations", "an action": "actions", "a reward": "rewards"}
    for what, field in named.items():
        for values in writing.arrays(rows[field]):
            is_number = np.issubdtype(values.dtype, np.number)
            if is_number and not np.isfinite(values).all():
                raise RunError(f"{where}: {what} is not finite")
    return rows


def _random_steps(name: str, env: gymnasium.Env, steps: int) -> Iterator[Rows]:
    """Episodes of uniform actions from the seeds 0, 1, ..., of ``steps`` steps in all: the last one is cut."""
    _check_bounds(env)
    begun = time.monotonic()
    done = 0
    seed = 0
    with Display(steps, unit="steps") as display:
        while done < steps:
            where = f"{name}: episode {seed}"
            rows = _played(where, env, uniform(env, seed), seed, steps - done)
            yield rows
            done += len(rows["rewards"])
            seed += 1
            elapsed = time.monotonic() - begun
            display.update("playing random actions", done, done / elapsed)
