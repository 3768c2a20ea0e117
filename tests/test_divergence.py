"""Divergence: found at the next log line, told, and kept away from what is sound."""

import json
import re
import shutil

import faulty
import jax.numpy as jnp
import numpy as np
import pytest

import rlkit
from agents import cql, edac, iql, rebrac, sac, sac_rnd, semi_pessimistic, td3_bc
from rlkit.buffer import Buffer, needs, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes
from rlkit.datasets import spec as spec_of
from rlkit.runs.record import Record
from rlkit.runs.restored import _sound_members, restore
from rlkit.runs.run import evaluations
from rlkit.training import divergence
from rlkit.training.loop import fit
from rlkit.types import Box, InputError, RunError, Spec

ARGV = ["--steps", "40", "--eval-every", "10", "--log-every", "5", "--eval-episodes", "2"]


@pytest.fixture
def restorable(monkeypatch):
    """Runs of the faulty agent can be restored, though its module is not in the package of the agents."""
    monkeypatch.setattr("rlkit.runs.registry._OWN", re.compile("faulty"))


def _lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _row(text, method):
    """The cells of the only line of a table that begins with that method."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"{method} "))
    return re.split("  +", line)


def test_what_is_judged():
    metrics = {"actor/loss": np.array([1e30, np.nan, 0, 0]), "critic/q": np.array([9.0, 0, -11.0, 3.0])}
    found = divergence.diverged(metrics, np.array([True, False, True, False]), limit=10.0)
    assert found == {
        1: "actor/loss is nan",
        2: "critic/q is -11, beyond the limit of 10",
        3: "a parameter is not finite",
    }
    assert divergence.diverged(metrics, np.array([True] * 4), limit=np.inf) == {}


def test_the_limit_is_a_hundred_times_what_an_episode_can_add_up_to():
    assert divergence.default_limit(16.0, 0.0, 200, 1.0) == 100 * 16 * 200
    assert divergence.default_limit(0.01, 85.0, 100, 1.0) == 100 * (0.01 + 85) * 100
    assert (
        divergence.default_limit(0.0, 0.0, 200, 1000.0) == 100 * 1000
    )  # an untrained critic is as large as its inputs
    assert divergence.default_limit(0.0, 0.0, 200, 0.0) == 100


def test_methods_say_what_they_add_to_the_rewards():
    """Three dimensions of the action; the least log standard deviation of a policy is -5."""
    spec = Spec(Box((2,), (-np.inf,) * 2, (np.inf,) * 2), Box((3,), (-1.0,) * 3, (1.0,) * 3), 10)

    def added(config):
        return getattr(config.stages(spec, 1)[-1].learner, "intrinsic_reward", 0.0)

    assert added(sac.Config(initial_alpha=0.5)) == added(edac.Config(initial_alpha=0.5)) == 0.5 * 3 * 5
    assert added(sac_rnd.Config(initial_alpha=0.5, beta=4.0)) == 0.5 * 3 * 5 + 4
    assert added(sac_rnd.Config(initial_alpha=0.5, beta=4.0, critic_beta=1.0)) == 0.5 * 3 * 5 + 1
    assert added(cql.Config()) == added(td3_bc.Config()) == added(iql.Config()) == 0
    assert added(cql.Config(backup_entropy=True)) == 3 * 5
    assert added(rebrac.Config(critic_beta=0.1)) == pytest.approx(0.1 * 4 * 3)
    for rollout in (0, 3):  # an agent with a base adds what the base does
        assert added(semi_pessimistic.Config(base=sac.Config(), rollout=rollout)) == 3 * 5
        assert added(semi_pessimistic.Config(rollout=rollout)) == 0


def _noise(obs, actions, steps, centre, reward):
    """Five episodes in which nothing depends on anything."""
    rng = np.random.default_rng(0)
    return from_episodes(
        {
            "observations": (centre + rng.normal(size=(steps + 1, obs))).astype(np.float32),
            "actions": rng.uniform(-1, 1, (steps, actions)).astype(np.float32),
            "rewards": rng.uniform(-reward, reward, steps).astype(np.float32),
        }
        for _ in range(5)
    )


def _judge(config, data, updates, log_every, mesh):
    """The step at which training counts as diverged, None if it does not, and the largest |Q| until then."""
    stages = config.stages(spec_of(data, None), updates)
    buffer = Buffer.from_episodes(data, Normaliser.fit(data, DataOptions("noise")), needs(stages))
    moments = stats(buffer)
    limit = divergence.limit_of(stages, buffer, moments, stages[-1].learner.spec.horizon)
    largest = 0.0
    for progress in fit(stages, buffer, moments, (0,), log_every=log_every, mesh=mesh):
        values = [abs(float(value[0])) for name, value in progress.metrics.items() if name.endswith("/q")]
        largest = max([largest, *values])
        if divergence.diverged(progress.metrics, progress.finite, limit):
            return progress.step, largest
    return None, largest


SMALL = {"widths": (64, 64), "batch_size": 64}


@pytest.mark.slow
def test_an_entropy_far_above_the_rewards_is_no_divergence(mesh):
    """|reward| <= 0.01, 17 dimensions of the action, 100 steps: a Q of up to 1 from rewards alone."""
    diverged, largest = _judge(sac.Config(**SMALL), _noise(17, 17, 100, 0.0, 0.01), 3000, 100, mesh)
    assert diverged is None
    assert largest > 100 * 0.01 * 100  # a hundred times that is not enough


def test_what_an_untrained_critic_says_of_large_observations_is_no_divergence(mesh):
    """Reward 0 throughout, observations near 1,000."""
    diverged, largest = _judge(sac.Config(batch_size=32), _noise(11, 3, 200, 1000.0, 0.0), 10, 5, mesh)
    assert diverged is None
    assert largest > 20  # a hundred times a thousandth at each of the 200 steps is not enough


def test_an_explosion_is_noticed_soon_however_much_entropy_there_may_be(mesh):
    """The same small rewards, with critics that run after their own values in large steps."""
    config = sac.Config(critic_learning_rate=3e-2, tau=1.0, **SMALL)
    diverged, _ = _judge(config, _noise(17, 17, 100, 0.0, 0.01), 500, 10, mesh)
    assert diverged is not None


def test_a_seed_that_diverged_is_nan_from_there_on_and_others_keep_their_bits():
    metrics = {"a/b": np.array([1 / 3, 2.0], np.float32), "a/n": np.array([1, 2])}
    assert divergence.without(metrics, [])["a/b"].tobytes() == metrics["a/b"].tobytes()
    left = divergence.without(metrics, [1])
    assert left["a/b"].dtype == np.float32
    assert np.isnan([left["a/b"][1], left["a/n"][1]]).all() and left["a/n"][0] == 1
    assert metrics["a/b"][1] == 2


@pytest.mark.parametrize(("fault", "told"), [("nan", "is nan"), ("q", "critic/q is -6e+11, beyond the limit of 3")])
def test_the_only_seed_stops_the_run_with_the_last_good_checkpoint(
    rlkit_command, tmp_path, restorable, caplog, fault, told
):
    """Seed 1 is one of those that break, at update 12: seen at 15, after the checkpoint at 10."""
    argv = ["train", "faulty", *ARGV, "--seed", "1", "--config.fault", fault, "--out", tmp_path]
    code, _, err = rlkit_command(*argv, catalog=faulty.catalog())
    assert code == 1 and err.count("\n") == 1
    assert not caplog.records  # TensorBoard is told of no NaN, which it would warn of
    for text in ("seed 1 diverged by step 15 of faulty", told, "last good checkpoint is 10", "try smaller"):
        assert text in err
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["10"]
    assert [line["step"] for line in _lines(tmp_path)] == [0, 5, 10, 10, 15]
    assert evaluations(tmp_path)[-1].position.step == 10  # of a policy that was sound, and yet the run has no score
    for command in ("evaluate", "report"):
        code, out, err = rlkit_command(command, tmp_path, catalog=faulty.catalog())
        assert code != 0 and out == ""
        assert err.count("\n") == 1 and "every seed" in err and "diverged" in err
    with pytest.raises(RunError, match="every seed of this run diverged in training"):
        restore(tmp_path, Record.read(tmp_path))


@pytest.mark.slow
def test_of_several_seeds_the_others_go_on(rlkit_command, tmp_path, restorable):
    argv = ["train", "faulty", *ARGV, "--seeds", "3"]
    assert rlkit_command(*argv, "--out", tmp_path / "sound", catalog=faulty.catalog())[0] == 0
    broken = ["--config.fault", "nan", "--out", tmp_path / "run"]
    code, out, err = rlkit_command(*argv, *broken, catalog=faulty.catalog())
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
    code, again, _ = rlkit_command("evaluate", tmp_path / "run", catalog=faulty.catalog())
    assert code == 0
    assert _row(out, "faulty")[:2] == _row(again, "faulty")[:2]
    assert f"{len(lost)} of 3 seeds diverged" in _row(again, "faulty")[0]


def _with_lost_seeds(trained, folder, lost):
    """A copy of the finished run of two seeds, whose last line of metrics says that those of ``lost`` diverged."""
    shutil.copytree(trained, folder)
    lines = _lines(folder)
    metrics = [line["metrics"] for line in lines if "metrics" in line][-1]
    for values in metrics.values():
        for number in lost:
            values[number] = "nan"
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_load_takes_the_first_seed_that_did_not_diverge_and_refuses_one_that_did(trained, tmp_path):
    run = _with_lost_seeds(trained, tmp_path / "one", [0])
    obs = np.array([0.5, 0.5, 1.0], np.float32)
    first, second = (rlkit.load(trained, member=member).act(obs) for member in (0, 1))
    assert first != second
    assert rlkit.load(run).act(obs) == rlkit.load(run, member=1).act(obs) == second
    assert rlkit.load(trained).act(obs) == first
    with pytest.raises(InputError, match="member 0 diverged in training; members that did not: 1"):
        rlkit.load(run, member=0)
    with pytest.raises(RunError, match="every seed of this run diverged in training"):
        rlkit.load(_with_lost_seeds(trained, tmp_path / "both", [0, 1]))


def test_evaluate_and_report_leave_out_what_diverged_and_say_how_many(rlkit_command, trained, tmp_path):
    run = _with_lost_seeds(trained, tmp_path / "one", [0])
    kept = evaluations(trained)[-1].returns[1]
    for command in ("evaluate", "report"):
        code, out, _ = rlkit_command(command, run)
        assert code == 0
        label, returns = _row(out, "bc")[:2]
        assert label == "bc (1 of 2 seeds diverged)"
        # one digit is shown, and of fewer rows a product may round its last digit differently
        assert float(returns.split(" ")[0]) == pytest.approx(kept.mean(), abs=0.2)


def test_a_state_that_is_not_finite_is_left_out_before_a_line_of_metrics_says_so(tmp_path):
    """As when a run was stopped between two lines of metrics."""
    state = {"weights": jnp.array([[1.0, 2.0], [jnp.nan, 0.0], [3.0, jnp.inf], [5.0, 6.0]]), "count": jnp.arange(4)}
    assert _sound_members(tmp_path, state) == (0, 3)


@pytest.mark.slow
def test_a_larger_limit_lets_it_go_on(rlkit_command, tmp_path):
    argv = ["train", "faulty", *ARGV, "--seed", "1", "--config.fault", "q", "--q-limit", "inf"]
    assert rlkit_command(*argv, "--out", tmp_path, catalog=faulty.catalog())[0] == 0
