"""Runs read for a report: those of one method pooled, one panel for each dataset, and what differs between them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlkit.report import settings
from rlkit.runs.record import Record
from rlkit.runs.run import Evaluated, Position, diverged, evaluations_by_goal, logged_metrics, named_runs
from rlkit.runs.scores import sound_evaluations
from rlkit.types import InputError

Metrics = list[tuple[Position, dict[str, np.ndarray]]]


class Entry(NamedTuple):
    """One method on one dataset: a run, or several that differ in their seeds alone."""

    label: str  # the agent's name, then the settings that tell it from the others: "sac-rnd, beta 3"
    folders: tuple[Path, ...]
    record: Record  # of the first folder
    by_goal: dict[str, list[Evaluated]]  # label of a goal -> its evaluations, of the sound seeds of all folders; may be
    #   empty. The goal that comes first is the score
    seeds: int  # that were trained
    diverged: int  # of them, which no evaluation in ``by_goal`` has
    metrics: Metrics  # at each position that all folders logged: "net/quantity" -> [S] of all seeds trained, NaN from
    #   where one diverged


class Panel(NamedTuple):
    """What was run on one dataset."""

    name: str  # of the dataset
    record: Record  # for its data and its reference returns
    entries: list[Entry]

    @property
    def data(self) -> dict[str, Record]:
        """A name -> a record of the data, one for each fingerprint: "data", or where there are several "data of bc",
        with the methods that were trained on them."""
        by_fingerprint: dict[str, list[Entry]] = {}
        for entry in self.entries:
            by_fingerprint.setdefault(entry.record.data.fingerprint, []).append(entry)
        if len(by_fingerprint) == 1:
            return {"data": self.record}
        named = {}
        for entries in by_fingerprint.values():
            labels = ", ".join(entry.label for entry in entries)
            named[f"data of {labels}"] = entries[0].record
        return named


class Comparison(NamedTuple):
    """Everything that a report shows. Entries with the same label on several datasets are the same method."""

    panels: list[Panel]  # one for each dataset
    differences: dict[str, list[str]]  # setting -> its value in each entry, panel by panel; "" where it has none. Only
    #   settings of which two entries have other values
    notes: list[str]  # what was left out or pooled, and why

    @property
    def entries(self) -> list[Entry]:
        """Of all panels, in the order of ``differences``."""
        return [entry for panel in self.panels for entry in panel.entries]


def read(folders: Sequence[Path]) -> Comparison:
    """The runs in ``folders``: each is a run directory, or a folder below which all runs are taken.

    Raises:
        InputError: for a folder that is missing or has no run below it, or for a run that cannot be read. One below a
            folder is left out with a note, as long as there are others.

    Example:
        comparison = read([Path("runs/hopper"), Path("runs/sweep")])
    """
    notes: list[str] = []
    by_dataset: dict[str, list[_Run]] = {}
    for run in _runs(folders, notes):
        by_dataset.setdefault(run.record.data.name, []).append(run)
    if not by_dataset:
        raise InputError(f"no run can be read: {notes[0]}")
    pools = {name: _pools(runs, notes) for name, runs in by_dataset.items()}
    told = [[_settings(pool) for pool in of_dataset] for of_dataset in pools.values()]
    panels = []
    for (name, of_dataset), names in zip(pools.items(), settings.labels(told), strict=True):
        labels = _told_apart(names, of_dataset)
        entries = [_entry(label, pool) for label, pool in zip(labels, of_dataset, strict=True)]
        records = [entry.record for entry in entries]
        with_scores = [record for record in records if record.reference is not None]
        panels.append(Panel(name, (with_scores or records)[0], entries))
    notes += _pooled(panels)
    for panel, of_dataset in zip(panels, pools.values(), strict=True):
        notes += _panel_notes(panel, of_dataset)
    differences = settings.differences([one for of_dataset in told for one in of_dataset])
    notes += _other_settings(panels, told)
    return Comparison(panels, differences, notes)


# --- reading ---


class _Run(NamedTuple):
    """A run as its folder has it."""

    folder: Path
    record: Record
    by_goal: dict[str, list[Evaluated]]  # of its sound seeds
    lost: int  # seeds that diverged
    metrics: Metrics

    @property
    def is_lost(self) -> bool:
        """Whether every seed diverged."""
        return self.lost == len(self.record.seeds)

    @property
    def last(self) -> Evaluated | None:
        """The evaluation that is its score; None where there is none."""
        evaluated = next(iter(self.by_goal.values()), [])
        return evaluated[-1] if evaluated else None

    @property
    def stand(self) -> tuple[Any, ...]:
        """What runs must share to be pooled besides their settings: how far they were evaluated, and from where."""
        if self.last is None:
            return ()
        return (self.last.position, *self.last.starts)


def _runs(folders: Sequence[Path], notes: list[str]) -> Iterator[_Run]:
    known: set[Path] = set()
    for folder, is_named in named_runs(folders):
        if folder.resolve() in known:
            notes.append(f"{folder} was named twice, and counts once")
            continue
        known.add(folder.resolve())
        try:
            yield _run(folder)
        except InputError as error:
            if is_named:
                raise
            notes.append(f"left out, since it cannot be read: {error}")


def _run(folder: Path) -> _Run:
    record = Record.read(folder)
    metrics = logged_metrics(folder)
    seeds = len(record.seeds)
    by_goal = sound_evaluations(folder)
    if by_goal:
        sound = max(len(evaluated[-1].returns) for evaluated in by_goal.values())
        lost = seeds - sound
    elif evaluations_by_goal(folder):
        lost = seeds
    else:
        lost = len(diverged(folder))
    return _Run(folder, record, by_goal, lost, metrics)


# --- pooling ---


def _pools(runs: Sequence[_Run], notes: list[str]) -> list[list[_Run]]:
    """The runs on one dataset, those together that differ in their seeds alone."""
    alike: dict[str, list[_Run]] = {}
    for run in runs:
        alike.setdefault(_identity(run.record), []).append(run)
    pools = []
    for group in alike.values():
        for stood in _by_stand(group):
            pools += _without_equal_seeds(stood, notes)
    order = [run.folder for run in runs]
    return sorted(pools, key=lambda pool: order.index(pool[0].folder))


def _identity(record: Record) -> str:
    """What two runs of one method share: all but the seeds, and how often was logged and evaluated."""
    identity = record.identity()
    for name in ("seeds", "log_every", "eval_every"):
        identity.pop(name)
    if record.parent is not None and not record.parent.begins:
        identity["parent"].pop("manifest")  # it goes on with the parent's own settings, but from other seeds
    return json.dumps(identity, sort_keys=True)


def _by_stand(runs: Sequence[_Run]) -> list[list[_Run]]:
    """Runs of one method that were evaluated as far and from the same starts. Those of which every seed diverged belong
    to the ones that came furthest: they count among their seeds."""
    groups: dict[tuple[Any, ...], list[_Run]] = {}
    for run in runs:
        if not run.is_lost:
            groups.setdefault(run.stand, []).append(run)
    lost = [run for run in runs if run.is_lost]
    furthest = max(groups, key=lambda stand: stand[:1], default=())
    if lost:
        together = {run.folder for run in [*groups.get(furthest, []), *lost]}
        groups[furthest] = [run for run in runs if run.folder in together]
    return list(groups.values())


def _without_equal_seeds(runs: Sequence[_Run], notes: list[str]) -> list[list[_Run]]:
    """``runs`` in pools none of which has a seed twice: it would count as two, and is one."""
    pools: list[list[_Run]] = []
    for run in runs:
        for pool in pools:
            if not any(set(run.record.seeds) & set(other.record.seeds) for other in pool):
                pool.append(run)
                break
        else:
            if pools:
                first = pools[0][0]
                notes.append(f"{run.folder} is not pooled with {first.folder}: they have seeds in common")
            pools.append([run])
    return pools


def _entry(label: str, pool: Sequence[_Run]) -> Entry:
    return Entry(
        label=label,
        folders=tuple(run.folder for run in pool),
        record=pool[0].record,
        by_goal=_pooled_evaluations(pool),
        seeds=sum(len(run.record.seeds) for run in pool),
        diverged=sum(run.lost for run in pool),
        metrics=_pooled_metrics(pool),
    )


def _pooled_evaluations(pool: Sequence[_Run]) -> dict[str, list[Evaluated]]:
    """The evaluations that all runs of the pool have, at the same position and from the same starts."""
    sound = [run.by_goal for run in pool if run.by_goal]
    if len(sound) <= 1:
        return sound[0] if sound else {}
    first = sound[0]
    pooled = {}
    for goal in first:
        if not all(goal in by_goal for by_goal in sound):
            continue
        by_place = [_by_place(by_goal[goal]) for by_goal in sound]
        places = [place for place in by_place[0] if all(place in of_run for of_run in by_place)]
        if places:
            pooled[goal] = [_joined([of_run[place] for of_run in by_place]) for place in places]
    return pooled


def _by_place(evaluated: Sequence[Evaluated]) -> dict[Any, Evaluated]:
    return {(one.position, one.starts): one for one in evaluated}


def _joined(evaluated: Sequence[Evaluated]) -> Evaluated:
    """One evaluation of the seeds of several."""
    return evaluated[0]._replace(
        returns=np.concatenate([one.returns for one in evaluated]),
        lengths=np.concatenate([one.lengths for one in evaluated]),
        success=np.concatenate([one.success for one in evaluated]),
    )


def _pooled_metrics(pool: Sequence[_Run]) -> Metrics:
    """The metrics at the positions that all runs have. One of which every seed diverged ends early, with NaN then."""
    going = [dict(run.metrics) for run in pool if not run.is_lost] or [dict(pool[0].metrics)]
    logged = [dict(run.metrics) for run in pool]
    pooled = []
    for position in going[0]:
        at = [of_run.get(position) for of_run in going]
        if any(values is None for values in at):
            continue
        names = [name for name in at[0] if all(name in values for values in at)]
        joined = {}
        for name in names:
            joined[name] = np.concatenate(
                [_of_seeds(of_run.get(position, {}), name, run) for of_run, run in zip(logged, pool, strict=True)]
            )
        pooled.append((position, joined))
    return pooled


def _of_seeds(values: Mapping[str, np.ndarray], name: str, run: _Run) -> np.ndarray:
    missing = np.full(len(run.record.seeds), np.nan)
    return values.get(name, missing)


# --- words ---


def _settings(pool: Sequence[_Run]) -> dict[str, str]:
    """The settings of the runs of a pool; where they have other values, all of these."""
    told = [settings.settings(run.record) for run in pool]
    merged = {}
    for name in dict.fromkeys(name for one in told for name in one):
        values = dict.fromkeys(one[name] for one in told if name in one)
        merged[name] = " / ".join(values)
    seeds = [seed for run in pool for seed in run.record.seeds]
    merged["seeds"] = " ".join(map(str, sorted(seeds)))
    return merged


def _told_apart(names: Sequence[str], pools: Sequence[Sequence[_Run]]) -> list[str]:
    """``names``, with how far the runs came or else their folder where a name is there twice."""
    furthest = [_last_update(pool) for pool in pools]
    with_updates = []
    for name, update in zip(names, furthest, strict=True):
        others = [other for twin, other in zip(names, furthest, strict=True) if twin == name]
        tells = None not in others and others.count(update) < len(others)
        with_updates.append(f"{name}, at update {update:,}" if tells else name)
    labels = []
    for name, pool in zip(with_updates, pools, strict=True):
        is_unique = with_updates.count(name) == 1
        labels.append(name if is_unique else f"{name} ({pool[0].folder})")
    return labels


def _last_update(pool: Sequence[_Run]) -> int | None:
    """Updates of all stages at the last evaluation."""
    last = _last(pool)
    return None if last is None else last.position.updates


def _last(pool: Sequence[_Run]) -> Evaluated | None:
    return next((run.last for run in pool if run.last is not None), None)


def _pooled(panels: Sequence[Panel]) -> list[str]:
    pooled = []
    for panel in panels:
        for entry in panel.entries:
            if len(entry.folders) > 1:
                pooled.append(f"{entry.label} on {panel.name} ({len(entry.folders)} runs)")
    return [f"pooled, since they differ in their seeds alone: {', '.join(pooled)}"] if pooled else []


def _panel_notes(panel: Panel, pools: Sequence[Sequence[_Run]]) -> list[str]:
    notes = []
    for entry, pool in zip(panel.entries, pools, strict=True):
        for text in _entry_notes(entry, pool):
            notes.append(f"{entry.label} on {panel.name}: {text}")
    notes += [f"{panel.name}: {text}" for text in _unequal(panel, pools)]
    return notes


def _entry_notes(entry: Entry, pool: Sequence[_Run]) -> Iterator[str]:
    record = entry.record
    if entry.diverged:
        lost = "every seed" if entry.diverged == entry.seeds else f"{entry.diverged} of {entry.seeds} seeds"
        yield f"{lost} diverged; no score counts them"
    most = max(sum(map(len, run.by_goal.values())) for run in pool)
    kept = sum(map(len, entry.by_goal.values()))
    if kept < most:
        yield f"{most - kept} evaluations are left out, which not all of its runs have"
    last = _last(pool)
    if last is None and entry.diverged < entry.seeds:
        if record.evaluation is None:
            judge = shlex.join(["rlkit", "judge", *map(str, entry.folders)])
            yield f"no evaluations: it has no environment; {judge} estimates from the data what it is worth"
        else:
            yield "no evaluations: none has been made yet"
    updates = sum(steps for _, steps in record.stages)
    if last is not None and last.position.updates < updates:
        yield f"not at its end: its last evaluation is after {last.position.updates:,} of {updates:,} updates"


def _unequal(panel: Panel, pools: Sequence[Sequence[_Run]]) -> Iterator[str]:
    """In what the methods of a panel were not treated alike."""
    by_steps: dict[str, list[str]] = {}
    by_starts: dict[str, list[str]] = {}
    fingerprints = set()
    for entry, pool in zip(panel.entries, pools, strict=True):
        fingerprints.add(entry.record.data.fingerprint)
        by_steps.setdefault(f"{entry.record.steps:,}", []).append(entry.label)
        last = _last(pool)
        if last is not None:
            seed, episodes = last.starts
            where = "" if seed is None else f" from seed {seed:,}"
            by_starts.setdefault(f"{episodes} episodes{where}", []).append(entry.label)
    if len(by_steps) > 1:
        yield f"other numbers of updates: {_listed(by_steps)}"
    if len(by_starts) > 1:
        yield f"evaluated from other starts: {_listed(by_starts)}"
    if len(fingerprints) > 1:
        yield "the methods were not trained on the same rows of it: their fingerprints differ"


def _listed(groups: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{what} ({', '.join(labels)})" for what, labels in groups.items())


def _other_settings(panels: Sequence[Panel], told: Sequence[Sequence[Mapping[str, str]]]) -> Iterator[str]:
    """The methods whose own settings are others from one dataset to the next."""
    by_label: dict[str, list[Mapping[str, str]]] = {}
    for panel, of_panel in zip(panels, told, strict=True):
        for entry, one in zip(panel.entries, of_panel, strict=True):
            by_label.setdefault(entry.label, []).append(one)
    for label, of_label in by_label.items():
        names = [name for name in settings.differences(of_label) if settings.is_of_method(name, other_data=True)]
        if names:
            yield f"{label} has other settings from one dataset to the next: {', '.join(names)}"
