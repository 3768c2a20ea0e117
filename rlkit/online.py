"""Online stages: an agent acts in an environment while it trains, and learns from what it collects.

How many steps are collected before which update follows from the numbers in `Online` alone. So a run is still counted
in updates, and one that was interrupted goes on as if it had not been.

This module does not import jax, so that a command line can be answered before jax is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from rlkit.ranges import Count, Range, Whole
from rlkit.types import InputError, Preset, Spec, Stage

Share = Annotated[float, Range("[0, 1)")]


@dataclass(frozen=True)
class Online:
    """How a stage collects steps. All counts are of one seed; what a seed collects does not depend on the others."""

    steps: Whole = 0
    """Environment steps to collect (episodes with --online.unit episode); 0: none, training is offline alone."""
    unit: Literal["step", "episode"] = "step"
    """What is counted. episode: an episode is learnt from when it has ended, as returns to go need it."""
    every: Count = 1
    """Units collected before each round of updates."""
    updates: Count = 1
    """Updates in a round."""
    warmup: Whole = 0
    """Units collected before the first round."""
    share: Share | None = None
    """Share of a batch that is drawn from the data, the rest from what was collected. 0: the data are not drawn from.
    None: in proportion to the rows of both."""
    capacity: Count = 1_000_000
    """Collected rows that are kept, the newest; an episode has one more than it has steps."""
    lanes: Count = 1
    """Environments side by side."""
    best: Whole = 0
    """Episodes of the data that the replay begins with: those of the highest returns, the worst of them first, which
    are the first to be written over. It then keeps about as many. 0: it begins empty."""

    @property
    def rounds(self) -> int:
        """Rounds of updates in a stage."""
        return max(self.steps - self.warmup, 0) // self.every

    def target(self, update: int) -> int:
        """Units that are collected before update number ``update``, which begins a round.

        At least the two ticks after which there is a step with a successor.
        """
        number = update // self.updates + 1
        wanted = self.warmup + self.every * number
        if self.unit == "step":
            wanted = max(wanted, 2 * self.lanes)
        return min(self.steps, wanted)

    def left_in_round(self, update: int) -> int:
        """Updates from ``update`` on to the end of its round."""
        return self.updates - update % self.updates

    def rows(self, horizon: int, best: Sequence[int] = ()) -> int:
        """Rows of a ring that holds all that the stage can collect, or ``capacity``, if that is less.

        horizon: steps of an episode at most. best: rows of each episode that the ring begins with. If there are as many
        as were asked for, it is full of them."""
        longest = horizon + 1
        if self.unit == "episode":
            most = (self.steps + self.lanes) * longest
        else:
            most = 2 * self.steps + 2 * self.lanes  # as many final observations as steps, at worst
        if self.best:
            missing = self.best - len(best)
            most = max(sum(best) + min(missing * longest, most), longest)
        rows = min(self.capacity, most)
        return max(rows // self.lanes, 2) * self.lanes


def defaults(config: Any, preset: Preset | None = None) -> Online:
    """How an agent goes online unless something else is asked for: what its Config, or the class, says in ``ONLINE``,
    and over it what the preset says in its ``online``. Without steps it stays offline."""
    fields = dict(getattr(config, "ONLINE", {}))
    if preset is not None:
        fields |= preset.online
    return Online(**fields)


def stages(config: Any, spec: Spec, steps: int, online: Sequence[Online] = ()) -> tuple[Stage, ...]:
    """The stages of ``config``, ``steps`` updates of the last of them, and then those of each of ``online``.

    A Config may say in a method ``online(spec, stages, online)`` which stages those are: where a schedule has run out,
    say. Without it one stage goes on with the last learner. Raises InputError where the agent or the numbers do not
    allow it.
    """
    found = tuple(config.stages(spec, steps))
    for plan in online:
        if plan.rounds < 1:
            raise InputError(
                f"--online.steps {plan.steps}: no round of updates fits, since {plan.warmup} are collected before the "
                f"first one and {plan.every} before each: raise it"
            )
        if plan.best and plan.unit == "step":
            raise InputError(
                f"--online.unit step: the replay begins with the {plan.best} best episodes of the data, so "
                "collect episodes too with --online.unit episode, or begin without with --online.best 0"
            )
        if hasattr(config, "online"):
            further = config.online(spec, found, plan)
        else:
            further = (continued(found[-1], plan),)
        found = (*found, *further)
    return found


def continued(stage: Stage, online: Online, **changes: Any) -> Stage:
    """A stage that goes on from ``stage`` online, with other values in its learner where ``changes`` name some."""
    learner = replace(stage.learner, **changes)
    name = stage.name if stage.online else f"{stage.name} online"
    return Stage(name, learner, online.rounds * online.updates, online=online, continues=True)


def first_acting(stages: Sequence[Stage]) -> int:
    """Number of the first stage that is evaluated: the last one that begins anew. Those after it go on from it."""
    return max(number for number, stage in enumerate(stages) if not stage.continues)
