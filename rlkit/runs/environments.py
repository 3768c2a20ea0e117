"""Environments by name: those that gymnasium knows, and those of the user's own.

    Hopper-v5             an id of gymnasium's registry
    my_module:MyEnv-v0    an id that my_module registers when it is imported
    my_module:make        a function or a class that gives an environment when it is called; wrappers belong in it
    none                  no environment, whatever the data name

What a user types is trusted: its module is imported. What a file says, a dataset or a run's record, is not: it names
ids alone, and an environment of the user's own is typed again where its run is used.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium

from rlkit.evaluation import task
from rlkit.runs import registry
from rlkit.runs.record import EvaluationRecord, Reference
from rlkit.types import InputError, raised

NONE = "none"


def is_typed(name: str) -> bool:
    """Whether ``name`` has the form module:name, which is no id and no EnvSpec in JSON."""
    return ":" in name and not name.lstrip().startswith("{")


def environment_name(spec: str) -> str:
    """The id in an environment's spec, which may be gymnasium's EnvSpec as JSON; ``spec`` itself if it names none."""
    if not spec.lstrip().startswith("{"):
        return spec
    try:
        return str(json.loads(spec)["id"])
    except (ValueError, KeyError, TypeError):
        return spec


def make(name: str, known: Callable[[str], gymnasium.Env]) -> gymnasium.Env:
    """The environment that a user typed.

    Args:
        name: in one of the forms above but "none", or an EnvSpec as JSON.
        known: makes the environment of an id or a spec, and imports nothing that it names.

    Returns:
        A new environment.

    Raises:
        InputError: one line, if there is no such module, name or id in it, or if what it gives is no environment.

    Example:
        make("my_module:make", envs.make)
    """
    if name == NONE:
        raise InputError("--env none: this needs an environment; name one with --env")
    if not is_typed(name):
        return known(name)
    module_name, _, wanted = name.partition(":")
    module = registry.import_typed(module_name, f"environment {name}")
    maker = getattr(module, wanted, None)
    if maker is None:
        return known(_registered(name, module_name, wanted, dir(module)))
    if not callable(maker):
        raise InputError(
            f"environment {name}: {wanted} is of type {type(maker).__name__}, which makes no environment: name a "
            "function or a class that does, since several are needed"
        )
    try:
        env = maker()
    except (Exception, SystemExit) as error:
        raise InputError(
            f"environment {name}: {wanted}() raised {raised(error)}; it is called without arguments"
        ) from error
    if not isinstance(env, gymnasium.Env):
        kind = f"{type(env).__module__}.{type(env).__qualname__}"
        raise InputError(
            f"environment {name}: {wanted}() returned a {kind}, not a gymnasium.Env; shimmy makes one of an "
            "environment of the old gym"
        )
    return env


def _registered(name: str, module_name: str, wanted: str, names: Sequence[str]) -> str:
    """``wanted`` if it is an id; else InputError that names near ones. ``names``: what is in the module."""
    if wanted in gymnasium.registry:
        return wanted
    public = [found for found in names if not found.startswith("_")]
    near = difflib.get_close_matches(wanted, [*public, *gymnasium.registry], n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise InputError(f"environment {name}: {module_name} has no {wanted}, and registers no such id{hint}")


def for_readers(name: str | None) -> str | None:
    """What readers of data are told of a user's ``name``: the id where there is one, whose time limit they may need.

    Modules are imported by then. None where there is no environment.
    """
    if name is None or name == NONE:
        return None
    _, _, wanted = name.partition(":")
    return wanted if is_typed(name) and wanted in gymnasium.registry else name


def again(recorded: EvaluationRecord, imports: Sequence[str]) -> str:
    """The environment that a run's record names, for a user who names no other.

    imports: modules that the user had imported this time. Raises InputError where the record names code of the user's
    own, which is imported only where they type it.
    """
    check_imports_nothing(recorded.environment)
    missing = [module for module in recorded.imports if module not in imports]
    if missing:
        words = " ".join(f"--import {module}" for module in missing)
        raise InputError(
            f"run.json: the run imported {', '.join(missing)}, which is not imported unless it is named: add {words}"
        )
    return recorded.environment


def check_imports_nothing(name: str) -> None:
    """InputError, with what to type, where the environment that a record names is in a module of the user's own."""
    if is_typed(name):
        raise InputError(
            f"run.json: the environment is {name}, which is not imported unless it is named: add --env {name}"
        )


def reference(env: gymnasium.Env | None, references: Mapping[str, Any]) -> tuple[Reference | None, str]:
    """Returns that have the scores 0 and 100 in ``env``; None where none are known, and why, where they are known for
    another task of the same id.

    references: environment id -> random, expert, source, and the steps and kwargs that they hold for (Catalog).
    """
    if env is None or env.spec is None or env.spec.id not in references:
        return None, ""
    known = references[env.spec.id]
    why = task.unlike(env, known.steps, known.kwargs)
    if why:
        return None, f"environment {env.spec.id}: {why}"
    return Reference(known.random, known.expert, known.source), ""
