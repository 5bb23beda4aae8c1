"""Standard normal draws as a function of a key and a counter: the kernels' noise in PyTorch.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and
Box-Muller. The compiled kernels give the same draws to the last bits of float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from noisyexp.kernels.bindings import NoiseKey, Shape
from noisyexp.kernels.dispatch import backend_of, runs

ROWS = 4
"""Numbers that one Philox block gives: the draws of one unit for four rows."""

_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class DrawKey:
    """Names one array of draws.

    Attributes:
        key: 64 bits, of (seed, step, module path).
        call: number of calls of that unit in this step before this one.
    """

    key: int
    call: int = 0

    def struct(self) -> NoiseKey:
        """As the kernels take it."""
        return NoiseKey(self.key & _MASK, self.key >> 32 & _MASK, self.call)


@dataclass(frozen=True)
class DeviceKey:
    """Names one array of draws by a key that a GPU's kernel reads when it runs.

    Attributes:
        words: (3,) int32 on the GPU, as `NoiseKey`.
    """

    words: Tensor


def blocks_rows_units(shape: Sequence[int]) -> tuple[int, int, int]:
    """(..., rows, units) as three sizes; missing ones are 1. A layer's blocks are its steps."""
    full = (1, 1, *shape)
    return math.prod(full[:-2]), full[-2], full[-1]


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Four words of 32 bits for every counter, as int64 tensors of the counters' shape."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # The product wraps around in int64, and a masked shift takes the right bits of it.
        a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            (b >> 32 & _MASK) ^ c1 ^ k0,
            b & _MASK,
            (a >> 32 & _MASK) ^ c3 ^ k1,
            a & _MASK,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return [c0, c1, c2, c3]


def _box_muller(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent normal draws from two words, of which the top 24 bits are used."""
    radius = (-2.0 * (((first >> 8) + 1).double() * 2.0**-24).log()).clamp_min(0).sqrt()
    angle = (second >> 8).double() * (2.0 * math.pi * 2.0**-24)
    return radius * angle.cos(), radius * angle.sin()


def normal_torch(draw: DrawKey, shape: Sequence[int], device: torch.device) -> Tensor:
    """Float32 N(0, 1) draws of `shape` = (..., rows, units), in PyTorch alone."""
    blocks, rows, units = blocks_rows_units(shape)
    groups = -(-rows // ROWS)
    counter = [
        torch.arange(units, device=device),
        torch.arange(groups, device=device)[:, None],
        torch.arange(blocks, device=device)[:, None, None],
        torch.tensor(draw.call, device=device),
    ]
    full = (blocks, groups, units)
    words = philox(
        [part.expand(full) for part in counter], (draw.key & _MASK, draw.key >> 32 & _MASK)
    )
    xi = torch.stack([*_box_muller(*words[:2]), *_box_muller(*words[2:])], dim=2)
    return xi.reshape(blocks, groups * ROWS, units)[:, :rows].reshape(tuple(shape)).float()


def normal(draw: DrawKey, shape: Sequence[int], device: torch.device) -> Tensor:
    """Float32 N(0, 1) draws of `shape` = (..., rows, units).

    Element (block, row, unit) is word row % 4 of the Philox block with counter (unit, row // 4,
    block, call). The words are integers, so the same everywhere; Box-Muller may differ in the
    last bits.
    """
    device, sizes = torch.device(device), blocks_rows_units(shape)
    if 0 in sizes or not runs("normal_fill", device):
        return normal_torch(draw, shape, device)
    xi = torch.empty(tuple(shape), dtype=torch.float32, device=device)
    backend = backend_of(xi)
    size = Shape(*sizes, backend.parts_of_map(*sizes))
    backend.function("normal_fill", xi)(draw.struct(), size, xi.data_ptr())
    return xi
