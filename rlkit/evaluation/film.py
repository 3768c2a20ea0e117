"""A film of an episode: pictures that the environment draws of itself, off the screen, as a GIF or an MP4."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from rlkit.types import InputError, one_line, raised

SUFFIXES = (".gif", ".mp4")
FRAMES_PER_SECOND = 30  # where the environment does not say
LEAST_MILLISECONDS = 20  # of a picture in a GIF: programs that show one slow down what is faster


def check_path(path: Path) -> None:
    """Raises InputError unless a film can be written as ``path``."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--video {path}: end the name in {' or '.join(SUFFIXES)}")
    if path.suffix.lower() == ".mp4":
        _writer(path)


def draw_off_screen() -> None:
    """Have simulators draw without a screen. To be called before they are imported; what the user has set is kept."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame, which draws gymnasium's classic worlds
    if "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")


def film(
    env: gymnasium.Env, name: str, act: Callable[[Any, float], Any], seed: int, longest: float
) -> tuple[list[np.ndarray], float]:
    """Play one episode from ``env.reset(seed=seed)``.

    Args:
        env: made with render_mode "rgb_array".
        name: what messages call it.
        act: (observation, reward of the step before) -> action.
        seed: of the reset.
        longest: steps after which the film ends at the latest.

    Returns:
        Pictures [H, W, 3] uint8, the first before any step, and the episode's return.

    Raises:
        InputError: if the environment draws nothing, or cannot.

    Example:
        pictures, total = film(env, "Pendulum-v1", policy.act, 0, 200)
    """
    if env.render_mode != "rgb_array":
        raise InputError(
            f"environment {name} draws nothing to be filmed: its render_mode is {env.render_mode!r}; make it with "
            'render_mode="rgb_array"'
        )
    obs, _ = env.reset(seed=seed)
    pictures = [_picture(env, name)]
    total = 0.0
    reward = 0.0
    over = False
    while not over and len(pictures) <= longest:
        obs, reward, terminated, truncated, _ = env.step(act(obs, reward))
        total += float(reward)
        over = terminated or truncated
        pictures.append(_picture(env, name))
    return pictures, total


def write(path: Path, pictures: Sequence[np.ndarray], per_second: float) -> None:
    """Write ``pictures`` [H, W, 3] uint8 as ``path`` (.gif or .mp4). Raises InputError where that cannot be done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".mp4":
        writer = _writer(path)
        try:
            writer.imwrite(path, np.stack(pictures), fps=per_second)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"--video {path}: cannot be written ({one_line(error)})") from error
        return
    from PIL import Image

    images = [Image.fromarray(picture) for picture in pictures]
    milliseconds = max(round(1000 / per_second), LEAST_MILLISECONDS)
    first, *rest = images
    try:
        first.save(path, save_all=True, append_images=rest, duration=milliseconds, loop=0)
    except OSError as error:
        raise InputError(f"--video {path}: cannot be written ({one_line(error)})") from error


def per_second(env: gymnasium.Env) -> float:
    """Pictures a second at which the environment's time is real time."""
    return float(env.metadata.get("render_fps") or FRAMES_PER_SECOND)


def _picture(env: gymnasium.Env, name: str) -> np.ndarray:
    try:
        picture = np.asarray(env.render())
    except Exception as error:  # an environment is other people's code, and what it draws with may be missing
        raise InputError(f"environment {name} cannot draw itself: {raised(error)}") from error
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise InputError(
            f"environment {name}: render() gave an array of shape {list(picture.shape)} of {picture.dtype}, not a "
            "picture [height, width, 3] of uint8"
        )
    return picture


def _writer(path: Path) -> Any:
    """The library that writes MP4. InputError if it is not installed."""
    try:
        import imageio.v3
        import imageio_ffmpeg  # noqa: F401
    except ImportError:
        raise InputError(
            f"--video {path}: MP4 needs another package: pip install 'rlkit-jax[video]', or name a .gif"
        ) from None
    return imageio.v3
