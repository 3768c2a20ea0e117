"""Source: the files that the name of a dataset stands for, and their reader. Lists the datasets of a folder too."""

from __future__ import annotations

import difflib
import glob
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

from rlkit.datasets import rows
from rlkit.datasets.episodes import Episodes
from rlkit.datasets.formats import lerobot, table_files
from rlkit.datasets.options import ColumnOptions, DataOptions
from rlkit.datasets.recording import Recording
from rlkit.types import InputError

# file suffix -> module with read(path, *, options, infos) -> Recording; tables are found by table_files.suffix
READERS = {".hdf5": "hdf5", ".h5": "hdf5", ".npz": "npz"}
COLUMNAR = (".parquet", ".arrow")
SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods")
ID = re.compile(r"(?:[-\w]+/)*[-\w]+-v\d+")


@dataclass(frozen=True)
class Source:
    """The files of a dataset, and the function that reads them."""

    path: Path  # a file, or a folder, or a pattern of files
    read: Callable[..., Recording]  # (*, options, infos)
    parts: tuple[Path, ...] = ()  # the files, where they are several that a reader takes together

    def files(self) -> list[Path]:
        """Every file that the data are read from, sorted."""
        if self.parts:
            return list(self.parts)
        if self.path.is_file():
            return [self.path]
        paths = []
        for folder, _, names in os.walk(self.path / "data"):
            for name in names:
                paths.append(Path(folder) / name)
        return sorted(paths)

    def is_columnar(self) -> bool:
        """True if pyarrow reads the files, which it does in a process of its own (see reader_process.py)."""
        suffixes = {path.suffix.lower() for path in self.files()}
        return not suffixes.isdisjoint(COLUMNAR)

    def episodes(self, options: DataOptions, infos: bool) -> Episodes:
        """The data, read and checked in this process. Raises InputError, OSError, MemoryError."""
        recording = self.read(options=options, infos=infos)
        if options.env:
            recording.ambiguous = ""  # the environment will tell, see `check_env`
        return rows.assemble(recording, repair=options.repair, action=options.action)


def find(options: DataOptions, roots: Sequence[Path] = ()) -> Source:
    """The source that ``options.dataset`` names. Raises InputError that lists where it looked and what is alike."""
    path = Path(options.dataset).expanduser()
    if path.suffix.lower() in SPREADSHEETS:
        raise InputError(f"{path}: spreadsheets are not read: save it as CSV, and name that file")
    episodes = _npz_episodes(path)
    table = _find_table(options.dataset, path)
    if episodes and table is not None:
        raise InputError(f"{path}: the folder holds both .npz episodes and tables; name those meant: '{path}/*.npz'")
    if table is not None:
        return table
    module = READERS.get(path.suffix.lower())
    if options.columns != ColumnOptions() and module != "hdf5":  # whose reader knows which files have names
        raise InputError(f"{options.dataset}: is no table, and --columns names the columns of tables; leave it out")
    if episodes:
        from rlkit.datasets.formats import npz

        return Source(path, partial(npz.read_episodes, episodes, name=options.dataset), tuple(episodes))
    if module:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        path = path.resolve()
        reader = import_module(f"rlkit.datasets.formats.{module}")
        return Source(path, partial(reader.read, path))
    folders = _roots(options, roots)
    if ID.fullmatch(options.dataset):
        source = _find_minari(options, folders)
        if source is not None:
            return source
    if path.is_dir():
        return _folder(path)
    if options.download and ID.fullmatch(options.dataset):
        return _download(options, folders)
    raise InputError(_not_found(options, folders))


def _find_table(name: str, path: Path) -> Source | None:
    """The table that a file, a folder of parts or a pattern stands for; None where it is none of these.

    Raises InputError where there is no such file, or they are of several kinds.
    """
    from rlkit.datasets.formats import table

    # --- one file ---
    if table_files.suffix(path) and (path.is_file() or not glob.has_magic(name)):
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        path = path.resolve()
        _, info = lerobot.find(path)
        parts = () if info is None else (path, info)
        return Source(path, partial(table.read, path, info=info), parts)

    # --- several ---
    info = None
    if path.is_dir():
        files, info = lerobot.find(path)
        if not files:
            files = [file for file in path.iterdir() if not file.name.startswith((".", "_"))]
            files = [file for file in files if table_files.suffix(file) and file.is_file()]
    elif glob.has_magic(name):
        files = [Path(file) for file in glob.glob(str(path), recursive=True)]
        if not files:
            raise InputError(f"{name}: no file is called so")
    else:
        files = []
    kinds = {table_files.suffix(file) for file in files}
    if not kinds - {None}:
        return None
    if len(kinds) > 1:
        known = " ".join(table_files.SUFFIXES)
        raise InputError(f"{name}: its files are not of one kind; all parts of a table are of one of these: {known}")
    files = sorted((file.resolve() for file in files), key=_by_number)
    parts = files if info is None else [*files, info]
    return Source(path, partial(table.read, path, name=name, parts=files, info=info), tuple(parts))


def _find_minari(options: DataOptions, folders: Sequence[Path]) -> Source | None:
    """The dataset of an id in the first of the ``folders`` that has it."""
    from rlkit.datasets.formats import minari

    for root in folders:
        folder = _inside(root, options.dataset)
        if folder is not None:
            return Source(folder, partial(minari.read, folder, name=options.dataset))
    return None


def _download(options: DataOptions, folders: Sequence[Path]) -> Source:
    """The dataset of an id, once Minari's hub has given it. Raises InputError where it has not."""
    from rlkit.datasets.formats import minari

    minari.download(options.dataset, folders[0])
    source = _find_minari(options, folders[:1])
    if source is None:
        raise InputError(_not_found(options, folders))
    return source


def _folder(path: Path) -> Source:
    """The Minari dataset in a folder that the user named by its path."""
    from rlkit.datasets.formats import minari

    path = path.resolve()
    folder = _inside(path.parent, path.name)
    if folder is None:
        raise InputError(
            f"{path}: the folder holds neither data/ (a Minari dataset) nor .npz files (one episode each) nor tables; "
            "name the file or the folder that holds the data"
        )
    return Source(folder, partial(minari.read, folder))


def _npz_episodes(path: Path) -> list[Path]:
    """The .npz files in a folder, or those that a pattern such as parts/*.npz matches, in the order of the numbers in
    their names; none where ``path`` is something else."""
    if path.is_dir() and not (path / "data").is_dir():
        found = list(path.glob("*.npz"))
    elif path.suffix.lower() == ".npz" and glob.has_magic(str(path)) and not path.exists():
        found = [Path(name) for name in glob.glob(str(path))]
        if not found:
            raise InputError(f"{path}: no file is called so")
    else:
        return []
    return sorted((file.resolve() for file in found), key=_by_number)


def _by_number(path: Path) -> list[tuple[int, str]]:
    """A key that sorts episode_9 before episode_10."""
    key = []
    for text, digits in re.findall(r"(\D*)(\d*)", str(path)):
        key.append((text, int(digits or 0)))
    return key


def available(options: DataOptions, roots: Sequence[Path] = ()) -> list[tuple[str, int, int, Path]]:
    """(id, episodes, steps, folder) of every Minari dataset, by id; of one id in two folders the first is listed.

    A dataset whose metadata cannot be read is left out with a warning.
    """
    from rlkit.datasets.formats import minari

    listed: dict[str, tuple[str, int, int, Path]] = {}
    for root in _roots(options, roots):
        for dataset in _ids(root):
            try:
                metadata = minari.read_metadata(root / dataset / "data")
            except InputError as error:
                warnings.warn(f"left out: {error}", stacklevel=2)
                continue
            row = (dataset, metadata["total_episodes"], metadata["total_steps"], root / dataset)
            listed.setdefault(dataset, row)
    return [listed[dataset] for dataset in sorted(listed)]


def _roots(options: DataOptions, roots: Sequence[Path]) -> list[Path]:
    """Folders to look in, in order."""
    if options.data_root is not None:
        first = [options.data_root.expanduser()]
    else:
        named = os.environ.get("MINARI_DATASETS_PATH")
        first = [Path(named)] if named else []
        first.append(Path.home() / ".minari" / "datasets")
    return [*first, *map(Path, roots)]


def _inside(root: Path, dataset: str) -> Path | None:
    """The dataset's folder if it exists. Raises InputError if any link in it leads out of the root."""
    folder = root / dataset
    data = folder / "data"
    if not data.is_dir():
        return None
    root = root.resolve()
    for part in (data, *_special_files(data)):
        target = Path(os.path.realpath(part))  # Path.resolve raises an error for links that lead in a circle
        if not target.is_relative_to(root):
            raise InputError(
                f"{dataset}: {part} leads out of {root}; set --data-root to the folder that really holds it"
            )
        if part.exists() and not (part.is_file() or part.is_dir()):
            raise InputError(f"{dataset}: {part} is neither a file nor a folder; remove it")
    return folder.resolve()


def _special_files(folder: Path) -> Iterator[Path]:
    """Links, pipes and devices in a folder, however deep: what is neither a folder nor a regular file itself."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _special_files(Path(entry))
        elif not entry.is_file(follow_symlinks=False):
            yield Path(entry)


def _ids(root: Path, under: str = "") -> Iterator[str]:
    """Ids of the datasets in a root."""
    if not (root / under).is_dir():
        return
    for entry in sorted(os.scandir(root / under), key=lambda entry: entry.name):
        if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
            continue
        name = f"{under}/{entry.name}" if under else entry.name
        if (root / name / "data").is_dir():
            yield name
        else:
            yield from _ids(root, name)


def _not_found(options: DataOptions, folders: Sequence[Path]) -> str:
    """The message for a name that stands for no dataset, with names that are alike."""
    name = options.dataset
    if not ID.fullmatch(name):
        kinds = " ".join((*READERS, *table_files.SUFFIXES))
        problem = (
            f"{name!r} is neither a Minari id (such as hopper/medium-v0), a file of a known kind ({kinds}) nor a folder"
        )
    else:
        searched = ", ".join(str(folder) for folder in folders)
        problem = f"{name}: not found in {searched}"
        if not options.download:
            problem += "; --download fetches it from Minari's hub"
    known = set()
    for root in folders:
        known.update(_ids(root))
    near = difflib.get_close_matches(name, known, cutoff=0.5)
    if near:
        problem += f"; do you mean {' or '.join(near)}?"
    return problem
