"""``rlkit verify RUN``: whether a run's files are what was written."""

from __future__ import annotations

from pathlib import Path

from rlkit.commands import World
from rlkit.commands.options import VerifyOptions
from rlkit.runs import integrity, serialization
from rlkit.runs.run import Record, lines
from rlkit.types import InputError

SOUND = "sound"


def run(options: VerifyOptions, world: World) -> int:
    """Print what is found, file by file; 1 if something is damaged. Raises InputError for what is no run directory."""
    if not (options.run / "run.json").exists():
        raise InputError(f"{options.run} is not a run directory: it has no run.json")
    found = _readable(options.run)
    for folder in _checkpoints(options.run / "checkpoints"):
        found |= _checkpoint(options.run, folder)
    if not any(name.startswith("checkpoints/") for name in found):
        found["checkpoints"] = f"{SOUND}: there is none yet"
    width = max(map(len, found))
    for name, state in found.items():
        print(f"{name:{width}}  {state}")
    return 0 if all(state.startswith(SOUND) for state in found.values()) else 1


def _readable(folder: Path) -> dict[str, str]:
    """The files that can be read as what they are. Whether they are what was written, the checkpoints know."""
    readers = {
        "run.json": lambda path: Record.read(path.parent),
        "metrics.jsonl": lambda path: list(lines(path)),
        "result.json": serialization.read_json,
    }
    found = {}
    for name, read in readers.items():
        if (folder / name).exists():
            try:
                read(folder / name)
                found[name] = SOUND
            except InputError as error:
                found[name] = f"damaged: {error}"
    return found


def _checkpoint(run: Path, folder: Path) -> dict[str, str]:
    """The state of one checkpoint, and of the run's files that are sealed with it."""
    name = folder.relative_to(run).as_posix()
    try:
        meta = integrity.check(folder)
    except integrity.Damaged as error:
        return {name: f"damaged: {error}"}
    found = {name: SOUND}
    for other, wanted in meta.get("beside", {}).items():
        try:
            integrity.verify(run / other, wanted, grows=other.endswith(".jsonl"))
        except integrity.Damaged as error:
            found[other] = f"damaged: {error}"
    return found


def _checkpoints(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("*") if path.name.isdigit()), key=lambda path: int(path.name))
