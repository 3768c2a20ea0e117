"""OGBench's .npz files.

    observations [M, ...], actions [M, A], terminals [M]      always
    rewards [M], masks [M]                                    single-task data; goal-conditioned data have neither
    labelled [M]                                              of our own: the reward is known; if not, it may be NaN
    qpos, qvel, button_states [M, ...]                        read only when infos are asked for

A row is a state. `terminals` marks the last state of a trajectory, whose action led nowhere that was recorded: K rows
are K - 1 steps and a final observation. It says nothing of the task: every trajectory is cut by a time limit. `masks`
is 0 where the task is complete, so that the value of the next observation must not be used; trajectories go on after
it. Such a step is terminal here, and the trajectory is split after it: no step is lost, and each keeps its successor.
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

from rlkit.datasets.options import DataOptions
from rlkit.datasets.recording import Recording
from rlkit.datasets.untrusted import fields
from rlkit.datasets.untrusted.fields import Budget
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


def read(path: Path, *, options: DataOptions, infos: bool) -> Recording:
    """Read ``path``. options.env: the environment (such a file names none). infos: read the fields of the state too.

    Raises InputError for a file that is damaged or too big, lacks a field or has fields whose shapes disagree.
    """
    # --- steps: every row but the last of its trajectory ---
    arrays, extra, notes = _load(path, infos)
    last = fields.flags(path, "terminals", arrays["terminals"])
    if not last[-1]:
        notes.append("the last row carries no terminals flag: taken as the last state of its trajectory")
        last[-1] = True
    last_rows = np.flatnonzero(last)
    single_state = np.diff(last_rows, prepend=-1) == 1
    if single_state.any():
        k = int(single_state.argmax())
        raise InputError(
            f"{path.name}: trajectory {k} (row {last_rows[k]}) is a single state without a step; terminals must mark "
            "only the last row of a trajectory"
        )
    steps = np.flatnonzero(~last)

    # --- where episodes end ---
    done = np.zeros(len(steps), bool)
    if "masks" in arrays:
        masks = fields.flags(path, "masks", arrays["masks"])
        done = ~masks[steps]
    cut = last[steps + 1] & ~done
    ends = np.flatnonzero(cut | done)
    trajectories = len(last_rows)
    if len(ends) > trajectories:
        notes.append(f"{trajectories} trajectories make {len(ends)} episodes: split behind each step with masks 0")

    # --- the other fields ---
    rewards = _rewards(path, arrays, notes)
    labelled = None
    if "labelled" in arrays:
        labelled = fields.flags(path, "labelled", arrays["labelled"])[steps]
    observations = arrays["observations"]
    infos_by_name = {}
    for name, values in extra.items():
        infos_by_name[name] = values.take(steps, 0)
    return Recording(
        name=path.name,
        observations=observations.take(steps, 0),
        actions=arrays["actions"].take(steps, 0),
        rewards=rewards[steps],
        terminations=done,
        truncations=cut,
        lengths=np.diff(ends, prepend=-1),
        finals=observations[steps[ends] + 1],
        has_final=np.ones(len(ends), bool),
        env_spec=options.env,
        infos=infos_by_name,
        notes=notes,
        labelled=labelled,
    )


def _rewards(path: Path, arrays: dict[str, np.ndarray], notes: list[str]) -> np.ndarray:
    """[M], all 0 where the file has none."""
    if "rewards" in arrays:
        return fields.column(path, "rewards", arrays["rewards"])
    if "labelled" in arrays:
        raise InputError(f"{path.name}: has a field labelled but no rewards; add them, or leave both out")
    notes.append("the file has no rewards: all are 0")
    rows = len(arrays["observations"])
    return np.zeros(rows, np.float32)


def _load(path: Path, infos: bool) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[str]]:
    """The fields, the other columns when asked for, and notes."""
    fields.check_exists(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _load_members(path, archive, infos)
    except InputError:
        raise
    except _DAMAGE as error:
        reason = one_line(error)
        raise InputError(f"{path.name}: cannot be read as .npz ({reason}); copy or download it again") from error


def _load_members(
    path: Path, archive: zipfile.ZipFile, infos: bool
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[str]]:
    members = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        members[name] = info
    wanted = _wanted(path, members)
    candidates = list(members) if infos else wanted

    # --- sizes, from the headers ---
    budget = Budget(path.name)
    sizes = [members[name].file_size for name in candidates]
    budget.take(sum(sizes))
    shapes = _shapes(path, archive, {name: members[name] for name in candidates})
    lengths = {}
    for name in wanted:
        if name not in shapes:
            raise InputError(f"{path.name}: {name} is not an array of numbers with one row per state")
        lengths[name] = shapes[name][0]
    fields.check_lengths(path, lengths)
    budget.plan(math.prod(shapes["observations"]))

    # --- values ---
    arrays = {}
    extra = {}
    for name, shape in shapes.items():
        if name in lengths:
            arrays[name] = _array(archive, members[name])
        elif shape[0] == lengths["observations"]:
            extra[name] = _array(archive, members[name])
    notes = []
    unread = sorted(set(members) - set(arrays) - set(extra))
    if unread:
        notes.append(f"fields that were not read: {fields.listed(unread)}")
    return arrays, extra, notes


def _shapes(path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> dict[str, tuple[int, ...]]:
    """The shapes of the members that are arrays of numbers."""
    shapes = {}
    for name, info in members.items():
        shape, dtype = _header(path, archive, name, info)
        if shape and dtype.kind in "biuf":
            shapes[name] = shape
    return shapes


def _wanted(path: Path, members: dict[str, zipfile.ZipInfo]) -> tuple[str, ...]:
    """The names of the fields to read."""
    fields.check_present(path, members, _REQUIRED)
    for name in _REARRANGED:
        if name in members:
            raise InputError(
                f"{path.name}: has a field {name}, so it was saved from OGBench's loader, which moves the ends of "
                "trajectories; give the original .npz"
            )
    optional = [name for name in _OPTIONAL if name in members]
    return (*_REQUIRED, *optional)


def _header(path: Path, archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype in a member's .npy header. Raises InputError unless as many bytes are stored as they need."""
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise InputError(f"{path.name}: {name} is not an array of numbers; save it with numpy.savez")
        shape, _, dtype = _HEADERS[version](stream)
        header = stream.tell()
    if dtype.hasobject:
        raise InputError(f"{path.name}: {name} holds Python objects, which are never loaded; save it as numbers")
    size = math.prod(shape) * dtype.itemsize
    if header + size != info.file_size:
        raise InputError(
            f"{path.name}: {name} claims shape {shape} of {dtype}, which is not the {info.file_size} bytes stored; "
            "copy or download the file again"
        )
    return shape, dtype


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
