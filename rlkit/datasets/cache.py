"""The cache: a folder per dataset with one contiguous .npy per column, opened as memory maps, and a manifest.

An entry is keyed on the source's path, sizes and times and on the options that change the rows, so that finding it
reads no data. It is written to a folder of its own, which is then renamed: readers see all of it or nothing, and of
two writers one wins. The manifest holds the CRC of every file; an entry that does not match is made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rlkit.datasets import spaces
from rlkit.datasets.episodes import DataWarning, Episodes, Names, Report
from rlkit.datasets.options import DataOptions
from rlkit.datasets.sources import Source
from rlkit.types import InputError, one_line

FORMAT = 6  # raise it when the layout, the meaning of a column, or a check changes
PREFIX = ".new-"  # of folders that are being written
COLUMNS = ("obs", "action", "reward", "t", "flags")
log = logging.getLogger(__name__)


def entry(options: DataOptions, source: Source, infos: bool) -> Path:
    """The folder that has the cached form of ``source``, or would have it."""
    root = options.cache_dir or Path(os.environ.get("RLKIT_CACHE_DIR") or Path.home() / ".cache" / "rlkit")
    stats = [(str(path), path.stat()) for path in source.files()]
    files = [(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in stats]
    told = [dataclasses.asdict(options.action), dataclasses.asdict(options.columns)]
    key = [FORMAT, files, bool(source.parts), sorted(options.repair), options.env, told, infos]
    return root.expanduser() / hashlib.sha256(json.dumps(key).encode()).hexdigest()


def check_entry(folder: Path, options: DataOptions, source: Source, infos: bool) -> None:
    """Raises InputError if ``folder`` is no longer the entry of ``source``: its files have changed since."""
    if entry(options, source, infos) != folder:
        problem = "changed while it was read; wait until it is written, and load it again"
        raise InputError(f"{options.dataset}: {problem}")


def size(folder: Path) -> int:
    """Bytes of the columns of an entry; 0 if it is absent."""
    return sum(path.stat().st_size for path in folder.glob("*.npy"))


def read(folder: Path) -> Episodes | None:
    """The Episodes of an entry, as read-only memory maps; None if it is absent or damaged."""
    if not folder.is_dir():
        return None
    try:
        return _read(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.warning("cache entry %s is damaged (%s) and will be made again", folder, one_line(error))
        return None


def _read(folder: Path) -> Episodes:
    form = json.loads((folder / "manifest.json").read_text())
    if form.pop("crc") != zlib.crc32(json.dumps(form).encode()):
        raise ValueError("manifest.json is not what was written")
    columns = {name: _load(folder / f"{name}.npy", crc) for name, crc in form["columns"].items()}
    infos = {}
    for i, (name, crc) in enumerate(form["infos"].items()):
        infos[name] = _load(folder / f"info_{i}.npy", crc)
    report = form["report"]
    report["notes"] = tuple(report["notes"])
    report["warnings"] = tuple(DataWarning(*warning) for warning in report["warnings"])
    return Episodes(
        name=form["name"],
        fingerprint=form["fingerprint"],
        **columns,
        observation_space=spaces.from_json(form["observation_space"]),
        action_space=spaces.from_json(form["action_space"]),
        env_spec=form["env_spec"],
        reference=None if form["reference"] is None else tuple(form["reference"]),
        report=Report(**report),
        infos=infos,
        names=Names(**{field: tuple(names) for field, names in form["names"].items()}),
        derived=tuple(form["derived"]),
    )


def write(folder: Path, episodes: Episodes) -> None:
    """Put ``episodes`` at ``folder``. Where that cannot be written, warn: the data are usable all the same."""
    try:
        with new_folder(folder.parent) as fresh:
            save(fresh, episodes)
            put(fresh, folder)
    except OSError as error:
        warn_unwritable(folder.parent, one_line(error))


@contextlib.contextmanager
def new_folder(root: Path) -> Iterator[Path]:
    """An empty folder in ``root`` for an entry that is being written. It is removed at the end unless it was moved, and
    by the next writer if this process is killed. Raises OSError where it cannot be made."""
    root.mkdir(parents=True, exist_ok=True)
    _sweep(root)
    fresh = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
    lock = os.open(fresh, os.O_RDONLY)  # held for as long as this process lives
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fresh
    finally:
        os.close(lock)
        shutil.rmtree(fresh, ignore_errors=True)


def put(fresh: Path, folder: Path) -> None:
    """Move the entry ``fresh`` to ``folder``, unless another process has just put the same one there. Where that cannot
    be done, warn."""
    try:
        if folder.exists() and read(folder) is None:
            damaged = fresh.with_suffix(".damaged")
            os.replace(folder, damaged)
            shutil.rmtree(damaged, ignore_errors=True)
        os.replace(fresh, folder)
    except OSError as error:
        if not folder.is_dir():
            warn_unwritable(folder.parent, one_line(error))


def warn_unwritable(root: Path, reason: str) -> None:
    """Tell the user that a load leaves nothing in the cache."""
    log.warning("cannot write the cache %s (%s); the data will be read from their source again next time", root, reason)


def _sweep(root: Path) -> None:
    """Remove what writers left behind that were killed: their folders are not locked any more."""
    for folder in root.glob(f"{PREFIX}*"):
        try:
            lock = os.open(folder, os.O_RDONLY)
        except OSError:  # its writer has just renamed it
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


def save(folder: Path, episodes: Episodes) -> None:
    """Write the files of an entry into ``folder``. Raises OSError where there is no room."""
    columns = {name: _store(folder / f"{name}.npy", getattr(episodes, name)) for name in COLUMNS}
    infos = {}
    for i, (name, values) in enumerate(episodes.infos.items()):
        infos[name] = _store(folder / f"info_{i}.npy", values)
    form = {
        "name": episodes.name,
        "fingerprint": episodes.fingerprint,
        "observation_space": spaces.to_json(episodes.observation_space),
        "action_space": spaces.to_json(episodes.action_space),
        "env_spec": episodes.env_spec,
        "reference": episodes.reference,
        "report": dataclasses.asdict(episodes.report),
        "derived": episodes.derived,
        "columns": columns,
        "infos": infos,
        "names": dataclasses.asdict(episodes.names),
    }
    crc = zlib.crc32(json.dumps(form).encode())
    (folder / "manifest.json").write_text(json.dumps({**form, "crc": crc}))


def _store(path: Path, values: np.ndarray) -> int:
    """Write a .npy file and return the CRC of what was meant to be in it."""
    values = np.ascontiguousarray(values)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(values))
    body = values.reshape(-1).view(np.uint8)
    with path.open("wb") as file:
        file.write(head.getbuffer())
        file.write(body.data)
    return zlib.crc32(body, zlib.crc32(head.getbuffer()))


def _crc(path: Path) -> int:
    """CRC of the file's bytes, which are read and not mapped, since mapped bytes stay in memory."""
    crc = 0
    with path.open("rb") as file:
        while part := file.read(2**20):
            crc = zlib.crc32(part, crc)
    return crc


def _load(path: Path, crc: int) -> np.ndarray:
    """The array as a read-only map, once its file is known to be the one written."""
    if _crc(path) != crc:
        raise ValueError(f"{path.name} is not what was written")
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except ValueError:  # an empty array cannot be mapped
        return np.load(path, allow_pickle=False)
