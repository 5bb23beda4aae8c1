"""How the weights of the translation model start (dl4mt's rules)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from noisyexp.nn.initial import gaussian_, orthogonal_blocks_


@dataclass(frozen=True)
class Initial:
    """Draws of initial weights, in place; biases are zero.

    Attributes:
        std: standard deviation of Gaussian weights.
        scale: factor of orthogonal matrices.
    """

    std: float = 0.01
    scale: float = 1.0

    def gaussian(self, layer: nn.Linear | nn.Embedding) -> None:
        """Gaussian weights (out, in) or (words, size), square ones too."""
        gaussian_(layer.weight, self.std)
        bias = getattr(layer, "bias", None)
        if bias is not None:
            nn.init.zeros_(bias)

    def general(self, layer: nn.Linear) -> None:
        """Gaussian weights (out, in), but orthogonal ones where out = in."""
        self.gaussian(layer)
        self._if_square(layer.weight, 1)

    def gru(self, layer: nn.Module) -> None:
        """A GRU or a cell: recurrent weights (3 H, H) orthogonal gate by gate.

        Input weights (3 H, in) are Gaussian, but orthogonal gate by gate where in = H.
        """
        for name, weight in layer.named_parameters():
            if name.startswith("weight_hh"):
                orthogonal_blocks_(weight, 3, self.scale)
            elif name.startswith("weight_ih"):
                gaussian_(weight, self.std)
                self._if_square(weight, 3)
            elif name.startswith("bias"):
                nn.init.zeros_(weight)

    def context_gates(self, weight: Tensor, hidden_size: int) -> None:
        """From context to both gates the original has one 2 H x 2 H matrix: square for every H.

        Args:
            weight: (3 H, 2 H), the context's share of the gates r and z and of the candidate.
            hidden_size: H.
        """
        with torch.no_grad():
            gates = weight[: 2 * hidden_size]
            gates.copy_(orthogonal_blocks_(torch.empty_like(gates), 1, self.scale))

    def _if_square(self, weight: Tensor, blocks: int) -> None:
        if len(weight) == blocks * weight.shape[1]:
            orthogonal_blocks_(weight, blocks, self.scale)
