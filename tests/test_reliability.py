"""Faults of a run directory, by the command line: damage, full disks, loggers that break, and files that are traps."""

import json
import os
import pickle
import shutil
import sys

import faulty
import pytest
from conftest import PACE, SMALL, fill, final_bits

import rlkit
from rlkit.runs import integrity
from rlkit.runs.lock import RunLock
from rlkit.types import InputError

TRAIN = ["train", "bc", *SMALL, *PACE]


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a finished run."""
    return shutil.copytree(trained, tmp_path / "run")


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# ---- integrity


def test_verify_prints_a_table_of_what_is_sound(rlkit_command, run):
    code, out, _ = rlkit_command("verify", run)
    assert code == 0
    for name in ("run.json", "metrics.jsonl", "result.json", "checkpoints/30", "checkpoints/40"):
        assert any(name in line and "sound" in line for line in out.splitlines()), name


@pytest.mark.parametrize(
    "name", ["run.json", "metrics.jsonl", "checkpoints/40/manifest.json", "checkpoints/30/state/_METADATA"]
)
def test_verify_names_what_is_damaged(rlkit_command, run, name):
    if name == "run.json":  # still a record, of another learning rate
        (run / name).write_text((run / name).read_text().replace("0.0003", "0.0004"))
    else:
        _flip(run / name)
    code, out, _ = rlkit_command("verify", run)
    assert code == 1 and "Traceback" not in out
    damaged = [line for line in out.splitlines() if "damaged" in line]
    assert damaged and all(str(run / name) in line for line in damaged)


def test_verify_wants_a_run_directory(rlkit_command, tmp_path):
    code, _, err = rlkit_command("verify", tmp_path)
    assert code == 2 and "is not a run directory" in err


def test_a_policy_is_loaded_from_the_checkpoint_before_a_damaged_one(run, capsys):
    rlkit.load(run)
    assert capsys.readouterr().err == ""
    _flip(run / "checkpoints" / "40" / "state" / "manifest.ocdbt")
    rlkit.load(run)
    told = capsys.readouterr().err
    assert "checkpoints/40/state/manifest.ocdbt is damaged" in told and told.count("\n") == 1
    assert (run / "checkpoints" / "40").exists()


def test_a_policy_is_not_loaded_with_a_changed_record(rlkit_command, run):
    (run / "run.json").write_text((run / "run.json").read_text().replace("0.0003", "0.0004"))
    with pytest.raises(InputError, match="run.json is damaged"):
        rlkit.load(run)
    code, _, err = rlkit_command("evaluate", run)
    assert code == 2 and err.count("\n") == 1


def test_training_goes_on_from_the_checkpoint_before_a_damaged_one_to_the_same_bits(rlkit_command, run, trained):
    _flip(run / "checkpoints" / "40" / "state" / "manifest.ocdbt")
    (run / "result.json").unlink()
    code, out, err = rlkit_command(*TRAIN, "--out", run, "--resume", "auto")
    assert code == 0 and "going on after 30 updates" in out and "going back to the checkpoint before it" in err
    assert final_bits(run) == final_bits(trained)
    assert (run / "metrics.jsonl").read_bytes() == (trained / "metrics.jsonl").read_bytes()
    assert (run / "checkpoints" / "40.damaged").exists()


# ---- traps


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


PROTOCOLS = (0, pickle.HIGHEST_PROTOCOL)


def _trap(path, sprung, protocol):
    path.write_bytes(pickle.dumps(Payload(str(sprung)), protocol) + b"\n")


@pytest.mark.slow
@pytest.mark.parametrize("sealed", [False, True])
def test_no_file_of_a_run_is_unpickled(rlkit_command, run, tmp_path, sealed):
    """Whatever reads it says so in one line; with ``sealed``, whoever planted it has mended the manifest. Each file is
    met with one of the protocols unsealed, and with the other one sealed."""
    sprung = tmp_path / "sprung"
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and "tensorboard" not in path.parts]
    assert len(files) > 8
    for number, path in enumerate(files):
        kept = path.read_bytes()
        _trap(path, sprung, PROTOCOLS[(number + sealed) % 2])
        folder = next((p for p in path.parents if p.parent.name == "checkpoints"), None)
        manifest = folder and (folder / integrity.MANIFEST).read_bytes()
        if sealed and folder and path.name != integrity.MANIFEST:
            meta = json.loads(manifest)["meta"]
            (folder / integrity.MANIFEST).unlink()
            integrity.seal(folder, meta)
        for argv in (["verify", run], ["evaluate", run, "--episodes", "1"], ["report", run]):
            code, _, err = rlkit_command(*argv)
            assert code in (0, 1, 2) and err.count("\n") <= 1, (path, argv, err)
        try:
            rlkit.load(run)
        except InputError as error:
            assert "\n" not in str(error)
        if manifest and path.name != integrity.MANIFEST:
            (folder / integrity.MANIFEST).write_bytes(manifest)
        path.write_bytes(kept)
        assert not sprung.exists(), path
    (run / "result.json").unlink()
    for path in (run / "metrics.jsonl", run / "run.json"):
        for protocol in PROTOCOLS:
            _trap(path, sprung, protocol)
            code, _, err = rlkit_command(*TRAIN, "--out", run, "--resume", "auto")
            assert code == 2 and err.count("\n") == 1
    assert not sprung.exists()


# ---- disks and directories


def test_two_runs_cannot_share_a_directory(rlkit_command, run):
    before = (run / "metrics.jsonl").read_bytes()
    with RunLock(run):
        code, _, err = rlkit_command(*TRAIN, "--out", run, "--resume", "auto")
    assert code == 2 and err.count("\n") == 1 and f"in use by process {os.getpid()} on" in err
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_directory_that_cannot_be_written_to_is_found_before_the_data_are_read(rlkit_command, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = rlkit_command(*TRAIN, "--dataset", "no/such-v0", "--out", tmp_path / "file" / "run")
    assert code == 2 and "cannot be written to" in err and err.count("\n") == 1


def test_a_disk_that_is_too_small_is_found_before_training(rlkit_command, small_disk):
    fill(small_disk / "filler", leave=2**18)
    code, _, err = rlkit_command(*TRAIN, "--out", small_disk / "run")
    assert code == 2 and err.count("\n") == 1
    assert "the checkpoints need" in err and "make room" in err


@pytest.mark.slow
def test_a_disk_that_fills_up_stops_the_run_which_goes_on_once_there_is_room(
    rlkit_command, small_disk, tmp_path, cache
):
    """In a process of its own, while it trains: it is held after its first checkpoint until the disk is full."""
    run = small_disk / "run"
    child = faulty.Child(cache, run, *faulty.LATE, files=tmp_path)
    child.wait_for(child.mark.exists)
    fill(small_disk / "filler", leave=0)
    child.open()
    code, err = child.end(300)
    assert code == 1
    assert "cannot be written" in err.splitlines()[-1] and "make room" in err.splitlines()[-1]
    assert "Traceback" not in err
    (small_disk / "filler").unlink()
    code, out, _ = rlkit_command(*faulty.command(run, *faulty.LATE), catalog=faulty.catalog())
    assert code == 0 and "going on after 40 updates" in out
    assert rlkit_command(*faulty.command(tmp_path / "straight", *faulty.LATE), catalog=faulty.catalog())[0] == 0
    faulty.assert_same_run(run, tmp_path / "straight")


# ---- loggers and plots


def test_a_tensorboard_folder_that_cannot_be_written_to_costs_tensorboard_alone(rlkit_command, tmp_path, trained):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    for name in ("tensorboard", "checkpoints"):
        shutil.rmtree(run / name)
    (run / "result.json").unlink()
    (run / "tensorboard").write_text("a file")
    code, _, err = rlkit_command(*TRAIN, "--out", run, "--resume", "auto")
    assert code == 0 and err.count("TensorBoard does not start and is off") == 1
    assert (run / "metrics.jsonl").read_bytes() == (trained / "metrics.jsonl").read_bytes()


def test_a_full_disk_costs_tensorboard_alone_and_does_not_hang(small_disk, capsys):
    """The package's own writer waits for ever once its thread has died of that."""
    from rlkit.runs.loggers import TensorBoard

    logger = TensorBoard(small_disk, 0)
    fill(small_disk / "filler", leave=0)
    with pytest.raises(TensorBoard.errors):
        for updates in range(10_000):
            logger.scalars(updates, {"a/b": 1.0})


def test_a_plot_that_fails_does_not_fail_the_run(rlkit_command, run, monkeypatch, tmp_path):
    (tmp_path / "site" / "matplotlib").mkdir(parents=True)
    (tmp_path / "site" / "matplotlib" / "__init__.py").write_text("raise ImportError('libfreetype is missing')")
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path / "site")
    (run / "result.json").unlink()
    (run / "curve.png").unlink()
    code, _, err = rlkit_command(*TRAIN, "--out", run, "--resume", "auto")
    assert code == 0 and "the figures could not be drawn: libfreetype is missing" in err
    assert (run / "result.json").exists() and not (run / "curve.png").exists()
