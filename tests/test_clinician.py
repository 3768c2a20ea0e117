"""The page of `rlkit judge`: where a proposal differs from what was done, by hand, and what stands on the page."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import gymnasium
import numpy as np
import pytest

from rlkit.datasets import DataOptions, Normaliser, from_episodes
from rlkit.datasets.episodes import Names
from rlkit.ope import fqe, proposal, verdict
from rlkit.ope.held import hold
from rlkit.ope.replicated import Replicated
from rlkit.report import clinician
from rlkit.report.clinician import Judged

NASTY = '<script>alert("1")</script>&\x1b[31m'


def clinic(*, cut_last=False):
    """Twelve patients of two steps in states 0 and 1, doses 0 to 2: the larger the doses in state 0, the better."""
    episodes = []
    for number in range(12):
        dose = number % 3
        rows = {"observations": [[0.0], [1.0], [0.0]], "actions": [dose, 1], "rewards": [0.0, float(dose > 0)]}
        ends = not (cut_last and number == 11)
        episodes.append(rows | {"terminations": [False, ends]})
    data = from_episodes(episodes, action_space=gymnasium.spaces.Discrete(3), name=f"ward {NASTY}")
    return dataclasses.replace(data, names=Names((f"stage {NASTY}",), ("dose",)))


def held_clinic(**changes):
    data = clinic(**changes)
    return hold(data, Normaliser.fit(data, DataOptions("clinic")), survived=1.0)


def always(held, dose, number=3):
    """The policy [rows, number] that gives ``dose`` everywhere."""
    return np.tile(np.eye(number, dtype=np.float32)[dose], (len(held.episodes.t), 1))


class Told(fqe.Evaluation):
    """An evaluation that expects 0.9 of everybody."""

    def predict(self, obs, policy):
        return np.full(len(obs), 0.9)


def judged(held, dose=2, title="bc, greedy"):
    value = Replicated(0.9, np.array([0.88, 0.92, 0.9]))
    weights = np.ones((3, len(held.episodes.starts)))
    observed = held.replicated(1.0, weights)
    gain = None if observed is None else value.minus(observed)
    rows = (
        verdict.Row("FQE, 3 replicates", value, gain),
        verdict.Row("importance sampling", refused=f"too few {NASTY}"),
    )
    found = Told(value, 0.9, 10, 0.1, weights, None, None)
    return Judged(held, always(held, dose), verdict.Verdict(title, found, rows, (f"a note {NASTY}",)))


# --- a proposal beside what was done ---


def test_choices_by_hand():
    held = held_clinic()
    (dose,) = proposal.decisions(held, always(held, 2))
    assert dose.name == "dose" and dose.labels == ("0", "1", "2")
    # 4 + 4 + 4 first doses of 0, 1 and 2, then 12 of 1
    assert dose.confusion().tolist() == [[0, 0, 4], [0, 0, 16], [0, 0, 4]]
    assert dose.strong.tolist() == [False, False, False], "four fifths of the doses are below 2, which are not 95 %"
    half = always(held, 2) / 2 + always(held, 0) / 2
    assert proposal.decisions(held, half)[0].confusion().sum(0).tolist() == [12, 0, 12]


def amounts(values):
    """One episode of as many steps, with two amounts of which the second is 0."""
    actions = np.stack([values, np.zeros(len(values))], 1)
    rows = {"observations": np.zeros((len(values) + 1, 1)), "actions": actions, "rewards": np.ones(len(values))}
    data = from_episodes([rows], action_space=gymnasium.spaces.Box(0, 200, (2,)))
    return hold(data, Normaliser.fit(data, DataOptions("amounts")))


def test_amounts_are_sorted_by_what_was_given_and_strong_is_above_95_percent_of_it():
    held = amounts(np.arange(1.0, 101))
    policy = np.zeros((101, 2), np.float32)
    policy[:, 0] = -1  # 0 in the environment's units
    policy[:50, 0] = 0.5  # 150
    first, second = proposal.decisions(held, policy)
    assert first.name == "action 0" and len(first.labels) == 6 and first.labels[0].startswith("up to")
    assert first.strong.tolist() == [False] * 5 + [True]
    assert np.bincount(first.given).tolist() == [20, 20, 20, 20, 15, 5]
    assert (first.proposed @ first.strong).mean() == 0.5
    assert second.labels == ("up to 0", "above 0") and second.strong.tolist() == [False, True]


def test_states_in_which_most_treatment_would_change():
    held = held_clinic()
    first, second = proposal.differing(held, proposal.decisions(held, always(held, 2)))
    # of all 12 steps in state 1 the dose is 1; of those in state 0 a third is 2 already
    assert first.description.endswith(" 1") and first.steps == 12 and first.differs == 1
    assert first.given == (("1", 1.0),) and first.proposed == (("2", 1.0),)
    assert len(first.as_proposed) == 0 and len(first.otherwise) == 12
    assert second.differs == pytest.approx(2 / 3) and second.as_proposed.tolist() == [2, 5, 8, 11]
    assert not proposal.differing(held, [proposal.decisions(held, always(held, 2))[0]], most=0)


def test_a_policy_that_does_what_was_done_differs_nowhere():
    held = held_clinic()
    shares = np.zeros((len(held.episodes.t), 3), np.float32)
    number = np.asarray(held.episodes.obs)[:, 0].astype(int)
    shares[number == 0] = 1 / 3
    shares[number == 1, 1] = 1
    assert all(group.differs < 1e-6 for group in proposal.differing(held, proposal.decisions(held, shares)))


def test_observations_that_do_not_repeat_are_grouped():
    """Two clouds of 100 steps: in the right one everybody gets the dose that is proposed."""
    rng = np.random.default_rng(0)
    side = np.repeat([-5.0, 5.0], 100)
    episodes = []
    for centre in side:
        seen = centre + rng.normal(size=(2, 1))
        rows = {"observations": seen, "actions": [int(centre > 0)], "rewards": [1.0], "terminations": [True]}
        episodes.append(rows)
    data = from_episodes(episodes)
    held = hold(data, Normaliser.fit(data, DataOptions("clouds")))
    groups = proposal.differing(held, proposal.decisions(held, always(held, 1, 2)), most=9)
    assert sum(group.steps for group in groups) == 100 and all(group.differs == 1 for group in groups)
    assert all(re.fullmatch(r"observation 0 about -\d.* \(all: .*\)", group.description) for group in groups)


def test_surprises_are_those_of_whom_more_was_expected_than_came():
    held = held_clinic(cut_last=True)
    courses = proposal.surprising(held, always(held, 2), judged(held).verdict.fqe, 1.0)
    assert [course.number for course in courses] == [0, 3, 6], "they died, and 0.9 was expected"
    assert courses[1].rows.tolist() == [9, 10] and courses[1].steps.tolist() == [6, 7] and courses[1].came == 0


# --- what stands on the page ---


class Reader(HTMLParser):
    """Tags, attributes and texts of a page; every tag must be closed in its place."""

    VOID = {"meta", "line", "circle", "path", "rect", "br"}

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.words, self.ids, self.targets = [], [], [], [], []
        self.tags = set()
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.append((name, value))
            if name == "id":
                self.ids.append(value)
            if name == "href":
                self.targets.append(value)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def read():
    page = clinician.page([judged(held_clinic())], 1.0, heading=f"on held-out data: {NASTY}", doses=True)
    return page, Reader(page)


def test_the_page_needs_nothing_else_and_holds_no_code_of_a_file(read):
    page, found = read
    assert (
        not found.tags & {"script", "img", "link", "iframe", "object"}
        and "url(" not in page
        and "http" not in page.replace("http-equiv", "")
    )
    assert "svg" in found.tags and "<svg" not in found.text, "drawings are drawn and not told"
    assert "default-src 'none'" in page and "\x1b" not in page
    assert page.count("&lt;script&gt;") >= 4, "the data, an observation, a note and a reason"
    assert not any(name.startswith("on") or name == "src" for name, _ in found.attributes)
    assert len(found.ids) == len(set(found.ids))
    assert {target.removeprefix("#") for target in found.targets} <= set(found.ids)


def test_counts_of_a_hundred_stand_beside_what_was_recorded_and_their_intervals(read):
    _, found = read
    assert "Of 100 patients like these" in found.text
    assert re.search(r"recorded care, 12 patients observed 67 \[3\d, 9\d\]", found.text), "8 of 12, by Student"
    assert re.search(r"FQE, 3 replicates 90 \[81, 99\] \+23 \[\+15, \+32\]", found.text)
    assert "Survived has who left with a last reward of at least 1" in found.text


def test_what_was_done_and_how_they_fared(read):
    _, found = read
    assert "dose 1 (100%)" in found.text and "dose 2 (100%)" in found.text
    assert "4 of 4 [51%, 100%] (fewer than 5)" in found.text and "4 of 8 [22%, 78%]" in found.text
    assert "nobody" in found.text, "in state 1 nobody was given dose 2"
    assert "In 17% of the steps both are the same" in found.text
    assert "100.0% of the proposed values" not in found.text, "dose 2 is not above 95 % of what was given"
    assert "did not survive; under the proposal the model expects 90 of 100 to survive" in found.text


def test_what_is_not_said_is_asked_for_and_not_guessed():
    held = held_clinic()._replace(survived=None)
    plain = Reader(clinician.page([judged(held)], 0.9, heading="on held-out data", doses=False)).text
    assert "What survival is in these data is not said" in plain and "--survived X" in plain
    assert "of 100 patients" not in plain and "no dose is flagged as aggressive" in plain and "▲" not in plain
    assert "12 patients: 0.60" in plain, "the mean of the discounted rewards of all who were treated otherwise"


def test_a_dose_above_95_percent_of_what_was_given_is_flagged():
    held = amounts(np.arange(1.0, 101))
    run = judged(held)._replace(policy=np.full((101, 2), 0.5, np.float32))
    text = Reader(clinician.page([run], 1.0, heading="on held-out data", doses=True)).text
    assert "100.0% of the proposed values of action 0 are larger than 95 %" in text
    assert "of the given ones that are 5.0%" in text and "more aggressive" in text and "above 95 ▲" in text
    assert "None: of no patient" in text, "the only episode was cut short"


def test_several_runs_have_their_own_sections_and_many_doses_are_put_together():
    held = held_clinic()
    text = Reader(clinician.page([judged(held), judged(held, 0, "iql")], 1.0, heading="h", doses=False)).text
    assert re.search(r"difference bc, greedy iql \+0 \[", text)
    assert "Given and proposed (bc, greedy)" in text and "Given and proposed (iql)" in text
    counts = np.zeros(30, int)
    counts[:20] = np.arange(20, 0, -1)
    given = np.repeat(np.arange(30), counts)
    one = proposal.Decision("choice", tuple(map(str, range(30))), given, np.eye(30)[given], np.zeros(30, bool))
    labels, table, _ = clinician._merged(one)
    assert labels[-1] == "9 others" and len(labels) == 12 and table.sum() == counts.sum() and table[-1, -1] == 45


def test_wilsons_interval():
    assert clinician.wilson(0, 3) == pytest.approx((0, 0.5615), abs=1e-3)
    assert clinician.wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-3)
