"""One layer of a noisy LSTM or GRU, all steps, by matrix products and one kernel a step.

The input's share of all gates is one product, as are both weight gradients; a step is one product
with the recurrent weights and one pass of a compiled kernel over gates, noise and state. Kept for
backward: the gates before their units, the cells, the output. Noise is made again. Backward writes
the gradient of the gates over the gates, so that its peak is no higher than the forward's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from noisyexp.activations import Activation
from noisyexp.activations.fused import draw_for, fits, is_fusible, make_site, point_to_p, used_p
from noisyexp.kernels import bindings as K
from noisyexp.kernels.derivatives import first_derivatives
from noisyexp.nn import persistent
from noisyexp.nn.products import (
    CELL_SHAPES,
    Backward,
    Forward,
    Gradients,
    Plan,
    Products,
    Weights,
    sum_of_biases,
)


def choose_products(x: Tensor) -> Products:
    """What computes a pass on such an input."""
    return persistent.choose(x, x.dtype) if K.on_gpu(x.device) else Products()


def _forward(
    products: Products, plan: Plan, x: Tensor, state: Sequence[Tensor], weights: Weights,
    ps: Sequence[Tensor | None],
) -> Forward:  # fmt: skip
    """A forward pass; x: (T, B, I), state: h and what else the cell has, (B, H) each."""
    steps, batch, hidden = x.shape[0], x.shape[1], weights.w_hh.shape[1]
    h_start, *rest = (part.contiguous() for part in state)
    run = Forward(
        plan, x.reshape(steps * batch, -1), h_start, rest[0] if rest else None, weights, ps,
        cells=x.new_empty(steps, batch, hidden),
        output=products.new_output(plan, x, steps, batch, hidden),
    )  # fmt: skip
    products.forward(run)
    return run


def _backward(
    products: Products,
    run: Forward,
    grads: Sequence[Tensor | None],
    wants: tuple[bool, bool],
    d_gates: Tensor,
) -> Gradients:
    """Gradients of a pass.

    Args:
        products: those of the forward pass.
        run: the forward pass.
        grads: of output, final h and final c; None for zeros.
        wants: whether gradients of x and of h are asked for.
        d_gates: (T, B, G), where to write; it may be the memory of the gates themselves.

    Returns:
        Gradients of x, h, c, W_ih, W_hh, b_ih, b_hh (None for what is not there or not asked for),
        and of every p.
    """
    found = products.gradients(run, grads, wants, d_gates)
    if found is not None:
        return found
    plan, weights, gates = run.plan, run.weights, run.gates
    assert gates is not None
    batch, hidden = run.h_start.shape
    d_output, *d_state = grads
    d_output = torch.zeros_like(run.output) if d_output is None else d_output.contiguous()
    carry = run.h_start.new_zeros(batch, hidden)
    d_h, d_c = (
        carry.clone() if d is None else d.clone(memory_format=torch.contiguous_format)
        for d in d_state
    )
    d_recurrent = d_gates if plan.cell.adds else torch.empty_like(gates)
    bias = sum_of_biases(plan, weights)
    layer = plan.layer(
        batch, hidden, run.ps, gates=gates, cells=run.cells, output=run.output,
        h_start=run.h_start, c_start=run.c_start, d_output=d_output, d_gates=d_gates,
        d_recurrent=d_recurrent, d_h=d_h, d_c=d_c, d_carry=carry, bias=bias,
    )  # fmt: skip
    rows = K.sums_for_p(gates.device, layer.threads)
    p_sums = carry.new_zeros(len(run.ps), rows, hidden)
    for site, p, part in zip(layer.sites, run.ps, p_sums, strict=False):
        point_to_p(site, p, None if p is None else part)
    back = Backward(
        plan, run.flat, run.h_start, weights, run.output, run.kept, layer, d_gates, d_recurrent,
        d_h, carry, *wants,
    )  # fmt: skip
    d_x, d_w_ih, d_w_hh = products.backward(back)
    d_b_ih = None if weights.b_ih is None else d_gates.flatten(0, 1).sum(0)
    d_b_hh = d_b_ih
    if d_b_ih is not None:
        # One tensor twice would be scaled twice by what works in place on gradients.
        d_b_hh = d_b_ih.clone() if plan.cell.adds else d_recurrent.flatten(0, 1).sum(0)
    d_ps = [
        None if p is None else total.sum_to_size(p.shape)
        for p, total in zip(run.ps, p_sums.sum(1), strict=True)
    ]
    d_start = [d_h if wants[1] else None, d_c if run.c_start is not None else None]
    return [d_x, *d_start, d_w_ih, d_w_hh, d_b_ih, d_b_hh], d_ps


class _Recurrence(torch.autograd.Function):
    """All steps of one direction; differentiable in input, states, weights, biases and every p."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        x: Tensor,
        h_start: Tensor,
        c_start: Tensor | None,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        *ps: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        ctx.products = choose_products(x)
        state = [h_start] if c_start is None else [h_start, c_start]
        run = _forward(ctx.products, plan, x, state, Weights(w_ih, w_hh, b_ih, b_hh), ps)
        ctx.plan, ctx.spent = plan, False
        ctx.save_for_backward(
            run.flat, run.h_start, run.c_start, w_ih, w_hh, b_ih, b_hh, run.gates, run.cells,
            run.output, *ps, *run.kept,
        )  # fmt: skip
        ctx.set_materialize_grads(False)
        if run.ends is None:
            last = 0 if plan.reverse else len(x) - 1
            states = [run.output] if c_start is None else [run.output, run.cells]
            run.ends = [state[last].clone() for state in states]
        return run.output, run.ends[0], None if c_start is None else run.ends[1]

    @staticmethod
    @first_derivatives
    def backward(
        ctx: Any, saved: tuple[Any, ...], *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        flat, h_start, c_start, w_ih, w_hh, b_ih, b_hh, gates, cells, output, *rest = saved
        plan: Plan = ctx.plan
        ps, kept = rest[: len(plan.sites)], rest[len(plan.sites) :]
        weights = Weights(w_ih, w_hh, b_ih, b_hh)
        # The products of a float32 forward stay float32, whatever context backward is called in.
        with torch.autocast(flat.device.type, enabled=False):
            if ctx.spent:  # a second backward of a retained graph
                again = ctx.products.gates_again(plan, flat, h_start, weights, output)
                # .data: the saved tensor's version must not count this as a change of it.
                gates.data.copy_(again)
            ctx.spent = True
            run = Forward(
                plan, flat, h_start, c_start, weights, ps, cells, output, gates, list(kept)
            )
            wants = (ctx.needs_input_grad[1], ctx.needs_input_grad[2])
            found, d_ps = _backward(ctx.products, run, grads, wants, d_gates=gates)
        return (None, *found, *d_ps)


def _runs_as_is(unit: Activation) -> bool:
    """Whether nothing asks for the unit itself to be called: hooks, or its own backend."""
    hooked = (
        unit._forward_hooks
        or unit._forward_pre_hooks
        or unit._backward_hooks
        or unit._backward_pre_hooks
    )
    return is_fusible(unit) and unit.backend == "auto" and not hooked and fits(unit, unit.num_units)


def can_fuse(units: Mapping[str, Activation], *tensors: Tensor | None) -> bool:
    """Whether the kernels run this layer on these tensors, here and now."""
    return all(_runs_as_is(unit) for unit in units.values()) and K.runs(
        *tensors, *(unit.p for unit in units.values())
    )


def run_fused(
    cell: str,
    units: Mapping[str, Activation],
    x: Tensor,
    state: tuple[Tensor, ...],
    mask: Tensor | None,
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    reverse: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer in one direction.

    Args:
        cell: "lstm" or "gru".
        units: the cell's units by site, in the order of the cell's `sites`.
        x: (T, B, input), T > 0 and B > 0.
        state: h, and c for an LSTM, (B, H) each.
        mask: (T, B) or (T, B, 1) bool, false past the end of a sequence; None if there is none.
        weights: W_ih, W_hh, b_ih, b_hh of torch's layer.
        reverse: from the last step to the first.

    Returns:
        Output (T, B, H) and the final state.
    """
    steps, batch, hidden = x.shape[0], x.shape[1], weights[1].shape[1]
    noise = draw_for(list(units.values()), (steps, batch, hidden), x)
    sites = [make_site(unit, draws) for unit, draws in zip(units.values(), noise, strict=True)]
    given = [draws if isinstance(draws, Tensor) else None for draws in noise]
    bytes_mask = None if mask is None else mask.reshape(steps, batch).to(torch.uint8).contiguous()
    plan = Plan(CELL_SHAPES[cell], sites, given, bytes_mask, reverse)
    c_start = state[1] if plan.cell.states == 2 else None
    ps = [used_p(unit) for unit in units.values()]
    output, h, c = _Recurrence.apply(  # type: ignore[no-untyped-call]
        plan, x, state[0], c_start, *weights, *ps
    )
    return output, (h,) if c is None else (h, c)
