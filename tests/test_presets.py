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
import envs
from agents import td3_bc
from rlkit import commands
from rlkit.commands.parsing import parse
from rlkit.datasets import DataOptions
from rlkit.runs import registry
from rlkit.types import InputError

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


# ---- the dataset of a preset

CATALOG = commands.Catalog(agents.REGISTRY, envs.make, envs.REFERENCES, envs.DATASETS, envs.episodes)


@pytest.mark.parametrize(
    ("agent", "preset", "dataset"),
    [
        ("iql", "hopper/medium", "hopper/medium-v0"),
        ("edac", "walker2d/full-replay", "walker2d/full-replay-v0"),
        ("dql", "antmaze/umaze-diverse", "antmaze/umaze-diverse-v0"),
        ("dql", "kitchen/mixed", "kitchen/mixed-v0"),
        ("fql", "cube-single-play", "cube-single-play-v0.npz"),
        ("fql", "cube-double-play/chunks", "cube-double-play-v0.npz"),
        ("semi-pessimistic", "halfcheetah/medium-random", "halfcheetah/medium-random-v0"),
        ("bc", "pendulum", "pendulum/mixed-v0"),
    ],
)
def test_a_preset_brings_the_dataset_that_it_is_for(agent, preset, dataset):
    asked = parse(["train", agent, "--preset", preset], CATALOG)
    assert (asked.data.dataset, asked.dataset_note) == (dataset, f"of the preset {preset}")
    typed = parse(["train", agent, "--preset", preset, "--dataset", "mine.csv"], CATALOG)
    assert typed.data.dataset == "mine.csv" and typed.dataset_note == f"as typed; the preset {preset} is for {dataset}"


@pytest.mark.parametrize(
    ("agent", "preset"),
    [("iql", "adroit"), ("bc", "d4rl"), ("dt", "hopper/small"), ("sac", "rlpd/hopper"), ("sac", "pendulum/online")],
)
def test_a_preset_of_a_family_wants_a_dataset_to_be_named(agent, preset):
    with pytest.raises(InputError, match=f"--preset {preset} is not for one dataset: name yours with --dataset"):
        parse(["train", agent, "--preset", preset], CATALOG)
    asked = parse(["train", agent, "--preset", preset, "--dataset", "mine.csv"], CATALOG)
    assert (asked.data.dataset, asked.dataset_note) == ("mine.csv", "")


@pytest.mark.parametrize(
    ("named", "is_own"),
    [
        ("hopper/medium-v0", True),
        ("mujoco/hopper/medium-v0", True),
        ("data/hopper_medium-v2.hdf5", True),
        ("hopper/medium-replay-v0", False),
        ("hopper_medium_replay-v2.hdf5", False),
        ("rlkit-hopper/medium-v0", False),
        ("walker2d/medium-v0", False),
    ],
)
def test_a_dataset_is_known_in_other_formats_and_versions(named, is_own):
    assert registry.is_dataset("hopper/medium-v0", named) == is_own


def test_a_presets_dataset_that_is_not_here_is_told_with_how_to_get_it(rlkit_command, tmp_path):
    argv = ["train", "iql", "--preset", "hopper/medium", "--data-root", tmp_path, "--out", tmp_path / "run"]
    code, _, err = rlkit_command(*argv)
    assert code == 2 and err.count("\n") == 1
    for words in (
        "of the preset hopper/medium",
        "hopper/medium-v0: not found",
        "--download",
        "--dataset names another",
    ):
        assert words in err
