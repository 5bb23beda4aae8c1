"""One layer of a noisy LSTM or GRU, all steps, by matrix products and one kernel a step.

The input's share of all gates is one product, as are both weight gradients; a step is one product
with the recurrent weights and one pass of a compiled kernel over gates, noise and state. Kept for
backward: the gates before their units, the cells, the output. Noise is made again. Backward writes
the gradient of the gates over the gates, so that its peak is no higher than the forward's. Another
backward of the same graph runs the forward pass again for gates of its own: with the same bits, and
also while the first one is still at work in another thread.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from noisyexp.activations import Activation
from noisyexp.activations.fused import (
    draw_for,
    fits,
    is_fusible,
    kernel_activation,
    take,
    used_p,
)
from noisyexp.activations.ops import encode
from noisyexp.kernels import dispatch
from noisyexp.kernels.derivatives import first_derivatives
from noisyexp.nn import single
from noisyexp.nn.equations import Cell
from noisyexp.nn.layer_call import LayerCall
from noisyexp.nn.ops import recurrence
from noisyexp.nn.passes import backward_pass, choose_products, forward_pass
from noisyexp.nn.products import Forward, Weights
from noisyexp.nn.shared import Use, is_watched, sharing, sum_of_outer_products, sum_of_rounded, use


class _Recurrence(torch.autograd.Function):
    """All steps of one direction; differentiable in input, states, weights, biases and every p."""

    @staticmethod
    def forward(
        ctx: Any,
        call: LayerCall,
        x: Tensor,
        h_start: Tensor,
        c_start: Tensor | None,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        *ps: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        ps = ps[: len(call.activations)]  # what follows are the tokens of shared weights
        ctx.products = choose_products(call, x)
        state = [h_start] if c_start is None else [h_start, c_start]
        run = forward_pass(ctx.products, call, x, state, Weights(w_ih, w_hh, b_ih, b_hh), ps)
        ctx.call = call
        # The gates may be written over once, by whichever backward takes the right to them.
        ctx.right = [not ctx.products.keeps_gates]
        ctx.save_for_backward(
            run.flat, run.h_start, run.c_start, w_ih, w_hh, b_ih, b_hh, run.gates, run.cells,
            run.output, *ps, *run.kept,
        )  # fmt: skip
        ctx.set_materialize_grads(False)
        h, *rest = run.final_states()
        return run.output, h, rest[0] if rest else None

    @staticmethod
    @first_derivatives
    def backward(
        ctx: Any, saved: tuple[Any, ...], *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        flat, h_start, c_start, w_ih, w_hh, b_ih, b_hh, gates, cells, output, *rest = saved
        call: LayerCall = ctx.call
        ps, kept = rest[: len(call.activations)], rest[len(call.activations) :]
        weights = Weights(w_ih, w_hh, b_ih, b_hh)
        # The products of a float32 forward stay float32, whatever context backward is called in.
        with torch.autocast(flat.device.type, enabled=False):
            keeps_gates = ctx.products.keeps_gates
            if not (keeps_gates or take(ctx.right)):  # another pass has written over the gates
                state = [h_start] if c_start is None else [h_start, c_start]
                x = flat.view(*output.shape[:2], -1)
                # A copy, since forward notes things there.
                products = copy.copy(ctx.products)
                gates = forward_pass(products, call, x, state, weights, ps).gates
            run = Forward(
                call, flat, h_start, c_start, weights, ps, cells, output, gates, list(kept)
            )
            wants = (ctx.needs_input_grad[1], ctx.needs_input_grad[2])
            d_gates = torch.empty_like(gates[0]) if keeps_gates else gates
            found, d_ps = backward_pass(ctx.products, run, grads, wants, d_gates)
        return (None, *found, *d_ps, None, None)


def runs_as_is(unit: Activation) -> bool:
    """Whether nothing asks for the unit itself to be called: hooks, or its own backend."""
    wanted = unit.backend == "auto" and not is_watched(unit)
    return is_fusible(unit) and wanted and fits(unit, unit.num_units)


def can_fuse(units: Mapping[str, Activation], *tensors: Tensor | None) -> int:
    """How the kernels run this layer on these tensors, here and now: see `dispatch.way`.

    0 if not at all.
    """
    of_cell = list(units.values())
    for unit in of_cell:
        if not runs_as_is(unit):
            return dispatch.PLAIN
    return dispatch.way(*tensors, *[used_p(unit) for unit in of_cell])


def run_fused(
    way: int,
    cell: Cell,
    units: Mapping[str, Activation],
    x: Tensor,
    state: tuple[Tensor, ...],
    mask: Tensor | None,
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    reverse: bool = False,
    operands: torch.dtype | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer in one direction.

    Args:
        way: what `can_fuse` said, not 0.
        cell: of `equations.CELLS`.
        units: the cell's units by name, in the order of the cell's `unit_kinds`.
        x: (T, B, input), T > 0 and B > 0.
        state: h, and c for an LSTM, (B, H) each.
        mask: (T, B) or (T, B, 1) bool, false past the end of a sequence; None if there is none.
        weights: W_ih, W_hh, b_ih, b_hh of torch's layer.
        reverse: from the last step to the first.
        operands: see `LayerCall`; the tensors themselves are float32 then.

    Returns:
        Output (T, B, H) and the final state.
    """
    weights = _with_whole_biases(weights)
    steps, batch, hidden = x.shape[0], x.shape[1], weights[1].shape[1]
    if steps == 1 and mask is None:
        final = _single(way, cell, units, x[0], state, weights, operands)
        if final is not None:  # no two results share memory
            return final[0].clone().unsqueeze(0), final
    of_cell, drawn = list(units.values()), (steps, batch, hidden)
    bytes_mask = None if mask is None else mask.reshape(steps, batch).to(torch.uint8).contiguous()
    if way == dispatch.OPERATOR:
        encoded = encode(of_cell, drawn, x)
        return recurrence(cell.name, x, state, weights, encoded, bytes_mask, reverse, operands)
    call, tokens = _layer_call(cell, of_cell, drawn, x, weights, operands)
    call.mask, call.reverse = bytes_mask, reverse
    c_start = state[1] if call.cell.states == 2 else None
    ps = [used_p(unit) for unit in of_cell]
    output, h, c = _Recurrence.apply(  # type: ignore[no-untyped-call]
        call, x, state[0], c_start, *weights, *ps, *tokens
    )
    return output, (h,) if c is None else (h, c)


def run_step(
    way: int,
    cell: Cell,
    units: Mapping[str, Activation],
    x: Tensor,
    state: tuple[Tensor, ...],
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    operands: torch.dtype | None = None,
) -> tuple[Tensor, ...]:
    """The state after one step, x: (B, input); the rest as in `run_fused`."""
    weights = _with_whole_biases(weights)
    final = _single(way, cell, units, x, state, weights, operands)
    if final is None:
        final = run_fused(way, cell, units, x[None], state, None, weights, operands=operands)[1]
    return final


def _with_whole_biases(
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The weights with biases that the kernels can read: one number after the other."""
    w_ih, w_hh, b_ih, b_hh = weights
    if b_ih is None or b_hh is None or (b_ih.is_contiguous() and b_hh.is_contiguous()):
        return weights
    return w_ih, w_hh, b_ih.contiguous(), b_hh.contiguous()


def _single(
    way: int, cell: Cell, units: Mapping[str, Activation], x: Tensor, state: tuple[Tensor, ...],
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None], operands: torch.dtype | None,
) -> tuple[Tensor, ...] | None:  # fmt: skip
    """`run_step` where one call of C can do it; None elsewhere."""
    all_weights = Weights(*weights)
    if way != dispatch.DIRECT or operands is not None:
        return None
    gemm = single.product_for(x, all_weights)
    if gemm is None:
        return None
    of_cell = list(units.values())
    drawn = (1, len(x), weights[1].shape[1])
    call, tokens = _layer_call(cell, of_cell, drawn, x, weights, None)
    ps = [used_p(unit) for unit in of_cell]
    return single.run(call, gemm, x, state, all_weights, ps, tokens)


def _layer_call(
    cell: Cell, units: list[Activation], drawn: tuple[int, int, int], x: Tensor,
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None], operands: torch.dtype | None,
) -> tuple[LayerCall, tuple[Tensor | None, Tensor | None]]:  # fmt: skip
    """The call with draws of shape `drawn`, (T, B, H), and the tokens of shared weights."""
    noise = draw_for(units, drawn, x)
    activations = [kernel_activation(unit, draws) for unit, draws in zip(units, noise, strict=True)]
    given = [draws if isinstance(draws, Tensor) else None for draws in noise]
    # A decoder's step: what is made of its weights may be made for all steps together.
    combine = sum_of_outer_products if operands is None else sum_of_rounded
    uses: list[Use] = [(None, None)] * 2
    if drawn[0] == 1 and sharing():
        uses = [use(w, combine) for w in weights[:2]]
    (token_ih, shared_ih), (token_hh, shared_hh) = uses
    call = LayerCall(cell, activations, given, None, False, operands, (shared_ih, shared_hh))
    return call, (token_ih, token_hh)
