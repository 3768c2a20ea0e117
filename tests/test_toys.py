"""Every toy at one seed, each variant on its side of its threshold; the table of all seeds, and the page on it."""

from pathlib import Path

import pytest
from toys.__main__ import TABLE, key_of, keys, read
from toys.catalogue import TOYS
from toys.toy import Variant

import agents

PAGE = Path(__file__).parent.parent / "docs" / "toys.md"
CASES = [pytest.param(toy, variant, id=f"{toy.name}-{variant.name}") for toy in TOYS for variant in toy.suite]


@pytest.mark.slow
@pytest.mark.learning
@pytest.mark.parametrize(("toy", "variant"), CASES)
def test_a_variant_passes_or_fails_its_toy(toy, variant):
    value = toy.measure(variant.config, toy.suite_seed)
    sign = ">=" if variant.expected == "passes" else "<="
    assert variant.holds(value), f"{value:.4g}, which should be {sign} {variant.threshold:.4g}"


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.name)
def test_a_toy_has_a_variant_that_passes_and_one_that_fails_far_below(toy):
    """Of the variants that the suite runs."""
    passing = [variant.threshold for variant in toy.suite if variant.expected == "passes"]
    failing = [variant.threshold for variant in toy.suite if variant.expected == "fails"]
    assert passing and failing and min(passing) > max(failing)
    assert len({(variant.method, variant.name) for variant in toy.variants}) == len(toy.variants)
    assert toy.suite_seed in range(toy.seeds)


def test_a_variant_s_threshold_has_two_sides():
    solves, fails = Variant("a", "bc", None, at_least=1.0), Variant("b", "bc", None, at_most=-1.0)
    assert [solves.holds(value) for value in (0.9, 1.1)] == [False, True]
    assert [fails.holds(value) for value in (-0.9, -1.1)] == [False, True]
    assert not solves.holds(float("nan")) and not fails.holds(float("nan"))


def test_the_names_are_the_registry_s():
    methods = {variant.method: variant.config for toy in TOYS for variant in toy.variants}
    assert set(methods) == set(agents.REGISTRY), "a method without a toy, or a toy of no method"
    for method, config in methods.items():
        assert type(config).__module__ == agents.REGISTRY[method].module


def test_the_table_has_every_toy_at_all_its_seeds_and_the_page_names_what_does_not_hold():
    rows, page = read(TABLE), PAGE.read_text()
    assert list(rows) == keys(), "run `make toys`, or `python -m tests.toys --only TOY` for those that changed"
    for toy in TOYS:
        for variant in toy.variants:
            row = rows[key_of(toy, variant, "mean")]
            value = float(row["value"])
            assert row["threshold"] == f"{variant.threshold:.3g}" and row["expected"] == variant.expected
            if not variant.holds(value):
                assert f"{toy.name}, {variant.name}: {row['value']}" in page
