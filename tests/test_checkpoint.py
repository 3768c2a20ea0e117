"""Checkpoints: exact, bounded in number, and refused where they are not the run's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.bc import Config
from rlkit.buffer import Buffer, stats
from rlkit.checkpoint import Checkpoints
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.loop import fit
from rlkit.sharding import make_mesh
from rlkit.types import InputError

SEEDS = (3, 4)


@pytest.fixture(scope="module")
def world():
    """(stages, buffer, stats, mesh) of a small behaviour cloning run."""
    rng = np.random.default_rng(0)
    episode = {
        "observations": rng.normal(size=(21, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (20, 2)).astype(np.float32),
        "rewards": np.ones(20, np.float32),
    }
    episodes = from_episodes([episode] * 3)
    buffer = Buffer.from_episodes(episodes, Normaliser.fit(episodes, DataOptions("none")))
    stages = Config(widths=(8,), batch_size=4).stages(spec(episodes, None), steps=40)
    return stages, buffer, stats(buffer), make_mesh(len(SEEDS))


def _train(world, resume=None):
    stages, buffer, moments, mesh = world
    return fit(stages, buffer, moments, SEEDS, log_every=10, mesh=mesh, resume=resume)


def _bits(tree):
    return [np.array(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_restores_the_bits_that_were_saved_though_the_state_was_donated_since(tmp_path, world):
    stages, _, moments, mesh = world
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for progress in _train(world):
            if progress.step == 20:
                checkpoints.save(20, progress)
                saved = _bits(progress.state)
        assert _bits(progress.state) != saved
        last = checkpoints.last(stages, moments, SEEDS, mesh)
    assert (last.stage, last.step) == (0, 20)
    assert _bits(last.state) == saved
    assert jax.tree.structure(last.state) == jax.tree.structure(progress.state)


def test_training_from_a_checkpoint_ends_at_the_same_bits(tmp_path, world):
    stages, _, moments, mesh = world
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for progress in _train(world):
            if progress.step == 10:
                checkpoints.save(10, progress)
    straight = _bits(progress.state)
    with Checkpoints(tmp_path) as checkpoints:
        resumed = list(_train(world, checkpoints.last(stages, moments, SEEDS, mesh)))
    assert [progress.step for progress in resumed] == [20, 30, 40]
    assert _bits(resumed[-1].state) == straight


def test_keeps_the_last_ones_and_clears_the_debris_of_a_killed_save(tmp_path, world):
    stages, _, moments, mesh = world
    debris = tmp_path / "15.orbax-checkpoint-tmp"
    debris.mkdir()
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for progress in _train(world):
            if progress.step:
                checkpoints.save(progress.step, progress)
    assert not debris.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["30", "40"]
    debris.mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.last(stages, moments, SEEDS, mesh).step == 40
    assert debris.exists(), "a reader changes nothing"


def test_a_reader_of_no_checkpoints_finds_none_and_makes_no_folder(tmp_path, world):
    stages, _, moments, mesh = world
    with Checkpoints(tmp_path / "none") as checkpoints:
        assert checkpoints.last(stages, moments, SEEDS, mesh) is None
    assert not (tmp_path / "none").exists()


def test_refuses_other_shapes_and_dtypes_by_name(tmp_path, world):
    stages, _, moments, mesh = world
    progress = next(_train(world))
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(10, progress._replace(step=10))
        halved = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, progress.state)
        wide = Config(widths=(9,)).stages(stages[0].learner.spec, steps=40)
        with pytest.raises(InputError, match=r"9 of 13 .*Dense_0/bias: saved float32\[2, 8\], wanted float32\[2, 9\]"):
            checkpoints.last(wide, moments, SEEDS, mesh)
        checkpoints.save(20, progress._replace(step=20, state=halved))
        with pytest.raises(InputError, match="saved bfloat16.* wanted float32"):
            checkpoints.last(stages, moments, SEEDS, mesh)
