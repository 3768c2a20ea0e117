"""Tables and learning curves."""

from __future__ import annotations

import io
import re

import matplotlib.image
import numpy as np
import pytest

from rlkit.evaluation.figures import Asked, Curve, CurvePanel, _draw, _draw_asked, asked_and_achieved, learning_curves
from rlkit.evaluation.statistics import Estimate, estimate
from rlkit.evaluation.tables import Row, row, show, side_by_side, table

ROWS = [
    row("data", [[1.0, 3.0]]),
    Row("bc", Estimate(12.34, 10, 14, "seeds and starts"), late=Estimate(5, 4, 6, "seeds and starts")),
    row("a longer name", [[-100.0], [-300.0]], [[10.0], [30.0]], [[1.0], [2.0]]),
]


def test_row_makes_its_estimates():
    scores = np.array([[0.0, 2.0], [5.0, 5.0], [5.0, 5.0], [90.0, 90.0]])
    made = row("x", scores * 10, scores, scores + 1)
    assert made == ("x", estimate(scores * 10), estimate(scores), estimate(scores + 1), None)
    assert made.returns.value == 252.5 and made.score.value == 25.25 and made.late.value == 26.25
    assert row("x", scores)[2:] == (None, None, None)


def test_table_is_aligned_and_says_what_intervals_are_over():
    # With one degree of freedom t is 12.706: 2 plus or minus 12.706 * 1, 20 plus or minus 12.706 * 10, and so on.
    lines = table(ROWS).splitlines()
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[2].startswith("data ") and "2.0 [-10.7, 14.7]*" in lines[2] and "**" not in lines[2]
    assert "12.3 [10.0, 14.0]  " in lines[3]
    assert lines[4].startswith("a longer name  -200.0 [-1470.6, 1070.6]**") and "20.0 [-107.1, 147.1]**" in lines[4]
    end = lines[0].index("return") + len("return")
    assert lines[3][end - 1] == "]" and lines[2][end - 1] == lines[4][end - 1] == "*"


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 3), "[95 % t interval] over seeds and starts"),
        ((1, 3), "[95 % t interval] (*) over episodes alone, of the data or of the only seed"),
        ((2, 1), "[95 % t interval] (**) over seeds alone"),
        ((1, 1), "one number each: no interval"),
    ],
)
def test_what_an_interval_is_over_is_said_in_words(shape, words):
    returns = np.arange(6.0).reshape(2, 3)[: shape[0], : shape[1]]
    assert table([row("x", returns)]).splitlines()[-1] == words
    drawn = Terminal()
    show([row("x", returns)], drawn)
    assert words.split()[-1] in drawn.getvalue()


def test_what_several_intervals_are_over_is_said_once_each():
    assert table(ROWS).splitlines()[-1] == (
        "[95 % t interval] over seeds and starts; (*) over episodes alone, of the data or of the only seed; "
        "(**) over seeds alone"
    )


def test_columns_without_entries_are_left_out_and_none_repeats_another():
    assert table(ROWS[:1]).splitlines()[0].split() == ["method", "return"]
    titles = [title for title in table(ROWS).splitlines()[0].split("  ") if title]
    assert [title.strip() for title in titles] == ["method", "return", "score, last checkpoint", "score, last fifth"]


def test_the_rate_of_success_is_shown_beside_the_return_where_it_is_known():
    won = [[1.0, 0.0], [1.0, 1.0]]
    made = row("x", won, success=won)
    assert made.success == estimate([[100.0, 0.0], [100.0, 100.0]]) and made.success.value == 75
    assert table([made]).splitlines()[0].split("  ")[-1] == "success, %" and "75.0 [" in table([made])
    assert row("x", won, success=[[1.0, np.nan], [1.0, 0.0]]).success is None


def test_a_single_number_has_no_interval():
    assert table([Row("x", Estimate(3.0, np.nan, np.nan, "episodes"))]).splitlines()[2].split() == ["x", "3.0"]


def test_numbers_side_by_side_go_on_below_where_they_do_not_fit():
    columns = {"a=1": {"loss": 0.123456, "q": 1e6}, "a=20": {"loss": 2.0}}
    assert side_by_side(columns, 80) == ["         a=1  a=20", "loss  0.1235     2", "q      1e+06"]
    below = ["         a=1", "loss  0.1235", "q      1e+06", "      a=20", "loss     2", "q"]
    assert side_by_side(columns, 14) == below


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_text_to_a_file_and_a_drawn_table_to_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    plain, drawn = io.StringIO(), Terminal()
    show(ROWS, plain)
    show(ROWS, drawn)
    assert plain.getvalue() == table(ROWS) + "\n"
    assert "─" in drawn.getvalue() and "20.0 [-107.1, 147.1]**" in drawn.getvalue() and "[95 %" in drawn.getvalue()


@pytest.mark.parametrize("columns", [60, 80])
def test_a_table_that_is_wider_than_the_terminal_has_its_intervals_below(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    drawn = Terminal()
    show([*ROWS, Row("sac-rnd (1 of 3 seeds diverged)", *ROWS[2][1:4]), Row("empty", None)], drawn)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", drawn.getvalue()).splitlines()
    assert max(map(len, lines)) <= columns
    text = "\n".join(lines)
    for whole in ("-200.0", "[-1470.6, 1070.6]**", "[-107.1, 147.1]**", "12.3"):
        assert whole in text, "no number is folded"
    assert "-200.0 [" not in text


def pixels(path) -> np.ndarray:
    return matplotlib.image.imread(path)[..., :3]


def curves() -> list[Curve]:
    steps = np.arange(0, 11) * 1000
    noise = np.random.default_rng(0).normal(size=(11, 3, 4)) * 8
    return [
        Curve("sac-rnd", steps, 90 * (1 - np.exp(-steps / 3000))[:, None, None] + noise),
        Curve("bc", steps, np.full((11, 1, 4), 20.0)),
    ]


def test_learning_curve_draws_curves_bands_and_levels(tmp_path):
    path = tmp_path / "curve.png"
    learning_curves(path, [CurvePanel("pendulum/mixed-v0", curves(), levels={"data": 12.3})])
    image = pixels(path)
    assert image.shape[0] >= 500 and image.shape[1] >= 900
    blue, orange = (0, 0x72, 0xB2), (0xD5, 0x5E, 0)
    for colour in (blue, orange):
        assert (np.abs(image - np.array(colour) / 255).max(-1) < 0.02).sum() > 300
    assert list(tmp_path.iterdir()) == [path]
    before = path.read_bytes()
    learning_curves(path, [CurvePanel("pendulum/mixed-v0", curves()[:1])])
    assert path.read_bytes() != before


def test_a_legend_of_long_names_meets_no_edge_of_the_figure(tmp_path):
    """Cut off, its letters and lines would reach the outermost pixels."""
    long = [f"bc, learning_rate 0.{rate}, batch_size 128" for rate in range(3)]
    longer = [f"bc ({'folder/' * 30}{number})" for number in range(3)]
    for names, panels in (long, 2), (longer, 1):
        made = [Curve(name, [0], [np.zeros((1, 2))]) for name in names]
        learning_curves(tmp_path / "x.png", [CurvePanel("", made)] * panels)
        image = matplotlib.image.imread(tmp_path / "x.png")[..., :3]
        assert image[:, [0, 1, -2, -1]].min() == 1
        assert (image[-110:].min(axis=(0, 2)) < 1).any(), "the legend is there"


def test_a_single_evaluation_is_drawn(tmp_path):
    one = Curve("bc", [0], [[[1.0, 3.0], [2.0, 2.0]]])
    learning_curves(tmp_path / "one.png", [CurvePanel("", [one], "return")])
    assert (np.abs(pixels(tmp_path / "one.png") - np.array([0, 0x72, 0xB2]) / 255).max(-1) < 0.02).any()


@pytest.mark.parametrize(
    "broken", [[], [Curve("x", [0, 1], [[[1.0]]])], [Curve("x", [0], [[1.0]])], [Curve("x", [], [])]]
)
def test_wrong_shapes_are_value_errors(tmp_path, broken):
    with pytest.raises(ValueError):
        learning_curves(tmp_path / "x.png", [CurvePanel("", broken)])
    assert not list(tmp_path.iterdir())


def test_the_band_is_the_interval_of_each_evaluation():
    from matplotlib.figure import Figure

    returns = np.random.default_rng(0).normal(size=(4, 3, 5))
    axes = Figure().add_subplot()
    _draw(axes, Curve("x", np.arange(4), returns), "#0072B2")
    (band,) = axes.collections
    drawn = band.get_paths()[0].vertices
    for step, evaluation in enumerate(returns):
        found = estimate(evaluation)
        heights = sorted({y for x, y in drawn if x == step})
        assert [heights[0], heights[-1]] == pytest.approx([found.low, found.high])


def test_a_path_that_cannot_be_written_is_an_os_error(tmp_path):
    with pytest.raises(OSError):
        learning_curves(tmp_path / "missing" / "x.png", [CurvePanel("", curves())])


def asked() -> Asked:
    """Two seeds that get what they are asked for up to 30, and no more."""
    targets = np.array([40.0, 10.0, 20.0, 30.0])
    spread = np.random.default_rng(0).normal(size=(4, 2, 6))
    return Asked("dt", targets, np.minimum(targets, 30.0)[:, None, None] + spread)


def test_what_came_is_drawn_against_what_was_asked_for(tmp_path):
    asked_and_achieved(tmp_path / "returns.png", [asked()], title="toy", best=30.0, levels={"bc": 15.0})
    image = pixels(tmp_path / "returns.png")
    for colour in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0)):  # the method's curve, the level
        assert (np.abs(image - np.array(colour) / 255).max(-1) < 0.02).sum() > 300
    before = (tmp_path / "returns.png").read_bytes()
    asked_and_achieved(tmp_path / "returns.png", [asked()], title="toy", levels={"bc": 15.0})  # no largest return
    assert (tmp_path / "returns.png").read_bytes() != before
    with pytest.raises(ValueError, match=r"dt: expected returns \[G, S, E\]"):
        asked_and_achieved(tmp_path / "x.png", [asked()._replace(targets=[1.0])], title="")
    assert [path.name for path in tmp_path.iterdir()] == ["returns.png"]


def test_the_intervals_are_those_of_each_target_in_the_order_of_the_targets():
    from matplotlib.figure import Figure

    axes, given = Figure().add_subplot(), asked()
    _draw_asked(axes, given, "#0072B2")
    (drawn,) = axes.containers
    line, _, (bars,) = drawn
    assert line.get_xdata().tolist() == [10, 20, 30, 40]
    for place, target in enumerate((10, 20, 30, 40)):
        found = estimate(given.returns[list(given.targets).index(target)])
        assert line.get_ydata()[place] == pytest.approx(found.value)
        assert bars.get_segments()[place][:, 1].tolist() == pytest.approx([found.low, found.high])
