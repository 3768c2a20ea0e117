"""What can be said on the command line, as typed dataclasses, and how it is read.

Nothing here imports jax, gymnasium or orbax: only ``train AGENT`` imports that agent's module, for its Config.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import importlib
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, TypeVar

from rlkit import __version__, online, ranges
from rlkit.commands import grid
from rlkit.commands.grid import SweepOptions
from rlkit.datasets.options import DataOptions
from rlkit.online import Online
from rlkit.ranges import Count, Discount, Finite, Range, Seed, Whole
from rlkit.runs import registry
from rlkit.types import InputError, Preset

if TYPE_CHECKING:
    from rlkit.commands import Catalog
    from rlkit.runs.record import Record

import tyro
from tyro.conf import Positional

C = TypeVar("C")
Seconds = Annotated[float, Range("[0, inf]")]
Hidden = Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress]
Words = Annotated[tuple[str, ...], tyro.conf.Fixed, tyro.conf.Suppress]  # that were typed
Imports = Annotated[
    tuple[str, ...],
    tyro.conf.UseAppendAction,
    tyro.conf.arg(name="import", help="A module to import first, such as one that registers environments."),
]
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
HELP = ("-h", "--help")
EVAL_SEED = 1_000_000
STEPS = 100_000  # updates by default
OF_PRESET = "of the preset"  # so begins the note of a dataset that a preset brought


@dataclass(frozen=True)
class TrainOptions(Generic[C]):
    """One training run."""

    command: ClassVar[str] = "train"
    config: C
    data: Annotated[DataOptions, tyro.conf.arg(name="")]
    online: Online = Online()
    agent: Hidden = ""
    module: Hidden = ""
    steps: Whole | None = None
    """Updates of the last offline stage; the stages before it have theirs in the config, those online in --online.
    Default: the preset's, else 100000; 0 where --online.steps is given and the data are random:N."""
    seeds: Count = 1
    """Copies to train side by side, with the seeds SEED, SEED + 1, ..."""
    seed: Seed = 0
    """First seed."""
    out: Path | None = None
    """Run directory. Default: runs/AGENT-DATASET-TIME."""
    preset: str | None = None
    """Start from the settings published for a dataset; other options win over it.
    It brings its dataset, or wants one to be named."""
    dataset_note: Hidden = ""
    words: Words = ()
    resume: Literal["auto", "never", "must"] = "never"
    """auto: start, continue, or say that the run is finished. never: refuse a run that exists. must: refuse to start a
    new one. More STEPS make a run longer, and evaluations and log lines may be other ones than before. Without AGENT,
    `rlkit train --resume auto --out RUN` goes on with everything as RUN has it."""
    init_from: Path | None = None
    """Run whose last checkpoint the new run begins with, on these data and with these settings: parameters, targets and
    all other arrays are its, the optimisers begin anew."""
    eval_every: Count | None = None
    """Updates between evaluations; a checkpoint goes with each. Default: a twentieth of STEPS."""
    eval_episodes: Whole | None = None
    """Episodes of each evaluation; 0 trains without. Default: 10, and 100 in mazes."""
    eval_seed: Seed = EVAL_SEED
    """Episode i of every evaluation is reset with EVAL-SEED + i. The default is far from the seeds of recordings, so
    that no policy is scored on the starts of its own training data."""
    log_every: Count | None = None
    """Updates between lines of metrics. Default: a fifth of EVAL-EVERY."""
    time_limit: Seconds | None = None
    """Seconds after which to stop with a checkpoint and exit code 75, to be continued with --resume auto."""
    watchdog: Seconds = 600.0
    """Seconds without a sign of life, of the device in a chunk of training or of the environment in an evaluation,
    after which an evaluation counts as failed, or the run ends with exit code 70; 0 waits for ever."""
    q_limit: Annotated[float, Range("(0, inf]")] | None = None
    """Largest |Q| that is credible; a seed beyond it has diverged. Default: 100 times what the steps of the longest
    episode can add up to, rewards and what the method adds to them. inf checks for NaN and infinity alone."""
    dry_run: bool = False
    """Print what would be run, its size and the memory it takes, and stop."""
    imports: Imports = ()
    wandb: bool = False
    """Log to Weights & Biases too."""
    sweep: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """config.NAME=VALUE,VALUE,...: a run for each value of a setting of the agent, and a table and a figure of them
    all. Given again for another setting: a run for each combination. See docs/sweeps.md."""


@dataclass(frozen=True)
class FinetuneOptions(Generic[C]):
    """Go on with a run online: its agent collects steps in its environment and learns from them and from the data."""

    command: ClassVar[str] = "finetune"
    run: Positional[Path]
    """Run directory. With it, --help lists the agent's settings too, which can be others than before."""
    config: C
    online: Online
    env: str | None = None
    """Environment to act in, as for train, where RUN names none or instead of it. Default: RUN's."""
    imports: Imports = ()
    out: Path | None = None
    """Run directory of what comes. Default: RUN-online."""
    resume: Literal["auto", "never", "must"] = "never"
    """auto: start, continue, or say that the run is finished. never: refuse a run that exists. must: refuse to start a
    new one."""
    eval_every: Count | None = None
    """Updates between evaluations; a checkpoint goes with each. Default: a twentieth of the updates online."""
    eval_episodes: Whole | None = None
    """Episodes of each evaluation. Default: as in RUN."""
    eval_seed: Seed | None = None
    """Episode i of every evaluation is reset with EVAL-SEED + i. Default: as in RUN."""
    log_every: Count | None = None
    """Updates between lines of metrics. Default: a fifth of EVAL-EVERY."""
    time_limit: Seconds | None = None
    """Seconds after which to stop with a checkpoint and exit code 75, to be continued with --resume auto."""
    watchdog: Seconds = 600.0
    """Seconds without a sign of life after which an evaluation counts as failed, or the run ends with exit code 70; 0
    waits for ever."""
    q_limit: Annotated[float, Range("(0, inf]")] | None = None
    """Largest |Q| that is credible; a seed beyond it has diverged. Default: as for train."""
    dry_run: bool = False
    """Print what would be run, its size and the memory it takes, and stop."""
    wandb: bool = False
    """Log to Weights & Biases too."""
    agent: str | None = None
    """module:Config, for an agent in a module of your own, as in training."""
    words: Words = ()


@dataclass(frozen=True)
class EvaluateOptions(Generic[C]):
    """Evaluate the last checkpoint of a run in the run's environment, and print the scores."""

    command: ClassVar[str] = "evaluate"
    run: Positional[Path]
    """Run directory. With it, --help lists the agent's settings too: those that leave its networks as they are, such as
    what it is asked for, can be others than in training."""
    config: C
    env: str | None = None
    """Environment to evaluate in, as for train, where RUN names none or instead of it. Default: RUN's."""
    imports: Imports = ()
    episodes: Count | None = None
    """Episodes for each seed of the run. Default: as in training."""
    eval_seed: Seed | None = None
    """Episode i is reset with EVAL-SEED + i. Default: as in training."""
    out: Path | None = None
    """Folder to write table.txt and episodes.json to and, where several returns are asked for, returns.png. Default:
    the table is only printed."""
    video: Path | None = None
    """File to film the first episode of the first seed to: .gif, or .mp4 (with the extra `video`). It is drawn off the
    screen."""
    agent: str | None = None
    """module:Config, for an agent in a module of your own, as in training."""


@dataclass(frozen=True)
class ReportOptions:
    """Print one table of several runs, dataset by dataset: the data, then the methods. Runs that differ in their seeds
    alone are pooled. Below stand the interquartile means over the datasets: those of all runs but the lowest and the
    highest quarter. docs/report.md says more, of profiles (the share of runs above each score) and probabilities of
    improvement (how often a run of one method beats one of another) too."""

    command: ClassVar[str] = "report"
    runs: Positional[tuple[Path, ...]]
    """Run directories, or folders below which all runs are taken, such as that of a sweep."""
    out: Path | None = None
    """What to write besides. A name that ends in .csv, .md, .tex or .txt: the table. .png or .svg: the learning curves,
    a panel for each dataset. .html: a page with all that the runs tell. Another name: a folder with all of these and,
    where several returns were asked for, returns.png. Default: the table is only printed."""


@dataclass(frozen=True)
class JudgeOptions:
    """Estimate what policies are worth from recorded episodes alone, by fitted Q evaluation and, where the data allow
    it, importance sampling. Several runs are ranked."""

    command: ClassVar[str] = "judge"
    runs: Positional[tuple[Path, ...]]
    """Run directories. Of each the first seed that did not diverge is judged."""
    dataset: tuple[str, ...] = ()
    """Held-out episodes, read as the data of the first run were: with its columns, actions and repairs."""
    data_root: Path | None = None
    """Folder of Minari datasets. Default: that of the first run's training."""
    replicates: Annotated[int, Range("[2, 1000]")] = 20
    """Fits with other weights of the episodes, of which the interval is made."""
    gamma: Discount | None = None
    """Discount of the rewards to come. Default: the agents' own, 0.99 for agents that have none."""
    sampled: bool = False
    """Judge the policy that draws its actions. Default: the one that takes its likeliest action."""
    same_data: bool = False
    """Judge by the data of the training all the same, which flatters; the first line then says so."""
    updates: Count | None = None
    """Updates of each fit. Default: 70 for each step of the horizon 1 / (1 - gamma), 40 / 256 for each step of the data
    up to 7,000, and at least 2,000, whichever is most."""
    survived: Finite | None = None
    """Judge survival in place of the rewards: the share of episodes that end with a last reward of at least this,
    without a discount. Default: the rewards are judged, and the page counts no survivors."""
    page: Path | None = None
    """File to write a page for a clinician to (docs/judging.md): .html, which needs no network."""
    doses: bool = False
    """On the page a larger action is a stronger treatment, and what is stronger than 95 % of what was given is flagged.
    Default: nothing is flagged, since the data do not say which action is the stronger one."""
    seed: Seed = 0
    """Of the weights, the fits and what is sampled."""
    agent: str | None = None
    """module:Config, for an agent in a module of your own, as in training."""


@dataclass(frozen=True)
class RunsOptions:
    """List the runs below a folder: how far they are, and the return and score of their last evaluation."""

    command: ClassVar[str] = "runs"
    folders: Positional[tuple[Path, ...]] = (Path("runs"),)
    """Folders to look in, at any depth."""


@dataclass(frozen=True)
class VerifyOptions:
    """Check every file of a run against what was written. Exit code 1 if something is damaged."""

    command: ClassVar[str] = "verify"
    run: Positional[Path]
    """Run directory."""


@dataclass(frozen=True)
class ExportOptions:
    """Write the policy of a run into a folder that runs elsewhere, with NumPy alone or with jax (docs/export.md).
    Exit code 1 if what was written acts otherwise than the run; the folder is not made then."""

    command: ClassVar[str] = "export"
    run: Positional[Path]
    """Run directory."""
    out: Path
    """Folder to make."""
    format: tuple[Literal["numpy", "stablehlo", "onnx"], ...] = ("numpy",)
    """numpy: layers, for NumPy alone. stablehlo: programs for jax, of any agent, with its memory and plans; needs
    flatbuffers, the extra `export`. onnx: the layers as a graph too; needs onnx and onnxruntime, the extra `onnx`."""
    member: Whole | None = None
    """Which seed of the run, from 0. Default: the first that did not diverge."""
    features: Path | None = None
    """File with a line for each number of an observation, its name and, after a comma, its unit; then, if wanted, a
    line for each number of an action. Where the data have names, they must be these."""
    agent: str | None = None
    """module:Config, for an agent in a module of your own, as in training."""


@dataclass(frozen=True)
class InspectOptions:
    """Print what an exported policy takes and gives, and have it act on the observations that are stored with it. Exit
    code 2 if it is not what was written. No code of the folder is run."""

    command: ClassVar[str] = "inspect"
    folder: Positional[Path]
    """What `rlkit export` wrote."""


@dataclass(frozen=True)
class DataList:
    """List the Minari datasets that can be named."""

    command: ClassVar[str] = "data"
    data_root: Path | None = None
    """Folder of Minari datasets. Default: $MINARI_DATASETS_PATH, then ~/.minari/datasets, then the embedded data."""


@dataclass(frozen=True)
class DataShow(DataOptions):
    """Describe a dataset: spaces, environment, rows, returns."""

    command: ClassVar[str] = "data"
    dataset: Positional[str | tuple[str, ...]]
    """A Minari id (hopper/medium-v0), a file, a folder, or a pattern in quotes (docs/own_data.md), or random:5000, 5000
    steps of uniform actions in --env. Several are joined."""
    imports: Imports = ()


@dataclass(frozen=True)
class DataCheck(DataOptions):
    """Read a dataset past the cache, check it, and print how its rows are used. Exit code 2 if it is refused."""

    command: ClassVar[str] = "data"
    dataset: Positional[str | tuple[str, ...]]
    """A Minari id (hopper/medium-v0), a file, a folder, or a pattern in quotes (docs/own_data.md), or random:5000, 5000
    steps of uniform actions in --env. Several are joined."""
    imports: Imports = ()


@dataclass(frozen=True, kw_only=True)
class DataDescribe(DataOptions):
    """Draw a dataset: returns, lengths and ends of the episodes, ranges of the observations, and actions."""

    command: ClassVar[str] = "describe"
    dataset: Positional[str | tuple[str, ...]]
    """A Minari id (hopper/medium-v0), a file, a folder, or a pattern in quotes (docs/own_data.md). Several are
    joined."""
    out: Path
    """The picture to write, a .png."""
    imports: Imports = ()


@dataclass(frozen=True, kw_only=True)
class DataConvert(DataOptions):
    """Write datasets anew, as one: for Minari, or as a table. What is written are the source's own values."""

    command: ClassVar[str] = "convert"
    dataset: Positional[str | tuple[str, ...]]
    """A Minari id (hopper/medium-v0), a file, a folder, or a pattern in quotes (docs/own_data.md). Several are
    joined."""
    out: Path
    """A file NAME.parquet, or the folder of Minari datasets to write into, with --name."""
    name: str | None = None
    """Id of the Minari dataset: NAMESPACE/NAME-v0."""
    imports: Imports = ()


@dataclass(frozen=True, kw_only=True)
class DataSplit(DataConvert):
    """Write parts of a dataset, whose episodes are drawn at random, as NAME-PART.parquet or NAMESPACE/NAME-PART-v0."""

    parts: tuple[str, ...] = ("train=0.9", "test=0.1")
    """Name and share of each part."""
    seed: Seed = 0
    """Seed of the draw."""


@dataclass(frozen=True)
class DataCollect:
    """Play episodes in an environment and store them as a Minari dataset. The same command goes on with a collection
    that was interrupted."""

    command: ClassVar[str] = "collect"
    policy: Annotated[Positional[str], tyro.conf.arg(metavar="RUN|random")]
    """Run directory, of which the first seed that did not diverge acts; or the word random: uniform actions."""
    name: str
    """Id of the dataset: NAMESPACE/NAME-v0."""
    episodes: Count
    """Episodes to play."""
    out: Path
    """Folder of Minari datasets to write into; --data-root of the other commands."""
    env: str | None = None
    """Environment, as for train. Default: that of the run."""
    imports: Imports = ()
    seed: Seed = 0
    """Episode i is reset with SEED + i. The default is far from the seeds of evaluations, 1,000,000 + i: no policy is
    scored on the starts of its own training data."""
    greedy: tyro.conf.FlagCreatePairsOff[bool] = False
    """Take the likeliest actions of the run's policy. Default: its actions are sampled."""
    agent: str | None = None
    """module:Config, for an agent in a module of your own, as in training."""


OfRuns = EvaluateOptions | JudgeOptions | ReportOptions | RunsOptions | VerifyOptions | ExportOptions | InspectOptions
OfData = DataList | DataShow | DataCheck | DataDescribe | DataConvert | DataSplit | DataCollect
Asked = TrainOptions | SweepOptions | FinetuneOptions | OfRuns | OfData


def parse(argv: Sequence[str], catalog: Catalog) -> Asked | str:
    """The options that ``argv`` gives, or the text to print for a general --help.

    Raises InputError for an unknown command, agent or preset, or a number that is out of its range; tyro exits with
    code 2 for an option that it cannot read.
    """
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
        return _listing("rlkit COMMAND ...", COMMANDS, "rlkit COMMAND --help tells more.")
    if argv[0] == "--version":
        return f"rlkit {__version__}"
    command = _known("command", argv[0], COMMANDS)
    rest = argv[1:]
    if command == "train":
        return _parse_train(rest, catalog)
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


def _parse_train(argv: Sequence[str], catalog: Catalog) -> TrainOptions | SweepOptions | str:
    # --- which agent ---
    entries = registry.installed() | dict(catalog.agents)
    if not argv or argv[0] in HELP:
        summaries = {name: entry.summary for name, entry in entries.items()}
        hint = (
            "rlkit train AGENT --help lists an agent's options. An agent in a file of yours is named as "
            "module:Config.\n"
            "rlkit train --resume auto --out RUN goes on with a run, with everything as the run has it."
        )
        return _listing("rlkit train AGENT [OPTIONS]", summaries, hint)
    if argv[0].startswith("-"):
        return _parse_resumed(argv)
    name = argv[0]
    rest = argv[1:]
    if set(HELP) & set(rest):
        for slow in ("optax", "rlkit.networks"):
            sys.modules.setdefault(slow, _Deferred(slow))
    if registry.is_typed(name):
        method = registry.typed(name)
        summary = f"The agent {name}"
    else:
        entry = entries[_known("agent", name, entries)]
        method = registry.named(entry.module)
        summary = entry.summary

    # --- its settings, or those of a preset, are the defaults ---
    embedded = _default_dataset(catalog)
    typed = _value_of("--dataset", rest)
    note = "" if typed else "embedded, since --dataset names none"
    default = TrainOptions(
        config=method.config(),
        data=DataOptions(embedded),
        online=online.defaults(method.config),
        agent=name,
        module=method.module,
    )
    chosen = _value_of("--preset", rest)
    if chosen:
        preset = method.presets[_known("preset", chosen, method.presets)]
        own = preset.dataset
        if own is None and embedded is not tyro.MISSING and embedded.startswith(f"{chosen}/"):
            own = embedded
        if own is None and not typed and not set(HELP) & set(rest):
            raise InputError(f"--preset {chosen} is not for one dataset: name yours with --dataset")
        note = _dataset_note(chosen, own, typed)
        default = _of_preset(default, chosen, preset, own)
    asked = tyro.cli(
        TrainOptions[method.config],
        args=_gathered("--dataset", rest),
        default=default,
        prog=f"rlkit train {name}",
        description=f"{summary}\n\n{_presets(method.presets)}",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    asked = dataclasses.replace(asked, dataset_note=note)
    asked = _with_steps(asked, method.presets[chosen].steps if chosen else STEPS)
    if not asked.sweep:
        return asked
    ranges.check_options(asked)
    return SweepOptions(asked, grid.points(asked.sweep, asked.config))


def _of_preset(default: TrainOptions, name: str, preset: Preset, dataset: str | None) -> TrainOptions:
    """The options of a preset, whose own dataset is ``dataset``, if it has one."""
    return dataclasses.replace(
        default,
        config=preset.config,
        data=dataclasses.replace(default.data, dataset=dataset or tyro.MISSING, **preset.data),
        online=online.defaults(preset.config, preset),
        preset=name,
    )


def _dataset_note(preset: str, own: str | None, typed: str | None) -> str:
    """What is to be said of the choice of the dataset, where a preset whose own dataset is ``own`` was asked for."""
    if typed is None:
        return f"{OF_PRESET} {preset}"
    if own is None or registry.is_dataset(own, typed):
        return ""
    return f"as typed; the preset {preset} is for {own}"


def _parse_resumed(argv: Sequence[str]) -> TrainOptions | FinetuneOptions:
    """Options of ``train --resume auto --out RUN``: those that the run was made with, and over them what is typed.

    Raises InputError if there is no run, or if its agent or its environment is in a module of the user's, who has to
    name it.
    """
    folder = Path(_value_of("--out", argv) or "")
    resume = _value_of("--resume", argv)
    if _value_of("--out", argv) and resume in ("auto", "must") and not (folder / "run.json").is_file():
        raise InputError(f"{folder} is no run to go on with: it has no run.json; name an agent to begin one")
    if not (folder / "run.json").is_file() or resume not in ("auto", "must"):
        raise InputError(
            "train: name an agent (rlkit train lists them), or a run to go on with: rlkit train --resume auto --out RUN"
        )
    if _value_of("--preset", argv):
        raise InputError(f"--preset: {folder} goes on with its own settings; name the agent to begin another run")
    from rlkit.runs.record import Record, recorded_config

    record = Record.read(folder)
    typed = _value_of("--agent", argv)
    config = recorded_config(record, typed)
    default: TrainOptions | FinetuneOptions
    if record.parent is not None and not record.parent.begins:
        default = _finetune_options(record, config, folder)
    else:
        default = _train_options(record, config, folder)
    args = [word for word in argv if word not in ("--agent", typed, f"--agent={typed}")]
    asked = tyro.cli(
        type(default)[type(config)],
        args=_gathered("--dataset", args),
        default=default,
        prog="rlkit train",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if getattr(asked, "sweep", ()):
        raise InputError(f"--sweep: {folder} is one run; name the agent to begin a sweep")
    if _value_of("--env", argv) is None:
        _check_environment(record, folder, asked.imports)
    return asked


def _check_environment(record: Record, folder: Path, imports: Sequence[str]) -> None:
    """InputError, with what to type, where the run's environment is in a module of the user's own, and not typed."""
    from rlkit.runs import environments
    from rlkit.runs.record import recorded_data

    env = recorded_data(record, folder).env
    if env:
        environments.check_imports_nothing(env)
    if record.evaluation is not None:
        environments.again(record.evaluation, imports)


def _train_options(record: Record, config: Any, folder: Path) -> TrainOptions:
    """The options that the run ``record`` in ``folder`` was made with."""
    from rlkit.runs.record import recorded_data

    evaluation = record.evaluation
    return TrainOptions(
        config=config,
        data=recorded_data(record, folder),
        online=record.online[-1] if record.online else online.defaults(config),
        agent=record.agent,
        module=record.module,
        steps=record.steps,
        seeds=len(record.seeds),
        seed=record.seeds[0],
        out=folder,
        preset=record.preset,
        init_from=Path(record.parent.run) if record.parent else None,
        eval_every=record.eval_every,
        eval_episodes=evaluation.episodes if evaluation else 0,
        eval_seed=evaluation.seed if evaluation else EVAL_SEED,
        log_every=record.log_every,
        q_limit=record.q_limit,
        wandb=(folder / "wandb-id").exists(),
    )


def _finetune_options(record: Record, config: Any, folder: Path) -> FinetuneOptions:
    """The same of a run that goes on online from another one."""
    from rlkit.runs.record import recorded_data

    evaluation = record.evaluation
    return FinetuneOptions(
        run=Path(record.parent.run),
        config=config,
        online=record.online[-1],
        env=recorded_data(record, folder).env,
        out=folder,
        eval_every=record.eval_every,
        eval_episodes=evaluation.episodes if evaluation else 0,
        eval_seed=evaluation.seed if evaluation else None,
        log_every=record.log_every,
        q_limit=record.q_limit,
        wandb=(folder / "wandb-id").exists(),
        agent=record.module if registry.is_typed(record.module) else None,
    )


def _with_steps(asked: TrainOptions, usual: int) -> TrainOptions:
    """``asked`` with the number of offline updates, ``usual`` by default. InputError if there is nothing to train."""
    if asked.steps is None:
        begins_online = asked.online.steps > 0 and asked.data.names[0].startswith("random:")
        asked = dataclasses.replace(asked, steps=0 if begins_online else usual)
    if asked.steps == 0 and asked.online.steps == 0:
        raise InputError("--steps 0: must be at least 1, or --online.steps must be given")
    return asked


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
        typed = _value_of("--agent", argv)
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


class _Deferred(ModuleType):
    """Stands for a module until something of it is used.

    A list of options uses nothing of optimisers and networks, which take as long to import as half of jax.
    """

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def _default_dataset(catalog: Catalog) -> str:
    # the first embedded dataset; where there is none, --dataset must be given
    metadata = sorted(catalog.datasets.glob("**/data/metadata.json"))
    if not metadata:
        return tyro.MISSING
    folder = metadata[0].parent.parent
    return folder.relative_to(catalog.datasets).as_posix()


def _value_of(option: str, argv: Sequence[str]) -> str | None:
    """Value of ``option``, which is read before the rest: it decides what else can be given."""
    parser = argparse.ArgumentParser(prog="rlkit", add_help=False, allow_abbrev=False)
    parser.add_argument(option, dest="value")
    options, _ = parser.parse_known_args(argv)
    return options.value


def _gathered(option: str, argv: Sequence[str]) -> list[str]:
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


def _presets(presets: Mapping[str, Preset]) -> str:
    if not presets:
        return "No presets."
    by_source: dict[str, list[str]] = {}
    for name, preset in presets.items():
        by_source.setdefault(preset.source, []).append(name)
    lines = ["Presets (--preset NAME), with their sources:"]
    for source, names in by_source.items():
        paragraph = f"- {', '.join(names)}: {source}"
        lines.append(textwrap.fill(paragraph, 100, subsequent_indent="  ", break_on_hyphens=False))
    return "\n".join(lines)


def _listing(usage: str, summaries: Mapping[str, str], hint: str) -> str:
    width = max(map(len, summaries))
    lines = [f"  {name:{width}}  {summary}" for name, summary in summaries.items()]
    return "\n".join([f"usage: {usage}", "", *lines, "", hint])


def _known(kind: str, name: str, names: Iterable[str]) -> str:
    """``name`` if it is one of ``names``, else InputError that names near matches."""
    names = list(names)
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names
    hint = f"did you mean {', '.join(near)}?" if near else "there is none"
    raise InputError(f"unknown {kind} {name!r}; {hint}")
