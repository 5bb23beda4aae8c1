"""Both passes over one layer in one direction, whatever calls them.

T steps, B rows, I inputs, H units, G = gates * H.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from noisyexp.activations.fused import point_to_p
from noisyexp.kernels import bindings as K
from noisyexp.nn.products import Backward, Forward, Plan, Products, Weights, sum_of_biases


def choose_products(x: Tensor) -> Products:
    """What computes a pass on such an input."""
    return Products()


def forward_pass(
    products: Products, plan: Plan, x: Tensor, state: Sequence[Tensor], weights: Weights,
    ps: Sequence[Tensor | None],
) -> Forward:  # fmt: skip
    """A forward pass; x: (T, B, I), state: h and what else the cell has, (B, H) each."""
    steps, batch, hidden = x.shape[0], x.shape[1], weights.w_hh.shape[1]
    h_start, *rest = (part.contiguous() for part in state)
    run = Forward(
        plan, x.reshape(steps * batch, -1), h_start, rest[0] if rest else None, weights, ps,
        cells=x.new_empty(steps, batch, hidden), output=x.new_empty(steps, batch, hidden),
    )  # fmt: skip
    products.forward(run)
    return run


def backward_pass(
    products: Products,
    run: Forward,
    grads: Sequence[Tensor | None],
    wants: tuple[bool, bool],
    d_gates: Tensor,
) -> tuple[list[Tensor | None], list[Tensor | None]]:
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
