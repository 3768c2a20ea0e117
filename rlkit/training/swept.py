"""Numbers in which learners differ that train side by side, as one program.

A learner holds its hyper-parameters as Python numbers, which the compiled program has as constants. Copies that differ
in some of them share a program if these become its inputs: `with_numbers` puts a traced number where the constant
stood. That works where the learner only reckons with the number. Where it decides something in Python by it (a
branch, a size, a schedule's shape), tracing fails, which `can_be_inputs` finds out without computing anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlkit.buffer import Buffer
from rlkit.types import Array, Key, Learner, Stage, State, Stats

Numbers = Mapping[str, Array]  # dotted name of a learner's field ("config.beta") -> its value, or [S] of them


def differences(learners: Sequence[Any]) -> dict[str, list[float]] | None:
    """The floats in which ``learners`` differ, by dotted name. None where they differ in anything else."""
    kind = type(learners[0])
    if any(type(learner) is not kind for learner in learners) or not dataclasses.is_dataclass(kind):
        return None
    found = {}
    for field in dataclasses.fields(kind):
        values = [getattr(learner, field.name) for learner in learners]
        if all(value == values[0] for value in values):
            continue
        if all(isinstance(value, float) for value in values):
            found[field.name] = values
            continue
        inner = differences(values)
        if inner is None:
            return None
        for name, numbers in inner.items():
            found[f"{field.name}.{name}"] = numbers
    return found


def by_stage(jobs: Sequence[Sequence[Stage]]) -> list[dict[str, list[float]]] | None:
    """For each stage the floats in which the learners of several ``jobs`` differ. None where the stages differ in
    anything else, or collect steps of their own."""
    if len({len(stages) for stages in jobs}) > 1:
        return None
    numbers = []
    for stages in zip(*jobs, strict=True):
        first = stages[0]
        alike = all(dataclasses.replace(stage, learner=first.learner) == first for stage in stages)
        found = differences([stage.learner for stage in stages])
        if not alike or first.online is not None or found is None:
            return None
        numbers.append(found)
    return numbers


def with_numbers(learner: Learner, numbers: Numbers) -> Learner:
    """The learner with other values in the named fields."""
    changes: dict[str, Any] = {}
    inner: dict[str, dict[str, Array]] = {}
    for name, value in numbers.items():
        field, _, rest = name.partition(".")
        if rest:
            inner.setdefault(field, {})[rest] = value
        else:
            changes[field] = value
    for field, values in inner.items():
        changes[field] = with_numbers(getattr(learner, field), values)
    return dataclasses.replace(learner, **changes) if changes else learner


def can_be_inputs(
    stages: Sequence[Stage], numbers: Sequence[Mapping[str, Sequence[float]]], buffer: Buffer, stats: Stats
) -> bool:
    """Whether the learners of ``stages`` can be compiled with these numbers, by stage, as inputs of the program."""

    def run(learners: Sequence[Learner], key: Key) -> list[State]:
        """The states at the start of each stage and after one update."""
        states = []
        state = None
        for number, (stage, learner) in enumerate(zip(stages, learners, strict=True)):
            if not stage.continues:
                state = learner.init(key, state, stats)
            states.append(state)
            batch = learner.sample(buffer, key)
            state, _ = learner.update(state, batch, key, jnp.int32(0))
            states.append(state)
            if stage.after is not None and number + 1 < len(stages):
                state = stage.after(state, buffer, key)
        return states

    def with_inputs(values: Sequence[Numbers], key: Key) -> list[State]:
        learners = []
        for stage, named in zip(stages, values, strict=True):
            learners.append(with_numbers(stage.learner, named))
        return run(learners, key)

    def with_constants(key: Key) -> list[State]:
        return run([stage.learner for stage in stages], key)

    one_of_each = []
    for named in numbers:
        one_of_each.append({name: np.float32(values[0]) for name, values in named.items()})
    key = jax.random.key(0)
    try:
        traced = jax.eval_shape(with_inputs, one_of_each, key)
    except (TypeError, ValueError):  # jax's errors of what needs a concrete number are TypeErrors
        return False
    usual = jax.eval_shape(with_constants, key)
    return _forms(traced) == _forms(usual)


def _forms(tree: Any) -> list[tuple[tuple[int, ...], str]]:
    return [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(tree)]
