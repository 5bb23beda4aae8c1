"""Noisy Activation Functions (Gulcehre et al., 2016), as layers and as experiments.

from noisyexp import NoisyLSTM, make_activation
"""

from noisyexp.activations import ActivationSpec, make_activation
from noisyexp.nn import (
    NoisyGRU,
    NoisyGRUCell,
    NoisyLSTM,
    NoisyLSTMCell,
    replace_activations,
)

__version__ = "0.1.0"

__all__ = [
    "ActivationSpec",
    "NoisyGRU",
    "NoisyGRUCell",
    "NoisyLSTM",
    "NoisyLSTMCell",
    "__version__",
    "make_activation",
    "replace_activations",
]
