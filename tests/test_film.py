"""`evaluate --video`, and every episode of an evaluation as JSON."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest
from PIL import Image

import envs
from rlkit.evaluation import film
from rlkit.types import InputError


class Painted(gymnasium.Wrapper):
    """Draws how many steps it has taken: a grey that grows lighter."""

    render_mode = "rgb_array"
    metadata = {"render_fps": 10}

    def reset(self, **how):
        self.steps = 0
        return self.env.reset(**how)

    def step(self, action):
        self.steps += 1
        return self.env.step(action)

    def render(self):
        return np.full((4, 6, 3), self.steps, np.uint8)


def painted(spec, render_mode=None):
    env = envs.make(spec)
    return Painted(env) if render_mode == "rgb_array" else env


def test_an_episode_is_filmed_and_every_episode_is_listed(rlkit_command, trained, tmp_path):
    path = tmp_path / "films" / "pendulum.gif"
    words = ["evaluate", trained, "--episodes", 2, "--video", path, "--out", tmp_path / "out"]
    code, out, err = rlkit_command(*words, make_env=painted)
    assert code == 0, err
    assert "201 pictures of the first episode" in out
    with Image.open(path) as pictures:
        assert pictures.n_frames == 201 and pictures.info["duration"] == 100
        pictures.seek(200)
        assert np.unique(np.asarray(pictures.convert("RGB"))).tolist() == [200]
    episodes = json.loads((tmp_path / "out/episodes.json").read_text())
    assert [(one["seed"], one["reset_seed"] - 1_000_000, one["length"]) for one in episodes] == [
        (0, 0, 200), (0, 1, 200), (1, 0, 200), (1, 1, 200)
    ]  # fmt: skip
    assert f"whose return is {episodes[0]['return']:.1f}" in out


def test_what_cannot_be_filmed_is_told_before_it_is_played(rlkit_command, trained, tmp_path):
    code, _, err = rlkit_command("evaluate", trained, "--video", tmp_path / "x.avi")
    assert code == 2 and "end the name in .gif or .mp4" in err
    code, _, err = rlkit_command("evaluate", trained, "--episodes", 1, "--video", tmp_path / "x.gif", make_env=blank)
    assert code == 2 and "its render_mode is None; make it with" in err and not (tmp_path / "x.gif").exists()


def blank(spec, render_mode=None):
    """An environment of somebody who did not think of pictures."""
    return envs.make(spec)


@pytest.mark.parametrize("picture", [None, np.zeros((4, 6), np.uint8), np.zeros((4, 6, 3), np.float32)])
def test_what_is_no_picture_is_refused(picture):
    env = Painted(envs.make("Pendulum-v1"))
    env.render = lambda: picture
    with pytest.raises(InputError, match="environment Mine: render.. gave an array of shape .* not a picture"):
        film.film(env, "Mine", lambda obs, reward: 0, 0, 3)
