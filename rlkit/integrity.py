"""What was written is what is read: SHA-256 sums of a checkpoint's files and of the run's files beside it.

A manifest lies in the checkpoint's folder and is written last. It holds the sum of every other file and of itself, and
for the files of the run that only grow, how long they were and the sum up to there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlkit import plain
from rlkit.types import one_line

MANIFEST = "manifest.json"
FORMAT = 1


class Damaged(ValueError):
    """A file is not what was written. The message is one line that names it."""


def seal(folder: Path, meta: Any) -> None:
    """Write the manifest of ``folder``, which carries ``meta``, and have it on the disk before this returns."""
    files = {path.relative_to(folder).as_posix(): digest(path) for path in _files(folder)}
    form = plain.encode({"format": FORMAT, "meta": meta, "files": files})
    with (folder / MANIFEST).open("x", encoding="utf-8") as stream:
        stream.write(plain.pretty({**form, "sha256": _sum(form)}) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def check(folder: Path) -> dict[str, Any]:
    """The ``meta`` of a sealed folder. Raises Damaged for the first file that is changed, missing or too many."""
    path = folder / MANIFEST
    try:
        form = json.loads(path.read_text(encoding="utf-8"))
        claimed = form.pop("sha256")
        if form["format"] != FORMAT:
            raise Damaged(f"{path}: format {form['format']}; this version reads format {FORMAT}")
        files, meta = dict(form["files"]), dict(form["meta"])
    except FileNotFoundError:
        raise Damaged(f"{folder} has no {MANIFEST}: it was not written to its end, or by another version") from None
    except Damaged:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{path} is damaged ({one_line(error)})") from None
    if claimed != _sum(form):
        raise Damaged(f"{path} is damaged: its own SHA-256 sum differs")
    here = {file.relative_to(folder).as_posix() for file in _files(folder)}
    if differing := sorted(files.keys() ^ here):
        raise Damaged(f"{folder / differing[0]} is {'missing' if differing[0] in files else 'no part of it'}")
    for name, wanted in files.items():
        verify(folder / name, wanted)
    return meta


def digest(path: Path) -> dict[str, Any]:
    """How many bytes a file has, and their sum."""
    return {"bytes": path.stat().st_size, "sha256": _hash(path, None)}


def verify(path: Path, wanted: Mapping[str, Any], *, grows: bool = False) -> None:
    """Raise Damaged unless ``path`` is as `digest` saw it; a file that ``grows`` may have become longer since."""
    try:
        size = path.stat().st_size
        if size < wanted["bytes"] or (size > wanted["bytes"] and not grows):
            raise Damaged(f"{path} is damaged: {size} bytes, {wanted['bytes']} were written")
        if _hash(path, wanted["bytes"]) != wanted["sha256"]:
            raise Damaged(f"{path} is damaged: its SHA-256 sum differs")
    except FileNotFoundError:
        raise Damaged(f"{path} is missing") from None
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror})") from None


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def _hash(path: Path, length: int | None) -> str:
    total, left = hashlib.sha256(), length
    with path.open("rb") as stream:
        while block := stream.read(2**20 if left is None else min(left, 2**20)):
            total.update(block)
            left = None if left is None else left - len(block)
    return total.hexdigest()


def _sum(form: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()
