"""The lock of a run directory: one writer, and no obstacle once that one is gone."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rlkit.runs.lock import NAME, RunLock
from rlkit.types import InputError

HOLD = """
import sys, time
from pathlib import Path
from rlkit.runs.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path/run."""
    root = str(Path(__file__).parent.parent)
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    child = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.wait()


def test_the_second_is_refused_with_host_and_process_of_the_first(tmp_path, holder):
    for _ in range(2):
        with pytest.raises(InputError) as refusal, RunLock(tmp_path / "run"):
            pass
        assert f"in use by process {holder.pid} on {socket.gethostname()}" in str(refusal.value)
    assert (tmp_path / "run" / NAME).exists(), "the first one's lock is left alone"


def test_a_killed_holder_is_no_obstacle(tmp_path, holder, capsys):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / NAME).exists()
    with RunLock(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / NAME).read_text())["pid"] == os.getpid()
    assert capsys.readouterr().err == ""


def test_nothing_is_left_of_a_lock_and_what_was_there_stays(tmp_path):
    with RunLock(tmp_path / "new" / "run"):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    with RunLock(tmp_path / "old"):
        pass
    with RunLock(tmp_path / "used"):
        (tmp_path / "used" / "file").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "old", "used"]


def test_another_hosts_lock_is_stale_once_it_is_still(tmp_path, capsys):
    path = tmp_path / NAME
    path.write_text(json.dumps({"host": "elsewhere", "pid": 7}))
    with RunLock(tmp_path, patience=0.2):
        assert json.loads(path.read_text())["host"] == socket.gethostname()
    assert "a lock of process 7 on elsewhere; watching whether it lives" in capsys.readouterr().err


def test_another_hosts_lock_that_is_touched_is_respected(tmp_path):
    path = tmp_path / NAME
    path.write_text(json.dumps({"host": "elsewhere", "pid": 7}))
    over = threading.Event()

    def beat():
        while not over.wait(0.1):
            path.touch()

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(InputError, match="in use by process 7 on elsewhere"), RunLock(tmp_path, patience=10):
            pass
    finally:
        over.set()
        thread.join()
    assert json.loads(path.read_text())["host"] == "elsewhere"


def test_a_holder_shows_that_it_lives(tmp_path):
    with RunLock(tmp_path) as lock:
        before = (tmp_path / NAME).stat().st_mtime_ns
        time.sleep(0.02)
        lock.touch()
        assert (tmp_path / NAME).stat().st_mtime_ns > before


def test_a_damaged_lock_file_is_no_obstacle(tmp_path):
    (tmp_path / NAME).write_bytes(b"\x80\x04cos\nsystem\n")
    with RunLock(tmp_path):
        pass


def test_what_cannot_be_written_to_is_told_in_one_line(tmp_path, small_disk):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written to .Not a directory.: choose another --out"):
        RunLock(tmp_path / "file" / "run").__enter__()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(InputError, match="cannot be written to .Read-only file system."):
        RunLock(small_disk / "run").__enter__()
