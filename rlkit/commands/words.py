"""Words of a command line, as they are read before the typed options: some of them decide what else can be given."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Mapping, Sequence

from rlkit.types import InputError

HELP = ("-h", "--help")


def value_of(option: str, argv: Sequence[str]) -> str | None:
    """Value of ``option``, which is read before the rest: it decides what else can be given."""
    parser = argparse.ArgumentParser(prog="rlkit", add_help=False, allow_abbrev=False)
    parser.add_argument(option, dest="value")
    options, _ = parser.parse_known_args(argv)
    return options.value


def gathered(option: str, argv: Sequence[str]) -> list[str]:
    """``argv`` with the values of an option that is given several times behind its first place."""
    rest: list[str] = []
    values: list[str] = []
    place = None
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name != option:
            rest.append(word)
            continue
        if place is None:
            place = len(rest)
        values.append(value if equals else next(words, ""))
    if len(values) < 2:
        return list(argv)
    return [*rest[:place], option, *values, *rest[place:]]


def listing(usage: str, summaries: Mapping[str, str], hint: str) -> str:
    width = max(map(len, summaries))
    lines = [f"  {name:{width}}  {summary}" for name, summary in summaries.items()]
    return "\n".join([f"usage: {usage}", "", *lines, "", hint])


def known(kind: str, name: str, names: Iterable[str]) -> str:
    """``name`` if it is one of ``names``, else InputError that names near matches."""
    names = list(names)
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names
    hint = f"did you mean {', '.join(near)}?" if near else "there is none"
    raise InputError(f"unknown {kind} {name!r}; {hint}")
