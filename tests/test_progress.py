"""What a person sees while something runs: phases by name, and a time left that compilation does not count for."""

import pytest

from rlkit.runs import progress
from rlkit.runs.progress import Display, Waiting


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def move(seconds):
        now[0] += seconds

    return move


def lines_of(capsys):
    return capsys.readouterr().out.splitlines()


def test_the_time_left_does_not_count_compilation_nor_the_first_evaluation(clock, capsys):
    with Display(1001) as display:
        display.enter("evaluation", "bc")
        clock(50)
        display.enter("compilation", "bc")
        clock(30)
        display.update("bc", 1, None)  # 80 seconds for one update of 1001: 22 hours, as if
        display.enter("training", "bc")
        clock(20)
        display.update("bc", 101, 5.0)
    assert lines_of(capsys) == [
        "bc: evaluating",
        "bc: compiling",
        "bc: 1 of 1001 updates",
        "bc: training",
        "bc: 101 of 1001 updates, 5.0 updates/s, 0:03:00 left",
    ]


def test_evaluations_in_between_count_and_the_next_compilation_does_not(clock, capsys):
    with Display(400) as display:
        for stage, done in (("rnd", 0), ("sac", 200)):
            display.enter("compilation", stage)
            clock(1000)
            display.update(stage, done, None)
            display.enter("training", stage)
            clock(10)
            display.update(stage, done + 100, 10.0)
            display.enter("evaluation", stage)
            clock(10)
            display.enter("training", stage)
            clock(1)
            display.update(stage, done + 200 - 1, 10.0)
    told = [line for line in lines_of(capsys) if "left" in line]
    # 10 seconds for 100 updates; with the evaluations 10 + 10 + 1 for 199 and then 31 for 299
    assert told == [
        "rnd: 100 of 400 updates, 10 updates/s, 0:00:30 left",
        "rnd: 199 of 400 updates, 10 updates/s, 0:00:21 left",
        "sac: 200 of 400 updates, 0:00:21 left",
        "sac: 300 of 400 updates, 10 updates/s, 0:00:10 left",
        "sac: 399 of 400 updates, 10 updates/s, 0:00:00 left",
    ]


def test_each_phase_is_named_once_where_there_is_no_bar_and_compilation_whenever_it_begins(clock, capsys):
    with Display(10) as display:
        for phase in ("compilation", "evaluation", "compilation", "training", "evaluation", "training"):
            display.enter(phase, "bc")
    assert lines_of(capsys) == [f"bc: {name}" for name in ("compiling", "evaluating", "compiling", "training")]


def test_what_is_waited_for_is_said_before_it_is_done_and_seconds_pass_on_a_terminal(capsys, monkeypatch):
    with Waiting("reading a"):
        assert capsys.readouterr().out == "reading a\n"
    with Waiting("reading a", quiet=True):
        pass
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the output for a terminal
    monkeypatch.setenv("TERM", "xterm")
    with Waiting("reading [a]"):
        pass
    shown = capsys.readouterr().out
    assert "reading [a]" in shown and "0:00:00" in shown
