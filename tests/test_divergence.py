"""Divergence: found at the next log line, told, and kept away from what is sound."""

import json

import faulty
import numpy as np
import pytest

from rlkit import divergence
from rlkit.run import evaluations

ARGV = ["--steps", "40", "--eval-every", "10", "--log-every", "5", "--eval-episodes", "2"]


def _lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_what_is_judged():
    metrics = {"actor/loss": np.array([1e30, np.nan, 0, 0]), "critic/q": np.array([9.0, 0, -11.0, 3.0])}
    found = divergence.diverged(metrics, np.array([True, False, True, False]), limit=10.0)
    assert found == {
        1: "actor/loss is nan",
        2: "critic/q is -11, beyond the limit of 10",
        3: "a parameter is not finite",
    }
    assert divergence.diverged(metrics, np.array([True] * 4), limit=np.inf) == {}
    assert divergence.default_limit(16.0, 200) == 100 * 16 * 200


def test_a_seed_that_diverged_is_nan_from_there_on_and_others_keep_their_bits():
    metrics = {"a/b": np.array([1 / 3, 2.0], np.float32), "a/n": np.array([1, 2])}
    assert divergence.without(metrics, [])["a/b"].tobytes() == metrics["a/b"].tobytes()
    left = divergence.without(metrics, [1])
    assert left["a/b"].dtype == np.float32
    assert np.isnan([left["a/b"][1], left["a/n"][1]]).all() and left["a/n"][0] == 1
    assert metrics["a/b"][1] == 2


@pytest.mark.parametrize(("fault", "told"), [("nan", "is nan"), ("q", "critic/q is -6e+11, beyond the limit of 3")])
def test_the_only_seed_stops_the_run_with_the_last_good_checkpoint(rlkit_command, tmp_path, fault, told):
    """Seed 1 is one of those that break, at update 12: seen at 15, after the checkpoint at 10."""
    argv = ["train", "faulty", *ARGV, "--seed", "1", "--config.fault", fault, "--out", tmp_path]
    code, _, err = rlkit_command(*argv, world=faulty.world())
    assert code == 1 and err.count("\n") == 1
    for text in ("seed 1 diverged by step 15 of faulty", told, "last good checkpoint is 10", "try smaller"):
        assert text in err
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["10"]
    assert [line["step"] for line in _lines(tmp_path)] == [0, 5, 10, 10]


@pytest.mark.slow
def test_of_several_seeds_the_others_go_on(rlkit_command, tmp_path):
    argv = ["train", "faulty", *ARGV, "--seeds", "3"]
    assert rlkit_command(*argv, "--out", tmp_path / "sound", world=faulty.world())[0] == 0
    broken = ["--config.fault", "nan", "--out", tmp_path / "run"]
    code, out, err = rlkit_command(*argv, *broken, world=faulty.world())
    assert code == 1
    lost = [int(line.split()[2]) for line in err.splitlines() if "the other seeds go on" in line]
    assert 0 < len(lost) < 3 and f"left out of the scores: {', '.join(map(str, lost))}" in err
    kept = [seed for seed in range(3) if seed not in lost]
    broken, sound = _lines(tmp_path / "run"), _lines(tmp_path / "sound")
    for line, other in zip(broken, sound, strict=True):
        if "metrics" in line:
            values = line["metrics"]["policy/loss"]
            assert all((values[seed] == "nan") == (line["step"] > 10) for seed in lost)
            assert [values[seed] for seed in kept] == [other["metrics"]["policy/loss"][seed] for seed in kept]
    last = evaluations(tmp_path / "run")[-1]
    assert np.isnan(last.returns[lost]).all() and (last.lengths[lost] == 0).all()
    # of fewer rows a product may round its last digit differently
    np.testing.assert_allclose(last.returns[kept], evaluations(tmp_path / "sound")[-1].returns[kept], rtol=1e-6)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["run"]["returns"]["value"] == pytest.approx(last.returns[kept].mean())
    assert f"{len(lost)} of 3 seeds diverged" in out


@pytest.mark.slow
def test_a_larger_limit_lets_it_go_on(rlkit_command, tmp_path):
    argv = ["train", "faulty", *ARGV, "--seed", "1", "--config.fault", "q", "--q-limit", "inf"]
    assert rlkit_command(*argv, "--out", tmp_path, world=faulty.world())[0] == 0
