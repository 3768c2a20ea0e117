"""Random damage to Parquet and Arrow files, many of them in one process; how often does that end the process?

    python tests/damage.py --seconds 300        # all forms in turn, then the counts

The reader's own process (rlkit/datasets/reader_process.py) is for these ends: each is tried there too.
"""

from __future__ import annotations

import argparse
import collections
import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from malformations import STEPS, WRITERS, columns, damaged, write_parquet

from rlkit.datasets import DataOptions, load, reader_process, sources
from rlkit.types import InputError

COLUMNAR = {
    "parquet": WRITERS["parquet"],
    "parquet, small pages": functools.partial(
        write_parquet, compression="zstd", data_page_version="2.0", row_group_size=2
    ),
    "minari-arrow": WRITERS["minari-arrow"],
    "minari-parquet": WRITERS["minari-parquet"],
}
KINDS = ("flip", "set", "zero", "lose", "repeat", "cut")
MEMORY = 2**30  # bytes that a file may take


class Counts(NamedTuple):
    """What became of the files."""

    outcomes: dict[str, int]  # "refused", "read" or the signal that ended the process
    fatal: list[int]  # seeds of the files that ended it


@functools.cache
def sound(form: str, root: Path) -> tuple[str, Path, bytes]:
    """A dataset's name, its file and what is in it."""
    name, path = COLUMNAR[form](root, columns())
    return name, path, path.read_bytes()


def damage_file(form: str, root: Path, seed: int) -> DataOptions:
    """A dataset of ``form`` with one to three faults in its bytes."""
    name, path, content = sound(form, root)
    rng = np.random.default_rng(seed)
    changes = []
    for _ in range(rng.integers(1, 4)):
        changes.append((str(rng.choice(KINDS)), int(rng.integers(len(content))), int(rng.integers(256))))
    path.write_bytes(damaged(content, changes))
    return DataOptions(name, data_root=root, cache_dir=root / "cache")


def read_here(form: str, root: Path, seed: int) -> str:
    """What becomes of one file in this process. Any other exception than InputError, and a lost row, is an error."""
    options = damage_file(form, root, seed)
    try:
        episodes = sources.find(options).episodes(options, False)
    except (InputError, MemoryError) as error:
        assert str(error).isprintable()
        return "refused"
    assert episodes.report.steps == STEPS
    assert all(np.isfinite(column).all() for column in (episodes.obs, episodes.action, episodes.reward))
    return "read"


def run(form: str, root: Path, count: int, first: int = 0, seconds: float = np.inf) -> Counts:
    """Read files ``first`` to ``first + count`` one after the other, in a new process after each that ended one."""
    outcomes: dict[str, int] = collections.Counter()
    fatal = []
    end = time.monotonic() + seconds
    seed = first
    while seed < first + count and time.monotonic() < end:
        command = [sys.executable, __file__, "--worker", form, str(root), str(seed), str(first + count), str(end)]
        places = os.pathsep.join(place for place in sys.path if place)
        environ = {**os.environ, "PYTHONPATH": places, "ARROW_DEFAULT_MEMORY_POOL": "system"}
        done = subprocess.run(command, capture_output=True, text=True, env=environ)
        lines = done.stdout.split()
        outcomes.update(lines)
        seed += len(lines)
        if done.returncode > 0:
            raise AssertionError(f"{form}, file {seed}: {done.stderr}")
        if done.returncode < 0:
            outcomes[f"signal {-done.returncode}"] += 1
            fatal.append(seed)
            seed += 1
    return Counts(outcomes, fatal)


def work(form: str, root: Path, first: int, last: int, end: float) -> None:
    """The process that reads."""
    reader_process._limit(MEMORY, seconds=3600)
    for seed in range(first, last):
        if time.monotonic() > end:
            break
        print(read_here(form, root, seed), flush=True)


def told(form: str, root: Path, seed: int) -> str:
    """The line that the reader's own process gives for a file; an empty one where it reads it."""
    try:
        load(damage_file(form, root, seed), use_cache=False)
    except InputError as error:
        return str(error)
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--worker", nargs=5)
    arguments = parser.parse_args()
    if arguments.worker:
        form, root, first, last, end = arguments.worker
        work(form, Path(root), int(first), int(last), float(end))
        return
    for form in COLUMNAR:
        with tempfile.TemporaryDirectory() as root:
            counts = run(form, Path(root), 10**9, arguments.first, arguments.seconds / len(COLUMNAR))
            print(f"{form}: {sum(counts.outcomes.values())} files: {dict(counts.outcomes)}")
            for seed in counts.fatal:
                print(f"  file {seed}: {told(form, Path(root), seed)}")


if __name__ == "__main__":
    main()
