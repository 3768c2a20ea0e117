"""The dependency arrow and the rooms of the house, read off the imports."""

import ast
from pathlib import Path

import pytest

import agents

ROOT = Path(__file__).parent.parent
FILES = sorted(p for folder in ("rlkit", "agents", "envs") for p in (ROOT / folder).rglob("*.py")) + [ROOT / "train.py"]


def imports(path):
    """Every module that a file imports, however deep inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


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
