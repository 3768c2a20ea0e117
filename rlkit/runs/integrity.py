"""SHA-256 sums that show whether a checkpoint's files, and the run's files beside it, are as they were written.

The sums are in a manifest in the checkpoint's folder, which is written last. It holds the sum of every other file, of
itself, and of files of the run. Of those that grow, it holds their length at that time and the sum up to there.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlkit.runs import serialization
from rlkit.types import one_line

MANIFEST = "manifest.json"
FORMAT = 1
BLOCK = 2**20  # bytes that are read at once


class Damaged(ValueError):
    """A file is not what was written. The message is one line that names it."""


def seal(folder: Path, meta: Any) -> None:
    """Write the manifest of ``folder``, which carries ``meta``, and have it on the disk before this returns."""
    files = {}
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        files[name] = digest(path)
    form = serialization.encode({"format": FORMAT, "meta": meta, "files": files})
    form["sha256"] = _sum_of_form(form)
    with (folder / MANIFEST).open("x", encoding="utf-8") as stream:
        stream.write(serialization.pretty(form) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def check(folder: Path) -> dict[str, Any]:
    """The ``meta`` of a sealed folder. Raises Damaged for the first file that is changed, missing or too many."""
    files, meta = _read_manifest(folder)
    names = {path.relative_to(folder).as_posix() for path in _files(folder)}
    differing = sorted(files.keys() ^ names)
    if differing:
        first = differing[0]
        what = "missing" if first in files else "no part of it"
        raise Damaged(f"{folder / first} is {what}")
    for name, expected in files.items():
        verify(folder / name, expected)
    return meta


def _read_manifest(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The digests of the files of a sealed folder, and its ``meta``."""
    path = folder / MANIFEST
    try:
        form = json.loads(path.read_text(encoding="utf-8"))
        claimed = form.pop("sha256")
        if form["format"] != FORMAT:
            raise Damaged(f"{path}: format {form['format']}; this version reads format {FORMAT}")
        files = dict(form["files"])
        meta = dict(form["meta"])
    except FileNotFoundError:
        raise Damaged(f"{folder} has no {MANIFEST}: it was not written to its end, or by another version") from None
    except Damaged:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{path} is damaged ({one_line(error)})") from None
    if claimed != _sum_of_form(form):
        raise Damaged(f"{path} is damaged: its own SHA-256 sum differs")
    return files, meta


def digest(path: Path) -> dict[str, Any]:
    """Length and SHA-256 sum of a file."""
    size = path.stat().st_size
    return {"bytes": size, "sha256": _sum_of_file(path, None)}


def verify(path: Path, expected: Mapping[str, Any], *, grows: bool = False) -> None:
    """Raise Damaged unless ``path`` is as `digest` saw it; a file that ``grows`` may have become longer since."""
    try:
        size = path.stat().st_size
        length = expected["bytes"]
        is_longer = size > length
        if size < length or (is_longer and not grows):
            raise Damaged(f"{path} is damaged: {size} bytes, {length} were written")
        if _sum_of_file(path, length) != expected["sha256"]:
            raise Damaged(f"{path} is damaged: its SHA-256 sum differs")
    except FileNotFoundError:
        raise Damaged(f"{path} is missing") from None
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror})") from None


def verify_one(paths: Sequence[Path], expected: Mapping[str, Any], *, grows: bool = False) -> None:
    """As `verify`, where any of the ``paths`` may be the file; what is wrong is said of the first."""
    first, *others = paths
    try:
        verify(first, expected, grows=grows)
    except Damaged:
        if not any(_is_as_written(path, expected) for path in others):
            raise


def _is_as_written(path: Path, expected: Mapping[str, Any]) -> bool:
    try:
        verify(path, expected)
    except Damaged:
        return False
    return True


def _files(folder: Path) -> list[Path]:
    """Files that a manifest of ``folder`` covers, in order."""
    manifest = folder / MANIFEST
    files = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != manifest:
            files.append(path)
    return files


def _sum_of_file(path: Path, length: int | None) -> str:
    """SHA-256 of the first ``length`` bytes; None: of all."""
    total = hashlib.sha256()
    remaining = math.inf if length is None else length
    with path.open("rb") as stream:
        while block := stream.read(min(remaining, BLOCK)):
            total.update(block)
            remaining -= len(block)
    return total.hexdigest()


def _sum_of_form(form: Mapping[str, Any]) -> str:
    text = json.dumps(form, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
