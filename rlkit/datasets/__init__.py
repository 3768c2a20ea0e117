"""Datasets: files and folders of many formats become Episodes, and a Normaliser makes of those what agents see.

Importing this package is cheap: gymnasium, minari and h5py are imported when data are first touched.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit import ranges
from rlkit.datasets.options import UNTOLD, ActionOptions, ColumnOptions, DataOptions
from rlkit.types import InputError, one_line

if TYPE_CHECKING:
    import gymnasium

    from rlkit.datasets.environment import check_env
    from rlkit.datasets.episodes import Episodes, Report, summary
    from rlkit.datasets.normaliser import Normaliser, spec
    from rlkit.datasets.sources import available

__all__ = [
    "ActionOptions", "ColumnOptions", "DataOptions", "Episodes", "Normaliser", "Report",
    "available", "check_env", "from_episodes", "load", "spec", "summary",
]  # fmt: skip

_HOMES = {
    "Episodes": "episodes",
    "Report": "episodes",
    "Normaliser": "normaliser",
    "check_env": "environment",
    "spec": "normaliser",
    "summary": "episodes",
    "available": "sources",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def load(options: DataOptions, *, roots: Sequence[Path] = (), infos: bool = False, use_cache: bool = True) -> Episodes:
    """Read a dataset and check it. Needs no environment.

    Args:
        options: the dataset, or several that are joined; what it does not say itself, the repairs that it needs, and
            which of its rewards are hidden.
        roots: further folders of Minari datasets.
        infos: also read what else the source recorded at each step, into Episodes.infos.
        use_cache: take the data from the cache if they have been read before, and put them there if not.

    Returns:
        The episodes as the source has them, not normalised. Their arrays may be read-only memory maps.

    Raises:
        InputError: one line that says what is wrong, in which episode, index and field, and what to do.

    Example:
        episodes = load(DataOptions("hopper/medium-v0", normalise="standard"))
    """
    from rlkit.datasets import holdout, joined, labels

    ranges.check_options(options)
    parts = []
    env = None if options.env == "none" else options.env
    for name in options.names:
        part = dataclasses.replace(options, dataset=name, env=env)
        try:
            parts.append(_load(part, roots, infos, use_cache))
        except OSError as error:
            raise InputError(f"{name}: cannot be read: {one_line(error)}") from error
        except MemoryError as error:
            raise InputError(f"{name}: does not fit into memory; use a smaller part of the data") from error
    return labels.hide(holdout.training(joined.join(parts), options), options)


def _load(options: DataOptions, roots: Sequence[Path], infos: bool, use_cache: bool) -> Episodes:
    """One dataset, from the cache, or from its source and then into the cache."""
    from rlkit.datasets import cache, sources
    from rlkit.datasets.untrusted import reader_process
    from rlkit.datasets.untrusted.fields import Budget

    # --- from the cache ---
    source = sources.find(options, roots)
    entry = cache.entry(options, source, infos)
    if use_cache:
        Budget(options.dataset).take(cache.size(entry))
        cached = cache.read(entry)
        if cached is not None:
            return cached

    # --- from the source ---
    if source.is_columnar():
        root = entry.parent if use_cache else None
        with reader_process.read(options, source, roots, infos, cache_root=root) as (episodes, folder):
            cache.check_entry(entry, options, source, infos)
            if folder.parent == root:
                cache.put(folder, entry)
        return episodes
    episodes = source.episodes(options, infos)
    cache.check_entry(entry, options, source, infos)
    if use_cache:
        return cache.write(entry, episodes) or episodes  # as memory maps: the rows need not stay in memory
    return episodes


def from_episodes(
    episodes: Iterable[Any],
    *,
    name: str = "episodes",
    observation_space: gymnasium.Space | None = None,
    action_space: gymnasium.Space | None = None,
    env: str | None = None,
    repair: Sequence[str] = (),
    action: ActionOptions = UNTOLD,
) -> Episodes:
    """Check episodes that are in memory, as those of any source are.

    Args:
        episodes: mappings or objects with observations [T+1, ...] (for a Dict space a mapping of such), actions
            [T, ...], rewards [T] and, all optional, terminations, truncations and labelled [T]. Where neither of the
            two flags is set at the end, the episode counts as truncated. A reward that is not labelled is not known
            and may be NaN. There may be T observations where next_observations [T, ...] are given. Names of other
            libraries are understood (obs, next_obs, terminated, terminals, truncated, timeouts, ...); dones alone is
            taken as terminations, dones with one of the two flags gives the other. A single flag is that of the last
            step. Any other key of a mapping is refused; infos may hold what else there is.
        name: what messages call the data.
        observation_space, action_space: derived from the data where they are not given.
        env: an environment id, or an EnvSpec as JSON.
        repair: faults to repair, as in DataOptions.
        action: what the actions are, where no action_space is given, as in DataOptions.

    Returns:
        The episodes, laid end to end.

    Raises:
        InputError: one line that names episode, index and field.

    Example:
        from_episodes([{"observations": obs, "actions": actions, "rewards": rewards, "terminations": dones}])
    """
    from rlkit.datasets import episode_list, rows

    recording = episode_list.read(name, episodes, observation_space, action_space)
    recording.env_spec = env
    return rows.assemble(recording, repair=repair, action=action)
