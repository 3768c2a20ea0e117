"""Malformed datasets of every format: a clear line, or all of the data; never a traceback, a hang or a lost row."""

from __future__ import annotations

import warnings

import damage
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformations import CASES, STEPS, WRITERS, columns, damaged

from rlkit.datasets import DataOptions, load, sources
from rlkit.types import InputError


def test_the_table_is_long_and_its_cases_differ():
    assert len({case.name for case in CASES}) == len(CASES) >= 200


@pytest.fixture
def here(monkeypatch):
    """Read Parquet and Arrow in this process too: what the reader's own process would cost a case is half a second."""
    monkeypatch.setattr(sources.Source, "is_columnar", lambda source: False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_dataset_is_refused_in_one_line_or_read_whole(tmp_path, case, here):
    name, _ = case.build(tmp_path)
    options = DataOptions(name, data_root=tmp_path, cache_dir=tmp_path / "cache")
    if not case.words:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            report = load(options, use_cache=False).report
        assert (report.steps, report.episodes) == (case.steps, 2)
        assert case.note in " ".join(report.notes)
        return
    with pytest.raises(InputError) as caught:
        load(options, use_cache=False)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 1000
    for word in case.words:
        assert word in message, message


@st.composite
def damages(draw, size: int) -> list[tuple[str, int, int]]:
    """One to three of: a bit flipped, a byte set, some bytes zeroed, lost or repeated, the rest cut off."""
    kinds = st.sampled_from(["flip", "set", "zero", "lose", "repeat", "cut"])
    place, amount = st.integers(0, size - 1), st.integers(0, 255)
    return draw(st.lists(st.tuples(kinds, place, amount), min_size=1, max_size=3))


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """(dataset's name, root, file, content) of a sound dataset in each format."""
    found = {}
    for form, write in WRITERS.items():
        root = tmp_path_factory.mktemp(form)
        name, path = write(root, columns())
        found[form] = (name, root, path, path.read_bytes())
    return found


@pytest.mark.parametrize("form", [form for form in WRITERS if form not in damage.COLUMNAR])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_damage_is_told_in_one_line_or_leaves_whole_episodes(valid, form, data):
    """Flipped bits inside numbers cannot be seen in most formats; rows must never be lost without a word."""
    name, root, path, content = valid[form]
    path.write_bytes(damaged(content, data.draw(damages(len(content)))))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy's casts
            episodes = load(DataOptions(name, data_root=root), use_cache=False)
    except InputError as error:
        assert str(error).isprintable()
        return
    if form != "csv":  # text that ends with a line is a table
        assert episodes.report.steps == (6 if form == "npz" and episodes.report.episodes == 1 else STEPS)
    assert np.isfinite(episodes.obs).all() and np.isfinite(episodes.action).all() and np.isfinite(episodes.reward).all()


@pytest.mark.parametrize("form", damage.COLUMNAR)
def test_random_damage_to_what_pyarrow_reads(tmp_path, form):
    """Many files in one process, which may end (pyarrow's doing): then that file has its one line from the reader."""
    counts = damage.run(form, tmp_path, count=60)
    assert sum(counts.outcomes.values()) == 60 and counts.outcomes["refused"] and counts.outcomes["read"]
    for seed in counts.fatal:
        line = damage.told(form, tmp_path, seed)
        assert line and line.isprintable()
