"""The agents, by the name used on the command line. One line each; a module is imported when its agent is asked for."""

from typing import NamedTuple


class AgentEntry(NamedTuple):
    """``module`` exports Config and PRESETS; ``summary`` is the line shown by ``rlkit train --help``."""

    module: str
    summary: str


REGISTRY = {
    "bc": AgentEntry("agents.bc", "Behaviour cloning: imitate the data's actions"),
    "cql": AgentEntry("agents.cql", "Conservative Q-learning (Kumar et al. 2020), or Cal-QL (Nakamoto et al. 2023)"),
    "discrete-cql": AgentEntry("agents.discrete_cql", "Conservative Q-learning for discrete actions"),
    "edac": AgentEntry("agents.edac", "SAC with diverse critics, or SAC-N (An et al. 2021)"),
    "sac": AgentEntry("agents.sac", "Soft actor-critic without pessimism (Haarnoja et al. 2018)"),
    "iql": AgentEntry("agents.iql", "Implicit Q-learning: advantage-weighted cloning (Kostrikov et al. 2022)"),
    "sac-rnd": AgentEntry("agents.sac_rnd", "SAC with a random-network-distillation penalty (Nikulin et al. 2023)"),
}
