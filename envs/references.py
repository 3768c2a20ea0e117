"""Returns that count as 0 and as 100 in a normalised score, by environment id, with their sources.

They hold for the task that they were measured in: a time limit, and arguments of the constructor. In another one the
same return means something else, and no score is shown (rlkit.evaluation.task).

A dataset that names reference scores of its own takes precedence. Mazes are missing on purpose: D4RL's constants belong
to rewards that the registered mazes do not have, while the datasets made in those bring their own references.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Reference(NamedTuple):
    """Mean undiscounted returns. A score is 100 * (return - random) / (expert - random)."""

    random: float
    expert: float
    source: str
    steps: int  # the time limit of the task
    kwargs: tuple[Mapping[str, Any], ...] = ({},)  # sets of arguments that it holds for, beside the usual ones


_D4RL = "d4rl/infos.py of Farama-Foundation/D4RL"
_LOCOMOTION = f"{_D4RL}, measured in the v2 environment, used for all versions as the literature does"
_ADROIT = f"{_D4RL}, measured before Gymnasium-Robotics 1.2.1 changed the dense rewards"
_KITCHEN = f"{_D4RL}: the number of tasks completed, of four"
_PENDULUM = (
    "envs.toys.pendulum.references(): uniform actions, and a scripted swing-up at full torque; 100 seeded episodes"
)
_STIMULATION = (
    "envs.toys.brain_stimulation.references(): uniform levels, and a controller that knows it; 100 seeded days"
)
_SEPSIS = "envs.toys.icu_sepsis.references(): uniform actions, and an optimal policy; exact values"
_LAKE = "envs.toys.frozen_lake.references(): uniform actions, and an optimal policy; exact values"
_DETOUR = "envs.toys.detour.references(): uniform velocities, and the way above at full speed; 100 seeded episodes"
_U_TURN = "envs.toys.u_turn.references(): uniform velocities, and the direct walk; 100 seeded episodes"
_WALK = "envs.toys.walk.references(): uniform actions, 1000 seeded episodes; and an end that meets both constraints"
_CARTPOLE = "100 episodes of uniform actions (env seeds 0 to 99, actions from numpy's default_rng(0)); the time limit"

# v2 of the ant had the contact forces, of which later versions can do without; the literature scores both alike
_ANT_FORCES = ({}, {"use_contact_forces": True}, {"use_contact_forces": False})
# the tasks of D4RL's kitchen: complete and partial, mixed
_KITCHEN_TASKS = (
    {"tasks_to_complete": ["microwave", "kettle", "light switch", "slide cabinet"]},
    {"tasks_to_complete": ["microwave", "kettle", "bottom burner", "light switch"]},
)

REFERENCES: dict[str, Reference] = {
    **{f"HalfCheetah-v{n}": Reference(-280.178953, 12135.0, _LOCOMOTION, 1000) for n in (2, 3, 4, 5)},
    **{f"Hopper-v{n}": Reference(-20.272305, 3234.3, _LOCOMOTION, 1000) for n in (2, 3, 4, 5)},
    **{f"Walker2d-v{n}": Reference(1.629008, 4592.3, _LOCOMOTION, 1000) for n in (2, 3, 4, 5)},
    **{f"Ant-v{n}": Reference(-325.6, 3879.7, _LOCOMOTION, 1000, _ANT_FORCES) for n in (2, 3, 4, 5)},
    "AdroitHandPen-v1": Reference(96.262799, 3076.8331017826877, _ADROIT, 100),  # registered are 200 steps
    "AdroitHandHammer-v1": Reference(-274.856578, 12794.134825156867, _ADROIT, 200),
    "AdroitHandDoor-v1": Reference(-56.512833, 2880.5693087298737, _ADROIT, 200),
    "AdroitHandRelocate-v1": Reference(-6.425911, 4233.877797728884, _ADROIT, 200),
    "FrankaKitchen-v1": Reference(0.0, 4.0, _KITCHEN, 280, _KITCHEN_TASKS),
    "Pendulum-v1": Reference(-1166.440794190852, -138.26908571493766, _PENDULUM, 200),
    "BrainStimulation-v0": Reference(-103.63303451962344, -42.92937443299103, _STIMULATION, 100),
    "SlipperyLake-v0": Reference(0.013939795959171438, 0.7401648977587011, _LAKE, 100),
    "ICUSepsis-v0": Reference(0.7800709046121405, 0.875141699609933, _SEPSIS, 500),
    "Detour-v0": Reference(0.0, 41.51, _DETOUR, 64),
    "PointWalk-v0": Reference(0.272, 1.0, _WALK, 50),
    "UTurn-v0": Reference(0.0, 1.0, _U_TURN, 80),
    "CartPole-v1": Reference(23.68, 500.0, _CARTPOLE, 500),
}
