"""Both passes over one layer in one direction, whatever calls them.

T steps, B rows, I inputs, H units, G = gates * H.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from noisyexp.kernels import matmul
from noisyexp.kernels.dispatch import backend_of
from noisyexp.nn import persistent
from noisyexp.nn.half_products import HalfProducts
from noisyexp.nn.layer_call import LayerCall
from noisyexp.nn.mixed import PackedProducts
from noisyexp.nn.products import (
    AllGradients,
    Backward,
    Forward,
    Products,
    Weights,
    gradients_of_p,
    sum_of_biases,
)


def choose_products(call: LayerCall, x: Tensor) -> Products:
    """What computes a pass on such an input."""
    kernels = backend_of(x).KERNELS
    if call.operands is None:
        steps = Products()
    elif "bf16_multiply" in kernels:
        form = matmul.form()
        assert form is not None, "see precision.operand_dtype"
        steps = PackedProducts(form)
    else:
        steps = HalfProducts(call.operands)
    # A decoder's step leaves the factors of its weights' gradients to all steps together.
    if f"{call.cell.name}_forward_all" in kernels and not any(call.shared):
        return persistent.choose(x, call.operands or x.dtype, steps)
    return steps


def forward_pass(
    products: Products, call: LayerCall, x: Tensor, state: Sequence[Tensor], weights: Weights,
    ps: Sequence[Tensor | None],
) -> Forward:  # fmt: skip
    """A forward pass; x: (T, B, I), state: h and what else the cell has, (B, H) each."""
    steps, batch, hidden = x.shape[0], x.shape[1], weights.w_hh.shape[1]
    h_start, *rest = (part.contiguous() for part in state)
    run = Forward(
        call, x.reshape(steps * batch, -1), h_start, rest[0] if rest else None, weights, ps,
        cells=x.new_empty(steps, batch, hidden),
        output=products.new_output(call, x, steps, batch, hidden),
    )  # fmt: skip
    products.forward(run)
    return run


def backward_pass(
    products: Products,
    run: Forward,
    grads: Sequence[Tensor | None],
    wants: tuple[bool, bool],
    d_gates: Tensor,
) -> AllGradients:
    """Gradients of a pass.

    Args:
        products: those of the forward pass.
        run: the forward pass.
        grads: of output, final h and final c; None for zeros.
        wants: whether gradients of x and of h are asked for.
        d_gates: where to write, (B, G) for products that keep gates, else (T, B, G), which may be
            the memory of the gates themselves.

    Returns:
        Gradients of x, h, c, W_ih, W_hh, b_ih, b_hh (None for what is not there or not asked for),
        and of every p.
    """
    found = products.gradients(run, grads, wants, d_gates)
    if found is not None:
        return found
    call, weights, gates = run.call, run.weights, run.gates
    assert gates is not None
    batch, hidden = run.h_start.shape
    d_output, *d_state = grads
    d_output = torch.zeros_like(run.output) if d_output is None else d_output.contiguous()
    carry = torch.empty_like(run.h_start)  # the kernels write it
    d_h, d_c = (
        carry.new_zeros(batch, hidden)
        if d is None
        else d.clone(memory_format=torch.contiguous_format)
        for d in d_state
    )
    d_recurrent = d_gates if call.cell.adds else torch.empty_like(d_gates)
    bias = sum_of_biases(call, weights)  # held here: the structure has its address alone
    backend = backend_of(d_gates)
    parts = backend.parts_of_step(batch, batch * hidden * len(run.ps))
    p_sums = carry.new_zeros(len(run.ps), backend.sums_for_p(parts), hidden)
    layer = call.layer(
        batch, hidden, run.ps, p_sums, gates=gates, cells=run.cells, output=run.output,
        h_start=run.h_start, c_start=run.c_start, d_output=d_output, d_gates=d_gates,
        d_recurrent=d_recurrent, d_h=d_h, d_c=d_c, d_carry=carry,
        bias=bias,
    )  # fmt: skip
    back = Backward(
        call, run.flat, run.h_start, weights, run.output, run.kept, layer, d_gates, d_recurrent,
        d_h, carry, *wants,
    )  # fmt: skip
    d_x, *d_weights = products.backward(back)
    d_ps = gradients_of_p(run.ps, p_sums.sum(1))
    d_start = [d_h if wants[1] else None, d_c if run.c_start is not None else None]
    return [d_x, *d_start, *d_weights], d_ps
