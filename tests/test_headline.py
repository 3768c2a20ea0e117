"""The README's picture: its numbers are those of the tracked rows, and what is drawn are these numbers."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import headline, table
from rlkit.evaluation.statistics import estimate

PICTURE = table.ROOT / "docs" / "headline.png"


@pytest.fixture(scope="module")
def shown():
    return headline.panels()


def row(label, returns, dataset="toy", agent="bc"):
    known = {"random": "10", "expert": "20", "data_return": "12.5"}
    return known | {"label": label, "agent": agent, "dataset": dataset, "returns_last": returns}


def test_scores_and_intervals_by_hand():
    rows = [row("bc", "10 20"), row("bc", "20 30"), row("bc, wide", "15 15"), row("bc, wide", "15 15")]
    rows.append(row("iql", "11 12", agent="iql"))  # a single seed says nothing about a method
    rows += [row("bc", "10 20", "other"), row("bc", "20 30", "other")]  # one setting is no comparison
    panel, *further = headline.from_returns(rows)
    assert not further and (panel.dataset, panel.data) == ("toy", 25.0)
    assert [point.label for point in panel.points] == ["bc", "bc, wide"]
    first, second = panel.points
    assert first == headline.Point("bc", "bc", (50.0, 150.0), estimate([[0.0, 100.0], [100.0, 200.0]]))
    assert first.score.value == 100 and first.score.low < 0
    assert second.score == (50.0, 50.0, 50.0, "seeds and starts")
    assert headline.listing([panel]).splitlines()[::2] == ["toy: data 25.0", "  bc, wide: 50.0 [50.0, 50.0] (2)"]


def test_exact_values_by_hand():
    columns = ("policy", "seed", "greedy", "sampled")
    values = [
        ("uniform", "", "", "0.5"),
        ("clinicians", "", "", "0.6"),
        ("optimal", "", "", "0.9"),
        ("counts, tried 1 times or more", "", "0.8", ""),
        ("`bc`, 5 updates", "0", "0.5", "0.7"),
        ("`bc`, 5 updates", "1", "0.7", "0.7"),
        ("`iql`, 5 updates", "0", "0.7", "0.7"),
        ("`iql`, 5 updates", "1", "0.7", "0.7"),
    ]
    (panel,) = headline.from_values([dict(zip(columns, entry, strict=True)) for entry in values])
    assert panel.data == pytest.approx(25)
    assert [(point.label, point.agent) for point in panel.points] == [
        ("bc, 5 updates", "bc"),
        ("iql, 5 updates", "iql"),
    ]
    assert panel.points[0].seeds == pytest.approx((0, 50))
    assert panel.points[1].score[:3] == pytest.approx((50, 50, 50))


def test_the_tracked_picture_is_that_of_the_tracked_rows(shown):
    assert len(shown) > 1 and all(len(panel.points) > 1 for panel in shown)
    assert Image.open(PICTURE).text[headline.KEY] == headline.listing(shown), "python -m benchmarks.headline"


def test_its_numbers_are_those_of_the_tables(shown):
    """Both are computed from the rows, by different code."""
    tables = [table.render(headline.TABLES / f"{name}.toml") for name in headline.PLAYED]
    lines = "\n".join(tables).splitlines()
    for panel in shown:
        if panel.dataset == headline.EXACT_SET:
            continue
        for point in panel.points:
            mean, low, high, _ = point.score
            cell = f"{mean:z.1f} [{low:z.1f}, {high:z.1f}] ({len(point.seeds)})"
            begin = f"| {panel.dataset} | `{point.label}` |"
            assert any(line.startswith(begin) and f" | {cell} | " in line for line in lines), (begin, cell)


def test_what_is_drawn_are_its_numbers(shown):
    figure = headline.draw(shown)
    (axes,) = figure.axes
    points = [point for panel in shown for point in panel.points]
    drawn = []
    for bar in axes.containers:
        mark, _, (line,) = bar.lines
        (ends,) = line.get_segments()
        drawn.append((mark.get_xdata()[0], *ends[:, 0]))
    assert np.allclose(drawn, [point.score[:3] for point in points])
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    expected = []
    for panel in shown:
        expected += [panel.dataset, *(f"{point.label} ({len(point.seeds)})" for point in panel.points)]
    assert names == expected
    marks = [
        line.get_xdata()[0] for line in axes.lines if len(line.get_ydata()) == 2 and line.get_color() == headline.GREY
    ]
    data = [panel.data for panel in shown]
    assert marks[: len(data)] == data
