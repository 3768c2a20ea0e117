"""Network bodies. The only folder that knows flax.linen; agents see modules with ``init`` and ``apply``."""

from rlkit.networks.conditioned import CONDITIONINGS, ConditionedMLP
from rlkit.networks.denoising_mlp import DenoisingMLP, ResidualDenoiser
from rlkit.networks.denoising_transformer import DenoisingTransformer
from rlkit.networks.gaussian_sequence import (
    FutureEncoder,
    FuturePolicy,
    GaussianHead,
    StochasticDecisionTransformer,
    TransformerSize,
)
from rlkit.networks.latent import Beliefs, LatentFuture, ReaderKind, Steps, before_outcome, flat
from rlkit.networks.layers import Network
from rlkit.networks.mlp import MLP, Ensemble, uniform
from rlkit.networks.policy import (
    LOG_STD_MIN,
    GaussianPolicy,
    normal_log_prob,
    normal_sample,
    tanh_normal_log_prob,
    tanh_normal_sample,
)
from rlkit.networks.sequence import DecisionTransformer
from rlkit.networks.temporal_unet import TemporalUNet, shortest_plan
from rlkit.networks.transformer import Past, Transformer
from rlkit.networks.unet import UNet1D
from rlkit.networks.xavier import XavierEnsemble, XavierMLP

__all__ = [
    "CONDITIONINGS",
    "LOG_STD_MIN",
    "MLP",
    "Beliefs",
    "ConditionedMLP",
    "DecisionTransformer",
    "DenoisingMLP",
    "DenoisingTransformer",
    "Ensemble",
    "FutureEncoder",
    "FuturePolicy",
    "GaussianHead",
    "GaussianPolicy",
    "LatentFuture",
    "Network",
    "Past",
    "ReaderKind",
    "ResidualDenoiser",
    "Steps",
    "StochasticDecisionTransformer",
    "TemporalUNet",
    "Transformer",
    "TransformerSize",
    "UNet1D",
    "XavierEnsemble",
    "XavierMLP",
    "before_outcome",
    "flat",
    "normal_log_prob",
    "normal_sample",
    "shortest_plan",
    "tanh_normal_log_prob",
    "tanh_normal_sample",
    "uniform",
]
