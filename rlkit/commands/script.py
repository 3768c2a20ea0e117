"""``rlkit.train``, ``rlkit.check`` and ``rlkit.judge``: the commands ``rlkit train``, ``rlkit data check`` and ``rlkit
judge``, for a script or a notebook.

Training goes the same way and writes the same run directory. What differs: data and environment may be objects, errors
are raised, no signal is caught (Ctrl-C is a KeyboardInterrupt, as everywhere in Python), and nothing but the progress
is printed.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
import sys
import tempfile
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from rlkit import ranges
from rlkit.commands import Catalog, collect, export, finetune, keywords
from rlkit.commands import judge as judging
from rlkit.commands.options import ExportOptions, JudgeOptions, TrainOptions
from rlkit.commands.preparation import prepare
from rlkit.commands.train import check_length
from rlkit.datasets import Episodes, Report
from rlkit.evaluation.evaluate import Evaluation
from rlkit.ope.verdict import Judgement
from rlkit.runs import environments, registry, trainer
from rlkit.runs.before import Before
from rlkit.runs.job import Job
from rlkit.runs.lock import RunLock
from rlkit.runs.policy import Policy, load
from rlkit.runs.progress import Display
from rlkit.runs.record import Record, recorded_config
from rlkit.runs.restored import altered, play
from rlkit.runs.run import Position, Run, claim, evaluations, finished
from rlkit.runs.scores import conclude
from rlkit.training.compilation import keep_compiled
from rlkit.types import InputError

GROUP = "rlkit.catalog"  # entry points, one for each field of a Catalog


class Progress(NamedTuple):
    """What ``on_progress`` gets at each line of metrics, and again when an evaluation has been made."""

    updates: int  # so far, of all stages
    of: int  # updates in all
    metrics: Mapping[str, np.ndarray]  # "net/quantity" -> [S], the latest; NaN for seeds that diverged
    returns: np.ndarray | None  # [S, episodes] of the evaluation; None at a line of metrics


def train(
    agent: str,
    data: Any,
    *,
    env: str | Callable[[], gymnasium.Env] | None = None,
    out: str | Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> TrainedRun:
    """Train an agent and evaluate it, as the command ``rlkit train`` does.

    Args:
        agent: a name that ``rlkit train`` lists, or ``module:Config`` for one in a module of your own.
        data: the name of a dataset or a list of names, rlkit.datasets.DataOptions, Episodes, or a list of episodes as
            rlkit.datasets.from_episodes takes it.
        env: the environment to evaluate in: what ``--env`` takes, or a function that makes one. None: the one that the
            data name.
        out: run directory. None: a temporary one, which lives as long as the result; `TrainedRun.save` copies it.
        on_progress: called at each line of metrics and after each evaluation. It takes the place of the display. What
            it raises ends the training; with ``out``, resume="auto" goes on from the last evaluation.
        settings: fields of the agent's Config (beta=3), options of training (steps, seeds, seed, preset, eval_every,
            eval_episodes, ...) and of the data (normalise, reward, ...), as ``rlkit train AGENT --help`` explains them.
            Where an agent's setting has the name of one of the others, as diffusion-policy's steps, it goes in with
            ``config``: a mapping of settings, or an instance of the Config.

    Returns:
        The finished run.

    Raises:
        InputError: for what the caller can correct, in one line.
        RunError: for a run that cannot go on, as when every seed diverged.

    Example:
        run = rlkit.train("iql", "hopper/medium-v0", steps=100_000, seeds=3, beta=3)
        print(run.returns.mean())
        run.save("runs/hopper")
    """
    catalog = installed()
    named_env = env if env is None or isinstance(env, str) else _name_of(env)
    options, episodes = keywords.resolve(agent, data, named_env, settings, catalog)
    if callable(env):
        catalog = catalog._replace(make_env=lambda _: _made(env))
    options = dataclasses.replace(options, out=None if out is None else Path(out))
    return _trained(options, catalog, episodes, on_progress)


def check(data: Any, **settings: Any) -> Report:
    """Read data past the cache and check them, as the command ``rlkit data check`` does and as training will.

    Args:
        data: as `train` takes it.
        settings: of the data (columns, action, repair, holdout, ...), as for `train`.

    Returns:
        The counts of rows that came in and that are used, notes, and warnings of what looks wrong. Printed, it is a
        table of them.

    Raises:
        InputError: for data that cannot be right: one line with the episode, the index and the field.

    Example:
        print(rlkit.check("visits.csv", columns={"episode": "patient"}))
    """
    options, episodes = keywords.resolve_data(data, settings)
    if episodes is None:
        episodes = collect.load(options, installed(), infos=True, use_cache=False)
    return episodes.report


def judge(
    runs: str | Path | Sequence[str | Path],
    data: Any = None,
    *,
    replicates: int = 20,
    gamma: float | None = None,
    sampled: bool = False,
    same_data: bool = False,
    updates: int | None = None,
    survived: float | None = None,
    page: str | Path | None = None,
    doses: bool = False,
    seed: int = 0,
    agent: str | None = None,
) -> Judgement:
    """What policies are worth by recorded episodes alone, as the command ``rlkit judge`` finds it (docs/judging.md).

    Args:
        runs: a run directory, or several, which are ranked.
        data: held-out episodes: the name of a dataset, a path, a list of either, Episodes, or a list of episodes. None:
            those that ``holdout`` kept from the first run's training.
        replicates: fits with other weights of the episodes, of which the interval is made.
        gamma: discount of the rewards to come. None: the agents' own.
        sampled: judge the policy that draws its actions; else the one that takes its likeliest action.
        same_data: judge by the data of the training all the same, which flatters.
        updates: of each fit. None: as many as the command says.
        survived: judge survival in place of the rewards: the share of episodes whose last reward is at least this.
        page: file to write a page for a clinician to, .html.
        doses: on the page a larger action is a stronger treatment.
        seed: of the weights, the fits and what is sampled.
        agent: ``module:Config``, for an agent in a module of your own.

    Returns:
        The verdicts on the runs beside the recorded behaviour. Printed, it is the command's table.

    Raises:
        InputError: for data that training has seen, or that do not fit, and for agents that cannot be judged.

    Example:
        judged = rlkit.judge(["runs/dose", "runs/bc"])
        print(judged)
        judged.verdicts[0].gain.low > 0  # better than what was recorded
    """
    names, in_memory = keywords.recorded(data)
    given = keywords.judging(
        {
            "replicates": replicates,
            "gamma": gamma,
            "sampled": sampled,
            "same_data": same_data,
            "updates": updates,
            "survived": survived,
            "doses": doses,
            "seed": seed,
            "agent": agent,
        }
    )
    options = JudgeOptions(
        runs=tuple(map(Path, [runs] if isinstance(runs, str | Path) else runs)),
        dataset=names,
        page=None if page is None else Path(page),
        **given,
    )
    ranges.check(options, "judge")
    return judging.judgement(options, installed(), in_memory)


class TrainedRun:
    """A finished run, which `rlkit.train` returns. ``folder`` is its run directory.

    env: name of its environment, where the caller gave one. episodes: its data, where they were in memory; they stay
    there as long as this object does, for `finetune`.
    """

    def __init__(
        self,
        folder: Path,
        agent: str,
        catalog: Catalog,
        temporary: str | None = None,
        env: str | None = None,
        episodes: Episodes | None = None,
    ):
        self.folder = folder
        self._typed = agent if registry.is_typed(agent) else None
        self._catalog = catalog
        self._env = env
        self._episodes = episodes
        if temporary is not None:
            weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)

    def __repr__(self) -> str:
        record = Record.read(self.folder)
        count = len(record.seeds)
        seeds = "1 seed" if count == 1 else f"{count} seeds"
        shown = f"{record.agent} on {record.data.name}, {record.steps} updates, {seeds}"
        return f"TrainedRun({shown}, folder={str(self.folder)!r})"

    @property
    def returns(self) -> np.ndarray | None:
        """[S, episodes] undiscounted returns of the last evaluation, NaN for seeds that diverged; of an agent with
        several goals those for the first. None where there was no evaluation."""
        evaluated = evaluations(self.folder)
        return evaluated[-1].returns if evaluated else None

    def policy(
        self,
        *,
        member: int | None = None,
        greedy: bool = True,
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
    ) -> Policy:
        """The trained policy; arguments and errors are those of `rlkit.load`.

        Example:
            action = run.policy().act(obs)
        """
        return load(self.folder, member=member, greedy=greedy, seed=seed, config=config, agent=self._typed)

    def evaluate(
        self, episodes: int | None = None, *, seed: int | None = None, config: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """[K, episodes] returns of the K seeds that did not diverge, played anew; for the agent's first goal.

        Args:
            episodes: of each seed; as in training by default.
            seed: episode i is reset with seed + i; as in training by default.
            config: settings of the agent to act with in place of the recorded ones, as for `policy`.

        Raises:
            InputError: if the run has no environment.
            RunError: if the environment fails.

        Example:
            run.evaluate(episodes=100).mean()
        """
        return next(iter(self.evaluate_goals(episodes, seed=seed, config=config).values()))

    def evaluate_goals(
        self, episodes: int | None = None, *, seed: int | None = None, config: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Label of each goal -> [K, episodes] returns, of an agent that can be asked for several things. They are
        played side by side, all from the same starts. Arguments and errors are those of `evaluate`.

        Example:
            run.evaluate_goals(config={"targets": (3600.0, 1800.0)})["1800"].mean()
        """
        record = Record.read(self.folder)
        acts_with = altered(recorded_config(record, self._typed), config or {})
        make_env = functools.partial(environments.make, known=self._catalog.make_env)
        return play(self.folder, record, make_env, acts_with, episodes, seed).returns

    def finetune(
        self,
        steps: int,
        *,
        out: str | Path | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        **settings: Any,
    ) -> TrainedRun:
        """Go on online as the command `rlkit finetune` does: collect steps in the run's environment, and learn from
        them and from its data. This run stays as it is.

        Args:
            steps: to collect, of each seed; episodes with unit="episode".
            out, on_progress: as for `rlkit.train`. Updates are counted on from those of this run, and its last
                evaluation is made again as the first one.
            settings: how to collect (share, every, updates, warmup, ...: docs/online.md), which are the agent's own by
                default; settings of its Config from here on; eval_every, eval_episodes, eval_seed, log_every, q_limit,
                resume, wandb.

        Returns:
            The run with both phases.

        Raises:
            InputError: for what the caller can correct, as where the run has no environment.
            RunError: for a run that cannot go on.

        Example:
            online = run.finetune(20_000, share=0.5)
        """
        asked = keywords.finetuning(self.folder, {"steps": steps, **settings}, self._env, self._typed)
        options, before = finetune.resolve(asked)
        options = dataclasses.replace(options, out=None if out is None else Path(out))
        return _trained(options, self._catalog, self._episodes, on_progress, before)

    def judge(self, data: Any = None, **options: Any) -> Judgement:
        """What the policy is worth by recorded episodes alone; arguments and errors are those of `rlkit.judge`.

        Where the training data were in memory, they are given again: those that ``holdout`` kept are found in them.

        Example:
            print(run.judge())
        """
        if data is None and self._episodes is not None:
            raise InputError("the data of the training were in memory: give them to judge once more")
        return judge(self.folder, data, agent=self._typed, **options)

    def export(
        self,
        folder: str | Path,
        *,
        member: int | None = None,
        features: str | Path | None = None,
        formats: Sequence[str] = ("numpy",),
    ) -> Path:
        """Write the policy to the new ``folder`` as `rlkit export` does, for use elsewhere; returns ``folder``.

        Args:
            folder: it must not be there yet.
            member: which seed; the first that did not diverge by default.
            features: file with a name and a unit for each number of an observation.
            formats: of numpy, stablehlo and onnx, see docs/export.md.

        Raises:
            InputError: as the command does.
            RunError: if what was written acts otherwise than the run. Nothing is there then.

        Example:
            run.export("pump-policy", features="pump.csv")
        """
        target = Path(folder)
        names = None if features is None else Path(features)
        options = ExportOptions(self.folder, target, tuple(formats), member, names, self._typed)
        export.run(options, self._catalog)
        return target

    def save(self, folder: str | Path) -> Path:
        """Copy the run directory to ``folder``, where the commands and `rlkit.load` find it; returns ``folder``.

        Raises InputError if something is there already, or if it cannot be written.

        Example:
            run.save("runs/hopper")
        """
        target = Path(folder)
        claim(target, "never")
        try:
            shutil.copytree(self.folder, target, dirs_exist_ok=True)
        except OSError as error:
            raise InputError(f"{target} cannot be written to ({error.strerror}): choose another folder") from error
        return target


def installed() -> Catalog:
    """The agents, environments and datasets that are installed with rlkit, found by their entry points.

    Raises InputError if there are none.
    """
    parts = {point.name: point.load() for point in metadata.entry_points(group=GROUP)}
    if set(parts) != set(Catalog._fields):
        raise InputError("rlkit is installed without its list of agents: install it again, with pip install -e .")
    return Catalog(**parts)


# --- environments ---


def _name_of(make_env: Any) -> str:
    """What a run's record calls an environment that a function makes: module:function, as ``--env`` takes it, or words
    where nothing in its module has that name."""
    if not callable(make_env):
        raise InputError(
            f"env: a {type(make_env).__name__} makes no environment: give an id, or a function, lambda: env"
        )
    function = make_env.func if isinstance(make_env, functools.partial) else make_env
    name = getattr(function, "__qualname__", type(function).__name__)
    module = function.__module__
    if getattr(sys.modules.get(module), name, None) is make_env:
        return f"{module}:{name}"
    return f"{name} in {module}"


def _made(make_env: Callable[[], gymnasium.Env]) -> gymnasium.Env:
    env = make_env()
    if not isinstance(env, gymnasium.Env):
        raise InputError(f"env: {_name_of(make_env)} returned a {type(env).__name__}, not a gymnasium.Env")
    return env


# --- training ---


def _trained(
    options: TrainOptions,
    catalog: Catalog,
    episodes: Episodes | None,
    on_progress: Callable[[Progress], None] | None,
    before: Before | None = None,
) -> TrainedRun:
    """Train in ``options.out``, or else in a temporary folder, which goes when the result does, or the training fails.

    before: another run, from whose end this one goes on.
    """
    keep_compiled()
    temporary = None
    folder = options.out
    if folder is None:
        temporary = tempfile.mkdtemp(prefix="rlkit-")
        folder = Path(temporary) / "run"
    try:
        _train(dataclasses.replace(options, out=folder), catalog, episodes, on_progress, before)
    except BaseException:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    return TrainedRun(folder, options.agent, catalog, temporary, options.data.env, episodes)


def _train(
    options: TrainOptions,
    catalog: Catalog,
    episodes: Episodes | None,
    on_progress: Callable[[Progress], None] | None,
    before: Before | None,
) -> None:
    """As `rlkit.commands.train.run`, in a process that is the caller's."""
    folder = options.out
    claim(folder, options.resume)
    faults = []
    with RunLock(folder):
        job = prepare(options, catalog, before, episodes=episodes)
        check_length(job, folder, options.config)
        with _ReportingRun(job, folder, on_progress, wandb=options.wandb) as opened:
            if not finished(folder):
                shown_by = Display if on_progress is None else _Silent
                faults = trainer.train(job, opened, _Unguarded(), options.q_limit, shown_by)
        conclude(folder, show=False)
    for fault in faults:
        warnings.warn(f"{folder}: {fault}", RuntimeWarning, stacklevel=4)


class _Unguarded:
    """Stands in for a Guard: nothing is caught, nothing is watched, and nobody but the caller ends the process."""

    code = None

    def enter(self, phase: str) -> None:
        pass

    def beat(self) -> None:
        pass


class _Silent(Display):
    """Stands in for the display where ``on_progress`` shows how far the run is."""

    def __init__(self, total: int, done: int = 0):
        super().__init__(total, done)
        self._bar = None

    def say(self, text: str) -> None:
        pass


class _ReportingRun(Run):
    """A run that tells what it logs."""

    def __init__(self, job: Job, folder: Path, on_progress: Callable[[Progress], None] | None, *, wandb: bool = False):
        super().__init__(folder, job.record, wandb=wandb, sums=job.sums)
        self._on_progress = on_progress
        self._updates = sum(updates for _, updates in job.record.stages)
        self._latest: Mapping[str, np.ndarray] = {}

    def metrics(self, position: Position, metrics: Mapping[str, np.ndarray]) -> None:
        super().metrics(position, metrics)
        self._latest = {name: np.asarray(values) for name, values in metrics.items()}
        self._tell(position, None)

    def evaluation(self, position: Position, played: Evaluation, goals: Any = ("",)) -> None:
        super().evaluation(position, played, goals)
        self._tell(position, played.returns[0])

    def _tell(self, position: Position, returns: np.ndarray | None) -> None:
        if self._on_progress is not None:
            self._on_progress(Progress(position.updates, self._updates, self._latest, returns))
