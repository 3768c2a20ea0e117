"""The runner of the results tables (benchmarks/table.py)."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks import table

TOML = """
args = "--steps 5"
[[cells]]
agent = "bc"
seeds = [0]
datasets = ["toy.h5"]
"""


def test_files_are_named_from_their_folder_and_no_path_gets_into_the_command(tmp_path, monkeypatch):
    home, files = tmp_path / "home", tmp_path / "files"
    for folder in (home, files):
        folder.mkdir()
    (home / "train.py").write_text("import os, sys\nprint(os.getcwd(), *sys.argv[1:])\nsys.exit(3)\n")
    (home / "toy.toml").write_text(TOML)
    monkeypatch.setattr(table, "ROOT", home)
    monkeypatch.chdir(home)
    core = min(os.sched_getaffinity(0))
    assert table.run(home / "toy.toml", out=Path("runs"), cores=[core], only=None, files=files) == 1
    assert not (home / "toy.csv").exists()  # a run that failed is no row
    told = (home / "runs" / "bc" / "toy.h5" / "0.log").read_text().split()
    out = str(home / "runs" / "bc" / "toy.h5" / "0")
    where = f"--dataset toy.h5 --seed 0 --out {out}"
    assert told == [str(files), "train", "bc", *where.split(), *"--resume auto --steps 5".split()]
    (cell,) = table.cells(home / "toy.toml")
    assert str(tmp_path) not in " ".join(cell.command())


def test_an_interval_is_shown_where_there_are_seeds_for_one(tmp_path):
    rows = [("a", "x", 0, 10, 12), ("b", "x", 0, 10, 12), ("b", "x", 1, 30, 32)]
    names = ("label", "dataset", "seed", "score_last", "score_last_fifth")
    lines = [",".join((*names, "data_score", "command"))]
    lines += [",".join((*map(str, row), "5", f"python {row[0]}")) for row in rows]
    (tmp_path / "toy.csv").write_text("\n".join(lines))
    row = table.show(tmp_path / "toy.toml").splitlines()[2]
    assert row == "| x | 5.0 | 10.0 (1) | 12.0 (1) | 20.0 [-107.1, 147.1] (2) | 22.0 [-105.1, 149.1] (2) |"
