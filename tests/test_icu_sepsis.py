"""Tabular MDPs: values worked by hand, the package's file without the package, and the published values with it.

The toy, undiscounted. State 0: action 0 leads to state 1, action 1 to survival or death, half and half. State 1: action
0 leads to survival with 0.6, else to death; action 1 back to state 0 with 1/2, else to survival or death alike.
Uniform actions: V0 = V1 / 2 + 1/4, V1 = 0.6 / 2 + (V0 / 2 + 1/4) / 2, so V0 = 37/70 and V1 = 39/70.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from gymnasium.spaces import Discrete

import envs
from agents import bc, discrete_cql
from benchmarks.icu_sepsis import actions, counted, probabilities
from envs.recording import rollout
from envs.toys import icu_sepsis
from envs.toys.icu_sepsis import MDP, deterministic
from rlkit.buffer import Buffer, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.training import loop
from rlkit.types import InputError

DEATH, SURVIVAL = 2, 3
INSTALLED = importlib.util.find_spec("icu_sepsis") is not None
NEEDS_PACKAGE = pytest.mark.skipif(not INSTALLED, reason=icu_sepsis.MISSING)


def toy() -> MDP:
    transition = np.zeros((4, 2, 4))
    transition[0, 0, 1] = 1
    transition[0, 1, [DEATH, SURVIVAL]] = 0.5
    transition[1, 0, [DEATH, SURVIVAL]] = 0.4, 0.6
    transition[1, 1, [0, DEATH, SURVIVAL]] = 0.5, 0.25, 0.25
    transition[[DEATH, SURVIVAL], :, SURVIVAL] = 1  # what follows an end must not count
    reward, terminal = np.array([0.0, 0, 0, 1]), np.array([False, False, True, True])
    return MDP(transition, reward, np.array([0.5, 0.5, 0, 0]), terminal, np.full((4, 2), 0.5))


def choice(*action: int) -> np.ndarray:
    return deterministic(np.array([*action, 0, 0]), 2)


def test_values_by_hand():
    mdp = toy()
    assert mdp.value(mdp.uniform()) == pytest.approx((37 + 39) / 140)
    assert mdp._replace(start=np.array([1.0, 0, 0, 0])).value(mdp.uniform()) == pytest.approx(37 / 70)
    assert mdp.value(choice(1, 0)) == pytest.approx(0.55)  # the better reward at once
    assert mdp.value(choice(0, 0)) == pytest.approx(0.6)
    assert mdp.value(choice(0, 1)) == pytest.approx(0.5)  # V0 = V1 = V0 / 2 + 1/4
    assert mdp._replace(start=np.array([0.5, 0, 0, 0.5])).value(choice(0, 0)) == pytest.approx(0.3 + 0.5)


def test_value_iteration_finds_the_policy_that_waits():
    mdp = toy()
    best = mdp.optimal()
    np.testing.assert_array_equal(best[:2], choice(0, 0)[:2])
    assert icu_sepsis.references(mdp) == pytest.approx((38 / 70, 0.6))


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (np.ones((4, 3)) / 3, r"shape \[4, 2\] here, not \[4, 3\]"),
        (np.array([[1.0, 0], [0.5, 0.4], [1, 0], [1, 0]]), "state 1: not a distribution"),
        (np.array([[1.5, -0.5], [1, 0], [1, 0], [1, 0]]), "state 0: not a distribution"),
        (np.array([[np.nan, 1], [1, 0], [1, 0], [1, 0]]), "state 0: not a distribution"),
    ],
)
def test_what_is_no_policy_is_refused(policy, message):
    with pytest.raises(InputError, match=message):
        toy().value(policy)


def test_rows_of_terminal_states_do_not_matter():
    assert toy().value(np.array([[0.5, 0.5], [0.5, 0.5], [0, 0], [7, 7]])) == pytest.approx(38 / 70)


def test_a_policy_that_need_not_end_has_no_value():
    mdp = toy()
    mdp.transition[1, 1] = [1, 0, 0, 0]
    with pytest.raises(InputError, match="episodes need not end"):
        mdp.value(choice(0, 1))
    assert mdp.value(choice(0, 0)) == pytest.approx(0.6)


def test_the_environment_agrees_with_the_values():
    env, rng = icu_sepsis.Tabular(toy()), np.random.default_rng(0)
    episodes = [rollout(env, lambda state: int(rng.integers(2)), seed) for seed in range(3000)]
    survived = [episode["rewards"].sum() for episode in episodes]
    assert np.mean(survived) == pytest.approx(38 / 70, abs=4 * 0.5 / 3000**0.5)
    for episode in episodes[:50]:
        states, ends = episode["observations"], episode["terminations"]
        assert states[-1] in (DEATH, SURVIVAL) and ends.tolist() == [False] * (len(ends) - 1) + [True]
        assert episode["rewards"].tolist() == [0.0] * (len(ends) - 1) + [float(states[-1] == SURVIVAL)]


def test_recorded_episodes_are_the_clinicians_and_come_again():
    mdp = toy()._replace(clinician=choice(0, 1))
    first, again = icu_sepsis.record(mdp, 20), icu_sepsis.record(mdp, 20)
    for a, b in zip(first, again, strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a)
        np.testing.assert_array_equal(a["actions"], a["observations"][:-1])  # 0 in state 0, 1 in state 1
    assert len({len(episode["actions"]) for episode in first}) > 1


def test_a_missing_package_is_one_line_that_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "icu_sepsis", None)
    icu_sepsis.load.cache_clear()
    with pytest.raises(InputError, match="pip install --no-deps icu-sepsis") as caught:
        envs.make(icu_sepsis.ENV)
    assert "\n" not in str(caught.value) and icu_sepsis.ENV in str(caught.value)


def package(folder, **changes):
    """A package like icu-sepsis, whose code must not run; every patient survives at once. ``changes`` to its arrays."""
    transition = np.zeros((716, 25, 716))
    transition[..., 714] = 1
    arrays = {"tx_mat": transition, "d_0": np.full(716, 1 / 716), "expert_policy": np.full((716, 25), 1 / 25)} | changes
    assets = folder / "icu_sepsis" / "envs" / "assets"
    assets.mkdir(parents=True)
    (folder / "icu_sepsis" / "__init__.py").write_text("raise SystemExit('imported')\n")
    np.savez_compressed(assets / "dynamics.npz", **{name: a for name, a in arrays.items() if a is not None})
    return assets / "dynamics.npz"


def test_the_file_is_read_and_the_package_is_not_imported(tmp_path):
    package(tmp_path)
    code = """
import sys, envs
env = envs.make("ICUSepsis-v0")
state, _ = env.reset(seed=0)
print(env.step(3)[:4], env.spec.max_episode_steps, [m for m in ("icu_sepsis", "gym") if m in sys.modules])
"""
    path = {"PYTHONPATH": str(tmp_path), "PATH": "", "HOME": str(tmp_path)}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=path)
    assert told.stdout.strip() == "(714, 1.0, True, False) 500 []", told.stderr


class Wicked:
    def __reduce__(self):
        return SystemExit, ("unpickled",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_0": np.zeros(715)}, r"d_0 is not \[716\] finite numbers"),
        ({"d_0": np.full(716, np.nan)}, r"d_0 is not \[716\] finite numbers"),
        ({}, r"tx_mat is not \[716, 25, 716\] finite numbers"),
        ({"expert_policy": None}, "cannot be read as ICU-Sepsis"),
        ({"d_0": np.array([Wicked()], object)}, "cannot be read as ICU-Sepsis"),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path, changes, message):
    path = package(tmp_path, **{"tx_mat": np.zeros((2, 2, 2))} | changes)
    with pytest.raises(InputError, match=message) as caught:
        icu_sepsis.read(path)
    assert "\n" not in str(caught.value)
    path.write_bytes(b"no zip")
    with pytest.raises(InputError, match="install icu-sepsis 2 again"):
        icu_sepsis.read(path)


@NEEDS_PACKAGE
def test_the_published_values():
    """Uniform 0.78, clinicians 0.78, optimal 0.88 in the package's own README; the digits are ours."""
    icu_sepsis.load.cache_clear()
    mdp = icu_sepsis.load()
    low, high = icu_sepsis.references(mdp)
    assert (round(low, 4), round(mdp.value(mdp.clinician), 4), round(high, 4)) == (0.7801, 0.7818, 0.8751)
    assert (low, high) == pytest.approx(envs.REFERENCES[icu_sepsis.ENV][:2], abs=1e-9)
    assert not {"icu_sepsis", "gym"} & set(sys.modules)


@NEEDS_PACKAGE
def test_the_command_writes_a_minari_dataset(tmp_path):
    icu_sepsis.write(tmp_path, episodes=3)
    metadata = json.loads((tmp_path / icu_sepsis.DATASET / "data" / "metadata.json").read_text())
    assert metadata["total_episodes"] == 3 and json.loads(metadata["env_spec"])["id"] == icu_sepsis.ENV


def test_counts_know_what_was_tried():
    """State 0: action 1 survives once of once; action 0 leads to state 1, whose action 0 survives 3 times of 4."""
    state, action = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1]), np.array([1, 0, 0, 0, 0, 0, 0, 0, 0])
    after = np.array([SURVIVAL, 1, 1, 1, 1, SURVIVAL, SURVIVAL, SURVIVAL, DEATH])
    np.testing.assert_array_equal(counted(toy(), state, action, after, 1)[:2], choice(1, 0)[:2])
    np.testing.assert_array_equal(counted(toy(), state, action, after, 2)[:2], choice(0, 0)[:2])
    np.testing.assert_array_equal(counted(toy(), state, action, after, 5)[:2], np.full((2, 2), 0.5))


@pytest.mark.slow
@pytest.mark.learning
def test_cloning_has_the_clinicians_value_and_q_learning_the_optimum(mesh):
    """On the toy, from uniform actions: the least that exact values of trained policies must show."""
    mdp = toy()
    data = from_episodes(icu_sepsis.record(mdp, 1500), observation_space=Discrete(4), action_space=Discrete(2))
    normaliser = Normaliser.fit(data, DataOptions("toy"))
    buffer = Buffer.from_episodes(data, normaliser)

    def value(config, greedy):
        stages = config.stages(spec(data, None), 1000)
        *_, last = loop.fit(stages, buffer, stats(buffer), (100,), log_every=1000, mesh=mesh)
        state = jax.tree.map(lambda leaf: leaf[0], last.state)
        drawn = actions(stages[-1].learner, normaliser, state, 4, draws=1 if greedy else 4000, greedy=greedy)
        return mdp.value(probabilities(drawn, 2))

    assert value(bc.Config(widths=(), learning_rate=1e-2), greedy=False) == pytest.approx(38 / 70, abs=0.02)
    linear = discrete_cql.Config(widths=(), gamma=1.0, cql_alpha=0.0, learning_rate=1e-2, tau=0.05)
    assert value(linear, greedy=True) == pytest.approx(0.6)
