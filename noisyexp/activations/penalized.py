"""Penalised tanh, a unit without noise that came after the paper, to compare with."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from noisyexp.activations import functional as F
from noisyexp.activations.base import Activation


class PenalizedTanh(Activation):
    """tanh(x) above 0 and tanh(x) / 4 below, for gates as for tanhs (Xu et al., 2016).

    Eger et al. (2018) put it into all five places of an LSTM: a gate then lies in (-1/4, 1). So the
    unit is the same for kind "sigmoid" as for "tanh", and cannot be clipped to a sigmoid's range.

    Raises:
        ValueError: clip_output is set.
    """

    variant = "penalized_tanh"
    has_noise = False

    @classmethod
    def check_setting(cls, name: str, value: Any) -> Any:
        """As all; no clip.

        Raises:
            ValueError: clip_output is set.
        """
        value = super().check_setting(name, value)
        if name == "clip_output" and value:
            raise ValueError("clip_output: penalized_tanh is negative where a sigmoid is not")
        return value

    def expected(self, x: Tensor) -> Tensor:
        """The same in training and at test time."""
        return F.penalized_tanh(x)
