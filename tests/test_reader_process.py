"""The process that reads Parquet and Arrow: what it hands back, and what becomes of it when it ends early."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from conftest import fill
from malformations import CASES, STEPS, WRITERS, columns

from rlkit.datasets import DataOptions, cache, load, sources
from rlkit.datasets.untrusted import reader_process
from rlkit.types import InputError

COLUMNAR = ("parquet", "minari-arrow", "minari-parquet")


@pytest.fixture(params=COLUMNAR)
def options(request, tmp_path):
    name, _ = WRITERS[request.param](tmp_path, columns())
    return DataOptions(name, data_root=tmp_path, cache_dir=tmp_path / "cache")


@pytest.fixture
def table(tmp_path):
    """A sound Parquet file."""
    name, _ = WRITERS["parquet"](tmp_path, columns())
    return DataOptions(name, cache_dir=tmp_path / "cache")


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder of temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def refused(options) -> str:
    with pytest.raises(InputError) as caught:
        load(options)
    assert str(caught.value).isprintable()
    assert list(options.cache_dir.iterdir()) == []
    return str(caught.value)


@pytest.mark.parametrize("infos", [False, True])
def test_it_hands_back_what_is_read_without_it(options, infos):
    source = sources.find(options)
    assert source.is_columnar()
    there, here = load(options, infos=infos), source.episodes(options, infos)
    for name in cache.COLUMNS:
        np.testing.assert_array_equal(getattr(there, name), getattr(here, name))
        assert not getattr(there, name).flags.writeable
    assert (there.name, there.fingerprint, there.report) == (here.name, here.fingerprint, here.report)
    assert (there.observation_space, there.action_space) == (here.observation_space, here.action_space)
    assert there.infos.keys() == here.infos.keys()


def test_options_and_roots_reach_it(tmp_path):
    """Flags on the last two steps are mended by --repair; --env names the environment; the dataset lies in a root."""
    data = columns()
    data["truncations"][1] = True
    WRITERS["minari-arrow"](tmp_path / "more", data)
    options = DataOptions(
        "toy/small-v0", data_root=tmp_path / "none", env="Mine-v0", repair=("ends",), cache_dir=tmp_path / "cache"
    )
    episodes = load(options, roots=[tmp_path / "more"])
    assert episodes.report.repaired == 1 and episodes.env_spec == "Mine-v0"


def test_the_entry_of_the_cache_is_what_it_wrote(options):
    first = load(options)
    (entry,) = options.cache_dir.iterdir()
    assert entry == cache.entry(options, sources.find(options), False)
    assert cache.read(entry).fingerprint == first.fingerprint


def test_past_the_cache_nothing_is_left(options, temporary):
    episodes = load(options, use_cache=False)
    assert not options.cache_dir.exists() and list(temporary.iterdir()) == []
    assert episodes.report.steps == STEPS and np.isfinite(episodes.obs).all()  # the maps outlive their files


def test_a_cache_that_cannot_be_written_is_only_a_warning(options, temporary, caplog):
    options.cache_dir.write_text("a file where the folder should be")
    assert load(options).obs.shape == (STEPS + 2, 2)
    (record,) = caplog.records
    assert "cannot write the cache" in record.message and "\n" not in record.message
    assert list(temporary.iterdir()) == []


def test_an_entry_that_cannot_be_moved_into_place_is_only_a_warning(table, caplog, monkeypatch):
    def replace(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", replace)
    assert load(table).report.steps == STEPS
    assert "cannot write the cache" in caplog.text and list(table.cache_dir.iterdir()) == []


def test_it_writes_into_the_next_folder_where_the_first_is_full(table, tmp_path):
    told = {"action": dataclasses.asdict(table.action), "columns": dataclasses.asdict(table.columns)}
    request = {"dataset": table.dataset, "data_root": None, "env": None, "repair": [], "roots": [], **told}
    folders = [str(tmp_path / "no" / "such"), str(tmp_path)]
    reply = reader_process._answer({**request, "infos": False, "folders": folders})
    assert reply["folder"] == folders[1] and "No such file" in reply["reason"]
    assert cache.read(tmp_path).report.steps == STEPS


def test_a_full_disk_of_the_cache_is_only_a_warning(table, small_disk, caplog):
    fill(small_disk / "filler", leave=2**13)
    options = dataclasses.replace(table, cache_dir=small_disk / "cache")
    assert load(options).report.steps == STEPS
    (record,) = caplog.records
    assert "cannot write the cache" in record.message and "No space left" in record.message
    assert list(options.cache_dir.iterdir()) == []


def test_a_full_disk_everywhere_is_told(table):
    """A limit on the size of files, which fails in the same place with the same kind of error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, hard))
    try:
        message = refused(table)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "x.parquet: its values cannot be written" in message and "free space there" in message


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended with SIGSEGV); copy or write it again"),
        ("import os; os.abort()", "ended with SIGABRT"),
        ("import sys; sys.exit('line 1\\nthe last line')", "exit code 1: the last line"),
        ("import sys; sys.stderr.buffer.write(bytes([255])); sys.exit(3)", "exit code 3"),
        ("print('no JSON')", "exit code 0: no reason given"),
        ("print('[]')", "exit code 0"),
        ("import sys; sys.exit('what():  std::bad_alloc')", "GiB, more than the free memory"),
        ('print(\'{"fault": "x.parquet: of\\\\ntwo lines"}\')', r"of\ntwo lines"),
    ],
)
def test_however_it_ends_the_user_has_one_line(table, monkeypatch, code, words):
    monkeypatch.setattr(reader_process, "START", code)
    message = refused(table)
    assert message.startswith("x.parquet: ") and words in message


def test_a_child_without_its_parent_ends_when_its_cpu_time_is_over():
    code = "from rlkit.datasets.untrusted import reader_process; reader_process._limit(2**30, 1)\nwhile True: pass"
    done = subprocess.run([sys.executable, "-c", code])
    assert -done.returncode in (signal.SIGXCPU, signal.SIGKILL)


def test_it_is_ended_when_its_time_is_over(table, monkeypatch):
    monkeypatch.setattr(reader_process, "START", "import time; time.sleep(3600)")
    monkeypatch.setattr(reader_process, "LEAST_SECONDS", 0)
    assert "x.parquet: was not read within 0 s" in refused(table)


def test_the_limit_on_memory_grows_with_the_file(table, monkeypatch):
    """What a small file may take is bounded however much memory is free."""
    monkeypatch.setattr(reader_process, "LEAST_MEMORY", 0)
    monkeypatch.setattr(reader_process, "MEMORY_PER_BYTE", 3)
    monkeypatch.setattr(reader_process, "START", "import json, sys; print(json.load(sys.stdin)['memory']); sys.exit(1)")
    real, sent = subprocess.run, []

    def run(*arguments, **options):
        done = real(*arguments, **options)
        sent.append(int(done.stdout))
        return done

    monkeypatch.setattr(subprocess, "run", run)
    refused(table)
    assert sent == [3 * Path(table.dataset).stat().st_size]


def test_modules_in_the_folder_that_it_runs_in_are_not_imported(table, tmp_path, monkeypatch):
    for name in ("json", "numpy", "pyarrow", "resource"):
        (tmp_path / f"{name}.py").write_text("import os; os.mkdir('was-imported')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    assert load(table).report.steps == STEPS
    assert not Path("was-imported").exists()


def test_it_imports_no_jax_and_allocates_what_it_uses():
    """pyarrow's own allocator would set 1 GiB aside, which the limit could not tell from what a file takes."""
    code = """
import sys
from rlkit.datasets.formats import minari_arrow, table
from rlkit.datasets.untrusted import reader_process
reader_process._limit(2**30, 60)
print(sorted({"jax", "flax", "h5py", "minari", "pandas"} & set(sys.modules)))
print(sys.modules["pyarrow"].default_memory_pool().backend_name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\nsystem\n"


FAULTS = ("no rewards", "first half")
NAMES = {f"{form}: {fault}" for form in COLUMNAR for fault in FAULTS}


@pytest.mark.parametrize("case", [case for case in CASES if case.name in NAMES], ids=lambda case: case.name)
def test_a_fault_is_told_as_it_is_without_the_process(tmp_path, case):
    """The whole table of malformed files is read without it (test_malformed.py)."""
    name, _ = case.build(tmp_path)
    options = DataOptions(name, data_root=tmp_path, cache_dir=tmp_path / "cache")
    with pytest.raises(InputError) as without:
        sources.find(options).episodes(options, False)
    assert refused(options) == str(without.value)


def test_a_killed_parent_leaves_a_folder_that_the_next_writer_removes(table, tmp_path):
    """The lock on the folder is the parent's."""
    code = f"""
import os
from pathlib import Path
from rlkit.datasets import DataOptions, load
from rlkit.datasets.untrusted import reader_process
reader_process._run = lambda *_: os._exit(9)
load(DataOptions({table.dataset!r}, cache_dir=Path({str(table.cache_dir)!r})))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    (debris,) = table.cache_dir.iterdir()
    load(table)
    assert not debris.exists() and len(os.listdir(table.cache_dir)) == 1
