"""Origins of data files: the environment, its time limit, known faults. A file's name suggests them, and the widths of
its observations and actions must confirm them.

D4RL's files themselves say nothing of these. The table holds the families of D4RL (file names: d4rl/infos.py; time
limits: the registrations in d4rl/*/__init__.py) and of the small flat files that d3rlpy 1.x wrote. An environment is
given only where one that is registered today (Gymnasium 1.4, Gymnasium-Robotics 1.4) has the same observations and
actions; maze2d, antmaze and kitchen now have dictionary observations of other widths; Flow, CARLA and Bullet have none.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

_MUJOCO = (
    "recorded in {0}-v2 of an older simulator; evaluated in {0}-v4, the registered version with the same observations "
    "and rewards (v5 differs)"
)
_ADROIT = (
    "recorded in D4RL's own Adroit environments; Gymnasium-Robotics changed their dense rewards in 1.2.1, so that "
    "returns do not compare exactly with the data's"
)
_NONE = "no registered environment has the same observations and actions: name one with --env to evaluate"
_ANTMAZE = "antmaze files flag some time limits at the wrong step (D4RL issue 77): some steps may join two episodes"
_MAZE2D = (
    "maze2d files flag a change of goal as a time limit (D4RL issue 85) and rewards may be one step off (issue 194): "
    "episodes are pieces of one long motion"
)
# Same spaces, but not as registered: Ant with the contact forces of v2, pen with D4RL's time limit.
_ANT = EnvSpec(
    "Ant-v4", "gymnasium.envs.mujoco.ant_v4:AntEnv", max_episode_steps=1000, kwargs={"use_contact_forces": True}
).to_json()
_PEN = EnvSpec(
    "AdroitHandPen-v1", "gymnasium_robotics.envs.adroit_hand.adroit_pen:AdroitHandPenEnv", max_episode_steps=100
).to_json()


@dataclass(frozen=True)
class Origin:
    """env: an environment id, or an EnvSpec as JSON; None if none fits. limit: steps; None if nothing tells it."""

    pattern: str  # of the whole file name in lower case, without its suffix, "_" read as "-"
    observation: int  # numbers of an observation
    action: int  # numbers of an action; 1 for a choice
    limit: int | None
    env: str | None
    notes: tuple[str, ...]


# How D4RL and d3rlpy go on after the name of the environment: other words make it another world's file.
_KIND = r"(-(random|replay|medium|expert|mixed|full|simple|human|cloned|demos|v\d).*)?"
_TABLE = (
    Origin(r"bullet-maze2d-open.*", 4, 2, 150, None, (_NONE,)),
    Origin(r"bullet-maze2d-umaze.*", 4, 2, 300, None, (_NONE,)),
    Origin(r"bullet-maze2d-medium.*", 4, 2, 600, None, (_NONE,)),
    Origin(r"bullet-maze2d-large.*", 4, 2, 800, None, (_NONE,)),
    Origin(r"bullet-hopper" + _KIND, 15, 3, 1000, None, (_NONE,)),
    Origin(r"bullet-halfcheetah" + _KIND, 26, 6, 1000, None, (_NONE,)),
    Origin(r"bullet-ant" + _KIND, 28, 8, 1000, None, (_NONE,)),
    Origin(r"bullet-walker2d" + _KIND, 22, 6, 1000, None, (_NONE,)),
    Origin(r"maze2d-(eval-)?umaze.*-v1", 4, 2, 300, None, (_MAZE2D, _NONE)),
    Origin(r"maze2d-(eval-)?medium.*-v1", 4, 2, 600, None, (_MAZE2D, _NONE)),
    Origin(r"maze2d-(eval-)?large.*-v1", 4, 2, 800, None, (_MAZE2D, _NONE)),
    Origin(r"maze2d-(open|umaze).*", 4, 2, 150, None, (_MAZE2D, _NONE)),
    Origin(r"maze2d-medium.*", 4, 2, 250, None, (_MAZE2D, _NONE)),
    Origin(r"maze2d-large.*", 4, 2, 600, None, (_MAZE2D, _NONE)),
    Origin(r"ant-?maze.*-u-?maze.*", 29, 8, 700, None, (_ANTMAZE, _NONE)),
    Origin(r"ant-?maze.*", 29, 8, 1000, None, (_ANTMAZE, _NONE)),
    Origin(r"(mini-)?kitchen.*", 60, 9, 280, None, (_NONE,)),
    Origin(r"flow-ring.*", 3, 1, 500, None, (_NONE,)),
    Origin(r"flow-merge.*", 25, 5, 750, None, (_NONE,)),
    Origin(r"carla-lane.*", 6912, 2, 250, None, (_NONE,)),
    Origin(r"carla-town.*", 6912, 2, 1000, None, (_NONE,)),
    Origin(r"minigrid.*", 147, 1, 50, None, (_NONE,)),
    Origin(r"hopper" + _KIND, 11, 3, 1000, "Hopper-v4", (_MUJOCO.format("Hopper"),)),
    Origin(r"half-?cheetah" + _KIND, 17, 6, 1000, "HalfCheetah-v4", (_MUJOCO.format("HalfCheetah"),)),
    Origin(r"walker(2d)?" + _KIND, 17, 6, 1000, "Walker2d-v4", (_MUJOCO.format("Walker2d"),)),
    Origin(r"ant" + _KIND, 111, 8, 1000, _ANT, (_MUJOCO.format("Ant"),)),
    Origin(r"pen" + _KIND, 45, 24, 100, _PEN, (_ADROIT, "the time limit is D4RL's 100 steps; registered are 200")),
    Origin(r"door" + _KIND, 39, 28, 200, "AdroitHandDoor-v1", (_ADROIT,)),
    Origin(r"hammer" + _KIND, 46, 26, 200, "AdroitHandHammer-v1", (_ADROIT,)),
    Origin(r"relocate" + _KIND, 39, 30, 200, "AdroitHandRelocate-v1", (_ADROIT,)),
    Origin(r"cartpole" + _KIND, 4, 1, 500, "CartPole-v1", ()),
    Origin(r"pendulum" + _KIND, 3, 1, 200, "Pendulum-v1", ()),
)
_UNNAMED = "neither the file's name nor its contents tell the environment: name it with --env to evaluate"
# Files may hold choices as floats, and then only the environment shows that they are no amounts.
_CHOICES = {
    "CartPole-v0": 2,
    "CartPole-v1": 2,
    "Acrobot-v1": 3,
    "MountainCar-v0": 3,
    "LunarLander-v2": 4,
    "LunarLander-v3": 4,
}


def origin(stem: str, env: str | None, observations: np.ndarray, actions: np.ndarray) -> Origin:
    """Origin of a file called ``stem`` (no suffix) that holds these observations and actions, [N, ...] each. ``env``,
    where given, is the environment whatever the name.

    The time limit is the one that belongs to the name, since the data were recorded with it; where the name is not in
    the table, or the data are not as wide as it says, it is that of the environment's registration.
    """
    width = math.prod(observations.shape[1:])
    known = confirmed(stem, width, actions)
    notes: tuple[str, ...] = ()
    named = _named(stem)
    if named is not None and known is None:
        notes = (_contradiction(named, width, actions),)
    if env is None:
        if known is not None:
            return known
        return Origin("", 0, 0, None, None, (*notes, _UNNAMED))
    limit = None
    if known is not None:
        limit = known.limit
        notes = tuple(note for note in known.notes if note in (_ANTMAZE, _MAZE2D))  # the others are of environments
    if limit is None:
        limit = next((row.limit for row in _TABLE if row.env == env), None)
    if limit is None and env in gymnasium.registry:
        limit = gymnasium.registry[env].max_episode_steps
    return Origin("", 0, 0, limit, env, notes)


def confirmed(stem: str, width: int, actions: np.ndarray) -> Origin | None:
    """The row of the table that the file name suggests, if observations of ``width`` numbers and the actions, [N, ...],
    are those of its environment; None if they are not."""
    named = _named(stem)
    if named is None or width != named.observation or _width(actions) != named.action:
        return None
    count = choices(named.env)
    if count is not None and not _are_choices(actions, count):
        return None
    return named


def choices(env: str | None) -> int | None:
    """Number of actions of a well-known environment with discrete actions; None for any other."""
    return _CHOICES.get(env or "")


def _named(stem: str) -> Origin | None:
    name = stem.lower().replace("_", "-")
    return next((row for row in _TABLE if re.fullmatch(row.pattern, name)), None)


def _width(actions: np.ndarray) -> int:
    return math.prod(actions.shape[1:])


def _are_choices(actions: np.ndarray, count: int) -> bool:
    return bool(np.isin(actions, np.arange(count)).all())


def _contradiction(named: Origin, width: int, actions: np.ndarray) -> str:
    """The note on a name that the contents do not confirm."""
    expected = f"{named.observation} numbers in an observation and {named.action} in an action"
    has = f"{width} and {_width(actions)}"
    if (width, _width(actions)) == (named.observation, named.action):
        expected = f"choices of 0 to {choices(named.env) - 1}"
        has = "other actions"
    return f"the file's name is that of data with {expected}, and the file has {has}: the name is not used"
