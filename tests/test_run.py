"""The run directory: what it says can be read back exactly, and it never mixes two runs."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from rlkit.evaluation.evaluate import Evaluation
from rlkit.evaluation.statistics import Estimate
from rlkit.runs import serialization
from rlkit.runs.record import DataRecord, EvaluationRecord, Record, Reference
from rlkit.runs.run import (
    Evaluated,
    Position,
    Run,
    claim,
    diverged,
    earlier_records,
    evaluations,
    evaluations_by_goal,
    finished,
    lines,
)  # fmt: skip
from rlkit.runs.scores import run_row
from rlkit.types import Box, Discrete, InputError, RunError, Spec


@dataclass(frozen=True)
class Inner:
    low: float
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    inner: Inner
    kind: Literal["a", "b"] = "a"
    beta: float | None = None
    space: Box | Discrete = Discrete(2)
    pair: tuple[int, str] = (1, "x")
    path: Path | None = None
    table: dict[str, Any] = dataclasses.field(default_factory=dict)


@pytest.mark.parametrize(
    "value",
    [
        Outer(Inner(-np.inf)),
        Outer(Inner(0.1, ("x", "y")), "b", 3.0, Box((1,), (-np.inf,), (1.0,)), (7, "z"), Path("runs/a"), {"k": [1]}),
    ],
)
def test_plain_data_survive_the_way_through_strict_json(value):
    text = serialization.dumps(value)
    assert serialization.decode(Outer, json.loads(text, parse_constant=pytest.fail), "x") == value


@dataclass(frozen=True)
class Wide:
    low: float
    names: tuple[str, ...] = ()
    high: float = 1.0


@pytest.mark.parametrize("value", [Inner(0.5, ("a",)), Wide(0.5), Wide(0.5, high=2.0)])
@pytest.mark.parametrize("kinds", [Inner | Wide, Wide | Inner, None | Wide | Inner])
def test_of_two_records_that_fit_the_one_that_needs_no_default_is_read(kinds, value):
    assert serialization.decode(kinds, serialization.encode(value), "x") == value


def test_a_field_that_no_record_of_a_union_has_is_named():
    with pytest.raises(InputError, match="unknown keys \\['mass'\\]"):
        serialization.decode(None | Inner | Wide, {"low": 0.5, "mass": 1.0}, "x")


def test_float32_survives_exactly():
    values = np.array([1 / 3, 1e-42, np.inf, np.pi], np.float32)
    back = serialization.decode(tuple[float, ...], json.loads(serialization.dumps(values)), "x")
    assert np.array(back, np.float32).tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, r"x: unknown keys \['extra'\], missing keys \[\]"),
        ({"kind": "c"}, r'x.kind: "c" is not'),
        ({"beta": "3"}, r'x.beta: "3" is not a number'),
        ({"beta": True}, r"x.beta: true is not a number"),
        ({"pair": [1]}, r"x.pair: \[1\] is not"),
        ({"pair": ["1", "x"]}, r'x.pair\[0\]: "1" is not a whole number'),
        ({"inner": {"names": []}}, r"x.inner: unknown keys \[\], missing keys \['low'\]"),
        ({"inner": 3}, r"x.inner: expected an object"),
        ({"space": {"n": 1.5}}, r"x.space"),
    ],
)
def test_decoding_is_strict_and_names_the_place(change, message):
    form = serialization.encode(Outer(Inner(0.0))) | change
    with pytest.raises(InputError, match=message):
        serialization.decode(Outer, form, "x")


def test_what_an_older_version_did_not_write_has_its_default():
    assert serialization.decode(Outer, {"inner": {"low": 1.0}}, "x") == Outer(Inner(1.0))
    older, newer = {"a": 1, "spec": {"n": 2}}, {"a": 1, "b": 3, "spec": {"n": 2, "scale": 1.0}}
    assert serialization.differences(older, newer, additions=False) == []
    assert len(serialization.differences(older, newer)) == 2
    assert serialization.differences({"a": 2}, newer, additions=False) == ["a: 2 -> 1"]


def test_what_is_not_plain_is_not_written(tmp_path):
    with pytest.raises(TypeError, match="object"):
        serialization.write_json(tmp_path / "x.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []


MEAN = Estimate(20.0, 19.0, 21.0, "episodes")


@pytest.fixture
def record():
    return Record(
        agent="bc",
        module="agents.bc",
        config={"learning_rate": 3e-4, "widths": [8]},
        preset=None,
        steps=100,
        stages=(("bc", 100),),
        seeds=(0, 1),
        log_every=10,
        eval_every=20,
        data=DataRecord("x-v0", "ab12", 3, 60, 63, MEAN, {}, {}, {"normalise": "none", "data_root": "/here"}),
        spec=Spec(Box((1,), (-np.inf,), (np.inf,)), Discrete(2), 20),
        normaliser={"obs_mean": [0.0]},
        stats={"obs_mean": (0.5,), "obs_std": (float(np.float32(1 / 3)),), "action_mean": (), "action_std": ()},
        evaluation=EvaluationRecord("Pendulum-v1", 10, 1_000_000),
        reference=Reference(0.0, 100.0, "a table"),
        versions={"jax": "0.10.2"},
        device="1 x cpu",
    )


def test_a_record_reads_back_equal(tmp_path, record):
    with Run(tmp_path / "run", record):
        pass
    assert Record.read(tmp_path / "run") == record


def test_a_record_of_the_first_versions_is_readable(tmp_path, record):
    form = serialization.encode(record)
    form["data"]["iqm"] = serialization.encode(MEAN)
    form["evaluation"]["seed"] = 0
    serialization.write_json(tmp_path / "run.json", form)
    first = dataclasses.replace(record, evaluation=EvaluationRecord("Pendulum-v1", 10, 0))
    assert Record.read(tmp_path) == first
    assert record.differences(first) == [] and record.changes(first) == ["evaluation.seed: 1000000 -> 0"]


def test_another_format_is_refused_before_its_keys_are_looked_at(tmp_path, record):
    serialization.write_json(tmp_path / "run.json", serialization.encode(record) | {"format": 2, "new": 1})
    with pytest.raises(InputError, match="format 2; this version reads format 1"):
        Record.read(tmp_path)


def test_a_run_goes_on_only_with_its_own_settings_and_every_difference_is_named(tmp_path, record):
    with Run(tmp_path, record):
        pass
    elsewhere = dataclasses.replace(record.data, options={"normalise": "none", "data_root": "/there"})
    with Run(tmp_path, dataclasses.replace(record, data=elsewhere, versions={"jax": "0.11.0"}, preset="d4rl")):
        pass
    other = dataclasses.replace(
        record,
        seeds=(0, 1, 2),
        config={"learning_rate": 1e-3, "widths": [8]},
        data=dataclasses.replace(record.data, fingerprint="cd34", options={"normalise": "standard"}),
    )
    with pytest.raises(InputError) as refusal:
        Run(tmp_path, other)
    for difference in (
        "config.learning_rate: 0.0003 -> 0.001",
        "seeds: [0, 1] -> [0, 1, 2]",
        'data.normalise: "none" -> "standard"',
        'dataset fingerprint: "ab12" -> "cd34"',
    ):
        assert difference in str(refusal.value)
    assert str(refusal.value).count("->") == 4
    assert Record.read(tmp_path) == record


def test_claim(tmp_path, record):
    run, strange, new = tmp_path / "run", tmp_path / "strange", tmp_path / "new"
    with Run(run, record):
        pass
    strange.mkdir()
    (strange / "thesis.tex").write_text("all of it")
    claim(run, "auto")
    with pytest.raises(InputError, match="no checkpoint to continue from"):
        claim(run, "must")
    (run / "checkpoints" / "10").mkdir(parents=True)
    claim(run, "must")
    claim(new, "auto")
    claim(new, "never")
    with pytest.raises(InputError, match="--resume auto"):
        claim(run, "never")
    with pytest.raises(InputError, match="no checkpoint to continue from"):
        claim(new, "must")
    for resume in ("auto", "never"):
        with pytest.raises(InputError, match="is not empty and holds no run"):
            claim(strange, resume)
    assert not new.exists()


def played(returns, success=np.nan):
    """An evaluation whose episodes have one step each."""
    return Evaluation(returns, np.ones(returns.shape, np.int64), np.full(returns.shape, success))


def _log(run, positions):
    for position in positions:
        run.metrics(position, {"loss": np.array([position.updates, 0.1], np.float32)})
        run.evaluation(position, played(np.ones((1, 2, 3)) * position.updates))


def test_going_on_drops_what_was_logged_after_the_checkpoint_and_torn_lines(tmp_path, record):
    positions = [Position(0, 5, 5), Position(0, 10, 10), Position(1, 0, 10), Position(1, 5, 15)]
    with Run(tmp_path / "straight", record) as run:
        run.begin(None)
        _log(run, positions)
    with Run(tmp_path / "cut", record) as run:
        run.begin(None)
        _log(run, positions)
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"stage": 1, "st')
    with Run(tmp_path / "cut", record) as run:
        run.begin(positions[1])
        assert [evaluated.position for evaluated in evaluations(run.folder)] == positions[:2]
        _log(run, positions[2:])
    straight, cut = (tmp_path / name / "metrics.jsonl" for name in ("straight", "cut"))
    assert cut.read_bytes() == straight.read_bytes()
    assert [evaluated.position for evaluated in evaluations(run.folder)] == positions
    assert evaluations(run.folder)[-1].returns.tolist() == [[15.0] * 3] * 2


@pytest.mark.parametrize(
    ("returns", "lengths"),
    [
        ([[1.0, 2.0], [3.0]], [[1, 1], [1]]),
        ([[1.0, 2.0]], [[1, 1]]),
        ([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [[1, 1], [1, 1]]),
        ([1.0, 2.0], [1, 1]),
        ("x", [[1]]),
    ],
)
def test_evaluations_of_other_seeds_or_episodes_are_refused(tmp_path, record, returns, lengths):
    with Run(tmp_path, record) as run:
        run.begin(None)
        _log(run, [Position(0, 5, 5)])
    line = {"stage": 0, "step": 10, "updates": 10, "returns": returns, "lengths": lengths}
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(serialization.dumps(line) + "\n")
    with pytest.raises(InputError, match=r"metrics.jsonl: .*evaluation"):
        evaluations(tmp_path)


def test_the_folder_says_which_seeds_diverged(tmp_path, record):
    assert diverged(tmp_path) == set()
    with Run(tmp_path, record) as run:
        run.begin(None)
        run.metrics(Position(0, 5, 5), {"loss": np.array([1.0, 2.0]), "q": np.array([3.0, 4.0])})
        assert diverged(tmp_path) == set()
        run.metrics(Position(0, 10, 10), {"loss": np.array([1.0, np.nan]), "q": np.array([3.0, np.nan])})
    assert diverged(tmp_path) == {1}
    with Run(tmp_path, record) as run:
        run.begin(Position(0, 10, 10))
        assert run.diverged == {1}
        run.begin(Position(0, 5, 5))
        assert run.diverged == diverged(tmp_path) == set()


def test_a_new_start_drops_everything_logged_before(tmp_path, record):
    with Run(tmp_path, record) as run:
        run.begin(None)
        _log(run, [Position(0, 5, 5)])
    with Run(tmp_path, record) as run:
        run.begin(None)
        assert evaluations(tmp_path) == []


def test_a_logger_that_fails_is_dropped_and_the_run_goes_on(tmp_path, record, capsys, monkeypatch):
    (tmp_path / "wandb.py").write_text(
        "class Error(Exception): pass\n"
        "class Failing:\n"
        "    def log(self, values, step): raise Error('no network')\n"
        "    def finish(self): pass\n"
        "def init(**settings): return Failing()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with Run(tmp_path / "run", record, wandb=True) as run:
        run.begin(None)
        _log(run, [Position(0, 5, 5), Position(0, 10, 10)])
    assert len(evaluations(tmp_path / "run")) == 2
    assert capsys.readouterr().err.count("WeightsAndBiases failed and is off from here on: no network") == 1


def test_wandb_that_is_not_installed_is_named(tmp_path, record, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with Run(tmp_path, record, wandb=True) as run, pytest.raises(InputError, match="rlkit-jax.wandb"):
        run.begin(None)


def test_each_goal_has_a_line_and_the_first_is_the_score(tmp_path, record):
    position, returns = Position(0, 5, 5), np.arange(12.0).reshape(2, 2, 3)
    with Run(tmp_path / "run", record) as run:
        run.begin(None, 2)
        run.evaluation(position, played(returns), ["3600", "1800"])
    assert [line["goal"] for line in lines(tmp_path / "run" / "metrics.jsonl")] == ["3600", "1800"]
    by_goal = evaluations_by_goal(tmp_path / "run")
    np.testing.assert_array_equal(by_goal["1800"][0].returns, returns[1])
    np.testing.assert_array_equal(evaluations(tmp_path / "run")[0].returns, returns[0])
    for goals, evaluated, kept in ((2, True, 2), (3, False, 0)):  # of three goals one is missing: all are asked anew
        with Run(tmp_path / "run", record) as run:
            run.begin(position, goals)
            assert run.evaluated == evaluated
        assert len(list(lines(tmp_path / "run" / "metrics.jsonl"))) == kept


def test_successes_are_logged_where_the_environment_tells_them_and_read_again(tmp_path, record):
    returns, success = np.zeros((1, 2, 3)), np.array([[[1.0, 0.0, 1.0], [np.nan] * 3]])
    evaluation = Evaluation(returns, np.array([[[1, 1, 1], [0, 0, 0]]]), success)  # the second seed diverged
    with Run(tmp_path / "run", record) as run:
        run.begin(None)
        run.evaluation(Position(0, 5, 5), played(returns))
        run.evaluation(Position(0, 10, 10), evaluation)
    before, after = lines(tmp_path / "run" / "metrics.jsonl")
    assert "success" not in before and after["success"][0] == [1, 0, 1]
    first, second = evaluations(tmp_path / "run")
    assert np.isnan(first.success).all() and first.success.shape == (2, 3)
    np.testing.assert_array_equal(second.success, success[0])


def test_evaluations_from_other_starts_stand_side_by_side_as_each_was(tmp_path, record):
    """A run may go on with another number of episodes, or another seed of the starts."""
    later = dataclasses.replace(record, evaluation=EvaluationRecord("Pendulum-v1", 4, 7))
    first, second = np.ones((1, 2, 3)), np.full((1, 2, 4), 2.0)
    with Run(tmp_path, record) as run:
        run.begin(None)
        run.evaluation(Position(0, 5, 5), played(first))
    with Run(tmp_path, later) as run:
        run.begin(Position(0, 5, 5))
        assert run.evaluated, "what was evaluated stays"
        run.evaluation(Position(0, 10, 10), played(second))
    assert [one.starts for one in evaluations(tmp_path)] == [(1_000_000, 3), (7, 4)]
    assert Record.read(tmp_path) == later
    (kept,) = earlier_records(tmp_path)
    assert serialization.decode(Record, serialization.read_json(kept), "x") == record


def test_the_last_fifth_is_of_the_starts_of_the_last_evaluation(record):
    def evaluated(step, value, episodes, seed):
        returns = np.full((2, episodes), float(value))
        return Evaluated(Position(0, step, step), returns, np.ones((2, episodes), np.int64), returns, "", seed)

    made = [evaluated(90, 1, 3, 0), evaluated(95, 2, 3, 7), evaluated(98, 4, 3, 7), evaluated(100, 6, 3, 7)]
    assert run_row("x", record, made).late.value == 4.0
    assert run_row("x", record, [*made[:2], evaluated(100, 8, 2, 7)]).late.value == 8.0


def test_a_run_that_has_not_come_to_its_last_fifth_has_none(record):
    def evaluated(step, value, stage=0):
        returns = np.full((2, 3), float(value))
        return Evaluated(Position(stage, step, step), returns, np.ones((2, 3), np.int64), returns, "", 0)

    half = dataclasses.replace(record, steps=200, stages=(("bc", 200),))
    made = [evaluated(90, 1), evaluated(100, 2)]
    assert run_row("x", half, made).late is None
    assert run_row("x", half, [*made, evaluated(160, 3)]).late is None, "80 % of the updates are not more than 80 %"
    assert run_row("x", half, [*made, evaluated(161, 3)]).late.value == 3.0
    two = dataclasses.replace(record, steps=200, stages=(("bc", 100), ("iql", 100)))
    assert run_row("x", two, made).late is None, "it is at the end of its first stage alone"
    assert run_row("x", two, [*made, evaluated(100, 5, stage=1)]).late.value == 5.0


def test_a_change_that_is_cut_off_leaves_a_run_that_goes_on(tmp_path, record, monkeypatch):
    longer = dataclasses.replace(record, steps=200)
    with Run(tmp_path, record):
        pass
    (tmp_path / "result.json").write_text("{}")
    with monkeypatch.context() as broken:
        broken.setattr(Run, "_write_record", lambda run: (_ for _ in ()).throw(RunError("the disk is full")))
        with pytest.raises(RunError, match="the disk is full"):
            Run(tmp_path, longer)
    assert Record.read(tmp_path) == record and not finished(tmp_path), "what is not finished is gone on with"
    for wanted in (record, longer):
        with Run(tmp_path, wanted):
            assert Record.read(tmp_path) == wanted
