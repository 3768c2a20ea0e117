"""DataOptions: what a user can say about data.

The command line is made from its fields, so this module imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from rlkit.ranges import Count, Finite, Range, Seed

FirstChoice = Annotated[int, Range("[-2147483648, 2147483647]")]


@dataclass(frozen=True)
class ActionOptions:
    """What the actions are, for data that do not say it: tables, arrays and episodes without a description.

    What is not told is taken from the data, with a note, or from the environment where there is one.

    Args: the fields below.

    Raises: nothing. `rlkit.datasets.load` raises InputError for values that contradict each other or the data.

    Example:
        ActionOptions(kind="continuous", low=(0.0,), high=(250.0,))
    """

    kind: Literal["continuous", "discrete"] | None = None
    """continuous: amounts. discrete: each action is the number of a choice. Default: choices where single integers are
    stored as the action, else amounts."""

    low: tuple[Finite, ...] = ()
    """Lower bound of the amounts: one number for all components, or one for each. Default: the least in the data."""

    high: tuple[Finite, ...] = ()
    """Upper bound of the amounts, likewise. Default: the largest in the data."""

    choices: Count | None = None
    """How many choices there are. Default: as many as the largest number in the data needs."""

    first: FirstChoice | None = None
    """Number of the first choice. Default: 0."""


UNTOLD = ActionOptions()


@dataclass(frozen=True)
class ColumnOptions:
    """Which columns of a table hold what, where they have names of their own (docs/own_data.md).

    Example:
        ColumnOptions(episode="patient", observation=("heart_rate", "bp"), action=("dose",), reward="score")
    """

    episode: str | None = None
    """Column whose value is the same in all rows of an episode."""

    step: str | None = None
    """Column that orders the rows of an episode: numbers or times, each once. none: the rows are in order already."""

    observation: tuple[str, ...] = ()
    """Columns of the observation, in this order; a * in a name stands for any letters. Of robomimic: its keys."""

    next_observation: tuple[str, ...] = ()
    """Columns of the observation that a step led to, in the order of the observation. none: they are not read."""

    action: tuple[str, ...] = ()
    """Columns of the action, in this order."""

    reward: str | None = None
    """Column of the reward. none: no reward is known, for agents that need none."""

    terminated: str | None = None
    """Column that is true where a step led to a terminal state. none: no episode ends in one."""

    truncated: str | None = None
    """Column that is true where an episode was cut short."""

    labelled: str | None = None
    """Column that is true where the reward is known."""


@dataclass(frozen=True)
class DataOptions:
    """The data to use, where they are, and how they are transformed on the way to the agent.

    Args: the fields below; only ``dataset`` has no default. They are the options of the command line, too.

    Raises: nothing. `rlkit.datasets.load` raises InputError for a number out of its range.

    Example:
        DataOptions("hopper/medium-v0", normalise="standard")
    """

    dataset: str | tuple[str, ...]
    """A Minari id (hopper/medium-v0), a file (.hdf5, .h5, .npz, .csv, .parquet), a folder, or a pattern in quotes
    ('parts/*.parquet'; docs/own_data.md). Several are joined: --dataset A B, or --dataset A --dataset B. On the command
    line also random:5000, 5000 steps of uniform actions in --env."""

    data_root: Path | None = None
    """Folder of Minari datasets. Default: $MINARI_DATASETS_PATH, then ~/.minari/datasets, then the embedded data."""

    download: bool = False
    """Fetch the dataset from Minari's hub if no folder has it."""

    env: str | None = None
    """Environment to evaluate in; needed where the data do not name one: an id (Hopper-v5), module:Id-v0 or
    module:function for one of your own, or none: no environment, although the data name one."""

    action: ActionOptions = UNTOLD

    columns: ColumnOptions = ColumnOptions()

    cache_dir: Path | None = None
    """Folder of the memory-mapped cache. Default: $RLKIT_CACHE_DIR, else ~/.cache/rlkit."""

    repair: tuple[Literal["ends", "bounds"], ...] = ()
    """Faults to repair. ends: end flags set on the last two steps of an episode; the second is kept. bounds: actions
    that are out of their bounds by at most 1 % of the range; they are clipped."""

    normalise: Literal["none", "standard", "limits"] = "none"
    """Observations: as they are, (x - mean) / (std + 0.001) over the dataset, or each number moved to [-1, 1] by its
    least and largest value in the dataset. Actions are in [-1, 1] whatever this is, by the environment's bounds."""

    reward: Literal["none", "standard", "return-range"] = "none"
    """Rewards: as they are, (r - mean) / std, or r * 1000 / (best return - worst return)."""

    reward_scale: Finite = 1.0
    """Factor on the reward, after --reward."""

    reward_shift: Finite = 0.0
    """Added to the reward last."""

    label_share: Annotated[float, Range("(0, 1]")] = 1.0
    """Share of the episodes that keep their rewards; those of the others are hidden from the agent."""

    label_from: Literal["random", "top-half", "early"] = "random"
    """Which episodes keep them: any, drawn at random; some of the half with the higher returns, drawn at random; the
    first in the order of recording."""

    label_seed: Seed = 0
    """Seed of that draw."""

    holdout: Annotated[float, Range("[0, 1)")] = 0.0
    """Share of the episodes that training never sees: `rlkit judge RUN` judges the policy by them."""

    holdout_seed: Seed = 0
    """Seed of their draw."""

    @property
    def names(self) -> tuple[str, ...]:
        """The datasets, one name each."""
        if isinstance(self.dataset, str):
            return (self.dataset,)
        return self.dataset

    @property
    def title(self) -> str:
        """What messages call the data."""
        return " + ".join(self.names)
