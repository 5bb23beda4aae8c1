"""Layers built on the noisy units."""

from noisyexp.nn.attention import AdditiveAttention
from noisyexp.nn.beam import Hypothesis, beam_search
from noisyexp.nn.cells import NoisyGRUCell, NoisyLSTMCell
from noisyexp.nn.gru import NoisyGRU
from noisyexp.nn.lstm import NoisyLSTM
from noisyexp.nn.output import linear_cross_entropy
from noisyexp.nn.replace import replace_activations
from noisyexp.nn.replace_report import Replacement, Report, Skipped
from noisyexp.nn.shared import shared_weights

__all__ = [
    "AdditiveAttention",
    "Hypothesis",
    "NoisyGRU",
    "NoisyGRUCell",
    "NoisyLSTM",
    "NoisyLSTMCell",
    "Replacement",
    "Report",
    "Skipped",
    "beam_search",
    "linear_cross_entropy",
    "replace_activations",
    "shared_weights",
]
