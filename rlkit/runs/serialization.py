"""Dataclasses as plain JSON and back, strictly: how a run's record is written and read. Nothing is ever unpickled.

Non-finite numbers, which JSON does not have, are written as the strings "nan", "inf" and "-inf".
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union

import numpy as np

from rlkit.types import InputError, too_long


def make_folder(folder: Path | None) -> None:
    """Make the folder that results are to be written to, if one is asked for. Raises InputError where it cannot be."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: no folder can be made there ({error.strerror})") from error


def exists(path: Path) -> bool:
    """Whether ``path`` is there. InputError for a name that is too long to be any."""
    try:
        return path.exists()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise too_long(path) from None


def encode(value: Any) -> Any:
    """``value`` as JSON values; a dataclass or a named tuple becomes an object of its fields."""
    if is_dataclass(value):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if hasattr(value, "_asdict"):
        return encode(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if hasattr(
        value, "tolist"
    ):  # a float32 is kept exactly: as float64 it has the same value, and JSON keeps all digits
        numbers = np.asarray(value).tolist()
        return encode(numbers)
    return _encode_scalar(value)


def _encode_scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not plain data")


def decode(kind: Any, value: Any, where: str) -> Any:
    """The ``kind`` (a type annotation) that `encode` turned into ``value``.

    ``where`` names the place in messages. Raises InputError for a missing or unknown key and for a value of another
    type.
    """
    if is_dataclass(kind) or hasattr(kind, "_fields"):
        return _decode_record(kind, value, where)
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(typing.get_args(kind), value, where)
    if origin is not None:
        return _decode_generic(kind, value, where)
    return _decode_simple(kind, value, where)


def _decode_record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object with the fields of {kind.__name__}")
    hints = typing.get_type_hints(kind)
    names, optional = _field_names(kind)
    required = set(names) - optional  # an older version may have written it without the fields that have a default
    unknown = sorted(set(value) - set(names))
    missing = sorted(required - set(value))
    if unknown or missing:
        raise InputError(f"{where}: unknown keys {unknown}, missing keys {missing}; written by another version?")
    arguments = {}
    for name in names:
        if name in value:
            arguments[name] = decode(hints[name], value[name], f"{where}.{name}")
    return kind(**arguments)


def _field_names(kind: Any) -> tuple[list[str], set[str]]:
    """All fields of a dataclass or a named tuple, and those that have a default."""
    if not is_dataclass(kind):
        return list(kind._fields), set(kind._field_defaults)
    names = []
    optional = set()
    for field in fields(kind):
        names.append(field.name)
        has_default = field.default is not MISSING or field.default_factory is not MISSING
        if has_default:
            optional.add(field.name)
    return names, optional


def _decode_union(kinds: Sequence[Any], value: Any, where: str) -> Any:
    """A value of the first kind that fits. Of records that is the one that needs the fewest defaults."""
    if isinstance(value, dict):
        kinds = sorted(kinds, key=lambda kind: _absent(kind, value))
    failures = []
    for kind in kinds:
        try:
            return decode(kind, value, where)
        except InputError as error:
            failures.append(error)
    raise failures[0]


def _absent(kind: Any, value: Mapping[str, Any]) -> float:
    """Fields of the record ``kind`` that ``value`` does not have; infinitely many, if it is no record."""
    if not is_dataclass(kind) and not hasattr(kind, "_fields"):
        return math.inf
    names, _ = _field_names(kind)
    return len(set(names) - set(value))


def _decode_generic(kind: Any, value: Any, where: str) -> Any:
    """A value of Literal[...], tuple[...] or dict[...]."""
    origin = typing.get_origin(kind)
    args = typing.get_args(kind)
    if origin is Literal and value in args:
        return value
    if origin is tuple and isinstance(value, list):
        kinds = args
        if args[-1] is Ellipsis:
            kinds = (args[0],) * len(value)
        if len(kinds) == len(value):
            return _decode_items(kinds, value, where)
    if origin is dict and isinstance(value, dict):
        key_kind, item_kind = args
        decoded = {}
        for key, item in value.items():
            decoded_key = decode(key_kind, key, where)
            decoded[decoded_key] = decode(item_kind, item, f"{where}.{key}")
        return decoded
    raise _other_type(kind, value, where)


def _decode_items(kinds: tuple[Any, ...], values: list[Any], where: str) -> tuple[Any, ...]:
    items = []
    for number, (kind, value) in enumerate(zip(kinds, values, strict=True)):
        item = decode(kind, value, f"{where}[{number}]")
        items.append(item)
    return tuple(items)


def _decode_simple(kind: Any, value: Any, where: str) -> Any:
    """A value of a type without parts."""
    if kind is Any:
        return value
    if kind is float and value in ("nan", "inf", "-inf"):
        return float(value)
    if kind is float and type(value) is int:
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if type(value) is kind:
        return value
    raise _other_type(kind, value, where)


_IN_WORDS: dict[Any, str] = {int: "a whole number", float: "a number"}


def _other_type(kind: Any, value: Any, where: str) -> InputError:
    name = _IN_WORDS.get(kind) or getattr(kind, "__name__", kind)
    text = json.dumps(value)
    return InputError(f"{where}: {text[:60]} is not {name}")


def dumps(value: Any) -> str:
    """One line of strict JSON."""
    return json.dumps(encode(value), allow_nan=False)


def pretty(value: Any) -> str:
    """JSON to be read by people: objects are indented, lists of plain values stay on one line."""
    text = json.dumps(encode(value), indent=1, allow_nan=False)
    # a newline in the text is never part of a string: JSON escapes those
    return re.sub(r"\[\n\s*([^][{}]*?)\n\s*\]", _on_one_line, text)


def _on_one_line(match: re.Match[str]) -> str:
    items = re.sub(r"\s*\n\s*", " ", match[1])
    return f"[{items}]"


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` so that a reader sees the old file or the new one, never a part of it."""
    write_text(path, pretty(value) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` by way of a temporary file beside it."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` as `write_text` does."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Any:
    """The JSON in ``path``; InputError if there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any], *, additions: bool = True) -> list[str]:
    """List where two mappings of JSON values differ, nested ones included, as "key: mine -> theirs".

    additions: whether a key that only ``theirs`` has counts; it need not where ``mine`` is of an older version.
    """
    mine = flat(mine)
    theirs = flat(theirs)
    keys = dict.fromkeys([*mine, *theirs]) if additions else mine
    differing = []
    for key in keys:
        before = mine.get(key)
        after = theirs.get(key)
        if before != after:
            differing.append(f"{key}: {_short(before)} -> {_short(after)}")
    return differing


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, whose keys are joined by dots."""
    joined: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            joined |= flat(item, f"{prefix}{key}.")
        else:
            joined[f"{prefix}{key}"] = item
    return joined


def _short(value: Any) -> str:
    text = json.dumps(value)
    if len(text) <= 40:
        return text
    return text[:37] + "..."
