"""Sources of data in, Episodes out; and the doors that normalise them.

Importing this package is cheap: gymnasium, minari and h5py are imported when data are first touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit import ranges
from rlkit.datasets.options import DataOptions
from rlkit.types import InputError

if TYPE_CHECKING:
    import gymnasium

    from rlkit.datasets.episodes import Episodes, Report
    from rlkit.datasets.normaliser import Normaliser, check_env, spec
    from rlkit.datasets.rows import summary
    from rlkit.datasets.sources import available

__all__ = [
    "DataOptions", "Episodes", "Normaliser", "Report",
    "available", "check_env", "from_episodes", "load", "spec", "summary",
]  # fmt: skip

_HOMES = {
    "Episodes": "episodes",
    "Report": "episodes",
    "Normaliser": "normaliser",
    "check_env": "normaliser",
    "spec": "normaliser",
    "summary": "rows",
    "available": "sources",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def load(options: DataOptions, *, roots: Sequence[Path] = (), infos: bool = False, anew: bool = False) -> Episodes:
    """The data that ``options`` name, checked, from the cache if they have been read before, less the rewards that the
    options hide. Needs no environment.

    ``roots`` are further folders of Minari datasets. ``infos`` asks for what else the source recorded at each step;
    ``anew`` passes the cache by.
    Raises InputError, one line that names the place and the cure.
    """
    from rlkit.datasets import cache, labels, rows, sources
    from rlkit.datasets.fields import Budget

    ranges.check_options(options)
    try:
        source = sources.find(options, roots)
        entry = cache.entry(options, source, infos)
        if not anew:
            Budget(options.dataset).take(cache.size(entry))
            if (episodes := cache.read(entry)) is not None:
                return labels.hide(episodes, options)
        recording = source.read(env=options.env, infos=infos)
        changed = cache.entry(options, source, infos) != entry
    except OSError as error:
        raise InputError(f"{options.dataset}: cannot be read: {' '.join(str(error).split())}") from error
    except MemoryError as error:
        raise InputError(f"{options.dataset}: does not fit into memory; use a smaller part of the data") from error
    if changed:
        raise InputError(f"{options.dataset}: changed while it was read; wait until it is written, and load it again")
    episodes = rows.assemble(recording, repair=options.repair)
    del recording
    if not anew:
        cache.write(entry, episodes)
        episodes = cache.read(entry) or episodes  # as memory maps: the rows need not stay in memory
    return labels.hide(episodes, options)


def from_episodes(
    episodes: Iterable[Any],
    *,
    name: str = "episodes",
    observation_space: gymnasium.Space | None = None,
    action_space: gymnasium.Space | None = None,
    env: str | None = None,
    repair: Sequence[str] = (),
) -> Episodes:
    """Episodes in memory, through the same checks as any source.

    Each is a mapping or an object with observations [T+1, ...] (for a Dict space a mapping of such), actions [T, ...],
    rewards [T] and, all optional, terminations, truncations and labelled [T]; where neither of the former is set at the
    end, the episode counts as truncated; a reward that is not labelled is not known and may be NaN. A space that is not
    given is derived from the data. ``env`` is an environment id or an EnvSpec as JSON. Raises InputError, one line that
    names episode, index and field.
    """
    from rlkit.datasets import episode_list, rows

    recording = episode_list.read(name, episodes, observation_space, action_space)
    recording.env_spec = env
    return rows.assemble(recording, repair=repair)
