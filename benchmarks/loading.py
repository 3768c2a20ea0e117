"""Measure the first and the cached load of every format, beside the time that the library alone takes to read it.

    python -m benchmarks.loading

Data are synthetic, Hopper-shaped. "Reading" is what a user would do without rlkit: open the file with its own library
and put every array that training needs into memory (np.load, h5py's [()], minari's episodes one by one, pyarrow's
columns as numpy). A first load also checks, lays out, digests and writes the cache. Pinned to one core and timed by
CPU-seconds, those of the process that reads Parquet included, which other processes disturb less than the wall clock;
files are warm in the system's cache, and the two are measured in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rlkit.datasets import DataOptions, load

OBS, ACTION, LENGTH = 11, 3, 1000
Reader = Callable[[], object]


def main() -> None:
    """Pin, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=int, default=None, help="CPU core to run on (default: the last one)")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=200_000, help="steps in the file of each format")
    parser.add_argument("--cached-steps", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None, help="where to write the files (default: a temporary one)")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0)) if options.core is None else options.core})
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        print(f"{'format':16} {'steps':>9} {'reading s':>10} {'first load s':>13} {'ratio':>6}   (min, max)")
        for kind, (dataset, reader) in files(folder, options.steps).items():
            reading, loading = compare(
                DataOptions(dataset, folder, cache_dir=folder / "cache"), reader, options.repeats
            )
            ratios = [b / a for a, b in zip(reading, loading, strict=True)]
            middle = statistics.median(reading), statistics.median(loading), statistics.median(ratios)
            print(
                f"{kind:16} {options.steps:9,} {middle[0]:10.3f} {middle[1]:13.3f} {middle[2]:6.2f}   "
                f"({min(ratios):.2f}, {max(ratios):.2f})",
                flush=True,
            )
        seconds = cached(folder, options.cached_steps, options.repeats)
        print(f"cached load of {options.cached_steps:,} steps: {statistics.median(seconds):.3f} s ({max(seconds):.3f})")


def compare(options: DataOptions, reader: Reader, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of the library's reading and of a first load, in turns."""
    reading, loading = [], []
    for _ in range(repeats):
        shutil.rmtree(options.cache_dir, ignore_errors=True)
        reading.append(seconds(reader))
        loading.append(seconds(lambda: load(options)))
    return reading, loading


def cached(folder: Path, steps: int, repeats: int) -> list[float]:
    """Seconds of loads from the cache, once it is there."""
    path = folder / "large.npz"
    np.savez(path, **states(steps))
    options = DataOptions(str(path), cache_dir=folder / "large")
    load(options)
    return [seconds(lambda: load(options)) for _ in range(repeats)]


def seconds(work: Callable[[], object]) -> float:
    begun = cpu_time()
    work()
    return cpu_time() - begun


def cpu_time() -> float:
    """CPU-seconds of this process and of those that it has waited for: a child reads Parquet."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def columns(steps: int) -> dict[str, np.ndarray]:
    """Steps of episodes of LENGTH steps."""
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(steps, OBS)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (steps, ACTION)).astype(np.float32),
        "rewards": rng.normal(size=steps).astype(np.float32),
        "terminals": np.zeros(steps, bool),
        "timeouts": np.arange(steps) % LENGTH == LENGTH - 1,
    }


def states(steps: int) -> dict[str, np.ndarray]:
    """The same as OGBench keeps it: a row per state, the last of each trajectory without a step."""
    rows = columns(steps + steps // LENGTH)
    rows.pop("timeouts")
    rows["terminals"] = (np.arange(len(rows["rewards"])) % (LENGTH + 1) == LENGTH).astype(np.float32)
    rows["masks"] = np.ones(len(rows["rewards"]), np.float32)
    return rows


def files(folder: Path, steps: int) -> dict[str, tuple[str, Reader]]:
    """Write one file of each format; (dataset, how its library reads it) by format."""
    import h5py
    from pyarrow import csv, parquet

    rows = columns(steps)
    with h5py.File(folder / "hopper-v1.hdf5", "w") as file:
        for name, values in rows.items():
            file.create_dataset(name, data=values)
    np.savez(folder / "plain.npz", **states(steps))
    np.savez_compressed(folder / "compressed.npz", **states(steps))
    table = as_table(rows)
    parquet.write_table(table, folder / "table.parquet")
    csv.write_csv(table, folder / "table.csv")
    minari_episodes(folder / "bench" / "hopper-v0" / "data", rows)
    return {
        "HDF5 (D4RL)": (str(folder / "hopper-v1.hdf5"), lambda: read_hdf5(folder / "hopper-v1.hdf5")),
        "Minari HDF5": ("bench/hopper-v0", lambda: read_minari(folder / "bench" / "hopper-v0" / "data")),
        "npz": (str(folder / "plain.npz"), lambda: read_npz(folder / "plain.npz")),
        "npz, compressed": (str(folder / "compressed.npz"), lambda: read_npz(folder / "compressed.npz")),
        "parquet": (str(folder / "table.parquet"), lambda: read_arrow(parquet.read_table, folder / "table.parquet")),
        "csv": (str(folder / "table.csv"), lambda: read_arrow(csv.read_csv, folder / "table.csv")),
    }


def as_table(rows: dict[str, np.ndarray]) -> object:
    """The steps as a table with a column per number."""
    import pyarrow as pa

    place = np.arange(len(rows["rewards"]))
    wide = {f"observation_{i}": rows["observations"][:, i] for i in range(OBS)}
    wide |= {f"action_{i}": rows["actions"][:, i] for i in range(ACTION)}
    flags = {"terminated": rows["terminals"], "truncated": rows["timeouts"]}
    return pa.table({"episode": place // LENGTH, "step": place % LENGTH, **wide, "reward": rows["rewards"], **flags})


def minari_episodes(data: Path, rows: dict[str, np.ndarray]) -> None:
    """A Minari dataset as its library lays it out: a group per episode, one more observation than steps."""
    import h5py

    data.mkdir(parents=True)
    episodes = len(rows["rewards"]) // LENGTH
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for i in range(episodes):
            part = slice(i * LENGTH, (i + 1) * LENGTH)
            group = file.create_group(f"episode_{i}")
            group.attrs["total_steps"] = LENGTH
            group["observations"] = np.append(rows["observations"][part], rows["observations"][part][-1:], axis=0)
            for name, source in {
                "actions": "actions", "rewards": "rewards", "terminations": "terminals", "truncations": "timeouts"
            }.items():  # fmt: skip
                group[name] = rows[source][part]
    spaces = {
        f"{name}_space": json.dumps(
            {"type": "Box", "dtype": "float32", "shape": [n], "low": [-float(bound)] * n, "high": [float(bound)] * n}
        )
        for name, n, bound in (("observation", OBS, np.inf), ("action", ACTION, 1))
    }
    totals = {"total_episodes": episodes, "total_steps": episodes * LENGTH, "data_format": "hdf5"}
    (data / "metadata.json").write_text(json.dumps({"dataset_id": "bench/hopper-v0", **totals, **spaces}))


def read_hdf5(path: Path) -> object:
    import h5py

    with h5py.File(path) as file:
        return [item[()] for item in file.values()]


def read_npz(path: Path) -> object:
    with np.load(path) as file:
        return [file[name] for name in file]


def read_minari(data: Path) -> object:
    from minari.dataset.minari_storage import MinariStorage

    storage = MinariStorage.read(data)
    return list(storage.get_episodes(range(storage.total_episodes)))


def read_arrow(read: Callable[[Path], object], path: Path) -> object:
    return [column.to_numpy() for column in read(path).columns]


if __name__ == "__main__":
    main()
