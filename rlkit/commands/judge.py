"""``rlkit judge RUN ...``: what policies are worth, by recorded episodes alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlkit import datasets, messages, ranges
from rlkit.commands import Catalog, collect
from rlkit.commands.options import JudgeOptions
from rlkit.datasets import Episodes, Normaliser, holdout, spaces, sums
from rlkit.datasets.environment import fit
from rlkit.ope import judged, verdict
from rlkit.ope.fqe import Config, Fits
from rlkit.ope.held import hold
from rlkit.ope.verdict import Judgement
from rlkit.ranges import Seed
from rlkit.report import clinician
from rlkit.report.clinician import Judged
from rlkit.runs import serialization
from rlkit.runs.progress import Waiting
from rlkit.runs.record import Record, recorded_config, recorded_data
from rlkit.runs.restored import restore
from rlkit.runs.run import checkpoint_numbers, named_runs
from rlkit.training.compilation import keep_compiled
from rlkit.types import InputError

USUAL_GAMMA = 0.99  # where no agent has a discount of its own


def run(options: JudgeOptions, catalog: Catalog) -> int:
    """Print what `judgement` finds. Returns 0."""
    print(judgement(options, catalog))
    if options.page is not None:
        print(f"page: {options.page}")
    return 0


def judgement(options: JudgeOptions, catalog: Catalog, given: Any = None) -> Judgement:
    """Verdicts on the runs, by the data that ``options`` name, or by those that are ``given``: Episodes, or a list of
    episodes, which is read as the data of the first run were. The page is written, if one is asked for.

    Raises InputError for data that training has seen, unless that is asked for; for data that a policy does not fit;
    for agents whose actions do not follow from one observation; and for what cannot be read or written.
    """
    if not options.runs:
        raise InputError("judge: name the run directories: rlkit judge RUN RUN ...")
    options = dataclasses.replace(options, runs=tuple(_runs(options.runs)))
    last_seed = options.seed + options.replicates - 1
    if last_seed not in ranges.find(Seed):
        raise InputError(f"--replicates {options.replicates}: the last seed, {last_seed}, must be {ranges.find(Seed)}")
    _check_page(options)
    keep_compiled()
    records = [Record.read(folder) for folder in options.runs]
    configs = [recorded_config(record, options.agent) for record in records]
    gamma = _gamma(options, configs)
    episodes, seen = _episodes(options, records, catalog, given)
    runs = []
    for folder, record, config in zip(options.runs, records, configs, strict=True):
        with Waiting(f"judging {folder}"):
            runs.append(_judge(options, folder, record, config, episodes, gamma))

    # --- in words, and on the page ---
    heading = f"{_how_held_out(seen, len(episodes.starts))}: {episodes.name}"
    if options.page is not None:
        _write(options.page, clinician.page(runs, gamma, heading=heading, doses=options.doses))
    held = runs[0].held
    verdicts = tuple(one.verdict for one in runs)
    return Judgement(
        data=episodes.name,
        held_out=None if seen is None else seen == 0,
        verdicts=verdicts,
        observed=held.observed(gamma),
        text=f"judged {heading}\n{verdict.text(verdicts, held, gamma)}",
    )


def _runs(folders: Sequence[Path]) -> Iterator[Path]:
    """Each run once. Of a folder that holds runs those that have not come to a checkpoint are left out, with a line."""
    known = set()
    for folder, is_named in named_runs(folders):
        if folder.resolve() in known:
            continue
        known.add(folder.resolve())
        if is_named or checkpoint_numbers(folder / "checkpoints"):
            yield folder
        else:
            messages.tell(f"{folder} is left out: it has no checkpoint yet")


def _how_held_out(seen: int | None, episodes: int) -> str:
    """What is known of the data: ``seen`` of the ``episodes`` were trained on, None where that is not known."""
    if seen is None:
        return "on data of which it is not known whether training saw them"
    if seen == 0:
        return "on held-out data"
    if seen == episodes:
        return "ON THE DATA OF ITS TRAINING (--same-data), so too well"
    return f"ON DATA OF WHICH TRAINING SAW {seen:,} OF {episodes:,} EPISODES (--same-data), so too well"


def _check_page(options: JudgeOptions) -> None:
    """InputError where no page can come of --page, before anything is fitted."""
    if options.page is None:
        if options.doses:
            raise InputError("--doses is of the page: name its file with --page FILE.html")
        return
    if options.page.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--page {options.page}: end the name in .html")
    if options.page.is_dir():
        raise InputError(f"--page {options.page}: it is a folder; name a file in it")
    try:
        options.page.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--page {options.page}: its folder cannot be made ({error.strerror})") from error


def _write(path: Path, text: str) -> None:
    try:
        serialization.write_text(path, text)
    except OSError as error:
        raise InputError(f"--page {path}: cannot be written ({error.strerror})") from error


def _gamma(options: JudgeOptions, configs: Sequence[Any]) -> float:
    """The discount that is judged with. Whether a patient survives is not discounted."""
    if options.survived is not None:
        if options.gamma not in (None, 1):
            raise InputError(f"--gamma {options.gamma:g}: survival is not discounted, so leave it out with --survived")
        return 1.0
    if options.gamma is not None:
        return options.gamma
    return _own_gamma(options.runs, configs)


def _judge(
    options: JudgeOptions, folder: Path, record: Record, config: Any, episodes: Episodes, gamma: float
) -> Judged:
    """One run, by the data as it would see them."""
    # --- the policy ---
    restored = restore(folder, record, config)
    state = jax.tree.map(lambda leaf: leaf[0], restored.state)
    judged.check_can_be_judged(restored.agent, state, record.agent)
    seed = record.seeds[restored.members[0]]

    # --- the data in its form ---
    fitted, differences = fit(
        episodes, spaces.from_json(record.data.observation_space), spaces.from_json(record.data.action_space)
    )
    if differences:
        listed = "; ".join(differences).replace("the environment's", "the policy's")
        raise InputError(f"{folder} cannot be judged by {episodes.name}: {listed}")
    normaliser = Normaliser.from_json(record.normaliser)
    held = hold(fitted, normaliser, options.survived)
    policy = judged.actions_of(
        restored.agent,
        state,
        normaliser,
        fitted.obs,
        name=record.agent,
        greedy=not options.sampled,
        seed=options.seed,
    )

    form = "sampled" if options.sampled else "greedy"
    found = verdict.judge(
        held,
        record.spec,
        policy,
        Config(gamma=gamma),
        Fits(options.replicates, options.seed, options.updates),
        title=f"{record.agent}, {form} ({folder}, seed {seed})",
    )
    return Judged(held, policy, found)


def _episodes(
    options: JudgeOptions, records: Sequence[Record], catalog: Catalog, given: Any = None
) -> tuple[Episodes, int | None]:
    """The data to judge by, and how many of their episodes a run's training has seen, None where that is not known.
    InputError where it has seen any, unasked, or where the data have changed since.

    They are ``given``, or named with --dataset, or else those of the first run's training. Of the last, and where the
    others are those that it was split from, only the episodes are taken that --holdout kept from it.
    """
    told = recorded_data(records[0], options.runs[0])
    if options.dataset:
        told = dataclasses.replace(told, dataset=options.dataset)
    if options.data_root is not None:
        told = dataclasses.replace(told, data_root=options.data_root)
    if isinstance(given, Episodes):
        whole = given
    elif given is not None:
        whole = datasets.from_episodes(given, repair=told.repair, action=told.action)
    elif any(name.startswith(f"{collect.RANDOM}:") for name in told.names):
        raise InputError("judge: random steps are played anew, not recorded: name recorded episodes with --dataset")
    else:
        whole = collect.load(dataclasses.replace(told, holdout=0.0, label_share=1.0), catalog, infos=True)
    trained_on = records[0].data.fingerprint
    episodes = holdout.held_out(whole, told, trained_on) or whole
    is_named = bool(options.dataset) or given is not None
    if not is_named and episodes is whole and whole.fingerprint != trained_on:
        raise InputError(
            f"{whole.name} has changed since {options.runs[0]} was trained on it, so what training has not seen is not "
            "known: name held-out data with --dataset"
        )
    counts = [_seen(record, folder, whole, episodes) for folder, record in zip(options.runs, records, strict=True)]
    known = [count for count in counts if count is not None]
    most = max(known, default=0)
    if most and not options.same_data:
        total = len(episodes.starts)
        which = episodes.name if most == total else f"{most:,} of the {total:,} episodes of {episodes.name}"
        seen = "is what" if most == total else "are what"
        raise InputError(
            f"{which} {seen} {options.runs[counts.index(most)]} was trained on, where a policy looks better than it "
            "is: name held-out data with --dataset, train with --holdout, or say --same-data"
        )
    return episodes, None if not most and len(known) < len(counts) else most


def _seen(record: Record, folder: Path, whole: Episodes, episodes: Episodes) -> int | None:
    """How many of the ``episodes``, which are ``whole`` or a part of it, the training of a run has seen; None where
    that is not known."""
    if record.data.fingerprint in (whole.fingerprint, episodes.fingerprint):
        return len(episodes.starts)
    told = recorded_data(record, folder)
    own = holdout.held_out(whole, told, record.data.fingerprint)
    if own is None:
        trained_on = sums.read(folder)
        if trained_on is None:
            return None
        episodes, _ = fit(
            episodes, spaces.from_json(record.data.observation_space), spaces.from_json(record.data.action_space)
        )
    elif own.fingerprint == episodes.fingerprint:  # an episode that happens to equal one of training was not drawn
        return 0
    else:
        trained_on = sums.of(holdout.training(whole, told))
    return int(np.isin(sums.of(episodes), trained_on).sum())


def _own_gamma(folders: Sequence[Path], configs: Sequence[Any]) -> float:
    """The discount that the agents learnt with. InputError where they differ."""
    gammas = {}
    for folder, config in zip(folders, configs, strict=True):
        gamma = _gamma_of(config)
        if gamma is not None:
            gammas.setdefault(gamma, folder)
    if len(gammas) > 1:
        listed = ", ".join(f"{gamma:g} in {folder}" for gamma, folder in gammas.items())
        raise InputError(f"the runs learnt with different discounts ({listed}): say with --gamma which one counts")
    return next(iter(gammas), USUAL_GAMMA)


def _gamma_of(config: Any) -> float | None:
    """The field ``gamma`` of a Config, or of a Config inside it."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "gamma":
            return float(value)
        if dataclasses.is_dataclass(value):
            inner = _gamma_of(value)
            if inner is not None:
                return inner
    return None
