"""Every toy at one seed, each variant on its side of its threshold; the table of all seeds, and the page on it."""

import re
from pathlib import Path

import pytest
from toys.__main__ import TABLE, key_of, keys, read, rows_of, write
from toys.catalogue import TOYS
from toys.toy import Toy, Variant

import agents

PAGE = Path(__file__).parent.parent / "docs" / "toys.md"


def world(toy):
    """The part of its name that toys of one world share: their trainings may be the same, hence one worker's."""
    return re.split("[:,]", toy.name)[0]


CASES = [
    pytest.param((world(toy), toy, variant), id=f"{toy.name}-{variant.method}-{variant.name}")
    for toy in TOYS
    for variant in toy.suite
]


@pytest.mark.slow
@pytest.mark.learning
@pytest.mark.parametrize("case", CASES)
def test_a_variant_passes_or_fails_its_toy(case):
    _, toy, variant = case
    value = toy.measure(variant.config, toy.suite_seed)
    sign = ">=" if variant.expected == "passes" else "<="
    assert variant.holds(value), f"{value:.4g}, which should be {sign} {variant.threshold:.4g}"


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.name)
def test_a_toy_has_a_variant_that_passes_and_one_that_fails_below_it(toy):
    """Of the variants that the suite runs; of all, where it runs none because the training takes minutes."""
    variants = toy.suite or toy.variants
    passing = [variant.threshold for variant in variants if variant.expected == "passes"]
    failing = [variant.threshold for variant in variants if variant.expected == "fails"]
    assert passing and failing and min(passing) > max(failing)
    assert len({(variant.method, variant.name) for variant in toy.variants}) == len(toy.variants)
    assert toy.suite_seed in range(toy.seeds)


def test_a_threshold_has_two_sides():
    solves, fails = Variant("a", "bc", None, at_least=1.0), Variant("b", "bc", None, at_most=-1.0)
    assert [solves.holds(value) for value in (0.9, 1.1)] == [False, True]
    assert [fails.holds(value) for value in (-0.9, -1.1)] == [False, True]
    assert not solves.holds(float("nan")) and not fails.holds(float("nan"))


def test_every_agent_has_a_toy():
    methods = {(variant.method, type(variant.config).__module__) for toy in TOYS for variant in toy.variants}
    assert methods == {(name, entry.module) for name, entry in agents.REGISTRY.items()}


def test_a_row_for_every_seed_and_one_for_their_mean():
    variant = Variant("half", "bc", 0.5, at_least=1.0, reference=2.0)
    toy = Toy("toy", "The seed and a half.", lambda config, seed: seed + config, (variant,))
    rows = dict(rows_of(toy, variant, {"commit": "abc", "cpu": "any"}))
    assert [key[3] for key in rows] == ["0", "1", "2", "mean"]
    assert [row["value"] for row in rows.values()] == ["0.5", "1.5", "2.5", "1.5"]
    assert [row["verdict"] for row in rows.values()] == ["does not hold", "holds", "holds", "holds"]
    assert {row["commit"] for row in rows.values()} == {"abc"} and rows[key_of(toy, variant, 0)]["threshold"] == "1"


def test_a_table_keeps_the_rows_of_the_toys_that_there_are_in_their_order(tmp_path):
    rows = {key: dict(zip(("toy", "method", "variant", "seed"), key, strict=True)) for key in reversed(keys()[:3])}
    write(tmp_path / "toys.csv", rows | {("gone", "bc", "clone", "0"): {"toy": "gone"}})
    assert list(read(tmp_path / "toys.csv")) == keys()[:3]


def test_the_table_has_every_toy_at_all_its_seeds_and_the_page_names_what_does_not_hold():
    rows, page = read(TABLE), PAGE.read_text()
    assert list(rows) == keys(), "run `make toys`, or `python -m tests.toys --only TOY` for those that changed"
    for toy in TOYS:
        for variant in toy.variants:
            row = rows[key_of(toy, variant, "mean")]
            assert row["threshold"] == f"{variant.threshold:.3g}" and row["expected"] == variant.expected
            assert variant.holds(float(row["value"])) == (row["verdict"] == "holds")
            if row["verdict"] != "holds":
                assert f"{toy.name}, {variant.name}: {row['value']}" in page
