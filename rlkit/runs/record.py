"""run.json: what was run, on which data, and what a run must have in common with another to go on with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlkit import online
from rlkit.datasets.card import Card
from rlkit.datasets.episodes import Names
from rlkit.datasets.options import DataOptions
from rlkit.evaluation.statistics import Estimate
from rlkit.online import Online
from rlkit.runs import registry, serialization
from rlkit.types import InputError, Spec, Stage

FORMAT = 1
# What a run is. What follows from it, and the folders that data were found in, are left out.
_SAME = ("agent", "module", "config", "steps", "seeds", "log_every", "eval_every", "evaluation", "spec")
# What may change when a run goes on, since no update depends on it: how long, and how it is evaluated and logged.
CHANGEABLE = ("steps", "log_every", "eval_every", "evaluation")
_SAME_DATA = (
    "repair",
    "normalise",
    "reward",
    "reward_scale",
    "reward_shift",
    "label_share",
    "label_from",
    "label_seed",
)


@dataclass(frozen=True)
class Reference:
    """Mean returns of a random and of an expert policy, which have the scores 0 and 100."""

    random: float
    expert: float
    source: str


@dataclass(frozen=True)
class DataRecord:
    """The data that a run was trained on."""

    name: str
    fingerprint: str
    episodes: int
    steps: int  # that can be drawn
    rows: int  # of the buffer, final observations included
    mean_return: Estimate  # over its episodes
    observation_space: dict[str, Any]  # as stored, in Minari's JSON form
    action_space: dict[str, Any]
    options: dict[str, Any]  # rlkit.datasets.DataOptions
    names: Names = Names()  # of the components of observations and actions
    notes: tuple[str, ...] = ()  # what had to be taken from the data, and what else is to be known of them
    warnings: tuple[str, ...] = ()  # what looks wrong in them, see rlkit.datasets.inspection
    card: Card | None = None  # what its episodes look like


@dataclass(frozen=True)
class EvaluationRecord:
    """Environment and episodes of the evaluations. Episode i of every seed of the run was reset with ``seed`` + i."""

    environment: str  # a gymnasium EnvSpec as JSON, an id, or what the user typed (rlkit.runs.environments)
    episodes: int
    seed: int
    imports: tuple[str, ...] = ()  # modules that the user had imported first


@dataclass(frozen=True)
class Parent:
    """The checkpoint of another run that a run went on from."""

    checkpoint: int  # updates of all its stages
    manifest: str  # SHA-256 of the checkpoint's manifest
    run: str  # its folder, as it was named
    begins: bool = False  # True: the run begins with its arrays, at step 0; False: it goes on where that one ended


@dataclass(frozen=True)
class Record:
    """Everything in run.json."""

    agent: str
    module: str  # of the agent; it holds the Config
    config: dict[str, Any]  # the fields of the Config
    preset: str | None
    steps: int  # updates of the last stage
    stages: tuple[tuple[str, int], ...]  # name and updates of each
    seeds: tuple[int, ...]
    log_every: int
    eval_every: int
    data: DataRecord
    spec: Spec
    normaliser: dict[str, Any]
    stats: dict[str, tuple[float, ...]]
    evaluation: EvaluationRecord | None
    reference: Reference | None
    versions: dict[str, str]
    device: str
    format: int = FORMAT
    online: tuple[Online, ...] = ()  # of each time that the run went online, after the stages of the config
    online_from: int | None = None  # number of the first stage of the last of these times
    parent: Parent | None = None
    q_limit: float | None = None  # as it was given
    unscored: str = ""  # why there is no reference, where one is known for another task
    command: tuple[str, ...] = ()  # the words that were typed; none for a run from Python
    commit: str = ""  # of the code, where that is a git checkout; "-dirty" where files differ from it

    @classmethod
    def read(cls, folder: Path) -> Record:
        """Read the record of the run in ``folder``. InputError if it has none, or one that this version cannot read."""
        path = folder / "run.json"
        if not serialization.exists(path):
            raise InputError(f"{folder} is not a run directory: it has no run.json")
        value = serialization.read_json(path)
        if isinstance(value, dict):
            _bring_up_to_date(value, path)
        return serialization.decode(cls, value, str(path))

    def differences(self, other: Record) -> list[str]:
        """List values that keep ``other`` from going on with this run, as "key: mine -> theirs"."""
        mine = self._fixed()
        theirs = other._fixed()
        if self.evaluation is not None and other.evaluation is not None:
            mine["environment"] = self.evaluation.environment
            theirs["environment"] = other.evaluation.environment
        return serialization.differences(mine, theirs)

    def changes(self, other: Record) -> list[str]:
        """List what ``other`` changes where it goes on with this run, as "key: mine -> theirs"; see CHANGEABLE."""
        return serialization.differences(self._changeable(), other._changeable())

    def drift(self, other: Record) -> list[str]:
        """List the versions and devices that differ. They may, but they change the last bits of a result."""
        mine = self.versions | {"device": self.device}
        theirs = other.versions | {"device": other.device}
        return serialization.differences(mine, theirs)

    def identity(self) -> dict[str, Any]:
        """What the run is, as JSON values: two runs with the same identity end with the same bits."""
        identity = {}
        for name in _SAME:
            identity[name] = serialization.encode(getattr(self, name))
        if self.online:
            identity["online"] = serialization.encode({str(n): plan for n, plan in enumerate(self.online)})
        if self.parent is not None:
            identity["parent"] = {"checkpoint": self.parent.checkpoint, "manifest": self.parent.manifest}
        data = {}
        for name in _SAME_DATA:
            data[name] = serialization.encode(self.data.options.get(name))
        identity["data"] = data
        identity["dataset fingerprint"] = self.data.fingerprint
        return identity

    def _fixed(self) -> dict[str, Any]:
        """The identity without what may change. Of the times that the run goes online the last is called as its options
        are, --online."""
        fixed = {name: value for name, value in self.identity().items() if name not in CHANGEABLE}
        if self.online:
            *earlier, last = fixed["online"].values()
            fixed["online"] = last
            fixed |= {f"online, time {number}": plan for number, plan in enumerate(earlier, 1)}
        return fixed

    def _changeable(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in ("steps", "log_every", "eval_every")}
        if self.evaluation is not None:
            values["evaluation"] = {"episodes": self.evaluation.episodes, "seed": self.evaluation.seed}
        return values


def _bring_up_to_date(value: dict[str, Any], path: Path) -> None:
    """Change what earlier versions wrote into what this one reads. InputError for another format."""
    written = value.get("format", FORMAT)
    if written != FORMAT:
        raise InputError(f"{path}: format {written}; this version reads format {FORMAT}")
    data = value.get("data")
    if isinstance(data, dict):
        data.pop("iqm", None)  # written by the first versions, and read by nothing


def recorded_config(record: Record, agent: str | None = None) -> Any:
    """The Config of a run, an instance of the class in the module that its record names.

    agent: ``module:Config`` as the user typed it, for an agent in a module of their own, which a record alone does not
    import.
    """
    method = registry.recorded(record.module, agent)
    return serialization.decode(method.config, record.config, "run.json: config")


def rebuild(record: Record, config: Any = None) -> tuple[Stage, ...]:
    """The stages of a run; those of ``config`` in place of the recorded one, if it is given."""
    if config is None:
        config = recorded_config(record)
    return online.stages(config, record.spec, record.steps, record.online)


def check_longer(recorded: Record, longer: Record, config: Any, folder: Path) -> None:
    """Raises InputError unless the run ``recorded`` in ``folder`` can go on to the steps of ``longer`` and end with the
    bits of a run that had as many from the start: no learner of ``config`` may depend on their number."""
    if longer.steps < recorded.steps:
        raise InputError(f"--steps {longer.steps}: {folder} has {recorded.steps}, which can be raised and not lowered")
    if recorded.online:
        raise InputError(f"--steps {longer.steps}: {online_is_not_longer(folder)}")
    before = config.stages(longer.spec, recorded.steps)
    *earlier, last = config.stages(longer.spec, longer.steps)
    if (*earlier, replace(last, steps=recorded.steps)) != tuple(before):
        raise InputError(
            f"--steps {longer.steps}: a schedule of {longer.agent} runs over the {recorded.steps} updates of {folder}, "
            f"so a longer run differs from its first update on: begin one with its weights, --init-from {folder} and "
            "another --out"
        )


def online_is_not_longer(folder: Path) -> str:
    """What to do instead of making the run in ``folder``, which has been online, longer."""
    return (
        f"{folder} has been online, and such a run is not made longer: finetune it, which is a run of its own from "
        f"where it ended: rlkit finetune {folder} --online.steps N"
    )


def recorded_data(record: Record, folder: Path) -> DataOptions:
    """The data that the run in ``folder`` was told to use."""
    return serialization.decode(DataOptions, record.data.options, f"{folder}/run.json: data.options")
