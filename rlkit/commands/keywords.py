"""What `rlkit.train` and `TrainedRun.finetune` are given by name, as the options of the commands of these names."""

from __future__ import annotations

import dataclasses
import difflib
import typing
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlkit import datasets, online, ranges
from rlkit.commands import Catalog
from rlkit.commands.options import STEPS, FinetuneOptions, JudgeOptions, TrainOptions
from rlkit.datasets import DataOptions, Episodes, holdout, labels
from rlkit.online import Online
from rlkit.runs import registry, serialization
from rlkit.runs.record import Record, recorded_config
from rlkit.runs.registry import Method
from rlkit.runs.restored import altered
from rlkit.types import InputError, Preset

# options of the commands that can be given by name here too; the others are arguments, or for a terminal
TRAINING = (
    "config", "eval_episodes", "eval_every", "eval_seed", "init_from", "log_every", "online", "preset", "q_limit",
    "resume", "seed", "seeds", "steps", "wandb",
)  # fmt: skip
DATA = tuple(field.name for field in dataclasses.fields(DataOptions) if field.name not in ("dataset", "env"))
FINETUNING = ("config", "eval_episodes", "eval_every", "eval_seed", "log_every", "q_limit", "resume", "wandb")
ONLINE = tuple(field.name for field in dataclasses.fields(Online))


def resolve(
    agent: str, data: Any, env: str | None, settings: Mapping[str, Any], catalog: Catalog
) -> tuple[TrainOptions, Episodes | None]:
    """The options of the command, and the data if they are in memory.

    Args:
        agent, data, settings: as `rlkit.train` takes them.
        env: name of the environment; None where none is given.
        catalog: the agents that can be named.

    Raises:
        InputError: for a name that is none, and for a value of another type or out of its range.
    """
    method = _method(agent, catalog)
    sorted_out = _sorted_out(agent, method, settings, {TrainOptions: TRAINING, DataOptions: DATA})
    of_config, of_training, of_data = sorted_out.values()
    named = _named_data(data)

    # --- the agent's defaults or a preset ---
    preset = Preset(method.config(), STEPS, "defaults")
    chosen = of_training.get("preset")
    if chosen is not None:
        preset = method.presets[_one_of("preset", chosen, method.presets)]
        _compare(data, named, chosen, preset)
    options = TrainOptions(
        config=preset.config,
        data=dataclasses.replace(DataOptions(named.dataset), **preset.data),
        online=online.defaults(preset.config, preset),
        agent=agent,
        module=method.module,
    )

    # --- what a DataOptions changes, and what is given by name ---
    changed = {}
    for field in dataclasses.fields(named):
        value = getattr(named, field.name)
        if value != field.default:
            changed[field.name] = value
    changed |= of_data
    if env is not None:
        changed["env"] = env
    config = altered(of_training.pop("config", options.config), of_config)
    options = dataclasses.replace(
        options, config=config, data=dataclasses.replace(options.data, **changed), **of_training
    )
    ranges.check(options, agent)
    if options.steps is None:
        options = dataclasses.replace(options, steps=preset.steps)
    if options.steps == 0 and options.online.steps == 0:
        raise InputError("steps 0: must be at least 1, or online steps must be given: online=Online(steps=...)")
    return options, _in_memory(data, options.data)


def finetuning(
    folder: Path, settings: Mapping[str, Any], env: str | None = None, agent: str | None = None
) -> FinetuneOptions:
    """The options of the command ``rlkit finetune`` for the run in ``folder``, whose agent's own way to go online is
    the default.

    env: name of the environment; None: the run's. agent: ``module:Config``, for an agent in a module of the user's.
    Raises InputError as `resolve` does.
    """
    record = Record.read(folder)
    method = registry.recorded(record.module, agent)
    sorted_out = _sorted_out(record.agent, method, settings, {Online: ONLINE, FinetuneOptions: FINETUNING})
    of_config, of_online, others = sorted_out.values()
    config = altered(others.pop("config", recorded_config(record, agent)), of_config)
    plan = online.defaults(config, method.presets.get(record.preset))
    plan = dataclasses.replace(plan, **of_online)
    options = FinetuneOptions(run=folder, config=config, online=plan, env=env, **others)
    ranges.check(options, record.agent)
    return options


def resolve_data(data: Any, settings: Mapping[str, Any]) -> tuple[DataOptions, Episodes | None]:
    """What names the data, with ``settings`` of them, and the data if they are in memory; InputError as `resolve`."""
    changed = {}
    for name, value in settings.items():
        _one_of("setting of the data", name, DATA)
        changed[name] = _typed(DataOptions, name, _whole(value))
    options = dataclasses.replace(_named_data(data), **changed)
    ranges.check(options, "data")
    return options, _in_memory(data, options)


def recorded(data: Any) -> tuple[tuple[str, ...], Any]:
    """Names of recorded episodes, or what holds them in memory, Episodes or a list; neither for None.

    They are read as the run that they judge was, so that a DataOptions has nothing to say: InputError.
    """
    if data is None:
        return (), None
    if isinstance(data, DataOptions):
        raise InputError("data: a DataOptions is no data to judge by: give its name, which is read as in training")
    named = _named_data(data)
    return ((), data) if _is_in_memory(data) else (named.names, None)


def _method(agent: str, catalog: Catalog) -> Method:
    if registry.is_typed(agent):
        return registry.typed(agent)
    entries = registry.installed() | dict(catalog.agents)
    return registry.named(entries[_one_of("agent", agent, entries)].module)


def _one_of(kind: str, name: str, names: Iterable[str], hints: Iterable[str] = ()) -> str:
    """``name`` if it is one of ``names``. Else InputError with near ones, or with ``hints`` where none is near."""
    names = list(names)
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or list(hints) or names
    raise InputError(f"unknown {kind} {name!r}; did you mean {', '.join(near)}?")


def _sorted_out(
    agent: str, method: Method, settings: Mapping[str, Any], named: Mapping[type, Sequence[str]]
) -> dict[type, dict[str, Any]]:
    """Settings of the agent's Config, and then those of each class in ``named``, by the names that are looked for.
    InputError for a name that is none, or a value of another type."""
    own = [field.name for field in dataclasses.fields(method.config)]
    kinds = {name: kind for kind, names in named.items() for name in names}
    found: dict[type, dict[str, Any]] = {kind: {} for kind in (method.config, *named)}
    for name, value in settings.items():
        value = _whole(value)
        if name == "config" and isinstance(value, Mapping):
            found[method.config] |= value
        elif name == "config":
            found[kinds[name]][name] = _checked_config(agent, method, value)
        elif name in kinds:
            kind = kinds[name]
            found[kind][name] = _typed(kind, name, value)
        elif name in own:
            found[method.config][name] = value
        else:
            _one_of(f"setting of {agent}", name, [*own, *kinds], hints=own)
    return found


def _whole(value: Any) -> Any:
    """1e6 as a whole number; everything else as it is."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _typed(kind: type, name: str, value: Any) -> Any:
    """``value`` as the field ``name`` of ``kind`` takes it. InputError if it does not."""
    wanted = typing.get_type_hints(kind)[name]
    if dataclasses.is_dataclass(wanted) and not isinstance(value, wanted):
        value = _by_name(wanted, name, value)
    try:
        form = serialization.encode(value)
    except TypeError:
        raise InputError(f"{name}: a value of type {type(value).__name__} cannot be taken") from None
    return serialization.decode(wanted, form, name)


def _by_name(wanted: type, where: str, value: Any) -> dict[str, Any]:
    """The mapping ``value`` as `decode` takes it for the dataclass ``wanted``: one name stands for a list of one.
    InputError where it is no mapping, or for a name that is none."""
    hints = typing.get_type_hints(wanted)
    if not isinstance(value, Mapping):
        first = next(iter(hints))
        raise InputError(
            f"{where}: {value!r} does not say what it is: give names, as in {where}={{{first!r}: {value!r}}}; they are "
            f"{', '.join(hints)}"
        )
    named = {}
    for name, item in value.items():
        _one_of(f"name in {where}", str(name), hints)
        is_single = isinstance(item, str) and typing.get_origin(hints[name]) is tuple
        named[name] = [item] if is_single else item
    return named


def judging(values: Mapping[str, Any]) -> dict[str, Any]:
    """What `rlkit.judge` is given by name, as the options of the command take it; InputError where they do not."""
    return {name: _typed(JudgeOptions, name, _whole(value)) for name, value in values.items()}


def _checked_config(agent: str, method: Method, config: Any) -> Any:
    if not isinstance(config, method.config):
        kind = type(config).__name__
        raise InputError(f"config: a {kind} is no Config of {agent}: give a mapping of its settings, or its own Config")
    return config


def _named_data(data: Any) -> DataOptions:
    """What names the data, and what of them is asked for."""
    if isinstance(data, DataOptions):
        return data
    if _is_names(data):
        return DataOptions(str(data) if isinstance(data, str | Path) else tuple(map(str, data)))
    if isinstance(data, Episodes):
        return DataOptions(data.name)
    if isinstance(data, Iterable):
        return DataOptions("episodes")
    raise InputError(
        f"data: {type(data).__name__} is no data: give a dataset's name, DataOptions, Episodes or a list of episodes"
    )


def _is_names(data: Any) -> bool:
    """Whether ``data`` is the name of a dataset, or several."""
    names = data if isinstance(data, list | tuple) else [data]
    return bool(names) and all(isinstance(name, str | Path) for name in names)


def _is_in_memory(data: Any) -> bool:
    return not isinstance(data, DataOptions) and not _is_names(data)


def _compare(data: Any, named: DataOptions, chosen: str, preset: Preset) -> None:
    """Warn where a preset is for another dataset than the one that is named; episodes in memory may be any."""
    if preset.dataset is None or _is_in_memory(data):
        return
    if not any(registry.is_dataset(preset.dataset, name) for name in named.names):
        listed = ", ".join(named.names)
        warnings.warn(f"the preset {chosen} is for {preset.dataset}, not for {listed}", RuntimeWarning, stacklevel=4)


def _in_memory(data: Any, options: DataOptions) -> Episodes | None:
    """The episodes of ``data`` that need not be read from a file, as they are used."""
    if not _is_in_memory(data):
        return None
    if not isinstance(data, Episodes):
        data = datasets.from_episodes(data, repair=options.repair, action=options.action)
    return labels.hide(holdout.training(data, options), options)
