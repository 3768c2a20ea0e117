"""What looks wrong in data that can be read: exact sentences on tiny data, and silence on sound ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from gymnasium import spaces

import envs
from rlkit.datasets import DataOptions, from_episodes, inspection, load, rows
from rlkit.datasets.recording import Recording
from rlkit.types import InputError

LENGTHS = (60, 60)
N = sum(LENGTHS)
UNIT = spaces.Box(-1, 1, (1,), np.float32)


def recording(observations, actions=None, rewards=None, terminal=True, lengths=LENGTHS, infos=None, space=UNIT):
    """Episodes of ``lengths`` steps; what is not given is drawn, and every episode ends in a terminal state."""
    rng = np.random.default_rng(0)
    steps = sum(lengths)
    ends = np.cumsum(lengths) - 1
    last = np.isin(np.arange(steps), ends)
    observations = np.asarray(observations)
    return Recording(
        name="toy",
        observations=observations,
        actions=rng.uniform(-0.9, 0.9, (steps, 1)) if actions is None else actions,
        rewards=rng.normal(size=steps) if rewards is None else rewards,
        terminations=last & terminal,
        truncations=last & (not terminal),
        lengths=np.array(lengths),
        finals=observations[ends],
        has_final=np.ones(len(lengths), bool),
        action_space=space,
        infos=infos or {},
    )


def told(*args, **options):
    """(serious, sentence) of each warning."""
    report = rows.assemble(recording(*args, **options)).report
    return [(warning.serious, warning.sentence) for warning in report.warnings]


def drawn(columns=2, seed=1):
    return np.random.default_rng(seed).normal(size=(N, columns))


def with_column(values, position=1):
    return np.insert(drawn(), position, values, axis=1)


def test_sound_data_are_passed_over_in_silence():
    assert told(drawn()) == []


def test_a_clock_that_float32_cannot_tell_apart():
    minutes = 1_700_000_000 + 60.0 * np.arange(N)
    assert len(np.unique(np.float32(minutes))) == 57
    assert told(with_column(minutes)) == [
        (
            True,
            "observation 1 loses digits in float32: 120 distinct values become 57; subtract a number near them, such "
            "as the first of each episode, or leave the column out",
        )
    ]
    assert told(with_column(minutes).astype(np.int64))[0][1].startswith("observation 1 loses digits")


def test_digits_below_what_matters_are_not_missed():
    """A robot at rest: the last digits of float64 change at every step, and float32 does not see it."""
    jitter = 1e-9 * np.random.default_rng(2).normal(size=N)
    resting = with_column(np.where(np.arange(N) % 60 < 40, drawn()[:, 0], 0.7 + jitter))
    assert told(resting) == []
    in_metres = with_column(48.0 + 0.01 * np.random.default_rng(2).normal(size=N))  # a latitude that jumps about
    assert told(in_metres) == []


def test_columns_far_from_1_in_size():
    pascals = 101_325 + 5_000 * np.random.default_rng(2).normal(size=N)
    assert told(with_column(pascals)) == [
        (
            True,
            "observation 1 is far from 1 in size (observation 1: about 1e+05), which networks take badly; --normalise "
            "standard brings all columns to one size",
        )
    ]
    sizes = np.array([1e-4, 10.0]) * np.tile([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], (N // 4, 1))
    assert told(sizes) == [
        (
            True,
            "observation 0 varies by 0.0001 and observation 1 by 10: a network hardly sees the smaller one; "
            "--normalise standard brings all columns to one size",
        )
    ]


def test_what_normalising_mends_is_not_said_by_train():
    large = rows.assemble(recording(1e5 * drawn())).report.warnings
    assert [warning.check for warning in large] == ["scale"]
    assert len(inspection.serious(large)) == 1
    assert inspection.serious(large, "standard") == inspection.serious(large, "limits") == []


def test_columns_that_do_not_vary():
    assert told(with_column(np.full(N, 3.0))) == [
        (False, "observation 1 is the same number at every step: it tells an agent nothing")
    ]
    assert told(np.concatenate([drawn(), np.zeros((N, 8))], 1)) == [
        (
            False,
            "observations 2, 3, 4, 5, 6 and 3 more are each the same number at every step: they tell an agent nothing",
        )
    ]
    nearly = 300 + 0.01 * np.tile([1.0, -1.0], N // 2)
    assert told(with_column(nearly)) == [(False, "observation 1 hardly varies (observation 1: 300, give or take 0.01)")]


def test_of_many_steps_a_share_is_looked_at_and_what_is_rare_is_seen_all_the_same(monkeypatch):
    monkeypatch.setattr(inspection, "SAMPLE", 10)
    rare = np.full(N, 3.0)
    rare[5] = 4  # between the steps that are looked at
    assert told(with_column(rare)) == []
    rare[5] = 1e6
    assert told(with_column(rare))[0][1].startswith("observation 1 is far from 1 in size")


def test_an_observation_that_is_the_action():
    action = np.random.default_rng(3).uniform(-0.9, 0.9, (N, 2))
    noisy = 5 - 2 * action[:, 1] + 0.001 * np.random.default_rng(4).normal(size=N)
    two = spaces.Box(-1, 1, (2,), np.float32)
    assert told(with_column(noisy), action, space=two) == [
        (
            True,
            "observation 1 is component 1 of the action of the same step (correlation -1.0000): a policy that acts "
            "does not know it yet; leave the column out, or move it to the next step",
        )
    ]
    before = np.roll(action[:, 1], 1)  # the action of the step before is no leak
    assert told(with_column(before), action, space=two) == []


def test_an_observation_that_is_one_of_the_choices():
    choice = np.random.default_rng(3).integers(0, 4, N)
    given = (choice == 2).astype(float)
    ((is_serious, sentence),) = told(with_column(given), choice, space=spaces.Discrete(4))
    assert is_serious and sentence.startswith("observation 1 is the action of the same step (correlation 1.0000)")


def test_two_points_are_no_correlation():
    assert told([[0.0], [1.0]], np.array([[0.1], [0.2]]), lengths=(2,)) == []


def test_time_stamps_that_are_not_evenly_spaced():
    spacing = np.where(np.arange(N) % 10 == 0, 4.0, 1.0)
    time = np.cumsum(spacing)
    phrase = (
        "8% of the steps take over half more or less than the usual 1 (from 1 to 4); agents take all steps to last the "
        "same"
    )
    assert told(with_column(time)) == [(False, f"observation 1 rises at every step, as a clock does, but {phrase}")]
    assert told(drawn(), infos={"timestamp": time}) == [(False, f"infos/timestamp: {phrase}")]
    assert told(with_column(np.arange(float(N))), infos={"time": np.arange(N), "speed": time}) == []


def test_time_stamps_that_fall():
    time = np.arange(N)
    time[70] = 3
    assert told(drawn(), infos={"robot/time": time}) == [
        (True, "infos/robot/time falls within an episode at 1 steps: are its rows in order?")
    ]


def test_episodes_that_are_there_twice():
    observations, actions, rewards = drawn(), np.random.default_rng(5).uniform(-1, 1, (N, 1)), np.arange(N)
    for values in (observations, actions, rewards):
        values[60:] = values[:60]
    twice = "1 of 2 episodes repeats an earlier one byte for byte (the first: episode 1 is episode 0 again)"
    assert told(observations, actions, rewards) == [(True, twice)]
    rewards[80] += 1
    assert told(observations, actions, rewards) == []
    # of a small world, where that happens by chance, `train` says nothing
    states = np.tile(np.random.default_rng(6).integers(0, 9, (60, 1)), (2, 1))
    assert told(states, actions, np.tile(np.arange(60), 2)) == [(False, twice)]


def test_episodes_of_one_step():
    lengths = (1,) * 60 + (60,)
    sentence = (
        "60 of 61 episodes have one step: what an action leads to is not learnt from them; do the ends of episodes "
        "stand where they should?"
    )
    assert told(drawn(), lengths=lengths) == [(True, sentence)]
    one = sentence.replace("60 of 61", "1 of 4").replace("have", "has")
    assert told(drawn(), lengths=(1, 59, 30, 30)) == [(False, one)]


def test_rewards_that_are_all_the_same():
    ones = np.ones(N)
    assert told(drawn(), rewards=ones, terminal=False) == [
        (
            True,
            "every reward is 1 and no episode ends in a terminal state: no policy is better than another; only cloning "
            "learns from such data",
        )
    ]
    assert told(drawn(), rewards=ones) == []  # a reward for each step survived


def test_actions_on_their_bounds():
    action = np.random.default_rng(3).uniform(-0.9, 0.9, (N, 2))
    action[:6, 0] = 1
    action[3:15, 1] = -1
    two = spaces.Box(-1, 1, (2,), np.float32)
    assert told(drawn(), action, space=two) == [
        (False, "12.5% of the steps have an action on a bound, most often in component 1 (10.0%)")
    ]


def test_the_serious_come_first_and_the_cache_keeps_them(tmp_path):
    table = tmp_path / "table.csv"
    lines = ["episode,step,observation_0,observation_1,action_0,reward,terminated"]
    lines += [f"0,{i},3,{1_700_000_000 + 60 * i},{np.sin(i):.3f},{i},0" for i in range(N)]
    table.write_text("\n".join(lines))
    options = DataOptions(str(table), cache_dir=tmp_path / "cache")
    first = load(options).report
    assert [warning.serious for warning in first.warnings] == sorted(
        (warning.serious for warning in first.warnings), reverse=True
    )
    assert {warning.check for warning in first.warnings} >= {"digits", "constant"}
    assert load(options).report == first


def test_of_joined_datasets_each_is_named_and_one_that_is_there_twice(tmp_path):
    paths = []
    for name, slow in (("a", 3.0), ("b", 5.0)):
        lines = ["episode,step,observation_0,observation_1,action_0,reward,terminated"]
        lines += [f"0,{i},{slow},{np.cos(i):.3f},{np.sin(i * i):.3f},{i},0" for i in range(N)]
        paths.append(tmp_path / f"{name}.csv")
        paths[-1].write_text("\n".join(lines))
    first, second = map(str, paths)
    report = load(DataOptions((first, second, first), cache_dir=tmp_path / "cache")).report
    assert [(warning.serious, warning.sentence) for warning in report.warnings] == [
        (True, "a.csv is there twice"),
        (False, "a.csv: observation 0 is the same number at every step: it tells an agent nothing"),
        (False, "b.csv: observation 0 is the same number at every step: it tells an agent nothing"),
    ]


def test_the_embedded_data_give_no_serious_warning(tmp_path):
    from rlkit.datasets import available

    listed = available(DataOptions("", data_root=tmp_path), [envs.DATASETS])
    for name, *_ in listed:
        report = load(DataOptions(name, data_root=tmp_path, cache_dir=tmp_path / "cache"), roots=[envs.DATASETS]).report
        assert inspection.serious(report.warnings) == [], name
    assert listed


# ---- on the command line


def test_check_prints_all_of_them_and_train_the_serious(rlkit_command, tmp_path):
    path = tmp_path / "table.csv"
    lines = ["episode,step,observation_0,observation_1,action_0,reward,terminated,time"]
    for i in range(N):
        lines.append(f"0,{i},3,{1e5 * np.cos(i):.1f},{np.sin(i):.3f},{np.cos(3 * i):.3f},0,{i * i}")
    path.write_text("\n".join(lines))
    large = "observation 1 is far from 1 in size (observation 1: about 7.1e+04), which networks take badly"
    code, out, _ = rlkit_command("data", "check", path)
    assert code == 0
    constant = "notice: observation 0 is the same number at every step"
    for sentence in (f"warning: {large}", constant, "notice: infos/time: "):
        assert sentence in out
    train = ["train", "bc", "--dataset", path, "--steps", "1", "--dry-run", "--config.widths", "8"]
    code, _, err = rlkit_command(*train)
    assert code == 0
    assert f"rlkit: table.csv: {large}" in err and "observation 0" not in err
    code, _, err = rlkit_command(*train, "--normalise", "standard")
    assert code == 0 and "in size" not in err


# ---- --repair bounds


def clipped(actions, repair=("bounds",), space=UNIT):
    episode = {"observations": drawn()[:4], "actions": actions, "rewards": [1.0, 2.0, 3.0]}
    return from_episodes([episode], name="toy", action_space=space, repair=repair)


def test_actions_a_little_out_of_bounds_are_clipped_if_asked_for():
    data = clipped([[1.015], [-1.02], [0.5]])
    assert data.action[:3, 0].tolist() == [1, -1, 0.5]
    assert (data.report.repaired, data.report.on_bounds) == (2, 2)
    assert "2 steps had an action out of bounds by up to 1.00% of the range, and were clipped" in data.report.notes


def test_without_the_repair_they_are_refused_and_the_line_names_it():
    with pytest.raises(InputError) as error:
        clipped([[0.0], [1.015], [0.5]], repair=())
    assert str(error.value) == (
        "toy: episode 0, index 1, actions: element 0 is 1.0149999856948853, outside [-1.0, 1.0]; 1 steps like it; "
        "--repair bounds clips them"
    )


def test_actions_far_out_of_bounds_are_refused_in_any_case():
    for repair in ((), ("bounds",)):
        with pytest.raises(InputError) as error:
            clipped([[1.015], [1.5], [2.0]], repair=repair)
        assert str(error.value) == (
            "toy: episode 0, index 1, actions: element 0 is 1.5, outside [-1.0, 1.0]; 2 steps like it; correct the "
            "actions or the bounds (--repair bounds clips up to 1% of the range)"
        )


def test_rounding_is_clipped_beside_a_repair_and_a_half_open_bound_is_measured_by_its_size():
    data = clipped([[1.000005], [1.01], [0.5]])
    assert data.report.repaired == 1 and len(data.report.notes) == 3
    half_open = spaces.Box(np.array([100.0], np.float32), np.array([np.inf], np.float32))
    assert clipped([[99.5], [200.0], [300.0]], space=half_open).action[0, 0] == 100
    with pytest.raises(InputError, match="outside"):
        clipped([[98.0], [200.0], [300.0]], space=half_open)


def test_a_repair_changes_the_entry_in_the_cache(tmp_path):
    options = DataOptions("pendulum/mixed-v0", data_root=tmp_path, cache_dir=tmp_path / "cache")
    load(options, roots=[envs.DATASETS])
    load(dataclasses.replace(options, repair=("bounds",)), roots=[envs.DATASETS])
    assert len(list((tmp_path / "cache").iterdir())) == 2
