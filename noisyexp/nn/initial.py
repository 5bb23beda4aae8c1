"""Initial weights of the attention models: Gaussian, or orthogonal block by block."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def gaussian_(weight: Tensor, std: float = 0.01) -> Tensor:
    """Fill `weight` with draws from N(0, std^2), in place."""
    return nn.init.normal_(weight, 0.0, std)


def orthogonal_blocks_(weight: Tensor, blocks: int, scale: float = 1.0) -> Tensor:
    """Fill `weight` with orthogonal blocks times `scale`, in place: M^T M = scale^2 I each.

    The blocks are drawn one by one from the uniform distribution on orthogonal matrices. That is
    also the distribution of the left factor of a Gaussian matrix's singular value decomposition,
    which the original codes use. The paper's noisy models take `scale` 0.01 (Sections 6.4, 6.5).

    Args:
        weight: (blocks * out, in); a block that is not square has orthonormal rows or columns.
        blocks: number of blocks that lie below each other, one a gate.
        scale: of all entries.

    Raises:
        ValueError: not a matrix, or its rows are not a multiple of `blocks`.
    """
    if weight.dim() != 2 or blocks < 1 or len(weight) % blocks:
        raise ValueError(
            f"weight of shape {tuple(weight.shape)}: expected a matrix of {blocks} equal blocks of "
            "rows"
        )
    with torch.no_grad():
        for block in weight.chunk(blocks):
            nn.init.orthogonal_(block, gain=scale)
    return weight


def drop_bias(layer: nn.Module, name: str) -> None:
    """Turn the bias `name` of a layer into zeros that are no parameter.

    The layer computes as before and keeps the name in its state dict, so that its weights can be
    exchanged with torch's layer; training does not move it and nobody counts it.

    Args:
        layer: a linear, recurrent or cell layer.
        name: of a parameter of the layer itself, "bias_hh" or "bias_hh_l0" for example.

    Raises:
        ValueError: the layer has no parameter of that name.
    """
    bias = layer._parameters.get(name)
    if bias is None:
        own = ", ".join(layer._parameters) or "none"
        raise ValueError(f"{type(layer).__name__} has no parameter {name!r}; its own are: {own}")
    delattr(layer, name)
    layer.register_buffer(name, torch.zeros_like(bias.detach()))
    if isinstance(layer, nn.RNNBase):  # it keeps a list of its weights beside the names
        layer._init_flat_weights()
