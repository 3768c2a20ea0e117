"""``rlkit data list|show|check``: what datasets there are, what is in one, and whether it is sound."""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.table import Table

from rlkit.commands import Catalog, collect
from rlkit.commands.options import DataCheck, DataList, DataShow
from rlkit.datasets import DataOptions, Episodes, available, summary
from rlkit.datasets.episodes import Names

QUANTILES = (0, 5, 25, 50, 75, 95, 100)  # per cent
BINS = 10
LONGEST_BAR = 40  # characters


def run(options: DataList | DataShow | DataCheck, catalog: Catalog) -> int:
    """Print what is asked for. Raises InputError if the dataset cannot be read or is not sound."""
    console = Console(highlight=False, soft_wrap=True)
    if isinstance(options, DataList):
        console.print(_listing(options, catalog))
        return 0
    is_check = isinstance(options, DataCheck)  # which looks at times beside the observations too
    episodes = collect.load(options, catalog, infos=is_check, use_cache=not is_check)
    console.print(f"{episodes.name} ({episodes.fingerprint[:12]})")
    if isinstance(options, DataShow):
        console.print(_spaces(episodes))
    console.print(_report(episodes))
    for warning in episodes.report.warnings:
        console.print(f"{warning.kind}: {warning.sentence}", markup=False)
    if isinstance(options, DataShow):
        console.print(_returns(episodes))
    return 0


def _listing(options: DataList, catalog: Catalog) -> Table:
    table = Table("dataset", "episodes", "steps", "folder")
    searched = DataOptions("", data_root=options.data_root)
    for name, episodes, steps, folder in available(searched, [catalog.datasets]):
        table.add_row(
            name,
            f"{episodes:,}",
            f"{steps:,}",
            str(folder),
        )
    return table


def _spaces(episodes: Episodes) -> Table:
    table = Table.grid(padding=(0, 2))
    environment = episodes.env_spec or "not named; --env names one"
    reference = "not named"
    if episodes.reference is not None:
        low, high = episodes.reference
        reference = f"random {low:g}, expert {high:g}"
    table.add_row("observation", str(episodes.observation_space))
    table.add_row("action", str(episodes.action_space))
    if episodes.names != Names():
        table.add_row("observation columns", ", ".join(episodes.names.observation) or "not named")
        table.add_row("action columns", ", ".join(episodes.names.action) or "not named")
    table.add_row("environment", environment)
    table.add_row("reference returns", reference)
    return table


def _report(episodes: Episodes) -> Table:
    table = Table("rows", "", title="validation", title_justify="left")
    for name, value in summary(episodes.report):
        table.add_row(name, str(value))
    return table


def _returns(episodes: Episodes) -> Table:
    """Quantiles and a histogram of the episodes' returns."""
    returns = episodes.returns()
    table = Table("return", "", title="returns of the episodes", title_justify="left")
    if not returns.size:
        table.add_row("mean", "not known: no episode has all of its rewards")
        return table
    table.add_row("mean", f"{returns.mean():.2f}")

    # --- quantiles ---
    values = np.percentile(returns, QUANTILES)
    for percent, value in zip(QUANTILES, values, strict=True):
        table.add_row(f"{percent} %", f"{value:.2f}")

    # --- histogram ---
    counts, edges = np.histogram(returns, BINS)
    most = counts.max()
    for number, count in enumerate(counts):
        low = edges[number]
        high = edges[number + 1]
        bar = "#" * round(LONGEST_BAR * count / most)
        table.add_row(f"{low:.1f} to {high:.1f}", f"{bar} {count}")
    return table
