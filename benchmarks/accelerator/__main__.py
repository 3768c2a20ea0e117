"""The command line of benchmarks.accelerator."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import benchmarks.accelerator
from rlkit.types import InputError, RunError

TABLE = Path(__file__).parent.parent / "tables" / "accelerator.toml"
HOME = Path("runs") / "accelerator"


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerator",
        description=benchmarks.accelerator.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", choices=("pack", "collect", "score"), help="left out: the call itself")
    parser.add_argument("folder", nargs="?", type=Path, help="of collect: what a call has brought back")
    parser.add_argument("--out", type=Path, help="folder of the call's results")
    parser.add_argument("--minutes", type=float, default=9.0, help="of the call; default 9")
    parser.add_argument("--parts", default="abcd", help="of the call; default abcd")
    parser.add_argument("--agents", nargs="+", help="agents that parts b and c measure; default: all")
    parser.add_argument("--table", type=Path, default=TABLE, help="the cells of part d")
    parser.add_argument("--home", type=Path, default=HOME, help=f"what is carried, and runs; default {HOME}")
    options = parser.parse_args(argv)
    if (options.command == "collect") != (options.folder is not None):
        parser.error("collect, and no other command, needs the folder that a call has brought back")
    if (options.command is None) != (options.out is not None):
        parser.error("the call, and no other command, needs --out FOLDER")
    try:
        return _run(options)
    except (InputError, RunError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1


def _run(options: argparse.Namespace) -> int:
    if options.command is None:
        from benchmarks.accelerator.call import call

        seconds = 60 * options.minutes
        return call(options.out, seconds, options.parts, options.agents, options.table, options.home)
    from benchmarks.accelerator import home  # which needs what a machine that only trains may not have

    if options.command == "pack":
        return home.pack(options.table, options.home)
    if options.command == "collect":
        return home.collect(options.folder, options.home)
    return home.score(options.table, options.home)


if __name__ == "__main__":
    sys.exit(main())
