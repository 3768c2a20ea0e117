"""``rlkit verify RUN``: whether a run's files are what was written."""

from __future__ import annotations

from pathlib import Path

from rlkit.commands import Catalog
from rlkit.commands.options import VerifyOptions
from rlkit.datasets import sums
from rlkit.runs import integrity, serialization
from rlkit.runs.record import Record
from rlkit.runs.run import checkpoint_numbers, earlier_records, lines
from rlkit.types import InputError

SOUND = "sound"


def run(options: VerifyOptions, catalog: Catalog) -> int:
    """Print the state of each file; 1 if something is damaged. Raises InputError for what is no run directory."""
    folder = options.run
    if not (folder / "run.json").exists():
        raise InputError(f"{folder} is not a run directory: it has no run.json")
    states = _readable(folder)
    numbers = checkpoint_numbers(folder / "checkpoints")
    for number in numbers:
        states |= _checkpoint(folder, folder / "checkpoints" / str(number))
    if not numbers:
        states["checkpoints"] = f"{SOUND}: there is none yet"
    width = max(map(len, states))
    for name, state in states.items():
        print(f"{name:{width}}  {state}")
    is_sound = all(state.startswith(SOUND) for state in states.values())
    return 0 if is_sound else 1


def _readable(folder: Path) -> dict[str, str]:
    """File of the run -> its state: whether it can be read. That it is what was written, the checkpoints know."""
    readers = {
        "run.json": lambda path: Record.read(path.parent),
        "metrics.jsonl": lambda path: list(lines(path)),
        "result.json": serialization.read_json,
        sums.FILE: lambda path: sums.read(path.parent),
    }
    states = {}
    for name, read in readers.items():
        path = folder / name
        if not path.exists():
            continue
        try:
            read(path)
        except InputError as error:
            states[name] = f"damaged: {error}"
        else:
            states[name] = SOUND
    return states


def _checkpoint(run: Path, folder: Path) -> dict[str, str]:
    """The states of one checkpoint, and of the run's files that are sealed with it."""
    name = folder.relative_to(run).as_posix()
    try:
        meta = integrity.check(folder)
    except integrity.Damaged as error:
        return {name: f"damaged: {error}"}
    states = {name: SOUND}
    for other, expected in meta.get("beside", {}).items():
        try:
            grows = other.endswith(".jsonl")
            paths = [run / other] if grows else [run / other, *earlier_records(run)]
            integrity.verify_one(paths, expected, grows=grows)
        except integrity.Damaged as error:
            states[other] = f"damaged: {error}"
    return states
