"""An extension of Sphinx: a page for each agent of the registry, written when the site is built.

What it says is taken from the agent's own file (docstring, fields of the Config, presets) and from the rows that are
tracked (benchmarks/tables, tests/toys.csv), so that it cannot disagree with them. The pages go to docs/agents, which
git ignores.
"""

from __future__ import annotations

import ast
import csv
import dataclasses
import importlib
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from agents import REGISTRY
from benchmarks import doc_table, headline, icu_sepsis, table
from envs import DATASETS
from rlkit import ranges
from rlkit.runs import registry
from rlkit.runs.registry import Entry, Method
from rlkit.types import Box, Discrete, InputError, Preset, Spec

DOCS = Path(__file__).parent
ROOT = DOCS.parent
TABLES = ROOT / "benchmarks" / "tables"
TOYS = ROOT / "tests" / "toys.csv"
LARGEST = " and at most 2147483647"  # of what is counted: not worth telling

ABOUT = """\
# Agents

`rlkit train NAME --help` lists the settings and presets of an agent in a terminal. These pages are made from the same
source, each agent's own file, and from the tracked rows of results. [Add an agent](../add_agent.md) says how to write
one.
"""
SETTINGS = """\
On the command line a setting is `--config.NAME`, with dashes in place of underscores; in Python it is an argument,
`rlkit.train(..., NAME=...)`, or a field of the Config.
"""


class Setting(NamedTuple):
    """A field of a Config. ``default`` is as it is written in the file."""

    name: str
    default: str
    allowed: str
    text: str


# --- settings ---


def settings(config: type) -> list[Setting]:
    """The fields of the dataclass ``config`` with what their declarations say."""
    hints = typing.get_type_hints(config, include_extras=True)
    written: dict[str, tuple[str, str]] = {}
    for base in reversed(config.__mro__):
        if dataclasses.is_dataclass(base):
            written |= dict(_written(base))
    found = []
    for field in dataclasses.fields(config):
        default, text = written[field.name]
        found.append(Setting(field.name, default, _allowed(hints[field.name]), text))
    return found


def _written(config: type) -> Iterator[tuple[str, tuple[str, str]]]:
    """(name, (default, help)) of the fields that the body of the class declares."""
    source = textwrap.dedent(inspect.getsource(config))
    (declaration,) = ast.parse(source).body
    body = declaration.body
    for node, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign):
            continue
        default = ast.get_source_segment(source, node.value) if node.value else ""
        is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        text = str(following.value.value) if is_text else ""
        yield node.target.id, (default, " ".join(text.split()))


def _allowed(hint: Any) -> str:
    """Words for the values that an annotation allows; "" where it says nothing of them."""
    parts = typing.get_args(hint)
    choices = [part for part in (hint, *parts) if typing.get_origin(part) is Literal]
    found = ranges.find(hint)
    if choices:
        words = ", ".join(str(choice) for part in choices for choice in typing.get_args(part))
    elif hint is bool:
        words = "True, False"
    elif found is not None:
        words = str(found).removesuffix(LARGEST)
    else:
        words = ""
    return f"{words}; None" if words and types.NoneType in parts else words


# --- presets ---


def changes(config: Any, default: Any) -> Iterator[str]:
    """The settings of ``config`` that ``default``, of the same class, has otherwise: "name = value"."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        usual = getattr(default, field.name)
        if value == usual:
            continue
        if not dataclasses.is_dataclass(value):
            yield f"{field.name} = {value}"
            continue
        if type(value) is not type(usual):
            yield f"{field.name} = {type(value).__module__}"
            usual = type(value)()
        for change in changes(value, usual):
            yield f"{field.name}.{change}"


def presets(method: Method) -> str:
    """The presets as a table, and where their numbers come from."""
    default = method.config()
    lines = ["| preset | dataset | updates | settings | data |", "|---|---|---|---|---|"]
    by_source: dict[str, list[str]] = {}
    for name, preset in method.presets.items():
        lines.append(_preset_line(name, preset, default))
        by_source.setdefault(preset.source, []).append(f"`{name}`")
    lines.append("")
    lines.append("Settings that are not named are the defaults. Where the numbers come from:\n")
    for source, names in by_source.items():
        lines.append(f"- {', '.join(names)}: {linked(source)}")
    return "\n".join(lines)


def _preset_line(name: str, preset: Preset, default: Any) -> str:
    own = [f"`{change}`" for change in changes(preset.config, default)]
    own += [f"`online.{field} = {value}`" for field, value in preset.online.items()]
    data = [f"`{field} = {value}`" for field, value in preset.data.items()]
    own_dataset = preset.dataset or next((dataset for dataset in embedded() if dataset.startswith(f"{name}/")), None)
    dataset = f"`{own_dataset}`" if own_dataset else "any that is named"
    return row(f"`{name}`", dataset, f"{preset.steps:,}", ", ".join(own) or "the defaults", ", ".join(data))


def embedded() -> list[str]:
    """The datasets that come with the code: a preset without one takes that which bears its name."""
    found = sorted(DATASETS.glob("*/*/data/metadata.json"))
    return [path.parent.parent.relative_to(DATASETS).as_posix() for path in found]


# --- results ---


def results(name: str) -> str:
    """What the tracked rows say of the agent ``name``; a sentence where they say nothing."""
    parts = []
    for rows in sorted(TABLES.glob("*.csv")):
        path = rows.with_suffix(".toml")
        if path.exists() and any(measured["agent"] == name for measured in headline.measured(path)):
            parts.append(f"`benchmarks/tables/{path.stem}.csv`:\n\n{table.render(path, name)}")
    parts += [*_exact(name), *_lake(name), *_toys(name)]
    if not parts:
        return "No row of this agent is tracked."
    return "\n\n".join(parts)


def _exact(name: str) -> Iterator[str]:
    """Exact values in ICU-Sepsis, beside those of the policies that nobody trained."""
    path = TABLES / headline.EXACT
    found = table.rows(path, icu_sepsis.COLUMNS)
    own = [measured for measured in found if measured["policy"].startswith(f"`{name}`")]
    known = [measured for measured in found if measured["policy"] in ("uniform", "clinicians", "optimal")]
    if own:
        about = "share of patients who survive in ICU-Sepsis ([discrete actions](../discrete.md))"
        yield f"`benchmarks/tables/{path.name}`, {about}:\n\n{icu_sepsis.render([*known, *own])}"


def _lake(name: str) -> Iterator[str]:
    """Success on the slippery lake."""
    if any(method.agent == name for method in doc_table.METHODS.values()):
        about = "probability of arriving on the slippery lake ([sequence models](../sequence.md))"
        yield f"`benchmarks/tables/doc_lake.csv`, {about}:\n\n{doc_table.rendered(doc_table.TABLE, name)}"


def _toys(name: str) -> Iterator[str]:
    """The small worlds, each with the mean over its seeds."""
    with TOYS.open(newline="") as file:
        found = [toy for toy in csv.DictReader(file) if toy["method"] == name and toy["seed"] == "mean"]
    if not found:
        return
    lines = ["| toy | variant | is meant to | value, mean over the seeds | threshold | |", "|---|---|---|---|---|---|"]
    for toy in found:
        meant = {"passes": "pass", "fails": "fail"}[toy["expected"]]
        lines.append(row(toy["toy"], toy["variant"], meant, toy["value"], toy["threshold"], toy["verdict"]))
    heading = "`tests/toys.csv`, small worlds that [toys](../toys.md) explains:"
    yield "\n".join([heading, "", *lines])


# --- the page ---


def page(name: str, entry: Entry) -> str:
    """The page of an agent in Markdown."""
    module = importlib.import_module(entry.module)
    method = registry.named(entry.module)
    file = f"{entry.module.replace('.', '/')}.py"
    facts = [f"- File: `{file}`", f"- Actions: {actions(method.config)}"]
    written = [f"[{title}](../{path.name})" for title, path in pages_about(file)]
    if written:
        facts.append(f"- More: {', '.join(written)}")
    lines = ["| setting | default | may be | |", "|---|---|---|---|"]
    for setting in settings(method.config):
        default = f"`{setting.default}`" if setting.default else ""
        lines.append(row(f"`{setting.name}`", default, setting.allowed, setting.text))
    parts = [
        f"# {name}",
        linked(inspect.cleandoc(module.__doc__)),
        "\n".join(facts),
        "## Settings",
        SETTINGS.strip(),
        "\n".join(lines),
        "## Presets",
        f"`rlkit train {name} --preset NAME` brings the preset's dataset, or wants one to be named with `--dataset`.",
        presets(method),
        "## Results",
        results(name),
    ]
    return "\n\n".join(parts) + "\n"


def actions(config: type) -> str:
    """Which actions the agent serves: it refuses the others."""
    observation = Box((3,), (-1.0,) * 3, (1.0,) * 3)
    kinds = {"amounts": Box((2,), (-1.0,) * 2, (1.0,) * 2), "choices": Discrete(3)}
    served = []
    for kind, action in kinds.items():
        try:
            config().stages(Spec(observation, action, horizon=1000), 100)
        except InputError:
            continue
        served.append(kind)
    return ", ".join(served)


def pages_about(file: str) -> list[tuple[str, Path]]:
    """(title, path) of the tracked pages with a link to the agent's ``file``."""
    found = []
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if f"(../{file})" in text:
            found.append((text.partition("\n")[0].removeprefix("# "), path))
    return found


def linked(text: str) -> str:
    """``text`` of a docstring with links to the papers and pages that it names, which Markdown leaves as it is."""
    parts = re.split(r"(`+[^`]+`+)", text)  # every second one is code
    for number in range(0, len(parts), 2):
        part = parts[number].replace("__", r"\_\_")  # else bold
        part = re.sub(r"arXiv\s+(\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", part)
        parts[number] = re.sub(r"\bdocs/(\w+)\.md\b", r"[\1](../\1.md)", part)
    return "".join(parts)


def row(*cells: str) -> str:
    """A row of a table."""
    texts = [" ".join(cell.replace("|", r"\|").split()) for cell in cells]
    return f"| {' | '.join(texts)} |"


def index(entries: Mapping[str, Entry], configs: Mapping[str, type]) -> str:
    """The list of all agents."""
    lines = ["| agent | what it does | actions |", "|---|---|---|"]
    for name, entry in entries.items():
        lines.append(row(f"[{name}]({name}.md)", entry.summary, actions(configs[name])))
    contents = ["```{toctree}", ":hidden:", "", *entries, "```"]
    return "\n".join([ABOUT, *lines, "", *contents, ""])


def pages(entries: Mapping[str, Entry] = REGISTRY) -> dict[str, str]:
    """File name -> text of every page."""
    entries = dict(sorted(entries.items()))
    configs = {name: registry.named(entry.module).config for name, entry in entries.items()}
    found = {"index.md": index(entries, configs)}
    for name, entry in entries.items():
        found[f"{name}.md"] = page(name, entry)
    return found


def write(folder: Path, texts: Mapping[str, str]) -> None:
    """Write the pages that have changed, so that Sphinx reads those alone, and remove those of agents that are gone."""
    folder.mkdir(exist_ok=True)
    for path in list(folder.glob("*.md")):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", lambda app: write(DOCS / "agents", pages()))
    return {"parallel_read_safe": True}
