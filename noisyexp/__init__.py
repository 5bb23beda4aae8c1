"""Noisy Activation Functions (Gulcehre et al., 2016), as layers and as experiments.

from noisyexp import NoisyLSTM, make_activation
"""

from noisyexp.activations import (
    ActivationSpec,
    add_noise_parameters,
    make_activation,
    noise_parameters,
    reset_noise_parameters,
    set_noise_level,
)
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
    "add_noise_parameters",
    "make_activation",
    "noise_parameters",
    "replace_activations",
    "reset_noise_parameters",
    "set_noise_level",
]
