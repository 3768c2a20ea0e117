"""Agents by name: those of this project, those that installed packages bring, and those that a user types.

A package offers agents as entry points of the group ``rlkit.agents``, a name and a module with Config and PRESETS each:

    [project.entry-points."rlkit.agents"]
    percent-bc = "my_package.percent_bc"

An agent in a file of one's own is typed as ``module:Config``. What is typed is trusted; a run's record is not: a record
alone imports nothing but agents of this project and of installed packages.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from types import ModuleType
from typing import Any, NamedTuple

from rlkit.types import InputError, Preset, raised

GROUP = "rlkit.agents"
_OWN = re.compile(r"agents\.[a-z][a-z0-9_]*")
_TYPED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
# what D4RL calls its sets of one world, after the policies or the maps that they were recorded with, and our mixture
KINDS = frozenset(
    "random medium expert medium-expert medium-replay full-replay medium-random human cloned complete partial mixed "
    "umaze umaze-diverse medium-play medium-diverse large-play large-diverse".split()
)


class Entry(NamedTuple):
    """An agent that can be named. ``module`` exports Config and PRESETS; ``summary`` is its line in the list."""

    module: str
    summary: str


class Method(NamedTuple):
    """An agent: its settings, and those that are known to work on a dataset."""

    module: str  # as a run's record names it
    config: type  # its hyper-parameters, a dataclass with `stages`
    presets: Mapping[str, Preset]


def installed() -> dict[str, Entry]:
    """Name -> entry of the agents that installed packages offer."""
    entries = {}
    for point in metadata.entry_points(group=GROUP):
        package = point.dist.name if point.dist else "an installed package"
        entries[point.name] = Entry(point.value, f"from {package}")
    return entries


def is_typed(name: str) -> bool:
    """Whether ``name`` has the form module:Config."""
    return bool(_TYPED.fullmatch(name))


def named(module: str) -> Method:
    """The agent in a module that an Entry names."""
    return _method(module, importlib.import_module(module), "Config")


def typed(name: str) -> Method:
    """The agent ``module:Config`` that a user typed; the current folder is looked in too.

    Raises InputError if there is no such module or no such class in it.
    """
    module_name, _, class_name = name.partition(":")
    module = import_typed(module_name, name)
    if not hasattr(module, class_name):
        raise InputError(f"{name}: the module {module_name} has no {class_name}")
    return _method(name, module, class_name)


def import_typed(module_name: str, where: str) -> ModuleType:
    """Import a module that a user typed; the current folder is looked in too. ``where`` begins the messages.

    Raises InputError, one line, where that fails.
    """
    if module_name.endswith(".py") or "/" in module_name:
        stem = module_name.removesuffix(".py").rpartition("/")[2]
        raise InputError(f"{where}: {module_name} is a file: go to its folder and write its module, {stem}")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the console command, unlike `python -m`, does not look there
    importlib.invalidate_caches()  # a file that has just been written is found too
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name == module_name or module_name.startswith(f"{error.name}."):
            raise InputError(f"{where}: there is no module {module_name} here or on Python's path") from None
        raise InputError(f"{where}: {module_name} needs the module {error.name}, which is not installed") from error
    except (Exception, SystemExit) as error:
        raise InputError(f"{where}: importing {module_name} raised {raised(error)}") from error


def recorded(module: str, agent: str | None = None) -> Method:
    """The agent that a run's record names as ``module``.

    agent: what the user typed, for an agent in a module of their own. Raises InputError if the record names a module
    that is neither typed nor known.
    """
    if is_typed(module):
        if agent != module:
            how = f"add --agent {module}, or in Python agent={module!r}"
            raise InputError(f"run.json: the agent is {module}, which is not imported unless it is named: {how}")
        return typed(module)
    from_packages = {entry.module for entry in installed().values()}
    if not _OWN.fullmatch(module) and module not in from_packages:
        raise InputError(f"run.json: {module!r} is not a module of the package agents or of an installed package's")
    if importlib.util.find_spec(module) is None:
        raise InputError(f"run.json: there is no module {module}; was the run made by another version?")
    return named(module)


def _method(name: str, module: ModuleType, class_name: str) -> Method:
    config: Any = getattr(module, class_name)
    presets = {}
    for preset_name, preset in getattr(module, "PRESETS", {}).items():
        dataset = preset.dataset or preset_dataset(preset_name)
        presets[preset_name] = replace(preset, dataset=dataset)
    return Method(name, config, presets)


def preset_dataset(name: str) -> str | None:
    """The dataset that a preset called ``name`` is for; None where the name is that of a family of them, or of a size.

    hopper/medium: hopper/medium-v0, in Minari's form. cube-single-play and cube-single-play/chunks, in OGBench's:
    cube-single-play-v0.npz.
    """
    _, _, kind = name.partition("/")
    if kind in KINDS:
        return f"{name}-v0"
    task = name.removesuffix("/chunks")
    if "/" not in task and task.endswith(("-navigate", "-play")):
        return f"{task}-v0.npz"
    return None


def is_dataset(own: str, named: str) -> bool:
    """Whether ``named`` is the dataset ``own``, in whatever version and format: hopper_medium-v2.hdf5 and
    mujoco/hopper/medium-v0 are hopper/medium-v0, hopper/medium-replay-v0 is not."""
    words = re.split("[-_/]", re.sub(r"-v\d+(\.\w+)?$", "", own))
    pattern = "[-_/]".join(map(re.escape, words))
    return re.search(rf"(^|/){pattern}-v\d+(\.\w+)?$", named, re.IGNORECASE) is not None
