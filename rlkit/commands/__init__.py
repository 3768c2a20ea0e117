"""The command line: it is read first, which is quick; then the command's module is imported and run."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlkit import messages
from rlkit.commands import parsing
from rlkit.commands.words import HELP
from rlkit.runs.stopping import Stop
from rlkit.types import InputError, RunError, too_long


class Catalog(NamedTuple):
    """Agents, environments and datasets that can be named on the command line."""

    agents: Mapping[str, Any]  # name -> entry with `module` and `summary`
    # EnvSpec as JSON, or an id, and a render_mode, None by default -> gymnasium.Env; imports nothing that it names
    make_env: Callable[..., Any]
    references: Mapping[
        str, Any
    ]  # environment id -> reference returns and the task that they hold for (envs.Reference)
    datasets: Path  # Minari root of the embedded data; its first dataset is the default
    episodes: Callable[[str], int]  # environment id -> episodes that an evaluation takes


FULL = 1  # exit code where what is printed cannot be written
CLOSED_PIPE = 141  # exit code, as a shell has it for a program that SIGPIPE ended


def main(argv: Sequence[str], catalog: Catalog) -> int:
    """Run one command line and return its exit code.

    That is 0, 1 if a check or a run failed, or 2 for a mistake, each with one line that says why; 130, 143 or 75 for a
    run that was interrupted, 141 where nobody reads the output any more, as with `| head` (see docs/reliability.md).
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this: what is printed goes nowhere
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    try:
        try:
            return _run(argv, catalog)
        finally:
            sys.stdout.flush()  # here and not at the end of Python, where a closed pipe would be a traceback
    except BrokenPipeError:
        _print_nowhere()
        return CLOSED_PIPE
    except OSError as error:
        if error.filename is not None or not _is_full():
            raise
        messages.tell(f"the output cannot be written ({error.strerror})")
        _print_nowhere()
        return FULL


def _is_full() -> bool:
    """Whether stdout takes no line more. It may have dropped those that failed, so one more is tried."""
    try:
        print(flush=True)
    except OSError:
        return True
    return False


def _print_nowhere() -> None:
    """Have what is left in stdout, and what comes at the end of Python, go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def _run(argv: Sequence[str], catalog: Catalog) -> int:
    if _takes_long_to_start(argv) and sys.stdout.isatty():
        print("starting", flush=True)
    try:
        asked = parsing.parse(argv, catalog)
        if isinstance(asked, str):
            print(asked)
            return 0
        command = importlib.import_module(f"rlkit.commands.{asked.command}")
        return command.run(asked, catalog)
    except InputError as error:
        messages.tell(str(error))
        return 2
    except RunError as error:
        messages.tell(str(error))
        return 1
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        messages.tell(str(too_long(error.filename)))
        return 2
    except Stop as stop:  # train has said why
        return stop.code
    except KeyboardInterrupt:
        messages.tell("interrupted")
        return 130


def _takes_long_to_start(argv: Sequence[str]) -> bool:
    """Whether jax is imported for this, which takes seconds."""
    command, *rest = argv or [""]
    slow = ("train", "finetune", "evaluate", "judge", "export")
    return command in slow and bool(rest) and not set(HELP) & set(rest)
