"""The page of `rlkit judge`: what a proposal would have meant for recorded patients, for somebody who treats some.

One number would be believed. So there is none: every count stands beside what was recorded and beside its interval, and
after it comes what a clinician can check: where the proposal departs from what was done and how those patients fared,
which doses it gives for which, and the courses of which the model expects more than came.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from gymnasium.spaces import Discrete

from rlkit.datasets import Episodes
from rlkit.evaluation import statistics
from rlkit.ope import proposal, tabular, verdict
from rlkit.ope.held import Held
from rlkit.ope.proposal import Course, Decision, Group
from rlkit.ope.verdict import Verdict
from rlkit.report import drawings, markup
from rlkit.report.drawings import Interval
from rlkit.report.markup import Html, Section, escaped

PATIENTS = 100  # of whom is told how many survive
MOST_BINS = 12  # rows and columns of a table of doses
MOST_STEPS = 12  # of a course that are shown
MOST_COLUMNS = 6  # of the observations in a course
SHADES = 5  # of the style sheet below
STYLE = """
.scroll { overflow-x: auto; }
table.matrix { display: table; width: auto; }
.matrix thead { position: static; width: auto; height: auto; clip-path: none; display: table-header-group; }
.matrix tbody { display: table-row-group; }
.matrix tr { display: table-row; }
.matrix th, .matrix td { display: table-cell; text-align: right; padding: 0.2rem 0.6rem; white-space: nowrap; }
.matrix .same { outline: 2px solid var(--soft); outline-offset: -2px; }
.h1 { background: color-mix(in srgb, var(--s0) 10%, transparent); }
.h2 { background: color-mix(in srgb, var(--s0) 20%, transparent); }
.h3 { background: color-mix(in srgb, var(--s0) 32%, transparent); }
.h4 { background: color-mix(in srgb, var(--s0) 44%, transparent); }
.h5 { background: color-mix(in srgb, var(--s0) 56%, transparent); }
"""


class Judged(NamedTuple):
    """A run that was judged: the data as it sees them, what it does in every row of them, and what came of that."""

    held: Held
    policy: np.ndarray
    verdict: Verdict


def page(runs: Sequence[Judged], gamma: float, *, heading: str, doses: bool) -> str:
    """The whole page as HTML that needs nothing else.

    Args:
        runs: that were judged by the same episodes. gamma: the discount. heading: by what they were judged. doses:
        whether a larger action is a stronger treatment, so that strong ones can be flagged.

    Returns:
        The text of the file. Texts that come from files are escaped.

    Example:
        Path("page.html").write_text(page([Judged(held, policy, found)], 1.0, heading="on held-out data", doses=True))
    """
    by_title = {run.verdict.title: run for run in runs}
    in_order = [by_title[found.title] for found in verdict.ranked([run.verdict for run in by_title.values()])]
    first = in_order[0].held
    sections = [_outcome(in_order, gamma)]
    for number, run in enumerate(in_order):
        sections += _of_run(run, gamma, number, doses=doses, is_alone=len(in_order) == 1)
    sections += [_unknown(first), _method(in_order, gamma)]
    title = "What would have become of these patients?"
    steps = int(first.is_step.sum())
    intro = (
        f"Judged {heading} ({len(first.episodes.starts):,} patients, {steps:,} steps of treatment). A patient is a "
        "recorded episode, the proposal is what the judged program would have done at each recorded step. Nobody was "
        "treated by it. This page is no trial and no advice on any patient."
    )
    return markup.document(title, markup.paragraph(intro), sections, STYLE)


# --- what would have become of them ---


def _outcome(runs: Sequence[Judged], gamma: float) -> Section:
    held = runs[0].held
    title, what, lead = _meaning(held, gamma)
    rows, items = _values(runs, gamma)
    header = ["care", "run", "by", what, "more or less than recorded"]
    caption = "In brackets the 95 % interval over patients. A difference whose interval holds 0 may be none at all."
    drawing = drawings.intervals(
        "values", items, title=title, description=f"{what} with 95 % intervals, as in the table", xlabel=what
    )
    parts = [
        markup.paragraph(lead),
        markup.table(header, rows, caption=caption, kind="numbers"),
        markup.figure(f"The {what} of the table, with their 95 % intervals", drawing),
        _between(runs),
        markup.paragraph(verdict.ranking([run.verdict for run in runs], held, gamma)),
    ]
    if held.cut_short:
        parts.append(markup.paragraph(_sentence(verdict.not_compared(held))))
    return Section("outcome", title, "".join(parts))


def _between(runs: Sequence[Judged]) -> str:
    """The differences between several runs."""
    held = runs[0].held
    rows = []
    for one, other, found in verdict.differences([run.verdict for run in runs]):
        rows.append([one, other, _difference(held, found.estimate, found.low, found.high)])
    if not rows:
        return ""
    caption = "Differences between the proposals, by FQE on the same imagined patients."
    return markup.table(["proposal", "minus", "difference"], rows, caption=caption, kind="numbers")


def _meaning(held: Held, gamma: float) -> tuple[str, str, str]:
    """Title of the values, what one of them is, and where that comes from."""
    if held.survived is None:
        what = "sum of the rewards to come" if gamma == 1 else f"discounted sum of the rewards to come (by {gamma:g})"
        lead = (
            "What survival is in these data is not said, and it is not guessed from the rewards: so patients are not "
            "counted here, and values are in the units of the rewards. If the last reward of an episode tells whether "
            "a patient survived, judge again with --survived X: X or more then means that he or she did."
        )
        return "What is to come for a patient", what, lead
    lead = (
        f"How many of {PATIENTS} patients like these survive, under the care that was recorded and under the proposal. "
        f"Survived has who left with a last reward of at least {held.survived:g}, as --survived says."
    )
    return f"Of {PATIENTS} patients like these", f"survivors of {PATIENTS}", lead


def _values(runs: Sequence[Judged], gamma: float) -> tuple[list[list[object]], list[Interval]]:
    """The rows of the table and the intervals of the drawing: what was recorded, then every estimator of every run."""
    held = runs[0].held
    counted = len(held.episodes.starts) if held.survived is None else int(held.has_ended.sum())
    observed = held.observed(gamma)[:3]
    rows: list[list[object]] = [[f"recorded care, {counted:,} patients", "", "observed", _value(held, *observed), ""]]
    items = [_interval(held, "recorded care", *observed)]
    for run in runs:
        for row in run.verdict.rows:
            if row.value is None:
                continue
            ends = row.value.estimate, row.value.low, row.value.high
            gain = "" if row.gain is None else _difference(held, row.gain.estimate, row.gain.low, row.gain.high)
            rows.append(["proposal", run.verdict.title, row.estimator, _value(held, *ends), gain])
            items.append(_interval(held, f"{run.verdict.title}: {row.estimator}", *ends))
    return rows, items


def _interval(held: Held, label: str, *ends: float) -> Interval:
    if held.survived is None:
        return Interval(label, *ends)
    return Interval(label, *(_per_hundred(end) for end in ends))


def _per_hundred(share: float) -> float:
    """Of 100 patients; a fit may say a little more than all of them."""
    return PATIENTS * min(max(share, 0.0), 1.0)


def _value(held: Held, value: float, low: float, high: float) -> Html:
    if held.survived is None:
        return _with_interval(f"{value:.2f}", f"{low:.2f}", f"{high:.2f}")
    counts = (f"{_per_hundred(share):.0f}" for share in (value, low, high))
    return _with_interval(*counts)


def _difference(held: Held, value: float, low: float, high: float) -> Html:
    if held.survived is None:
        return _with_interval(f"{value:+.2f}", f"{low:+.2f}", f"{high:+.2f}")
    counts = (f"{round(PATIENTS * share, 0) + 0.0:+.0f}" for share in (value, low, high))
    return _with_interval(*counts)


def _with_interval(value: str, low: str, high: str) -> Html:
    interval = "without an interval" if low == "nan" else f"[{low}, {high}]"
    return Html(f'<span class="mean">{escaped(value)}</span> <span class="interval">{escaped(interval)}</span>')


# --- one run beside what was done ---


def _of_run(run: Judged, gamma: float, number: int, *, doses: bool, is_alone: bool) -> list[Section]:
    decided = proposal.decisions(run.held, run.policy)
    of_whom = "" if is_alone else f" ({run.verdict.title})"
    return [
        Section(f"differs-{number}", f"Where the proposal differs most{of_whom}", _differs(run, decided, gamma)),
        Section(f"doses-{number}", f"Given and proposed{of_whom}", _doses(decided, doses)),
        Section(f"courses-{number}", f"Surprisingly good predictions{of_whom}", _courses(run, decided, gamma)),
    ]


def _differs(run: Judged, decided: Sequence[Decision], gamma: float) -> str:
    groups = proposal.differing(run.held, decided)
    if not groups:
        return markup.paragraph("Nowhere: the proposal does in every state what was done, as often as it was done.")
    rows = [_group_row(run.held, group, decided, gamma) for group in groups]
    header = ["state", "patients", "given most often", "proposed most often", "must change", "as proposed", "otherwise"]
    survived = run.held.survived is not None
    fared = "survivors of those whose end is known" if survived else "mean of the recorded rewards"
    caption = (
        "States in which most steps would be treated otherwise, those first. Must change: the share of these steps, at "
        f"the least. As proposed: the patients who were treated so in most of their steps there; {fared}, with its 95 "
        "% interval."
    )
    text = (
        "Who was treated as proposed may have been another kind of patient than who was not. So the last two columns "
        f"are no effect of the treatment. Below {tabular.FEW} patients they tell next to nothing."
    )
    return markup.table(header, rows, caption=caption) + markup.paragraph(text)


def _group_row(held: Held, group: Group, decided: Sequence[Decision], gamma: float) -> list[object]:
    return [
        group.description,
        f"{group.patients:,} ({group.steps:,} steps)",
        _frequent(group.given, decided),
        _frequent(group.proposed, decided),
        f"{group.differs:.0%}",
        _fared(held, group.as_proposed, gamma),
        _fared(held, group.otherwise, gamma),
    ]


def _frequent(bins: Sequence[tuple[str, float]], decided: Sequence[Decision]) -> str:
    texts = [f"{one.name} {label} ({share:.0%})" for one, (label, share) in zip(decided, bins, strict=True)]
    return "; ".join(texts)


def _fared(held: Held, numbers: np.ndarray, gamma: float) -> str:
    """What became of the patients with these ``numbers``."""
    few = f" (fewer than {tabular.FEW})" if 0 < len(numbers) < tabular.FEW else ""
    if held.survived is not None:
        numbers = numbers[held.has_ended[numbers]]
    if not len(numbers):
        return "nobody"
    returns = held.returns(gamma)[numbers]
    if held.survived is None:
        found = statistics.estimate(returns[None])
        interval = "" if math.isnan(found.low) else f" [{found.low:.2f}, {found.high:.2f}]"
        return f"{len(numbers):,} patients: {found.value:.2f}{interval}{few}"
    low, high = wilson(int(returns.sum()), len(returns))
    return f"{int(returns.sum()):,} of {len(returns):,} [{low:.0%}, {high:.0%}]{few}"


def wilson(successes: int, number: int) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson (1927), which keeps to [0, 1] and knows something of 0 out of 3."""
    z = 1.96
    share = successes / number
    divisor = 1 + z**2 / number
    centre = (share + z**2 / (2 * number)) / divisor
    half = z * math.sqrt(share * (1 - share) / number + z**2 / (4 * number**2)) / divisor
    return max(centre - half, 0.0), min(centre + half, 1.0)


# --- doses ---


def _doses(decided: Sequence[Decision], doses: bool) -> str:
    parts = []
    for one in decided:
        if len(decided) > 1:
            parts.append(markup.heading(one.name))
        parts.append(_matrix(one, doses))
        if doses:
            parts.append(markup.paragraph(_strong(one)))
    if not doses:
        parts.append(
            markup.paragraph(
                "Whether a larger action is a stronger treatment is not said, so no dose is flagged as aggressive. If "
                "it is, judge again with --doses."
            )
        )
    return "".join(parts)


def _strong(one: Decision) -> str:
    proposed = float((one.proposed @ one.strong).mean())
    given = float(one.strong[one.given].mean())
    sentence = (
        f"{proposed:.1%} of the proposed values of {one.name} are larger than 95 % of those that were given; of the "
        f"given ones that are {given:.1%}."
    )
    if proposed > given:
        sentence += " The proposal is more aggressive than the recorded care: of such doses the data know least."
    return sentence


def _matrix(one: Decision, doses: bool) -> Html:
    labels, counts, strong = _merged(one)
    shares = counts / max(counts.max(), 1)
    marks = [" ▲" if doses and is_strong else "" for is_strong in strong]
    titles = "".join(f'<th scope="col">{escaped(label + mark)}</th>' for label, mark in zip(labels, marks, strict=True))
    lines = []
    for row, label in enumerate(labels):
        cells = []
        for column in range(len(labels)):
            shade = math.ceil(SHADES * shares[row, column])
            same = " same" if row == column else ""
            cells.append(f'<td class="h{shade}{same}">{_steps(counts[row, column])}</td>')
        lines.append(f'<tr><th scope="row">{escaped(label)}</th>{"".join(cells)}</tr>')
    agree = np.trace(one.confusion()) / len(one.given)
    caption = (
        f"{one.name}: steps, by what was given (rows) and what is proposed (columns). In {agree:.0%} of the steps both "
        "are the same (framed)."
    )
    if doses and strong.any():
        caption += " ▲: larger than 95 % of the values that were given."
    return Html(
        f'<p class="soft">{escaped(caption)}</p><div class="scroll"><table class="matrix">'
        f'<thead><tr><th scope="col">given \\ proposed</th>{titles}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _steps(count: float) -> str:
    """A count, which need not be whole where the policy draws its actions."""
    if count == 0:
        return ""
    return f"{count:,.0f}" if count >= 0.5 else "&lt; 1"


def _merged(one: Decision) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Labels, confusion and strength of the bins that are in use; the rarest ones together as "others" where there are
    many."""
    counts = one.confusion()
    used = counts.sum(0) + counts.sum(1)
    kept = np.flatnonzero(used > 0)
    labels = [one.labels[number] for number in kept]
    if len(kept) <= MOST_BINS:
        return labels, counts[np.ix_(kept, kept)], one.strong[kept]
    frequent = np.sort(np.argsort(-used, kind="stable")[: MOST_BINS - 1])
    rest = np.setdiff1d(kept, frequent)
    to = np.zeros((len(one.labels), MOST_BINS))
    to[frequent, np.arange(len(frequent))] = 1
    to[rest, -1] = 1
    labels = [*(one.labels[number] for number in frequent), f"{len(rest)} others"]
    return labels, to.T @ counts @ to, np.append(one.strong[frequent], False)


# --- courses ---


def _courses(run: Judged, decided: Sequence[Decision], gamma: float) -> str:
    courses = proposal.surprising(run.held, run.policy, run.verdict.fqe, gamma)
    if not courses:
        return markup.paragraph(
            "None: of no patient whose course was recorded to its end does the model expect more than what came."
        )
    text = (
        "These are the recorded patients of whom the model expects most beyond what came. Read them as you would a "
        "chart. If the proposal would not have helped here, the model is wrong here, and the numbers above may be "
        "wrong with it."
    )
    return markup.paragraph(text) + "".join(_course(run.held, course, decided) for course in courses)


def _course(held: Held, course: Course, decided: Sequence[Decision]) -> str:
    if held.survived is None:
        outcome = f"recorded {course.came:.2f}, expected under the proposal {course.expected[0]:.2f}"
    else:
        came = "survived" if course.came else "did not survive"
        outcome = f"{came}; under the proposal the model expects {_expected(held, course.expected[0])} to survive"
    names, columns = _shown(held)
    rows = []
    for step in range(min(len(course.rows), MOST_STEPS)):
        number = course.steps[step]
        given = [f"{one.name} {one.labels[one.given[number]]}" for one in decided]
        best = [one.proposed[number].argmax() for one in decided]
        proposed = [f"{one.name} {one.labels[bin_]}" for one, bin_ in zip(decided, best, strict=True)]
        state = columns(course.rows[step])
        rows.append(
            [str(step + 1), *state, "; ".join(given), "; ".join(proposed), _expected(held, course.expected[step])]
        )
    expected = "expected to survive" if held.survived is not None else "expected to come"
    header = ["step", *names, "given", "proposed", expected]
    left = len(course.rows) - MOST_STEPS
    more = f" The first {MOST_STEPS} of {len(course.rows)} steps." if left > 0 else ""
    width = held.episodes.obs.shape[1]
    less = f" The first {len(names)} of {width} observations." if len(names) > 1 and len(names) < width else ""
    caption = f"Patient {course.number + 1:,} of the {len(held.episodes.starts):,}: {outcome}.{more}{less}"
    return markup.table(header, rows, caption=caption)


def _expected(held: Held, value: float) -> str:
    if held.survived is None:
        return f"{value:.2f}"
    return f"{_per_hundred(value):.0f} of {PATIENTS}"


def _shown(held: Held) -> tuple[list[str], Callable[[int], list[str]]]:
    """Names of the observations that are shown, and a function of a row that gives their values as texts."""
    episodes = held.episodes
    space = episodes.observation_space
    if isinstance(space, Discrete) and episodes.obs.shape[1] == space.n:
        return ["state"], lambda row: [str(space.start + int(episodes.obs[row].argmax()))]
    names = proposal.observation_names(episodes)[:MOST_COLUMNS]
    return names, lambda row: [f"{value:.4g}" for value in episodes.obs[row, : len(names)]]


# --- what is not known, and how it was done ---


def _unknown(held: Held) -> Section:
    episodes = held.episodes
    listed = _columns(episodes)
    lengths = np.diff(episodes.starts, append=len(episodes.t)) - 1
    points = [
        "Why a treatment was given. Where sicker patients got more of a drug and no column says how sick they were, "
        "the drug looks harmful, and no interval shows it (confounding). The columns are: " + listed + ".",
        "How much a patient could bear. Frailty, wishes, and decisions to end a treatment shape what is given and how "
        "it ends; where no column holds them, neither the proposal nor this page knows of them.",
        f"What happened within a step. Treatment is decided once a step (median {np.median(lengths):.0f} steps a "
        f"patient, at most {lengths.max():,}). What changed between two steps, and what came first within one, is "
        "not recorded.",
        "What nobody did. Of treatments that were hardly ever given in a state the model knows nothing. It guesses.",
        "Other places and times. The intervals are about more patients of the kind that was recorded, treated by the "
        "same people.",
    ]
    return Section("unknown", "What the data cannot tell", markup.listed(points))


def _columns(episodes: Episodes) -> str:
    space = episodes.observation_space
    if episodes.names.observation:
        return ", ".join(episodes.names.observation)
    if isinstance(space, Discrete):
        return f"the number of the state, one of {space.n}"
    return f"{episodes.obs.shape[1]} numbers without names"


def _method(runs: Sequence[Judged], gamma: float) -> Section:
    parts = [markup.paragraph(_sentence(verdict.estimand(runs[0].held, gamma)))]
    for run in runs:
        parts.append(markup.heading(run.verdict.title))
        refused = [f"{row.estimator} is not offered: {row.refused}" for row in run.verdict.rows if row.value is None]
        parts.append(markup.listed([*run.verdict.notes, *refused]))
    parts.append(markup.paragraph(verdict.CAVEAT))
    return Section("method", "How it was estimated", "".join(parts))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
