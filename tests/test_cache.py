"""The cache under faults: two loads at once, killed writers, full disks, other versions, sources that change."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from malformations import STEPS, columns, write_hdf5

from rlkit.datasets import DataOptions, cache, load, sources
from rlkit.types import InputError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def options(tmp_path):
    name, _ = write_hdf5(tmp_path, columns())
    return DataOptions(name, cache_dir=tmp_path / "cache")


def names(options) -> list[str]:
    return sorted(path.name for path in options.cache_dir.iterdir())


def start(options, before: str = "") -> subprocess.Popen:
    """Another process that loads the dataset."""
    code = f"""
import sys
from pathlib import Path
from rlkit.datasets import DataOptions, cache, load
{before}
print(load(DataOptions({options.dataset!r}, cache_dir=Path({str(options.cache_dir)!r}))).fingerprint)
"""
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_two_processes_that_load_at_once_and_one_that_is_killed(options, tmp_path):
    """One is killed in the middle of its writing; the next writer clears its folder away, and nobody else's."""
    slow = f"import time; cache.save = lambda *_: (Path({str(tmp_path / 'here')!r}).touch(), time.sleep(60))"
    stuck = start(options, slow)
    while not (tmp_path / "here").exists():
        time.sleep(0.02)
    (debris,) = names(options)
    assert debris.startswith(cache.PREFIX)
    both = [start(options) for _ in range(2)]
    assert len({process.communicate()[0] for process in both}) == 1
    assert debris in names(options) and len(names(options)) == 2  # its writer lives
    stuck.send_signal(signal.SIGKILL)
    stuck.wait()
    (options.cache_dir / "mine.txt").write_text("not of the cache")
    other = DataOptions(options.dataset, cache_dir=options.cache_dir, env="Hopper-v4")  # an entry of its own
    assert load(other).report.steps == STEPS
    assert debris not in names(options) and len(names(options)) == 3
    assert (options.cache_dir / "mine.txt").read_text() == "not of the cache"


def test_a_full_disk_is_a_warning_and_leaves_nothing_behind(options, caplog):
    """A limit on the size of files, which fails in the same place with the same kind of error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, hard))
    try:
        assert load(options).report.steps == STEPS
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (record,) = caplog.records
    assert "cannot write the cache" in record.message and "\n" not in record.message
    assert names(options) == []
    assert load(options).report.steps == STEPS
    assert len(names(options)) == 1


@pytest.mark.parametrize("version", [cache.FORMAT - 1, cache.FORMAT + 1])
def test_entries_of_other_versions_are_neither_read_nor_touched(options, monkeypatch, version):
    monkeypatch.setattr(cache, "FORMAT", version)
    load(options)
    (old,) = names(options)
    content = (options.cache_dir / old / "obs.npy").read_bytes()
    monkeypatch.undo()
    (options.cache_dir / old / "manifest.json").write_text("of a form that this version does not know")
    assert load(options).report.steps == STEPS
    assert len(names(options)) == 2 and (options.cache_dir / old / "obs.npy").read_bytes() == content


def test_a_source_that_changes_while_it_is_read_is_refused_and_not_cached(options, monkeypatch):
    find = sources.find

    def find_and_touch(*arguments):
        source = find(*arguments)

        def read(**how):
            recording = source.read(**how)
            os.utime(options.dataset, (1, 1))
            return recording

        return sources.Source(source.path, read)

    monkeypatch.setattr(sources, "find", find_and_touch)
    with pytest.raises(InputError, match="changed while it was read"):
        load(options)
    assert not options.cache_dir.exists()


def test_every_flipped_bit_of_an_entry_is_found(options, caplog):
    """One bit in each 64 bytes of every file of the entry."""
    first = load(options)
    source = sources.find(options)
    folder = cache.entry(options, source, False)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for place in range(0, len(content), 64):
            changed = bytearray(content)
            changed[place] ^= 1 << place % 8
            path.write_bytes(changed)
            assert cache.read(folder) is None, (path.name, place)
        path.write_bytes(content)
    assert all("\n" not in record.message for record in caplog.records)
    np.testing.assert_array_equal(cache.read(folder).obs, first.obs)


def test_a_locked_folder_is_left_alone_by_the_sweep(options):
    options.cache_dir.mkdir()
    live, dead = (options.cache_dir / f"{cache.PREFIX}{name}" for name in ("live", "dead"))
    live.mkdir()
    dead.mkdir()
    (dead / "obs.npy").write_text("half")
    lock = os.open(live, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    load(options)
    os.close(lock)
    assert live.exists() and not dead.exists()
