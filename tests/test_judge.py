"""`rlkit judge`: which data it takes, what it says, and --holdout, whose episodes training never sees."""

from __future__ import annotations

import dataclasses
import re
import shutil

import numpy as np
import pytest

import rlkit
from rlkit import commands
from rlkit.commands import judge
from rlkit.commands.options import JudgeOptions
from rlkit.datasets import ActionOptions, DataOptions, from_episodes, holdout, load, sums
from rlkit.datasets.episodes import HAS_ACTION
from rlkit.datasets.selection import select
from rlkit.runs import serialization
from rlkit.runs.record import Record, recorded_data
from rlkit.types import InputError

FEW = ["--replicates", "2", "--updates", "4"]
SMALL = ["--steps", "4", "--config.batch-size", "8", "--config.widths", "8"]
PATIENTS = 160


def table(path, seed=0, patients=PATIENTS):
    """Patients in three states, treated or not; most of them better where they were."""
    rng = np.random.default_rng(seed)
    lines = ["episode,step,observation_0,action,reward,terminated"]
    for patient in range(patients):
        for step in range(4):
            ends = int(step == 3)
            lines.append(f"{patient},{step},{rng.integers(3)},{rng.integers(2)},{rng.choice([0, 0.5, 1])},{ends}")
        lines.append(f"{patient},4,{rng.integers(3)},,,")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    """A folder for a run and its table."""
    return tmp_path_factory.mktemp("clinic")


@pytest.fixture
def held_out_run(clinic, rlkit_command, monkeypatch):
    """A run that held out three quarters of its patients."""
    run = clinic / "run"
    if not run.exists():
        data = table(clinic / "visits.csv")
        judged = []
        monkeypatch.setattr("rlkit.commands.judge.run", lambda options, catalog: judged.append(options))
        code, out, err = rlkit_command("train", "bc", "--dataset", data, *SMALL, "--holdout", 0.75, "--out", run)
        monkeypatch.undo()
        assert code == 0, err
        assert f"rlkit judge {run}\n" in out
        assert [options.runs for options in judged] == [(run,)], "at the end, since there is no environment"
    return run


def test_training_never_sees_what_is_held_out_and_judge_takes_that(held_out_run, clinic, rlkit_command):
    assert Record.read(held_out_run).data.episodes == 40
    page = clinic / "new" / "page.html"
    code, out, err = rlkit_command("judge", held_out_run, *FEW, "--sampled", "--page", page)
    assert code == 0, err
    words = " ".join(out.split())
    assert "on held-out data" in words and "120 episodes (480 steps)" in words and "discounted by 0.99 a step" in words
    assert "FQE, 2 replicates" in words and "bc, sampled" in words and "recorded behaviour" in words
    assert "FQE made 4 of the 7,000 updates" in words and "tried fewer than 5 times in their state" in words
    assert "weighted importance sampling" in words and "doubly robust" in words and "not offered" not in words
    assert words.count("minus the recorded return") == 5, "FQE, counts and three by weights"
    assert max(map(len, out.splitlines()[:-1])) <= 80 and f"page: {page}" in words
    text = page.read_text()
    assert "What survival is in these data is not said" in text and "Given and proposed" in text and "state" in text


def test_other_data_may_be_named_and_several_runs_are_ranked(held_out_run, clinic, rlkit_command, tmp_path):
    other = table(clinic / "others.csv", seed=1, patients=120)
    both = tmp_path / "both"
    for name in ("one", "two", "begun"):
        shutil.copytree(held_out_run, both / name)
    shutil.rmtree(both / "begun" / "checkpoints")
    code, out, err = rlkit_command("judge", both, both / "one", "--dataset", other, *FEW)
    assert "begun is left out: it has no checkpoint yet" in err
    words = " ".join(out.split())
    assert words.count("bc, greedy (") == 4, "two runs, each once: with its value, and in the difference"
    assert "FQE made 4 of the 7,000 updates after which its start is" in words and "is ahead" not in words
    assert code == 0, err
    assert "others" in out and "minus bc, greedy (" in words and "differences between them" in out
    assert "not offered: effective sample size" in out, "half of all weights are 0 after a step, and three of four more"


def test_python_has_the_commands_words_and_its_numbers_and_takes_data_in_memory(held_out_run, clinic, rlkit_command):
    code, out, err = rlkit_command("judge", held_out_run, *FEW)
    assert code == 0, err
    few = {"replicates": 2, "updates": 4}
    judged = rlkit.judge(held_out_run, **few)
    assert str(judged) in out and judged.held_out and judged.observed.low < judged.observed.high
    (verdict,) = judged.verdicts
    assert f"[{verdict.fqe.low:.2f}, {verdict.fqe.high:.2f}]" in out
    assert f"[{verdict.gain.low:+.2f}, {verdict.gain.high:+.2f}]" in out

    # --- of the episodes that training was split from, those that it did not see ---
    told = recorded_data(Record.read(held_out_run), held_out_run)
    whole = load(dataclasses.replace(told, holdout=0.0))
    assert str(rlkit.judge([held_out_run], whole, **few)) == str(judged)
    for given, words in [
        ({"data": holdout.training(whole, told)}, "visits.csv is what .* was trained on"),
        ({"data": told}, "a DataOptions is no data to judge by"),
        ({"replicates": 2.5}, "replicates: 2.5 is not a whole number"),
        ({"seed": object()}, "seed: a value of type object cannot be taken"),
        ({"gamma": "all"}, 'gamma: "all" is not a number'),
        ({"replicates": 1}, "judge: replicates 1: must be at least 2"),
        ({"survived": 9.0, "page": clinic / "never.html"}, "--survived 9: 0 of the 120 episodes"),
    ]:
        with pytest.raises(InputError, match=words):
            rlkit.judge(held_out_run, **(few | given))


def test_the_data_of_training_are_refused_unless_asked_for(held_out_run, clinic, rlkit_command, monkeypatch):
    monkeypatch.setattr(judge, "_seen", lambda record, folder, whole, episodes: len(episodes.starts))
    code, out, err = rlkit_command("judge", held_out_run)
    assert code == 2 and "was trained on" in err and "--same-data" in err and not out
    page = clinic / "survival.html"
    survival = ["--survived", 1, "--doses", "--page", page]
    code, out, err = rlkit_command("judge", held_out_run, *FEW, "--sampled", "--same-data", *survival)
    assert code == 0, err
    assert "judged ON THE DATA OF ITS TRAINING" in out and "of survival (1: the last reward" in " ".join(out.split())
    assert "Judged ON THE DATA OF ITS TRAINING" in page.read_text() and "Of 100 patients like these" in page.read_text()


def test_a_run_is_known_by_what_it_was_trained_on(held_out_run, clinic):
    """Given the file that it was split from, `judge` takes that part; a run that had others has seen it."""
    record = Record.read(held_out_run)
    catalog = commands.Catalog({}, None, {}, clinic, None)
    told = recorded_data(record, held_out_run)
    whole = load(dataclasses.replace(told, holdout=0.0))
    episodes, seen = judge._episodes(JudgeOptions((held_out_run,), dataset=told.names), [record], catalog)
    assert not seen and len(episodes.starts) == 120
    assert judge._seen(record, held_out_run, whole, episodes) == 0

    def trained_on(fingerprint, **options):
        changed = record.data.options | options
        return dataclasses.replace(
            record, data=dataclasses.replace(record.data, fingerprint=fingerprint, options=changed)
        )

    with pytest.raises(InputError, match=r"visits.csv has changed since .* was trained on it"):
        judge._episodes(JudgeOptions((held_out_run,)), [trained_on("of another file")], catalog)
    assert judge._seen(trained_on(whole.fingerprint), held_out_run, whole, episodes) == 120
    rest = holdout.training(whole, dataclasses.replace(told, holdout_seed=1))
    some = judge._seen(trained_on(rest.fingerprint, holdout_seed=1), held_out_run, whole, episodes)
    assert 10 < some < 40, "of the other split's forty, three quarters are in this part"

    # --- a list of episodes is the run's own only where it is read with what the run was told ---
    rows = {"observations": np.arange(3.0)[:, None], "actions": [0, 1], "rewards": [0.0, 1.0]}
    listed = [rows | {"rewards": [0.0, number]} for number in range(4)]
    action = ActionOptions(choices=5)
    rest = holdout.training(from_episodes(listed, action=action), told)
    changed = trained_on(rest.fingerprint, action=serialization.encode(action))
    episodes, seen = judge._episodes(JudgeOptions((held_out_run,)), [changed], catalog, listed)
    assert not seen and len(episodes.starts) == 3, "a quarter of the four was trained on"


def test_what_cannot_be_judged_is_refused(held_out_run, clinic, rlkit_command):
    wide = clinic / "wide.csv"
    wide.write_text("episode,step,observation_0,observation_1,action,reward,terminated\na,0,1,2,1,0.5,1\n")
    for argv, words in [
        (["judge"], "name a run directory"),
        (["judge", held_out_run, "--dataset", wide], "cannot be judged by wide.csv: observation"),
        (["judge", held_out_run, "--dataset", "random:50"], "random steps are played anew"),
        (["judge", held_out_run, "--replicates", 1], "must be at least 2"),
        (["judge", held_out_run, "--seed", 2**32 - 1], "the last seed, 4294967314, must be"),
        (["judge", held_out_run, "--survived", 1, "--gamma", 0.9], "--gamma 0.9: survival is not discounted"),
        (["judge", held_out_run, "--survived", 9], "--survived 9: 0 of the 120 episodes"),
        (["judge", held_out_run, "--page", "page.pdf"], "--page page.pdf: end the name in .html"),
        (["judge", held_out_run, "--page", clinic / "visits.csv" / "page.html"], "its folder cannot be made"),
        (["judge", held_out_run, "--doses"], "--doses is of the page"),
    ]:
        code, _, err = rlkit_command(*argv)
        assert code == 2 and words in err, err


def test_patients_of_the_training_are_known_again_in_another_file(held_out_run, clinic, rlkit_command, tmp_path):
    told = recorded_data(Record.read(held_out_run), held_out_run)
    kept = holdout.training(load(dataclasses.replace(told, holdout=0.0)), told)
    first, *_ = sums.of(kept)
    assert first in sums.of(select(kept, np.array([5, 0])))

    # --- all but the last patient, in another file ---
    lines = (clinic / "visits.csv").read_text().splitlines(keepends=True)
    less = tmp_path / "less.csv"
    less.write_text("".join(lines[:-5]))
    code, out, err = rlkit_command("judge", held_out_run, "--dataset", less, *FEW)
    count = int(re.search(r"rlkit: (\d+) of the 159 episodes of less.csv are what", err)[1])
    assert code == 2 and 39 <= count <= 42 and not out
    options = JudgeOptions((held_out_run,), dataset=(str(less),), same_data=True)
    catalog = commands.Catalog({}, None, {}, clinic, None)
    assert judge._episodes(options, [Record.read(held_out_run)], catalog)[1] == count
    assert f"TRAINING SAW {count} OF 159 EPISODES (--same-data)" in judge._how_held_out(count, 159)

    # --- a run of an earlier version has no file of them, a damaged one is named ---
    run = shutil.copytree(held_out_run, tmp_path / "run")
    (run / sums.FILE).write_bytes(b"\0" * 24)
    with pytest.raises(InputError, match="episodes.sums is damaged"):
        rlkit.judge(run, less)
    assert rlkit_command("verify", run)[0] == 1
    (run / sums.FILE).unlink()
    judged = rlkit.judge(run, less, replicates=2, updates=4)
    assert "it is not known whether training saw them: less.csv" in judged.text and judged.held_out is None


# --- what is held out ---


def ten():
    """Ten episodes; observation and reward are the episode's number, every second one ends."""
    episodes = []
    for number in range(10):
        rows = {"observations": np.full((4, 1), number), "actions": np.zeros((3, 1)), "rewards": np.full(3, number)}
        episodes.append(rows | {"terminations": [False, False, number % 2 == 1]})
    return from_episodes(episodes, name="ten")


def numbers(episodes):
    return sorted(set(np.asarray(episodes.obs)[:, 0].tolist()))


def test_both_parts_are_the_whole_and_counted_anew():
    data = ten()
    options = DataOptions("ten", holdout=0.3)
    rest = holdout.training(data, options)
    kept = holdout.held_out(data, options, rest.fingerprint)
    assert sorted(numbers(rest) + numbers(kept)) == list(range(10)) and len(numbers(kept)) == 3
    assert rest.report.episodes == 7 and rest.report.steps == 21 == (np.asarray(rest.flags) & HAS_ACTION).sum()
    assert rest.report.terminal_episodes + kept.report.terminal_episodes == 5
    assert rest.returns().tolist() == [3 * number for number in numbers(rest)]
    assert "3 of 10 episodes are held out" in rest.report.notes[-1]
    assert len({data.fingerprint, rest.fingerprint, kept.fingerprint}) == 3
    assert holdout.training(data, DataOptions("ten")) is data


def test_another_seed_holds_out_others_and_a_stranger_has_none():
    data = ten()
    draws = {tuple(numbers(holdout.training(data, DataOptions("ten", holdout=0.3, holdout_seed=s)))) for s in range(9)}
    assert len(draws) > 3
    assert holdout.held_out(data, DataOptions("ten", holdout=0.3), data.fingerprint) is None
    assert holdout.held_out(data, DataOptions("ten"), data.fingerprint) is None
    with pytest.raises(InputError, match="ten: --holdout 0.01 of 10 episodes is 0"):
        holdout.training(data, DataOptions("ten", holdout=0.01))
