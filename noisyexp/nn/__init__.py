"""Layers built on the noisy units."""

from noisyexp.nn.cells import NoisyGRUCell, NoisyLSTMCell
from noisyexp.nn.gru import NoisyGRU
from noisyexp.nn.lstm import NoisyLSTM
from noisyexp.nn.replace import Replacement, replace_activations

__all__ = [
    "NoisyGRU",
    "NoisyGRUCell",
    "NoisyLSTM",
    "NoisyLSTMCell",
    "Replacement",
    "replace_activations",
]
