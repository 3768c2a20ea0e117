"""How much memory data take on their way to the device, and that what does not fit is refused before it is read."""

import importlib
import os
import tracemalloc

import numpy as np
import pytest
from conftest import DEVICES

from benchmarks import memory
from rlkit.buffer import Buffer, stats
from rlkit.datasets import DataOptions, Normaliser, blocks, from_episodes, load
from rlkit.datasets.untrusted import fields

MIB = 2**20


@pytest.fixture(scope="module")
def data():
    """15 MiB of observations in float32."""
    rng = np.random.default_rng(0)
    return from_episodes(
        {
            "observations": rng.normal(1000, 1, (1001, 40)).astype(np.float32),
            "actions": rng.uniform(-1, 1, (1000, 2)).astype(np.float32),
            "rewards": np.ones(1000, np.float32),
        }
        for _ in range(100)
    )


def peak(call):
    """(result, MiB that NumPy had allocated at most besides what was there before)."""
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


def test_blocks_cover_every_row_once(monkeypatch):
    monkeypatch.setattr(blocks, "NUMBERS", 10)
    for rows, width in ((0, 3), (1, 3), (9, 3), (10, 3), (7, 100), (4, 0)):
        covered = [row for part in blocks.blocks(rows, width) for row in range(part.start, part.stop)]
        assert covered == list(range(rows))


def test_moments_are_those_of_the_plain_formula_to_rounding(monkeypatch):
    monkeypatch.setattr(blocks, "NUMBERS", 64)
    rng = np.random.default_rng(0)
    column, mask = (1e6 + rng.normal(size=(1000, 3))).astype(np.float32), rng.uniform(size=1000) < 0.7
    mean, std = blocks.moments(column, mask)
    rows = column[mask].astype(np.float64)
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-13)
    np.testing.assert_allclose(std, rows.std(0), rtol=1e-9)
    ones = blocks.moments(np.ones((5, 2), np.float32), np.ones(5, bool))
    assert ones[0].tolist() == [1, 1] and ones[1].tolist() == [0, 0]


def test_a_column_is_normalised_in_blocks_with_the_same_bits(monkeypatch, data):
    whole = {kind: Normaliser.fit(data, DataOptions("x", normalise=kind)) for kind in ("none", "standard", "limits")}
    for normaliser in whole.values():
        buffer = Buffer.from_episodes(data, normaliser)
        assert np.asarray(buffer.obs).tobytes() == normaliser.obs(data.obs).tobytes()
        assert np.asarray(buffer.action).tobytes() == normaliser.action(data.action).tobytes()
    monkeypatch.setattr(blocks, "NUMBERS", 7)
    few = data.obs[:5]
    assert blocks.through(lambda x: 2 * x, few).tobytes() == (2 * few).tobytes()
    assert blocks.through(lambda x: 2 * x, few[:0]).shape == (0, 40)


def test_a_map_that_was_forgotten_is_read_again(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(10_000))
    column = np.asarray(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert column.sum() == 49_995_000
    blocks.forget(column)
    assert column.sum() == 49_995_000
    blocks.forget(np.arange(3))


def test_no_second_copy_of_the_observations_is_made(data):
    """The device's own copy is not NumPy's, and is not counted here."""
    size = data.obs.nbytes / MIB
    normaliser, used = peak(lambda: Normaliser.fit(data, DataOptions("x", normalise="standard")))
    assert used < size / 2
    buffer, used = peak(lambda: Buffer.from_episodes(data, normaliser))
    assert used < size / 2
    assert peak(lambda: stats(buffer))[1] < size / 2


def test_bytes_become_rows_without_a_copy_in_between():
    frames = np.random.default_rng(0).integers(0, 256, (11, 400, 1000), np.uint8)
    rows = importlib.import_module("rlkit.datasets.rows")
    recording = importlib.import_module("rlkit.datasets.episode_list").read(
        "frames", [{"observations": x, "actions": np.zeros((399, 1)), "rewards": np.zeros(399)} for x in frames],
        None, None,
    )  # fmt: skip
    episodes, used = peak(lambda: rows.assemble(recording))
    assert episodes.obs.tobytes() == frames.reshape(-1, 1000).astype(np.float32).tobytes()
    assert used < 1.3 * episodes.obs.nbytes / MIB


# ---- what does not fit


KINDS = [".npz", ".hdf5"]


def _refusal(path, free, monkeypatch, rlkit_command):
    monkeypatch.setattr(fields, "free_memory", lambda: free)
    code, _, err = rlkit_command("train", "bc", "--dataset", path, "--dry-run")
    assert code == 2 and err.count("\n") == 1
    return err


@pytest.mark.parametrize("suffix", KINDS)
def test_rows_that_do_not_fit_are_refused_before_they_are_read(tmp_path, monkeypatch, rlkit_command, suffix):
    """5 MB of bytes are 20 MB of float32: 25 in all, where 12 are free."""
    path = tmp_path / f"frames{suffix}"
    memory.write(memory.Dataset("frames", 400, (64, 64, 3), "uint8", suffix), 400, path)
    for reader in ("d4rl", "ogbench"):  # nothing may be read
        module = importlib.import_module(f"rlkit.datasets.formats.{reader}")
        monkeypatch.setattr(module, "Recording", None)
    monkeypatch.setattr(importlib.import_module("rlkit.datasets.untrusted.h5"), "read", None)
    monkeypatch.setattr(importlib.import_module("rlkit.datasets.untrusted.npz").Member, "read", None)
    err = _refusal(path, 12 * MIB, monkeypatch, rlkit_command)
    assert f"frames{suffix}: needs 0.02 GiB of memory" in err and "0.01 GiB are free" in err
    assert "use a smaller part of the data, or a machine with more memory" in err


def test_a_table_is_refused_before_its_arrays_are_made(tmp_path, monkeypatch, rlkit_command):
    lines = ["episode,step,observation_0,observation_1,action_0,reward,terminated"]
    lines += [f"0,{step},0.5,0.25,0.1,1.0,false" for step in range(20_000)]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines))
    monkeypatch.setattr(importlib.import_module("rlkit.datasets.formats.table_columns"), "matrix", None)
    err = _refusal(path, 2 * MIB, monkeypatch, rlkit_command)
    assert "table.csv: " in err and "free" in err and "use a smaller part of the data" in err


def test_what_lies_in_the_cache_is_refused_too(tmp_path, monkeypatch, rlkit_command):
    path = tmp_path / "frames.npz"
    memory.write(memory.Dataset("frames", 400, (64, 64, 3), "uint8", ".npz"), 400, path)
    options = DataOptions(str(path), cache_dir=tmp_path / "cache")
    load(options)
    monkeypatch.setattr(fields, "free_memory", lambda: 12 * MIB)
    with pytest.raises(fields.InputError, match=r"frames.npz: .*free memory"):
        load(options)


# ---- what --dry-run says


@pytest.mark.slow
@pytest.mark.parametrize("suffix", KINDS[:1])  # the formats differ before the cache alone
def test_the_memory_of_a_dry_run_is_that_of_training(tmp_path, suffix, monkeypatch):
    """50 MB of frames, whether they are read for the first time or lie in the cache."""
    # one device: each of the eight that the suite has would hold a copy of the data
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"].replace(DEVICES, ""))
    found = memory.measure(memory.Dataset("frames", 4_000, (64, 64, 3), "uint8", suffix), tmp_path)
    for peak in (found["first"], found["again"]):
        assert 0.8 * peak < found["dry_run"] < 1.2 * peak
