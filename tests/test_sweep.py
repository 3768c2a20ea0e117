"""Sweeps: the values of a grid, runs that train side by side, and that each is what it would be alone."""

from __future__ import annotations

import dataclasses
import json
import signal
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest

import rlkit
from agents import iql
from rlkit.acting import Reactive
from rlkit.buffer import Buffer, stats
from rlkit.commands import grid
from rlkit.commands import sweep as commands_sweep
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.evaluation.figures import Swept, over_values
from rlkit.evaluation.statistics import Estimate
from rlkit.ranges import Count, Finite, Positive, Widths
from rlkit.runs import sweep
from rlkit.runs.checkpoint import Checkpoints
from rlkit.runs.job import Job
from rlkit.runs.record import Record
from rlkit.runs.run import evaluations, final_metrics, lines
from rlkit.runs.sweep import Member, groups
from rlkit.testing import random_episodes
from rlkit.training import swept
from rlkit.training.loop import fit
from rlkit.training.sharding import make_mesh
from rlkit.types import Stage, Stats


@dataclass(frozen=True)
class Inner:
    """Settings inside the settings."""

    scale: Finite = 1.0


@dataclass(frozen=True)
class Config:
    """An agent that drifts along the mean action of the data."""

    rate: Finite = 0.1
    limit: Positive = 1e9
    times: Count = 1
    widths: Widths = (8,)
    kind: Literal["slow", "fast"] = "slow"
    inner: Inner = Inner()

    def stages(self, spec, steps):
        """One stage."""
        return (Stage("drift", Drift(self, spec), steps),)


@dataclass(frozen=True)
class Drift(Reactive):
    """It reckons with the rate; it decides by the limit."""

    config: Config
    spec: object
    needs: tuple[str, ...] = ()

    def init(self, key, prev, stats):
        return {"place": jax.random.normal(key, stats.action_mean.shape)}

    def sample(self, buffer, key):
        return buffer.transitions(key, 8 * self.config.times, gamma=1.0)

    def update(self, state, batch, key, step):
        place = state["place"] + self.config.rate * self.config.inner.scale * (batch.action.mean(0) + 0.1)
        if self.config.limit < 100:
            place = jnp.clip(place, -self.config.limit, self.config.limit)
        return {"place": place}, {"drift/place": place.mean()}

    def act(self, state, memory, key, *, greedy):
        return jnp.tanh(state["place"])[None], memory


AGENT = f"{__name__}:Config"
FEW = ["--steps", "20", "--seeds", "2", "--eval-episodes", "1", "--eval-every", "10", "--log-every", "5"]


# ---- the grid


def test_a_grid_has_every_combination_in_the_order_of_typing():
    points = grid.points(["config.rate=1e-2,3", "--config.inner.scale=2,4"], Config())
    assert [point.label for point in points] == [
        "rate=1e-2,inner.scale=2", "rate=1e-2,inner.scale=4", "rate=3,inner.scale=2", "rate=3,inner.scale=4",
    ]  # fmt: skip
    assert points[1].config == Config(rate=0.01, inner=Inner(4.0))
    assert all(isinstance(point.config.rate, float) for point in points)


def test_values_of_any_kind_are_read_as_their_options_are():
    points = grid.points(["config.widths=8,16 16", "config.kind=slow,fast", "config.times=2"], Config())
    assert [point.config.widths for point in points] == [(8,), (8,), (16, 16), (16, 16)]
    assert points[3].config.kind == "fast" and points[3].config.times == 2
    assert points[3].label == "widths=16-16,kind=fast,times=2"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("beta=1,2", "--sweep beta=1,2: write a setting of the agent and its values, as in config.beta=1,3,10"),
        ("config.rate", "--sweep config.rate: write a setting"),
        ("config.rate=1,,2", "--sweep config.rate=1,,2: write a setting"),
        ("config.rate=1,2,1", "--sweep config.rate=1,2,1: 1 is there twice"),
        ("config.rat=1", "--sweep config.rat: there is no setting 'rat'; did you mean rate?"),
        ("config.inner.scal=1", "--sweep config.inner.scal: there is no setting 'scal'; did you mean scale?"),
        ("config.rate.x=1", "--sweep config.rate.x: there is no setting 'x'; did you mean another?"),
        ("config.times=1.5", "--sweep config.times: '1.5' is not a value of this setting"),
        ("config.kind=medium", "--sweep config.kind: 'medium' is not a value of this setting"),
        ("config.times=0", "--sweep config.times=0: times 0: must be at least 1"),
    ],
)
def test_a_mistake_in_a_sweep_is_told_in_one_line(rlkit_command, tmp_path, typed, message):
    code, _, err = rlkit_command("train", AGENT, "--sweep", typed, "--out", tmp_path / "runs")
    assert code == 2 and err.count("\n") == 1 and message in err
    assert not list(tmp_path.iterdir())


# ---- which numbers can be inputs of the program


@pytest.fixture(scope="module")
def world():
    """(spec, buffer, stats) of a few random episodes."""
    episodes = from_episodes(random_episodes())
    buffer = Buffer.from_episodes(episodes, Normaliser.fit(episodes, DataOptions("none")))
    return spec(episodes, None), buffer, stats(buffer)


def _numbers(world, *configs):
    return swept.by_stage([config.stages(world[0], 10) for config in configs])


def test_the_numbers_in_which_learners_differ_are_found(world):
    first, second = Config(rate=1.0), Config(rate=2.0, inner=Inner(3.0))
    assert _numbers(world, first, second) == [{"config.rate": [1.0, 2.0], "config.inner.scale": [1.0, 3.0]}]
    assert _numbers(world, first, first) == [{}]
    for other in (Config(times=2), Config(widths=(4,)), Config(kind="fast")):
        assert _numbers(world, first, other) is None
    (stage,) = first.stages(world[0], 10)
    assert swept.by_stage([(stage,), (stage, stage)]) is None
    assert swept.with_numbers(stage.learner, {"config.inner.scale": 7.0}).config == Config(rate=1.0, inner=Inner(7.0))


@pytest.mark.parametrize(("field", "can_be"), [("rate", True), ("limit", False)])
def test_a_number_that_the_learner_decides_by_cannot_be_an_input(world, field, can_be):
    configs = [Config(**{field: 1.0}), Config(**{field: 2.0})]
    stages = configs[0].stages(world[0], 10)
    assert swept.can_be_inputs(stages, _numbers(world, *configs), *world[1:]) is can_be


# ---- runs


def _sweep(command, folder, *words, resume="never"):
    return command("train", AGENT, *FEW, "--out", folder, "--resume", resume, *words)


def _final_state(folder):
    record = Record.read(folder)
    (stage,) = rlkit.runs.record.recorded_config(record, AGENT).stages(record.spec, record.steps)
    moments = Stats(**{name: np.array(value, np.float32) for name, value in record.stats.items()})
    with Checkpoints(folder / "checkpoints", identity=record.identity()) as checkpoints:
        last = checkpoints.last([stage], None, moments, record.seeds, make_mesh(2))
    assert last.step == 20
    return np.asarray(last.state["place"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    """A sweep of three rates, trained without a break: (folder, stdout)."""
    import contextlib
    import io

    from conftest import _catalog

    import envs
    from rlkit import commands

    folder = tmp_path_factory.mktemp("sweep") / "rates"
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setenv("RLKIT_CACHE_DIR", str(cache))
        argv = ["train", AGENT, *FEW, "--out", str(folder), "--sweep", "config.rate=0.1,0.2,0.4"]
        assert commands.main(argv, _catalog(envs.make)) == 0
    return folder, out.getvalue()


def test_a_sweep_leaves_a_run_for_each_value_a_table_and_a_figure(whole, rlkit_command):
    folder, out = whole
    assert "training rate=0.1 and 2 more, side by side" in out
    runs = [folder / f"rate={value}" for value in ("0.1", "0.2", "0.4")]
    assert {path.name for path in folder.iterdir()} == {*(run.name for run in runs), "table.txt", "sweep.png"}
    table = (folder / "table.txt").read_text()
    assert [line.split()[0] for line in table.splitlines()[3:7]] == ["data", *(run.name for run in runs)]
    assert all(line in out for line in table.splitlines())
    for run, rate in zip(runs, (0.1, 0.2, 0.4), strict=True):
        assert Record.read(run).config["rate"] == rate
        result = json.loads((run / "result.json").read_text())
        assert result["run"]["returns"]["value"] == pytest.approx(evaluations(run)[-1].returns.mean())
        assert rlkit_command("verify", run)[0] == 0
    assert rlkit_command("evaluate", runs[1], "--agent", AGENT)[0] == 0
    assert rlkit_command("report", *runs)[0] == 0
    assert rlkit.load(runs[0], agent=AGENT).act(np.zeros(3)).shape == (1,)


def test_each_value_comes_to_what_it_comes_to_alone(whole, rlkit_command, tmp_path):
    alone, beside = tmp_path / "alone", whole[0] / "rate=0.2"
    assert _sweep(rlkit_command, alone, "--config.rate", "0.2")[0] == 0
    np.testing.assert_allclose(_final_state(beside), _final_state(alone), rtol=1e-5)
    logged = zip(lines(beside / "metrics.jsonl"), lines(alone / "metrics.jsonl"), strict=True)
    for mine, theirs in logged:
        for key in ("metrics", "returns"):
            assert (key in mine) == (key in theirs)
        for name, values in mine.get("metrics", {}).items():
            np.testing.assert_allclose(values, theirs["metrics"][name], rtol=1e-4)
    assert not np.allclose(_final_state(beside), _final_state(whole[0] / "rate=0.4"), rtol=0.01)


def test_a_sweep_that_was_interrupted_goes_on_to_the_same_bits(whole, rlkit_command, tmp_path, monkeypatch):
    """In the middle of a log interval."""

    def interrupted(*args, **options):
        for progress in usual(*args, **(options | {"chunk_seconds": 0})):
            if progress.step == 7:
                signal.raise_signal(signal.SIGTERM)
            yield progress

    usual = sweep.fit
    folder, values = tmp_path / "rates", ("--sweep", "config.rate=0.1,0.2,0.4")
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "fit", interrupted)
        assert _sweep(rlkit_command, folder, *values)[0] == 143
    code, _, err = _sweep(rlkit_command, folder, *values)
    assert code == 2 and "--resume auto" in err
    code, out, _ = _sweep(rlkit_command, folder, *values, resume="auto")
    assert code == 0 and "rate=0.4: going on after 7 updates" in out
    for value in ("0.1", "0.2", "0.4"):
        run = f"rate={value}"
        assert _final_state(folder / run).tobytes() == _final_state(whole[0] / run).tobytes()
        assert (folder / run / "metrics.jsonl").read_bytes() == (whole[0] / run / "metrics.jsonl").read_bytes()
    code, out, _ = _sweep(rlkit_command, folder, *values, resume="auto")
    assert code == 0 and out.count("already finished") == 3 and "rate=0.4" in out


def test_those_go_together_that_one_program_can_train_from_where_they_stand(world, tmp_path):
    def member(label, **changes):
        run = SimpleNamespace(folder=tmp_path / label)
        job = Job(None, Config(**changes).stages(world[0], 10), world[1], world[2], None, None)
        return Member(label, job, run)

    def labels(members):
        return [[one.label for one in group] for group in groups(members)]

    first, second, third = member("a", rate=1.0), member("b", rate=2.0), member("c", rate=3.0, inner=Inner(2.0))
    assert labels([first, second, third]) == [["a", "b", "c"]]
    twice = [member("d", times=2, rate=1.0), member("e", times=2, rate=2.0)]
    assert labels([first, twice[0], second, twice[1]]) == [["a", "b"], ["d", "e"]]
    assert labels([first, member("f", limit=5.0), member("g", limit=7.0)]) == [["a"], ["f"], ["g"]]
    (tmp_path / "b" / "checkpoints" / "10").mkdir(parents=True)
    assert labels([first, second, third]) == [["a", "c"], ["b"]]


def test_what_cannot_train_side_by_side_is_one_run_each_and_what_is_not_evaluated_has_its_metrics(
    rlkit_command, tmp_path, monkeypatch
):
    judged = []

    def judgement(options, catalog):
        judged.append(options.runs)
        return "what was held out says this"

    monkeypatch.setattr("rlkit.commands.judge.judgement", judgement)
    folder = tmp_path / "runs"
    words = ["--sweep", "config.limit=0.5,1", "--eval-episodes", "0", "--holdout", "0.2"]
    code, out, _ = _sweep(rlkit_command, folder, *words)
    assert code == 0 and "training limit=0.5\n" in out and "training limit=1\n" in out
    assert abs(_final_state(folder / "limit=0.5")).max() <= 0.5

    # --- the table, without a score and without a figure ---
    table = (folder / "table.txt").read_text()
    assert all(line in out for line in table.splitlines())
    assert "No run was evaluated, so there is neither a score nor a figure" in table
    title, metrics = table.splitlines()[-4:-2]
    assert title.split() == ["limit=0.5", "limit=1"]
    shown = [float(cell) for cell in metrics.removeprefix("drift/place").split()]
    for label, value in zip(title.split(), shown, strict=True):
        assert value == pytest.approx(np.mean(final_metrics(folder / label)["drift/place"]), rel=1e-3)
    assert table.splitlines()[-1] == "what was held out says this"
    assert judged == [(folder / "limit=0.5", folder / "limit=1")]
    assert "sweep.png" not in out and not (folder / "sweep.png").exists()
    nothing_held_out = SimpleNamespace(data=DataOptions("x"))
    assert "--holdout 0.2" in commands_sweep._held_out({}, nothing_held_out, None)


def test_a_value_at_which_every_seed_diverges_ends_alone(rlkit_command, tmp_path):
    folder = tmp_path / "runs"
    code, out, err = _sweep(rlkit_command, folder, "--sweep", "config.rate=0.1,1e38")
    assert code == 1
    assert "rate=1e38: seed" in err and "diverged by step" in err and "the other runs go on" in err
    assert (folder / "rate=0.1" / "result.json").exists() and not (folder / "rate=1e38" / "result.json").exists()
    assert "rate=0.1 " in out and "rate=1e38 " not in out.split("method")[-1]


def test_a_dry_run_writes_nothing(rlkit_command, tmp_path):
    code, out, _ = _sweep(rlkit_command, tmp_path / "runs", "--sweep", "config.rate=0.1,0.2", "--dry-run")
    assert code == 0 and not list(tmp_path.iterdir())
    assert "a sweep of 2 runs: rate=0.1, rate=0.2" in out


def test_an_actor_critic_comes_to_what_it_comes_to_alone(world, mesh):
    """The temperature and the step size of IQL, which stand in a loss, a schedule and an optimiser."""
    shape, buffer, moments = world
    first = iql.Config(widths=(8,), batch_size=8, beta=1.0, actor_learning_rate=0.1)
    configs = [first, dataclasses.replace(first, beta=3.0, actor_learning_rate=0.01)]
    jobs = [config.stages(shape, 6) for config in configs]
    found = swept.by_stage(jobs)
    assert set(found[0]) == {"config.beta", "config.actor_learning_rate"}
    assert swept.can_be_inputs(jobs[0], found, buffer, moments)
    values = [{name: np.float32(numbers) for name, numbers in found[0].items()}]
    *_, together = fit(jobs[0], buffer, moments, (5, 5), log_every=6, mesh=mesh, swept=values)
    *_, alone = fit(jobs[1], buffer, moments, (5,), log_every=6, mesh=mesh)
    for name, numbers in alone.metrics.items():
        np.testing.assert_allclose(together.metrics[name][1], numbers[0], rtol=1e-3, atol=1e-6, err_msg=name)
    assert together.metrics["actor/loss"][0] != pytest.approx(together.metrics["actor/loss"][1], rel=0.01)
    for mine, theirs in zip(jax.tree.leaves(together.state), jax.tree.leaves(alone.state), strict=True):
        np.testing.assert_allclose(mine[1], theirs[0], rtol=1e-3, atol=1e-5)


# ---- the figure


def test_the_figure_puts_numbers_at_their_places(tmp_path):
    estimates = [Estimate(10.0 * n, 10.0 * n - 5, 10.0 * n + 5, "seeds") for n in range(1, 5)]
    lines_ = [Swept("tau=1", ["1", "30", "3", "10"], estimates), Swept("tau=2", ["1", "3"], estimates[:2])]
    over_values(tmp_path / "numbers.png", lines_, title="x", xlabel="beta", levels={"data": 3.0})
    over_values(tmp_path / "words.png", [Swept("", ["slow", "fast"], estimates[:2])], title="x", xlabel="kind")
    for name in ("numbers.png", "words.png"):
        image = matplotlib.image.imread(tmp_path / name)
        assert image.std() > 0.01
    with pytest.raises(ValueError, match="nothing to draw"):
        over_values(tmp_path / "none.png", [], title="x", xlabel="beta")
    with pytest.raises(ValueError, match="an estimate for each of 1 values"):
        over_values(tmp_path / "none.png", [Swept("", ["1"], estimates)], title="x", xlabel="beta")


def test_values_have_their_places_by_size_or_by_the_order_of_typing():
    from rlkit.evaluation.figures import _places

    assert list(_places(["10", "1e-1", "3"]).items()) == [("1e-1", 0.1), ("3", 3.0), ("10", 10.0)]
    assert _places(["fast", "slow"]) == {"fast": 1.0, "slow": 2.0}
