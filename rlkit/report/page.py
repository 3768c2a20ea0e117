"""``rlkit report RUN ... --out page.html``: everything that runs tell of themselves, on one page that needs no network.

The page is one HTML file without scripts and without a reference to anything outside it. Its bytes follow from the runs
alone: they hold no clock reading.
"""

from __future__ import annotations

from pathlib import Path

from rlkit.report import markup, section_curves, section_data, section_making, section_scores
from rlkit.report.aggregates import aggregate
from rlkit.report.comparison import Comparison
from rlkit.report.markup import Section, escaped
from rlkit.runs import serialization

HOW_TO_READ = (
    "A return is the sum of an episode's rewards. A score is a return on a scale on which 0 is a policy of random "
    "actions and 100 an expert, where these are known.",
    "Every score is that of a greedy policy at its last checkpoint, or the mean over the evaluations after more than "
    "80 % of the updates (last fifth). No best checkpoint is chosen: that would take the environment.",
    "An interval in brackets is a 95 % t interval of the mean. It counts that other seeds and other starts would have "
    "given other returns; one marked * counts episodes alone, one marked ** seeds alone.",
    "Seeds that diverged count in no score; the notes say how many there were.",
)


def write(path: Path, comparison: Comparison) -> None:
    """Write the page of ``comparison`` to ``path``, at once or not at all. Raises OSError."""
    serialization.write_text(path, page(comparison))


def page(comparison: Comparison) -> str:
    """The page of several runs.

    Args:
        comparison: from rlkit.report.comparison.read.

    Returns:
        The text of an HTML file, the same for the same runs.

    Example:
        page(read([Path("runs/hopper"), Path("runs/hopper-bc")]))
    """
    return markup.document(_title(comparison), _summary(comparison), _sections(comparison))


def _sections(comparison: Comparison) -> list[Section]:
    panels = comparison.panels
    found = aggregate(comparison)
    labels = dict.fromkeys(entry.label for entry in comparison.entries)
    colours = {label: number for number, label in enumerate(labels)}  # the same throughout the page
    sections = [
        section_scores.of_datasets(comparison),
        section_scores.over_datasets(found, colours),
        section_curves.of_learning(panels, colours),
        section_curves.of_asked(panels),
        section_curves.of_sweeps(panels),
        section_curves.of_training(panels, colours),
        section_data.of_datasets(panels),
        section_making.of_differences(comparison),
        section_making.of_commands(comparison),
        section_making.of_notes(comparison, found.notes),
        Section("reading", "How to read the numbers", markup.listed(HOW_TO_READ)),
    ]
    return [section for section in sections if section is not None]


def _title(comparison: Comparison) -> str:
    agents = dict.fromkeys(entry.record.agent for entry in comparison.entries)
    datasets = [panel.name for panel in comparison.panels]
    return f"{_listed(list(agents))} on {_listed(datasets)}"


def _summary(comparison: Comparison) -> str:
    entries = comparison.entries
    folders = sum(len(entry.folders) for entry in entries)
    seeds = sum(entry.seeds for entry in entries)
    words = f"{_count(folders, 'run')} with {_count(seeds, 'seed')} in all, by rlkit report"
    return f'<p class="soft">{escaped(words)}</p>'


def _listed(names: list[str], most: int = 3) -> str:
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
