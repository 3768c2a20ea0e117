"""The agents, by the name used on the command line. One line each; a module is imported when its agent is asked for."""

from typing import NamedTuple


class AgentEntry(NamedTuple):
    """``module`` exports Config and PRESETS; ``summary`` is the line shown by ``rlkit train --help``."""

    module: str
    summary: str


REGISTRY = {
    "bc": AgentEntry("agents.bc", "Behaviour cloning: imitate the data's actions"),
    "awac": AgentEntry("agents.awac", "Actor-critic with an advantage-weighted actor (Nair et al. 2020)"),
    "cql": AgentEntry("agents.cql", "Conservative Q-learning (Kumar et al. 2020), or Cal-QL (Nakamoto et al. 2023)"),
    "dt": AgentEntry("agents.dt", "Decision transformer: the actions that led to a return (Chen et al. 2021)"),
    "discrete-cql": AgentEntry("agents.discrete_cql", "Conservative Q-learning for discrete actions"),
    "edac": AgentEntry("agents.edac", "SAC with diverse critics, or SAC-N (An et al. 2021)"),
    "iql": AgentEntry("agents.iql", "Implicit Q-learning: advantage-weighted cloning (Kostrikov et al. 2022)"),
    "rebrac": AgentEntry("agents.rebrac", "TD3+BC with a penalty in the critics' target too (Tarasov et al. 2023)"),
    "sac": AgentEntry("agents.sac", "Soft actor-critic without pessimism (Haarnoja et al. 2018)"),
    "sac-rnd": AgentEntry("agents.sac_rnd", "SAC with a random-network-distillation penalty (Nikulin et al. 2023)"),
    "semi-pessimistic": AgentEntry(
        "agents.semi_pessimistic", "A lower bound where rewards are not known, then any method (Zhu et al. 2025)"
    ),
    "td3-bc": AgentEntry("agents.td3_bc", "TD3 whose actor also imitates the data (Fujimoto and Gu 2021)"),
}
