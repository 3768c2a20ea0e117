"""Part d of a call: training of the table's cells at their full budget, cut off where the time is used."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator import files
from benchmarks.accelerator.files import Carried, Cell, Results, memory, size, versions
from rlkit.acting import first_goal
from rlkit.buffer import Buffer, abstract, needs
from rlkit.datasets.normaliser import Normaliser
from rlkit.runs.record import Record, rebuild
from rlkit.training import divergence
from rlkit.training.loop import Progress, abstract_state, fit
from rlkit.training.sharding import make_mesh
from rlkit.types import Percept, State, Stats

CHUNK = 0.5  # seconds between two looks at the clock
KEEP = 30.0  # seconds between two copies of the full state

now = time.monotonic


def train(results: Results, carried: Carried, until: float) -> None:
    """Part d. A cell that the time does not suffice for is kept as it stands."""
    for cell in carried.cells:
        if cell.id in carried.finished:
            continue
        if now() > until or not Training(cell, carried, results).run(until):
            return


class Training:
    """The training of one cell, begun anew or gone on with."""

    def __init__(self, cell: Cell, carried: Carried, results: Results):
        self.cell, self.results, record = cell, results, cell.record
        self.stages = rebuild(record)
        normaliser = Normaliser.from_json(record.normaliser)
        self.buffer = Buffer.from_episodes(carried.episodes(cell), normaliser, needs(self.stages))
        self.stats = stats_of(record)
        self.limit = divergence.limit_of(self.stages, self.buffer, self.stats, record.spec.horizon)
        self.meta: dict[str, Any] = {"id": cell.id, "seconds": 0.0, "metrics": [], "diverged": {}}
        self.meta |= {"commit": "", "device": ""}
        self.resume = self._resume(carried)
        here = {"commit": carried.commit, "device": f"1 x {jax.devices()[0].device_kind}"}
        for name, value in here.items():  # a cell may have been begun with other code, or on another device
            past = self.meta[name]
            self.meta[name] = past if past.endswith(value) else f"{past} then {value}".removeprefix(" then ")
        self.obstacle = files.obstacle(carried.bytes, results.sizes(), *bytes_kept(record))

    def run(self, until: float) -> bool:
        """Train; whether there is time for another cell. One that could not be carried is not begun."""
        if self.obstacle:
            self._tell(0, 0, not_begun=self.obstacle)
            return True
        before, began, kept = self.meta["seconds"], now(), now()
        for progress in self._progress():
            place = {"stage": progress.stage, "step": progress.step, "summed": progress.summed}
            self.meta |= place | {"seconds": before + now() - began}
            if progress.metrics:
                self._judge(progress)
            if self._over(progress):
                self._finish(progress)
                return True
            if now() > until or now() > kept + KEEP:
                self._keep(progress)
                kept = now()
            if now() > until:
                return False
        raise AssertionError("fit ends with the last update")

    def _progress(self) -> Iterator[Progress]:
        record, mesh = self.cell.record, make_mesh(len(self.cell.record.seeds), jax.devices()[:1])
        options = {"log_every": record.log_every, "mesh": mesh, "resume": self.resume, "chunk_seconds": CHUNK}
        return fit(self.stages, self.buffer, self.stats, record.seeds, **options)

    def _resume(self, carried: Carried) -> Progress | None:
        if carried.unfinished is None or carried.unfinished[0]["id"] != self.cell.id:
            return None
        self.meta, arrays = carried.unfinished
        state = files.filled(shapes_of(self.cell.record)[self.meta["stage"]], arrays)
        sums = {name.removeprefix("sums/"): value for name, value in arrays.items() if name.startswith("sums/")}
        place = self.meta["stage"], self.meta["step"]
        return Progress(*place, state, sums, {}, np.zeros(0, bool), summed=self.meta["summed"])

    def _judge(self, progress: Progress) -> None:
        """Note the metrics as a run's log has them, and the seeds that have diverged."""
        found = divergence.diverged(progress.metrics, progress.finite, self.limit)
        self.meta["diverged"] = {str(seed): what for seed, what in found.items()} | self.meta["diverged"]
        metrics = divergence.without(progress.metrics, map(int, self.meta["diverged"]))
        place = {"stage": progress.stage, "step": progress.step, "updates": self._updates(progress)}
        self.meta["metrics"].append(place | {"metrics": {name: metrics[name] for name in sorted(metrics)}})

    def _over(self, progress: Progress) -> bool:
        return self._done(progress) or len(self.meta["diverged"]) == len(self.cell.record.seeds)

    def _done(self, progress: Progress) -> bool:
        return progress.stage == len(self.stages) - 1 and progress.step == self.stages[-1].steps

    def _updates(self, progress: Progress) -> int:
        return sum(stage.steps for stage in self.stages[: progress.stage]) + progress.step

    def _keep(self, progress: Progress) -> None:
        state, sums = jax.device_get((progress.state, progress.sums))
        self.results.keep(files.encode(self.meta, files.named(state, "state") | files.named(sums, "sums")))
        self._tell(progress.stage, progress.step)

    def _finish(self, progress: Progress) -> None:
        record = replace(self.cell.record, versions=versions(), device=self.meta["device"])
        arrays = files.named(jax.device_get(progress.state), "state")
        read = policy(record) if self._done(progress) else []
        meta = self.meta | {"cell": self.cell._replace(record=record)}
        self.results.finish(self.cell.id, files.encode(meta, {name: arrays[name] for name in read}))
        self._tell(progress.stage, progress.step, finished=True)

    def _tell(self, stage: int, step: int, **more: Any) -> None:
        place = {"cell": self.cell.label, "dataset": self.cell.dataset, "stage": self.stages[stage].name, "step": step}
        seconds = round(self.meta["seconds"], 1)
        self.results.tell(part="d", **place, seconds=seconds, diverged=self.meta["diverged"], **memory(), **more)


def stats_of(record: Record) -> Stats:
    """The moments of a run's data."""
    return Stats(**{name: np.array(value, np.float32) for name, value in record.stats.items()})


def shapes_of(record: Record) -> list[State]:
    """Shapes and dtypes of the state of each stage of a run; nothing is computed."""
    stages = rebuild(record)
    rows = abstract(record.spec, record.data.rows, record.data.steps, needs(stages))
    return [abstract_state(stages, number, rows, stats_of(record), record.seeds) for number in range(len(stages))]


def policy(record: Record) -> list[str]:
    """The names of the arrays of a run's last state that its policies read."""
    return acting(rebuild(record)[-1].learner, shapes_of(record)[-1], record.spec.observation.shape[0])


def bytes_kept(record: Record) -> tuple[int, int]:
    """Of a run's policies, and of its full state in the stage where that is largest."""
    shapes = shapes_of(record)
    last = files.named(shapes[-1], "state")
    return size([last[name] for name in policy(record)]), max(map(size, shapes))


def acting(agent: Any, shapes: State, width: int) -> list[str]:
    """The names of the arrays that the policy reads: what `evaluate` needs of a state, [S] on every leaf.

    width: of an observation.
    """

    def act(state: State, obs: Any) -> Any:
        percept = Percept(obs, jnp.zeros(()), jnp.zeros((), jnp.int32))
        memory = agent.observe(state, agent.begin(state, first_goal(agent)), percept)
        return agent.act(state, memory, jax.random.key(0), greedy=True)

    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), shapes)
    obs = jax.ShapeDtypeStruct((width,), np.float32)
    jaxpr = jax.make_jaxpr(act)(one, obs).jaxpr
    read = {id(value) for eqn in jaxpr.eqns for value in eqn.invars} | {id(value) for value in jaxpr.outvars}
    names = list(files.named(shapes, "state"))
    return [name for name, value in zip(names, jaxpr.invars, strict=False) if id(value) in read]
