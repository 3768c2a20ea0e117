"""Environments: how to make one from what a dataset says of it, reference scores, and the embedded data.

Importing this package is cheap: gymnasium is imported when an environment is made.
"""

from __future__ import annotations

import difflib
import importlib
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.references import REFERENCES, Reference
from rlkit.types import InputError, one_line, raised

if TYPE_CHECKING:
    import gymnasium

__all__ = ["DATASETS", "REFERENCES", "Reference", "episodes", "make"]

DATASETS = Path(__file__).parent / "datasets"
"""Root of the Minari datasets that are shipped with the code."""

# beginnings of ids -> our module of envs.toys that registers them on import
_TOYS = {
    "BrainStimulation": "brain_stimulation",
    "Detour": "detour",
    "ICUSepsis": "icu_sepsis",
    "PointWalk": "walk",
    "SlipperyLake": "frozen_lake",
    "UTurn": "u_turn",
}
_OGBENCH = ("antmaze-", "antsoccer-", "cube-", "humanoidmaze-", "pointmaze-", "puzzle-", "scene-")
# beginnings of ids -> the package that registers them on import, and our extra that installs it
_OPTIONAL = {
    ("Adroit", "AntMaze", "Fetch", "FrankaKitchen", "HandManipulate", "HandReach", "PointMaze"): (
        "gymnasium_robotics",
        "robotics",
    ),
    _OGBENCH: ("ogbench", "ogbench"),
}
_MUJOCO = "MuJoCo is not installed: pip install 'rlkit-jax[mujoco]'"
_BRIDGES = ("GymV21Environment", "GymV26Environment")  # import whatever module their argument names


def make(spec: str, render_mode: str | None = None) -> gymnasium.Env:
    """The environment of ``spec``: an id (Hopper-v4), or gymnasium's EnvSpec as JSON, as Minari stores it.

    Only the id, the keyword arguments and the time limit of a JSON spec are used, and the id is looked up in
    gymnasium's registry: a dataset can name no module to import, and a spec of another package's code is refused.
    Nothing is rendered unless ``render_mode`` says so. Observations are not flattened, so that the spaces can be
    compared with a dataset's; the evaluator flattens them.

    Raises InputError, one line, for an unknown id, a malformed spec, or a package that is missing.
    """
    env_id, limit, kwargs = _parse(spec)
    if render_mode is not None:  # which not every environment takes
        kwargs["render_mode"] = render_mode
    import gymnasium

    _register(env_id)
    _check_package(env_id, spec)
    with warnings.catch_warnings():
        # data are evaluated in the version that they were recorded in, even where gymnasium has a newer one
        warnings.filterwarnings("ignore", ".*is out of date.*")
        try:
            return gymnasium.make(env_id, max_episode_steps=limit, disable_env_checker=True, **kwargs)
        except gymnasium.error.UnregisteredEnv as error:
            raise _unknown(env_id, spec) from error
        except (gymnasium.error.Error, AssertionError, ImportError, OSError, TypeError, ValueError) as error:
            raise InputError(f"environment {env_id}: {_reason(error)}") from error
        except (Exception, SystemExit) as error:  # the constructor is other people's code, which may raise anything
            raise InputError(f"environment {env_id}: {raised(error)}") from error


def episodes(env_id: str) -> int:
    """Episodes of an evaluation, as in the literature: 50 in OGBench (its paper), else 100 in mazes, where each is won
    or lost, and 10 elsewhere (CORL)."""
    if env_id.startswith(_OGBENCH):
        return 50
    return 100 if "Maze" in env_id else 10


def _parse(spec: str) -> tuple[str, int | None, dict[str, Any]]:
    """(id, time limit or None for the registered one, keyword arguments)."""
    if not _is_json(spec):
        return _checked_id(spec), None, {}
    try:
        form = json.loads(spec)
    except json.JSONDecodeError as error:
        raise InputError(f"environment spec is not JSON ({error}): name the environment with --env") from error
    env_id = _checked_id(form.get("id"))
    limit = form.get("max_episode_steps")
    kwargs = form.get("kwargs") or {}
    wrappers = form.get("additional_wrappers")
    if limit is not None and not _is_count(limit):
        raise InputError(f"environment {env_id}: max_episode_steps is {limit!r} in its spec, not a number of steps")
    if not isinstance(kwargs, dict):
        raise InputError(f"environment {env_id}: kwargs in its spec are no mapping")
    if wrappers:
        names = [wrapper.get("name") if isinstance(wrapper, dict) else wrapper for wrapper in wrappers]
        raise InputError(
            f"environment {env_id}: its spec adds the wrappers {names}, which are not run from a dataset's file; "
            "name what makes the environment with --env MODULE:FUNCTION"
        )
    kwargs = {name: value for name, value in kwargs.items() if name != "render_mode"}
    return env_id, limit, kwargs


def _is_json(spec: str) -> bool:
    return spec.lstrip().startswith("{")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _checked_id(env_id: Any) -> str:
    """``env_id``. Raises InputError unless it is the name of a registered environment, and of no module."""
    if not isinstance(env_id, str) or not env_id:
        raise InputError(f"environment id {env_id!r} is not a name: name one with --env")
    if ":" in env_id or env_id.startswith(_BRIDGES):
        raise InputError(
            f"environment id {env_id!r} would import a module that a file names: if you trust it, name what makes the "
            "environment yourself, --env MODULE:FUNCTION"
        )
    return env_id


def _register(env_id: str) -> None:
    """Import our own environments, or another package, if ``env_id`` may be one of them: importing registers it."""
    import gymnasium

    for beginning, module in _TOYS.items():
        if env_id.startswith(beginning):
            importlib.import_module(f"envs.toys.{module}")
    if env_id in gymnasium.registry:
        return
    for beginnings, (package, extra) in _OPTIONAL.items():
        if env_id.startswith(beginnings):
            _import(package, extra, env_id)


def _import(package: str, extra: str, env_id: str) -> None:
    """Import a package that registers environments. InputError if it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            importlib.import_module(package)
        except ImportError as error:
            name = package.replace("_", "-")
            raise InputError(
                f"environment {env_id}: {name} is not installed: pip install 'rlkit-jax[{extra}]'"
            ) from error


def _check_package(env_id: str, spec: str) -> None:
    """Raises InputError if ``spec`` names code of another package than the one that is registered under the id.

    Nothing is imported because a dataset's file names it, and to evaluate in another environment of the same name would
    be wrong without a word."""
    import gymnasium

    if not _is_json(spec) or env_id not in gymnasium.registry:
        return
    named = json.loads(spec).get("entry_point")
    registered = gymnasium.registry[env_id].entry_point
    if not named or registered is None:
        return
    if not isinstance(registered, str):
        registered = f"{registered.__module__}:{registered.__qualname__}"
    if not isinstance(named, str) or _package(named) != _package(registered):
        raise InputError(
            f"environment {env_id}: its spec names the code {named!r}, which is not run from a dataset's file; "
            f"registered is {registered}: --env {env_id} evaluates in that"
        )


def _package(entry_point: str) -> str:
    """The package of an entry point: "package" of "package.module:Class"."""
    module, _, _ = entry_point.partition(":")
    package, _, _ = module.partition(".")
    return package


def _unknown(env_id: str, spec: str) -> InputError:
    """The id is not registered: near ones, and how one of the user's own, or of the data's code, is named."""
    import gymnasium

    near = difflib.get_close_matches(env_id, {**gymnasium.registry, **REFERENCES}, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    module = "MODULE"
    entry_point = json.loads(spec).get("entry_point") if _is_json(spec) else None
    if isinstance(entry_point, str) and ":" in entry_point:
        module, _, _ = entry_point.partition(":")
    return InputError(
        f"environment {env_id}: gymnasium knows no such id{hint}; if a module registers it, --import {module}, and if "
        "a function or a class makes it, --env MODULE:NAME"
    )


def _reason(error: Exception) -> str:
    """What is wrong, for the user, where gymnasium raised ``error``."""
    text = one_line(error)
    if "mujoco_py" in text or "mujoco v2 and v3" in text:
        return "versions 2 and 3 need the abandoned mujoco_py: name the -v4 version with --env"
    lower = text.lower()
    if "mujoco is not installed" in lower or "no module named 'mujoco'" in lower:
        return _MUJOCO
    return text
