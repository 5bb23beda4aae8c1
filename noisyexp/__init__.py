"""Noisy Activation Functions (Gulcehre et al., 2016), as layers and as experiments.

from noisyexp import NoisyLSTM, make_activation

The layers are imported when they are asked for: tables and the shell's completion need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

__version__ = "0.2.0"

_OF_LAYERS = {"NoisyGRU", "NoisyGRUCell", "NoisyLSTM", "NoisyLSTMCell", "replace_activations"}
"""Public names of `noisyexp.nn`; the others are those of `noisyexp.activations`."""

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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = "noisyexp.nn" if name in _OF_LAYERS else "noisyexp.activations"
    value = getattr(importlib.import_module(room), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
