"""The README's picture: what several methods came to on several sets, with intervals, from the tracked rows alone.

    python -m benchmarks.headline

writes docs/headline.png and prints its numbers, which the PNG carries as text too, so that a test can tell whether the
picture is that of the rows. Nobody chooses what is shown: every set of the tables below on which two settings or more
have two seeds or more, and of it every such setting.

A score is 0 for a policy of random actions and 100 for an expert, as in all tables. In ICU-Sepsis, where values are
exact, 0 is the value of uniform actions, 100 the optimum, and the data's own that of the clinicians who are recorded.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import table
from rlkit.evaluation.evaluate import score
from rlkit.evaluation.figures import COLOURS, DASHES, GREY, LIGHT_GREY
from rlkit.evaluation.statistics import Estimate, estimate

TABLES = Path(__file__).parent / "tables"
PLAYED = ("pendulum", "baselines", "diffusion", "sequence", "discrete")  # tables of returns, in the picture's order
EXACT = "icu_sepsis_values.csv"
EXACT_SET = "icu-sepsis/clinician-v0"
# what the sets are, beside their names
ABOUT = {
    "pendulum/mixed-v0": "swing-up by a torque; data of poor controllers",
    "hopper/medium-v0": "MuJoCo, a leg that hops",
    "pen/expert-v0": "Adroit, a hand that turns a pen; expert data",
    "cartpole_v1.1.0.h5": "choices; mixed data",
    "cartpole_random_v1.1.0.h5": "choices; data of random actions",
    EXACT_SET: "choices; 5,000 patients, exact values",
}
KEY = "numbers"  # of the text in the PNG
LEAST = 2  # seeds of a setting, settings of a set
WIDTH = 8.0  # inches, shown at 100 pixels each


class Point(NamedTuple):
    """One setting of an agent on one set."""

    label: str
    agent: str
    seeds: tuple[float, ...]  # mean score of each
    score: Estimate


class Panel(NamedTuple):
    """One set: the score of its data, and what was trained on it."""

    dataset: str
    data: float
    points: tuple[Point, ...]


def panels() -> list[Panel]:
    """What the picture shows, from the tracked rows."""
    played = itertools.chain.from_iterable(measured(TABLES / f"{name}.toml") for name in PLAYED)
    exact = table.rows(TABLES / EXACT, ("policy", "seed", "greedy", "sampled", "configuration"))
    return [*from_returns(played), *from_values(exact)]


def measured(path: Path) -> Iterator[dict[str, str]]:
    """The finished rows beside the TOML file ``path`` whose command is still one of its cells, labelled as it says."""
    labels = {cell.command: cell.label for cell in table.cells(path)}
    for row in table.rows(path.with_suffix(".csv")):
        if row["command"] in labels and row["status"] == table.FINISHED and row["returns_last"]:
            yield row | {"label": labels[row["command"]]}


def from_returns(rows: Iterable[Mapping[str, str]]) -> list[Panel]:
    """The panels of rows that have the return of every episode."""
    by_set: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        by_set.setdefault(row["dataset"], []).append(row)
    found = []
    for dataset, here in by_set.items():
        references = (float(here[0]["random"]), float(here[0]["expert"]))
        settings: dict[tuple[str, str], list[Any]] = {}
        for row in here:
            returns = np.array(row["returns_last"].split(), np.float64)
            settings.setdefault((row["label"], row["agent"]), []).append(score(returns, references))
        data = float(score(np.float64(here[0]["data_return"]), references))
        found.append(_panel(dataset, data, settings))
    return [panel for panel in found if len(panel.points) >= LEAST]


def from_values(rows: Sequence[Mapping[str, str]]) -> list[Panel]:
    """The panel of exact values of greedy policies, [seeds, 1] of each setting."""
    known = {row["policy"]: float(row["sampled"]) for row in rows if not row["seed"] and row["sampled"]}
    references = (known["uniform"], known["optimal"])
    settings: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        if row["seed"]:
            label = row["policy"].replace("`", "")
            agent = label.partition(",")[0]
            value = np.array([float(row["greedy"])])
            settings.setdefault((label, agent), []).append(score(value, references))
    data = float(score(np.float64(known["clinicians"]), references))
    panel = _panel(EXACT_SET, data, settings)
    return [panel] if len(panel.points) >= LEAST else []


def _panel(dataset: str, data: float, settings: Mapping[tuple[str, str], Sequence[Any]]) -> Panel:
    points = []
    for (label, agent), scores in settings.items():
        if len(scores) >= LEAST:
            values = np.stack(scores)
            seeds = tuple(float(mean) for mean in values.mean(1))
            points.append(Point(label, agent, seeds, estimate(values)))
    return Panel(dataset, data, tuple(points))


def listing(shown: Sequence[Panel]) -> str:
    """The picture's numbers, a line for each set and each setting."""
    lines = []
    for panel in shown:
        lines.append(f"{panel.dataset}: data {panel.data:z.1f}")
        for point in panel.points:
            mean, low, high, _ = point.score
            lines.append(f"  {point.label}: {mean:z.1f} [{low:z.1f}, {high:z.1f}] ({len(point.seeds)})")
    return "\n".join(lines)


def draw(shown: Sequence[Panel]) -> Any:
    """The picture as a matplotlib Figure: a line for each setting, below the name of its set."""
    from matplotlib.figure import Figure

    count = sum(1.4 + len(panel.points) for panel in shown)
    figure = Figure(figsize=(WIDTH, 1.3 + 0.225 * count), dpi=200, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    agents = dict.fromkeys(point.agent for panel in shown for point in panel.points)
    colours = dict(zip(agents, itertools.cycle(COLOURS), strict=False))
    names: dict[float, str] = {}  # height -> what stands at the left of it
    titles = []
    height = 0.0
    for panel in shown:
        # --- the set, and the score of its data ---
        titles.append(height)
        names[height] = panel.dataset
        last = height - len(panel.points)
        mark = "the data's own score" if panel is shown[0] else None
        ends = (height - 0.45, last - 0.45)
        style = {"color": GREY, "linewidth": 1.8, "linestyle": (0, DASHES[1]), "zorder": 2}
        axes.plot([panel.data, panel.data], ends, label=mark, **style)

        # --- the settings ---
        for point in panel.points:
            height -= 1
            names[height] = f"{point.label} ({len(point.seeds)})"
            _draw_point(axes, point, height, colours[point.agent])
        height -= 1.4
    _decorate(axes, shown, names, titles)
    axes.plot([], [], "o", color=GREY, alpha=0.5, markersize=4, label="one seed")
    axes.plot([], [], "o", color=GREY, markersize=7, label="mean of the seeds, with its interval")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return figure


def _draw_point(axes: Any, point: Point, height: float, colour: str) -> None:
    mean, low, high, _ = point.score
    half = [[mean - low], [high - mean]]
    axes.plot(point.seeds, [height] * len(point.seeds), "o", color=colour, alpha=0.4, markersize=4, zorder=3)
    style = {"color": colour, "elinewidth": 2.2, "markersize": 7, "capsize": 3, "zorder": 4}
    axes.errorbar([mean], [height], xerr=half, fmt="o", **style)


def _decorate(axes: Any, shown: Sequence[Panel], names: Mapping[float, str], titles: Sequence[float]) -> None:
    axes.set_title("Scores after training on data alone: mean and 95 % interval", loc="left", fontsize=12, pad=10)
    axes.set_xlabel("normalised score of the last checkpoint (0: random actions, 100: expert)", fontsize=10)
    axes.set_yticks(list(names), list(names.values()), fontsize=10)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", color=GREY, labelsize=10)
    for tick, height in zip(axes.get_yticklabels(), names, strict=True):
        if height in titles:
            tick.set_fontweight("bold")
    for panel, height in zip(shown, titles, strict=True):
        place = (0.01, height)  # across the axes, and at the data's height
        about = ABOUT.get(panel.dataset, "")
        transform = axes.get_yaxis_transform()
        background = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # above the lines at 0 and 100
        axes.text(*place, about, transform=transform, va="center", fontsize=9, color=GREY, bbox=background)
    for level in (0, 100):
        axes.axvline(level, color=GREY, linewidth=0.8, zorder=1)
    axes.grid(axis="x", color=LIGHT_GREY, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_ylim(min(names) - 0.8, 0.8)
    axes.margins(x=0.03)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/headline.png"), help="the picture's file")
    options = parser.parse_args()
    shown = panels()
    numbers = listing(shown)
    draw(shown).savefig(options.out, format="png", metadata={KEY: numbers})
    print(numbers)


if __name__ == "__main__":
    main()
