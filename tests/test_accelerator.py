"""One call on an accelerator (benchmarks/accelerator), at toy size on the CPU."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import agents
from benchmarks import table
from benchmarks.accelerator import call, files, home, speed, training
from benchmarks.accelerator.__main__ import main
from benchmarks.accelerator.files import CARRIED, FILE, FILES, MIB, SLACK, Carried, Results, obstacle
from rlkit.buffer import Buffer
from rlkit.datasets import DataOptions, Normaliser
from rlkit.runs.record import Record
from rlkit.runs.run import evaluations
from rlkit.types import InputError

ROOT = Path(__file__).parent.parent
TOY = """
args = "--seeds 2 --steps 40 --eval-every 40 --log-every 5 --eval-episodes 2 --config.widths 8 --config.batch-size 8"
[[cells]]
label = "first"
agent = "sac-rnd"
seeds = [0]
datasets = ["pendulum/mixed-v0"]
args = "--config.rnd-steps 10 --config.rnd-width 8"
[[cells]]
label = "second"
agent = "bc"
seeds = [0]
datasets = ["pendulum/mixed-v0"]
"""
# what a machine that only trains may not have: neither these nor what they are made for is imported there
BLOCKED = ("gymnasium", "minari", "pyarrow", "mujoco", "orbax", "tyro", "h5py", "matplotlib", "tensorboardX", "PIL")
BARE = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED}:
            raise ModuleNotFoundError(f"{{name}} is not on this machine")

sys.meta_path.insert(0, Blocked())
from benchmarks.accelerator import speed
from benchmarks.accelerator.__main__ import main
speed.SECONDS, speed.CHUNK, speed.ROWS = 0.1, 0.05, 1000
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory, cache):
    """A table of two cells."""
    path = tmp_path_factory.mktemp("accelerator") / "toy.toml"
    path.write_text(TOY)
    return path


@pytest.fixture(scope="module")
def packed(toy, cache):
    """A folder with what goes along to the first call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLKIT_CACHE_DIR", str(cache))
        assert home.pack(toy, toy.parent / "packed") == 0
    return toy.parent / "packed"


@pytest.fixture
def place(packed, tmp_path, cache, monkeypatch):
    """A copy of that folder that a test may change; measurements are noted beside it."""
    monkeypatch.setenv("RLKIT_CACHE_DIR", str(cache))
    monkeypatch.setattr(home, "MEASURED", tmp_path / "measured.jsonl")
    shutil.copytree(packed, tmp_path / "home")
    return tmp_path / "home"


def alone(*command: str | Path, **env: str) -> None:
    """Run Python in a process of its own that has one device, as a call has."""
    one = os.environ | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"}
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(words, cwd=ROOT, env=one | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def returned(toy, packed):
    """What a call brought back that was not cut off: all four parts, where nothing but jax, flax and optax can be
    imported of what is heavy."""
    out = toy.parent / "returned"
    asked = ["--minutes", "30", "--out", out, "--agents", "bc", "--table", toy, "--home", packed]
    alone("-c", BARE, *asked, PYTHONPATH=str(ROOT))
    return out


@pytest.fixture(scope="module")
def straight(toy, packed, cache):
    """The run directory of the first cell: trained by its own command, on this CPU."""
    folder = toy.parent / "straight"
    alone("train.py", *table.cells(toy)[0].arguments(str(folder)), RLKIT_CACHE_DIR=str(cache))
    return folder


def report(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "report.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_every_part_reports_on_a_machine_with_jax_flax_and_optax_alone(returned):
    lines = report(returned)
    assert {line["part"] for line in lines} == {"a", "b", "c", "d", "end"}
    assert not any("failed" in line or "not_measured" in line for line in lines)
    measured = [(line["agent"], line["seeds"]) for line in lines if line["part"] == "b"]
    assert measured == [("bc", 1), ("bc", 8)]
    assert all(line["updates_s"] > 0 for line in lines if line["part"] == "b")
    assert [line["agent"] for line in lines if line["part"] == "c"] == ["bc"]
    assert [line["cell"] for line in lines if line.get("finished")] == ["first", "second"]
    assert all({"device", "commit", "versions"} <= set(line) for line in lines)
    sizes = [path.stat().st_size for path in returned.iterdir()]
    assert len(sizes) <= FILES and max(sizes) <= FILE and not files.parts(returned)


def test_the_carried_rows_make_the_buffer_that_the_dataset_makes(place):
    carried = Carried(place / "carry")
    cell = carried.cells[0]
    episodes = home.load(DataOptions("pendulum/mixed-v0"), roots=[home.composition_root.catalog().datasets])
    normaliser = Normaliser.from_json(cell.record.normaliser)
    wanted = Buffer.from_episodes(episodes, normaliser, ("next_action",))
    found = Buffer.from_episodes(carried.episodes(cell), normaliser, ("next_action",))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert {leaf.dtype for leaf in (found.obs, found.action, found.reward)} == {np.dtype(np.float32)}


@pytest.mark.slow
def test_a_finished_cell_is_a_run_that_evaluate_reads_and_equals_training_at_home(
    toy, place, returned, straight, rlkit_command
):
    assert home.collect(returned, place) == 0
    first, second = (place / "runs" / cell.id for cell in Carried(place / "carry").cells)
    assert rlkit_command("evaluate", first)[:2] == rlkit_command("evaluate", straight)[:2]
    assert rlkit_command("evaluate", second)[0] == 0
    logged = (straight / "metrics.jsonl").read_text().splitlines()
    assert (first / "metrics.jsonl").read_text().splitlines() == [line for line in logged if "returns" not in line]
    assert home.score(toy, place) == 0
    rows = table.rows(toy.with_suffix(".csv"))
    assert "`first`" in table.render(toy)
    toy.with_suffix(".csv").unlink()
    told = sorted((row["label"], row["seed"], row["status"]) for row in rows)
    assert told == [(label, seed, "finished") for label in ("first", "second") for seed in ("0", "1")]
    returns = evaluations(straight)[-1].returns
    for row in rows:
        if row["label"] == "first":
            assert row["returns_last"] == " ".join(f"{value:.7g}" for value in returns[int(row["seed"])])
            assert row["configuration"] == table.configuration(Record.read(straight))
    measured = home.MEASURED.read_text().splitlines()
    assert {json.loads(line)["part"] for line in measured} == {"a", "b", "c"}
    home.collect(returned, place)  # once more: nothing twice
    assert home.MEASURED.read_text().splitlines() == measured


@pytest.mark.slow
def test_a_cell_that_is_cut_off_goes_on_to_the_same_bits(place, monkeypatch, tmp_path):
    """Cut off after every few looks at the clock: at the start of a stage, between log lines, between stages."""
    training.train(Results(tmp_path / "whole", {}), Carried(place / "carry"), until=math.inf)
    wanted, steps = files.read_finished(tmp_path / "whole"), []
    for number in range(40):
        monkeypatch.setattr(training, "now", itertools.count().__next__)
        out = tmp_path / f"call-{number}"
        results = Results(out, {})
        training.train(results, Carried(place / "carry"), until=14)
        if left := files.read_unfinished(out):
            steps.append((left[0]["id"], left[0]["stage"], left[0]["step"]))
        home.collect(out, place)
        if len(Carried(place / "carry").finished) == len(wanted):
            break
    assert len(steps) > 4 and steps == sorted(set(steps), key=steps.index)  # each call came further
    assert not files.parts(place / "carry")
    found = {}
    for folder in sorted(tmp_path.glob("call-*")):
        found |= files.read_finished(folder)
    assert set(found) == set(wanted)
    for cell, (meta, arrays) in wanted.items():
        assert found[cell][0]["metrics"] == meta["metrics"]
        assert found[cell][1].keys() == arrays.keys()
        for name, value in arrays.items():
            np.testing.assert_array_equal(found[cell][1][name], value)


@pytest.mark.slow
def test_a_call_that_is_killed_counts_as_far_as_it_came(place, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def clock():
        if next(ticks) == 60:
            raise Killed
        return 1e3 * next(ticks)  # so that the state is kept at every look

    ticks = itertools.count()
    monkeypatch.setattr(training, "now", clock)
    with pytest.raises(Killed):
        training.train(Results(tmp_path / "out", {}), Carried(place / "carry"), until=math.inf)
    (tmp_path / "out" / ".part").write_bytes(b"cut off while it was written")
    left = files.read_unfinished(tmp_path / "out")
    told = report(tmp_path / "out")[-1]
    assert (left[0]["stage"], left[0]["step"]) > (0, 0)
    assert (left[0]["step"], left[0]["seconds"]) == (told["step"], told["seconds"])
    home.collect(tmp_path / "out", place)
    assert Carried(place / "carry").unfinished[0] == left[0]


def test_a_cell_that_could_not_be_carried_is_not_begun(place, monkeypatch, tmp_path):
    carried = Carried(place / "carry")
    policy, state = training.bytes_kept(carried.cells[0].record)
    assert policy < state / 5 and training.bytes_kept(carried.cells[1].record)[1] < state
    monkeypatch.setattr(files, "CARRIED", carried.bytes + state + SLACK - 1)
    training.train(Results(tmp_path, {}), carried, until=math.inf)
    lines = report(tmp_path)
    assert "would have to be carried there" in lines[0]["not_begun"] and lines[0]["cell"] == "first"
    assert [line["cell"] for line in lines if line.get("finished")] == ["second"]


@pytest.mark.parametrize(
    "carried, finished, policy, state, what",
    [
        (CARRIED - 32 * MIB - SLACK, [], MIB, 32 * MIB, None),
        (CARRIED - 32 * MIB - SLACK + 1, [], MIB, 32 * MIB, "carried there"),
        (0, [10 * MIB], 2 * MIB, 51 * MIB - 3 * SLACK, None),
        (0, [10 * MIB], 2 * MIB, 51 * MIB - 3 * SLACK + 2 * MIB, "brought back"),
        (0, [], FILE - SLACK, MIB, None),
        (0, [], FILE, MIB, "in one file"),
        (0, [MIB] * 4, 0, FILE - SLACK, None),
        (0, [MIB] * 5, 0, FILE - SLACK, None),
        (0, [MIB] * 5, 0, FILE, "9 files"),
    ],
)
def test_limits(carried, finished, policy, state, what):
    """The report, and one file that is being written, count too: FILES leaves room for six others."""
    found = obstacle(carried, finished, policy, state)
    assert found is None if what is None else what in found


def test_four_seeds_of_sac_rnd_fit_beside_the_tree_and_two_sets(monkeypatch):
    """At the paper's size, with the sets' 21.4 MiB, on the way there and back."""
    monkeypatch.setattr(speed, "ROWS", 500)
    _, stages, buffer, moments = speed.example("sac-rnd")
    shapes = training.abstract_state(stages, len(stages) - 1, buffer, moments, range(4))
    named = files.named(shapes, "state")
    policy = files.size([named[name] for name in training.acting(stages[-1].learner, shapes, speed.OBS)])
    tree = 9 * MIB
    if (ROOT / ".git").exists():
        assert home.tree_bytes() < tree
    assert obstacle(tree + int(21.5 * MIB), [], policy, files.size(shapes)) is None


def test_the_tree_is_what_git_does_not_ignore(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text("big\n")
    (tmp_path / "big").write_bytes(bytes(1000))
    (tmp_path / "new").write_bytes(bytes(100))
    monkeypatch.setattr(table, "ROOT", tmp_path)
    assert home.tree_bytes() == 100 + len("big\n")


def test_what_is_carried_is_the_tree_and_the_data(place):
    carried = Carried(place / "carry")
    (place / "carry" / "unfinished.npz.0").write_bytes(bytes(10))  # counted as the state of its cell
    assert carried.bytes == carried.tree + (place / "carry" / "pendulum-mixed-v0.npz").stat().st_size


def test_a_state_is_split_and_joined_and_a_smaller_one_replaces_it(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FILE", 1000)
    results, state = Results(tmp_path, {}), {"state/x": np.arange(700, dtype=np.float32), "sums/y": np.float32([0.1])}
    results.keep(files.encode({"id": "one"}, state))
    assert len(files.parts(tmp_path)) > 2 and max(part.stat().st_size for part in files.parts(tmp_path)) == 1000
    meta, arrays = files.read_unfinished(tmp_path)
    assert meta == {"id": "one"}
    jax.tree.map(np.testing.assert_array_equal, arrays, state)
    results.keep(files.encode({"id": "two"}, {}))
    assert len(files.parts(tmp_path)) == 1 and files.read_unfinished(tmp_path)[0] == {"id": "two"}


def test_parts_in_two_digits_are_joined_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FILE", 100)
    Results(tmp_path, {}).keep(files.encode({}, {"state/x": np.arange(700, dtype=np.float32)}))
    assert len(files.parts(tmp_path)) > 11
    np.testing.assert_array_equal(files.read_unfinished(tmp_path)[1]["state/x"], np.arange(700))


def test_a_damaged_state_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FILE", 1000)
    Results(tmp_path, {}).keep(files.encode({}, {"state/x": np.arange(700, dtype=np.float32)}))
    second = tmp_path / "unfinished.npz.1"
    second.write_bytes(second.read_bytes()[:-1] + b"\xff")  # of another copy, whose writing was cut off
    with pytest.raises(InputError, match="unfinished.npz is damaged"):
        files.read_unfinished(tmp_path)


def test_policies_fill_one_archive_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FILE", 4000)
    results = Results(tmp_path, {})
    for number in range(4):
        results.finish(str(number), files.encode({"n": number}, {"state/x": np.full(100, number, np.float32)}))
    assert len(results.sizes()) == 2 and max(results.sizes()) <= 4000
    found = files.read_finished(tmp_path)
    assert {name: (meta["n"], arrays["state/x"][0]) for name, (meta, arrays) in found.items()} == {
        str(number): (number, number) for number in range(4)
    }


def test_a_state_of_another_shape_is_refused():
    shapes = {"x": jax.ShapeDtypeStruct((2,), np.float32), "y": jax.ShapeDtypeStruct((3,), np.int32)}
    arrays = {"state/x": np.ones(2, np.float32), "state/y": np.ones(3, np.int32)}
    jax.tree.map(np.testing.assert_array_equal, files.filled(shapes, arrays), {"x": np.ones(2), "y": np.ones(3)})
    with pytest.raises(InputError, match="state/y is missing"):
        files.filled(shapes, {"state/x": arrays["state/x"]})
    assert files.filled(shapes, {"state/x": arrays["state/x"]}, partial=True)["y"].tolist() == [0, 0, 0]
    with pytest.raises(InputError, match=r"state/x is float32\[3\]"):
        files.filled(shapes, arrays | {"state/x": np.ones(3, np.float32)}, partial=True)


@pytest.mark.parametrize("name", agents.REGISTRY)
def test_of_a_finished_cell_only_the_policy_is_kept(name, monkeypatch):
    monkeypatch.setattr(speed, "ROWS", 500)
    _, stages, buffer, moments = speed.example(name)
    shapes = training.abstract_state(stages, len(stages) - 1, buffer, moments, (0,))
    read = training.acting(stages[-1].learner, shapes, buffer.obs.shape[1])
    arrays = files.named(shapes, "state")
    assert read and set(read) < set(arrays)
    assert not any("opt" in leaf.split("/") for leaf in read)  # Net's optimiser
    acts_with_targets = name in ("dql", "idql")  # they choose among candidates by their target critics
    assert any("target" in leaf for leaf in read) == acts_with_targets


@pytest.mark.slow
def test_seeds_that_diverge_have_rows_that_say_so(toy, place, tmp_path, monkeypatch):
    monkeypatch.setattr(training.divergence, "diverged", lambda metrics, finite, limit: {1: "critic/q is nan"})
    training.train(Results(tmp_path, {}), Carried(place / "carry"), until=math.inf)
    home.collect(tmp_path, place)
    home.score(toy, place)
    rows = table.rows(toy.with_suffix(".csv"))
    toy.with_suffix(".csv").unlink()
    assert {(row["seed"], row["status"], row["problem"]) for row in rows} == {
        ("0", "finished", ""), ("1", "diverged", "critic/q is nan")
    }  # fmt: skip
    assert all(bool(row["returns_last"]) == (row["seed"] == "0") for row in rows)


def test_a_cell_whose_seeds_all_diverge_ends_at_once(toy, place, tmp_path, monkeypatch):
    both = {0: "actor/q is inf", 1: "critic/q is nan"}
    monkeypatch.setattr(training.divergence, "diverged", lambda metrics, finite, limit: both)
    training.train(Results(tmp_path, {}), Carried(place / "carry"), until=math.inf)
    assert [line["step"] for line in report(tmp_path) if line.get("finished")] == [5, 5]  # the first log line
    home.collect(tmp_path, place)
    home.score(toy, place)
    rows = table.rows(toy.with_suffix(".csv"))
    toy.with_suffix(".csv").unlink()
    assert [row["status"] for row in rows] == ["diverged"] * 4


def test_a_part_that_fails_is_told_and_the_others_go_on(toy, place, tmp_path, monkeypatch, capsys):
    def broken(results, agents, until):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(call, "rates", broken)
    monkeypatch.setattr(call, "loops", lambda results, agents, until: results.tell(part="c"))
    asked = ["--out", tmp_path / "out", "--parts", "bc", "--table", toy, "--home", place]
    assert main([str(word) for word in asked]) == 1
    parts = [(line["part"], line.get("failed")) for line in report(tmp_path / "out")]
    assert parts == [("b", "RuntimeError: out of memory"), ("c", None), ("end", None)]


def test_each_part_has_its_share_of_the_time(toy, place, tmp_path, monkeypatch):
    untils = {}
    for part, name in zip("abcd", ("ceilings", "rates", "loops", "train"), strict=True):
        monkeypatch.setattr(call, name, lambda *args, part=part: untils.__setitem__(part, args[-1]))
    monkeypatch.setattr(call.time, "monotonic", lambda: 100.0)
    call.call(tmp_path, 250.0, "abcd", None, toy, place)
    assert untils == {"a": 110.0, "b": 190.0, "c": 210.0, "d": 350.0}
    call.call(tmp_path, 250.0, "d", None, toy, place)
    assert untils["d"] == 350.0


def test_what_was_not_measured_for_want_of_time_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "_rate", lambda name, seeds: {})
    monkeypatch.setattr(speed, "now", itertools.count().__next__)
    speed.rates(Results(tmp_path, {}), ["bc", "iql"], until=3)
    assert [line.get("not_measured") for line in report(tmp_path)] == [None, None, None, ["iql x 8"]]


def test_mistakes_are_told_in_one_line(toy, place, tmp_path, capsys):
    common = ["--out", tmp_path / "out", "--table", toy, "--home", place]
    for changed, told in (
        (["--agents", "nobody"], "no part or agent 'nobody'"),
        (["--parts", "ax"], "no part or agent 'x'"),
        (["--home", tmp_path / "nowhere"], "accelerator pack"),
    ):
        assert main([str(word) for word in [*common, *changed]]) == 2
        assert told in capsys.readouterr().err
    other = tmp_path / "other.toml"
    other.write_text(TOY + "\n")
    assert main([str(word) for word in [*common, "--table", other]]) == 2
    assert "pack it again" in capsys.readouterr().err
    Results(place / "carry", {}).keep(files.encode({"id": "nobody"}, {}))
    assert main([str(word) for word in common]) == 2
    assert "not in the table" in capsys.readouterr().err


def test_the_loops_make_the_same_updates(monkeypatch):
    class Learner:
        """Adds what depends on the number of the update alone."""

        def sample(self, buffer, key):
            return None

        def update(self, state, batch, key, step):
            return {"sum": state["sum"] + step, "count": state["count"] + 1}, {}

    state = {"sum": np.int32(0), "count": np.int32(0)}
    found = speed._loop_costs(Learner(), state, None, until=math.inf)
    assert found["static_same_bits"] and found["blocks_same_bits"] and found["updates"] % speed.BLOCK == 0


def test_a_call_is_told_of_what_a_precision_means():
    rate, error = speed._products(64, 64, 2, "float32", until=0)
    assert rate > 0 and error < 1e-5
