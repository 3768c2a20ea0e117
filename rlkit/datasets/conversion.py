"""Episodes written as a Minari dataset, or as a Parquet table in the layout of docs/own_data.md."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete

from rlkit.datasets import spaces, writing
from rlkit.datasets.episodes import HAS_ACTION, HAS_NEXT, LABELLED, TERMINAL, Episodes
from rlkit.types import InputError

_OTHERS = ("episode", "step", "reward", "terminated", "truncated", "labelled")  # columns of every table


def to_minari(episodes: Episodes, root: Path, name: str, command: str) -> None:
    """Store ``episodes`` under the Minari root ``root`` as ``name``.

    The last step of an episode that was cut short without a recorded successor has no place there: its observation
    becomes the final one. ``command``: what made the dataset. Raises InputError where that cannot be done.
    """
    flags = np.asarray(episodes.flags)
    if ((flags & (HAS_ACTION | LABELLED)) == HAS_ACTION).any():
        raise InputError(f"{name}: some rewards are not known, which Minari cannot say; write a .parquet")
    if (root / name).exists():
        raise InputError(f"{root / name} is there already: choose another --name or --out")
    rows = list(_minari_rows(episodes))
    if not rows:
        raise InputError(f"{name}: no episode has a step whose successor is known; write a .parquet")
    root.mkdir(parents=True, exist_ok=True)
    writing.store_rows(
        root,
        name,
        rows,
        observation_space=episodes.observation_space,
        action_space=episodes.action_space,
        references=episodes.reference,
        command=command,
        description=f"episodes of {episodes.name}",
        algorithm="see the source",
        lossless=True,
    )
    if episodes.env_spec:
        writing.add_metadata(root / name, _environment(episodes.env_spec))


def _environment(spec: str) -> dict[str, Any]:
    """What Minari's metadata say of the environment: a spec as JSON. Nothing that it names is imported."""
    if not spec.lstrip().startswith("{"):
        from gymnasium.envs.registration import EnvSpec, registry

        known = registry.get(spec)
        entry_point = known.entry_point if known is not None and isinstance(known.entry_point, str) else None
        limit = known.max_episode_steps if known is not None else None
        spec = EnvSpec(spec, entry_point=entry_point, max_episode_steps=limit).to_json()
    return {"eval_env_spec": spec}


def _minari_rows(episodes: Episodes) -> Iterator[writing.Rows]:
    for rows in _slices(episodes):
        flags = episodes.flags[rows]
        steps = len(flags) - 1
        is_terminal = bool(flags[steps - 1] & TERMINAL)
        has_final = bool(flags[steps - 1] & HAS_NEXT)
        if not has_final and not is_terminal:
            steps -= 1
            if not steps:
                continue
        obs = np.asarray(episodes.obs[rows])[: steps + 1]
        action = np.asarray(episodes.action[rows])[:steps]
        at_end = np.arange(steps) == steps - 1
        yield {
            "observations": unflatten(episodes.observation_space, obs),
            "actions": spaces.members(episodes.action_space, action),
            "rewards": np.asarray(episodes.reward[rows])[:steps],
            "terminations": at_end & is_terminal,
            "truncations": at_end & (not is_terminal),
        }


def unflatten(space: Space, rows: np.ndarray) -> Any:
    """[T, ...] as ``space`` holds them, of a Dict a mapping of such, from rows [T, O] as gymnasium flattens them."""
    if isinstance(space, Dict):
        parts = {}
        start = 0
        for key, member in space.spaces.items():
            width = spaces.width(member)
            parts[key] = unflatten(member, rows[:, start : start + width])
            start += width
        return parts
    if isinstance(space, Discrete):
        return (rows.argmax(1) + space.start).astype(space.dtype)
    return rows.reshape(len(rows), *space.shape).astype(space.dtype)


def to_parquet(episodes: Episodes, path: Path) -> None:
    """Write ``episodes`` as a table, one row for each step and each recorded final observation.

    Raises InputError where the file is there already or cannot be written.
    """
    import pyarrow as pa
    from pyarrow import parquet

    if path.exists():
        raise InputError(f"{path} is there already: choose another --out")
    flags = np.asarray(episodes.flags)
    is_step = (flags & HAS_ACTION) > 0
    has_next = (flags & HAS_NEXT) > 0
    is_kept = is_step | np.append(False, has_next[:-1])
    number = np.cumsum(np.asarray(episodes.t) == 0) - 1
    kept_steps = is_step[is_kept]
    observed, acted = _column_names(episodes)
    columns: dict[str, Any] = {"episode": number[is_kept], "step": np.asarray(episodes.t)[is_kept]}
    for i, name in enumerate(observed):
        columns[name] = np.asarray(episodes.obs[:, i])[is_kept]

    # --- of steps alone ---
    at_end = np.append(np.diff(number) != 0, True)  # the final observation's row, recorded or not
    is_last = np.append(at_end[1:], False)
    terminal = (flags & TERMINAL) > 0
    of_steps = {"reward": episodes.reward, "terminated": terminal, "truncated": is_last & ~terminal}
    labelled = (flags & LABELLED) > 0
    if not labelled[is_step].all():
        of_steps["labelled"] = labelled
    action = np.asarray(episodes.action)
    if isinstance(episodes.action_space, Box):
        for i, name in enumerate(acted):
            of_steps[name] = action[:, i]
    else:
        of_steps[acted[0]] = action
    for name, values in of_steps.items():
        columns[name] = pa.array(np.asarray(values)[is_kept], mask=~kept_steps)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.table(columns), path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def how_to_read(episodes: Episodes) -> str:
    """Options with which a table of ``episodes`` is read as they are: what it does not say of the actions, and which
    columns have names of their own."""
    observed, acted = _column_names(episodes)
    words = []
    if observed == episodes.names.observation:
        words.append(f"--columns.observation {shlex.join(observed)}")
    if acted == episodes.names.action:
        words.append(f"--columns.action {shlex.join(acted)}")
    space = episodes.action_space
    if isinstance(space, Discrete):
        words.append(f"--action.choices {space.n} --action.first {space.start}")
    else:
        low = " ".join(f"{value:g}" for value in space.low.ravel())
        high = " ".join(f"{value:g}" for value in space.high.ravel())
        words.append(f"--action.low {low} --action.high {high}")
    return " ".join(words)


def _column_names(episodes: Episodes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Columns of the observations and of the actions: their own names where they have some that no other column has."""
    observed = episodes.names.observation
    acted = episodes.names.action
    every = [*_OTHERS, *observed, *acted]
    is_own = len(set(every)) == len(every)
    if not observed or not is_own:
        observed = tuple(f"observation_{i}" for i in range(episodes.obs.shape[1]))
    if not acted or not is_own:
        acted = ("action",)
        if isinstance(episodes.action_space, Box):
            acted = tuple(f"action_{i}" for i in range(np.asarray(episodes.action).shape[1]))
    return observed, acted


def _slices(episodes: Episodes) -> Iterator[slice]:
    starts = episodes.starts
    stops = np.append(starts[1:], len(episodes.t))
    for start, stop in zip(starts, stops, strict=True):
        yield slice(start, stop)
