"""What runs were told to do, in words: what differs between them, and the names that tell them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlkit.runs import serialization
from rlkit.runs.environments import environment_name
from rlkit.runs.record import Record

OF_CONFIG = "config."
MOST_SHOWN = 4  # settings in a name
# of the options of the data: the folders they were found in, and what has a line of its own
_LEFT_OUT = ("dataset", "data_root", "cache_dir", "download", "env")
# what makes no other method: the data's name, how progress is written, what a run happened to run with
_NOT_IN_LABELS = (
    "agent", "preset", "seeds", "dataset", "fingerprint", "log_every", "eval_every", "goes_on_from", "q_limit", "device"
)  # fmt: skip
_OF_EVALUATION = ("environment", "eval_episodes", "eval_seed")
_VERSIONS = "versions."


def settings(record: Record) -> dict[str, str]:
    """Every setting of a run by its name, such as ``config.beta`` or ``normalise``, as a word; "none" where there is
    nothing."""
    options = {name: value for name, value in record.data.options.items() if name not in _LEFT_OUT}
    told: dict[str, Any] = {
        "agent": record.agent,
        "preset": record.preset,
        "config": record.config,
        "steps": record.steps,
        "seeds": list(record.seeds),
        "dataset": record.data.name,
        "fingerprint": record.data.fingerprint[:12],
        **options,
        **_evaluation(record),
        "log_every": record.log_every,
        "eval_every": record.eval_every,
        **_online(record),
        **_parent(record),
        "q_limit": record.q_limit,
        "device": record.device,
        "versions": record.versions,
    }
    return {name: _word(value) for name, value in serialization.flat(told).items()}


def _evaluation(record: Record) -> dict[str, Any]:
    evaluation = record.evaluation
    if evaluation is None:
        return {"environment": None}
    return {
        "environment": environment_name(evaluation.environment),
        "eval_episodes": evaluation.episodes,
        "eval_seed": evaluation.seed,
    }


def _online(record: Record) -> dict[str, Any]:
    """The last time that the run went online as its options are called, --online; the earlier ones by their number."""
    if not record.online:
        return {"online": {"steps": 0}}
    *earlier, last = serialization.encode(record.online)
    return {"online": last} | {f"online, time {number}": plan for number, plan in enumerate(earlier, 1)}


def _parent(record: Record) -> dict[str, Any]:
    parent = record.parent
    if parent is None:
        return {"init_from": None, "goes_on_from": None}
    return {"init_from": parent.run} if parent.begins else {"goes_on_from": parent.run}


def _word(value: Any) -> str:
    """A JSON value as a person writes it: 3 for 3.0, and 64 64 for a list."""
    if value is None or value == []:
        return "none"
    if isinstance(value, list):
        return " ".join(map(_word, value))
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    # from a file, which may hold what would control a terminal
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in str(value))


def differences(told: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Setting -> its value in each of ``told``, "" for one that does not have it; of those settings alone of which two
    have other values."""
    names = dict.fromkeys(name for one in told for name in one)
    found = {}
    for name in names:
        values = [one.get(name, "") for one in told]
        if len(set(values) - {""}) > 1:
            found[name] = values
    return found


def labels(panels: Sequence[Sequence[Mapping[str, str]]]) -> list[list[str]]:
    """A name for each method of each panel, from its settings: its agent, and what differs between the methods of that
    agent on one dataset. Every method of the agent shows the same settings, so that it has one name on all datasets.

    Where more than four settings differ, only as many are shown as tell the methods apart. Two names of a panel are
    still the same where nothing that is named differs.
    """
    shown = {}
    for agent in {told["agent"] for panel in panels for told in panel}:
        of_agent = [[told for told in panel if told["agent"] == agent] for panel in panels]
        differing = dict.fromkeys(name for panel in of_agent for name in differences(panel) if is_of_method(name))
        names = list(differing)
        shown[agent] = names if len(names) <= MOST_SHOWN else _telling(names, of_agent)
    return [[_label(told, shown[told["agent"]]) for told in panel] for panel in panels]


def _telling(names: Sequence[str], panels: Sequence[Sequence[Mapping[str, str]]]) -> list[str]:
    """Those of ``names``, in their order, of which each tells methods of a panel apart that the ones before do not."""
    telling: list[str] = []
    kinds = _kinds(telling, panels)
    for name in names:
        more = _kinds([*telling, name], panels)
        if more > kinds:
            telling.append(name)
            kinds = more
    return telling


def _kinds(names: Sequence[str], panels: Sequence[Sequence[Mapping[str, str]]]) -> int:
    """How many combinations of values there are in each panel, summed."""
    return sum(len({tuple(told.get(name) for name in names) for told in panel}) for panel in panels)


def is_of_method(name: str, *, other_data: bool = False) -> bool:
    """Whether a setting makes another method of a run; ``other_data``: between runs on two datasets, where the
    environment is another too."""
    if other_data and name in _OF_EVALUATION:
        return False
    return name not in _NOT_IN_LABELS and not name.startswith(_VERSIONS)


def _label(told: Mapping[str, str], names: Sequence[str]) -> str:
    parts = [told["agent"]]
    parts += [f"{name.removeprefix(OF_CONFIG)} {told[name]}" for name in names if name in told]
    return ", ".join(parts)
