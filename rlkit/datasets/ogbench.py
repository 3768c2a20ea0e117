"""OGBench's .npz files.

    observations [M, ...], actions [M, A], terminals [M]      always
    rewards [M], masks [M]                                    single-task data; goal-conditioned data have neither
    labelled [M]                                              of our own: the reward is known; if not, it may be NaN
    qpos, qvel, button_states [M, ...]                        read only when infos are asked for

A row is a state. `terminals` marks the last state of a trajectory, whose action led nowhere that was recorded: K rows
are K - 1 steps and a final observation. It says nothing of the task: every trajectory is cut by a time limit. `masks`
is 0 where the task is complete, so that the value of the next observation must not be used; trajectories go on after
it. Such a step is terminal here, and the trajectory is split behind it: no step is lost, and each keeps its successor.
Source: ogbench/utils.py (load_dataset) and the README of OGBench, "Offline RL".

The format is a zip of .npy files. Sizes are checked against the zip directory and the .npy headers before anything is
unpacked, and arrays of Python objects (pickles) are refused.
"""

from __future__ import annotations

import lzma
import math
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from rlkit.datasets import fields
from rlkit.datasets.fields import Budget
from rlkit.datasets.recording import Recording
from rlkit.types import InputError, one_line

_REQUIRED = ("observations", "actions", "terminals")
_OPTIONAL = ("rewards", "masks", "labelled")
# What OGBench's loader adds when it rearranges the rows; a file saved from there has lost the layout above.
_REARRANGED = ("next_observations", "valids")
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_DAMAGE = (
    OSError, EOFError, ValueError, RuntimeError, KeyError, TypeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
    tokenize.TokenError,
)  # fmt: skip


def read(path: Path, *, env: str | None, infos: bool) -> Recording:
    """Read ``path``. env: an environment id (such a file names none). infos: read the fields of the state too.

    Raises InputError for a file that is damaged or too big, lacks a field or has fields whose shapes disagree.
    """
    arrays, extra, notes = _load(path, infos)
    last = fields.flags(path, "terminals", arrays["terminals"])
    if not last[-1]:
        notes.append("the last row carries no terminals flag: taken as the last state of its trajectory")
        last[-1] = True
    rows = np.flatnonzero(last)
    lone = np.diff(rows, prepend=-1) == 1
    if lone.any():
        k = int(lone.argmax())
        raise InputError(
            f"{path.name}: trajectory {k} (row {rows[k]}) is a single state without a step; terminals must mark only "
            "the last row of a trajectory"
        )
    steps = np.flatnonzero(~last)
    done = np.zeros(len(steps), bool)
    if "masks" in arrays:
        done = ~fields.flags(path, "masks", arrays["masks"])[steps]
    cut = last[steps + 1] & ~done
    ends = np.flatnonzero(cut | done)
    if len(ends) > len(rows):
        notes.append(f"{len(rows)} trajectories make {len(ends)} episodes: split behind each step with masks 0")
    if "labelled" in arrays and "rewards" not in arrays:
        raise InputError(f"{path.name}: has a field labelled but no rewards; add them, or leave both out")
    if "rewards" not in arrays:
        notes.append("the file has no rewards: all are 0")
    rewards = fields.column(path, "rewards", arrays.get("rewards", np.zeros(len(last), np.float32)))
    actions, space = fields.actions(path, arrays["actions"].take(steps, 0), choices=None, discrete=None, notes=notes)
    return Recording(
        name=path.name,
        observations=arrays["observations"].take(steps, 0),
        actions=actions,
        rewards=rewards[steps],
        terminations=done,
        truncations=cut,
        lengths=np.diff(ends, prepend=-1),
        finals=arrays["observations"][steps[ends] + 1],
        has_final=np.ones(len(ends), bool),
        action_space=space,
        env_spec=env,
        infos={name: values.take(steps, 0) for name, values in extra.items()},
        notes=notes,
        labelled=fields.flags(path, "labelled", arrays["labelled"])[steps] if "labelled" in arrays else None,
    )


def _load(path: Path, infos: bool) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[str]]:
    """The fields, the other columns when asked for, and notes."""
    fields.check_exists(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _load_members(path, archive, infos)
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(
            f"{path.name}: cannot be read as .npz ({one_line(error)}); copy or download it again"
        ) from error


def _load_members(
    path: Path, archive: zipfile.ZipFile, infos: bool
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[str]]:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    wanted = _wanted(path, members)
    candidates = list(members) if infos else wanted
    budget = Budget(path.name)
    budget.take(sum(members[name].file_size for name in candidates))
    rows = {}  # of the members that are arrays of numbers
    numbers = {}
    for name in candidates:
        shape, dtype = _header(path, archive, name, members[name])
        if shape and dtype.kind in "biuf":
            rows[name] = shape[0]
            numbers[name] = math.prod(shape)
    for name in wanted:
        if name not in rows:
            raise InputError(f"{path.name}: {name} is not an array of numbers with one row per state")
    fields.check_lengths(path, {name: rows[name] for name in wanted})
    budget.plan(numbers["observations"])
    arrays = {name: _array(archive, members[name]) for name in wanted}
    extra = {}
    for name, count in rows.items():
        if name not in wanted and count == rows["observations"]:
            extra[name] = _array(archive, members[name])
    unread = sorted(set(members) - set(arrays) - set(extra))
    notes = [f"fields that were not read: {fields.listed(unread)}"] if unread else []
    return arrays, extra, notes


def _wanted(path: Path, members: dict[str, zipfile.ZipInfo]) -> tuple[str, ...]:
    """The names of the fields to read."""
    missing = [name for name in _REQUIRED if name not in members]
    if missing:
        present = fields.listed(sorted(members)) or "none"
        raise InputError(
            f"{path.name}: no field {', '.join(missing)} (found: {present}); rename the fields, or write the file "
            "again with them"
        )
    for name in _REARRANGED:
        if name in members:
            raise InputError(
                f"{path.name}: has a field {name}, so it was saved from OGBench's loader, which moves the ends of "
                "trajectories; give the original .npz"
            )
    return (*_REQUIRED, *(name for name in _OPTIONAL if name in members))


def _header(path: Path, archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype that a member's .npy header tells, once they are known to be what is stored."""
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise InputError(f"{path.name}: {name} is not an array of numbers; save it with numpy.savez")
        shape, _, dtype = _HEADERS[version](stream)
        header = stream.tell()
    if dtype.hasobject:
        raise InputError(f"{path.name}: {name} holds Python objects, which are never loaded; save it as numbers")
    if header + math.prod(shape) * dtype.itemsize != info.file_size:
        raise InputError(
            f"{path.name}: {name} claims shape {shape} of {dtype}, which is not the {info.file_size} bytes stored; "
            "copy or download the file again"
        )
    return shape, dtype


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
