"""Dataclasses as plain JSON and back, strictly: how a run's record is written and read. Nothing is ever unpickled.

Non-finite numbers, which JSON does not have, are written as the strings "nan", "inf" and "-inf".
"""

from __future__ import annotations

import json
import math
import os
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union

import numpy as np

from rlkit.types import InputError


def encode(value: Any) -> Any:
    """``value`` as JSON values; a dataclass or a named tuple becomes an object of its fields."""
    if is_dataclass(value):
        return {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if hasattr(value, "_asdict"):
        return encode(value._asdict())
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if hasattr(value, "tolist"):  # a float32 survives: its float64 is exact and JSON keeps every digit of that
        return encode(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} is not plain data")


def decode(kind: Any, value: Any, where: str) -> Any:
    """The ``kind`` (a type annotation) that `encode` turned into ``value``.

    ``where`` names the place in messages. Raises InputError for a missing or unknown key and for a value of another
    type.
    """
    if is_dataclass(kind) or hasattr(kind, "_fields"):
        return _decode_record(kind, value, where)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(args, value, where)
    if origin is Literal and value in args:
        return value
    if origin is tuple and isinstance(value, list):
        kinds = (args[0],) * len(value) if args[-1] is Ellipsis else args
        if len(kinds) == len(value):
            return tuple(decode(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if origin is dict and isinstance(value, dict):
        return {decode(args[0], k, where): decode(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is float and value in ("nan", "inf", "-inf"):
        return float(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is Any or (value is None and kind is type(None)) or type(value) is kind:
        return value
    raise InputError(f"{where}: {json.dumps(value)[:60]} is not {getattr(kind, '__name__', kind)}")


def _decode_record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object with the fields of {kind.__name__}")
    hints = typing.get_type_hints(kind)
    if is_dataclass(kind):
        names = [field.name for field in fields(kind)]
        optional = {f.name for f in fields(kind) if f.default is not MISSING or f.default_factory is not MISSING}
    else:
        names, optional = kind._fields, set(kind._field_defaults)
    unknown = sorted(set(value) - set(names))
    missing = sorted(set(names) - set(value) - optional)  # what was not there yet when it was written has a default
    if unknown or missing:
        raise InputError(f"{where}: unknown keys {unknown}, missing keys {missing}; written by another version?")
    given = [name for name in names if name in value]
    return kind(**{name: decode(hints[name], value[name], f"{where}.{name}") for name in given})


def _decode_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    failures = []
    for kind in kinds:
        try:
            return decode(kind, value, where)
        except InputError as error:
            failures.append(error)
    raise failures[0]


def dumps(value: Any) -> str:
    """One line of strict JSON."""
    return json.dumps(encode(value), allow_nan=False)


def pretty(value: Any) -> str:
    """JSON to be read by people: objects are indented, lists of plain values stay on one line."""
    text = json.dumps(encode(value), indent=1, allow_nan=False)
    # a newline in the text is never part of a string: JSON escapes those
    return re.sub(r"\[\n\s*([^][{}]*?)\n\s*\]", lambda m: "[" + re.sub(r"\s*\n\s*", " ", m[1]) + "]", text)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` so that a reader sees the old file or the new one, never a part of it."""
    write_text(path, pretty(value) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` by way of a temporary file beside it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
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
    """What differs between two plain mappings, nested ones included, as "key: mine -> theirs".

    additions: whether a key that only ``theirs`` has counts; it need not where ``mine`` is of an older version.
    """
    mine, theirs = _flat(mine), _flat(theirs)
    keys = dict.fromkeys([*mine, *theirs]) if additions else mine
    return [
        f"{key}: {_short(mine.get(key))} -> {_short(theirs.get(key))}"
        for key in keys
        if mine.get(key) != theirs.get(key)
    ]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {f"{prefix}{key}": item}
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
