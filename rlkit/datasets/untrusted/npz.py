"""NumPy's .npz files that are not trusted: only arrays of numbers are read, and only if memory has room for them.

The format is a zip of .npy files. Sizes are checked against the zip directory and the .npy headers before anything is
unpacked, and arrays of Python objects (pickles) are refused.
"""

from __future__ import annotations

import contextlib
import lzma
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rlkit.datasets.untrusted import fields
from rlkit.datasets.untrusted.fields import Budget
from rlkit.types import InputError, one_line

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_DAMAGE = (
    OSError, EOFError, ValueError, RuntimeError, KeyError, TypeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
    tokenize.TokenError,
)  # fmt: skip


class Member:
    """An array of the archive whose header has been checked and whose values have not been read."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, shape: tuple[int, ...], dtype: np.dtype):
        self._archive = archive
        self._info = info
        self.shape = shape
        self.dtype = dtype

    def read(self) -> np.ndarray:
        """The values."""
        with self._archive.open(self._info) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)


class Archive:
    """The members of an .npz by name; `opened` makes it."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, budget: Budget) -> None:
        self._path = path
        self._archive = archive
        self._budget = budget
        self._infos = {}
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            self._infos[name] = info
        self._members: dict[str, Member] = {}
        self.names = list(self._infos)

    def member(self, name: str) -> Member:
        """The member ``name`` of any kind but Python objects. Raises InputError if it is too big, or if it has not as
        many bytes as its header says."""
        if name not in self._members:
            info = self._infos[name]
            self._budget.take(info.file_size)
            shape, dtype = self._header(name, info)
            self._members[name] = Member(self._archive, info, shape, dtype)
        return self._members[name]

    def array(self, name: str) -> Member:
        """The member ``name``, which must hold numbers. Raises fields.Fault if it does not, InputError as above."""
        member = self.member(name)
        if not member.shape or member.dtype.kind not in "biuf":
            raise fields.Fault("not an array of numbers with one row per step")
        return member

    def _header(self, name: str, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype]:
        where = f"{self._path.name}: {name}"
        with self._archive.open(info) as stream:
            version = np.lib.format.read_magic(stream)
            if version not in _HEADERS:
                raise InputError(f"{where} is not an array of numbers; save it with numpy.savez")
            shape, _, dtype = _HEADERS[version](stream)
            header = stream.tell()
        if dtype.hasobject:
            raise InputError(f"{where} holds Python objects, which are never loaded; save it as numbers")
        size = math.prod(shape) * dtype.itemsize
        if header + size != info.file_size:
            raise InputError(
                f"{where} claims shape {shape} of {dtype}, which is not the {info.file_size} bytes stored; copy or "
                "download the file again"
            )
        return shape, dtype


@contextlib.contextmanager
def opened(path: Path, budget: Budget) -> Iterator[Archive]:
    """The archive at ``path``. Whatever goes wrong with the file inside this context becomes an InputError that begins
    with its name."""
    fields.check_exists(path)
    try:
        with zipfile.ZipFile(path) as archive:
            yield Archive(path, archive, budget)
    except InputError:
        raise
    except _DAMAGE as error:
        reason = one_line(error)
        raise InputError(f"{path.name}: cannot be read as .npz ({reason}); copy or download it again") from error
