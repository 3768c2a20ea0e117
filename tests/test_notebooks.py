"""The notebooks run, at the small sizes that they name themselves, and end in asserts on what they show. What is saved
in them is shown as it is: without errors, warnings and paths of the machine that ran them, with every picture."""

import ast
import base64
import json
import re
import sys
import tempfile
import types
from pathlib import Path

import matplotlib
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
# UPDATES = 4000  # in the test suite: 20
SIZE = re.compile(r"^([A-Z][A-Z_]*) = .*  # in the test suite: (.+)$", re.MULTILINE)
MOST_UPDATES = 1000  # what the suite has time for
WRITEFILE = re.compile(r"%%writefile (\S+)\n")
DRAWS = re.compile(r"\bplt\.show\(\)|\bImage\(")  # what makes a picture under a cell
ABSOLUTE = re.compile(r"(?<![\w.:/<])/[\w.-]+/[\w.-]+")
LARGEST_PICTURE = 60_000  # bytes
NO_FAULT = "rlkit: training without evaluation: "  # what rlkit says on the error output although nothing is wrong

of_each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def source_of(cell):
    return "".join(cell["source"])


def run(source, scope, name):
    """What the notebook's kernel does with a cell, but for showing the value of its last line."""
    source = SIZE.sub(r"\1 = \2", source)
    to_file = WRITEFILE.match(source)
    if to_file:
        Path(to_file[1]).write_text(source[to_file.end() :])
    else:
        exec(compile(source, name, "exec"), scope)


@pytest.fixture
def kernel(tmp_path, monkeypatch, cache):
    """What a notebook has: a folder, from which modules are imported, and IPython's way to show a picture."""
    display = types.ModuleType("IPython.display")
    display.Image = lambda filename: Path(filename).read_bytes()
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setenv("RLKIT_CACHE_DIR", str(cache))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where notebooks that write make their folders
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")  # the folder that is the current one, also after a change
    imported = set(sys.modules)
    matplotlib.use("Agg")
    from matplotlib import pyplot  # takes long to import, where only this test needs it

    yield
    pyplot.close("all")
    for name in set(sys.modules) - imported:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path):  # written by the notebook
            del sys.modules[name]


@pytest.mark.slow
@of_each
def test_every_code_cell_runs(path, kernel):
    sources = [source_of(cell) for cell in code_cells(path)]
    assert isinstance(ast.parse(sources[-1]).body[-1], ast.Assert)
    scope: dict = {"__name__": f"notebook_{path.stem}"}
    for source in sources:
        run(source, scope, str(path))
    assert scope["UPDATES"] <= MOST_UPDATES


@of_each
def test_what_is_saved_has_no_error_no_warning_no_path_and_its_pictures(path):
    for cell in code_cells(path):
        pictures = []
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            data = output.get("data", {})
            text = "".join(output.get("text", [])) + "".join(data.get("text/plain", []))
            assert output.get("name") != "stderr" or all(line.startswith(NO_FAULT) for line in text.splitlines()), text
            assert "Warning" not in text
            assert not ABSOLUTE.search(text), ABSOLUTE.search(text)
            pictures += [base64.b64decode("".join(data[kind])) for kind in data if kind.startswith("image/")]
        assert all(len(picture) < LARGEST_PICTURE for picture in pictures)
        assert pictures or not DRAWS.search(source_of(cell)), source_of(cell)


def test_a_path_of_a_machine_is_known_from_a_name():
    for text in ("saved in /tmp/run/x", "'/home/me'", "folder=/work/a/b"):
        assert ABSOLUTE.search(text)
    assert not ABSOLUTE.search("hopper/medium-v0, 1 / 2, https://arxiv.org/abs/2106.01345, ../docs/python.md")


def test_from_a_table_to_an_exported_policy_takes_ten_lines():
    (notebook,) = (path for path in NOTEBOOKS if path.stem == "own_table")
    (cell,) = (source_of(cell) for cell in code_cells(notebook) if "rlkit.train(" in source_of(cell))
    lines = [line for line in cell.splitlines() if line.strip()]
    assert len(lines) <= 10 and max(map(len, lines)) <= 120
    for step in ("rlkit.check(", ".judge(", ".export(", "policy.load("):
        assert step in cell
