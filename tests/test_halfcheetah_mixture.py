"""The recorder of halfcheetah/medium-random-v0, on a source of two short episodes."""

import gymnasium
import numpy as np
import pytest

import envs
from envs.recording import rollout, store
from rlkit.datasets import DataOptions, labels, load
from rlkit.datasets.episodes import LABELLED
from rlkit.types import InputError

pytest.importorskip("mujoco")

from benchmarks.halfcheetah_mixture import DATASET, SOURCE, write


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A Minari root with a source of two episodes of 6 steps."""
    env = envs.make(
        gymnasium.spec("HalfCheetah-v4").to_json().replace('"max_episode_steps": 1000', '"max_episode_steps": 6')
    )
    episodes = [rollout(env, lambda obs: np.full(6, 0.5, np.float32), seed) for seed in (5, 6)]
    folder = tmp_path_factory.mktemp("root")
    store(folder, SOURCE, env, episodes, seed=5, references=(-10.0, 90.0), command="", description="")
    return folder


def test_random_steps_come_first_and_the_source_is_as_it_was(root, tmp_path):
    write(tmp_path, root, 9, seed=3)
    source, mixture = (
        load(DataOptions(name, data_root=r), use_cache=False) for name, r in ((SOURCE, root), (DATASET, tmp_path))
    )
    assert np.diff(mixture.starts, append=len(mixture.t)).tolist() == [7, 4, 7, 7], "with a final observation each"
    for column in ("obs", "action", "reward", "flags", "t"):
        np.testing.assert_array_equal(getattr(mixture, column)[11:], getattr(source, column))
    assert (mixture.reference, mixture.report.truncated_episodes) == ((-10.0, 90.0), 4)
    assert '"HalfCheetah-v4"' in mixture.env_spec and '"max_episode_steps": 6' in mixture.env_spec
    action = mixture.action[[*range(6), *range(7, 10)]]
    assert len(np.unique(action)) == 54 and (np.abs(action) <= 1).all() and action.min() < -0.5 and action.max() > 0.5
    env = envs.make(mixture.env_spec)
    obs, _ = env.reset(seed=4)  # the second random episode
    for row in range(7, 10):
        np.testing.assert_array_equal(mixture.obs[row], np.float32(obs))
        obs, reward, *_ = env.step(mixture.action[row])
        assert mixture.reward[row] == np.float32(reward)
    np.testing.assert_array_equal(mixture.obs[10], np.float32(obs))
    early = labels.hide(mixture, DataOptions(DATASET, label_share=0.5, label_from="early"))
    assert (np.flatnonzero(np.asarray(early.flags) & LABELLED) < 11).all()


def test_as_many_random_steps_as_the_source_has_unless_told(root, tmp_path):
    write(tmp_path, root, None, seed=0)
    assert load(DataOptions(DATASET, data_root=tmp_path), use_cache=False).report.steps == 24
    with pytest.raises(InputError, match="medium-random-v0: is there already"):
        write(tmp_path, root, None, seed=0)
    with pytest.raises(InputError, match="--random-steps 0: must be at least 1"):
        write(tmp_path / "other", root, 0, seed=0)
