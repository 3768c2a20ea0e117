"""Run the toys at all their seeds and write their values to a table.

    python -m tests.toys                        every toy
    python -m tests.toys --only cliff arms      these, leaving the other rows as they are

A row is written as soon as it is there. After the seeds of a variant comes a row of their mean, which the claims are
about.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .catalogue import TOYS
from .toy import Toy, Variant

TABLE = Path(__file__).parent.parent / "toys.csv"
COLUMNS = (
    "toy", "method", "variant", "expected", "seed", "value", "threshold", "verdict", "reference", "cpu_seconds",
    "commit", "cpu",
)  # fmt: skip
Key = tuple[str, str, str, str]  # toy, method, variant, seed
Row = dict[str, str]


def key_of(toy: Toy, variant: Variant, seed: int | str) -> Key:
    """What tells a row from the others."""
    return toy.name, variant.method, variant.name, str(seed)


def keys() -> list[Key]:
    """Of all rows, in their order."""
    found = []
    for toy in TOYS:
        for variant in toy.variants:
            found += [key_of(toy, variant, seed) for seed in (*range(toy.seeds), "mean")]
    return found


def read(path: Path) -> dict[Key, Row]:
    """The rows of a table; none where there is no table yet."""
    if not path.exists():
        return {}
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {(row["toy"], row["method"], row["variant"], row["seed"]): row for row in rows}


def write(path: Path, rows: dict[Key, Row]) -> None:
    """The rows of the toys that there are, in their order."""
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[key] for key in keys() if key in rows)
    partial.replace(path)


def commit() -> str:
    """The commit of the working tree, with a + where tracked files other than the table differ from it."""
    folder = TABLE.parent
    number = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=folder, capture_output=True, text=True)
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no", "--", ":(top)", ":(exclude,top)tests/toys.csv"],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    return number.stdout.strip() + ("+" if changed.stdout.strip() else "")


def processor() -> str:
    """The processor's name and the widest instructions that XLA may use."""
    told = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*: (.*)", told)
    capped = re.search(r"--xla_cpu_max_isa=(\w+)", os.environ.get("XLA_FLAGS", ""))
    known = [isa for isa in ("avx512f", "avx2", "sse4_2") if re.search(rf"\b{isa}\b", told)]
    isa = capped[1].lower() if capped else (known or ["unknown"])[0]
    return f"{name[1] if name else 'unknown'}; {isa}"


def rows_of(toy: Toy, variant: Variant, about: Row) -> Iterator[tuple[Key, Row]]:
    """A row for each seed as soon as it is measured, then the mean's."""
    values, seconds = [], []
    for seed in (*range(toy.seeds), "mean"):
        began = time.process_time()
        if seed == "mean":
            value, cpu_seconds = float(np.mean(values)), sum(seconds)
        else:
            value = toy.measure(variant.config, seed)
            cpu_seconds = time.process_time() - began
        values.append(value)
        seconds.append(cpu_seconds)
        key = key_of(toy, variant, seed)
        verdict = "holds" if variant.holds(value) else "does not hold"
        row = dict(zip(("toy", "method", "variant", "seed"), key, strict=True))
        row |= {"expected": variant.expected, "threshold": f"{variant.threshold:.3g}", "value": f"{value:.4g}"}
        row |= {"reference": "" if variant.reference is None else f"{variant.reference:.3g}"}
        row |= {"verdict": verdict, "cpu_seconds": f"{cpu_seconds:.1f}"}
        yield key, row | about


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Run the toys at all their seeds.")
    parser.add_argument("--only", nargs="+", metavar="TOY", choices=[toy.name for toy in TOYS], help="names of toys")
    parser.add_argument("--out", type=Path, default=TABLE, help="the table (default: %(default)s)")
    options = parser.parse_args()
    rows = read(options.out)
    about = {"commit": commit(), "cpu": processor()}
    for toy in TOYS:
        if options.only and toy.name not in options.only:
            continue
        for variant in toy.variants:
            for key, row in rows_of(toy, variant, about):
                rows[key] = row
                write(options.out, rows)
                print(", ".join((*key, row["value"], row["verdict"], f"{row['cpu_seconds']} s")), flush=True)


if __name__ == "__main__":
    main()
