"""Making environments from what data say of them, the reference scores, and the embedded dataset."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium.spaces import Discrete

import envs
from envs.recording import rollout
from envs.toys import brain_stimulation, icu_sepsis, pendulum
from rlkit.commands.options import EVAL_SEED
from rlkit.types import InputError

TOY = icu_sepsis.MDP(  # one state, from which every action leads to the end
    transition=np.array([[[0.0, 1.0]], [[0.0, 1.0]]]),
    reward=np.array([0.0, 1.0]),
    start=np.array([1.0, 0.0]),
    terminal=np.array([False, True]),
    clinician=np.ones((2, 1)),
)


def spec(**changes) -> str:
    return json.dumps(json.loads(gymnasium.spec("Pendulum-v1").to_json()) | changes)


def test_an_id_is_made_as_registered():
    env = envs.make("Pendulum-v1")
    assert env.spec.id == "Pendulum-v1" and env.spec.max_episode_steps == 200


def test_a_json_spec_brings_its_time_limit_and_arguments():
    env = envs.make(spec(max_episode_steps=7, kwargs={"g": 3.5, "render_mode": "human"}))
    assert env.spec.max_episode_steps == 7 and env.unwrapped.g == 3.5 and env.render_mode is None
    env.reset(seed=0)
    ends = [env.step(np.zeros(1, np.float32))[3] for _ in range(7)]
    assert ends == [False] * 6 + [True]


def test_the_registered_time_limit_holds_where_the_spec_has_none():
    assert envs.make(spec(max_episode_steps=None)).spec.max_episode_steps == 200


def test_a_spec_can_name_no_module_to_import(tmp_path, monkeypatch):
    (tmp_path / "wicked.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="names the code 'wicked:Env', .* --env Pendulum-v1 evaluates in that"):
        envs.make(spec(entry_point="wicked:Env"))
    moved = spec(entry_point="gymnasium.envs.older.place:PendulumEnv")  # within the registered package
    assert type(envs.make(moved).unwrapped).__name__ == "PendulumEnv"
    for wicked in ("wicked:Pendulum-v1", spec(id="wicked:Pendulum-v1")):
        with pytest.raises(InputError, match="would import a module"):
            envs.make(wicked)
    with pytest.raises(InputError, match="would import a module"):
        envs.make(spec(id="GymV26Environment-v0", kwargs={"env_id": "wicked:Pendulum-v1"}))
    wrapper = {"name": "Wicked", "entry_point": "wicked:Wrapper", "kwargs": {}}
    with pytest.raises(InputError, match=r"wrappers \['Wicked'\]"):
        envs.make(spec(additional_wrappers=[wrapper]))
    assert "wicked" not in sys.modules


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("Pendulun-v1", "did you mean .*Pendulum-v1"),
        ("no id at all", "environment no id at all: Malformed"),
        ("", "is not a name"),
        ("{broken", "not JSON"),
        (spec(id=3), "3 is not a name"),
        (spec(max_episode_steps="9"), "max_episode_steps is '9'"),
        (spec(max_episode_steps=0), "max_episode_steps is 0"),
        (spec(kwargs=[1]), "no mapping"),
        (spec(kwargs={"gravity": 1}), "unexpected keyword argument 'gravity'"),
        ("Hopper-v3", "name the -v4 version"),
    ],
)
def test_wrong_specs_are_input_errors_of_one_line(wrong, message):
    with pytest.raises(InputError, match=message) as caught:
        envs.make(wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("missing", "env_id", "extra"),
    [
        ("mujoco", "Hopper-v4", "mujoco"),
        ("gymnasium_robotics", "AdroitHandPen-v1", "robotics"),
        ("ogbench", "cube-single-singletask-task2-v0", "ogbench"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(missing, env_id, extra):
    code = f"""
import sys
sys.modules[{missing!r}] = None
import envs
from rlkit.types import InputError
try:
    envs.make({env_id!r})
except InputError as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.count("\n") == 1 and env_id in told and f"pip install 'rlkit-jax[{extra}]'" in told


def test_the_data_s_version_is_made_without_a_warning():
    pytest.importorskip("mujoco")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = envs.make("Hopper-v4")
    assert env.observation_space.shape == (11,)


def test_robotics_are_registered_when_asked_for():
    pytest.importorskip("gymnasium_robotics")
    pen = json.loads(gymnasium.spec("Pendulum-v1").to_json()) | {
        "id": "AdroitHandPen-v1", "max_episode_steps": 100, "kwargs": {"reward_type": "dense"},
        "entry_point": "gymnasium_robotics.envs.adroit_hand.adroit_pen:AdroitHandPenEnv",
    }  # fmt: skip
    env = envs.make(json.dumps(pen))
    assert env.spec.max_episode_steps == 100 and env.observation_space.shape == (45,)


def test_ogbench_is_registered_when_asked_for_and_plays_fifty_episodes(tmp_path, monkeypatch):
    """By a package of that name which registers one of its ids, so that the real one is not needed."""
    register = "gymnasium.register('cube-fake-v0', entry_point='gymnasium.envs.classic_control:PendulumEnv')"
    (tmp_path / "ogbench.py").write_text(f"import gymnasium\n{register}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ogbench", raising=False)
    assert envs.make("cube-fake-v0").observation_space.shape == (3,)
    assert [envs.episodes(name) for name in ("cube-fake-v0", "AntMaze_UMaze-v4", "Hopper-v4")] == [50, 100, 10]
    del gymnasium.registry["cube-fake-v0"]
    sys.modules.pop("ogbench")


def test_importing_envs_is_cheap():
    code = "import envs, sys; print([m for m in ('gymnasium', 'minari', 'jax') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "[]"


def test_references_order_and_cover_the_families():
    assert all(low < high and source for low, high, source, *_ in envs.REFERENCES.values())
    assert envs.REFERENCES["Hopper-v4"] == envs.REFERENCES["Hopper-v5"]
    assert envs.REFERENCES["AdroitHandPen-v1"][:2] == (96.262799, 3076.8331017826877)


def embedded() -> tuple[dict, h5py.File]:
    folder = envs.DATASETS / pendulum.DATASET / "data"
    return json.loads((folder / "metadata.json").read_text()), h5py.File(folder / "main_data.hdf5")


def test_embedded_dataset_is_small_and_whole():
    metadata, file = embedded()
    assert metadata["total_episodes"] == len(file) == pendulum.EPISODES
    assert metadata["total_steps"] == 200 * len(file)
    for episode in file.values():
        assert episode["observations"].shape == (201, 3) and episode["actions"].shape == (200, 1)
        assert not episode["terminations"][:].any() and np.flatnonzero(episode["truncations"]).tolist() == [199]
    assert "/" not in metadata["code_permalink"][:1]  # no path of the machine that recorded it


@pytest.mark.parametrize(("name", "most"), [("pendulum/mixed-v0", 2 << 20), ("rlkit-hopper/medium-v0", 4_000_000)])
def test_an_embedded_dataset_is_small(name, most):
    files = [path for path in (envs.DATASETS / name).rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) < most
    assert not [path for path in envs.DATASETS.iterdir() if path.name not in ("pendulum", "rlkit-hopper")]


def test_references_of_the_dataset_are_those_of_the_table():
    metadata, _ = embedded()
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == envs.REFERENCES["Pendulum-v1"][:2]
    assert metadata["ref_max_score"] > -160  # the script solves it


def test_recording_again_gives_the_same_episodes():
    """Bit for bit on one machine; across machines the last digits of sines may differ, and grow with time."""
    first, again = pendulum.record(4), pendulum.record(4)
    for a, b in zip(first, again, strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a)
    metadata, file = embedded()
    for number, episode in enumerate(first):
        stored = file[f"episode_{number}"]
        np.testing.assert_allclose(stored["observations"][:20], episode["observations"][:20], atol=1e-4)
        np.testing.assert_allclose(stored["actions"][:20], episode["actions"][:20], atol=1e-3)


def test_the_command_writes_a_minari_dataset(tmp_path):
    pendulum.write(tmp_path, episodes=3)
    data = tmp_path / pendulum.DATASET / "data"
    assert json.loads((data / "metadata.json").read_text())["total_steps"] == 600


def test_brain_stimulation_follows_its_equations_and_is_made_by_its_id():
    env = envs.make(brain_stimulation.ENV)
    day = rollout(env, lambda obs: 3, seed=5)
    obs, level = day["observations"].astype(float), day["actions"]
    assert obs.shape == (101, 4) and day["truncations"].tolist() == [False] * 99 + [True]
    assert not day["terminations"].any()
    np.testing.assert_array_equal(obs[1:, [1, 3]], obs[:-1, [0, 2]])
    beta = obs[1:, 0] - (0.4 + 1.2 * obs[:-1, 0] - 0.4 * obs[:-1, 1] - 0.15 * level)
    reward = day["rewards"] + obs[:-1, 0] ** 2 + 0.1 * level
    for noise, size in ((beta, 0.25), (reward, 0.2)):
        assert abs(noise.mean()) < 0.08 and abs(noise.std() - size) < 0.06
    again = rollout(env, lambda obs: 3, seed=5)
    assert all(np.array_equal(day[name], again[name]) for name in day)


def test_brain_stimulation_rewards_adapting_to_the_patient(tmp_path):
    low, high = brain_stimulation.references(20)
    assert low == pytest.approx(envs.REFERENCES[brain_stimulation.ENV].random, abs=10)
    env = envs.make(brain_stimulation.ENV)
    fixed = [
        np.mean([rollout(env, lambda obs, n=n: n, s)["rewards"].sum() for s in range(10_000, 10_010)]) for n in range(5)
    ]
    assert high > max(fixed) + 15 > low + 15
    brain_stimulation.write(tmp_path, days=5)
    data = tmp_path / brain_stimulation.DATASET / "data"
    assert json.loads((data / "metadata.json").read_text())["total_steps"] == 500


def start(env: gymnasium.Env, seed: int) -> tuple[bytes, dict]:
    """Observation of a reset, and the state of the generator that draws the episode's noise from there on."""
    obs, _ = env.reset(seed=seed)
    return np.asarray(obs, np.float32).tobytes(), env.unwrapped.np_random.bit_generator.state["state"]


@pytest.mark.parametrize(
    ("make_env", "record", "first", "number"),
    [
        (lambda: envs.make(pendulum.ENV), pendulum.record, pendulum.SEED, pendulum.EPISODES),
        (
            lambda: envs.make(brain_stimulation.ENV),
            brain_stimulation.record,
            brain_stimulation.SEED,
            brain_stimulation.DAYS,
        ),
        (
            lambda: icu_sepsis.Tabular(TOY),
            lambda episodes: icu_sepsis.record(TOY, episodes),
            icu_sepsis.SEED,
            icu_sepsis.EPISODES,
        ),
    ],
    ids=["pendulum", "brain stimulation", "icu sepsis"],
)
def test_no_evaluation_replays_the_start_or_the_noise_of_a_recorded_episode(make_env, record, first, number):
    """Of a hundred evaluation episodes. In a tabular world many patients start in the same state, so that only the
    noise can tell."""
    env = make_env()
    played = [start(env, EVAL_SEED + i) for i in range(100)]
    known = [start(env, first + i) for i in range(number)]
    for episode, (obs, _) in zip(record(3), known, strict=False):  # they are what the recorder began from
        assert np.asarray(episode["observations"][0], np.float32).tobytes() == obs
    assert not {str(noise) for _, noise in played} & {str(noise) for _, noise in known}
    if not isinstance(env.observation_space, Discrete):
        assert not {obs for obs, _ in played} & {obs for obs, _ in known}


def test_the_embedded_recording_begins_where_its_seeds_say_and_no_evaluation_does():
    _, file = embedded()
    recorded = {file[f"episode_{number}"]["observations"][0].tobytes() for number in range(len(file))}
    env = envs.make(pendulum.ENV)
    assert len(recorded) == pendulum.EPISODES
    assert not recorded & {start(env, EVAL_SEED + i)[0] for i in range(100)}
    first, _ = env.reset(seed=pendulum.SEED)
    np.testing.assert_allclose(file["episode_0"]["observations"][0], first, atol=1e-6)


def test_evaluations_in_mazes_take_more_episodes():
    assert [envs.episodes(name) for name in ("AntMaze_UMaze-v5", "PointMaze_Large-v3", "Hopper-v4")] == [100, 100, 10]
