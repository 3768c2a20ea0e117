"""What can be said on the command line, as typed dataclasses; parsing.py reads it.

Nothing here imports jax, gymnasium or orbax.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Generic, Literal, TypeVar

import tyro
from tyro.conf import Positional

from rlkit.commands.grid import SweepOptions
from rlkit.datasets.options import DataOptions
from rlkit.online import Online
from rlkit.ranges import Count, Discount, Finite, Range, Seed, Whole

C = TypeVar("C")
Seconds = Annotated[float, Range("[0, inf]")]
Hidden = Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress]
Words = Annotated[tuple[str, ...], tyro.conf.Fixed, tyro.conf.Suppress]  # that were typed
Imports = Annotated[
    tuple[str, ...],
    tyro.conf.UseAppendAction,
    tyro.conf.arg(name="import", help="A module to import first, such as one that registers environments."),
]
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
    """Updates between evaluations; a checkpoint goes with each. Default: a twentieth of STEPS, and at least 100."""
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
    """Updates between evaluations; a checkpoint goes with each. Default: a twentieth of the updates online, and at
    least 100."""
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
    a panel for each dataset. .html: a page with all that the runs tell. A name without an ending: a folder with all of
    these and, where several returns were asked for, returns.png. Default: the table is only printed."""


@dataclass(frozen=True)
class JudgeOptions:
    """Estimate what policies are worth from recorded episodes alone, by fitted Q evaluation and, where the data allow
    it, importance sampling. Several runs are ranked."""

    command: ClassVar[str] = "judge"
    runs: Positional[tuple[Path, ...]]
    """Run directories, or folders that hold some. Of each the first seed that did not diverge is judged."""
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
class _OneDataset(DataOptions):
    """What is shown or checked."""

    command: ClassVar[str] = "data"
    dataset: Positional[str | tuple[str, ...]]
    """A Minari id (hopper/medium-v0), a file, a folder, or a pattern in quotes (docs/own_data.md), or random:5000, 5000
    steps of uniform actions in --env. Several are joined."""
    imports: Imports = ()


@dataclass(frozen=True)
class DataShow(_OneDataset):
    """Describe a dataset: spaces, environment, rows, returns."""


@dataclass(frozen=True)
class DataCheck(_OneDataset):
    """Read a dataset past the cache, check it, and print how its rows are used. Exit code 2 if it is refused."""


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
