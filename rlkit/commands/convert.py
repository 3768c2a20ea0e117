"""``rlkit data convert|combine|split``: datasets written anew, as one or in parts, for Minari or as a Parquet table."""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys

from rlkit.commands import Catalog, collect
from rlkit.commands.options import DataConvert, DataSplit
from rlkit.datasets import Episodes, conversion, selection
from rlkit.types import InputError

TABLE = ".parquet"
_OF_TRAINING = ("normalise", "reward", "reward_scale", "reward_shift")  # how training sees the data, see DataOptions


def run(options: DataConvert | DataSplit, catalog: Catalog) -> int:
    """Write what is asked for, and print where it is and how it is read. Raises InputError where that cannot be."""
    usual = {field.name: field.default for field in dataclasses.fields(options)}
    for name in _OF_TRAINING:
        if getattr(options, name) != usual[name]:
            option = name.replace("_", "-")
            raise InputError(
                f"--{option}: is of training, and what is written are the source's own values; leave it out"
            )
    _check_name(options)
    episodes = collect.load(options, catalog)
    if isinstance(options, DataSplit):
        parts = selection.split(episodes, _shares(options.parts), options.seed)
        for name, part in parts.items():
            _write(part, options, f"-{name}")
    else:
        _write(episodes, options, "")
    return 0


def _check_name(options: DataConvert | DataSplit) -> None:
    is_table = options.out.suffix.lower() == TABLE
    if is_table and options.name:
        raise InputError(
            f"--name {options.name}: is of a Minari dataset, and --out {options.out} a table; leave one out"
        )
    if is_table:
        return
    if not options.name:
        raise InputError(f"--out {options.out}: end it in {TABLE} for a table, or name a Minari dataset with --name")
    if not re.fullmatch(collect.NAME, options.name):
        raise InputError(
            f"--name {options.name!r}: write NAMESPACE/NAME-v0, such as mine/first-v0 (two letters or more)"
        )


def _shares(parts: tuple[str, ...]) -> dict[str, float]:
    """Name -> share, of "train=0.9" and the like."""
    shares: dict[str, float] = {}
    for part in parts:
        name, _, number = part.partition("=")
        try:
            share = float(number)
        except ValueError:
            share = 0.0
        if not re.fullmatch(r"\w+", name) or name in shares or not share > 0:
            raise InputError(f"--parts {part}: write a name and a share for each part, such as train=0.9 test=0.1")
        shares[name] = share
    return shares


def _write(episodes: Episodes, options: DataConvert | DataSplit, ending: str) -> None:
    if options.out.suffix.lower() == TABLE:
        path = options.out.with_name(f"{options.out.stem}{ending}{options.out.suffix}")
        conversion.to_parquet(episodes, path)
        where = f"--dataset {shlex.quote(str(path))} {conversion.how_to_read(episodes)}"
    else:
        stem, version = options.name.rsplit("-v", 1)
        name = f"{stem}{ending}-v{version}"
        command = "rlkit " + shlex.join(sys.argv[1:])
        conversion.to_minari(episodes, options.out, name, command)
        where = f"--data-root {shlex.quote(str(options.out))} --dataset {name}"
    report = episodes.report
    print(f"{report.episodes:,} episodes, {report.steps:,} steps: {where}")
