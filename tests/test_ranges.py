"""Ranges of settings: declared at every number, told in one line, before anything is read."""

import dataclasses
import importlib
import math
import typing
from typing import Annotated

import numpy as np
import pytest

import agents
import envs
from agents import bc, iql, semi_pessimistic
from rlkit import commands, ranges
from rlkit.buffer import Buffer, stats
from rlkit.commands import options, parsing
from rlkit.datasets import DataOptions, Normaliser, from_episodes, load, spec
from rlkit.ranges import Count, Range
from rlkit.testing import random_episodes
from rlkit.training.loop import fit
from rlkit.types import InputError

CATALOG = commands.Catalog(agents.REGISTRY, envs.make, envs.REFERENCES, envs.DATASETS, envs.episodes)
COMMANDS = [
    options.TrainOptions, options.EvaluateOptions, options.ReportOptions, options.VerifyOptions, options.DataList,
    options.DataShow, options.DataCheck,
]  # fmt: skip


def _config(agent):
    return importlib.import_module(agents.REGISTRY[agent].module).Config


def _holds_numbers(annotation):
    """Whether values of the annotation are numbers, or tuples of them."""
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return False
    return annotation in (int, float) or any(map(_holds_numbers, parts))


def _numbers(kind):
    """Field -> annotation, of the fields of a dataclass that hold numbers."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind) if _holds_numbers(hints[f.name])}


def _beside(allowed):
    """The nearest numbers outside of a range, and NaN."""
    low, high = allowed.bounds
    below = np.nextafter(low, -math.inf) if allowed.notation[0] == "[" else low
    above = np.nextafter(high, math.inf) if allowed.notation[-1] == "]" else high
    return [float(value) for value in (below, above, math.nan) if value not in allowed]


def test_a_range_is_the_interval_that_mathematics_writes():
    half = Range("[0, 1)")
    assert 0 in half and 0.5 in half and 1 not in half and -1e-9 not in half and math.nan not in half
    assert 1 in Range("(0, 1]") and 0 not in Range("(0, 1]")
    assert (
        math.inf in Range("(0, inf]")
        and math.inf not in Range("(0, inf)")
        and -math.inf not in ranges.find(ranges.Finite)
    )
    told = {"[0, 1)": "at least 0 and below 1", "(0, 2.5]": "above 0 and at most 2.5", "(-inf, inf)": "finite"}
    told |= {"[0, inf)": "at least 0 and finite", "(0, inf]": "above 0"}
    told["[0, 4294967295]"] = "at least 0 and at most 4294967295"
    assert {notation: str(Range(notation)) for notation in told} == told


@pytest.mark.parametrize("agent", agents.REGISTRY)
def test_every_number_of_an_agent_has_a_range_and_is_held_to_it(agent):
    kind = _config(agent)
    declared = {name: ranges.find(hint) for name, hint in _numbers(kind).items()}
    assert declared and None not in declared.values(), [name for name, allowed in declared.items() if allowed is None]
    for name, allowed in declared.items():
        assert _beside(allowed)
        for value in _beside(allowed):
            given = (8, value) if isinstance(getattr(kind(), name), tuple) else value
            with pytest.raises(InputError) as refusal:
                ranges.check(dataclasses.replace(kind(), **{name: given}), agent)
            assert str(refusal.value) == f"{agent}: {name} {value}: must be {allowed}"


@pytest.mark.parametrize("agent", agents.REGISTRY)
def test_defaults_and_presets_are_within_their_ranges(agent):
    ranges.check(_config(agent)(), agent)
    for name, preset in importlib.import_module(agents.REGISTRY[agent].module).PRESETS.items():
        ranges.check(preset.config, name)
        ranges.check(DataOptions("any", **preset.data), name)


@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.__name__)
def test_every_number_of_a_command_has_a_range(kind):
    assert not [name for name, hint in _numbers(kind).items() if ranges.find(hint) is None]


@pytest.mark.parametrize("agent", agents.REGISTRY)
def test_the_command_refuses_before_it_reads_data(agent, rlkit_command):
    name, hint = next(iter(_numbers(_config(agent)).items()))
    value = _beside(ranges.find(hint))[0]
    value = int(value) if typing.get_args(hint)[0] in (int, Count) else value
    option = f"--config.{name.replace('_', '-')}"
    code, out, err = rlkit_command("train", agent, "--dataset", "no/such-v0", f"{option}={value}")
    assert code == 2 and out == ""
    assert err == f"rlkit: {option} {value}: must be {ranges.find(hint)}\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["bc", "--config.batch-size", "0"], "--config.batch-size 0: must be at least 1 and at most 2147483647"),
        (["bc", "--config.widths", "8", "0"], "--config.widths 0: must be at least 1 and at most 2147483647"),
        (["bc", "--config.learning-rate=-1"], "--config.learning-rate -1.0: must be at least 0 and at most 1"),
        (["bc", "--config.learning-rate", "nan"], "--config.learning-rate nan: must be at least 0 and at most 1"),
        (["sac-rnd", "--config.rnd-steps", "0"], "--config.rnd-steps 0: must be at least 1"),
        (["sac-rnd", "--config.critic-beta", "inf"], "--config.critic-beta inf: must be at least 0 and finite"),
        (["iql", "--config.gamma", "1.5"], "--config.gamma 1.5: must be at least 0 and at most 1"),
        (["semi-pessimistic", "--config.real-share", "1"], "--config.real-share 1.0: must be at least 0 and below 1"),
        (
            ["semi-pessimistic", "config.base:td3-bc", "--config.base.policy-delay", "0"],
            "--config.base.policy-delay 0: must be at least 1",
        ),
        (["bc", "--steps=-5"], "--steps -5: must be at least 0"),
        (["bc", "--seed", "5000000000"], "--seed 5000000000: must be at least 0 and at most 4294967295"),
        (
            ["bc", "--seed", "4294967295", "--seeds", "2"],
            "--seeds 2: the last seed, 4294967296, must be at",
        ),
        (["bc", "--q-limit", "0"], "--q-limit 0.0: must be above 0"),
        (["bc", "--time-limit", "nan"], "--time-limit nan: must be at least 0"),
        (["bc", "--eval-episodes=-1"], "--eval-episodes -1: must be at least 0"),
        (["bc", "--label-share", "0"], "--label-share 0.0: must be above 0 and at most 1"),
        (["bc", "--reward-scale", "inf"], "--reward-scale inf: must be finite"),
        (["bc", "--label-seed=-1"], "--label-seed -1: must be at least 0"),
    ],
)
def test_one_line_names_option_value_and_range(rlkit_command, words, told):
    code, out, err = rlkit_command("train", words[0], *words[1:])
    assert code == 2 and out == "" and err.count("\n") == 1
    assert told in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["evaluate", "no-such-run", "--episodes", "0"], "--episodes 0: must be at least 1"),
        (["evaluate", "no-such-run", "--eval-seed=-1"], "--eval-seed -1: must be at least 0"),
        (["data", "check", "no/such-v0", "--label-share", "2"], "--label-share 2.0: must be above 0 and at most 1"),
    ],
)
def test_other_commands_too(rlkit_command, words, told):
    code, _, err = rlkit_command(*words)
    assert code == 2 and err.count("\n") == 1 and told in err


def test_from_python_settings_are_checked_where_they_come_in(mesh):
    with pytest.raises(InputError, match=r"--label-share 2: must be above 0 and at most 1"):
        load(DataOptions("no/such-v0", label_share=2))
    data = from_episodes(random_episodes())
    config = semi_pessimistic.Config(base=iql.Config(gamma=1.5))
    stages = config.stages(spec(data, None), 4)
    buffer = Buffer.from_episodes(data, Normaliser.fit(data, DataOptions("none")), ("labelled", "held_out", "row"))
    with pytest.raises(InputError, match=r"^stage reward: config.base.gamma 1.5: must be at least 0 and at most 1$"):
        next(fit(stages, buffer, stats(buffer), (0,), log_every=1, mesh=mesh))


def test_an_agent_of_ones_own_has_its_ranges_checked_too():
    @dataclasses.dataclass(frozen=True)
    class Inner:
        level: Annotated[float, Range("(2, 3]")] = 2.5
        free: float = -1.0

    @dataclasses.dataclass(frozen=True)
    class Own:
        inner: Inner = Inner()
        counts: tuple[Count, ...] | None = None

    ranges.check(Own(), "own")
    ranges.check(Own(Inner(free=math.nan), counts=(1, 2)), "own")
    with pytest.raises(InputError, match=r"^own: inner.level 2.0: must be above 2 and at most 3$"):
        ranges.check(Own(Inner(level=2.0)), "own")
    with pytest.raises(InputError, match=r"^own: counts 0: must be at least 1"):
        ranges.check(Own(counts=(1, 0)), "own")


def test_the_ends_of_a_range_are_taken():
    ranges.check(bc.Config(widths=(), learning_rate=0.0, batch_size=2**31 - 1), "bc")


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7), ("1e6", 1_000_000), ("1_000_000", 1_000_000), ("2.5e3", 2500), ("1.0", 1), ("-3", -3)],
)
def test_a_count_can_be_typed_as_people_write_it(text, number):
    assert ranges.whole(text) == number


@pytest.mark.parametrize("text", ["1.5", "1e-3", "", "x", "inf", "nan", "1e99", "1e999999999", "٣", "3/2"])
def test_what_is_not_whole_is_not_a_count(text):
    with pytest.raises(ValueError, match="is not a whole number"):
        ranges.whole(text)


def test_every_count_of_the_command_line_is_read_so():
    argv = ["train", "bc", "--steps", "1e6", "--eval-every", "5_000", "--online.capacity", "1e5"]
    asked = parsing.parse([*argv, "--config.widths", "1e1", "2e1", "--config.batch-size", "1e2"], CATALOG)
    assert (asked.steps, asked.eval_every, asked.online.capacity) == (1_000_000, 5_000, 100_000)
    assert (asked.config.widths, asked.config.batch_size) == ((10, 20), 100)
    collect = ["data", "collect", "random", "--name", "a/b-v0", "--episodes", "1e3", "--out", "data"]
    assert parsing.parse(collect, CATALOG).episodes == 1000


def test_a_count_that_is_not_whole_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        parsing.parse(["train", "bc", "--seeds", "1.5"], CATALOG)
    assert end.value.code == 2 and "1.5" in capsys.readouterr().err
    with pytest.raises(InputError, match="--seeds 0: must be at least 1"):
        parsing.parse(["train", "bc", "--seeds", "0e0"], CATALOG)
