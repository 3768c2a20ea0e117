"""How a command line is read: which command it is, and what its typed options (options.py) say.

Nothing here imports jax, gymnasium or orbax: only ``train AGENT`` imports that agent's module, for its Config.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from rlkit import __version__, online, ranges
from rlkit.commands.grid import SweepOptions
from rlkit.commands.options import (
    Asked,
    DataCheck,
    DataCollect,
    DataConvert,
    DataDescribe,
    DataList,
    DataShow,
    DataSplit,
    EvaluateOptions,
    ExportOptions,
    FinetuneOptions,
    InspectOptions,
    JudgeOptions,
    ReportOptions,
    RunsOptions,
    TrainOptions,
    VerifyOptions,
)
from rlkit.commands.parsing_train import parse_train
from rlkit.commands.words import HELP, known, listing, value_of
from rlkit.datasets.options import DataOptions
from rlkit.online import Online
from rlkit.runs import registry
from rlkit.types import InputError

if TYPE_CHECKING:
    from rlkit.commands import Catalog

COMMANDS = {
    "train": "Train an agent on a dataset, evaluate it, and write a run directory",
    "finetune": "Go on with a run online, in its environment",
    "evaluate": "Evaluate the last checkpoint of a run",
    "judge": "Estimate what a policy is worth from recorded episodes alone",
    "report": "Table and learning curves of runs, side by side",
    "runs": "List runs, how far they are and what came of them",
    "verify": "Check every file of a run against its SHA-256 sum",
    "export": "Write a policy that runs elsewhere, with NumPy alone",
    "inspect": "Show an exported policy, and check it",
    "data": "List, show, check, draw, convert, combine, split or collect datasets",
}


def parse(argv: Sequence[str], catalog: Catalog) -> Asked | str:
    """The options that ``argv`` gives, or the text to print for a general --help.

    Raises InputError for an unknown command, agent or preset, or a number that is out of its range; tyro exits with
    code 2 for an option that it cannot read.
    """
    if "--out=" in argv or ("--out", "") in itertools.pairwise(argv):  # a Path of "" would be the folder one is in
        raise InputError("--out has no name: give one, or leave --out away")
    with _CONSTRUCTORS:
        asked = _parse(argv, catalog)
    if isinstance(asked, str):
        return asked
    ranges.check_options(asked)
    data = asked if isinstance(asked, DataOptions) else getattr(asked, "data", None)
    if data is not None and not data.names:
        raise InputError("name a dataset: a Minari id, such as hopper/medium-v0, or a file")
    for module in getattr(asked, "imports", ()):
        registry.import_typed(module, f"--import {module}")
    return _with_words(asked, tuple(argv))


def _with_words(asked: Asked, argv: tuple[str, ...]) -> Asked:
    """``asked`` with the words of the command line, which the record of a run keeps."""
    if isinstance(asked, SweepOptions):
        return dataclasses.replace(asked, train=dataclasses.replace(asked.train, words=argv))
    if isinstance(asked, TrainOptions | FinetuneOptions):
        return dataclasses.replace(asked, words=argv)
    return asked


def _parse(argv: Sequence[str], catalog: Catalog) -> Asked | str:
    if not argv or argv[0] in HELP:
        return listing("rlkit COMMAND ...", COMMANDS, "rlkit COMMAND --help tells more.")
    if argv[0] == "--version":
        return f"rlkit {__version__}"
    command = known("command", argv[0], COMMANDS)
    rest = argv[1:]
    if command == "train":
        return parse_train(rest, catalog)
    if command == "data":
        subcommands = {
            "list": DataList,
            "show": DataShow,
            "check": DataCheck,
            "describe": DataDescribe,
            "convert": DataConvert,
            "combine": DataConvert,
            "split": DataSplit,
            "collect": DataCollect,
        }
        return tyro.extras.subcommand_cli_from_dict(
            subcommands, args=rest, prog="rlkit data", description=COMMANDS["data"]
        )
    if command in ("evaluate", "finetune"):
        return _parse_of_run(command, rest)
    listed = (JudgeOptions, ReportOptions, RunsOptions, VerifyOptions, ExportOptions, InspectOptions)
    kinds = {kind.command: kind for kind in listed}
    if not rest and command != "runs":  # which has a folder to look in
        wanted = {"inspect": "the folder of an exported policy"}.get(command, "a run directory")
        raise InputError(f"{command}: name {wanted}; rlkit {command} --help tells more")
    return tyro.cli(kinds[command], args=rest, prog=f"rlkit {command}")


def _parse_of_run(command: str, argv: Sequence[str]) -> EvaluateOptions | FinetuneOptions:
    """Options of a command on a run. It is read first: the Config that it was trained with says what can be given."""
    folder = None
    config = None
    plan = Online()
    for word in argv:
        if (Path(word) / "run.json").is_file():
            folder = Path(word)
            break
    if folder is not None:
        from rlkit.runs.record import Record, recorded_config

        record = Record.read(folder)
        typed = value_of("--agent", argv)
        config = recorded_config(record, typed)
        presets = registry.recorded(record.module, typed).presets
        plan = online.defaults(config, presets.get(record.preset))
    if folder is None and not set(HELP) & set(argv):
        words = [word for word in argv if not word.startswith("-")]
        if not words:
            raise InputError(f"{command}: name a run directory: rlkit {command} RUN")
        if any(word.startswith("--config.") for word in argv):  # which only a run can tell
            raise InputError(f"{command}: there is no run directory among {', '.join(words)}")
    run = folder or tyro.MISSING
    if command == "evaluate":
        kind, default = EvaluateOptions, EvaluateOptions(run=run, config=config)
    else:
        kind, default = FinetuneOptions, FinetuneOptions(run=run, config=config, online=plan)
    return tyro.cli(
        kind[type(config)],
        args=argv,
        default=default,
        prog=f"rlkit {command}",
        config=(tyro.conf.FlagCreatePairsOff,),
    )


_CONSTRUCTORS = tyro.constructors.ConstructorRegistry()


@_CONSTRUCTORS.primitive_rule
def _whole_number(type_info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Have tyro read 1e6 and 1_000_000 where a whole number is wanted."""
    if type_info.type is not int:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: ranges.whole(words[0]),
        is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )
