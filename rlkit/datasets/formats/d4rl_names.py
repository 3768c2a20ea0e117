"""Origins of data files, from their names: the environment, its time limit, known faults.

D4RL's files themselves say nothing of these. The table holds the families of D4RL (file names: d4rl/infos.py; time
limits: the registrations in d4rl/*/__init__.py) and of the small flat files that d3rlpy 1.x wrote. An environment is
given only where one that is registered today (Gymnasium 1.4, Gymnasium-Robotics 1.4) has the same observations and
actions; maze2d, antmaze and kitchen now have dictionary observations of other widths; Flow, CARLA and Bullet have none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import gymnasium
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
    """env: an environment id, or an EnvSpec as JSON; None if none fits. limit: steps; None if the name says nothing."""

    pattern: str  # of the whole file name in lower case, without its suffix, "_" read as "-"
    limit: int | None
    env: str | None
    notes: tuple[str, ...]


_TABLE = (
    Origin(r"bullet-maze2d-open.*", 150, None, (_NONE,)),
    Origin(r"bullet-maze2d-umaze.*", 300, None, (_NONE,)),
    Origin(r"bullet-maze2d-medium.*", 600, None, (_NONE,)),
    Origin(r"bullet-maze2d-large.*", 800, None, (_NONE,)),
    Origin(r"bullet-.*", 1000, None, (_NONE,)),
    Origin(r"maze2d-(eval-)?umaze.*-v1", 300, None, (_MAZE2D, _NONE)),
    Origin(r"maze2d-(eval-)?medium.*-v1", 600, None, (_MAZE2D, _NONE)),
    Origin(r"maze2d-(eval-)?large.*-v1", 800, None, (_MAZE2D, _NONE)),
    Origin(r"maze2d-(open|umaze).*", 150, None, (_MAZE2D, _NONE)),
    Origin(r"maze2d-medium.*", 250, None, (_MAZE2D, _NONE)),
    Origin(r"maze2d-large.*", 600, None, (_MAZE2D, _NONE)),
    Origin(r"ant-?maze.*-u-?maze.*", 700, None, (_ANTMAZE, _NONE)),
    Origin(r"ant-?maze.*", 1000, None, (_ANTMAZE, _NONE)),
    Origin(r"(mini-)?kitchen.*", 280, None, (_NONE,)),
    Origin(r"flow-ring.*", 500, None, (_NONE,)),
    Origin(r"flow-merge.*", 750, None, (_NONE,)),
    Origin(r"carla-lane.*", 250, None, (_NONE,)),
    Origin(r"carla-town.*", 1000, None, (_NONE,)),
    Origin(r"minigrid.*", 50, None, (_NONE,)),
    Origin(r"hopper\b.*", 1000, "Hopper-v4", (_MUJOCO.format("Hopper"),)),
    Origin(r"half-?cheetah\b.*", 1000, "HalfCheetah-v4", (_MUJOCO.format("HalfCheetah"),)),
    Origin(r"walker(2d)?\b.*", 1000, "Walker2d-v4", (_MUJOCO.format("Walker2d"),)),
    Origin(r"ant-(random|medium|expert|mixed|full|simple).*", 1000, _ANT, (_MUJOCO.format("Ant"),)),
    Origin(r"pen\b.*", 100, _PEN, (_ADROIT, "the time limit is D4RL's 100 steps; registered are 200")),
    Origin(r"door\b.*", 200, "AdroitHandDoor-v1", (_ADROIT,)),
    Origin(r"hammer\b.*", 200, "AdroitHandHammer-v1", (_ADROIT,)),
    Origin(r"relocate\b.*", 200, "AdroitHandRelocate-v1", (_ADROIT,)),
    Origin(r"cartpole\b.*", 500, "CartPole-v1", ()),
    Origin(r"pendulum\b.*", 200, "Pendulum-v1", ()),
)
_UNKNOWN = Origin("", None, None, ("the file name does not tell the environment: name it with --env to evaluate",))
# Files may hold choices as floats, and then only the environment shows that they are no amounts.
_CHOICES = {"CartPole-v0", "CartPole-v1", "Acrobot-v1", "MountainCar-v0", "LunarLander-v2", "LunarLander-v3"}


def origin(stem: str, env: str | None) -> Origin:
    """Origin of a file called ``stem`` (no suffix). ``env``, where given, is the environment whatever the name.

    The time limit is the one that belongs to the name, since the data were recorded with it; where the name is not in
    the table, it is that of the environment's registration.
    """
    name = stem.lower().replace("_", "-")
    known = next((row for row in _TABLE if re.fullmatch(row.pattern, name)), _UNKNOWN)
    if env is None:
        return known
    limit = known.limit or next((row.limit for row in _TABLE if row.env == env), None)
    if limit is None and env in gymnasium.registry:
        limit = gymnasium.registry[env].max_episode_steps
    faults = tuple(note for note in known.notes if note in (_ANTMAZE, _MAZE2D))  # the other notes are of environments
    return Origin(known.pattern, limit, env, faults)


def has_choices(env: str | None) -> bool:
    """Whether ``env`` is a well-known environment with discrete actions."""
    return env in _CHOICES
