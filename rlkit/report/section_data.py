"""The page's dataset cards: what each dataset looks like, by what the runs recorded of it. No dataset is opened."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlkit.datasets import Normaliser
from rlkit.datasets.card import INNER, MOST_COLUMNS, Card, Middle
from rlkit.report import drawings, markup
from rlkit.report.comparison import Panel
from rlkit.report.drawings import Bars, Range
from rlkit.report.markup import Section
from rlkit.runs.record import DataRecord, Record

MIDDLE = f"Thin: from the least to the largest number; thick: from {INNER[0]} to {INNER[1]} % of the steps."


def of_datasets(panels: Sequence[Panel]) -> Section:
    """A card for each dataset, and where one name stands for several sets of rows, for each of these."""
    parts = []
    cards = []
    for panel in panels:
        is_alone = len(panel.data) == 1
        cards += [(panel.name if is_alone else f"{panel.name}, {name}", record) for name, record in panel.data.items()]
    for number, (name, record) in enumerate(cards):
        parts.append(markup.heading(name))
        parts.append(markup.facts(_facts(record)))
        parts.append(markup.grid(_figures(f"data-{number}", name, record)))
        sentences = [*record.data.warnings, *record.data.notes]
        if sentences:
            parts.append(markup.paragraph("What was noticed when the data were read:"))
            parts.append(markup.listed(sentences))
    return Section("data", "Datasets", "".join(parts))


def _facts(record: Record) -> list[tuple[str, str]]:
    data = record.data
    mean = data.mean_return
    entries = [
        ("episodes", f"{data.episodes:,}"),
        ("steps that can be drawn", f"{data.steps:,}"),
        ("mean return", _estimate(mean.value, mean.low, mean.high)),
    ]
    returns = _raw_returns(record)
    if returns is not None:
        entries.append(("returns, least to largest", f"{returns[0]:.4g} to {returns[1]:.4g}"))
    card = data.card
    if card is not None:
        entries += _ends(card)
    entries.append(("observations", _space(data.observation_space)))
    entries.append(("actions", _space(data.action_space)))
    if card is not None and card.on_bounds is not None:
        share = card.on_bounds / max(card.steps, 1)
        entries.append(("steps with an action on a bound", f"{card.on_bounds:,} ({share:.1%})"))
    if card is not None and card.choices:
        taken = sum(count > 0 for count in card.choices)
        entries.append(("choices that were taken", f"{taken} of {len(card.choices)}"))
    entries.append(("fingerprint", data.fingerprint[:12]))
    return entries


def _ends(card: Card) -> list[tuple[str, str]]:
    """How episodes end."""
    terminal, cut = sum(card.terminal_lengths.counts), sum(card.cut_lengths.counts)
    entries = [("ended by a terminal state", f"{terminal:,}"), ("cut short", f"{cut:,}")]
    if card.unflagged_ends:
        entries.append(("of them without a flag at the end", f"{card.unflagged_ends:,}"))
    return entries


def _raw_returns(record: Record) -> tuple[float, float] | None:
    """Least and largest return of an episode, in the environment's units; None where they do not follow from what
    agents see."""
    spec = record.spec
    returns = record.stats.get("returns")
    if returns is None or spec.reward_shift or not spec.reward_scale:
        return None
    ends = sorted((returns[0] / spec.reward_scale, returns[2] / spec.reward_scale))
    return ends[0], ends[1]


def _estimate(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return "not known"
    if not math.isfinite(low):
        return f"{value:.1f}"
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _space(form: Mapping[str, Any]) -> str:
    """A space in Minari's JSON form, in words."""
    kind = form.get("type")
    if kind == "Box" and isinstance(form.get("shape"), list):
        shape = " x ".join(map(str, form["shape"])) or "1"
        return f"amounts, {shape}"
    if kind == "Discrete":
        return f"{form.get('n')} choices"
    return str(kind)


# --- drawings ---


def _figures(name: str, dataset: str, record: Record) -> list[str]:
    card = record.data.card
    figures = []
    if card is not None:
        if card.returns is not None and card.returns.is_whole:
            figures.append(_returns(f"{name}-returns", dataset, card))
        if card.terminal_lengths.is_whole and len(card.cut_lengths.counts) == len(card.terminal_lengths.counts):
            figures.append(_lengths(f"{name}-lengths", dataset, card))
    figures += _observations(f"{name}-observations", dataset, record)
    if card is not None:
        figures += _actions(f"{name}-actions", dataset, record.data, card)
    return figures


def _returns(name: str, dataset: str, card: Card) -> str:
    edges, counts = card.returns
    low, high = card.returns.ends
    drawing = drawings.histogram(
        name,
        edges,
        [Bars("episodes", counts)],
        title=f"{dataset}: returns of the episodes",
        description=f"{sum(counts):,} episodes with returns from {low:.4g} to {high:.4g}",
        xlabel="return",
        ylabel="episodes",
    )
    return markup.figure("Returns of the episodes", drawing)


def _lengths(name: str, dataset: str, card: Card) -> str:
    terminal, cut = card.terminal_lengths, card.cut_lengths
    stacks = [
        Bars(f"ended by a terminal state ({sum(terminal.counts):,})", terminal.counts),
        Bars(f"cut short ({sum(cut.counts):,})", cut.counts),
    ]
    labels = [bars.label for bars in stacks]
    low, high = terminal.ends
    drawing = drawings.histogram(
        name,
        terminal.edges,
        stacks,
        title=f"{dataset}: lengths of the episodes",
        description=f"{'; '.join(labels)}; from {low:.4g} to {high:.4g} steps",
        xlabel="steps",
        ylabel="episodes",
        is_whole=True,
    )
    return markup.figure("Lengths of the episodes", drawing, drawings.legend(stacks))


def _observations(name: str, dataset: str, record: Record) -> list[str]:
    low, high = record.stats.get("obs_low"), record.stats.get("obs_high")
    if low is None or high is None:
        return []
    normaliser = Normaliser.from_json(record.normaliser)
    if not len(low) == len(high) == len(normaliser.obs_mean) == len(normaliser.obs_scale):
        return []
    least = np.asarray(low) * normaliser.obs_scale + normaliser.obs_mean
    largest = np.asarray(high) * normaliser.obs_scale + normaliser.obs_mean
    middle = record.data.card.observation_middle if record.data.card is not None else None
    columns = _columns(record.data.names.observation, least.tolist(), largest.tolist(), middle)
    return _ranges(name, columns, f"{dataset}: ranges of the observations", "Ranges of the observations", len(low))


def _actions(name: str, dataset: str, data: DataRecord, card: Card) -> list[str]:
    if card.choices:
        return [_choices(name, dataset, card)]
    low, high = card.action_low, card.action_high
    bounds = _bounds(data.action_space, len(low))
    columns = _columns(data.names.action, low, high, card.action_middle, bounds)
    return _ranges(name, columns, f"{dataset}: ranges of the actions", "Ranges of the actions", len(low))


def _choices(name: str, dataset: str, card: Card) -> str:
    edges = [number - 0.5 for number in range(len(card.choices) + 1)]
    drawing = drawings.histogram(
        name,
        edges,
        [Bars("steps", card.choices)],
        title=f"{dataset}: choices that were taken",
        description="; ".join(f"{number}: {count:,} steps" for number, count in enumerate(card.choices)),
        xlabel="choice, counted from 0",
        ylabel="steps",
        is_whole=True,
    )
    return markup.figure("How often each choice was taken", drawing)


def _columns(
    names: Sequence[str],
    low: Sequence[float],
    high: Sequence[float],
    middle: Middle | None,
    bounds: Sequence[tuple[float, float]] = (),
) -> list[Range]:
    number_drawn = min(len(low), len(high), MOST_COLUMNS)
    if middle is not None and not len(middle.low) == len(middle.high) == number_drawn:
        middle = None
    columns = []
    for number in range(number_drawn):
        inner = (middle.low[number], middle.high[number]) if middle is not None else None
        label = names[number] if number < len(names) else str(number)
        columns.append(Range(label, low[number], high[number], inner, bounds[number] if bounds else None))
    return columns


def _bounds(space: Mapping[str, Any], number: int) -> list[tuple[float, float]]:
    """Of each column of actions; none where the space does not tell."""
    try:
        low = np.asarray(space["low"], float).ravel().tolist()
        high = np.asarray(space["high"], float).ravel().tolist()
    except (KeyError, TypeError, ValueError):
        return []
    if len(low) < number or len(high) < number:
        return []
    return list(zip(low, high, strict=True))


def _ranges(name: str, columns: Sequence[Range], title: str, caption: str, number: int) -> list[str]:
    if not columns:
        return []
    description = "; ".join(f"{column.label}: {column.low:.4g} to {column.high:.4g}" for column in columns)
    drawing = drawings.ranges(name, columns, title=title, description=description, xlabel="value")
    shown = f" (the first {len(columns)} of {number})" if number > len(columns) else ""
    marks = " Upright marks: the bounds." if any(column.bounds for column in columns) else ""
    words = MIDDLE if columns[0].inner is not None else "From the least to the largest number."
    return [markup.figure(f"{caption}{shown}", drawing, words=f"{words}{marks}")]
