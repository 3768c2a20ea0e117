"""`rlkit.train`: the command's own way, from Python."""

import dataclasses
import functools
import gc
import json
import shutil
import signal
import sys
import warnings
from pathlib import Path

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit

import rlkit
from agents import bc
from rlkit.commands import keywords, script
from rlkit.datasets import ActionOptions, DataOptions, from_episodes
from rlkit.online import Online
from rlkit.runs.record import Record
from rlkit.types import InputError, RunError, Stage

# those of the run `trained` in conftest.py
SETTINGS = {"widths": (8,), "batch_size": 8, "steps": 40, "seeds": 2, "eval_episodes": 2}
PACE = {"eval_every": 10, "log_every": 5}
TINY = {"widths": (4,), "batch_size": 8, "steps": 4, "eval_episodes": 1, "eval_every": 4, "log_every": 4}


@pytest.fixture(autouse=True)
def _cache(cache, monkeypatch):
    monkeypatch.setenv("RLKIT_CACHE_DIR", str(cache))


class Halting(gymnasium.Env):
    """Three steps, each with the reward of its action; no id of Gymnasium's."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-3, 3, (1,))

    def reset(self, *, seed=None, options=None):
        self._t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self._t += 1
        return np.zeros(2, np.float32), float(action[0]), False, self._t == 3, {}


def episode():
    return {
        "observations": np.zeros((4, 2), np.float32),
        "actions": np.array([[-1.0], [0.5], [2.0]], np.float32),
        "rewards": np.array([-1.0, 0.5, 2.0]),
    }


def test_a_script_trains_what_the_command_does_and_its_run_serves_the_other_commands(
    trained, rlkit_command, tmp_path, capsys
):
    seen, handlers = [], []

    def watch(progress):
        seen.append(progress)
        handlers.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    run = rlkit.train("bc", "pendulum/mixed-v0", on_progress=watch, **SETTINGS, **PACE)
    assert capsys.readouterr().out == ""
    assert (run.folder / "metrics.jsonl").read_bytes() == (trained / "metrics.jsonl").read_bytes()
    assert set(handlers) == {before}  # Ctrl-C stays Python's own

    # --- what is told on the way ---
    logged = [progress for progress in seen if progress.returns is None]
    evaluated = [progress for progress in seen if progress.returns is not None]
    assert [progress.updates for progress in logged] == list(range(5, 41, 5))
    assert [progress.updates for progress in evaluated] == [0, 10, 20, 30, 40] and evaluated[0].of == 40
    assert logged[0].metrics["policy/loss"].shape == (2,)
    assert evaluated[-1].metrics is logged[-1].metrics
    np.testing.assert_array_equal(run.returns, evaluated[-1].returns)
    np.testing.assert_allclose(run.evaluate(), run.returns, rtol=1e-5)

    # --- what becomes of it ---
    saved = run.save(tmp_path / "saved")
    assert run.policy(member=1).fingerprint() == rlkit.load(saved, member=1).fingerprint()
    for command in ("evaluate", "report", "verify"):
        assert rlkit_command(command, saved)[0] == 0
    assert "bc on pendulum/mixed-v0, 40 updates, 2 seeds" in repr(run)
    with pytest.raises(InputError, match="holds a run"):
        run.save(saved)
    folder = run.folder
    del run
    gc.collect()
    assert not folder.exists() and saved.exists()


def test_what_on_progress_raises_ends_the_training_and_resume_goes_on(trained, tmp_path):
    class Enough(Exception):
        pass

    def enough(progress):
        if progress.returns is not None:
            raise Enough

    asked = {"out": tmp_path / "run", **SETTINGS, **PACE}
    with pytest.raises(Enough):
        rlkit.train("bc", Path("pendulum/mixed-v0"), on_progress=enough, **asked)
    with pytest.raises(InputError, match="holds a run"):
        rlkit.train("bc", "pendulum/mixed-v0", **asked)
    run = rlkit.train("bc", "pendulum/mixed-v0", resume="auto", on_progress=lambda progress: None, **asked)
    assert run.folder == tmp_path / "run"
    assert (run.folder / "metrics.jsonl").read_bytes() == (trained / "metrics.jsonl").read_bytes()


def test_data_and_environment_of_ones_own():
    """The policy cannot know the action from four updates; that it is played in the environment is what counts."""
    run = rlkit.train("bc", [episode(), episode()], env=Halting, on_progress=lambda progress: None, **TINY)
    record = Record.read(run.folder)
    assert record.evaluation.environment == f"{__name__}:Halting" and record.spec.horizon == 3
    action = run.policy().act(np.zeros(2))
    assert Halting.action_space.contains(action)
    assert run.returns == pytest.approx(3 * action[0], rel=1e-4)
    assert run.evaluate(episodes=3).shape == (1, 3)


def test_without_an_environment_there_are_no_returns(capsys):
    episodes = from_episodes([episode()], name="mine")
    run = rlkit.train("bc", episodes, **TINY)
    assert run.returns is None and Record.read(run.folder).data.name == "mine"
    assert "data" not in capsys.readouterr().out  # no table
    with pytest.raises(InputError, match="names no environment"):
        run.evaluate()
    with pytest.raises(InputError, match="give them to judge once more"):
        run.judge()
    with pytest.raises(InputError, match="mine is what .* was trained on"):
        run.judge(episodes)


def test_an_agent_in_a_file_of_ones_own(tmp_path, monkeypatch):
    shutil.copy(Path(__file__).parent / "percent_bc.py", tmp_path / "of_mine.py")
    monkeypatch.syspath_prepend(tmp_path)
    name = "of_mine:Config"
    try:
        run = rlkit.train(name, [episode()], share=0.5, **TINY)
        expected = run.policy().act(np.zeros(2))
        assert rlkit.load(run.folder, agent=name).act(np.zeros(2)) == expected
        assert json.loads((run.folder / "run.json").read_text())["config"]["share"] == 0.5
    finally:
        sys.modules.pop("of_mine", None)


def test_the_columns_of_a_table_keep_their_names(tmp_path):
    rows = [f"7,{hour},{80 + hour},{120 - hour},{hour / 4},1" for hour in range(5)]
    table = tmp_path / "stays.csv"
    table.write_text("\n".join(["patient,hour,pulse,bp,dose,score", *rows]))
    columns = {
        "episode": "patient",
        "step": "hour",
        "observation": ["bp", "pulse"],
        "action": ["dose"],
        "reward": "score",
        "terminated": "none",
    }
    assert rlkit.check(table, columns=columns).steps == 5
    policy = rlkit.train("bc", table, columns=columns, on_progress=lambda progress: None, **TINY).policy()
    dose = policy.act({"pulse": 82.0, "bp": 118.0})
    assert dose == policy.act([118.0, 82.0]) and policy.action_space.contains(dose)
    assert "observation_names=['bp', 'pulse'], action_names=['dose']" in repr(policy)
    with pytest.raises(InputError, match="element 0 is nan .*(bp)"):
        policy.act({"pulse": 82.0, "bp": np.nan})


def test_data_are_checked_from_python():
    report = rlkit.check([episode(), episode()])
    assert report.steps == 6 and "notice: 1 of 2 episodes repeats an earlier one" in str(report)
    assert "note: 1 of 2 episodes are held out" in str(rlkit.check([episode(), episode()], holdout=0.5))
    with pytest.raises(InputError, match="episode 0, index 1, .*nan"):
        rlkit.check([episode() | {"rewards": [0.0, np.nan, 0.0]}])
    with pytest.raises(InputError, match="unknown setting of the data 'holdot'; did you mean holdout"):
        rlkit.check([episode()], holdot=0.5)
    with pytest.raises(InputError, match="unknown name in columns 'epsode'; did you mean episode"):
        rlkit.check([episode()], columns={"epsode": "patient"})
    with pytest.raises(InputError, match="columns: 'patient' does not say .*columns={'episode': 'patient'}"):
        rlkit.check([episode()], columns="patient")
    assert resolved(columns={"action": "dose"}).data.columns.action == ("dose",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rates": 1e-3}, "unknown setting of bc 'learning_rates'; did you mean learning_rate"),
        ({"eval_evry": 3}, "did you mean eval_every"),
        ({"learning_rate": -1}, "learning_rate -1.0: must be"),
        ({"steps": 1.5}, "steps: 1.5 is not a whole number"),
        ({"seeds": 0}, "seeds 0: must be at least 1"),
        ({"normalise": "standart"}, "normalise"),
        ({"config": 3}, "a int is no Config of bc"),
        ({"env": Halting()}, "env: a Halting makes no environment"),
        ({"env": dict}, "returned a .*dict, not a gymnasium.Env"),
        ({"data": 5}, "data: int is no data"),
        ({"agent": "bcc"}, "unknown agent 'bcc'"),
        ({"preset": "pendulm"}, "unknown preset 'pendulm'; did you mean pendulum"),
        ({"out": "."}, "is not empty"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(given, message):
    asked = {"agent": "bc", "data": [episode()], **TINY, **given}
    with pytest.raises(InputError, match=message) as refusal:
        rlkit.train(**asked)
    assert "\n" not in str(refusal.value)


def test_a_run_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    class Failing(Halting):
        def step(self, action):
            if self._t:
                raise ValueError("no power")
            return super().step(action)

    monkeypatch.setattr(script.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RunError, match="no power"):
        rlkit.train("bc", [episode()], env=Failing, on_progress=print, **TINY)
    assert not list(tmp_path.iterdir())


def test_an_environment_is_recorded_as_the_command_line_names_it_where_it_can():
    assert script._name_of(Halting) == f"{__name__}:Halting"
    for unnamed in (lambda: Halting(), functools.partial(Halting)):
        assert ":" not in script._name_of(unnamed)


def resolved(data="x", **settings):
    options, _ = keywords.resolve("bc", data, None, settings, script.installed())
    return options


def test_a_preset_is_the_default_and_what_is_given_wins():
    assert resolved(preset="d4rl").data.normalise == "standard" and resolved(preset="d4rl").steps == 1_000_000
    assert resolved(preset="d4rl", normalise="none").data.normalise == "none"
    named = resolved(DataOptions("x", reward_scale=2.0), preset="d4rl").data
    assert named.reward_scale == 2.0 and named.normalise == "standard"
    assert resolved(["x", Path("y")], action={"low": (0.0,)}).data == DataOptions(
        ("x", "y"), action=ActionOptions(low=(0.0,))
    )
    small = resolved(preset="cartpole", learning_rate=0.5, steps=1e3)
    assert small.config == bc.Config(widths=(64, 64), learning_rate=0.5) and small.steps == 1000
    assert resolved(config=bc.Config(batch_size=7), widths=(3,)).config == bc.Config(batch_size=7, widths=(3,))


def test_a_preset_for_another_dataset_is_said():
    def asked(data):
        keywords.resolve("iql", data, None, {"preset": "hopper/medium"}, script.installed())

    with pytest.warns(
        RuntimeWarning, match="the preset hopper/medium is for hopper/medium-v0, not for walker2d/expert-v0"
    ):
        asked("walker2d/expert-v0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked("hopper_medium-v2.hdf5")
        asked([episode()])


def test_a_setting_of_the_agent_that_has_the_name_of_another_goes_in_with_config():
    options, _ = keywords.resolve(
        "diffusion-policy", "x", None, {"steps": 9, "config": {"steps": 3}}, script.installed()
    )
    assert options.steps == 9 and options.config.steps == 3


# --- an agent that is asked for something ---


@dataclasses.dataclass(frozen=True)
class AskedConfig(bc.Config):
    """Of an agent that takes what it is asked for as its action."""

    targets: tuple[float, ...] = (0.5,)

    def stages(self, spec, steps):
        return (Stage("asked", Obedient(self, spec), steps),)


class Obedient(bc.BC):
    @property
    def goals(self):
        return {f"{target:g}": target for target in self.config.targets}

    def begin(self, state, goal):
        return jnp.asarray(goal)

    def observe(self, state, memory, percept):
        return memory

    def act(self, state, memory, key, *, greedy):
        return memory.reshape(1, 1), memory


def test_an_evaluation_asks_for_other_things_than_training_did():
    """Halting pays its action three times; the environment's 3 is the agent's 1."""
    bounds = {"low": [-3], "high": [3]}
    settings = TINY | {"action": bounds, "on_progress": lambda progress: None}
    run = rlkit.train(f"{__name__}:AskedConfig", [episode()], env=Halting, **settings)
    assert run.evaluate() == pytest.approx(3 * 1.5)
    by_goal = run.evaluate_goals(2, config={"targets": [1.0, -0.5]})
    assert list(by_goal) == ["1", "-0.5"]
    np.testing.assert_allclose(by_goal["1"], [[9.0, 9.0]])
    np.testing.assert_allclose(by_goal["-0.5"], [[-4.5, -4.5]])
    assert run.evaluate(config={"targets": [1.0, -0.5]}) == pytest.approx(9.0)
    with pytest.raises(InputError, match="no setting 'target'; did you mean targets"):
        run.evaluate(config={"target": 1.0})


# --- going online ---


@pytest.fixture(scope="module")
def offline(cache):
    """A run on data and in an environment that nobody but this process has, with a preset that goes online its way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLKIT_CACHE_DIR", str(cache))
        settings = TINY | {"preset": "pendulum/online", "on_progress": lambda progress: None}
        return rlkit.train("sac", [episode(), episode()], env=lambda: TimeLimit(Halting(), 3), **settings)


def test_a_run_goes_on_online_with_what_is_in_memory(offline, tmp_path):
    before = offline.policy().fingerprint()
    seen = []
    pace = {"eval_every": 3, "log_every": 3}
    run = offline.finetune(6, share=0.5, out=tmp_path / "online", on_progress=seen.append, **pace)
    assert run.folder == tmp_path / "online"
    record = Record.read(run.folder)
    assert record.online == (Online(steps=6, share=0.5),) and record.stages == (("sac", 4), ("sac online", 6))
    evaluated = [progress for progress in seen if progress.returns is not None]
    assert [progress.updates for progress in evaluated] == [4, 7, 10] and evaluated[0].of == 10
    np.testing.assert_allclose(evaluated[0].returns, offline.returns, rtol=1e-5)  # the same policy, the same starts
    assert evaluated[-1].metrics["online/steps"] == [6.0]
    assert offline.policy().fingerprint() == before != run.policy().fingerprint()
    assert run.evaluate(episodes=2).shape == (1, 2)
    again = offline.finetune(6, share=0.5, out=run.folder, resume="auto", on_progress=seen.append, **pace)
    assert again.policy().fingerprint() == run.policy().fingerprint()


def test_how_to_go_online_is_the_agents_own_way_by_default(offline):
    own = keywords.finetuning(offline.folder, {"steps": 6})
    assert own.online == Online(steps=6, share=0.0), "of the preset"
    told = keywords.finetuning(offline.folder, {"steps": 1e3, "share": 0.25, "tau": 0.5, "config": {"gamma": 0.5}})
    assert told.online == Online(steps=1000, share=0.25) and (told.config.tau, told.config.gamma) == (0.5, 0.5)
    assert told.config.widths == TINY["widths"], "of the run"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "say how many"),
        ({"steps": 1.5}, "steps: 1.5 is not a whole number"),
        ({"shar": 0.5}, "unknown setting of sac 'shar'; did you mean share"),
        ({"share": 1.0}, "share 1.0: must be"),
        ({"normalise": "standard"}, "unknown setting of sac 'normalise'"),
        ({"widths": (9,)}, "arrays differ"),
        ({"out": "."}, "is not empty"),
    ],
)
def test_what_is_wrong_with_going_online_is_said_in_one_line(offline, given, message):
    with pytest.raises(InputError, match=message) as refusal:
        offline.finetune(**({"steps": 6} | given))
    assert "\n" not in str(refusal.value)
