"""An environment of the user's own: how it is named, what is checked before training, what a run remembers of it."""

import json
import sys
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from conftest import SMALL
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from gymnasium.wrappers import RescaleAction, TimeLimit

import envs
import rlkit
from rlkit.commands import announce, parsing
from rlkit.evaluation import interface, task
from rlkit.runs import environments
from rlkit.runs.record import EvaluationRecord, Record
from rlkit.types import InputError

SOURCE = '''
import gymnasium
import numpy as np
from gymnasium.spaces import Box


class Cart(gymnasium.Env):
    """A cart on a rail that is pushed to its middle. The observation is its place and its speed."""

    observation_space = Box(-9, 9, (2,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.state.copy(), {}

    def step(self, action):
        place, speed = self.state
        speed = 0.9 * speed + 0.1 * float(action[0])
        self.state = np.array([place + 0.1 * speed, speed], np.float32)
        return self.state.copy(), np.array([-abs(place)]), False, False, {}


class Old(Cart):
    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, info


class Wide(Cart):
    observation_space = Box(-9, 9, (3,), np.float32)


def make():
    return gymnasium.wrappers.TimeLimit(Cart(), 20)


def short_pendulum():
    return gymnasium.make("Pendulum-v1", max_episode_steps=5)


def pendulum_without_an_id():
    from gymnasium.envs.classic_control import PendulumEnv

    return gymnasium.wrappers.TimeLimit(PendulumEnv(), 200)


def broken():
    raise RuntimeError("no such port")


number = 3
gymnasium.register("OwnCart-v0", "own_env:Cart", max_episode_steps=20)
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the module own_env in a file, and one that cannot be imported."""
    (tmp_path / "own_env.py").write_text(SOURCE)
    (tmp_path / "half_env.py").write_text("import gymnasium\n\nlimit = 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("own_env", "half_env"):
        sys.modules.pop(name, None)
    gymnasium.registry.pop("OwnCart-v0", None)


# ---- names


@pytest.mark.parametrize(("name", "limit"), [("own_env:make", 20), ("own_env:OwnCart-v0", 20), ("own_env:Cart", None)])
def test_a_function_a_class_and_an_id_of_a_module_of_ones_own_are_made(folder, name, limit):
    env = environments.make(name, envs.make)
    assert type(env.unwrapped).__name__ == "Cart" and task.time_limit(env) == limit


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:make", "environment nowhere:make: there is no module nowhere here or on Python's path"),
        ("own_env.py:make", "own_env.py is a file: go to its folder and write its module, own_env"),
        ("own_env:maek", "own_env has no maek, and registers no such id; did you mean make"),
        ("own_env:OwnCart-v1", "and registers no such id; did you mean OwnCart-v0"),
        ("own_env:number", "number is of type int, which makes no environment"),
        ("own_env:broken", r"broken\(\) raised RuntimeError: no such port \(own_env.py, line \d+\)"),
        ("own_env:np.array", "own_env has no np.array"),
        ("half_env:make", r"importing half_env raised ZeroDivisionError: division by zero \(half_env.py, line 3\)"),
        ("json:JSONDecoder", r"JSONDecoder\(\) returned a json.decoder.JSONDecoder, not a gymnasium.Env"),
        ("none", "this needs an environment"),
        ("Pendulun-v1", r"gymnasium knows no such id; did you mean .*Pendulum-v1.*--import MODULE"),
        ("SlipperyLak-v0", "did you mean .*SlipperyLake-v0"),
    ],
)
def test_a_wrong_name_is_told_in_one_line(folder, name, message):
    with pytest.raises(InputError, match=message) as caught:
        environments.make(name, envs.make)
    assert "\n" not in str(caught.value)


def test_what_data_say_imports_nothing_and_its_module_is_named(folder):
    told = json.dumps({"id": "OwnCart-v0", "entry_point": "own_env:Cart", "kwargs": {}})
    with pytest.raises(InputError, match="knows no such id.*--import own_env,"):
        envs.make(told)
    for name in ("own_env:make", "own_env:OwnCart-v0"):
        with pytest.raises(InputError, match="would import a module that a file names"):
            envs.make(name)
    assert "own_env" not in sys.modules


def test_a_module_is_imported_before_anything_else_is_done(folder):
    words = ["data", "show", "random:5", "--env", "OwnCart-v0"]
    asked = parsing.parse([*words, "--import", "own_env", "--import", "json"], None)
    assert asked.imports == ("own_env", "json")
    assert envs.make("OwnCart-v0").spec.max_episode_steps == 20
    with pytest.raises(InputError, match="--import nowhere: there is no module nowhere"):
        parsing.parse([*words, "--import", "nowhere"], None)


def test_what_a_run_imported_is_asked_for_again():
    known = EvaluationRecord("OwnCart-v0", 2, 0, ("own_env", "other"))
    assert environments.again(known, ["other", "own_env"]) == "OwnCart-v0"
    with pytest.raises(InputError, match="add --import other$"):
        environments.again(known, ["own_env"])
    with pytest.raises(InputError, match="the environment is own_env:make, .* add --env own_env:make$"):
        environments.again(replace(known, environment="own_env:make"), ["other", "own_env"])


def test_readers_are_told_the_id_alone(folder):
    environments.make("own_env:OwnCart-v0", envs.make)
    named = ("own_env:OwnCart-v0", "own_env:make", "Pendulum-v1", "none", None)
    assert [environments.for_readers(name) for name in named] == [
        "OwnCart-v0", "own_env:make", "Pendulum-v1", None, None,
    ]  # fmt: skip


# ---- the first step


class Plain(gymnasium.Env):
    """Returns what it is given, instead of what is right."""

    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Discrete(3, start=1)

    def __init__(self, **returned):
        right = {"obs": np.zeros(2), "reward": 1.0, "terminated": False, "truncated": False, "info": {}}
        self._returned = right | returned

    def reset(self, *, seed=None, options=None):
        return self._returned.get("reset", (self._returned["obs"], {}))

    def step(self, action):
        assert type(action) is int and 1 <= action <= 3
        right = tuple(self._returned[name] for name in ("obs", "reward", "terminated", "truncated", "info"))
        return self._returned.get("step", right)


class NoSeed(Plain):
    def reset(self):
        return np.zeros(2), {}


class Quits(Plain):
    def step(self, action):
        sys.exit("simulator not found")


def of(space, **returned):
    env = Plain(**returned)
    env.observation_space = space
    return env


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Plain(reward=[1.0, 2.0]), "the reward is a list of 2 values, not one number: return a float"),
        (Plain(reward=None), "the reward is None"),
        (Plain(reward="1"), "the reward is '1'"),
        (Plain(reward=np.nan), "the reward of its first step is nan"),
        (Plain(step=(np.zeros(2), 1.0, False, {})), "step returned four values, as the old gym did: .* terminated, "),
        (Plain(step=np.zeros(2)), r"step returned an array of shape \[2\]: gymnasium's step returns five values"),
        (TimeLimit(Plain(step=(np.zeros(2), 1.0, False, {})), 9), "as the old gym did"),
        (Plain(reset=np.zeros(2)), r"reset returned an array of shape \[2\]: gymnasium's reset returns two values"),
        (Plain(reset=(np.zeros(2), None)), "the info of reset is None, not a mapping"),
        (Plain(terminated=None), "terminated is None: return True or False"),
        (Plain(truncated=2), "truncated is 2: return True or False"),
        (Plain(info=[]), "the info of step is a list of 0 values, not a mapping"),
        (Plain(obs=np.zeros(3)), r"the observation has the shape \[3\], but its space has \[2\]"),
        (Plain(obs=np.array(["a", "b"])), "the observation holds <U1, not numbers"),
        (Plain(obs=np.array([0, np.inf])), "observation element 1 is inf after its first reset"),
        (of(Discrete(3), obs=3), "the observation is 3, but its space has the whole numbers 0 to 2"),
        (of(Discrete(3), obs=0.5), "the observation is 0.5, but"),
        (of(Dict(a=Discrete(3)), obs={"b": 1}), "the observation has no 'a', which its space names"),
        (of(Dict(a=Discrete(3)), obs={"a": 9}), "the observation/a is 9, but"),
        (
            of(Box(0, 255, (2,), np.uint8), obs=np.array([0.5, 0.2])),
            "has fractions .float64., but its space is of uint8",
        ),
        (of(Tuple([Discrete(2)]), obs=(0,)), "Tuple spaces are not supported"),
        (of(None), "its observation_space is None, not a gymnasium space"),
        (NoSeed(), r"reset raised TypeError: .*define reset\(self, \*, seed=None, options=None\)"),
        (Quits(), r"step raised SystemExit: simulator not found \(test_own_environment.py, line \d+\)"),
    ],
)
def test_a_fault_of_the_first_step_is_one_line_that_names_the_environment(env, message):
    with pytest.raises(InputError, match=f"^environment my_env:make: .*{message}") as caught:
        interface.check(env, "my_env:make", 7)
    assert "\n" not in str(caught.value)


def test_forms_that_mean_one_number_and_one_flag_are_taken():
    env = Plain(reward=np.array([2.5], np.float32), terminated=np.bool_(True), truncated=1)
    assert interface.check(env, "plain", 7) == []
    returned = interface.read_step(env.step(1), env.observation_space)
    assert (returned.reward, returned.terminated, returned.truncated) == (2.5, True, True)
    assert type(returned.reward) is float and type(returned.truncated) is bool


def test_an_observation_beyond_its_bounds_is_told():
    (sentence,) = interface.check(Plain(obs=np.array([0.0, 7.0])), "plain", 7)
    assert "observation element 1 lies beyond the bounds of its space, -1 to 1" in sentence


def test_the_check_leaves_the_action_space_as_it_was():
    Plain.action_space.seed(3)
    wanted = [int(Plain.action_space.sample()) for _ in range(20)]
    Plain.action_space.seed(3)
    interface.check(Plain(), "plain", 7)
    assert [int(Plain.action_space.sample()) for _ in range(20)] == wanted


@pytest.mark.parametrize(
    ("space", "obs"),
    [
        (Box(-9, 9, (2, 3), np.float64), np.arange(6.0).reshape(2, 3)),
        (Discrete(4, start=-1), 2),
        (Dict(b=Box(0, 9, (2,), np.int64), a=Dict(c=Discrete(3))), {"b": np.array([4, 5]), "a": {"c": 1}, "more": 1}),
    ],
)
def test_observations_are_flattened_as_gymnasium_does(space, obs):
    mine = interface.flatten(space, obs)
    np.testing.assert_array_equal(mine, np.asarray(gymnasium.spaces.flatten(space, obs), np.float32))
    assert mine.dtype == np.float32


def test_a_later_observation_of_another_shape_is_refused():
    for wrong in (np.zeros(3), np.zeros((1, 2)), 0.0):
        with pytest.raises(interface.BadReturn, match="the observation has the shape"):
            interface.flatten(Plain.observation_space, wrong)


def test_what_is_flattened_does_not_change_with_the_environments_own_array():
    own = np.zeros(2, np.float32)
    mine = interface.flatten(Plain.observation_space, own)
    own[:] = 5
    assert mine.tolist() == [0.0, 0.0]


def test_an_environment_may_write_into_its_action():
    taken = interface.in_form(Box(-2, 2, (1, 2)), np.array([1.0, 2.0], np.float32))
    taken *= 0
    assert taken.shape == (1, 2)


# ---- scores


def pendulum(**how):
    return gymnasium.make("Pendulum-v1", **how)


@pytest.mark.parametrize(
    ("env", "why"),
    [
        (pendulum(), ""),
        (pendulum(g=10.0), ""),  # its default
        (TimeLimit(pendulum(max_episode_steps=-1), 200), ""),
        (pendulum(max_episode_steps=5), "its episodes have at most 5 steps, those of the reference 200"),
        (TimeLimit(pendulum(), 5), "its episodes have at most 5 steps"),
        (pendulum(max_episode_steps=-1), "its episodes have any number of steps"),
        (pendulum(g=3.0), "it is made with g=3.0, the reference with its usual arguments"),
        (RescaleAction(pendulum(), -1, 1), "it is wrapped in RescaleAction"),
    ],
)
def test_scores_are_of_the_references_own_task(env, why):
    found, told = environments.reference(env, envs.REFERENCES)
    assert (found is None) == bool(why)
    assert told.startswith(f"environment Pendulum-v1: {why}" if why else "")


def test_references_are_of_the_registered_time_limit():
    """But for the pen, which D4RL cut at 100 steps."""
    for name, known in envs.REFERENCES.items():
        registered = gymnasium.registry.get(name)
        if registered is not None and registered.max_episode_steps is not None:
            assert known.steps == registered.max_episode_steps or name == "AdroitHandPen-v1", name
    for name in ("SlipperyLake-v0", "Detour-v0", "PointWalk-v0", "UTurn-v0", "BrainStimulation-v0"):
        assert environments.reference(envs.make(name), envs.REFERENCES)[1] == "", name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("short_pendulum", "environment Pendulum-v1: its episodes have at most 5 steps, those of the reference 200"),
        (
            "pendulum_without_an_id",
            "the reference returns of pendulum/mixed-v0 are those of the environment that it names",
        ),
    ],
)
def test_another_task_than_the_references_has_no_scores_and_says_so(rlkit_command, folder, name, why):
    code, out, err = rlkit_command("train", "bc", *SMALL, "--env", f"own_env:{name}", "--dry-run")
    assert code == 0 and json.loads(out[: out.index("\n\n")])["reference"] is None
    assert err == f"rlkit: no scores: {why}\n"


# ---- the commands


def test_no_environment_although_the_data_name_one(rlkit_command):
    code, out, err = rlkit_command("train", "bc", *SMALL, "--env", "none", "--dry-run")
    shown = json.loads(out[: out.index("\n\n")])
    assert code == 0 and shown["evaluation"] is None
    assert err == "rlkit: training without evaluation: --env none\n"
    code, _, err = rlkit_command("train", "bc", *SMALL, "--env", "none", "--online.steps", "9", "--dry-run")
    assert code == 2 and "there is no environment to act in: --env none" in err


def test_an_environment_is_tried_before_the_data_are_read(rlkit_command, folder):
    code, _, err = rlkit_command("train", "bc", "--env", "own_env:Old", "--dataset", "no/such-v0")
    assert code == 2 and err.count("\n") == 1
    assert "environment own_env:Old: step returned four values" in err and "--env none trains without" in err


def record_episodes(folder):
    """Eight episodes of a controller of the user's own, one file each."""
    from own_env import make

    env = make()
    folder.mkdir()
    for seed in range(8):
        obs, _ = env.reset(seed=seed)
        observations, actions, rewards, over = [obs], [], [], False
        while not over:
            action = np.clip(-obs[:1] - obs[1:], -1, 1)
            obs, reward, terminated, over, _ = env.step(action)
            observations.append(obs)
            actions.append(action)
            rewards.append(float(reward[0]))
        columns = {"observations": observations, "actions": actions, "rewards": rewards, "terminated": terminated}
        np.savez(folder / f"{seed}.npz", **columns)


def test_a_roboticist_with_an_environment_in_a_file_and_episodes_of_their_own(rlkit_command, folder, monkeypatch):
    """Trained, evaluated, loaded, gone on with and collected from; and nothing is imported that was not typed."""
    with monkeypatch.context() as patch:
        patch.syspath_prepend(folder)
        record_episodes(folder / "episodes")
    small = ["--config.widths", "8", "--steps", "4", "--eval-episodes", "2", "--config.batch-size", "8"]
    data = ["--dataset", "episodes"]
    code, _, err = rlkit_command("train", "bc", *small, *data, "--env", "own_env:make", "--out", "run")
    assert code == 0, err
    record = Record.read(folder / "run")
    assert record.evaluation.environment == "own_env:make" and record.spec.horizon == 20
    assert record.reference is None

    sys.modules.pop("own_env")
    gymnasium.registry.pop("OwnCart-v0")
    asks = "run.json: the environment is own_env:make, which is not imported unless it is named: add --env own_env:make"
    online = ["finetune", "run", "--online.steps", "4"]
    playing = ["data", "collect", "run", "--name", "cart/bc-v0", "--episodes", "1", "--out", "data"]
    for words in (["evaluate", "run"], online, playing):
        code, _, err = rlkit_command(*words)
        assert code == 2 and err == f"rlkit: {asks}\n"
    assert rlkit.load(folder / "run").act(np.zeros(2)).shape == (1,)
    assert "own_env" not in sys.modules

    code, told, err = rlkit_command("evaluate", "run", "--env", "own_env:make")
    assert (code, err) == (0, "") and "bc" in told and "no reference returns are known" in told
    code, _, err = rlkit_command("evaluate", "run", "--env", "own_env:Wide")
    assert code == 2 and "environment own_env:Wide: the observation has the shape [2], but its space has [3]" in err
    code, _, err = rlkit_command("evaluate", "run", "--env", "Pendulum-v1")
    assert code == 2 and "run cannot act in Pendulum-v1: observation has shape [2], the environment's [3]" in err
    code, _, err = rlkit_command(*playing, "--env", "own_env:make")
    assert (code, err) == (0, "")
    code, told, err = rlkit_command("data", "show", "cart/bc-v0", "--data-root", "data")
    assert code == 0 and "not named; --env names one" in told

    # --- trained without one, evaluated in one without a time limit ---
    code, _, err = rlkit_command("train", "bc", *small, *data, "--env", "none", "--out", "blind")
    assert code == 0 and Record.read(folder / "blind").evaluation is None
    code, _, err = rlkit_command("evaluate", "blind")
    assert code == 2 and "blind names no environment to evaluate in: name one with --env" in err
    code, told, err = rlkit_command("evaluate", "blind", "--env", "own_env:OwnCart-v0", "--episodes", "2")
    assert (code, err) == (0, "") and "bc" in told
    jobs = []
    monkeypatch.setattr("rlkit.commands.dry_run.describe", jobs.append)
    code, _, err = rlkit_command("train", "bc", *small, *data, "--env", "own_env:Cart", "--dry-run")
    assert code == 0 and "environment own_env:Cart has no time limit: an episode of 200 steps" in err
    assert "finetune" not in announce.closing(jobs[0], folder / "run"), "nothing can be collected there"
    assert "finetune" in announce.closing(jobs[0]._replace(is_endless=False), folder / "run")
    code, _, err = rlkit_command(*online, "--env", "own_env:Cart", "--out", "on")
    assert code == 2 and "has no time limit, which online training needs" in err
    assert not (folder / "on" / "run.json").exists(), "so that the next try is not told that a run is there"
