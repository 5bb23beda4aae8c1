"""One step of a cell on a processor: its products and its kernel in one call of C.

At a batch of one a call of torch costs more than the product that it makes. Results have the bits
of `passes`, which runs all else.

B rows, I inputs, H units, G = gates * H.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from noisyexp.kernels import bindings as K
from noisyexp.kernels.blas import gemm_for
from noisyexp.kernels.cpu import address
from noisyexp.kernels.derivatives import batching, first_derivatives
from noisyexp.kernels.dispatch import backend_of
from noisyexp.nn.layer_call import LayerCall
from noisyexp.nn.products import TRANSPOSE_ROWS, Weights, gradients_of_p, sum_of_biases


def product_for(x: Tensor, weights: Weights) -> int | None:
    """The routine by which such a step can be one call, see `blas`; x: (B, I), for the kernels."""
    if "single_forward" not in backend_of(x).KERNELS:
        return None
    if x.shape[0] >= TRANSPOSE_ROWS or not x.shape[1]:
        return None
    contiguous = weights.w_ih.is_contiguous() and weights.w_hh.is_contiguous()
    return gemm_for(x) if contiguous else None


def run(
    call: LayerCall, gemm: int, x: Tensor, state: Sequence[Tensor], weights: Weights,
    ps: Sequence[Tensor | None], tokens: Sequence[Tensor | None],
) -> tuple[Tensor, ...]:  # fmt: skip
    """The states after the step, (B, H) each.

    Args:
        call: of one step without a mask.
        gemm: what `product_for` gives.
        x: (B, I).
        state: h and what else the cell has, (B, H) each.
        weights: see there.
        ps: p of each unit, or None.
        tokens: of shared weights, see `shared.use`.
    """
    x, (h, *rest) = x.contiguous(), (part.contiguous() for part in state)
    c = rest[0] if rest else None
    if not torch.is_grad_enabled():
        return forward(call, gemm, x, h, c, weights, ps)[0]
    after: tuple[Tensor, ...] = _Step.apply(  # type: ignore[no-untyped-call]
        call, gemm, x, h, c, *weights, *ps, *tokens
    )
    return after


class _Step(torch.autograd.Function):
    """Differentiable in x, states, weights, biases and every p."""

    @staticmethod
    def forward(
        ctx: Any, call: LayerCall, gemm: int, x: Tensor, h: Tensor, c: Tensor | None, w_ih: Tensor,
        w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None, *ps: Tensor | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        ps = ps[: len(call.activations)]  # what follows are the tokens of shared weights
        weights = Weights(w_ih, w_hh, b_ih, b_hh)
        after, kept = forward(call, gemm, x, h, c, weights, ps)
        ctx.call, ctx.gemm = call, gemm
        ctx.save_for_backward(x, h, c, *weights, *kept, *ps)
        ctx.set_materialize_grads(False)
        return after

    @staticmethod
    @first_derivatives
    def backward(
        ctx: Any, saved: tuple[Any, ...], d_h: Tensor | None, d_c: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        x, h, c, *rest = saved
        weights, kept, ps = Weights(*rest[:4]), rest[4:6], rest[6:]
        wants = ctx.needs_input_grad[2:7]
        found, d_ps = backward(ctx.call, ctx.gemm, x, h, c, weights, kept, ps, (d_h, d_c), wants)
        return (None, None, *found, *d_ps, None, None)


def forward(
    call: LayerCall, gemm: int, x: Tensor, h: Tensor, c: Tensor | None, weights: Weights,
    ps: Sequence[Tensor | None],
) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor | None]]:  # fmt: skip
    """The states after the step; and gates, (B, G), or (B + 1, G) with biases, and cells."""
    (batch, hidden), adds = h.shape, call.cell.adds
    width, biased = call.cell.gates * hidden, weights.b_ih is not None
    gates = x.new_empty(batch + (adds and biased), width)
    cells, output = x.new_empty(batch, hidden), x.new_empty(batch, hidden)
    recurrent = None if adds else x.new_empty(batch, width)
    layer = call.layer(
        batch, hidden, ps, gates=gates, cells=cells, output=output, recurrent=recurrent,
        h_start=h, c_start=c,
    )  # fmt: skip
    single = _single_step(call, gemm, "forward", x, weights, gates, layer)
    backend_of(x).function("single_forward", x)(layer, single)
    return ((output,), (gates, cells)) if c is None else ((output, cells), (gates, None))


def _single_step(
    call: LayerCall, gemm: int, way: str, x: Tensor, weights: Weights, gates: Tensor, layer: K.Layer
) -> K.SingleStep:
    """The structure for the kernels, without gradients; tells the layer where its biases are."""
    width, batch = gates.shape[1], layer.batch
    step = address(f"{call.cell.name}_{way}", x)
    single = K.SingleStep(gemm, step, x.shape[1], width, call.cell.adds, x.data_ptr())
    single.w_ih, single.w_hh = weights.w_ih.data_ptr(), weights.w_hh.data_ptr()
    if weights.b_ih is not None and weights.b_hh is not None:
        single.b_ih, single.b_hh = weights.b_ih.data_ptr(), weights.b_hh.data_ptr()
    if len(gates) > batch:
        layer.bias = single.bias = gates.data_ptr() + batch * width * gates.element_size()
    return single


def backward(
    call: LayerCall, gemm: int, x: Tensor, h: Tensor, c: Tensor | None, weights: Weights,
    kept: Sequence[Tensor | None], ps: Sequence[Tensor | None], grads: Sequence[Tensor | None],
    wants: Sequence[bool],
) -> tuple[list[Tensor | None], list[Tensor | None]]:  # fmt: skip
    """Gradients of x, h, c, W_ih, W_hh, b_ih, b_hh and of every p, as asked for in `wants`.

    Of `kept` the gates may also come without their last row.
    """
    (batch, hidden), adds = h.shape, call.cell.adds
    gates, cells = kept
    assert gates is not None
    d_h, d_c = grads
    d_h = torch.zeros_like(h) if d_h is None else d_h.contiguous()
    if c is not None:  # the kernel writes it
        contiguous = torch.contiguous_format
        d_c = torch.zeros_like(c) if d_c is None else d_c.clone(memory_format=contiguous)
    carry, d_gates = torch.empty_like(h), x.new_empty(batch, gates.shape[1])
    d_recurrent = d_gates if adds else torch.empty_like(d_gates)
    # With rows of one tile no two parts have the same unit.
    parts = 1 if batch <= K.ROWS else K.CHUNKS
    p_sums = x.new_zeros(len(ps), parts, hidden)
    layer = call.layer(
        batch, hidden, ps, p_sums, gates=gates, cells=cells, h_start=h, c_start=c, d_h=d_h, d_c=d_c,
        d_gates=d_gates, d_recurrent=d_recurrent, d_carry=carry,
    )  # fmt: skip
    layer.sums_apart = 0 if parts == 1 else hidden
    bias = sum_of_biases(call, weights) if len(gates) == batch else None
    if bias is not None:
        layer.bias = bias.data_ptr()
    single = _single_step(call, gemm, "backward", x, weights, gates, layer)
    at_once = [shared is None or batching() for shared in call.shared]
    like = (x, h, weights.w_ih, weights.w_hh)
    asked = (wants[0], wants[1], wants[3] and at_once[0], wants[4] and at_once[1])
    d_x, d_start, d_w_ih, d_w_hh = (
        torch.empty_like(of) if want else None for of, want in zip(like, asked, strict=True)
    )
    for name, array in zip(_GRADIENTS, (d_x, d_start, d_w_ih, d_w_hh), strict=True):
        if array is not None:
            setattr(single, name, array.data_ptr())
    backend_of(x).function("single_backward", x)(layer, single)
    factors = (d_gates, x), (d_recurrent, h)
    for shared, now, of_step in zip(call.shared, at_once, factors, strict=True):
        if shared is not None and not now:
            shared.leave(*of_step)
    d_b_ih = d_b_hh = None
    if weights.b_ih is not None:
        d_b_ih = d_gates.sum(0)
        # One tensor twice would be scaled twice by what works in place on gradients.
        d_b_hh = d_b_ih.clone() if adds else d_recurrent.sum(0)
    totals = p_sums.select(1, 0) if parts == 1 else p_sums.sum(1)
    d_ps = gradients_of_p(ps, totals)
    return [d_x, d_start, d_c, d_w_ih, d_w_hh, d_b_ih, d_b_hh], d_ps


_GRADIENTS = ("d_x", "d_h_start", "d_w_ih", "d_w_hh")
