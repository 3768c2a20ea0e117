"""How ``rlkit train ...`` is read: with an agent, whose Config says what can be given, or with a run to go on with."""

from __future__ import annotations

import dataclasses
import importlib
import shlex
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import tyro

from rlkit import online, ranges
from rlkit.commands import grid
from rlkit.commands.grid import SweepOptions
from rlkit.commands.options import EVAL_SEED, OF_PRESET, STEPS, FinetuneOptions, TrainOptions
from rlkit.commands.words import HELP, gathered, known, listing, value_of
from rlkit.datasets.options import DataOptions
from rlkit.runs import registry
from rlkit.types import InputError, Preset

if TYPE_CHECKING:
    from rlkit.commands import Catalog
    from rlkit.runs.record import Record

_FLAGS = {  # options of `train` that take no value
    f"--{field.name.replace('_', '-')}"
    for kind in (TrainOptions, DataOptions)
    for field in dataclasses.fields(kind)
    if field.type == "bool"
}


def parse_train(argv: Sequence[str], catalog: Catalog) -> TrainOptions | SweepOptions | str:
    """The options that ``argv``, the words behind ``train``, gives, or the text to print for a general --help. Raises
    as rlkit.commands.parsing.parse does."""
    # --- which agent ---
    entries = registry.installed() | dict(catalog.agents)
    if not argv or argv[0] in HELP:
        summaries = {name: entry.summary for name, entry in entries.items()}
        hint = (
            "rlkit train AGENT --help lists an agent's options. An agent in a file of yours is named as "
            "module:Config.\n"
            "rlkit train --resume auto --out RUN goes on with a run, with everything as the run has it."
        )
        return listing("rlkit train AGENT [OPTIONS]", summaries, hint)
    if argv[0].startswith("-"):
        _refuse_agent_behind(argv, entries)
        return _parse_resumed(argv)
    name = argv[0]
    rest = argv[1:]
    if set(HELP) & set(rest):
        for slow in ("optax", "rlkit.networks"):
            sys.modules.setdefault(slow, _Deferred(slow))
    if registry.is_typed(name):
        method = registry.typed(name)
        summary = f"The agent {name}"
    else:
        entry = entries[known("agent", name, entries)]
        method = registry.named(entry.module)
        summary = entry.summary

    # --- its settings, or those of a preset, are the defaults ---
    embedded = _default_dataset(catalog)
    typed = value_of("--dataset", rest)
    note = "" if typed else "embedded, since --dataset names none"
    default = TrainOptions(
        config=method.config(),
        data=DataOptions(embedded),
        online=online.defaults(method.config),
        agent=name,
        module=method.module,
    )
    chosen = value_of("--preset", rest)
    if chosen:
        preset = method.presets[known("preset", chosen, method.presets)]
        own = preset.dataset
        if own is None and embedded is not tyro.MISSING and embedded.startswith(f"{chosen}/"):
            own = embedded
        if own is None and not typed and not set(HELP) & set(rest):
            raise InputError(f"--preset {chosen} is not for one dataset: name yours with --dataset")
        note = _dataset_note(chosen, own, typed)
        default = _of_preset(default, chosen, preset, own)
    asked = tyro.cli(
        TrainOptions[method.config],
        args=gathered("--dataset", rest),
        default=default,
        prog=f"rlkit train {name}",
        description=f"{summary}\n\n{_presets(method.presets)}",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    asked = dataclasses.replace(asked, dataset_note=note)
    asked = _with_steps(asked, method.presets[chosen].steps if chosen else STEPS)
    if not asked.sweep:
        return asked
    ranges.check_options(asked)
    return SweepOptions(asked, grid.points(asked.sweep, asked.config))


def _of_preset(default: TrainOptions, name: str, preset: Preset, dataset: str | None) -> TrainOptions:
    """The options of a preset, whose own dataset is ``dataset``, if it has one."""
    return dataclasses.replace(
        default,
        config=preset.config,
        data=dataclasses.replace(default.data, dataset=dataset or tyro.MISSING, **preset.data),
        online=online.defaults(preset.config, preset),
        preset=name,
    )


def _dataset_note(preset: str, own: str | None, typed: str | None) -> str:
    """What is to be said of the choice of the dataset, where a preset whose own dataset is ``own`` was asked for."""
    if typed is None:
        return f"{OF_PRESET} {preset}"
    if own is None or registry.is_dataset(own, typed):
        return ""
    return f"as typed; the preset {preset} is for {own}"


def _refuse_agent_behind(argv: Sequence[str], entries: Iterable[str]) -> None:
    """InputError, with the command as it has to be, where the agent stands behind an option and that option's value."""
    for number, (before, word) in enumerate(zip(argv, argv[1:], strict=False), 1):
        is_value = before.startswith("--") and "=" not in before and before not in _FLAGS
        is_agent = word in entries or (registry.is_typed(word) and word.endswith(":Config"))
        if is_agent and not is_value:
            command = ["rlkit", "train", word, *argv[:number], *argv[number + 1 :]]
            raise InputError(f"train: name the agent before its options: {shlex.join(command)}")


def _parse_resumed(argv: Sequence[str]) -> TrainOptions | FinetuneOptions:
    """Options of ``train --resume auto --out RUN``: those that the run was made with, and over them what is typed.

    Raises InputError if there is no run, or if its agent or its environment is in a module of the user's, who has to
    name it.
    """
    folder = Path(value_of("--out", argv) or "")
    resume = value_of("--resume", argv)
    if value_of("--out", argv) and resume in ("auto", "must") and not (folder / "run.json").is_file():
        raise InputError(f"{folder} is no run to go on with: it has no run.json; name an agent to begin one")
    if not (folder / "run.json").is_file() or resume not in ("auto", "must"):
        raise InputError(
            "train: name an agent (rlkit train lists them), or a run to go on with: rlkit train --resume auto --out RUN"
        )
    if value_of("--preset", argv):
        raise InputError(f"--preset: {folder} goes on with its own settings; name the agent to begin another run")
    from rlkit.runs.record import Record, online_is_not_longer, recorded_config

    record = Record.read(folder)
    typed = value_of("--agent", argv)
    config = recorded_config(record, typed)
    default: TrainOptions | FinetuneOptions
    if record.parent is not None and not record.parent.begins:
        if value_of("--steps", argv):
            raise InputError(f"--steps: {online_is_not_longer(folder)}")
        default = _finetune_options(record, config, folder)
    else:
        default = _train_options(record, config, folder)
    args = [word for word in argv if word not in ("--agent", typed, f"--agent={typed}")]
    asked = tyro.cli(
        type(default)[type(config)],
        args=gathered("--dataset", args),
        default=default,
        prog="rlkit train",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if getattr(asked, "sweep", ()):
        raise InputError(f"--sweep: {folder} is one run; name the agent to begin a sweep")
    if value_of("--env", argv) is None:
        _check_environment(record, folder, asked.imports)
    return asked


def _check_environment(record: Record, folder: Path, imports: Sequence[str]) -> None:
    """InputError, with what to type, where the run's environment is in a module of the user's own, and not typed."""
    from rlkit.runs import environments
    from rlkit.runs.record import recorded_data

    env = recorded_data(record, folder).env
    if env:
        environments.check_imports_nothing(env)
    if record.evaluation is not None:
        environments.again(record.evaluation, imports)


def _train_options(record: Record, config: Any, folder: Path) -> TrainOptions:
    """The options that the run ``record`` in ``folder`` was made with."""
    from rlkit.runs.record import recorded_data

    evaluation = record.evaluation
    return TrainOptions(
        config=config,
        data=recorded_data(record, folder),
        online=record.online[-1] if record.online else online.defaults(config),
        agent=record.agent,
        module=record.module,
        steps=record.steps,
        seeds=len(record.seeds),
        seed=record.seeds[0],
        out=folder,
        preset=record.preset,
        init_from=Path(record.parent.run) if record.parent else None,
        eval_every=record.eval_every,
        eval_episodes=evaluation.episodes if evaluation else 0,
        eval_seed=evaluation.seed if evaluation else EVAL_SEED,
        log_every=record.log_every,
        q_limit=record.q_limit,
        wandb=(folder / "wandb-id").exists(),
    )


def _finetune_options(record: Record, config: Any, folder: Path) -> FinetuneOptions:
    """The same of a run that goes on online from another one."""
    from rlkit.runs.record import recorded_data

    evaluation = record.evaluation
    return FinetuneOptions(
        run=Path(record.parent.run),
        config=config,
        online=record.online[-1],
        env=recorded_data(record, folder).env,
        out=folder,
        eval_every=record.eval_every,
        eval_episodes=evaluation.episodes if evaluation else 0,
        eval_seed=evaluation.seed if evaluation else None,
        log_every=record.log_every,
        q_limit=record.q_limit,
        wandb=(folder / "wandb-id").exists(),
        agent=record.module if registry.is_typed(record.module) else None,
    )


def _with_steps(asked: TrainOptions, usual: int) -> TrainOptions:
    """``asked`` with the number of offline updates, ``usual`` by default. InputError if there is nothing to train."""
    if asked.steps is None:
        begins_online = asked.online.steps > 0 and asked.data.names[0].startswith("random:")
        asked = dataclasses.replace(asked, steps=0 if begins_online else usual)
    if asked.steps == 0 and asked.online.steps == 0:
        raise InputError("--steps 0: must be at least 1, or --online.steps must be given")
    return asked


class _Deferred(ModuleType):
    """Stands for a module until something of it is used.

    A list of options uses nothing of optimisers and networks, which take as long to import as half of jax.
    """

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def _default_dataset(catalog: Catalog) -> str:
    # the first embedded dataset; where there is none, --dataset must be given
    metadata = sorted(catalog.datasets.glob("**/data/metadata.json"))
    if not metadata:
        return tyro.MISSING
    folder = metadata[0].parent.parent
    return folder.relative_to(catalog.datasets).as_posix()


def _presets(presets: Mapping[str, Preset]) -> str:
    if not presets:
        return "No presets."
    by_source: dict[str, list[str]] = {}
    for name, preset in presets.items():
        by_source.setdefault(preset.source, []).append(name)
    lines = ["Presets (--preset NAME), with their sources:"]
    for source, names in by_source.items():
        paragraph = f"- {', '.join(names)}: {source}"
        lines.append(textwrap.fill(paragraph, 100, subsequent_indent="  ", break_on_hyphens=False))
    return "\n".join(lines)
