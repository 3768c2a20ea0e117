"""The page of a report: whole in itself, everything inside its drawings, names harmless, numbers as in the table."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import PACE, SMALL, _catalog

import envs
import rlkit
from rlkit.commands import preparation
from rlkit.commands.parsing import parse
from rlkit.datasets import card as card_module
from rlkit.datasets import from_episodes
from rlkit.datasets.card import card
from rlkit.datasets.episodes import Names
from rlkit.evaluation import tables
from rlkit.report import comparison, drawings, markup, page
from rlkit.report.drawings import Bars, Interval, Level, Line, Range
from rlkit.report.rows import lines
from rlkit.runs import serialization
from rlkit.runs.record import Record, Reference
from rlkit.testing import random_episodes

EVIL = '<script>alert("1")</script>\'&\u202e\x00\ud800'
SHOWN = '<script>alert("1")</script>\'&\ufffd\ufffd\ufffd'  # what a reader sees of it
SCORED = Reference(-100.0, 0.0, "a table")
NO_END_TAG = {"meta", "br", "hr", "img", "link", "input"}


# ---- runs that were never trained


@pytest.fixture(scope="module")
def base(cache):
    """The record of a run, of which the others are made."""
    catalog = _catalog(envs.make)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLKIT_CACHE_DIR", str(cache))
        return preparation.resolve(parse(["train", "bc", *SMALL, *PACE, "--out", "there"], catalog), catalog)


class Runs:
    """Writes run directories."""

    def __init__(self, root: Path, base: Record):
        self.root = root
        self.base = base

    def write(self, name, *, returns=(), metrics=None, dataset=None, goals=("",), lost=(), config=None, **changes):
        """A run of two seeds with two starts. returns: the mean at each evaluation; None: there is none."""
        data = dataclasses.replace(self.base.data, **(dataset or {}))
        seeds = changes.setdefault("seeds", (0, 1))
        record = dataclasses.replace(
            self.base, data=data, config={**self.base.config, **(config or {})}, **{"reference": SCORED, **changes}
        )
        folder = self.root / name
        folder.mkdir(parents=True)
        serialization.write_json(folder / "run.json", record)
        rng = np.random.default_rng(len(name))
        written = []
        for number, mean in enumerate(returns):
            place = {"stage": 0, "step": 10 * number, "updates": 10 * number}
            values = {"policy/loss": 1 / (1 + number), **(metrics or {})}
            logged = {}
            for metric, value in values.items():
                logged[metric] = ["nan" if seed in lost else value + 0.1 * seed for seed in range(len(seeds))]
            if number:
                written.append({**place, "metrics": logged})
            for goal in goals:
                played = mean + rng.normal(size=(len(seeds), 2))
                table = [["nan", "nan"] if seed in lost else played[seed].tolist() for seed in range(len(seeds))]
                lengths = [[0, 0] if seed in lost else [5, 6] for seed in range(len(seeds))]
                told = {"goal": goal} if goal else {}
                written.append({**place, **told, "seed": 7, "returns": table, "lengths": lengths})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written))
        return folder


@pytest.fixture
def runs(tmp_path, base):
    return Runs(tmp_path, base)


CURVE = (-90.0, -60.0, -40.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, base):
    """The comparison of a sweep, of another agent with several goals, of a second dataset, and of runs that failed."""
    runs = Runs(tmp_path_factory.mktemp("whole"), base)
    for rate in (0.001, 0.01, 0.1):
        config = {"learning_rate": rate}
        runs.write(f"sweep/{rate}", returns=np.array(CURVE) + 100 * rate, config=config, metrics={"critic/q": -3.0})
    runs.write("asked", returns=CURVE, agent="asked", goals=("-50", "-20", "-10"))
    runs.write("lost", returns=CURVE, agent="lost", lost=(1,))
    runs.write("gone", returns=CURVE, agent="gone", lost=(0, 1))
    runs.write("silent", agent="silent")
    runs.write("other", returns=(5.0, 6.0), dataset={"name": "other/x-v0", "card": None}, reference=None)
    runs.write("other-asked", returns=(7.0,), agent="asked", seeds=(3,), dataset={"name": "other/x-v0"}, reference=None)
    return comparison.read([runs.root])


@pytest.fixture(scope="module")
def text(whole):
    return page.page(whole)


# ---- the page as a browser reads it


class Parsed(HTMLParser):
    """Tags with their attributes, in order, and the text of each table's cells."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.open = []
        self.texts = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        assert len(dict(attributes)) == len(attributes), f"{tag} has an attribute twice"
        if tag not in NO_END_TAG:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def words(parsed):
    return " ".join(" ".join(data for tag, data in parsed.texts if tag != "style").split())


def figures_of(text):
    return [ET.fromstring(found) for found in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def points_of(mark):
    """Every point of a mark that must lie in its drawing."""
    numbers = {name: float(mark.get(name)) for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width",
                                                       "height") if mark.get(name)}  # fmt: skip
    match mark.tag:
        case "line":
            return [(numbers["x1"], numbers["y1"]), (numbers["x2"], numbers["y2"])]
        case "rect":
            assert numbers["width"] >= 0 and numbers["height"] >= 0
            end = (numbers["x"] + numbers["width"], numbers["y"] + numbers["height"])
            return [(numbers["x"], numbers["y"]), end]
        case "circle":
            x, y, r = numbers["cx"], numbers["cy"], numbers["r"]
            return [(x - r, y - r), (x + r, y + r)]
        case "path":
            places = [float(number) for number in re.findall(r"-?[\d.]+", mark.get("d"))]
            assert re.fullmatch(r"M[-\d.]+ [-\d.]+(L[-\d.]+ [-\d.]+)+Z?", mark.get("d"))
            return list(zip(places[::2], places[1::2], strict=True))
        case "text":
            return extent(mark, numbers)
    raise AssertionError(f"what is a {mark.tag}?")


def extent(mark, numbers):
    """Of a label, whose letters are no wider than 0.6 of the font's size on average."""
    size = 11.0
    width = 0.6 * size * len(mark.text or "")
    start = {"start": 0.0, "middle": width / 2, "end": width}[mark.get("text-anchor")]
    if mark.get("transform"):  # turned: its width is upright
        x, y = map(float, re.match(r"translate\(([-\d.]+) ([-\d.]+)\) rotate\(-90\)", mark.get("transform")).groups())
        return [(x - size, y - width / 2), (x, y + width / 2)]
    left = numbers["x"] - start
    return [(left, numbers["y"] - size), (left + width, numbers["y"] + 2)]


def check_inside(svg):
    """Every mark and label within the view box. Returns the marks."""
    left, top, width, height = map(float, svg.get("viewBox").split())
    assert (left, top) == (0, 0)
    marks = [mark for mark in svg.iter() if mark.tag not in ("svg", "title", "desc")]
    for mark in marks:
        for x, y in points_of(mark):
            assert -0.05 <= x <= width + 0.05 and -0.05 <= y <= height + 0.05, ET.tostring(mark)
    return marks


# ---- whole in itself


def test_nothing_outside_the_page_is_referred_to(text):
    parsed = Parsed(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form", "use", "image"} & {
        tag for tag, _ in parsed.tags
    }
    for name in ("src", "srcset", "action", "data", "poster", "xlink:href", "background", "style"):
        assert not parsed.all(name), name
    assert all(target.startswith("#") for target in parsed.all("href"))
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    (style,) = [data for tag, data in parsed.texts if tag == "style"]
    assert "url(" not in style and "@import" not in style and "@font-face" not in style


def test_ids_are_unique_and_every_reference_is_to_one(text):
    parsed = Parsed(text)
    ids = Counter(parsed.all("id"))
    assert set(ids.values()) == {1}
    targets = {target[1:] for target in parsed.all("href")}
    labelled = {name for names in parsed.all("aria-labelledby") for name in names.split()}
    assert targets and labelled and targets | labelled <= set(ids)
    sections = [attributes["id"] for tag, attributes in parsed.tags if tag == "section"]
    assert sorted(sections) == sorted(targets), "the contents list every section"


def test_every_drawing_has_a_text_and_everything_inside(text):
    drawn = 0
    for svg in figures_of(text):
        marks = check_inside(svg)
        if svg.get("aria-hidden"):
            continue
        drawn += 1
        assert svg.get("role") == "img" and svg.find("title").text and svg.find("desc").text
        assert any(mark.tag in ("path", "circle", "rect") or "thin" in mark.get("class", "") for mark in marks)
    assert drawn > 15
    marks = re.findall(r"<(?:line|path|rect|circle)[^>]*>", text)
    assert "nan" not in "".join(marks)


def test_the_same_runs_give_the_same_bytes(whole, text):
    folders = [folder for entry in whole.entries for folder in entry.folders]
    assert page.page(comparison.read(folders[:1])) == page.page(comparison.read(folders[:1]))
    assert page.page(whole) == text


def test_titles_of_numbers_are_broken_between_words_alone(text):
    """The rest of the page breaks anywhere, which made "probabilit-y" of a narrow column."""
    assert re.search(r"body \{[^}]*overflow-wrap: anywhere", text)
    assert ".numbers thead th { overflow-wrap: normal; }" in text


def test_every_colour_of_the_style_is_for_light_dark_and_print(text):
    for name in ("page", "text", "soft", "rule", "grid", "panel", "link", *(f"s{n}" for n in range(drawings.COLOURS))):
        assert len(re.findall(rf"--{name}: #", text)) == 3, name


def test_numbers_that_are_not_known_are_never_spelled_nan(runs):
    """An evaluation of a sound seed may have NaN before its last one, and a seed that is lost logs it at the end."""
    run = runs.write("run", returns=CURVE, lost=(1,))
    logged = (run / "metrics.jsonl").read_text().splitlines()
    first = json.loads(logged[0])
    first["returns"][0] = ["nan", 1.0]
    (run / "metrics.jsonl").write_text("\n".join([json.dumps(first), *logged[1:], ""]))
    runs.write("gone", returns=CURVE, agent="gone", lost=(0, 1))
    assert not re.search(r"\bnan\b", words(Parsed(page.page(comparison.read([runs.root])))))


# ---- names from files


def test_names_from_files_are_made_harmless(runs):
    runs.write(
        "run",
        returns=CURVE,
        agent=EVIL.replace("\ud800", ""),
        metrics={f"{EVIL}/loss": 1.0},
        goals=(f"{EVIL}1", f"{EVIL}2"),
        dataset={"name": EVIL.replace("\ud800", ""), "notes": (EVIL,), "warnings": (EVIL,)},
        versions={EVIL: EVIL},
        device=EVIL,
        command=("train", EVIL, "--out", "a b"),
        commit=EVIL,
    )
    runs.write("b", returns=CURVE, config={"learning_rate": "<b>x</b>", EVIL: EVIL}, dataset={"name": "x"})
    made = page.page(comparison.read([runs.root]))
    parsed = Parsed(made)
    assert "script" not in {tag for tag, _ in parsed.tags} and "b" not in {tag for tag, _ in parsed.tags}
    assert not re.search("[\u202e\x00\ud800]", made)
    assert made.encode("utf-8")
    assert words(parsed).count(SHOWN[:-1]) > 10
    for svg in figures_of(made):
        check_inside(svg)
    assert f"<title>bc, {markup.escaped(SHOWN[:-1])}" in made


def test_a_command_is_shown_as_a_shell_takes_it(runs):
    folder = runs.write("run", returns=CURVE, command=("train", "bc", "--out", "a b", "--sweep", "x=1,2"))
    form = json.loads((folder / "run.json").read_text())
    form["command"] = ["train", "bc", "--steps", "5"]
    (folder / "run.1.json").write_text(json.dumps(form))
    made = page.page(comparison.read([folder]))
    (commands,) = re.findall("<code>(.*)</code>", made, re.DOTALL)
    commands = html.unescape(re.sub("<[^>]*>", "", commands))
    assert commands.splitlines() == ["rlkit train bc --steps 5", "rlkit train bc --out 'a b' --sweep x=1,2"]


def test_a_run_keeps_the_words_and_the_commit_that_made_it(base):
    assert base.command == ("train", "bc", *SMALL, *PACE, "--out", "there")
    assert (base.commit != "") == (Path(rlkit.__file__).parents[1] / ".git").exists()


def test_every_run_of_a_sweep_and_what_goes_on_keep_them_too(base, runs):
    typed = ["train", "bc", "--out", "there", "--sweep", "config.batch-size=1,2"]
    assert parse(typed, _catalog(envs.make)).train.words == tuple(typed)
    typed = ["finetune", str(runs.write("run")), "--online.steps", "5"]
    assert parse(typed, _catalog(envs.make)).words == tuple(typed)


def test_the_command_writes_the_page_alone_or_with_the_rest(rlkit_command, runs, tmp_path):
    run = runs.write("run", returns=CURVE)
    code, out, err = rlkit_command("report", run, "--out", tmp_path / "page.html")
    assert code == 0 and "bc" in out, err
    written = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert written == page.page(comparison.read([run]))
    lost = runs.write("lost", returns=CURVE, lost=(0, 1))
    assert rlkit_command("report", lost, "--out", tmp_path / "lost.html")[0] == 0
    assert "every seed diverged" in (tmp_path / "lost.html").read_text(encoding="utf-8")


# ---- numbers


def test_the_numbers_are_those_of_the_table(whole, text):
    shown = words(Parsed(text))
    for panel in whole.panels:
        rows = [line.row for line in lines(whole) if line.dataset == panel.name]
        _, *cells = zip(*tables.filled_columns(rows), strict=True)
        for name, *numbers in cells:
            listed = " ".join(number for number in numbers if number)
            assert " ".join(f"{name} {listed}".split()) in " ".join(shown.split()), name
        assert tables.note(rows) in shown
    assert "lost (1 of 2 seeds diverged)" in shown
    assert "gone: every seed diverged" in shown and "silent: no evaluations" in shown


def test_methods_are_compared_where_there_are_several(runs, text):
    assert 'id="aggregates"' in text and "Probability of improvement" in text and "Performance profile" in text
    alone = page.page(comparison.read([runs.write("run", returns=CURVE)]))
    assert 'id="aggregates"' not in alone and 'id="differences"' not in alone and 'id="settings"' not in alone
    for name in ("scores", "curves", "training", "data", "commands", "reading"):
        assert f'id="{name}"' in alone, name


def test_few_seeds_are_told_beside_the_means_and_the_pairs_and_a_pair_names_its_datasets(runs):
    for agent in ("x", "y"):
        runs.write(agent, returns=CURVE, agent=agent, seeds=(0,), dataset={"name": "a"})
    runs.write("z-a", returns=CURVE, agent="z", dataset={"name": "a"})
    runs.write("z-b", returns=CURVE, agent="z", dataset={"name": "b"})
    runs.write("w-b", returns=CURVE, agent="w", dataset={"name": "b"})
    made = page.page(comparison.read([runs.root]))
    section = made[made.index('<section id="aggregates"') : made.index('<section id="curves"')]
    shown = words(Parsed(section))
    assert shown.count("with 2 seeds the intervals over seeds are too short") == 2
    assert shown.count("one seed, so no interval over seeds: x on a; y on a") == 2
    pairs = re.findall(
        r'rowheader">(\w) above (\w)( \(1 seed each\))?</th>.*?title="datasets of both"><span>(.*?)</span>', section
    )
    found = {frozenset((one, other)): (bool(single), datasets) for one, other, single, datasets in pairs}
    assert found[frozenset("xy")] == (True, "a") and found[frozenset("zx")] == (False, "a")
    assert found[frozenset("zw")] == (False, "b") and len(found) == 4


def test_notes_tell_what_was_lost(whole, text):
    shown = words(Parsed(text))
    assert whole.notes and all(" ".join(note.split()) in shown for note in whole.notes)


def test_a_page_of_runs_that_were_never_evaluated_has_their_losses_and_data(runs):
    folder = runs.write("run", returns=(), evaluation=None, reference=None)
    (folder / "metrics.jsonl").write_text('{"stage": 0, "step": 5, "updates": 5, "metrics": {"policy/loss": [1, 2]}}\n')
    made = page.page(comparison.read([folder]))
    assert 'id="training"' in made and 'id="data"' in made and 'id="curves"' not in made
    (folder / "metrics.jsonl").write_text("")
    assert 'id="training"' not in page.page(comparison.read([folder]))


def test_a_method_has_the_same_colour_throughout_the_page(runs):
    for dataset, agents in (("a", ("x", "y")), ("b", ("y", "x"))):
        for agent in agents:
            runs.write(f"{dataset}-{agent}", returns=CURVE, agent=agent, dataset={"name": dataset})
    made = page.page(comparison.read([runs.root / name for name in ("a-x", "a-y", "b-y", "b-x")]))
    keys = re.findall(r'class="line (s\d)"[^>]*/></svg> (\w)[ <]', made)
    assert len(keys) == 10 and set(keys) == {("s0", "x"), ("s1", "y")}, "of a profile, curves and losses"


def test_a_sweep_is_drawn_over_its_values(text):
    section = text[text.index('<section id="settings"') : text.index('<section id="training"')]
    (svg,) = [svg for svg in figures_of(section) if svg.get("role")]
    labels = [mark.text for mark in svg.iter("text")]
    assert {"0.001", "0.01", "0.1", "learning_rate"} <= set(labels)
    places = sorted(float(mark.get("cx")) for mark in svg.iter("circle"))
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.2), "the axis is logarithmic"
    assert len(re.findall(r"-?[\d.]+ \[-?[\d.]+, -?[\d.]+\] at 0\.", svg.find("desc").text)) == 3
    assert "meets the edge of the panel goes on beyond it" in section


def test_what_came_is_drawn_over_what_was_asked_for(text):
    section = text[text.index('<section id="asked"') : text.index('<section id="settings"')]
    svg, *_ = [svg for svg in figures_of(section) if svg.get("role")]
    assert svg.find("desc").text.count("] for -") == 3


# ---- the dataset card


def episodes_of(number=4, discrete=False):
    made = random_episodes(number, 5, discrete)
    made[0]["observations"][0, 1] = 40.0
    return from_episodes(made, name="x-v0")


def test_a_card_counts_what_the_episodes_hold():
    episodes = episodes_of()
    found = card(episodes)
    assert sum(found.returns.counts) == 4
    assert [found.returns.edges[0], found.returns.edges[-1]] == pytest.approx(
        [episodes.returns().min(), episodes.returns().max()]
    )
    assert found.terminal_lengths.edges == (4.5, 5.5), "each whole number is in the middle of its bin"
    assert found.terminal_lengths.ends == (5, 5) and found.returns.ends == (
        found.returns.edges[0],
        found.returns.edges[-1],
    )
    assert sum(found.terminal_lengths.counts) == 2 and sum(found.cut_lengths.counts) == 2
    assert found.terminal_lengths.edges == found.cut_lengths.edges
    actions = np.concatenate([episode["actions"] for episode in random_episodes(4, 5)])
    assert found.steps == 20 and found.choices == ()
    assert np.allclose(found.action_low, actions.min(0)) and np.allclose(found.action_high, actions.max(0))
    assert (np.array(found.action_middle.low) >= actions.min(0)).all()
    assert found.observation_middle.high[1] < 40 and len(found.observation_middle.low) == 3
    assert found.returns.is_whole and found.terminal_lengths.is_whole


def test_the_middle_is_taken_from_evenly_spaced_rows_whatever_the_blocks(monkeypatch):
    column = np.arange(42.0).reshape(21, 2)
    monkeypatch.setattr("rlkit.datasets.blocks.NUMBERS", 8)  # blocks of four rows
    assert card_module._sampled(column, 3).tolist() == column[::3].tolist()


def test_a_card_of_choices_counts_each():
    found = card(episodes_of(discrete=True))
    assert len(found.choices) == 3 and sum(found.choices) == found.steps == 20
    assert found.action_low == () and found.on_bounds is None


def test_the_least_action_is_not_that_of_the_final_observation():
    """Rows of final observations have action 0, which no step took here."""
    made = random_episodes(2, 5)
    for episode in made:
        episode["actions"] = episode["actions"] ** 2 + 1
    found = card(from_episodes(made))
    assert min(found.action_low) >= 1


def test_a_card_is_kept_by_the_run_and_shown(base, runs):
    assert sum(base.data.card.returns.counts) == base.data.episodes
    shown = words(Parsed(page.page(comparison.read([runs.write("run", returns=CURVE)]))))
    assert "cut short" in shown and "steps with an action on a bound" in shown and "Ranges of the actions" in shown
    names = Names(("north", "east", "up"), ("push",))
    named = page.page(comparison.read([runs.write("named", returns=CURVE, dataset={"names": names})]))
    assert ">north</text>" in named and ">push</text>" in named


def test_a_card_that_a_file_has_wrong_is_not_drawn(base, runs):
    wrong = base.data.card
    wrong = wrong._replace(
        returns=wrong.returns._replace(counts=()),
        cut_lengths=wrong.cut_lengths._replace(counts=(1,) * 50),
        action_high=(),
        action_middle=wrong.action_middle._replace(low=()),
        observation_middle=wrong.observation_middle._replace(low=(1.0,)),
    )
    made = page.page(comparison.read([runs.write("run", returns=CURVE, dataset={"card": wrong})]))
    assert "Returns of the episodes" not in made and "Lengths of the episodes" not in made
    assert "Ranges of the actions" not in made and "From the least to the largest number." in made


# ---- drawings


TITLES = {"title": "t", "description": "d", "xlabel": "x", "ylabel": "y"}


def drawn(text):
    svg = ET.fromstring(text)
    return svg, check_inside(svg)


def test_a_gap_is_left_where_nothing_is_known():
    series = [Line("a", [0, 1, 2, 3, 4], [1.0, 2.0, np.nan, 3.0, np.inf])]
    _, marks = drawn(drawings.lines("n", series, **TITLES))
    assert [mark.get("d").count("L") for mark in marks if mark.tag == "path"] == [1]
    assert sum(mark.tag == "circle" for mark in marks) == 1, "a point alone is a dot"


def test_a_wide_band_leaves_the_line_visible():
    """Two seeds have an interval of 12.7 standard errors: over the whole of it their lines would be flat."""
    line = Line("a", [0, 1, 2], [0.0, 10.0, 20.0], [-500.0] * 3, [500.0] * 3)
    svg, marks = drawn(drawings.lines("n", [line], **TITLES))
    (path,) = [points_of(mark) for mark in marks if mark.get("class") == "line s0"]
    assert path[0][1] - path[-1][1] > 0.3 * 250


@pytest.mark.parametrize(
    "y", [[1e300, -1e300, 0.5], [1e-9, 2e-9, 3e-9], [5.0, 5.0, 5.0], [123456789.0, 123456790.0, 123456791.0], [0.0] * 3]
)
def test_numbers_of_every_size_have_axes_with_different_labels(y):
    svg, marks = drawn(drawings.lines("n", [Line("a", [10**6, 2 * 10**6, 4 * 10**6], y)], **TITLES))
    upright = [mark.text for mark in marks if mark.tag == "text" and mark.get("text-anchor") == "end"]
    assert len(upright) >= 3 and len(set(upright)) == len(upright)
    assert "2M" in [mark.text for mark in marks if mark.tag == "text"]


def test_levels_switches_and_single_values_are_drawn():
    line = Line("a", [5], [1.0], [0.5], [1.5], switch=2.0)
    _, marks = drawn(drawings.lines("n", [line], **TITLES, levels=[Level("data", 9.0)]))
    assert {"level", "thread s0", "thin s0", "line s0 dot"} <= {mark.get("class") for mark in marks}
    with pytest.raises(ValueError, match="no number is finite"):
        drawings.lines("n", [Line("a", [1], [np.nan])], **TITLES)


def test_labels_that_would_lie_over_each_other_are_left_out():
    places = [1.0, 1.001, 1.002, 2.0]
    xticks = [(place, f"{place:.3f}") for place in places]
    _, marks = drawn(drawings.lines("n", [Line("a", places, places)], **TITLES, xticks=xticks))
    labels = [mark.text for mark in marks if mark.tag == "text"]
    assert "1.000" in labels and "1.001" not in labels and "2.000" in labels


def test_long_labels_of_intervals_are_folded():
    items = [Interval("a long name of a method " * 6, 0.5, 0.1, 0.9), Interval("b", 0.2, np.nan, np.nan)]
    _, marks = drawn(
        drawings.intervals("n", items, title="t", description="d", xlabel="x", middle=0.5, limits=(0.0, 1.0))
    )
    assert sum(mark.tag == "circle" for mark in marks) == 2
    assert "".join(mark.text for mark in marks if mark.tag == "text").count("method") == 6


def test_a_histogram_stacks_its_bars_and_ranges_have_their_bounds():
    stacks = [Bars("a", [1, 0, 3]), Bars("b", [2, 0, 1])]
    _, marks = drawn(drawings.histogram("n", [0, 1, 2, 3], stacks, **TITLES))
    bars = [mark for mark in marks if mark.tag == "rect"]
    assert len(bars) == 4 and {mark.get("class") for mark in bars} == {"bar s0", "bar s1"}
    heights = [float(mark.get("height")) for mark in bars]
    assert heights[1] == pytest.approx(3 * heights[0], abs=0.2)
    columns = [Range("x" * 99, -1, 1, (-0.5, 0.5), (-2, 2)), Range("y", 0, 0, None, (-np.inf, np.inf))]
    _, marks = drawn(drawings.ranges("n", columns, title="t", description="d", xlabel="x"))
    assert sum(mark.get("class") == "axis" for mark in marks) == 3, "two bounds and the axis"


# ---- a browser


def browser_or_skip():
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install 'rlkit-jax[browser]'"
    )
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium here")
    return sync_api, path


FAULTS = """() => {
  const faults = [];
  if (document.documentElement.scrollWidth > innerWidth) faults.push(`wide: ${document.documentElement.scrollWidth}`);
  for (const node of document.querySelectorAll('body *')) {
    if (node.closest('svg') || node.closest('thead')) continue;
    const box = node.getBoundingClientRect();
    const shown = node.outerHTML.slice(0, 99);
    if (box.width && (box.left < -0.5 || box.right > innerWidth + 0.5)) faults.push(`outside: ${shown}`);
    if (node.scrollWidth > node.clientWidth + 1 && node.clientWidth && getComputedStyle(node).overflowX !== 'visible')
      faults.push(`cut: ${shown}`);
  }
  for (const svg of document.querySelectorAll('svg[role=img]')) {
    const view = svg.viewBox.baseVal;
    for (const label of svg.querySelectorAll('text')) {
      const box = label.getBBox(), turned = label.hasAttribute('transform');
      if (!turned && (box.x < -0.5 || box.x + box.width > view.width + 0.5 || box.y + box.height > view.height + 0.5))
        faults.push(`label: ${label.textContent} in ${svg.querySelector('title').textContent}`);
    }
  }
  return faults;
}"""


def test_in_a_browser_nothing_is_cut_off_and_no_error_is_told(text, tmp_path):
    sync_api, path = browser_or_skip()
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    told, asked = [], []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            for width in (390, 1280):
                for scheme in ("light", "dark"):
                    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
                    tab.on("console", lambda message: told.append(message.text))
                    tab.on("pageerror", lambda error: told.append(str(error)))
                    tab.on("request", lambda request: asked.append(request.url))
                    tab.goto((tmp_path / "page.html").as_uri())
                    assert tab.evaluate(FAULTS) == [], (width, scheme)
                    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
                    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
                    tab.close()
        finally:
            browser.close()
    assert told == [] and set(asked) == {(tmp_path / "page.html").as_uri()}
