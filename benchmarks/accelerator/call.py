"""The call: its four parts in order, each within its share of the time."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from agents import REGISTRY
from benchmarks.accelerator.files import Carried, Results, digest, one_line, versions
from benchmarks.accelerator.speed import ceilings, loops, rates
from benchmarks.accelerator.training import train
from rlkit.types import InputError

SHARES = {"a": 1, "b": 8, "c": 2, "d": 14}  # of the time


def call(out: Path, seconds: float, parts: str, agents: Sequence[str] | None, table: Path, home: Path) -> int:
    """Run the parts, each until its share of the time is used; what one leaves goes to those after it. A part that
    fails is told, and the next one begins. Parts b and c measure ``agents``: if None are named all, those of the table
    first. Returns the exit code."""
    began = time.monotonic()
    carried = Carried(home / "carry")
    if carried.table != digest(table):
        raise InputError(f"{carried.folder} was packed for another state of {table}: pack it again")
    if wrong := (set(agents or ()) - set(REGISTRY)) | (set(parts) - set(SHARES)):
        raise InputError(f"there is no part or agent {sorted(wrong)[0]!r}")
    agents = agents or list(dict.fromkeys([*(cell.record.agent for cell in carried.cells), *REGISTRY]))
    device = jax.devices()[0].device_kind
    results = Results(out, {"device": device, "commit": carried.commit, "versions": versions()})
    measures: dict[str, Callable[[float], None]] = {
        "a": functools.partial(ceilings, results),
        "b": functools.partial(rates, results, agents),
        "c": functools.partial(loops, results, agents),
        "d": functools.partial(train, results, carried),
    }
    chosen, used, failed = [part for part in SHARES if part in parts], 0, False
    for part in chosen:
        used += SHARES[part]
        until = began + seconds * used / sum(SHARES[part] for part in chosen)
        try:
            measures[part](until)
        except Exception as error:  # the parts to come are still worth their time on a machine that is lent
            traceback.print_exc()
            results.tell(part=part, failed=one_line(error))
            failed = True
    results.tell(part="end", seconds=round(time.monotonic() - began, 1))
    return int(failed)
