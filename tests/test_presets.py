"""Presets against the numbers of the sources that they name: tests/golden_presets.csv.

A row of the table is one number: the agent, the presets that have it (names or patterns, with blanks between them), the
field, the value, and the file that it was read from. A field is one of the agent's Config, ``steps``, one of
DataOptions, or ``imitation``, which is how TD3+BC's source weighs what our alpha weighs.
"""

import csv
import dataclasses
import fnmatch
import importlib
import json
from pathlib import Path

import pytest

import agents
from agents import td3_bc
from rlkit.datasets import DataOptions

DATA = ("normalise", "reward", "reward_scale", "reward_shift")
ACTIONS = {"halfcheetah": 6, "hopper": 3, "walker2d": 6, "antmaze": 8}  # dimensions, from D4RL's environments
AGENTS = {name: importlib.import_module(entry.module) for name, entry in agents.REGISTRY.items()}


def read(text):
    """A number, a list, true, false or null as JSON has them; anything else is a word."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def rows():
    with (Path(__file__).parent / "golden_presets.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def tuned(module):
    """The presets whose numbers are somebody else's."""
    return {name: preset for name, preset in module.PRESETS.items() if not preset.source.startswith("this project")}


def settings(name, preset):
    """Every setting of a preset, as the table names them."""
    config = {field.name: getattr(preset.config, field.name) for field in dataclasses.fields(preset.config)}
    options = DataOptions("test", **preset.data)
    data = {field: getattr(options, field) for field in DATA}
    found = config | data | {"steps": preset.steps}
    if isinstance(preset.config, td3_bc.Config) and "/" in name:
        # the source weighs a sum over action dimensions against Q, alpha weighs Q against their mean
        found["imitation"] = 1 / (found.pop("alpha") * ACTIONS[name.partition("/")[0]])
    return {field: list(value) if isinstance(value, tuple) else value for field, value in found.items()}


def golden(agent):
    """(preset, field) -> (value, source) of all tuned presets of an agent; no row without a preset, and no pair with
    two values."""
    found = {}
    for row in (row for row in rows() if row["agent"] == agent):
        matching = [
            preset
            for pattern in row["presets"].split()
            for preset in fnmatch.filter(tuned(AGENTS[agent]), pattern)
        ]  # fmt: skip
        assert matching, f"no preset of {agent} is called {row['presets']}"
        for preset in matching:
            assert (preset, row["field"]) not in found, f"{agent} {preset}: {row['field']} is listed twice"
            found[preset, row["field"]] = read(row["value"]), row["source"]
    return found


@pytest.mark.parametrize("agent", AGENTS)
def test_every_tuned_preset_has_its_sources_numbers(agent):
    wrong = []
    listed = golden(agent)
    for name, preset in tuned(AGENTS[agent]).items():
        found = settings(name, preset)
        assert {field for other, field in listed if other == name} == set(found), f"{agent} {name}: list every setting"
        for field, value in found.items():
            expected, source = listed[name, field]
            if value != (pytest.approx(expected, rel=1e-9) if isinstance(expected, float) else expected):
                wrong.append(f"{agent} {name}: {field} is {value}, in {source} {expected}")
    assert not wrong, "\n".join(wrong)


def test_every_row_has_an_agent_and_a_source():
    for row in rows():
        assert row["agent"] in AGENTS and row["source"], row


def test_a_wrong_number_is_seen_whatever_its_size():
    """1e-3 for 3e-4 is a wrong learning rate, though small: what is compared is relative."""
    preset = AGENTS["td3-bc"].PRESETS["hopper/medium"]
    assert settings("hopper/medium", preset)["imitation"] == pytest.approx(0.05)
    off = dataclasses.replace(preset, config=dataclasses.replace(preset.config, alpha=1 / 0.05))
    assert settings("hopper/medium", off)["imitation"] == pytest.approx(0.05 / 3)


def test_the_bases_of_composed_presets_keep_the_data_that_their_numbers_are_for():
    """Semi-pessimistic RL takes its base's tuned numbers: beta without its scale of rewards is another number."""
    base, composed = AGENTS["iql"].PRESETS, AGENTS["semi-pessimistic"].PRESETS
    for name, of in (
        ("hopper/medium-replay", "hopper/medium-replay"),
        ("halfcheetah/medium-random", "halfcheetah/medium"),
    ):
        assert composed[name].config.base == base[of].config
        assert base[of].data.items() <= composed[name].data.items()
    assert [name for name, preset in base.items() if preset.data.get("reward") == "return-range"] == [
        "hopper/medium", "hopper/medium-replay"
    ]  # fmt: skip
