"""Noisy Activation Functions (Gulcehre et al., 2016), as layers and as experiments.

from noisyexp import NoisyLSTM, make_activation

The layers are imported when they are asked for: tables and the shell's completion need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noisyexp.activations import ActivationSpec, make_activation
    from noisyexp.nn import (
        NoisyGRU,
        NoisyGRUCell,
        NoisyLSTM,
        NoisyLSTMCell,
        replace_activations,
    )

__version__ = "0.1.0"

_ROOMS = {"ActivationSpec": "noisyexp.activations", "make_activation": "noisyexp.activations"}
"""Where a public name comes from, if not from `noisyexp.nn`."""

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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_ROOMS.get(name, "noisyexp.nn")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
