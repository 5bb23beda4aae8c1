"""A step of the memory of a Neural Turing Machine in one compiled kernel, forward and backward.

The plain code of `memory` makes some forty tensors a step. Here a step keeps the raw outputs of the
heads' map, the weights and the memory, which the next step has anyway, and backward makes the rest
again. Between steps the memory lies with its locations innermost.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from noisyexp.kernels import dispatch
from noisyexp.kernels.derivatives import first_derivatives
from noisyexp.kernels.memory import MAX_WRITERS, step


def can_fuse_memory(raw: Tensor, memory: Tensor, before: Tensor, writers: int) -> bool:
    """Whether the kernel takes this step: where there is one, and nobody records the call."""
    return (
        memory.numel() > 0
        and writers <= MAX_WRITERS
        and dispatch.has("memory_forward", memory.device)
        and dispatch.way(raw, memory, before) == dispatch.DIRECT
    )


def fused_memory(
    raw: Tensor, memory: Tensor, before: Tensor, writers: int, readers: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`MemoryHeads.forward` behind the map; call it where `can_fuse_memory` says so.

    Args:
        raw: outputs of the map, (B, S).
        memory: (B, N, M).
        before: weights of the step before, (B, H, N).
        writers: W, heads that write.
        readers: R, heads that read.

    Returns:
        The memory after the step, (B, N, M); the weights, (B, H, N); what was read, (B, R M).
    """
    found: tuple[Tensor, Tensor, Tensor] = _Memory.apply(  # type: ignore[no-untyped-call]
        raw, memory, before, writers, readers
    )
    return found


def _rows_innermost(shape: torch.Size, like: Tensor) -> Tensor:
    """An empty tensor (B, N, M) that lies as (B, M, N)."""
    batch, rows, width = shape
    return like.new_empty_strided((batch, rows, width), (rows * width, 1, rows))


class _Memory(torch.autograd.Function):
    """Differentiable in the raw outputs, the memory and the weights of the step before."""

    @staticmethod
    def forward(
        ctx: Any, raw: Tensor, memory: Tensor, before: Tensor, writers: int, readers: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.heads = (writers, readers)
        written = _rows_innermost(memory.shape, memory)
        weights = memory.new_empty(before.shape)
        reads = memory.new_empty(len(memory), readers * memory.shape[-1])
        given = raw.contiguous(), memory.mT.contiguous(), before.contiguous()
        step("forward", ctx.heads, (*given, written, weights, reads))
        ctx.save_for_backward(raw, memory, before, written, weights)
        return written, weights, reads

    @staticmethod
    @first_derivatives
    def backward(
        ctx: Any,
        saved: tuple[Tensor, ...],
        d_written: Tensor | None,
        d_weights: Tensor | None,
        d_reads: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        raw, memory, before, written, weights = saved
        d_raw, d_before = raw.new_empty(raw.shape), before.new_empty(before.shape)
        d_memory = _rows_innermost(memory.shape, memory) if ctx.needs_input_grad[1] else None
        given = raw.contiguous(), memory.mT.contiguous(), before.contiguous()
        gradients = (
            None if d_written is None else d_written.mT.contiguous(),
            None if d_weights is None else d_weights.contiguous(),
            None if d_reads is None else d_reads.contiguous(),
        )
        results = d_raw, d_memory, d_before
        step("backward", ctx.heads, (*given, written, weights, None, *gradients, *results))
        return d_raw, d_memory, d_before, None, None
