"""All steps of a Neural Turing Machine with a feed-forward controller as one node of a graph.

Step by step autograd makes a dozen nodes for a few small products and two kernels. Here a step is
two products, the unit's kernel and the memory's, and the weights have one product each at the end
of backward.

T steps, B episodes, C units, S outputs of the heads' map, N locations of width M, H = W + R heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from noisyexp.activations.fused import (
    addresses,
    draw_for,
    fits,
    kernel_activation,
    point_to_p,
    take,
    unit_size,
    used_p,
)
from noisyexp.activations.ops import makes_keys
from noisyexp.kernels import bindings as K
from noisyexp.kernels import dispatch
from noisyexp.kernels.derivatives import first_derivatives
from noisyexp.kernels.dispatch import backend_of
from noisyexp.kernels.memory import step as memory_step
from noisyexp.kernels.philox import DrawKey
from noisyexp.kernels.precision import under_autocast
from noisyexp.nn.fused import runs_as_is
from noisyexp.nn.fused_memory import can_fuse_memory

if TYPE_CHECKING:
    from noisyexp.activations import Activation
    from noisyexp.nn.memory import MemoryState


class MachineWeights(NamedTuple):
    """Weights that all steps share.

    Attributes:
        read: U of act(W x + U r + b), (C, R M).
        map: of the heads' map, (S, C).
        bias: of the heads' map, (S,).
    """

    read: Tensor
    map: Tensor
    bias: Tensor


def can_fuse_machine(
    unit: Activation, projected: Tensor, weights: MachineWeights, state: MemoryState, writers: int
) -> bool:
    """Whether `fused_machine` takes these: what the kernels take, unwatched and unrecorded."""
    return (
        runs_as_is(unit)
        and fits(unit, projected.shape[-1])
        and makes_keys(unit)
        and projected.numel() > 0
        and not under_autocast(projected)
        and dispatch.has("unit_keep", projected.device)
        and can_fuse_memory(projected, state.memory, state.weights, writers)
        and dispatch.way(projected, *weights, state.reads, used_p(unit)) == dispatch.DIRECT
    )


def fused_machine(
    unit: Activation, projected: Tensor, weights: MachineWeights, state: MemoryState, writers: int
) -> tuple[Tensor, Tensor]:
    """Outputs of the controller, (T, B, C), and what was read, (T, B, R M), after each step.

    Call it where `can_fuse_machine` says so.

    Args:
        unit: of the controller.
        projected: W x + b, (T, B, C).
        weights: see there.
        state: before the first step.
        writers: W.
    """
    steps, *shape = projected.shape
    draws = draw_for([unit] * steps, tuple(shape), projected)
    activations = [kernel_activation(unit, draw) for draw in draws]
    keyed = isinstance(draws[0], DrawKey) and not activations[0].clip
    heads = writers, state.weights.shape[1] - writers
    grad = torch.is_grad_enabled()
    call = _Call(activations, heads, grad, [grad and keyed])
    found: tuple[Tensor, Tensor] = _Machine.apply(  # type: ignore[no-untyped-call]
        call, projected, *state, *weights, used_p(unit)
    )
    return found


@dataclass
class _Call:
    """What a pass needs beside its tensors.

    Attributes:
        activations: the unit at each step.
        heads: W and R.
        grad: whether there will be a backward pass.
        right: [whether the unit's kernel keeps what makes its slopes later]. That is written over
            by whichever backward pass takes the right to it.
    """

    activations: Sequence[K.Activation]
    heads: tuple[int, int]
    grad: bool
    right: list[bool]


class _Machine(torch.autograd.Function):
    """Differentiable in all of its tensors."""

    @staticmethod
    def forward(
        ctx: Any, call: _Call, projected: Tensor, memory: Tensor, before: Tensor, reads: Tensor,
        read: Tensor, map_weight: Tensor, map_bias: Tensor, p: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        (keeps,) = call.right
        start = memory.mT.contiguous(), before.contiguous(), reads.contiguous()
        made = _Made.empty(call, projected, start, len(map_bias))
        size = unit_size(projected[0])
        name = "unit_keep" if keeps else "unit_map"
        run_unit = backend_of(projected).function(name, projected)
        x, h, kept, raw, memories, weights, read_after = (_steps(part) for part in made)
        memory_before, weights_before, read_before = start
        for t, projection in enumerate(projected.unbind(0)):
            k = t % len(raw)
            torch.mm(read_before, read.t(), out=x[k]).add_(projection)
            point_to_p(call.activations[t], p)
            more = addresses(kept[k]) if keeps else (None, None)
            run_unit(call.activations[t], size, *addresses(x[k], h[t]), *more)
            torch.addmm(map_bias, h[t], map_weight.t(), out=raw[k])
            arrays = (raw[k], memory_before, weights_before)
            memory_before, weights_before, read_before = memories[k], weights[k], read_after[t]
            memory_step(
                "forward", call.heads, (*arrays, memory_before, weights_before, read_before)
            )
        if call.grad:
            ctx.call = call
            ctx.save_for_backward(*start, read, map_weight, p, *made)
        return made.h, made.reads

    @staticmethod
    @first_derivatives
    def backward(
        ctx: Any, saved: tuple[Any, ...], d_h: Tensor, d_reads: Tensor
    ) -> tuple[Tensor | None, ...]:
        start, (read, map_weight, p), made = saved[:3], saved[3:6], _Made(*saved[6:])
        wants_first = ctx.needs_input_grad[2]
        found = _backward(ctx.call, wants_first, start, (read, map_weight), p, made, (d_h, d_reads))
        d_x, d_raw, d_memory, d_weights, d_read, d_p = found
        flat_raw = d_raw.flatten(0, 1)
        d_read_weight = d_x[0].t().mm(start[2])
        if len(d_x) > 1:
            d_read_weight.addmm_(d_x[1:].flatten(0, 1).t(), made.reads[:-1].flatten(0, 1))
        d_map = flat_raw.t().mm(made.h.flatten(0, 1))
        return (
            None, d_x, None if d_memory is None else d_memory.mT, d_weights, d_read,
            d_read_weight, d_map, flat_raw.sum(0), d_p,
        )  # fmt: skip


class _Made(NamedTuple):
    """What the steps make, a block of T each, or of two without a backward pass.

    Attributes:
        x: inputs of the unit, (B, C) a step.
        h: its outputs, of all steps in any case.
        kept: of its kernel; None where it keeps nothing.
        raw: outputs of the map, (B, S).
        memories: (B, M, N).
        weights: (B, H, N).
        reads: (B, R M), of all steps in any case.
    """

    x: Tensor
    h: Tensor
    kept: Tensor | None
    raw: Tensor
    memories: Tensor
    weights: Tensor
    reads: Tensor

    @classmethod
    def empty(cls, call: _Call, projected: Tensor, start: Sequence[Tensor], outputs: int) -> _Made:
        """Memory for a pass."""
        steps, batch, _ = projected.shape
        few = steps if call.grad else min(steps, 2)
        x, new = projected[:few], projected.new_empty
        memory, weights, reads = (part.shape for part in start)
        return cls(
            x=torch.empty_like(x, memory_format=torch.contiguous_format),
            h=torch.empty_like(projected, memory_format=torch.contiguous_format),
            kept=new(projected.shape) if call.right[0] else None,
            raw=new(few, batch, outputs),
            memories=new(few, *memory),
            weights=new(few, *weights),
            reads=new(steps, *reads),
        )


def _steps(block: Tensor | None) -> Sequence[Any]:
    return () if block is None else block.unbind(0)


def _backward(
    call: _Call, wants_first: bool, start: Sequence[Tensor], shared: Sequence[Tensor],
    p: Tensor | None, made: _Made, grads: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """The steps, the last one first.

    Args:
        call: see there.
        wants_first: whether the gradient of the first memory is wanted.
        start: memory, (B, M, N), weights and reads before the first step.
        shared: U and the map's weight.
        p: of the unit, or None.
        made: by forward.
        grads: of both results of forward.

    Returns:
        Gradients of x, (T, B, C); of the map's outputs, (T, B, S); of the first memory, (B, M, N),
        weights and reads; and of p.
    """
    read, map_weight = shared
    steps, _, hidden = made.x.shape
    d_h, d_reads = (part.unbind(0) for part in grads)
    keeps = take(call.right) and made.kept is not None
    d_x = made.kept if keeps and made.kept is not None else torch.empty_like(made.x)
    d_raw, d_value = torch.empty_like(made.raw), torch.empty_like(made.x[0])
    # The kernel reads what it is given of an episode before it writes there.
    d_memory, d_weights = (torch.empty_like(part) for part in start[:2])
    d_read = d_reads[-1].clone(memory_format=torch.contiguous_format)
    size, backend = unit_size(made.x[0]), backend_of(made.x)
    sums = None if p is None else made.x.new_zeros(backend.sums_for_p(size.threads), hidden)
    run_unit = backend.function("unit_back_kept" if keeps else "unit_map", made.x)
    x, raw, memories, weights = (part.unbind(0) for part in made[:1] + made[3:6])
    d_xs, d_raws = d_x.unbind(0), d_raw.unbind(0)
    for t in range(steps - 1, -1, -1):
        before = (memories[t - 1], weights[t - 1]) if t else start[:2]
        given = (None, None) if t == steps - 1 else (d_memory, d_weights)
        wanted = d_memory if t or wants_first else None
        memory_step(
            "backward", call.heads,
            (raw[t], *before, memories[t], weights[t], None, *given, d_read, d_raws[t], wanted,
             d_weights),
        )  # fmt: skip
        torch.addmm(d_h[t], d_raws[t], map_weight, out=d_value)
        # Another thread may be in this graph's backward, too.
        activation = K.Activation.from_buffer_copy(call.activations[t])
        point_to_p(activation, p, sums)
        kept = addresses(d_xs[t] if keeps else None, d_value, d_xs[t])
        run_unit(activation, size, x[t].data_ptr(), *kept)
        if t:
            torch.addmm(d_reads[t - 1], d_xs[t], read, out=d_read)
        else:
            torch.mm(d_xs[t], read, out=d_read)
    d_p = None if p is None or sums is None else sums.sum_to_size(p.shape)
    return d_x, d_raw, d_memory if wants_first else None, d_weights, d_read, d_p
