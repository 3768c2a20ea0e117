"""``rlkit data list|show|check``: what datasets there are, what is in one, and whether it is sound."""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.table import Table

from rlkit.commands import World
from rlkit.commands.options import DataCheck, DataList, DataShow
from rlkit.datasets import DataOptions, Episodes, available, load, summary

QUANTILES = (0, 5, 25, 50, 75, 95, 100)  # per cent
BINS = 10


def run(options: DataList | DataShow | DataCheck, world: World) -> int:
    """Print what is asked for. Raises InputError if the dataset cannot be read or is not sound."""
    console = Console(highlight=False, soft_wrap=True)
    if isinstance(options, DataList):
        console.print(_listing(options, world))
        return 0
    episodes = load(options, roots=[world.datasets], use_cache=not isinstance(options, DataCheck))
    console.print(f"{episodes.name} ({episodes.fingerprint[:12]})")
    if isinstance(options, DataShow):
        console.print(_spaces(episodes))
    console.print(_report(episodes))
    if isinstance(options, DataShow):
        console.print(_returns(episodes))
    return 0


def _listing(options: DataList, world: World) -> Table:
    table = Table("dataset", "episodes", "steps", "folder")
    for name, episodes, steps, folder in available(DataOptions("", data_root=options.data_root), [world.datasets]):
        table.add_row(name, f"{episodes:,}", f"{steps:,}", str(folder))
    return table


def _spaces(episodes: Episodes) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("observation", str(episodes.observation_space))
    table.add_row("action", str(episodes.action_space))
    table.add_row("environment", episodes.env_spec or "not named; --env names one")
    reference = "not named" if episodes.reference is None else "random {:g}, expert {:g}".format(*episodes.reference)
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
    table.add_row("mean", f"{returns.mean():.2f}")
    for percent, value in zip(QUANTILES, np.percentile(returns, QUANTILES), strict=True):
        table.add_row(f"{percent} %", f"{value:.2f}")
    counts, edges = np.histogram(returns, BINS)
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        table.add_row(f"{low:.1f} to {high:.1f}", f"{'#' * round(40 * count / counts.max())} {count}")
    return table
