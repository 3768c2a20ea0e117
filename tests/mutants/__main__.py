"""Faults that a test must see: each is put into a copy of the tracked files, and its test must pass without it and fail
with it.

    python -m tests.mutants            # all
    python -m tests.mutants cql        # those with "cql" in their name

A mutant is a file NAME.toml beside this one: ``why`` it is a fault, the ``file`` that it changes, the text to ``find``
there (once), what to ``replace`` it with, and the ``test`` that must break. A piece of text and not a diff, so that it
outlives changes around it; where the text itself has moved or changed, the mutant says so and must be written anew.
Exits with 1 if a mutant lives on, crashes, or no longer applies.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
KILLED = "killed"
PASSED, FAILED = 0, 1  # exit codes of pytest; others mean that it could not run the test


class Mutant(NamedTuple):
    """One fault, as its file has it."""

    name: str
    why: str
    file: str
    find: str
    replace: str
    test: str

    def applied(self, text: str) -> str:
        """``text`` with the fault. Raises LookupError unless the place is there, and once."""
        places = text.count(self.find)
        if places != 1:
            raise LookupError(
                f"no longer applies: its text is {places} times in {self.file}; write it for the new code"
            )
        return text.replace(self.find, self.replace)


def mutants(folder: Path = Path(__file__).parent) -> list[Mutant]:
    """All of a folder, by name. Raises TypeError where a file lacks a key or has one too many."""
    return [Mutant(path.stem, **tomllib.loads(path.read_text())) for path in sorted(folder.glob("*.toml"))]


def copy_of_tracked_files(target: Path) -> None:
    """What git tracks, as it stands in the working tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def run(tests: list[str], tree: Path) -> subprocess.CompletedProcess:
    """pytest on some tests of ``tree``. No bytecode is kept: a stale file of it could hide a mutant."""
    environment = {"JAX_COMPILATION_CACHE_DIR": str(tree / ".xla"), **os.environ}
    environment |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["COLUMNS"] = "1000"  # pytest leaves the reason of a failure out where a line would be too long
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "--tb=short", "-rfE", *tests]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)


def judged(done: subprocess.CompletedProcess) -> str:
    """KILLED if an assertion of the test failed, else what happened instead."""
    if done.returncode == PASSED:
        return "LIVES ON: the test passes with it"
    if done.returncode != FAILED:
        return f"pytest could not run the test (exit code {done.returncode})"
    reason = re.search(r"^(?:FAILED|ERROR) \S.*? - (.*)$", done.stdout, re.MULTILINE)
    reason = reason[1] if reason else "no reason given"
    if reason.startswith(("AssertionError", "assert ", "Failed:")):
        return KILLED
    return f"crashes, which shows nothing: {reason}"


def tried(mutant: Mutant, tree: Path) -> str:
    """What becomes of one mutant in ``tree``, which is left as it was."""
    path = tree / mutant.file
    if not path.exists():
        return f"no longer applies: there is no {mutant.file}"
    before = path.read_text()
    try:
        path.write_text(mutant.applied(before))
        return judged(run([mutant.test], tree))
    except LookupError as fault:
        return str(fault)
    finally:
        path.write_text(before)


def main(argv: list[str]) -> int:
    """All mutants whose names have one of the words, or all."""
    chosen = [m for m in mutants() if not argv or any(word in m.name for word in argv)]
    if not chosen:
        print(f"no mutant is called {' or '.join(argv)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder)
        copy_of_tracked_files(tree)
        clean = run(sorted({mutant.test for mutant in chosen}), tree)
        if clean.returncode != PASSED:
            print(clean.stdout + clean.stderr, file=sys.stderr)
            print("the tests must pass without mutants first", file=sys.stderr)
            return 1
        width = max(len(mutant.name) for mutant in chosen)
        outcomes = []
        for mutant in chosen:
            outcomes.append(tried(mutant, tree))
            print(f"{mutant.name:{width}}  {outcomes[-1]:6}  {mutant.test}", flush=True)
    killed = outcomes.count(KILLED)
    print(f"{killed} of {len(outcomes)} mutants killed")
    return 0 if killed == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
