"""How often the bootstrap intervals of rlkit.evaluation.aggregate cover the truth, in a simulation where it is known.

    python -m benchmarks.aggregate_coverage    # writes benchmarks/aggregate_coverage.csv and prints it as a table

The scores of all runs are normal with standard deviation 10 and one number each; those of X have the mean 50, those of
Y 40. So the interquartile mean of X is 50, and the probability of improvement that of a normal number with mean 10 and
standard deviation 10 sqrt(2) being positive.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.special import ndtr

from rlkit.evaluation.aggregate import interquartile_mean, probability_of_improvement

QUANTITIES = ("interquartile mean", "probability of improvement")
DATASETS = (1, 3, 10)
SEEDS = (2, 3, 5, 10)
EXPERIMENTS = 1000
DRAWS = 1000
RESULTS = Path(__file__).with_suffix(".csv")


def coverage(
    quantity: str, *, datasets: int, seeds: int, experiments: int, draws: int, rng: np.random.Generator
) -> float:
    """Percentage of ``experiments`` whose interval, of ``draws`` of the bootstrap, holds the truth."""
    covered = 0
    for _ in range(experiments):
        x = 50 + 10 * rng.normal(size=(datasets, seeds, 1))
        if quantity == "interquartile mean":
            truth = 50.0
            found = interquartile_mean(x, draws)
        else:
            truth = ndtr(1 / np.sqrt(2))
            y = 40 + 10 * rng.normal(size=(datasets, seeds, 1))
            found = probability_of_improvement(x, y, draws)
        covered += found.low <= truth <= found.high
    return 100 * covered / experiments


def main() -> None:
    """Measure every case, write the CSV, and print the table of docs/report.md."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--experiments", type=int, default=EXPERIMENTS, help="of each case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    rows = []
    for quantity, seeds, datasets in itertools.product(QUANTITIES, SEEDS, DATASETS):
        found = coverage(
            quantity, datasets=datasets, seeds=seeds, experiments=options.experiments, draws=DRAWS, rng=rng
        )
        rows.append((quantity, seeds, datasets, options.experiments, DRAWS, f"{found:.1f}"))
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("quantity", "seeds", "datasets", "experiments", "draws", "coverage"))
        writer.writerows(rows)
    print(markdown(rows))


def markdown(rows: Sequence[tuple]) -> str:
    """A line for each quantity and number of seeds, a column for each number of datasets."""
    found = {row[:3]: row[-1] for row in rows}
    titles = ["1 dataset" if datasets == 1 else f"{datasets} datasets" for datasets in DATASETS]
    lines = [f"| | seeds | {' | '.join(titles)} |", "|---|---|" + "---|" * len(DATASETS)]
    for quantity, seeds in itertools.product(QUANTITIES, SEEDS):
        cells = [found[quantity, seeds, datasets] for datasets in DATASETS]
        lines.append(f"| {quantity} | {seeds} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
