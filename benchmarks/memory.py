"""Memory that a dataset takes: what `--dry-run` says, and the peak of training.

    python -m benchmarks.memory --out benchmarks/memory.csv

The peak is the largest resident memory of `rlkit train bc --steps 1` in a process of its own, less that of the same
command with ten rows of the same width: what is left is the data's. "first" reads the file, "again" finds it in the
cache. Medians of several rounds, since the peak of a process of 360 MiB scatters by some MiB. Linux only: the peak is
VmHWM of /proc/self/status.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).parent.parent
MIB = 2**20
LENGTH = 200  # rows of an episode
SMALL = ("--config.widths", "8", "--config.batch-size", "8")  # what else takes memory is the same for any rows
# one line on stdout: the exit code and the peak in bytes
CHILD = """
import sys
import train
sys.argv = ["train.py", *sys.argv[1:]]
code = train.main()
lines = open("/proc/self/status").read().splitlines()
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
print(f"measured {code} {1024 * peak}")
"""


@dataclass(frozen=True)
class Dataset:
    """``rows`` rows of observations of ``shape`` and ``dtype`` in a file of a kind."""

    name: str
    rows: int
    shape: tuple[int, ...]
    dtype: str
    suffix: str


DATASETS = (
    Dataset("frames", 4_000, (64, 64, 3), "uint8", ".npz"),
    Dataset("floats", 200_000, (11,), "float32", ".npz"),
)


def write(dataset: Dataset, rows: int, path: Path) -> None:
    """Write ``rows`` rows: noise, three actions, episodes of LENGTH rows."""
    rng = np.random.default_rng(0)
    if dataset.dtype == "uint8":
        observations = rng.integers(0, 256, (rows, *dataset.shape), np.uint8)
    else:
        observations = rng.normal(size=(rows, *dataset.shape)).astype(dataset.dtype)
    ends = np.arange(1, rows + 1) % LENGTH == 0
    ends[-1] = True
    columns = {
        "observations": observations,
        "actions": rng.uniform(-1, 1, (rows, 3)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
    }
    if dataset.suffix == ".npz":
        np.savez(path, **columns, terminals=ends, masks=np.ones(rows, bool))
        return
    with h5py.File(path, "w") as file:
        for name, values in (columns | {"terminals": np.zeros(rows, bool), "timeouts": ends}).items():
            file[name] = values


def run(words: Sequence[str], cache: Path) -> tuple[str, int]:
    """(stdout, peak in bytes) of a train command in a process of its own."""
    # compiled anew each time: a program that comes from jax's cache takes less memory than one that is compiled
    environ = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    environ |= {"RLKIT_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, "train", "bc", *words, "--eval-episodes", "0", *SMALL],
        cwd=ROOT, env=environ, capture_output=True, text=True,
    )  # fmt: skip
    found = re.search(r"measured 0 (\d+)", done.stdout)
    if not found:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout, int(found[1])


def measure(dataset: Dataset, folder: Path, rows: int | None = None, rounds: int = 1) -> dict[str, float]:
    """MiB: what --dry-run says of the data and in all, and the peaks of training, first and again: medians."""

    def peaks(count: int) -> tuple[list[float], str]:
        path = folder / f"{dataset.name}-{dataset.dtype}-{count}{dataset.suffix}"
        write(dataset, count, path)
        words = ["--dataset", str(path), "--steps", "1"]
        found = []
        for number in range(rounds):
            cache = folder / f"cache-{path.name}-{number}"
            runs = [str(folder / f"run-{path.name}-{number}-{n}") for n in range(2)]
            found.append([run([*words, "--out", out], cache)[1] for out in runs])
        told = run([*words, "--dry-run"], cache)[0]
        path.unlink()
        return [statistics.median(column) for column in zip(*found, strict=True)], told

    few, _ = peaks(10)
    many, told = peaks(rows or dataset.rows)
    data, total = re.search(r"memory: data ([\d.,]+) MiB.* = ([\d.,]+) MiB", told).groups()
    first, again = ((much - little) / MIB for much, little in zip(many, few, strict=True))
    return {"dry_run_data": float(data), "dry_run": float(total), "first": first, "again": again}


def main(argv: Sequence[str] | None = None, show: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV to write")
    parser.add_argument("--rounds", type=int, default=9, help="of each measurement (default: %(default)s)")
    options = parser.parse_args(argv)
    rows = []
    for dataset in DATASETS:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(dataset, Path(folder), rounds=options.rounds)
        shape = "x".join(map(str, dataset.shape))
        values = {name: f"{value:.1f}" for name, value in found.items()}
        rows.append({
            "data": dataset.name, "file": dataset.suffix, "rows": dataset.rows, "shape": shape, "dtype": dataset.dtype,
            **values, "python": platform.python_version(), "machine": platform.machine(),
        })  # fmt: skip
        show(json.dumps(rows[-1]))
    if options.out:
        with options.out.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
