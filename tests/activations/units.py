"""Units of known p, and the names of the variants, for the tests of this folder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from noisyexp.activations import Activation, make_activation

KINDS = ("tanh", "sigmoid")
WITH_P = ("nan", "nah", "nanil")
NOISY = ("nan", "nah", "nani", "nanil", "nanis")
ALL = ("reference", "hard", *NOISY)


def make(kind: str, variant: str, n: int = 1, p: float | Tensor = 1.0, **values: Any) -> Activation:
    """A float64 unit with a known p."""
    unit = make_activation(kind, variant, n, dtype=torch.float64, **values)
    if unit.p is not None:
        with torch.no_grad():
            unit.p.copy_(torch.as_tensor(p, dtype=torch.float64))
    return unit
