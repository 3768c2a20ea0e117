"""Checkpoints: exact, bounded in number, and refused where they are not the run's own."""

import resource
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import bits, fill

from agents.bc import Config
from rlkit.buffer import Buffer, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.runs import integrity
from rlkit.runs.checkpoint import Checkpoints
from rlkit.training.loop import fit
from rlkit.training.sharding import make_mesh
from rlkit.types import InputError, RunError

SEEDS = (3, 4)


@pytest.fixture(scope="module")
def world():
    """(stages, buffer, stats, mesh) of a small behaviour cloning run."""
    rng = np.random.default_rng(0)
    episode = {
        "observations": rng.normal(size=(21, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (20, 2)).astype(np.float32),
        "rewards": np.ones(20, np.float32),
    }
    episodes = from_episodes([episode] * 3)
    buffer = Buffer.from_episodes(episodes, Normaliser.fit(episodes, DataOptions("none")))
    stages = Config(widths=(8,), batch_size=4).stages(spec(episodes, None), steps=40)
    return stages, buffer, stats(buffer), make_mesh(len(SEEDS))


def _train(world, resume=None):
    stages, buffer, moments, mesh = world
    return fit(stages, buffer, moments, SEEDS, log_every=10, mesh=mesh, resume=resume)


def test_restores_the_bits_that_were_saved_though_the_state_was_donated_since(tmp_path, world):
    stages, buffer, moments, mesh = world
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for progress in _train(world):
            if progress.step == 20:
                checkpoints.save(20, progress)
                saved = bits(progress.state)
        assert bits(progress.state) != saved
        last = checkpoints.last(stages, buffer, moments, SEEDS, mesh)
    assert (last.stage, last.step) == (0, 20)
    assert bits(last.state) == saved
    assert jax.tree.structure(last.state) == jax.tree.structure(progress.state)


def test_training_from_a_checkpoint_ends_at_the_same_bits(tmp_path, world):
    stages, buffer, moments, mesh = world
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for progress in _train(world):
            if progress.step == 10:
                checkpoints.save(10, progress)
    straight = bits(progress.state)
    with Checkpoints(tmp_path) as checkpoints:
        resumed = list(_train(world, checkpoints.last(stages, buffer, moments, SEEDS, mesh)))
    assert [progress.step for progress in resumed] == [20, 30, 40]
    assert bits(resumed[-1].state) == straight


def test_keeps_the_last_ones_and_clears_the_debris_of_a_killed_save(tmp_path, world):
    stages, buffer, moments, mesh = world
    debris, old = tmp_path / ".15.part", tmp_path / ".10.old"
    strange = tmp_path / "15.orbax-checkpoint-tmp"
    for folder in (debris, old, strange):
        (folder / "state").mkdir(parents=True)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for progress in _train(world):
            if progress.step:
                checkpoints.save(progress.step, progress)
    assert not debris.exists() and not old.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [strange.name, "30", "40"], "what is not ours is left"
    debris.mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.last(stages, buffer, moments, SEEDS, mesh).step == 40
    assert debris.exists(), "a reader changes nothing"


def test_a_reader_of_no_checkpoints_finds_none_and_makes_no_folder(tmp_path, world):
    stages, buffer, moments, mesh = world
    with Checkpoints(tmp_path / "none") as checkpoints:
        assert checkpoints.last(stages, buffer, moments, SEEDS, mesh) is None
    assert not (tmp_path / "none").exists()


def test_refuses_other_shapes_and_dtypes_by_name(tmp_path, world):
    stages, buffer, moments, mesh = world
    progress = next(_train(world))
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(10, progress._replace(step=10))
        halved = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, progress.state)
        wide = Config(widths=(9,)).stages(stages[0].learner.spec, steps=40)
        with pytest.raises(InputError, match=r"9 of 13 .*Dense_0/bias: saved float32\[2, 8\], wanted float32\[2, 9\]"):
            checkpoints.last(wide, buffer, moments, SEEDS, mesh)
        checkpoints.save(20, progress._replace(step=20, state=halved))
        with pytest.raises(InputError, match="saved bfloat16.* wanted float32"):
            checkpoints.last(stages, buffer, moments, SEEDS, mesh)


def _save_twice(folder, world, identity=None):
    """Checkpoints 10 and 20, and the bits of the former's state."""
    with Checkpoints(folder, keep=2, identity=identity) as checkpoints:
        for progress in _train(world):
            if progress.step in (10, 20):
                checkpoints.save(progress.step, progress)
            if progress.step == 10:
                kept = bits(progress.state)
    return kept


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, world):
    """A folder with the checkpoints 10 and 20, and the bits of 10."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    return folder, _save_twice(folder, world)


def test_a_flipped_bit_in_any_file_is_named_and_the_checkpoint_before_is_used(tmp_path, world, saved, capsys):
    stages, buffer, moments, mesh = world
    source, kept = saved
    files = [path.relative_to(source) for path in sorted((source / "20").rglob("*")) if path.is_file()]
    assert len(files) > 3
    for number, name in enumerate(files):
        folder = shutil.copytree(source, tmp_path / str(number))
        if (folder / name).stat().st_size == 0:
            (folder / name).write_bytes(b"\0")
        else:
            _flip(folder / name)
        with Checkpoints(folder) as checkpoints:
            last = checkpoints.last(stages, buffer, moments, SEEDS, mesh)
        assert (last.step, bits(last.state)) == (10, kept), name
        told = capsys.readouterr().err
        assert str(folder / name) in told and told.count("\n") == 1
        assert integrity.MANIFEST in {path.name for path in (folder / "20").iterdir()}, "a reader changes nothing"


@pytest.mark.parametrize("loss", ["manifest.json", "state/_METADATA"])
def test_what_is_missing_is_named_and_a_writer_sets_the_damaged_one_aside(tmp_path, world, saved, loss, capsys):
    stages, buffer, moments, mesh = world
    folder = shutil.copytree(saved[0], tmp_path / "run")
    (folder / "20" / loss).unlink()
    with Checkpoints(folder, keep=2) as checkpoints:
        last = checkpoints.last(stages, buffer, moments, SEEDS, mesh)
        assert last.step == 10 and loss.split("/")[-1] in capsys.readouterr().err
        for progress in _train(world, last):
            checkpoints.save(progress.step, progress)
    assert sorted(path.name for path in folder.iterdir()) == ["20.damaged", "30", "40"]


def test_where_all_are_damaged_nothing_is_overwritten(tmp_path, world, saved):
    stages, buffer, moments, mesh = world
    folder = shutil.copytree(saved[0], tmp_path / "run")
    for number in ("10", "20"):
        (folder / number / "manifest.json").unlink()
    with Checkpoints(folder) as checkpoints, pytest.raises(InputError, match="no checkpoint is sound"):
        checkpoints.last(stages, buffer, moments, SEEDS, mesh)


def test_a_checkpoint_of_another_run_is_refused_with_the_keys_that_differ(tmp_path, world):
    stages, buffer, moments, mesh = world
    _save_twice(tmp_path, world, {"agent": "bc", "config": {"beta": 1.0, "gamma": 0.9}})
    other = {"agent": "bc", "config": {"beta": 2.0, "gamma": 0.9}}
    with Checkpoints(tmp_path, identity=other) as checkpoints:
        with pytest.raises(InputError, match=r"20 is of another run \(config.beta: 1.0 -> 2.0\)"):
            checkpoints.last(stages, buffer, moments, SEEDS, mesh)


def test_the_record_beside_a_checkpoint_is_sealed_and_the_metrics_may_only_grow(tmp_path, world):
    stages, buffer, moments, mesh = world
    record, metrics = tmp_path / "run.json", tmp_path / "metrics.jsonl"
    record.write_text("{}")
    metrics.write_text("one\n")
    _save_twice(tmp_path / "checkpoints", world)
    metrics.write_text("one\ntwo\n")
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        assert checkpoints.last(stages, buffer, moments, SEEDS, mesh).step == 20
        for path, content in ((metrics, "ome\ntwo\n"), (record, "{ }")):
            path.write_text(content)
            with pytest.raises(InputError, match=f"{path.name} is damaged"):
                checkpoints.last(stages, buffer, moments, SEEDS, mesh)


def test_the_sums_of_an_interval_survive_to_the_bit(tmp_path, world):
    stages, buffer, moments, mesh = world
    for progress in fit(stages, buffer, moments, SEEDS, log_every=10, mesh=mesh, chunk_seconds=0):
        if progress.step == 7:
            break
    sums = {"a/b": np.array([1 / 3, np.nan], np.float32), "c/d": np.array([np.inf, -1e-42], np.float32)}
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(7, progress._replace(sums=sums))
        last = checkpoints.last(stages, buffer, moments, SEEDS, mesh)
    assert bits(last.sums) == bits(sums)
    assert all(value.dtype == np.float32 for value in last.sums.values())


def test_a_full_disk_keeps_the_last_good_checkpoint_and_tells_the_bytes_needed(tmp_path, world, small_disk):
    """16 KiB are left when the second one is written; it goes well again once there is room."""
    stages, buffer, moments, mesh = world
    with Checkpoints(small_disk / "checkpoints", keep=2) as checkpoints:
        filler = small_disk / "filler"
        for progress in _train(world):
            if progress.step == 10:
                checkpoints.save(10, progress)
                kept = bits(progress.state)
                fill(filler, leave=16 * 1024)
            if progress.step == 20:
                with pytest.raises(
                    RunError, match=r"checkpoint 20 cannot be written .*[0-9] bytes are needed and .*10, is"
                ):
                    checkpoints.save(20, progress)
                assert [path.name for path in checkpoints.folder.iterdir()] == ["10"]
                last = checkpoints.last(stages, buffer, moments, SEEDS, mesh)
                assert (last.step, bits(last.state)) == (10, kept)
                filler.unlink()
                checkpoints.save(20, progress)
        assert checkpoints.last(stages, buffer, moments, SEEDS, mesh).step == 20


def test_a_write_error_is_a_run_error(tmp_path, world):
    """The limit on a file's size makes every write fail, without privileges."""
    progress = next(_train(world))
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
        try:
            with pytest.raises(RunError, match="checkpoint 10 cannot be written"):
                checkpoints.save(10, progress)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []
