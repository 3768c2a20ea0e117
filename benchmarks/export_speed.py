"""How fast an exported policy acts and begins, with NumPy alone on one core.

    python -m benchmarks.export_speed --out benchmarks/export_speed.csv

A clone with two hidden layers of 256, trained for one update on the embedded set, is exported and read by its own
policy.py in a process that imports nothing else. An action is one call of ``act`` with one observation, checks and
normaliser included: the median of the calls in the fastest of several rounds. Beside it stand the two matrix products
alone, which no reader could do without.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import rlkit

FIELDS = ("quantity", "value", "unit", "python", "numpy", "processor")
ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# one line a quantity on stdout: its name, the value, the unit
CHILD = """
import sys, time
begun = time.perf_counter()
import policy
print(f"import\\t{time.perf_counter() - begun:.4f}\\ts")
begun = time.perf_counter()
acting = policy.load(sys.argv[1])
print(f"load and check\\t{time.perf_counter() - begun:.4f}\\ts")
import numpy as np

def fastest(function, calls=2000, rounds=5):
    medians = []
    for _ in range(rounds):
        times = []
        for _ in range(calls):
            begun = time.perf_counter()
            function()
            times.append(time.perf_counter() - begun)
        medians.append(sorted(times)[calls // 2])
    return 1e6 * min(medians)

names = [feature["name"] for feature in acting.contract["observation"]["features"]]
obs = dict.fromkeys(names, 0.1) if acting.contract["observation"]["named"] else np.full(len(names), 0.1, np.float32)
first, second = np.ones((len(names), 256), np.float32), np.ones((256, 256), np.float32)
row = np.ones((1, len(names)), np.float32)
print(f"action\\t{fastest(lambda: acting.act(obs)):.1f}\\tmicroseconds")
print(f"matrix products alone\\t{fastest(lambda: row @ first @ second):.1f}\\tmicroseconds")
print(f"numpy\\t{np.__version__}\\tversion")
"""


def measured() -> list[tuple[str, str, str]]:
    """(quantity, value, unit) of each."""
    with tempfile.TemporaryDirectory() as folder:
        run = rlkit.train("bc", "pendulum/mixed-v0", steps=1, env="none", on_progress=lambda progress: None)
        exported = run.export(Path(folder) / "policy")
        environment = {**os.environ, **ONE_CORE, "PYTHONPATH": str(exported)}
        command = [sys.executable, "-W", "ignore", "-c", CHILD, str(exported)]
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return [tuple(line.split("\t")) for line in told.splitlines()]


def main() -> None:
    """Measure, print, and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="a CSV file")
    options = parser.parse_args()
    rows = measured()
    *rows, (_, numpy_version, _) = rows
    for quantity, value, unit in rows:
        print(f"{quantity:24} {value:>8} {unit}")
    if options.out is not None:
        with options.out.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(FIELDS)
            for row in rows:
                writer.writerow([*row, platform.python_version(), numpy_version, platform.machine()])


if __name__ == "__main__":
    main()
