"""A process of its own in which pyarrow reads Parquet and Arrow files, with limits on its memory and time.

pyarrow trusts what a file says of itself: a damaged one can end the process that reads it, and a small one can fill any
memory. So a child process reads the data, checks them, and writes them as an entry of the cache, which the parent maps
into its memory. Whatever ends the child is an InputError of one line in the parent. The child imports no jax; its start
takes about 0.4 s. It has the rights of its parent: it guards against damage, not against a file that takes it over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlkit.datasets import cache, sources
from rlkit.datasets.episodes import Episodes
from rlkit.datasets.options import ActionOptions, ColumnOptions, DataOptions
from rlkit.datasets.untrusted import fields
from rlkit.types import InputError, one_line

# Memory that a sound file may need, besides what is free: one-hot observations shrink to a thousandth when compressed.
LEAST_MEMORY = 4 * 2**30  # bytes
MEMORY_PER_BYTE = 1000
# Time that it may take: the slowest disks that are in use give a few MiB a second.
LEAST_SECONDS = 600
BYTES_PER_SECOND = 2**20
# The child looks for modules where its parent does, and nowhere else: not in the folder that it happens to run in.
START = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from rlkit.datasets.untrusted import reader_process
reader_process.main()
"""


@contextlib.contextmanager
def read(
    options: DataOptions, source: sources.Source, roots: Sequence[Path], infos: bool, *, cache_root: Path | None
) -> Iterator[tuple[Episodes, Path]]:
    """The data as read-only memory maps, and the folder that holds their files, in the form of the cache. The folder is
    in ``cache_root`` if that can be written, else in the system's folder of temporary files. It is removed at the end,
    unless it has been moved; the maps stay valid.

    Raises InputError.
    """
    name = source.path.name if source.path.is_file() else options.dataset
    with contextlib.ExitStack() as stack:
        folders = []
        if cache_root is not None:
            try:
                folders.append(stack.enter_context(cache.new_folder(cache_root)))
            except OSError as error:
                cache.warn_unwritable(cache_root, one_line(error))
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="rlkit-", ignore_cleanup_errors=True))
        folders.append(Path(temporary))
        request = {
            "dataset": options.dataset,
            "data_root": None if options.data_root is None else str(options.data_root),
            "env": options.env,
            "action": dataclasses.asdict(options.action),
            "columns": dataclasses.asdict(options.columns),
            "repair": options.repair,
            "roots": [str(root) for root in roots],
            "infos": infos,
            "folders": [str(folder) for folder in folders],
        }
        size = sum(path.stat().st_size for path in source.files())
        reply = _run(name, request, size)
        folder = Path(reply["folder"])
        if folder != folders[0]:
            cache.warn_unwritable(cache_root, reply["reason"])
        episodes = cache.read(folder)
        if episodes is None:
            raise InputError(f"{name}: was read, but {folder} does not hold what was written; check the disk")
        yield episodes, folder


def _run(name: str, request: dict[str, Any], size: int) -> dict[str, Any]:
    """The child's reply: the folder that it has written, and why it could not write the one before. ``size``: bytes of
    the source. Raises InputError, which begins with ``name``."""
    free = fields.free_memory()
    memory = min(free, fields.LIMIT, LEAST_MEMORY + MEMORY_PER_BYTE * size)
    seconds = LEAST_SECONDS + size // BYTES_PER_SECOND
    command = [sys.executable, "-P", "-c", START, json.dumps(sys.path)]
    try:
        done = subprocess.run(
            command,
            input=json.dumps({**request, "memory": memory, "seconds": seconds}),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            process_group=0,  # a Ctrl-C in the terminal is the parent's to answer
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{name}: was not read within {seconds} s; copy or write it again") from None
    reply = _last_json(done.stdout)
    if reply.get("fault") == "memory" or "bad_alloc" in done.stderr:
        raise InputError(
            f"{name}: needs over {memory / 2**30:.1f} GiB, more than the free memory ({free / 2**30:.1f} GiB), than "
            f"{fields.LIMIT >> 30} GiB, or than a file of its size can hold; use a smaller part of the data, or copy "
            "the file again if it is damaged"
        )
    if "fault" in reply:
        raise InputError(reply["fault"])
    if done.returncode or not reply:
        raise InputError(f"{name}: cannot be read ({_end(done)}); copy or write it again")
    return reply


def _end(done: subprocess.CompletedProcess[str]) -> str:
    """A phrase on how the child ended: its signal, or its exit code and last line."""
    if done.returncode < 0:
        return f"the process that read it ended with {signal.Signals(-done.returncode).name}"
    last_words = fields.last_line(done.stderr)
    return f"the process that read it ended with exit code {done.returncode}: {last_words[:200]}"


def _last_json(text: str) -> dict[str, Any]:
    """The JSON object in the last line; an empty one if the line is something else."""
    try:
        reply = json.loads(text.splitlines()[-1])
    except (IndexError, ValueError):
        return {}
    return reply if isinstance(reply, dict) else {}


def main() -> None:
    """The child: a request as JSON from standard input, a reply to standard output."""
    request = json.load(sys.stdin)
    _limit(request["memory"], request["seconds"])
    try:
        reply = _answer(request)
    except InputError as error:
        reply = {"fault": str(error)}
    except MemoryError:
        reply = {"fault": "memory"}
    except Exception as error:  # no damage may end in a traceback, whatever pyarrow makes of it
        reason = f"{type(error).__name__}: {one_line(error)}"
        reply = {"fault": f"{request['dataset']}: cannot be read ({reason}); copy or write it again"}
    print(json.dumps(reply))


def _limit(memory: int, seconds: int) -> None:
    """Allow ``memory`` bytes besides what the process has (Linux), ``seconds`` of CPU time (which ends a child that has
    lost its parent), and no core dumps."""
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # pyarrow's own sets 1 GiB aside at once
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet

    pyarrow.set_cpu_count(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        used = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (used + memory, used + memory))


def _options(kind: type, form: dict[str, Any]) -> Any:
    """The dataclass ``kind`` that was sent as JSON, which has no tuples."""
    values = {}
    for name, value in form.items():
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """Read and check the data, and write them into the first of the folders that can be written."""
    data_root = request["data_root"]
    options = DataOptions(
        dataset=request["dataset"],
        data_root=None if data_root is None else Path(data_root),
        env=request["env"],
        action=_options(ActionOptions, request["action"]),
        columns=_options(ColumnOptions, request["columns"]),
        repair=tuple(request["repair"]),
    )
    roots = [Path(root) for root in request["roots"]]
    source = sources.find(options, roots)
    episodes = source.episodes(options, request["infos"])
    reason = ""
    for folder in request["folders"]:
        try:
            cache.save(Path(folder), episodes)
            return {"folder": folder, "reason": reason}
        except OSError as error:
            reason = one_line(error)
    raise InputError(f"{options.dataset}: its values cannot be written to {folder}: {reason}; free space there")
