"""How often the 95 % interval of rlkit.evaluation.statistics covers the true mean, in a simulation whose mean is known.

    python -m benchmarks.coverage    # writes benchmarks/coverage.csv and prints it as a table

Returns [S seeds, E starts] are drawn as seed effect + start effect + rest, all of them normal with mean 0. A case is
three standard deviations with a number of seeds and of starts; a draw of it is covered if its interval holds 0.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlkit.evaluation.statistics import half_width

DEVIATIONS = ((1, 0.1, 0.1), (1, 1, 1), (1, 3, 1), (0.2, 3, 1))
SEEDS = (2, 3, 5, 10)
STARTS = (10, 20, 100)
DRAWS = 20_000
RESULTS = Path(__file__).with_suffix(".csv")


class Case(NamedTuple):
    """Standard deviations of the effects, and how many seeds and starts are drawn."""

    seed_deviation: float
    start_deviation: float
    rest_deviation: float
    seeds: int
    starts: int


def cases() -> list[Case]:
    """Every case of the table, in its order."""
    grid = itertools.product(DEVIATIONS, SEEDS, STARTS)
    return [Case(*deviations, seeds, starts) for deviations, seeds, starts in grid]


def coverage(case: Case, draws: int, rng: np.random.Generator) -> float:
    """Percentage of ``draws`` tables of returns whose interval holds the true mean, 0."""
    covered = 0
    for part in np.array_split(np.arange(draws), max(draws // 1000, 1)):  # a thousand at a time bounds the memory
        number = len(part)
        returns = case.seed_deviation * rng.normal(size=(number, case.seeds, 1))
        returns = returns + case.start_deviation * rng.normal(size=(number, 1, case.starts))
        returns = returns + case.rest_deviation * rng.normal(size=(number, case.seeds, case.starts))
        means = returns.mean(axis=(1, 2))
        covered += int((np.abs(means) <= half_width(returns)).sum())
    return 100 * covered / draws


def main() -> None:
    """Measure every case, write the CSV, and print the table of docs/evaluation.md."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--draws", type=int, default=DRAWS, help="tables of returns in each case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    rows = [(*case, options.draws, f"{coverage(case, options.draws, rng):.1f}") for case in cases()]
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*Case._fields, "draws", "coverage"))
        writer.writerows(rows)
    print(markdown({row[:5]: row[-1] for row in rows}))


def markdown(found: Mapping[tuple, str]) -> str:
    """A line for each choice of deviations and seeds, a column for each number of starts."""
    lines = ["| seed : start : rest | seeds | " + " | ".join(f"{starts} starts" for starts in STARTS) + " |"]
    lines.append("|---|---|" + "---|" * len(STARTS))
    for deviations, seeds in itertools.product(DEVIATIONS, SEEDS):
        shown = " : ".join(f"{deviation:g}" for deviation in deviations)
        cells = [found[(*deviations, seeds, starts)] for starts in STARTS]
        lines.append(f"| {shown} | {seeds} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
