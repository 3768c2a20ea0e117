"""The agents, by the name used on the command line. One line each; a module is imported when its agent is asked for."""

from typing import NamedTuple


class AgentEntry(NamedTuple):
    """``module`` exports Config and PRESETS; ``summary`` is the line shown by ``rlkit train --help``."""

    module: str
    summary: str


REGISTRY = {
    "bc": AgentEntry("agents.bc", "Behaviour cloning: imitate the data's actions"),
    "iql": AgentEntry("agents.iql", "Implicit Q-learning: advantage-weighted cloning (Kostrikov et al. 2022)"),
    "sac-rnd": AgentEntry("agents.sac_rnd", "SAC with a random-network-distillation penalty (Nikulin et al. 2023)"),
}
