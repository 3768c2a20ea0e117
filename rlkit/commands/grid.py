"""``--sweep config.beta=1,3,10``: the settings of every point of a grid.

This module imports nothing heavy: the command line is read with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import itertools
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rlkit import ranges
from rlkit.types import InputError

OF_CONFIG = "config."


@dataclass(frozen=True)
class Point:
    """One point of a grid. ``values``: what was typed for each name, as in ("beta", "3")."""

    values: tuple[tuple[str, str], ...]
    config: Any

    @property
    def label(self) -> str:
        """ "beta=3,tau=0.01": the run's name in tables, and its folder."""
        words = [f"{name}={text}" for name, text in self.values]
        return re.sub(r"[\s/]+", "-", ",".join(words))


@dataclass(frozen=True)
class SweepOptions:
    """What ``train AGENT --sweep ...`` asks for."""

    command: ClassVar[str] = "sweep"
    train: Any  # TrainOptions, of which every run has all but the config
    points: tuple[Point, ...]


def points(sweeps: Sequence[str], config: Any) -> tuple[Point, ...]:
    """Every combination of the values that ``sweeps`` name, each a text "config.NAME=VALUE,VALUE,...".

    Raises InputError for a field that ``config`` does not have, or a value that it cannot have.
    """
    axes = {}
    for sweep in sweeps:
        name, texts = _axis(sweep)
        if name in axes:
            raise InputError(f"--sweep {sweep}: {OF_CONFIG}{name} is swept already; give all its values at once")
        axes[name] = texts
    found = []
    for combination in itertools.product(*axes.values()):
        values = tuple(zip(axes, combination, strict=True))
        changed = config
        for name, text in values:
            changed = _with(changed, name.split("."), text, f"--sweep {OF_CONFIG}{name}")
        where = ",".join(f"{OF_CONFIG}{name}={text}" for name, text in values)
        ranges.check(changed, f"--sweep {where}")
        found.append(Point(values, changed))
    return tuple(found)


def _axis(sweep: str) -> tuple[str, list[str]]:
    """The name, without "config.", and the values of "config.beta=1,3,10"."""
    name, equals, listed = sweep.partition("=")
    name = name.removeprefix("--").replace("-", "_").strip()
    texts = [text.strip() for text in listed.split(",")]
    if not equals or not name.startswith(OF_CONFIG) or "" in texts:
        raise InputError(f"--sweep {sweep}: write a setting of the agent and its values, as in config.beta=1,3,10")
    twice = [text for number, text in enumerate(texts) if text in texts[:number]]
    if twice:
        raise InputError(f"--sweep {sweep}: {twice[0]} is there twice")
    return name.removeprefix(OF_CONFIG), texts


def _with(config: Any, path: Sequence[str], text: str, where: str) -> Any:
    """``config`` with the field at ``path`` as ``text`` says. ``where`` begins the message of an InputError."""
    head, *rest = path
    names = [field.name for field in dataclasses.fields(config)] if dataclasses.is_dataclass(config) else []
    if head not in names:
        near = difflib.get_close_matches(head, names, n=3, cutoff=0.4) or names
        raise InputError(f"{where}: there is no setting {head!r}; did you mean {', '.join(near) or 'another'}?")
    if rest:
        value = _with(getattr(config, head), rest, text, where)
    else:
        hint = typing.get_type_hints(type(config), include_extras=True)[head]
        value = _converted(hint, text, where)
    return dataclasses.replace(config, **{head: value})


def _converted(hint: Any, text: str, where: str) -> Any:
    """``text`` as the option of that type would read it; a tuple's numbers are parted by blanks."""
    import tyro

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # what tyro says is about a command line of its own
            return tyro.cli(hint, args=text.split(), console_outputs=False)
    except SystemExit:
        raise InputError(f"{where}: {text!r} is not a value of this setting") from None
