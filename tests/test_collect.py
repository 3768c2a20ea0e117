"""Episodes played into a dataset: `data collect`, and `--dataset random:N`."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import conftest
import gymnasium
import h5py
import minari
import numpy as np
import pytest
from conftest import PACE, SMALL
from gymnasium.spaces import Box, Dict, Discrete, Text, Tuple

import envs
import rlkit
from rlkit.commands import collect as played
from rlkit.commands.options import EVAL_SEED
from rlkit.datasets import DataOptions, load, writing
from rlkit.runs.record import Record

ROOT = Path(__file__).parent.parent
PENDULUM = ["--env", "Pendulum-v1"]


class Stairs(gymnasium.Env):
    """Five steps up to a terminal state, or three and a time limit. Its observation is one array that is changed in
    place, in the kind of space that is asked for."""

    def fault(self):
        """What happens in the middle of the third episode."""

    def __init__(self, kind="box", limit=None):
        height = Box(-9, 9, (2,), np.float32)
        floor = Discrete(7)
        kinds = {"box": height, "dict": Dict(floor=floor, height=height), "tuple": Tuple((floor, height))}
        self.observation_space = kinds[kind]
        self.action_space = Discrete(2, start=1)
        self._kind, self._limit = kind, limit
        self._height = np.zeros(2, np.float32)
        self._episode = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._episode += 1
        self._height[:] = 0, self.np_random.uniform()
        return self._seen(), {}

    def step(self, action):
        assert action in (1, 2)
        self._height[0] += 1
        if self._episode == 2 and self._height[0] == 2:
            self.fault()
        return self._seen(), float(action), bool(self._height[0] == 5), bool(self._height[0] == self._limit), {}

    def _seen(self):
        floor = int(self._height[0])
        return {"box": self._height, "dict": {"floor": floor, "height": self._height}, "tuple": (floor, self._height)}[
            self._kind
        ]


gymnasium.register("Stairs-v0", f"{__name__}:Stairs")


def stairs(fault=None, **how):
    """make_env of the stairs, with what breaks in their third episode."""

    def make_env(spec):
        env = gymnasium.make(spec, disable_env_checker=True, **how)
        if fault is not None:
            env.unwrapped.fault = fault
        return env

    return make_env


@pytest.fixture
def collect(rlkit_command, tmp_path):
    """Collect into a folder of this test: (code, stdout, stderr)."""

    def command(policy, name, *argv, **how):
        return rlkit_command("data", "collect", policy, "--name", name, "--out", tmp_path / "root", *argv, **how)

    return command


def read(root, name):
    return load(DataOptions(name, data_root=root), use_cache=False)


def stored(root, name):
    """Every array of a dataset by its place in the file."""
    arrays = {}
    with h5py.File(root / name / "data" / "main_data.hdf5") as file:
        file.visititems(lambda place, item: arrays.update({place: item[()]}) if hasattr(item, "shape") else None)
    return arrays


def assert_same(mine, theirs):
    assert mine.keys() == theirs.keys() and mine
    for place, values in mine.items():
        assert values.dtype == theirs[place].dtype, place
        np.testing.assert_array_equal(values, theirs[place], err_msg=place)


# ---- one episode


@pytest.mark.parametrize(("limit", "cut", "steps", "ends"), [
    (None, None, 5, (True, False)), (3, None, 3, (False, True)),
    (None, 4, 4, (False, True)), (None, 5, 5, (True, False)),
])  # fmt: skip
def test_an_episode_has_one_more_observation_than_steps_and_one_flag_at_its_end(limit, cut, steps, ends):
    rows = writing.rollout(Stairs(limit=limit), lambda obs, reward: 1, 7, cut)
    assert rows["observations"][:, 0].tolist() == list(range(steps + 1)), "copies, though the array is the same"
    assert len(rows["actions"]) == len(rows["rewards"]) == steps
    assert (rows["terminations"][-1], rows["truncations"][-1]) == ends
    assert not rows["terminations"][:-1].any() and not rows["truncations"][:-1].any()


def test_a_policy_sees_the_reward_of_the_step_before():
    seen = []
    writing.rollout(Stairs(), lambda obs, reward: seen.append(reward) or 2, 7)
    assert seen == [0.0, 2.0, 2.0, 2.0, 2.0]


# ---- random


def test_random_episodes_are_stored_as_they_were_played(collect, tmp_path):
    code, out, err = collect("random", "pendulum/random-v0", *PENDULUM, "--episodes", "3")
    assert (code, err) == (0, "") and "3 episodes" in out
    data = read(tmp_path / "root", "pendulum/random-v0")
    assert (data.report.episodes, data.report.truncated_episodes, data.report.steps) == (3, 3, 600)
    assert data.reference == envs.REFERENCES["Pendulum-v1"][:2]
    env = envs.make(data.env_spec)
    assert env.spec.id == "Pendulum-v1"
    arrays = stored(tmp_path / "root", "pendulum/random-v0")
    for i in range(3):
        obs, _ = env.reset(seed=i)
        np.testing.assert_array_equal(arrays[f"episode_{i}/observations"][0], obs)
        for t, action in enumerate(arrays[f"episode_{i}/actions"]):
            obs, reward, *_ = env.step(action)
            np.testing.assert_array_equal(arrays[f"episode_{i}/observations"][t + 1], obs)
            assert arrays[f"episode_{i}/rewards"][t] == reward
    actions = np.concatenate([arrays[f"episode_{i}/actions"] for i in range(3)]).ravel()
    assert np.histogram(actions, 4, (-2, 2))[0].min() > 100 and np.abs(actions).max() <= 2
    assert minari.MinariDataset(tmp_path / "root" / "pendulum/random-v0" / "data").total_steps == 600


def test_the_folder_may_be_named_from_where_one_is(rlkit_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(writing, "PAUSE", 0)
    words = ["--env", "Stairs-v0", "--episodes", "3", "--name", "stairs/x-v0", "--out", "root"]
    assert rlkit_command("data", "collect", "random", *words, make_env=stairs())[::2] == (0, "")
    assert read(Path("root"), "stairs/x-v0").report.episodes == 3


def test_the_first_action_tells_nothing_of_the_start():
    """Both are drawn with numbers from one seed: from the same stream they would be the same numbers."""
    starts, actions = [], []
    env = Stairs()
    env.action_space = Box(0, 1, (1,), np.float64)
    for seed in range(100):
        starts.append(env.reset(seed=seed)[0][1])
        actions.append(played.uniform(env, seed)(None, 0.0)[0])
    assert abs(np.corrcoef(starts, actions)[0, 1]) < 0.4


def test_no_evaluation_is_played_from_the_recorded_starts(collect, tmp_path):
    collect("random", "stairs/x-v0", "--env", "Stairs-v0", "--episodes", "2", make_env=stairs())
    collect("random", "stairs/y-v0", "--env", "Stairs-v0", "--episodes", "1", "--seed", "1", make_env=stairs())
    first, second = (stored(tmp_path / "root", f"stairs/{name}-v0") for name in "xy")
    np.testing.assert_array_equal(first["episode_1/observations"], second["episode_0/observations"])
    np.testing.assert_array_equal(first["episode_1/actions"], second["episode_0/actions"])
    with h5py.File(tmp_path / "root" / "stairs/x-v0/data/main_data.hdf5") as file:
        seeds = [file[f"episode_{i}"].attrs["seed"] for i in range(2)]
    assert seeds == [0, 1] and EVAL_SEED > 2**19


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_observations_of_several_parts_are_stored_part_by_part(collect, tmp_path, kind):
    code, _, err = collect(
        "random", "stairs/parts-v0", "--env", "Stairs-v0", "--episodes", "2", make_env=stairs(kind=kind)
    )
    assert (code, err) == (0, "")
    data = minari.MinariDataset(tmp_path / "root" / "stairs/parts-v0" / "data")
    obs = data[1].observations
    floor, height = (obs["floor"], obs["height"]) if kind == "dict" else obs
    assert floor.tolist() == [0, 1, 2, 3, 4, 5] and height[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert set(data[0].actions) | set(data[1].actions) == {1, 2} and data[0].terminations[-1]
    if kind == "dict":
        episodes = read(tmp_path / "root", "stairs/parts-v0")
        assert episodes.obs.shape == (12, 9) and episodes.reference is None
        assert episodes.report.terminal_episodes == 2


def test_pictures_are_stored_without_loss(collect, tmp_path):
    def make_env(spec):
        env = Stairs()
        env.observation_space = Box(0, 255, (8, 8, 3), np.uint8)
        rng = np.random.default_rng(0)
        env._seen = lambda: rng.integers(0, 256, (8, 8, 3), np.uint8)
        env.spec = gymnasium.spec("Stairs-v0")
        return env

    assert collect("random", "some/b-v0", "--env", "Stairs-v0", "--episodes", "1", make_env=make_env)[0] == 0
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    np.testing.assert_array_equal(stored(tmp_path / "root", "some/b-v0")["episode_0/observations"][0], picture)
    np.testing.assert_array_equal(read(tmp_path / "root", "some/b-v0").obs[0], picture.ravel().astype(np.float32))


# ---- a run's policy


def test_what_a_run_collected_can_be_trained_on(collect, rlkit_command, tmp_path, trained):
    """Greedy or not, this agent acts the same."""
    assert collect(trained, "pendulum/bc-v0", "--episodes", "2", "--seed", "5")[0] == 0
    data = read(tmp_path / "root", "pendulum/bc-v0")
    policy = rlkit.load(trained)
    env = envs.make("Pendulum-v1")
    obs, _ = env.reset(seed=6)
    arrays = stored(tmp_path / "root", "pendulum/bc-v0")
    for t in range(20):
        action = policy.act(obs)
        np.testing.assert_allclose(arrays["episode_1/actions"][t], action, rtol=1e-6)
        obs, *_ = env.step(arrays["episode_1/actions"][t])
    words = ["--dataset", "pendulum/bc-v0", "--data-root", tmp_path / "root", "--out", tmp_path / "run"]
    code, _, err = rlkit_command("train", "bc", *SMALL, *PACE, *words)
    assert (code, err) == (0, "")
    record = Record.read(tmp_path / "run")
    assert record.evaluation is not None and record.data.fingerprint == data.fingerprint
    assert record.reference.source == "metadata of pendulum/bc-v0"
    assert record.data.mean_return.value == pytest.approx(data.returns().mean())
    code, _, err = collect(tmp_path / "run", "pendulum/bc-v0", "--episodes", "2", "--seed", "5")
    assert code == 2 and "it is another collection (state: " in err, "the same agent with other weights"


def test_a_run_samples_its_actions_unless_they_are_to_be_greedy(collect, rlkit_command, tmp_path):
    """And an episode follows from its seed alone."""
    cartpole = ["--env", "CartPole-v1", "--dataset", "random:200", "--eval-episodes", "1"]
    run = tmp_path / "run"
    assert rlkit_command("train", "bc", *SMALL[:-2], *PACE, *cartpole, "--out", run)[0] == 0
    for name, *how in (
        ("cart/sampled-v0", "--seed", "3", "--episodes", "3"),
        ("cart/later-v0", "--seed", "5", "--episodes", "1"),
        ("cart/greedy-v0", "--seed", "3", "--episodes", "1", "--greedy"),
    ):
        assert collect(run, name, *how)[0] == 0
    sampled, later, greedy = (stored(tmp_path / "root", f"cart/{name}-v0") for name in ("sampled", "later", "greedy"))
    np.testing.assert_array_equal(sampled["episode_2/actions"], later["episode_0/actions"])
    policy = rlkit.load(run)
    chosen = [policy.act(obs) for obs in greedy["episode_0/observations"][:-1]]
    np.testing.assert_array_equal(greedy["episode_0/actions"], chosen)
    chosen = [policy.act(obs) for obs in sampled["episode_0/observations"][:-1]]
    assert (sampled["episode_0/actions"] != chosen).any()
    data = read(tmp_path / "root", "cart/sampled-v0")
    assert data.report.terminal_episodes == 3 and data.reference == envs.REFERENCES["CartPole-v1"][:2]


# ---- interrupted


GATED = """
import sys
import faulty
from rlkit import commands
from rlkit.datasets import writing
writing.PAUSE = 0
sys.exit(commands.main(sys.argv[1:], faulty.catalog("gate")))
"""


def test_a_killed_collection_keeps_its_episodes_and_goes_on_to_the_same_data(collect, tmp_path):
    """Killed in the middle of its third episode, each written when it was finished."""
    mark = tmp_path / "mark"
    told = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "FAULT_MARK": str(mark), "FAULT_GATE": str(tmp_path / "gate")}
    words = ["data", "collect", "random", *PENDULUM, "--episodes", "4", "--name", "pend/killed-v0"]
    words += ["--out", str(tmp_path / "root")]
    child = subprocess.Popen(
        [sys.executable, "-c", GATED, *words], env=os.environ | told, stderr=subprocess.PIPE, text=True
    )
    try:
        until = time.monotonic() + 120
        while not mark.exists():
            assert child.poll() is None and time.monotonic() < until, child.stderr.read()
            time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
        child.wait()
    finally:
        child.kill()
    before = stored(tmp_path / "root", "pend/killed-v0")
    assert read(tmp_path / "root", "pend/killed-v0").report.episodes == 2
    code, out, err = collect("random", "pend/killed-v0", *PENDULUM, "--episodes", "4")
    assert (code, err) == (0, "") and "going on after 2 episodes" in out
    assert collect("random", "pend/whole-v0", *PENDULUM, "--episodes", "4")[0] == 0
    after = stored(tmp_path / "root", "pend/killed-v0")
    assert_same(after, stored(tmp_path / "root", "pend/whole-v0"))
    assert_same(before, {place: after[place] for place in before})
    one, other = (read(tmp_path / "root", f"pend/{name}-v0") for name in ("killed", "whole"))
    assert one.fingerprint == other.fingerprint
    assert not [path.name for path in (tmp_path / "root/pend/killed-v0").iterdir() if path.name != "data"]


def _break():
    raise ValueError("the stairs\nbroke")


@pytest.mark.parametrize(("fault", "code"), [
    (lambda: signal.raise_signal(signal.SIGINT), 130), (lambda: signal.raise_signal(signal.SIGTERM), 143), (_break, 1),
])  # fmt: skip
def test_what_ends_a_collection_costs_only_the_episode_that_is_being_played(collect, tmp_path, request, fault, code):
    # a shell starts what runs in the background with SIGINT ignored, the tests too
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    words = ["random", "stairs/s-v0", "--env", "Stairs-v0", "--episodes", "4"]
    handler = signal.getsignal(signal.SIGTERM)
    ended, out, err = collect(*words, make_env=stairs(fault=fault))
    assert ended == code and "2 of 4 episodes, 10 steps" in out
    assert signal.getsignal(signal.SIGTERM) is handler
    if code == 1:
        assert err == "rlkit: episode 2 (reset with seed 2): ValueError: the stairs broke\n"
    assert read(tmp_path / "root", "stairs/s-v0").report.episodes == 2
    assert collect(*words, make_env=stairs())[0] == 0
    assert read(tmp_path / "root", "stairs/s-v0").report.episodes == 4


def test_writing_takes_a_tenth_of_the_time_at_most(tmp_path, monkeypatch):
    """An episode takes a second, and so does a write, by a clock that stands still otherwise."""
    clock = [0.0]
    monkeypatch.setattr(writing, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    class Slow(writing.GrowingDataset):
        def _make_part(self):
            super()._make_part()
            clock[0] += 1

    env = stairs()("Stairs-v0")
    about = {"references": None, "command": "", "description": "", "algorithm": ""}
    growing = Slow(tmp_path, "stairs/slow-v0", env, 0, {}, about)
    on_disk = []
    for seed in range(22):
        clock[0] += 1
        growing.add(writing.rollout(env, lambda obs, reward: 1, seed))
        on_disk.append(growing.episodes)
    assert on_disk == [1] * 9 + [10] * 9 + [19] * 4
    growing.write()
    assert read(tmp_path, "stairs/slow-v0").report.episodes == 22


@pytest.mark.parametrize("late", [False, True], ids=["before it", "after it"])
@pytest.mark.parametrize(("renames", "before", "after"), [(1, 0, 1), (2, 1, 1), (3, 1, 2), (4, 2, 2), (5, 2, 3)])
def test_a_stop_at_any_rename_of_a_write_loses_no_episode(collect, tmp_path, monkeypatch, renames, before, after, late):
    """The first write renames once, each later one twice. Killed: nothing is renamed any more. Interrupted: the last
    write still takes place."""
    monkeypatch.setattr(writing, "PAUSE", 0)
    words = ["--env", "Stairs-v0", "--episodes", "3"]
    assert collect("random", "stairs/whole-v0", *words, make_env=stairs())[0] == 0
    whole = stored(tmp_path / "root", "stairs/whole-v0")
    for name, last in (("killed", 99), ("interrupted", renames)):
        calls = []

        def replace(source, target, calls=calls, last=last, real=os.replace):
            calls.append(target)
            stops = renames <= len(calls) <= last
            if late or not stops:
                real(source, target)
            if stops:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(writing.os, "replace", replace)
            assert collect("random", f"stairs/{name}-v0", *words, make_env=stairs())[0] == 130
        code, out, _ = collect("random", f"stairs/{name}-v0", *words, make_env=stairs())
        assert code == 0
        found = re.search("going on after (\\d) episodes", out)
        kept = int(found[1]) if found else 3 * ("already has its 3" in out)
        if name == "killed":
            assert kept == (after if late else before)
        else:
            assert kept == after + (renames in (2, 4)), "with what was played"
        assert_same(stored(tmp_path / "root", f"stairs/{name}-v0"), whole)
        assert [path.name for path in (tmp_path / f"root/stairs/{name}-v0").iterdir()] == ["data"]


def test_what_others_remove_is_not_begun_anew_with_other_numbers(collect, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "PAUSE", 0)
    folder = tmp_path / "root/stairs/x-v0"

    def remove():
        shutil.rmtree(folder / "data")

    words = ["random", "stairs/x-v0", "--env", "Stairs-v0", "--episodes", "4"]
    code, _, err = collect(*words, make_env=stairs(fault=remove))
    assert code == 1 and err.count("\n") == 1 and "its 2 episodes were removed by somebody else" in err
    assert collect(*words, make_env=stairs())[0] == 0
    assert read(tmp_path / "root", "stairs/x-v0").report.episodes == 4


def test_a_full_disk_is_told_in_one_line_and_costs_no_episode_that_was_written(rlkit_command, small_disk, monkeypatch):
    monkeypatch.setattr(writing, "PAUSE", 0)
    # 20 KiB each, and all of them twice while they are written
    words = ["--episodes", "90", "--name", "pend/full-v0", "--out", small_disk]
    code, out, err = rlkit_command("data", "collect", "random", *PENDULUM, *words)
    assert code == 1 and err.count("\n") == 1 and re.search(r"cannot be written to \(.* MiB are needed", err)
    kept = read(small_disk, "pend/full-v0").report.episodes
    assert kept > 10 and f"{kept} of 90 episodes" in out


def test_values_that_are_not_finite_are_not_stored(collect, tmp_path):
    def make_env(spec):
        env = stairs()(spec)
        env.unwrapped.reset = lambda **_: (np.full(2, np.nan, np.float32), {})
        return env

    code, _, err = collect("random", "stairs/nan-v0", "--env", "Stairs-v0", "--episodes", "2", make_env=make_env)
    assert code == 1 and err.count("\n") == 1
    assert "episode 0 (reset with seed 0): an observation is not finite" in err
    assert not (tmp_path / "root").exists()


def test_what_an_old_environment_returns_is_named_and_a_reward_in_an_array_is_stored_as_a_number(collect, tmp_path):
    def make_env(read):
        def of(spec):
            env = stairs()(spec)
            step = env.unwrapped.step
            env.unwrapped.step = lambda action: read(*step(action))
            return env

        return of

    words = ["--env", "Stairs-v0", "--episodes", "1"]
    old = make_env(lambda obs, reward, terminated, truncated, info: (obs, reward, terminated, info))
    code, _, err = collect("random", "stairs/old-v0", *words, make_env=old)
    assert code == 1 and err.count("\n") == 1
    assert "episode 0 (reset with seed 0): step returned four values, as the old gym did: gymnasium's step" in err
    arrays = make_env(lambda obs, reward, *rest: (obs, np.array([reward]), *rest))
    assert collect("random", "stairs/arrays-v0", *words, make_env=arrays)[0] == 0
    assert stored(tmp_path / "root", "stairs/arrays-v0")["episode_0/rewards"].shape == (5,)


# ---- refused


def test_the_same_command_again_changes_nothing(collect, tmp_path):
    words = ["random", "stairs/x-v0", "--env", "Stairs-v0", "--episodes", "2"]
    assert collect(*words, make_env=stairs())[0] == 0
    files = {path: path.read_bytes() for path in (tmp_path / "root").rglob("*") if path.is_file()}
    code, out, err = collect(*words, make_env=stairs())
    assert (code, err) == (0, "") and "already has its 2 episodes" in out
    assert files == {path: path.read_bytes() for path in (tmp_path / "root").rglob("*") if path.is_file()}


@pytest.mark.parametrize(("other", "what"), [
    (["--episodes", "3"], "episodes: 2 -> 3"), (["--seed", "1"], "seed: 0 -> 1"),
    (["--env", "CartPole-v1"], "environment: "),
])  # fmt: skip
def test_another_collection_is_not_written_into(collect, other, what):
    words = {"--env": "Pendulum-v1", "--episodes": "2", "--seed": "0"}
    assert collect("random", "stairs/x-v0", *(word for pair in words.items() for word in pair))[0] == 0
    words |= dict([other])
    code, _, err = collect("random", "stairs/x-v0", *(word for pair in words.items() for word in pair))
    assert code == 2 and err.count("\n") == 1
    assert "stairs/x-v0 is there already, and it is another collection" in err and what in err


def test_neither_another_policy_nor_a_dataset_of_others_is_written_into(collect, rlkit_command, trained, tmp_path):
    assert collect("random", "stairs/x-v0", *PENDULUM, "--episodes", "1")[0] == 0
    code, _, err = collect(trained, "stairs/x-v0", "--episodes", "1")
    assert code == 2 and err.count("\n") == 1 and 'policy: "random" -> "bc"' in err
    metadata = tmp_path / "root/stairs/x-v0/data/metadata.json"
    form = json.loads(metadata.read_text())
    form.pop(writing.COLLECTION)
    metadata.write_text(json.dumps(form))
    code, _, err = collect("random", "stairs/x-v0", *PENDULUM, "--episodes", "1")
    assert code == 2 and err.count("\n") == 1
    assert "stairs/x-v0 is there already, and `data collect` did not make it: choose another --name" in err


@pytest.mark.parametrize(("policy", "argv", "message"), [
    ("random", ["--name", "pendulum/random"], "--name pendulum/random: not NAMESPACE/NAME-v0"),
    ("random", ["--name", "../x-v0"], "--name ../x-v0: not NAMESPACE/NAME-v0"),
    ("random", ["--name", "x-v0"], "--name x-v0: not NAMESPACE/NAME-v0"),
    ("random", ["--name", "x/y-v0"], "--name x/y-v0: not NAMESPACE/NAME-v0"),
    ("random", ["--env", ""], "name the environment with --env"),
    ("random", ["--env", "NoSuch-v0"], "environment NoSuch-v0: "),
    ("random", ["--greedy"], "--greedy: uniform actions have no greedy ones"),
    ("random", ["--episodes", "0"], "--episodes 0: must be at least 1"),
    ("random", ["--seed", "4294967295", "--episodes", "2"], "the last seed, 4294967296, must be"),
    ("no-such-run", [], "no-such-run is not a run directory"),
])  # fmt: skip
def test_a_mistake_is_told_in_one_line_and_leaves_nothing(collect, tmp_path, monkeypatch, policy, argv, message):
    monkeypatch.chdir(tmp_path)
    words = {"--env": "Pendulum-v1", "--episodes": "1", "--name": "some/b-v0"}
    if argv[:1] == ["--greedy"]:
        flags = argv
    else:
        flags = []
        words |= dict(zip(argv[::2], argv[1::2], strict=True))
    name = words.pop("--name")
    given = [word for pair in words.items() if pair[1] for word in pair]
    code, _, err = collect(policy, name, *given, *flags)
    assert code == 2 and err.count("\n") == 1 and message in err
    assert not list(tmp_path.iterdir())


def test_an_environment_that_cannot_be_named_is_refused_before_it_is_played(collect, tmp_path):
    gymnasium.register("StairsByClass-v0", Stairs)
    code, _, err = collect("random", "some/b-v0", "--env", "StairsByClass-v0", "--episodes", "1")
    assert code == 2 and err.count("\n") == 1
    assert "environment StairsByClass-v0 cannot be named in a dataset" in err
    assert not (tmp_path / "root").exists()


def test_a_space_that_holds_no_numbers_is_refused_before_it_is_played(collect, tmp_path):
    def make_env(spec):
        env = stairs(kind="dict")(spec)
        env.unwrapped.observation_space["floor"] = Text(3)
        return env

    code, _, err = collect("random", "some/b-v0", "--env", "Stairs-v0", "--episodes", "1", make_env=make_env)
    assert code == 2 and err.count("\n") == 1
    assert "environment Stairs-v0: observations: Text spaces cannot be stored; these can: Box, " in err
    assert not (tmp_path / "root").exists()


def test_a_run_does_not_play_where_it_cannot(collect, trained, tmp_path):
    code, _, err = collect(trained, "some/b-v0", "--episodes", "1", "--env", "CartPole-v1")
    assert code == 2 and err.count("\n") == 1
    assert f"{trained} cannot act in CartPole-v1: " in err
    assert not (tmp_path / "root").exists()


# ---- random:N


def test_random_steps_are_the_data_of_a_run_and_the_same_every_time(collect, rlkit_command, tmp_path):
    words = ["train", "bc", *SMALL, *PACE, "--dataset", "random:500", *PENDULUM, "--out", tmp_path / "run"]
    code, _, err = rlkit_command(*words)
    assert (code, err) == (0, "")
    record = Record.read(tmp_path / "run")
    assert (record.data.name, record.data.episodes, record.data.steps) == ("random:500", 3, 500)
    assert record.reference.random == envs.REFERENCES["Pendulum-v1"].random
    code, out, err = rlkit_command(*words, "--resume", "auto")
    assert (code, err) == (0, "") and "already finished" in out
    code, out, _ = rlkit_command("data", "show", "random:500", *PENDULUM)
    assert code == 0 and record.data.fingerprint[:12] in out and "500" in out
    collect("random", "pend/r-v0", *PENDULUM, "--episodes", "3")
    whole = read(tmp_path / "root", "pend/r-v0")
    cut = played.load(DataOptions("random:500", env="Pendulum-v1"), conftest._catalog(envs.make))
    rows = 500 + 2
    for column in ("obs", "action", "reward", "t"):
        np.testing.assert_array_equal(getattr(cut, column)[:rows], getattr(whole, column)[:rows])
    assert (cut.report.truncated_episodes, cut.report.terminal_episodes, cut.report.used) == (3, 0, 500)
    assert not cut.action[-1].any() and (cut.obs[-1] == whole.obs[rows]).all(), "the last row is an observation alone"


@pytest.mark.parametrize("steps", ["0", "-1", "1.5", "x", "", "1e-1", "\u0663", "99999999999", "1e99"])
def test_a_number_of_steps_that_is_none_is_told_in_one_line(rlkit_command, tmp_path, monkeypatch, steps):
    monkeypatch.chdir(tmp_path)
    code, _, err = rlkit_command("train", "bc", "--dataset", f"random:{steps}", *PENDULUM)
    assert code == 2 and err.count("\n") == 1
    assert f"random:{steps}: write a whole number of steps from 1 to 2147483647, such as random:5000" in err
    assert not list(tmp_path.iterdir())


def test_random_steps_need_an_environment_with_bounds(rlkit_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = rlkit_command("train", "bc", "--dataset", "random:500")
    assert code == 2 and err.count("\n") == 1
    assert "random:500: name the environment to play in with --env" in err
    code, _, err = rlkit_command("data", "check", "random:500", "--env", "NoSuch-v0")
    assert code == 2 and err.count("\n") == 1 and "environment NoSuch-v0: " in err

    def make_env(spec):
        env = gymnasium.make(spec)
        env.action_space = Box(-np.inf, np.inf, (1,))
        return env

    code, _, err = rlkit_command("data", "check", "random:500", *PENDULUM, make_env=make_env)
    assert code == 2 and err.count("\n") == 1
    assert "Pendulum-v1: the action space has no bounds, so no uniform actions" in err
