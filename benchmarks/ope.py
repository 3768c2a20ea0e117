"""What the estimators of `rlkit judge` come to where the truth is known, and what wrong ways come to.

    python -m benchmarks.ope    # writes benchmarks/ope.csv and prints it as a table: about four minutes of one core

The worlds are those of benchmarks.ope_worlds. Two need a package whose files are read and whose code is not, and are
left out without it: pip install --no-deps icu-sepsis obp==0.4.1
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import ope_worlds as worlds
from envs.toys import icu_sepsis, pendulum
from rlkit.datasets import DataOptions, Episodes, Normaliser, from_episodes, spec
from rlkit.ope import fqe, importance, tabular
from rlkit.ope.fqe import Config, Evaluation, Fits
from rlkit.ope.held import hold
from rlkit.ope.replicated import Replicated
from rlkit.types import InputError

RESULTS = Path(__file__).with_suffix(".csv")
SETS = 300  # data sets of which the share is counted whose interval covers the truth
REPLICATES = 200
PERCENTILES = (0.025, 0.975)


class Row(NamedTuple):
    """One estimator in one world. truth: None where a wrong way has none but a known value. spread: standard deviation
    over the runs, or over the replicates of a single fit."""

    world: str
    policy: str
    estimator: str
    quantity: str
    truth: float | None
    measured: float
    spread: float | None
    runs: int


def _mean(world: str, policy: str, estimator: str, truth: float | None, values: list[float]) -> Row:
    return Row(world, policy, estimator, "value", truth, float(np.mean(values)), float(np.std(values)), len(values))


# --- amounts, the walk, the pendulum ---


def drift(sets: int = 3) -> Iterator[Row]:
    """A linear-Gaussian world whose episodes of 10 steps only a limit ends."""
    config = Config(widths=(64, 64), gamma=worlds.DRIFT_GAMMA)
    right, wrong = [], []
    for seed in range(sets):
        data, policy = worlds.drifting(seed, episodes=5000)
        right.append(_fitted(data, policy, config).value.estimate)
        wrong.append(_fitted(worlds.ending_at_limits(data), policy, config).value.estimate)
    yield _mean("linear-Gaussian", "steadier", "FQE", worlds.DRIFT_VALUE, right)
    yield _mean("linear-Gaussian", "steadier", "FQE, time limit as terminal", worlds.DRIFT_VALUE, wrong)


def walk(sets: int = 10) -> Iterator[Row]:
    """A walk between two ends, cut off after 20 steps."""
    ways: dict[str, list[float]] = {}
    for seed in range(sets):
        found = worlds.walk(seed)
        tables = {
            "FQE by counts": found.steps,
            "FQE by counts, time limit as terminal": found.ending_at_limits(),
            "FQE by counts, through terminals": found.never_ending(),
        }
        for way, table in tables.items():
            value = tabular.evaluate(table, worlds.middle(), worlds.WALK_GAMMA).estimate
            ways.setdefault(way, []).append(value)
    for way, values in ways.items():
        yield _mean("walk", "to the middle", way, worlds.WALK_VALUE, values)


def swinging() -> Iterator[Row]:
    """The pendulum without an end, judged by recorded episodes of 200 steps; the truth is played."""
    data = worlds.pendulum()
    starts = np.asarray(data.obs)[data.starts]
    policies: dict[str, Callable[[np.ndarray], float]] = {
        "brake": worlds.brake,
        "weak swing-up": lambda obs: pendulum.swing_up(obs, pendulum.WEAK),
        "swing-up": pendulum.swing_up,
    }
    settings = Config(gamma=worlds.PENDULUM_GAMMA)
    for name, policy in policies.items():
        truth = worlds.pendulum_value(policy, starts)
        acted = worlds.torques(policy, data.obs)
        ways = {"FQE": (data, settings)}
        if name == "brake":
            ways["FQE, time limit as terminal"] = (worlds.ending_at_limits(data), settings)
            slow = Config(gamma=worlds.PENDULUM_GAMMA, tau=0.01)
            ways["FQE, target replaced 80 times in place of 800"] = (data, slow)
        for way, (episodes, config) in ways.items():
            value = _fitted(episodes, acted, config, updates=8000).value
            spread = float(value.replicates.std(ddof=1))
            yield Row("pendulum", name, way, "value", truth, value.estimate, spread, len(value.replicates))


def _fitted(data: Episodes, policy: np.ndarray, config: Config, updates: int | None = None) -> Evaluation:
    """FQE with two replicates, whose mean is the estimate."""
    held = hold(data, Normaliser.fit(data, DataOptions("benchmark")))
    return fqe.evaluate(held.buffer, held.moments, spec(data, None), policy, config, Fits(2, 0, updates))


# --- how often intervals cover ---


def coverage(sets: int = SETS, episodes: int = 100, replicates: int = REPLICATES) -> Iterator[Row]:
    """Six states: FQE by counts, and importance sampling, which is far below 95 % and is refused for it."""
    world = f"six states, {episodes} episodes"
    for name, policy in {"near": worlds.NEAR, "far": worlds.FAR}.items():
        truth = worlds.toy_value(policy)
        hits: dict[str, list[bool]] = {}
        for seed in range(sets):
            steps = worlds.toy(seed, episodes)
            weights = importance.bootstrap_weights(episodes, seed, replicates)
            data = worlds.episodes_of(steps)
            ratios = toy_ratios(data, policy)
            values = {
                "FQE by counts": tabular.replicates(steps, np.tile(policy, (6, 1)), worlds.TOY_GAMMA, weights),
                "WIS": importance.weighted(data, ratios, worlds.TOY_GAMMA, weights),
            }
            for estimator, replicated in values.items():
                for form, inside in _covers(replicated, truth).items():
                    hits.setdefault(f"{estimator}, {form}", []).append(inside)
            why = importance.refusal(ratios.final(), worlds.BEHAVIOUR[np.asarray(data.action)])
            hits.setdefault("WIS, refused", []).append(bool(why))
        for kind, found in hits.items():
            estimator, form = kind.split(", ")
            quantity = form if form == "refused" else f"coverage, {form}"
            expected = None if form == "refused" else 0.95
            yield Row(world, name, estimator, quantity, expected, float(np.mean(found)), None, sets)


def toy_ratios(data: Episodes, policy: np.ndarray) -> importance.Ratios:
    """Of a policy [2] that is the same in all six states."""
    choices = np.asarray(data.action)
    return importance.ratios(data, policy[choices], worlds.BEHAVIOUR[choices])


def _covers(values: np.ndarray, truth: float) -> dict[str, bool]:
    """Whether the interval of `judge`, and that of the percentiles, hold the truth. values: [1 + R]."""
    value = Replicated.of(values)
    low, high = np.quantile(value.replicates, PERCENTILES)
    return {"t interval": value.low <= truth <= value.high, "percentiles": bool(low <= truth <= high)}


# --- with files of other packages ---


def sepsis() -> Iterator[Row]:
    """ICU-Sepsis: survival of 5,000 patients of the clinicians, by counts and by weights."""
    mdp = icu_sepsis.load()
    data = from_episodes(icu_sepsis.record(mdp, icu_sepsis.EPISODES))
    number = np.asarray(data.obs).ravel().astype(int)
    choices = np.asarray(data.action)
    steps = tabular.table(data, number, choices, 25)._replace(states=len(mdp.start))
    once = np.ones((1, icu_sepsis.EPISODES))
    policies = {
        "clinicians": mdp.clinician,
        "half optimal": (mdp.clinician + mdp.optimal()) / 2,
        "optimal": mdp.optimal(),
    }
    for name, policy in policies.items():
        truth = mdp.value(policy)
        ratios = importance.ratios(data, policy[number, choices], mdp.clinician[number, choices])
        values = {
            "FQE by counts, tried actions alone": tabular.evaluate(steps, policy, 1.0).estimate,
            "FQE by counts, untried actions 0": tabular.evaluate(steps, policy, 1.0, untried=0.0).estimate,
            "WIS": float(importance.weighted(data, ratios, 1.0, once)[0]),
        }
        for estimator, value in values.items():
            yield Row("ICU-Sepsis", name, estimator, "value", truth, value, None, 1)
        size = importance.effective_size(ratios.final())
        yield Row("ICU-Sepsis", name, "WIS", "effective episodes", None, size, None, 1)


def bandit() -> Iterator[Row]:
    """The sample of the Open Bandit Dataset: clicks under Thompson sampling, as a multiple of those that came."""
    folder = worlds.obp_folder()
    if folder is None:
        raise InputError("the package obp is not installed: pip install --no-deps obp==0.4.1 (its files are read)")
    sample = worlds.obp_sample(folder)
    weight = sample.wanted / sample.shown
    recorded = sample.click.mean()
    ratio = {
        "IPW over recorded": (weight * sample.click).mean() / recorded,
        "WIS over recorded": (weight * sample.click).sum() / weight.sum() / recorded,
    }
    for estimator, value in ratio.items():
        truth = 1.198126 if estimator.startswith("IPW") else None
        yield Row("Open Bandit sample", "Thompson sampling", estimator, "ratio", truth, float(value), None, 1)


# --- all of them ---

PARTS = {
    "drift": drift,
    "walk": walk,
    "pendulum": swinging,
    "coverage": coverage,
    "sepsis": sepsis,
    "bandit": bandit,
}


def main() -> None:
    """Measure, write the CSV, and print the table of docs/judging.md."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what is measured")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    for part in options.parts:
        began = time.process_time()
        try:
            rows += list(PARTS[part]())
        except InputError as error:
            print(f"{part}: left out: {error}", file=sys.stderr)
            continue
        print(f"{part}: {time.process_time() - began:.0f} s of CPU", file=sys.stderr)
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows([_written(row) for row in rows])
    print(markdown(rows))


def _written(row: Row) -> list[object]:
    numbers = ["" if number is None else f"{number:.6g}" for number in (row.truth, row.measured, row.spread)]
    return [row.world, row.policy, row.estimator, row.quantity, *numbers, row.runs]


def markdown(rows: list[Row]) -> str:
    """A line for each row."""
    lines = ["| world | policy | estimator | quantity | truth | measured | runs |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        truth = "" if row.truth is None else f"{row.truth:.4g}"
        spread = "" if row.spread is None else f" ± {row.spread:.2g}"
        cells = [row.world, row.policy, row.estimator, row.quantity, truth, f"{row.measured:.4g}{spread}", row.runs]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
