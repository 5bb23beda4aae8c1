"""Layers built on the noisy units."""

from noisyexp.nn.gru import NoisyGRU
from noisyexp.nn.lstm import NoisyLSTM

__all__ = ["NoisyGRU", "NoisyLSTM"]
