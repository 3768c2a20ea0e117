"""The page's scores: a table for each dataset, and what the methods come to over all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rlkit.evaluation import tables
from rlkit.evaluation.statistics import Estimate
from rlkit.evaluation.tables import Row
from rlkit.report import drawings, markup
from rlkit.report.aggregates import Aggregates, Method
from rlkit.report.comparison import Comparison
from rlkit.report.drawings import Interval, Line
from rlkit.report.markup import Html, Section, escaped
from rlkit.report.rows import lines
from rlkit.runs.scores import heading

MOST_PAIRS = 12  # that are drawn; the table has them all


def of_datasets(comparison: Comparison) -> Section:
    """The table of every dataset, the data first, and a drawing of it."""
    by_dataset: dict[str, list[Row]] = {}
    for line in lines(comparison):
        by_dataset.setdefault(line.dataset, []).append(line.row)
    parts = []
    for number, panel in enumerate(comparison.panels):
        if len(comparison.panels) > 1:
            parts.append(markup.heading(panel.name))
        rows = by_dataset[panel.name]
        parts.append(markup.paragraph(heading(panel.record)))
        parts.append(_table(panel.name, rows))
        parts.append(_drawing(f"scores-{number}", panel.name, rows))
    return Section("scores", "Scores", "".join(parts))


def _table(name: str, rows: Sequence[Row]) -> Html:
    header, *cells = zip(*tables.filled_columns(rows), strict=True)
    cells = [[name, *map(folded, numbers)] for name, *numbers in cells]
    return markup.table(header, cells, caption=f"{name}: {tables.note(rows)}", kind="numbers")


def folded(cell: str) -> Html:
    """A cell of a table, whose interval may stand below its mean but is never broken itself."""
    mean, bracket, interval = cell.partition(" [")
    if not bracket:
        return Html(f'<span class="mean">{escaped(mean)}</span>' if mean else "")
    return Html(f'<span class="mean">{escaped(mean)}</span> <span class="interval">[{escaped(interval)}</span>')


def _drawing(name: str, dataset: str, rows: Sequence[Row]) -> str:
    """Scores of the last checkpoint, or returns where no run has scores."""
    is_scored = any(row.score is not None for row in rows)
    items = []
    for row in rows:
        estimate = row.score if is_scored else row.returns
        if estimate is not None and math.isfinite(estimate.value):
            items.append(Interval(row.method, estimate.value, estimate.low, estimate.high))
    if len(items) < 2:
        return ""
    what = "normalised score" if is_scored else "return"
    drawing = drawings.intervals(
        name,
        items,
        title=f"{dataset}: {what} of the last checkpoint",
        description=_in_words([(item.label, Estimate(item.value, item.low, item.high, "seeds")) for item in items]),
        xlabel=f"{what}, last checkpoint",
    )
    title = f"The {what}s of the table"
    return markup.figure(title, drawing, words="Dot: the mean; line: its 95 % interval.")


def over_datasets(found: Aggregates, colours: Mapping[str, int]) -> Section | None:
    """The interquartile means, performance profiles and probabilities of improvement, where they say something: of
    several methods, or over several datasets. colours: numbers by method."""
    if len(found.methods) < 2 and len(found.datasets) < 2 and not found.improvement:
        return None
    parts = []
    seed_notes = Html("".join(map(markup.paragraph, found.seed_notes)))
    if found.methods:
        names = ", ".join(found.datasets)
        parts.append(markup.paragraph(f"Over the scores on {names}; a run counts as the mean over its episodes."))
        parts.append(markup.heading("Interquartile mean"))
        parts.append(_interquartile_means(found.methods))
        parts.append(seed_notes)
        parts.append(markup.heading("Performance profile"))
        parts.append(_profiles(found.methods, colours))
    pairs = _pairs(found)
    if pairs:
        parts.append(markup.heading("Probability of improvement"))
        parts.append(_improvement(pairs))
        parts.append(seed_notes)
    if not parts:
        return None
    title = "Over all datasets" if len(found.datasets) > 1 else "Methods compared"
    return Section("aggregates", title, "".join(parts))


def _interquartile_means(methods: Sequence[Method]) -> Html:
    means = [(method.label, method.interquartile_mean) for method in methods]
    rows = [(label, folded(_number(estimate))) for label, estimate in means]
    drawing = drawings.intervals(
        "iqm",
        [Interval(label, *estimate[:3]) for label, estimate in means],
        title="Interquartile mean of the scores of each method",
        description=_in_words(means),
        xlabel="interquartile mean of the scores",
    )
    caption = (
        "The mean of the middle half of the runs' scores: the lowest and the highest quarter are left out, so that one "
        "lucky seed moves it little. Line: 95 % interval, a stratified bootstrap over the runs (Agarwal et al. 2021)."
    )
    table = markup.table(
        ["method", "IQM of the scores"], rows, caption="Interquartile means with their intervals", kind="numbers"
    )
    return markup.grid([table, markup.figure("The means of the table", drawing, words=caption)])


def _profiles(methods: Sequence[Method], colours: Mapping[str, int]) -> Html:
    series = []
    words = []
    for method in methods:
        profile = method.profile
        band = (profile.low, profile.high)
        colour = colours[method.label]
        series.append(Line(method.label, profile.thresholds, profile.share, *band, colour=colour))
        middle = len(profile.thresholds) // 2
        share, threshold = profile.share[middle], profile.thresholds[middle]
        words.append(f"{method.label}: {100 * share:.0f} % of its runs score above {threshold:.1f}")
    drawing = drawings.lines(
        "profile",
        series,
        title="Performance profiles",
        description="; ".join(words),
        xlabel="score",
        ylabel="share of runs above it",
        limits=(0.0, 1.0),
    )
    caption = (
        "For each score the share of a method's runs that are above it: a curve that lies higher everywhere is a "
        "method that is better throughout. Band: pointwise 95 % interval, where there are several seeds."
    )
    return markup.figure("Share of the runs above each score", drawing, drawings.legend(series), caption)


class _Pair(NamedTuple):
    """The first of two methods and the second, compared."""

    label: str
    estimate: Estimate
    datasets: str  # that both were evaluated on


def _pairs(found: Aggregates) -> list[_Pair]:
    """Each two methods once, that with the higher chance first."""
    pairs = []
    for (one, other), estimate in found.improvement.items():
        back = found.improvement.get((other, one))
        is_first = back is None or estimate.value > back.value or (estimate.value == back.value and one < other)
        if not is_first:
            continue
        shared = [name for name in found.seeds[one] if name in found.seeds[other]]
        is_single = all(found.seeds[one][name] == found.seeds[other][name] == 1 for name in shared)
        label = f"{one} above {other}{' (1 seed each)' if is_single else ''}"
        pairs.append(_Pair(label, estimate, ", ".join(shared)))
    return pairs


def _improvement(pairs: Sequence[_Pair]) -> Html:
    """Where all pairs are of the same datasets the caption names them, else a column does."""
    estimates = [(pair.label, pair.estimate) for pair in pairs]
    header = ["pair", "probability"]
    rows: list[tuple[str, ...]] = [(label, folded(_number(estimate, 2))) for label, estimate in estimates]
    title = "Each two methods, the likelier one first"
    if len({pair.datasets for pair in pairs}) == 1:
        title = f"{title}, on {pairs[0].datasets}"
    else:
        header.append("datasets of both")
        rows = [(*row, pair.datasets) for row, pair in zip(rows, pairs, strict=True)]
    table = markup.table(header, rows, caption=title, kind="numbers")
    caption = (
        "How probable it is that a run of the first method has a higher return than one of the second on a dataset "
        "drawn at random; 0.5 (dashed) is a tie. Line: 95 % interval, a stratified bootstrap over the runs."
    )
    if len(pairs) > MOST_PAIRS:
        return Html(table + markup.paragraph(caption))
    drawing = drawings.intervals(
        "improvement",
        [Interval(label, *estimate[:3]) for label, estimate in estimates],
        title="Probability of improvement of each two methods",
        description=_in_words(estimates, 2),
        xlabel="probability",
        middle=0.5,
        limits=(0.0, 1.0),
    )
    return markup.grid([table, markup.figure("The probabilities of the table", drawing, words=caption)])


def _in_words(estimates: Sequence[tuple[str, Estimate]], digits: int = 1) -> str:
    return "; ".join(f"{label}: {_number(estimate, digits)}" for label, estimate in estimates)


def _number(estimate: Estimate, digits: int = 1) -> str:
    if not math.isfinite(estimate.value):
        return "not known"
    if not math.isfinite(estimate.low):
        return f"{estimate.value:.{digits}f}"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
