"""Lines on stderr: whole where a program reads them, wrapped where a person does."""

import pytest

from rlkit import messages

LONG = "runs/a: " + "the words of a message that nobody has cut " * 4 + "end"


@pytest.fixture
def terminal(monkeypatch):
    """Have stderr taken for a terminal of so many columns."""

    def of(columns):
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(columns))

    return of


def test_a_file_keeps_one_line(capsys):
    messages.tell(LONG)
    assert capsys.readouterr().err == f"rlkit: {LONG}\n"


@pytest.mark.parametrize(("columns", "most"), [(200, 80), (50, 50)])
def test_a_terminal_gets_lines_of_its_width_and_at_most_80(capsys, terminal, columns, most):
    terminal(columns)
    messages.tell(LONG)
    lines = capsys.readouterr().err.splitlines()
    assert most - 10 < max(map(len, lines)) <= most and lines[0].startswith("rlkit: runs/a: the ")
    assert " ".join(" ".join(lines).split()) == f"rlkit: {LONG}"


def test_what_is_to_be_copied_is_not_broken(capsys, terminal):
    terminal(80)
    code = "`t['action'] = t['action'].map({'left': 0, 'middle': 1, 'right': 2}).astype('Int64')`"
    messages.tell(f"x.csv: line 2: action is 'left'; expected a number; number its words in pandas: {code}")
    assert f"  {code}" in capsys.readouterr().err.splitlines()


def test_a_mistake_on_the_command_line_is_wrapped_too(rlkit_command, terminal):
    terminal(80)
    code, _, err = rlkit_command("train", "--resume", "auto", "--out", "no-such-run-" * 5)
    assert code == 2 and len(err.splitlines()) > 1 and max(map(len, err.splitlines())) <= 80
