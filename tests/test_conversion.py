"""Datasets written anew: what is read back is what was there."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from rlkit.datasets import DataOptions, conversion, from_episodes, load, selection
from rlkit.datasets.episodes import HAS_NEXT
from rlkit.types import InputError

PARTS = spaces.Dict({"door": spaces.Discrete(3, start=5), "where": spaces.Box(-9, 9, (2, 1), np.float64)})
TURN = spaces.Box(-2, 2, (1,), np.float32)


def three(space=TURN):
    """Episodes of 2, 1 and 3 steps; the second ends in a terminal state."""
    rng = np.random.default_rng(0)
    found = []
    for number, steps in enumerate((2, 1, 3)):
        observations = {
            "door": rng.integers(5, 8, steps + 1),
            "where": rng.normal(size=(steps + 1, 2, 1)),
        }
        actions = rng.uniform(-2, 2, (steps, 1)) if space is TURN else rng.integers(0, 4, steps)
        ends = np.arange(steps) == steps - 1
        found.append(
            {
                "observations": observations, "actions": actions, "rewards": rng.normal(size=steps),
                "terminations": ends & (number == 1), "truncations": ends & (number != 1),
            }
        )  # fmt: skip
    return from_episodes(found, name="three", observation_space=PARTS, action_space=space, env="Mine-v0")


def same(one, other):
    for name in ("obs", "action", "reward", "t", "flags"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize("space", [TURN, spaces.Discrete(4)])
def test_minari_gets_back_the_spaces_and_the_environment(tmp_path, space):
    data = three(space)
    conversion.to_minari(data, tmp_path / "root", "mine/three-v0", "rlkit data convert")
    options = DataOptions("mine/three-v0", data_root=tmp_path / "root", cache_dir=tmp_path / "cache")
    found = load(options)
    same(found, data)
    assert (found.observation_space, found.action_space) == (PARTS, space)
    assert found.fingerprint == data.fingerprint and '"Mine-v0"' in found.env_spec
    with pytest.raises(InputError, match="is there already"):
        conversion.to_minari(data, tmp_path / "root", "mine/three-v0", "again")


@pytest.mark.parametrize("space", [TURN, spaces.Discrete(4, start=0)])
def test_a_table_gets_back_every_row(rlkit_command, tmp_path, space):
    data = three(space)
    path = tmp_path / "three.parquet"
    conversion.to_parquet(data, path)
    _, out, err = rlkit_command("data", "check", path, *conversion.how_to_read(data).split())
    assert "note" not in out.replace("notice", "").replace("do not describe their observations", "") or not err
    found = load(DataOptions(str(path), cache_dir=tmp_path / "cache"))
    same(found, data)


def test_a_table_keeps_the_names_of_its_columns(rlkit_command, tmp_path):
    lines = ["patient,hour,rate,lactate,dose,score,died", "a,0,80,1.5,0,1,no", "a,1,90,2.5,2,0,yes"]
    (tmp_path / "visits.csv").write_text("\n".join(lines) + "\n")
    words = "--columns.episode patient --columns.step hour --columns.observation rate lactate --columns.action dose"
    words += " --columns.reward score --columns.terminated died --action.choices 3"
    code, out, err = rlkit_command(
        "data", "convert", tmp_path / "visits.csv", *words.split(), "--out", tmp_path / "v.parquet"
    )
    assert code == 0, err
    _, told = out.split("--dataset ")
    path, *words = told.split()
    assert (
        words == "--columns.observation rate lactate --columns.action dose --action.choices 3 --action.first 0".split()
    )
    code, out, err = rlkit_command("data", "show", path, *words)
    assert code == 0 and "rate, lactate" in out, err or out


def test_what_has_no_successor_is_kept_in_a_table_and_cut_for_minari(tmp_path):
    data = three()
    flags = data.flags.copy()
    flags[1] &= ~np.uint8(HAS_NEXT)  # the last step of the first episode, which is not terminal
    data = type(data)(**{**vars(data), "flags": flags})
    conversion.to_parquet(data, tmp_path / "three.parquet")
    found = load(DataOptions(str(tmp_path / "three.parquet"), cache_dir=tmp_path / "cache"))
    assert found.flags.tolist() == flags.tolist() and found.reward.tolist() == data.reward.tolist()
    conversion.to_minari(data, tmp_path / "root", "mine/cut-v0", "")
    cut = load(DataOptions("mine/cut-v0", data_root=tmp_path / "root", cache_dir=tmp_path / "cache"))
    assert cut.report.steps == 5 and cut.report.no_successor == 0
    np.testing.assert_array_equal(cut.obs[1], data.obs[1])  # now the final observation


def test_unknown_rewards_are_kept_in_a_table_and_refused_for_minari(tmp_path):
    episode = {"observations": np.arange(3.0)[:, None], "actions": [0, 1], "rewards": [1.0, np.nan], "labelled": [1, 0]}
    data = from_episodes([episode], name="half")
    conversion.to_parquet(data, tmp_path / "half.parquet")
    same(load(DataOptions(str(tmp_path / "half.parquet"), cache_dir=tmp_path / "cache")), data)
    with pytest.raises(InputError, match="some rewards are not known, which Minari cannot say"):
        conversion.to_minari(data, tmp_path, "mine/half-v0", "")


def test_a_split_has_every_episode_once():
    episodes = []
    for number in range(10):
        episodes.append({"observations": np.full((3, 1), number), "actions": [[0.1], [0.2]], "rewards": [number, 0.0]})
    data = from_episodes(episodes, name="ten")
    parts = selection.split(data, {"train": 0.7, "test": 0.3}, seed=1)
    numbers = {name: np.unique(part.obs).tolist() for name, part in parts.items()}
    assert len(numbers["test"]) == 3 and sorted(numbers["train"] + numbers["test"]) == list(range(10))
    assert numbers["train"] == sorted(numbers["train"]) and numbers["train"] != list(range(7))
    assert parts["test"].report.steps == 6 and parts["test"].returns().tolist() == numbers["test"]
    again = selection.split(data, {"train": 0.7, "test": 0.3}, seed=1)
    assert again["test"].fingerprint == parts["test"].fingerprint != parts["train"].fingerprint
    for shares, words in (
        ({"a": 0.5}, "add up to 1, not to 0.5"),
        ({"a": 0.99, "b": 0.01}, "of 10 episodes that is none"),
    ):
        with pytest.raises(InputError, match=words):
            selection.split(data, shares, seed=0)


def test_the_commands(rlkit_command, tmp_path):
    data = three(spaces.Discrete(4))
    path = tmp_path / "three.parquet"
    conversion.to_parquet(data, path)
    code, out, err = rlkit_command("data", "combine", path, path, "--out", tmp_path / "six.parquet")
    assert code == 0 and f"6 episodes, 12 steps: --dataset {tmp_path / 'six.parquet'} --action.choices" in out, err
    words = ["--parts", "train=0.5", "test=0.5", "--out", tmp_path / "root", "--name", "mine/six-v1"]
    code, out, err = rlkit_command("data", "split", tmp_path / "six.parquet", *words)
    assert code == 0 and "3 episodes" in out and "--dataset mine/six-test-v1" in out, err
    code, _, err = rlkit_command("data", "convert", path, "--out", tmp_path / "root")
    assert code == 2 and "or name a Minari dataset with --name" in err
    code, _, err = rlkit_command("data", "convert", path, "--out", path, "--reward-scale", 2)
    assert code == 2 and "--reward-scale: is of training" in err
    code, _, err = rlkit_command("data", "split", path, "--parts", "train", "--out", tmp_path / "x.parquet")
    assert code == 2 and "--parts train: write a name and a share" in err


@pytest.mark.parametrize("space", [TURN, spaces.Discrete(4)])
def test_a_dataset_is_drawn(rlkit_command, tmp_path, space):
    path, picture = tmp_path / "three.parquet", tmp_path / "new" / "three.png"
    conversion.to_parquet(three(space), path)
    code, out, err = rlkit_command("data", "describe", path, "--out", picture)
    assert code == 0 and str(picture) in out, err
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000
    code, _, err = rlkit_command("data", "describe", path, "--out", tmp_path / "three.pdf")
    assert code == 2 and "end the name in .png" in err
