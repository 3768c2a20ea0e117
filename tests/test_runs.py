"""`rlkit runs`: what is below a folder."""

from __future__ import annotations

import shutil

from rlkit.runs.lock import RunLock


def test_every_run_has_a_row_with_its_state(rlkit_command, trained, tmp_path):
    for name in ("a/finished", "a/stopped", "damaged"):
        shutil.copytree(trained, tmp_path / name)
    (tmp_path / "a/stopped/result.json").unlink()
    shutil.rmtree(tmp_path / "a/stopped/checkpoints/40")
    (tmp_path / "damaged/run.json").write_text("{")
    (tmp_path / "empty").mkdir()
    code, out, err = rlkit_command("runs", tmp_path)
    assert code == 0, err
    titles, _, *rows = out.splitlines()
    assert titles.split() == ["run", "agent", "dataset", "state", "updates", "return", "score"]
    finished, stopped, damaged = rows
    assert finished.split()[:7] == [
        str(tmp_path / "a/finished"), "bc", "pendulum/mixed-v0", "finished", "40", "of", "40"
    ]  # fmt: skip
    assert stopped.split()[3:7] == ["stopped", "30", "of", "40"]
    assert finished.split()[7:] == stopped.split()[7:] and float(finished.split()[7]) < 0
    assert str(tmp_path / "damaged") in damaged and "cannot be read" in damaged
    with RunLock(tmp_path / "a/stopped"):
        _, out, _ = rlkit_command("runs", tmp_path / "a/stopped")
    assert "running" in out.splitlines()[2]


def test_where_there_is_no_run_it_is_said(rlkit_command, tmp_path):
    for folder, words in (tmp_path, "no run below"), (tmp_path / "absent", "no such folder"):
        code, _, err = rlkit_command("runs", folder)
        assert code == 2 and words in err and err.count("\n") == 1
