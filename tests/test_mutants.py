"""The mutants still apply to the code; that their tests see them is what ``make mutants`` shows."""

import ast
import subprocess
import sys
from pathlib import Path

import mutants.__main__ as runner
import pytest

ROOT = Path(__file__).parent.parent
ALL = runner.mutants()
LONG = f"test_twice_one_is_two{'_and_once_more' * 10}"


@pytest.mark.parametrize("mutant", ALL, ids=[mutant.name for mutant in ALL])
def test_a_mutant_applies(mutant):
    changed = mutant.applied((ROOT / mutant.file).read_text())
    ast.parse(changed)
    assert mutant.why and mutant.find != mutant.replace


@pytest.mark.slow
def test_every_mutants_test_exists_with_its_parameters():
    tests = sorted({mutant.test for mutant in ALL})
    command = [sys.executable, "-m", "pytest", "-n", "0", "--collect-only", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, [line for line in done.stdout.splitlines() if line.startswith("ERROR")]


@pytest.fixture
def tree(tmp_path):
    """A project of one function and two tests."""
    (tmp_path / "double.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "test_double.py").write_text(
        "from double import double\n\n"
        f"def {LONG}():\n    assert double(1) == 2\n\n"
        "def test_nothing():\n    assert True\n"
    )
    return tmp_path


def mutant(find="2 * x", replace="3 * x", test=f"test_double.py::{LONG}"):
    return runner.Mutant("name", "why", "double.py", find, replace, test)


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "killed"),
        ({"test": "test_double.py::test_nothing"}, "LIVES ON"),
        ({"replace": "2 * y"}, "crashes, which shows nothing: NameError"),
        ({"test": "test_double.py::test_gone"}, "pytest could not run the test"),
        ({"find": "4 * x"}, "no longer applies: its text is 0 times in double.py"),
        ({"find": "x"}, "no longer applies: its text is 2 times in double.py"),
    ],
)
def test_what_becomes_of_a_mutant(tree, changes, outcome):
    before = (tree / "double.py").read_text()
    assert runner.tried(mutant(**changes), tree).startswith(outcome)
    assert (tree / "double.py").read_text() == before


def test_a_mutant_of_a_file_that_is_gone_says_so(tree):
    assert runner.tried(mutant()._replace(file="gone.py"), tree) == "no longer applies: there is no gone.py"


def test_an_unknown_name_is_refused(capsys):
    assert runner.main(["no-such-mutant"]) == 2
    assert capsys.readouterr().err == "no mutant is called no-such-mutant\n"
