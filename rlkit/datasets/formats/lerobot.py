"""LeRobot's datasets, versions 2 and 3: Parquet files of frames, one episode in a file or many.

    data/chunk-000/episode_000000.parquet    version 2
    data/chunk-000/file-000.parquet          version 3
    meta/info.json                           names of the components, and how many frames there are

A frame has observation.state and perhaps observation.environment_state, action, episode_index, frame_index, timestamp,
and in some datasets next.reward and next.done. Pictures and videos are not read. The observation that the last frame
led to is not recorded. Source: the layout of the files, as huggingface/lerobot writes them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlkit.datasets.options import ColumnOptions
from rlkit.datasets.untrusted.fields import listed
from rlkit.types import InputError, one_line

INFO = Path("meta") / "info.json"
STATES = ("observation.state", "observation.environment_state")
REWARD = "next.reward"
DONE = "next.done"
LONGEST_INFO = 2**24  # bytes


def is_frames(header: Sequence[str]) -> bool:
    """Whether columns with these names are LeRobot's."""
    return {"episode_index", "frame_index", "action"} <= set(header)


def find(path: Path) -> tuple[list[Path], Path | None]:
    """The Parquet files of a dataset, and its meta/info.json: of the folder ``path``, or of the folder that the file
    ``path`` lies in. Nothing and None where there is no such folder."""
    is_folder = path.is_dir()
    root = path if is_folder else path.parent.parent.parent  # of data/chunk-000/FILE
    info = root / INFO
    if not info.is_file():
        return [], None
    files = [path]
    if is_folder:
        files = [file for file in (root / "data").rglob("*.parquet") if file.is_file()]
    return files, info


def columns(name: str, header: Sequence[str], told: ColumnOptions) -> ColumnOptions:
    """What holds what, where the user has not ``told`` another column. Raises InputError, which begins with ``name``,
    for frames without numbers to act on."""
    states = tuple(state for state in STATES if state in header)
    if not states and not told.observation:
        raise InputError(
            f"{name}: its frames have no {' and no '.join(STATES)} (found: {listed(header)}), and pictures are not "
            "read; name columns of numbers with --columns.observation"
        )
    ends = None
    if DONE in header and told.terminated != DONE:
        ends = DONE
    usual = ColumnOptions(
        episode="episode_index",
        step="frame_index",
        observation=states,
        action=("action",),
        reward=REWARD if REWARD in header else "none",
        terminated="none",
        truncated=ends,
    )
    changes = {}
    for field in dataclasses.fields(told):
        value = getattr(told, field.name)
        if value:
            changes[field.name] = value
    return dataclasses.replace(usual, **changes)


def notes(header: Sequence[str], told: ColumnOptions) -> list[str]:
    """Sentences on what LeRobot's frames leave open."""
    sentences = ["frames of LeRobot: pictures and tasks are not read"]
    if DONE in header and told.terminated is None and told.truncated is None:
        sentences.append(
            f"{DONE} was taken as the end of a recording, at which the last step is not drawn; where it means a "
            f"terminal state, say --columns.terminated {DONE}"
        )
    return sentences


def read_info(path: Path) -> Mapping[str, Any]:
    """meta/info.json. Raises InputError if it is no JSON object of a sensible size."""
    try:
        with path.open("rb") as stream:
            text = stream.read(LONGEST_INFO + 1)
        if len(text) > LONGEST_INFO:
            raise ValueError(f"longer than {LONGEST_INFO >> 20} MiB")
        info = json.loads(text)
        if not isinstance(info, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        problem = f"cannot be read as JSON ({one_line(error)}); copy the dataset again"
        raise InputError(f"{path}: {problem}") from error
    return info


def check_frames(name: str, info: Mapping[str, Any], rows: int) -> None:
    """Raises InputError where a folder holds another number of frames than its meta/info.json says."""
    frames = info.get("total_frames")
    if isinstance(frames, int) and frames != rows:
        raise InputError(f"{name}: holds {rows:,} frames where {INFO} has {frames:,}; copy the dataset again")


def names(info: Mapping[str, Any], column: str, width: int) -> tuple[str, ...]:
    """Names of the ``width`` components of a column, as meta/info.json has them; none where it has no such names."""
    features = info.get("features")
    feature = features.get(column) if isinstance(features, dict) else None
    names = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(names, dict) and len(names) == 1:  # {"motors": [...]}
        (names,) = names.values()
    if not isinstance(names, list) or len(names) != width:
        return ()
    if not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names)
