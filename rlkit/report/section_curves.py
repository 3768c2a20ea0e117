"""The page's curves: scores over the updates, over what was asked for, over a setting, and losses and Q."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rlkit.evaluation.evaluate import score
from rlkit.evaluation.statistics import estimate, half_width
from rlkit.report import drawings, markup
from rlkit.report.comparison import Entry, Panel
from rlkit.report.drawings import Level, Line
from rlkit.report.markup import Section
from rlkit.report.settings import OF_CONFIG, differences, is_of_method, settings
from rlkit.runs.record import Record
from rlkit.runs.scores import label_of

MOST_POINTS = 150  # of a metric's line; of more, as many evenly spaced ones
SMALL = (300.0, 190.0)  # view box of a metric
BAND = (
    "Thick: the mean over seeds and starts. Band: its 95 % interval, which counts that other seeds and other starts "
    "would have given another mean; none is drawn for a single seed. Thin: each seed. A band that meets the edge of "
    "its panel goes on beyond it."
)
BEYOND = "One that meets the edge of the panel goes on beyond it."


# --- over the updates ---


def of_learning(panels: Sequence[Panel], colours: Mapping[str, int]) -> Section | None:
    """Learning curves, a panel for each dataset: scores where every run has reference returns, else returns. colours:
    numbers by method; the further goals of a method have colours of their own."""
    of_lines = dict(colours)
    figures = []
    for number, panel in enumerate(panels):
        series = [line for entry in panel.entries for line in _learning_curves(panel, entry, of_lines)]
        if not series:
            continue
        levels = _data_levels(panel)
        what = _ylabel(panel)
        drawing = drawings.lines(
            f"curve-{number}",
            series,
            title=f"{panel.name}: {what} over the updates",
            description="; ".join(_ends(line) for line in series),
            xlabel="updates",
            ylabel=what,
            levels=levels,
        )
        figures.append(markup.figure(panel.name, drawing, drawings.legend(series, levels)))
    if not figures:
        return None
    return Section("curves", "Learning curves", markup.paragraph(BAND) + markup.grid(figures))


def _learning_curves(panel: Panel, entry: Entry, colours: dict[str, int]) -> list[Line]:
    """A line for each goal."""
    series = []
    for goal, evaluated in entry.by_goal.items():
        first = evaluated[0].position
        earlier = first.updates - first.step  # of stages that were not evaluated
        steps = [one.position.updates - earlier for one in evaluated]
        values = [_scaled(panel, entry.record, one.returns) for one in evaluated]
        seeds = len(values[-1])
        means = [float(one.mean()) for one in values]
        low = high = None
        threads = ()
        if seeds > 1:
            halves = [float(half_width(one)) for one in values]
            low = [mean - half for mean, half in zip(means, halves, strict=True)]
            high = [mean + half for mean, half in zip(means, halves, strict=True)]
            threads = np.array([one.mean(1) for one in values]).T.tolist()
        name = label_of(entry.label, goal)
        label = f"{name} ({seeds} seed{'s' if seeds > 1 else ''})"
        switch = _switch(entry.record, earlier)
        if switch is not None:
            label = f"{label}, online from {switch:,}"
        is_score = goal == next(iter(entry.by_goal))
        colour = colours.setdefault(entry.label if is_score else name, len(colours))
        series.append(Line(label, steps, means, low, high, threads, switch, colour))
    return series


def _switch(record: Record, earlier: int) -> int | None:
    """Updates after which the run went online."""
    if record.online_from is None:
        return None
    return sum(updates for _, updates in record.stages[: record.online_from]) - earlier


def _ends(line: Line) -> str:
    """What a curve comes to, in words."""
    known = [value for value in line.y if math.isfinite(value)]  # a seed may have recovered from returns that were not
    if not known:
        return f"{line.label}: not known"
    text = f"{line.label}: from {known[0]:.1f} to {known[-1]:.1f} after {line.x[-1]:,} updates"
    if line.low is None or not math.isfinite(line.low[-1]):
        return text
    return f"{text} [{line.low[-1]:.1f}, {line.high[-1]:.1f}]"


def _data_levels(panel: Panel) -> list[Level]:
    """The mean return of the data, or its score; none where it is not known."""
    levels = []
    for name, record in panel.data.items():
        returns = np.array(record.data.mean_return.value)
        value = float(_scaled(panel, record, returns))
        if math.isfinite(value):
            levels.append(Level(f"{name} ({value:.1f})", value))
    return levels


def _scaled(panel: Panel, record: Record, returns: np.ndarray) -> np.ndarray:
    """Returns of the run ``record`` as the panel shows them."""
    reference = record.reference
    if reference is None or not _is_scored(panel):
        return np.asarray(returns, np.float64)
    return score(returns, (reference.random, reference.expert))


def _is_scored(panel: Panel) -> bool:
    return all(entry.record.reference is not None for entry in panel.entries)


def _ylabel(panel: Panel) -> str:
    return "normalised score" if _is_scored(panel) else "return"


# --- over what was asked for ---


def of_asked(panels: Sequence[Panel]) -> Section | None:
    """What came of each return that a run was asked for, where there were several."""
    figures = []
    for number, panel in enumerate(panels):
        series = [line for entry in panel.entries for line in _asked(entry)]
        if not series:
            continue
        targets = sorted({target for line in series for target in line.x})
        ends = [targets[0], targets[-1]]
        drawn = [*series, Line("as asked", ends, ends)]
        drawing = drawings.lines(
            f"asked-{number}",
            drawn,
            title=f"{panel.name}: return over the return asked for",
            description="; ".join(_points(line) for line in series),
            xlabel="return asked for",
            ylabel="return",
            marks=True,
        )
        legend = drawings.legend(drawn)
        words = f"Dots: means of the last evaluation; thin lines: each seed. Upright lines: 95 % intervals. {BEYOND}"
        figures.append(markup.figure(panel.name, drawing, legend, words))
    if not figures:
        return None
    return Section("asked", "Returns asked for and returns that came", markup.grid(figures))


def _asked(entry: Entry) -> list[Line]:
    by_target = {}
    for goal, evaluated in entry.by_goal.items():
        try:
            by_target[float(goal)] = np.asarray(evaluated[-1].returns, np.float64)
        except ValueError:  # a goal that is no return
            continue
    if len(by_target) < 2:
        return []
    targets = sorted(by_target)
    found = [estimate(by_target[target]) for target in targets]
    threads = ()
    if len(by_target[targets[0]]) > 1:
        threads = np.array([by_target[target].mean(1) for target in targets]).T.tolist()
    means, low, high = zip(*(one[:3] for one in found), strict=True)
    return [Line(entry.label, targets, means, low, high, threads)]


def _points(line: Line) -> str:
    pairs = [f"{mean} for {place:g}" for place, mean in zip(line.x, _with_intervals(line), strict=True)]
    return f"{line.label}: {', '.join(pairs)}"


def _with_intervals(line: Line) -> Iterator[str]:
    """The mean of each point with its interval, where it has one."""
    for mean, low, high in zip(line.y, line.low, line.high, strict=True):
        yield f"{mean:.1f} [{low:.1f}, {high:.1f}]" if math.isfinite(low) else f"{mean:.1f}"


# --- over the values of a setting ---


def of_sweeps(panels: Sequence[Panel]) -> Section | None:
    """Scores over a setting of an agent, of whose other settings each combination has a line."""
    figures = []
    for number, panel in enumerate(panels):
        by_agent: dict[str, list[Entry]] = {}
        for entry in panel.entries:
            if entry.by_goal:
                by_agent.setdefault(entry.record.agent, []).append(entry)
        for place, (agent, entries) in enumerate(by_agent.items()):
            figures += _sweep(f"sweep-{number}-{place}", panel, agent, entries)
    if not figures:
        return None
    return Section("settings", "Scores over a setting", markup.grid(figures))


def _sweep(name: str, panel: Panel, agent: str, entries: Sequence[Entry]) -> list[str]:
    told = [settings(entry.record) for entry in entries]
    swept = _swept(told)
    if not swept:
        return []
    setting, *others = swept
    values = _in_order({one[setting] for one in told})
    places, is_logarithmic = _places(values)
    # --- a line for each combination of the other settings ---
    by_others: dict[str, dict[str, Entry]] = {}
    for one, entry in zip(told, entries, strict=True):
        label = ", ".join(f"{other.removeprefix(OF_CONFIG)} {one[other]}" for other in others)
        by_others.setdefault(label, {})[one[setting]] = entry
    series = []
    for label, found in by_others.items():
        here = [value for value in values if value in found]
        estimates = [estimate(_last_scores(panel, found[value])) for value in here]
        means, low, high = zip(*(one[:3] for one in estimates), strict=True)
        series.append(Line(label or agent, [places[value] for value in here], means, low, high))
    title = setting.removeprefix(OF_CONFIG)
    what = _ylabel(panel)
    levels = _data_levels(panel)
    drawing = drawings.lines(
        name,
        series,
        title=f"{panel.name}, {agent}: {what} over {title}",
        description="; ".join(f"{line.label}: {_over(line, values, places)}" for line in series),
        xlabel=title,
        ylabel=what,
        levels=levels,
        xticks=[(places[value], markup.short(value, 12)) for value in values],
        is_logarithmic=is_logarithmic,
        marks=True,
    )
    legend = drawings.legend(series, levels)
    words = f"The last evaluation at each value of {title}. Upright lines: 95 % intervals. {BEYOND}"
    return [markup.figure(f"{agent} on {panel.name}", drawing, legend, words)]


def _swept(told: Sequence[Mapping[str, str]]) -> list[str]:
    """The settings in which runs of one agent differ, that with the most values first; none where another thing
    differs too, or nothing does."""
    differing = {name: values for name, values in differences(told).items() if is_of_method(name)}
    if any(not name.startswith(OF_CONFIG) or "" in values for name, values in differing.items()):
        return []
    of_each = set(zip(*differing.values(), strict=True))
    if len(of_each) < len(told):  # two runs with the same settings differ in something else
        return []
    return sorted(differing, key=lambda name: -len(set(differing[name])))


def _in_order(values: set[str]) -> list[str]:
    """Numbers by their size, words by their letters."""
    try:
        return sorted(values, key=float)
    except ValueError:
        return sorted(values)


def _places(values: Sequence[str]) -> tuple[dict[str, float], bool]:
    """Where each value stands, and whether the axis is logarithmic: as rlkit.evaluation.figures has it."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if not numbers or not np.isfinite(numbers).all():
        return {value: 1.0 + number for number, value in enumerate(values)}, False
    is_logarithmic = min(numbers) > 0 and max(numbers) >= 10 * min(numbers)
    return dict(zip(values, numbers, strict=True)), is_logarithmic


def _last_scores(panel: Panel, entry: Entry) -> np.ndarray:
    evaluated = next(iter(entry.by_goal.values()))
    return _scaled(panel, entry.record, evaluated[-1].returns)


def _over(line: Line, values: Sequence[str], places: dict[str, float]) -> str:
    by_place = {places[value]: value for value in values}
    told = zip(line.x, _with_intervals(line), strict=True)
    return ", ".join(f"{mean} at {by_place[place]}" for place, mean in told)


# --- losses and Q ---


def of_training(panels: Sequence[Panel], colours: Mapping[str, int]) -> Section | None:
    """Every logged metric over the updates in a small panel, losses and Q first."""
    parts = []
    for number, panel in enumerate(panels):
        names = sorted({name for entry in panel.entries for _, logged in entry.metrics for name in logged}, key=_rank)
        if not names:
            continue
        if len(panels) > 1:
            parts.append(markup.heading(panel.name))
        figures = []
        for place, name in enumerate(names):
            figures += _metric(f"metric-{number}-{place}", panel, name, colours)
        keys = [Line(entry.label, (), (), colour=colours[entry.label]) for entry in panel.entries]
        parts += [drawings.legend(keys), markup.grid(figures, "small")]
    if not parts:
        return None
    words = (
        "What training logged. Line: the mean over the seeds that had not diverged by then; band: from the lowest to "
        "the highest seed. A loss that falls says nothing about the return; a Q that grows without end does."
    )
    return Section("training", "Losses and Q", markup.paragraph(words) + "".join(parts))


def _rank(name: str) -> tuple[int, str]:
    quantity = name.rpartition("/")[2]
    return (0 if quantity == "loss" else 1 if quantity.startswith("q") else 2), name


def _metric(figure: str, panel: Panel, name: str, colours: Mapping[str, int]) -> list[str]:
    series = [line for entry in panel.entries for line in _logged(entry, name, colours[entry.label])]
    if not any(math.isfinite(value) for line in series for value in line.y):
        return []
    drawing = drawings.lines(
        figure,
        series,
        title=f"{panel.name}: {name} over the updates",
        description="; ".join(_last_logged(line) for line in series),
        xlabel="updates of all stages",
        ylabel="",
        size=SMALL,
    )
    return [markup.figure(name, drawing)]


def _last_logged(line: Line) -> str:
    if not math.isfinite(line.y[-1]):
        return f"{line.label}: not a number at the end"
    return f"{line.label}: {line.y[-1]:.4g} at the end"


def _logged(entry: Entry, name: str, colour: int) -> list[Line]:
    rows = [(position.updates, logged[name]) for position, logged in entry.metrics if name in logged]
    if not rows:
        return []
    kept = np.unique(np.linspace(0, len(rows) - 1, MOST_POINTS).astype(int))
    updates = [rows[place][0] for place in kept]
    values = np.array([rows[place][1] for place in kept], np.float64)  # [K, S]
    values[~np.isfinite(values)] = np.nan
    sound = np.isfinite(values)
    count = sound.sum(1)
    total = np.where(sound, values, 0.0).sum(1)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    low = high = None
    if values.shape[1] > 1:
        low = np.where(count > 0, np.where(sound, values, np.inf).min(1), np.nan).tolist()
        high = np.where(count > 0, np.where(sound, values, -np.inf).max(1), np.nan).tolist()
    return [Line(entry.label, updates, mean.tolist(), low, high, colour=colour)]
