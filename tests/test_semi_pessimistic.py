"""Semi-pessimistic RL: what is imputed, that nothing hidden leaks, and that the base is otherwise itself."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import bits

import agents
import envs
import rlkit
from agents import cql, iql, rebrac, sac, sac_rnd
from agents.semi_pessimistic import BASES, Config, Impute, Relabel, Relabelled, Rewards
from rlkit import commands
from rlkit.buffer import Buffer, needs, stats
from rlkit.datasets import ActionOptions, DataOptions, Normaliser, from_episodes, labels, spec
from rlkit.runs import serialization
from rlkit.testing import random_episodes
from rlkit.training.loop import fit
from rlkit.types import InputError

BASE = iql.Config(widths=(8,), batch_size=8)
SMALL = Config(base=BASE, members=3, model_widths=(16,), model_steps=20, model_batch_size=16)
ROLLOUTS = dict(rollout=3, dynamics_members=2, dynamics_widths=(8,), dynamics_steps=4, dynamics_batch_size=8)
HIDING = DataOptions("test", label_share=0.5, label_from="early")


def smooth(spoil=0.0):
    """20 episodes whose reward is a function of (s, a); ``spoil`` is added to the later half, which HIDING hides."""
    found = random_episodes(20)
    for number, episode in enumerate(found):
        reward = episode["observations"][:-1, 0] + episode["actions"][:, 0]
        episode["rewards"] = (reward + spoil * (number >= 10)).astype(np.float32)
    return found


def world(config, episodes, options=HIDING):
    """(stages, buffer, stats)"""
    is_discrete = episodes[0]["actions"].dtype.kind == "i"
    told = ActionOptions("discrete") if is_discrete else ActionOptions(low=(-1.0,), high=(1.0,))
    data = labels.hide(from_episodes(episodes, action=told), options)
    stages = config.stages(spec(data, None), 4)
    buffer = Buffer.from_episodes(data, Normaliser.fit(data, options), needs(stages))
    return stages, buffer, stats(buffer)


def ends(parts, mesh):
    """The state at the end of each stage, of one seed."""
    found = {}
    for progress in fit(*parts, (0,), log_every=4, mesh=mesh):
        found[progress.stage] = jax.tree.map(lambda leaf: leaf[0], jax.device_get(progress.state))
    return found


@pytest.fixture(scope="module")
def trained():
    """A reward model after its stage, and (stages, buffer, stats)."""
    from rlkit.training.sharding import make_mesh

    parts = world(dataclasses.replace(SMALL, model_steps=300), smooth())
    return ends(parts, make_mesh(1, jax.devices()[:1]))[0], parts


def relabelled(trained, **options) -> Rewards:
    state, ((model, *_), buffer, _) = trained
    relabel = Relabel(dataclasses.replace(model.learner.config, **options), model.learner.spec)
    return jax.device_get(jax.jit(relabel)(state, buffer, jax.random.key(0)))


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, ROLLOUTS], ids=["data", "rollouts"])
def test_hidden_rewards_change_no_bit_of_what_is_learnt(mesh, more):
    config = dataclasses.replace(SMALL, **more)
    one, other = (ends(world(config, smooth(spoil)), mesh) for spoil in (0.0, 50.0))
    assert bits(one[0]) == bits(other[0])
    for stage in range(1, len(one)):
        assert bits(one[stage].base) == bits(other[stage].base)
        assert bits(one[stage].rewards.reward) == bits(other[stage].rewards.reward)
    hidden = [state[1].rewards.diagnostics["label/hidden_coverage"] for state in (one, other)]
    assert hidden[0] != hidden[1], "the diagnostics do see them"


@pytest.mark.parametrize(
    "estimator", ["bootstrap", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gaussian", "quantile", "gp"))]
)
def test_the_reward_model_sees_no_label_that_is_held_out(estimator):
    """Else the bound, which is chosen on them, would cover them better than it covers other steps."""
    config = dataclasses.replace(SMALL, estimator=estimator)
    (stage, *_), buffer, moments = world(config, smooth())
    held = buffer.extra["held_out"]
    seen = ((buffer.flags & 8) > 0) & ~held
    start = stage.learner.init(jax.random.key(0), None, moments)

    @jax.jit
    def learnt(reward):
        batch = stage.learner.sample(buffer._replace(reward=reward), jax.random.key(1))
        state, _ = stage.learner.update(start, batch, jax.random.key(2), 0)
        return config.model.predict(state.estimator, jnp.eye(5)), held[batch.row].sum()

    found, drawn = learnt(buffer.reward)
    assert drawn > 0, "a batch without a held-out step shows nothing"
    assert bits(learnt(buffer.reward + 50 * held)[0]) == bits(found)
    assert bits(learnt(jnp.where(seen, buffer.reward**2, buffer.reward))[0]) != bits(found), "the others it does see"


def test_known_rewards_are_kept_and_the_others_are_bounds_that_cover(trained):
    found, (_, buffer, _) = relabelled(trained), trained[1]
    known, step = (np.asarray(buffer.flags) & 8 > 0), np.asarray(buffer.flags) & 1 > 0
    np.testing.assert_array_equal(found.reward[known], np.asarray(buffer.reward)[known])
    assert not found.reward[~step].any() and found.reward.min() >= np.asarray(buffer.reward)[known].min()
    seen = found.diagnostics
    held = int(np.asarray(buffer.extra["held_out"]).sum())
    place = np.ceil((held + 1) * 0.95 - 1e-3)  # of the held-out label whose score is c
    assert seen["label/c"] > 0 and seen["label/coverage"] == pytest.approx(place / held)
    assert seen["label/hidden"] == 1 and seen["label/hidden_coverage"] > 0.85
    assert seen["label/hidden_correlation"] > 0.8 and 0 <= seen["label/far"] < 0.5
    hid = step & ~known
    truth = np.asarray(buffer.extra["hidden_reward"])[hid]
    assert seen["label/hidden_coverage"] == pytest.approx((truth >= found.reward[hid]).mean(), abs=1e-6)
    again = relabelled(trained, relabel_labelled=True)
    np.testing.assert_array_equal(again.reward[hid], found.reward[hid])
    assert (again.reward[known] != found.reward[known]).mean() > 0.5


def test_no_spread_below_the_mean_is_mean_imputation(trained):
    zero, mean, two = relabelled(trained, c=0.0), relabelled(trained, imputation="mean"), relabelled(trained, c=2.0)
    assert bits(zero.reward) == bits(mean.reward)
    assert (two.reward <= zero.reward).all() and (two.reward < zero.reward).any()
    assert two.diagnostics["label/coverage"] >= zero.diagnostics["label/coverage"]


def test_the_imputations_without_a_model(trained):
    _, buffer, _ = trained[1]
    known, step = (np.asarray(buffer.flags) & 8 > 0), np.asarray(buffer.flags) & 1 > 0
    least = np.asarray(buffer.reward)[known].min()
    for imputation, value in (("zero", 0), ("minimum", least), ("labelled-only", 0)):
        reward = relabelled(trained, imputation=imputation).reward
        assert set(reward[step & ~known].tolist()) == {value}
        np.testing.assert_array_equal(reward[known], np.asarray(buffer.reward)[known])


@pytest.mark.parametrize("imputation", ["lower-bound", "zero"])
def test_a_step_of_a_rollout_gets_the_reward_that_the_same_step_of_the_data_would_get(trained, imputation):
    state, ((model, *_), buffer, _) = trained
    config = dataclasses.replace(model.learner.config, imputation=imputation)
    rewards, imputer = jax.jit(Relabel(config, model.learner.spec).relabel)(state, buffer, jax.random.key(0))
    found = Impute(config, model.learner.spec)(imputer, buffer.obs, buffer.action)
    unlabelled = (np.asarray(buffer.flags) & 1 > 0) & ~(np.asarray(buffer.flags) & 8 > 0)
    np.testing.assert_allclose(found[unlabelled], rewards.reward[unlabelled], atol=1e-5)
    assert imputation != "lower-bound" or len(np.unique(found)) > 100


def test_without_rollouts_no_option_of_theirs_counts():
    stages, *_ = world(SMALL, smooth())
    others, *_ = world(dataclasses.replace(SMALL, **(ROLLOUTS | {"rollout": 0}), real_share=0.5), smooth())
    assert [stage.name for stage in stages] == [stage.name for stage in others] == ["reward", "iql"]
    assert type(stages[0].after) is type(others[0].after) is Relabel
    assert stages[1] == others[1] and stages[1].learner == Relabelled(stages[1].learner.base, False)
    names = [stage.name for stage in world(dataclasses.replace(SMALL, **ROLLOUTS), smooth())[0]]
    assert names == ["reward", "dynamics", "iql"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base": rebrac.Config()}, "rollouts have no has_next_action, next_action, which the base needs"),
        ({"base": sac_rnd.Config()}, "a base of one stage"),
        ({"estimator": "gp"}, "a Gaussian process is too slow"),
        ({"imputation": "labelled-only"}, "no step of a rollout is labelled"),
    ],
)
def test_what_rollouts_cannot_serve_is_refused_in_one_line(changes, words):
    with pytest.raises(InputError, match=f"semi-pessimistic: .*{words}") as refusal:
        world(dataclasses.replace(SMALL, **(ROLLOUTS | changes)), smooth())
    assert "\n" not in str(refusal.value)


def test_labelled_only_draws_labelled_steps_only():
    (_, stage), buffer, _ = world(dataclasses.replace(SMALL, imputation="labelled-only"), smooth())
    batches = [stage.learner.sample(buffer, jax.random.key(i)).extra["labelled"] for i in range(20)]
    assert np.asarray(batches).all()


@pytest.mark.slow
def test_with_every_reward_known_the_base_is_itself(mesh):
    (_, stage), buffer, moments = world(SMALL, smooth(), DataOptions("test"))
    rewards = Rewards(buffer.reward, {})
    base = BASE.stages(stage.learner.base.spec, 4)[0].learner
    assert base == stage.learner.base
    state, mine = base.init(jax.random.key(0), None, moments), stage.learner.init(jax.random.key(0), rewards, moments)
    batch, seen = base.sample(buffer, jax.random.key(1)), stage.learner.sample(buffer, jax.random.key(1))
    state, metrics = jax.jit(base.update)(state, batch, jax.random.key(2), jnp.int32(0))
    mine, told = jax.jit(stage.learner.update)(mine, seen, jax.random.key(2), jnp.int32(0))
    assert bits(mine.base) == bits(state) and bits(told) == bits(metrics)
    found = ends(world(SMALL, smooth(), DataOptions("test")), mesh)[1]
    assert bits(found.rewards.reward) == bits(buffer.reward)


@pytest.mark.slow
@pytest.mark.parametrize(("estimator", "discrete"), [("gaussian", True), ("quantile", False), ("gp", True)])
def test_every_estimator_makes_finite_rewards(estimator, mesh, discrete):
    config = dataclasses.replace(SMALL, estimator=estimator)
    parts = world(config, random_episodes(20, discrete=discrete))
    assert parts[0][0].steps == (1 if estimator == "gp" else 20)
    found = ends(parts, mesh)[1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert len(np.unique(found.rewards.reward)) > 100


@pytest.mark.slow
def test_a_base_of_several_stages_is_wrapped_whole(mesh):
    wide = dict(widths=(8,), batch_size=8, rnd_width=8, rnd_steps=4)
    config = dataclasses.replace(SMALL, base=sac_rnd.Config(beta=1.0, **wide))
    stages, *_ = parts = world(config, smooth())
    assert [stage.name for stage in stages][0] == "reward" and len(stages) == 3
    assert bits(ends(parts, mesh)[1].rewards) == bits(ends(parts, mesh)[2].rewards)


def test_a_base_that_needs_returns_is_refused_in_one_line():
    with pytest.raises(InputError, match="semi-pessimistic: the base needs return_to_go") as refusal:
        world(Config(base=cql.Config(calibrate=True)), smooth())
    assert "\n" not in str(refusal.value)


def test_a_record_tells_which_base_it_had():
    names = [frozenset(field.name for field in dataclasses.fields(base.Config)) for base in BASES]
    assert len(set(names)) == len(BASES), "two bases with the same fields could not be told apart"
    for base in BASES:
        config = Config(base=base.Config())
        assert serialization.decode(Config, json.loads(serialization.dumps(config)), "x") == config


@pytest.mark.slow
def test_the_command_takes_a_base_with_its_settings_resumes_and_loads(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RLKIT_CACHE_DIR", str(tmp_path / "cache"))
    known = commands.Catalog(agents.REGISTRY, envs.make, envs.REFERENCES, envs.DATASETS, envs.episodes)
    line = ["train", "semi-pessimistic", "--out", str(tmp_path / "run"), "--steps", "4", "--eval-every", "2"]
    line += ["--label-share", "0.3", "--eval-episodes", "0", "--resume", "auto", "--config.members", "2"]
    line += ["--config.model-widths", "8", "--config.model-steps", "4", "--config.model-batch-size", "8"]
    line += ["config.base:sac", "--config.base.widths", "8", "--config.base.batch-size", "8"]
    assert commands.main([*line[:2], "--dry-run", *line[2:]], known) == 0
    told = capsys.readouterr().out
    assert "stage reward: 4 updates" in told and "stage sac: 4 updates" in told and '"label_share": 0.3' in told
    assert commands.main(line, known) == 0
    record = rlkit.runs.record.Record.read(tmp_path / "run")
    assert serialization.decode(Config, record.config, "x").base == sac.Config(widths=(8,), batch_size=8)
    assert rlkit.load(tmp_path / "run").act(np.zeros(3, np.float32)).shape == (1,)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 0 < result["metrics"]["label/hidden_coverage"][0] <= 1
    assert commands.main([*line, "--config.base.gamma", "0.5"], known) == 2
    assert "config.base.gamma" in capsys.readouterr().err
    more = [word if word != "0.3" else "0.4" for word in line]
    assert commands.main(more, known) == 2
    assert "label_share: 0.3 -> 0.4" in capsys.readouterr().err
