"""``rlkit export RUN``: the policy of a run in a folder of its own, for machines without jax."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from gymnasium.spaces import Discrete, Space

from rlkit import datasets, messages
from rlkit.commands import Catalog
from rlkit.commands.options import ExportOptions
from rlkit.datasets import Episodes
from rlkit.export import contract, features, folder, sample
from rlkit.export.agreement import TOLERANCE
from rlkit.export.sample import Sample
from rlkit.runs import environments
from rlkit.runs import policy as policies
from rlkit.runs.policy import Policy
from rlkit.runs.record import Record, recorded_data
from rlkit.runs.run import evaluations
from rlkit.training.compilation import keep_compiled
from rlkit.types import InputError


def run(options: ExportOptions, catalog: Catalog) -> int:
    """Write the folder and say how closely it agrees with the run.

    Raises InputError for what the user can correct, RunError if the exported policy acts otherwise than the run's own.
    """
    if options.out.exists():  # before anything takes time
        raise InputError(f"{options.out} is there already: choose another --out")
    keep_compiled()
    record = Record.read(options.run)
    policy = policies.load(options.run, member=options.member, agent=options.agent)
    named = features.of_run(
        policy.observation_space,
        policy.action_space,
        policy.observation_names,
        policy.action_names,
        options.features,
    )
    drawn = _sample(policy, record, options.run, catalog)
    evaluated = evaluations(options.run) if (options.run / "metrics.jsonl").exists() else []
    said = contract.describe(policy, record, named, drawn, evaluated[-1] if evaluated else None)
    differences = folder.write(policy, options.out, said, drawn, options.format)

    # --- what was written, and what its user must know ---
    files = sorted(path.name for path in options.out.iterdir())
    print(f"{options.out}: {record.agent}, member {policy.about['member']}: {', '.join(files)}")
    for name, difference in differences.items():
        rounding = _rounding(policy.action_space, difference)
        print(
            f"{name}: tried in a process of its own on observations from {drawn.source}: it acts as the run "
            f"does{rounding}"
        )
    if not named.observation.names:
        print("its observations have no names, so nobody can check their order: --features FILE gives names and units")
    return 0


def _rounding(space: Space, difference: float) -> str:
    """How far amounts are from the run's own, to follow "it acts as the run does"; choices are the same ones."""
    if isinstance(space, Discrete):
        return ""
    return f", but for {difference:.1g} of half the range of an action ({TOLERANCE:g} are allowed)"


def _sample(policy: Policy, record: Record, run: Path, catalog: Catalog) -> Sample:
    """Observations of the training data, or where these cannot be found again some like them; it is said why."""
    try:
        return sample.of_data(_data(record, run, catalog))
    except InputError as error:
        messages.tell(
            f"observations to check with are drawn from the data's recorded means and standard deviations, "
            f"since the data themselves cannot be read: {error}"
        )
        return sample.of_statistics(record.stats, policy.normaliser)


def _data(record: Record, run: Path, catalog: Catalog) -> Episodes:
    """The data that the run was trained on. Raises InputError where they are not the same any more; nothing is fetched
    or played."""
    recorded = recorded_data(record, run)
    env = environments.for_readers(recorded.env)
    episodes = datasets.load(dataclasses.replace(recorded, download=False, env=env), roots=[catalog.datasets])
    if episodes.fingerprint != record.data.fingerprint:
        raise InputError(f"{record.data.name} has changed since the training")
    return episodes
