"""The agents, by the name used on the command line. One line each; a module is imported when its agent is asked for."""

from rlkit.runs.registry import Entry

REGISTRY = {
    "bc": Entry("agents.bc", "Behaviour cloning: imitate the data's actions"),
    "awac": Entry("agents.awac", "Actor-critic with an advantage-weighted actor (Nair et al. 2020)"),
    "cql": Entry("agents.cql", "Conservative Q-learning (Kumar et al. 2020), or Cal-QL (Nakamoto et al. 2023)"),
    "decision-diffuser": Entry(
        "agents.decision_diffuser", "Decision Diffuser: plans of states that meet a condition (Ajay et al. 2023)"
    ),
    "dt": Entry("agents.dt", "Decision transformer: the actions that led to a return (Chen et al. 2021)"),
    "diffusion-policy": Entry("agents.diffusion_policy", "Cloning by chunks of actions, denoised (Chi et al. 2023)"),
    "discrete-cql": Entry("agents.discrete_cql", "Conservative Q-learning for discrete actions"),
    "doc": Entry("agents.doc", "Dichotomy of control: latent futures free of luck (Yang et al. 2023)"),
    "dql": Entry("agents.dql", "Diffusion-QL: the gradient of Q through a diffusion (Wang et al. 2023)"),
    "edac": Entry("agents.edac", "SAC with diverse critics, or SAC-N (An et al. 2021)"),
    "fql": Entry("agents.fql", "Flow Q-learning: one step distilled from a flow, led by Q (Park et al. 2025)"),
    "idql": Entry("agents.idql", "IQL's critics choose among actions of a clone (Hansen-Estruch et al. 2023)"),
    "iql": Entry("agents.iql", "Implicit Q-learning: advantage-weighted cloning (Kostrikov et al. 2022)"),
    "odt": Entry("agents.odt", "Online decision transformer: stochastic, told its return (Zheng et al. 2022)"),
    "pdt": Entry("agents.pdt", "Reward-free pretraining on futures, then the best of 256 (Xie et al. 2023)"),
    "rebrac": Entry("agents.rebrac", "TD3+BC with a penalty in the critics' target too (Tarasov et al. 2023)"),
    "sac": Entry("agents.sac", "Soft actor-critic without pessimism (Haarnoja et al. 2018)"),
    "sac-rnd": Entry("agents.sac_rnd", "SAC with a random-network-distillation penalty (Nikulin et al. 2023)"),
    "semi-pessimistic": Entry(
        "agents.semi_pessimistic", "A lower bound where rewards are not known, then any method (Zhu et al. 2025)"
    ),
    "td3-bc": Entry("agents.td3_bc", "TD3 whose actor also imitates the data (Fujimoto and Gu 2021)"),
}
