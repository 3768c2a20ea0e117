"""The dependency arrow and the rooms of the house, read off the imports."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import agents

ROOT = Path(__file__).parent.parent
FILES = sorted(p for folder in ("rlkit", "agents", "envs") for p in (ROOT / folder).rglob("*.py")) + [ROOT / "train.py"]

# rlkit's rooms from the ground up: a file imports from its own floor and those below it
FLOORS = (
    {"messages", "types", "ranges"},
    {"datasets"},
    {"acting", "buffer", "columns", "losses", "networks", "online", "optim", "ring"},
    {"diffusion", "evaluation"},
    {"models", "training"},
    {"ope"},
    {"runs"},
    {"export", "report"},
    {"commands", "testing"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imports(path, *, for_types=True):
    """Every module that a file imports, however deep inside a function; those for types alone only if asked for."""
    tree = ast.parse(path.read_text())
    skipped = set()
    if not for_types:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                skipped.update(inner for statement in node.body for inner in ast.walk(statement))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_arrow(path):
    room = path.relative_to(ROOT).parts[0]
    tops = {name.split(".")[0] for name in imports(path)}
    forbidden = {
        "rlkit": {"agents", "envs", "train"},
        "agents": {"envs", "train", "gymnasium"},
        "envs": {"agents", "train"},
        "train.py": {"jax"},
    }[room]
    assert not tops & (forbidden | {"pickle", "cloudpickle", "dill"})
    if path.parent.name != "networks":
        assert not any(name.startswith("flax") for name in imports(path))
    if path.name != "checkpoint.py":
        assert not any(name.startswith("orbax") for name in imports(path))


def test_no_room_knows_one_above_it():
    for name, path in MODULES.items():
        parts = name.split(".")
        if parts[0] != "rlkit" or len(parts) == 1:
            continue
        for imported in imports(path, for_types=False):
            target = imported.split(".")
            if target[0] == "rlkit" and len(target) > 1 and target[1] in FLOOR:
                assert FLOOR[target[1]] <= FLOOR[parts[1]], f"{name} imports {imported}"


def test_only_the_composition_root_the_commands_and_the_front_door_import_the_commands():
    for name, path in MODULES.items():
        if name in ("train", "rlkit") or name.startswith("rlkit.commands"):
            continue
        assert not [imported for imported in imports(path) if imported.startswith("rlkit.commands")], name


def test_no_imports_go_round_in_a_circle():
    known = {name: {i for i in imports(path, for_types=False) if i in MODULES} for name, path in MODULES.items()}
    # a package whose __init__ imports its own files is named by each of them without being needed
    edges = {name: {i for i in found if i != name and not name.startswith(f"{i}.")} for name, found in known.items()}
    done, open_path = set(), []

    def visit(name):
        assert name not in open_path, " -> ".join([*open_path[open_path.index(name) :], name])
        if name in done:
            return
        open_path.append(name)
        for following in sorted(edges[name]):
            visit(following)
        done.add(open_path.pop())

    for name in sorted(edges):
        visit(name)


def test_an_agents_name_appears_in_its_file_and_the_registry_alone():
    names = {name: entry.module for name, entry in agents.REGISTRY.items()}
    for path in FILES:
        if path.parent.name == "agents":  # a composed agent may import a sibling and have it as a stage
            continue
        strings = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
        assert not strings & set(names), path
        assert not any(module.startswith(tuple(names.values())) for module in imports(path)), path


def test_no_file_unpickles():
    for path in FILES:
        assert "allow_pickle=True" not in path.read_text(), path


@pytest.mark.slow
def test_every_module_is_in_the_wheel_and_can_be_imported_from_it(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    installed = {module for module in MODULES if (tmp_path / "installed" / _inside(module)).exists()}
    assert installed == set(MODULES)
    assert (tmp_path / "installed/rlkit/report/style.css").exists()
    code = "import importlib, sys; sys.path.insert(0, '.')\nfor name in sys.argv[1:]: importlib.import_module(name)"
    command = [sys.executable, "-c", code, *sorted(MODULES)]
    done = subprocess.run(command, cwd=tmp_path / "installed", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _inside(name):
    return MODULES[name].relative_to(ROOT)
