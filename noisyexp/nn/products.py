"""The matrix products of a recurrent layer in one direction, and the loops over its steps.

`Products` is what runs a pass: here float32 and float64 by torch, one product and one call of a
kernel a step. Another way to run one (other operands, other loops, one call for one step) is a
subclass; shapes, what is saved, and the gradients of p and of biases are `nn.fused`'s.

T steps, B rows, I inputs, H units, G = gates * H.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from noisyexp.kernels import bindings as K
from noisyexp.kernels.blas import gemm_for
from noisyexp.kernels.cpu import address
from noisyexp.kernels.derivatives import batching
from noisyexp.kernels.dispatch import backend_of
from noisyexp.nn.layer_call import LayerCall

TRANSPOSE_ROWS = 1500
"""From so many rows on the transposed weight gradient is the faster product, copy included."""


class Weights(NamedTuple):
    """W_ih (G, I), W_hh (G, H), b_ih and b_hh (G,) of torch's layer."""

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor | None


@dataclass
class Forward:
    """A forward pass: what it reads, and where it writes.

    Attributes:
        call: see there.
        flat: the input (T * B, I).
        h_start, c_start: (B, H); None for a cell without c.
        weights: see there.
        ps: p of each unit, or None.
        cells, output: (T, B, H), to be written.
        gates: (T, B, G) as they go into the units, to be made and written; kept for backward.
        kept: what else a subclass wants to see again in backward.
        ends: the states after the last step, where a subclass has written them apart.
    """

    call: LayerCall
    flat: Tensor
    h_start: Tensor
    c_start: Tensor | None
    weights: Weights
    ps: Sequence[Tensor | None]
    cells: Tensor
    output: Tensor
    gates: Tensor | None = None
    kept: list[Tensor] = field(default_factory=list)
    ends: list[Tensor] | None = None

    def final_states(self) -> list[Tensor]:
        """After the last step, h and what else the cell has: (B, H) each."""
        if self.ends is None:
            last = 0 if self.call.reverse else len(self.output) - 1
            states = [self.output] if self.c_start is None else [self.output, self.cells]
            self.ends = [state[last].clone() for state in states]
        return self.ends


AllGradients = tuple[list[Tensor | None], list[Tensor | None]]
"""Of x, h, c, W_ih, W_hh, b_ih and b_hh, None for what is not there; and of every p."""


@dataclass
class Backward:
    """A backward pass: what it reads, and where it writes.

    Attributes:
        call, flat, h_start, weights, output, kept: of the forward pass.
        layer: the structure for the kernels, with all arrays in it.
        d_gates: (T, B, G), gradient at the input's share of the gates, to be written; (B, G) for
            products that keep gates.
        d_recurrent: likewise, gradient at the recurrent product; the same memory where the two are
            added.
        d_h: (B, H), gradient of h after the last step, and of h_start in the end.
        d_carry: (B, H), the part of d_h that goes past the product; the kernels write it.
        wants_x, wants_h: whether gradients of input and h_start are asked for.
    """

    call: LayerCall
    flat: Tensor
    h_start: Tensor
    weights: Weights
    output: Tensor
    kept: Sequence[Tensor]
    layer: K.Layer
    d_gates: Tensor
    d_recurrent: Tensor
    d_h: Tensor
    d_carry: Tensor
    wants_x: bool
    wants_h: bool


class Gradients(NamedTuple):
    """Of the input (T, B, I) and of `Weights`; None for what is not asked for or not there.

    None also for weights whose gradient is left to `LayerCall.shared`.
    """

    d_x: Tensor | None
    d_w_ih: Tensor | None
    d_w_hh: Tensor | None
    d_b_ih: Tensor | None
    d_b_hh: Tensor | None


class Products:
    """A pass by torch's products in the dtype of the input, float32 or float64."""

    keeps_gates = False
    """Whether backward leaves `gates` alone and wants `d_gates` and `d_recurrent` of one step."""

    def new_output(self, call: LayerCall, x: Tensor, steps: int, batch: int, hidden: int) -> Tensor:
        """Where a forward pass writes its output, (T, B, H)."""
        return x.new_empty(steps, batch, hidden)

    def gradients(
        self,
        run: Forward,
        grads: Sequence[Tensor | None],
        wants: tuple[bool, bool],
        d_gates: Tensor,
    ) -> AllGradients | None:
        """All of a pass, see `passes.backward_pass`; None where `backward` makes some of them."""
        return None

    def forward(self, run: Forward) -> None:
        """Write `gates`, `cells` and `output` (and `kept`) of a forward pass."""
        run.gates = self.input_share(run.call, run.flat, run.weights).view(
            *run.output.shape[:2], -1
        )
        self.forward_steps(run)

    def backward(self, run: Backward) -> Gradients:
        """Write `d_gates`, `d_recurrent`, `d_h`; gradients of input and weights."""
        self.backward_steps(run)
        d_x = self.input_grad(run) if run.wants_x else None
        if any(run.call.shared) and not batching():
            factors = (run.d_gates[0], run.flat), (run.d_recurrent[0], run.h_start)
            d_w_ih, d_w_hh = leave(run.call, factors, sum_of_products)
        else:
            d_w_ih, d_w_hh = self.weight_grads(run)
        return Gradients(d_x, d_w_ih, d_w_hh, *self.bias_grads(run))

    def input_share(self, call: LayerCall, flat: Tensor, weights: Weights) -> Tensor:
        """The part of all gates that no state enters, (T * B, G).

        Without bias where the kernels add the sum of both.
        """
        if weights.b_ih is None or call.cell.adds:
            return torch.mm(flat, weights.w_ih.t())
        return torch.addmm(weights.b_ih, flat, weights.w_ih.t())

    def forward_steps(self, run: Forward) -> None:
        """All steps: product with W_hh, then the kernel over gates, noise and state."""
        call, gates, w_hh, b_hh = run.call, run.gates, run.weights.w_hh, run.weights.b_hh
        assert gates is not None
        steps, batch, _ = run.output.shape
        layer, recurrent, _bias = forward_layer(run)
        w_t = w_hh.t()
        if steps >= 16 and copy_pays(batch, w_hh):
            w_t = w_t.contiguous()
        loop = whole_pass(call, "forward", gates, run.weights)
        if loop is not None:
            loop.w_t = None if w_t.stride(0) == 1 else w_t.data_ptr()
            backend_of(gates).function("forward_pass", gates)(layer, loop)
            return
        step = backend_of(gates).function(f"{call.cell.name}_forward", gates)
        at_gates, at_output = gates.unbind(0), run.output.unbind(0)
        for t, before in call.order(steps):
            h = run.h_start if before < 0 else at_output[before]
            if recurrent is None:
                torch.addmm(at_gates[t], h, w_t, out=at_gates[t])
            elif b_hh is None:
                torch.mm(h, w_t, out=recurrent)
            else:
                torch.addmm(b_hh, h, w_t, out=recurrent)
            step(layer, t, before)

    def backward_steps(self, run: Backward) -> None:
        """All steps back: the kernel, then the product that takes d_recurrent to d_h."""
        call, w_hh = run.call, run.weights.w_hh
        carries = not call.cell.adds or call.mask is not None
        loop = whole_pass(call, "backward", run.d_recurrent, run.weights)
        if loop is not None:
            loop.carries, loop.to_start = carries, run.wants_h
            backend_of(run.output).function("backward_pass", run.output)(run.layer, loop)
            return
        step = backend_of(run.output).function(f"{call.cell.name}_backward", run.output)
        at_gates = run.d_recurrent.unbind(0)
        for t, before in reversed(call.order(len(at_gates))):
            step(run.layer, t, before)
            if before < 0 and not run.wants_h:
                break
            if carries:
                torch.addmm(run.d_carry, at_gates[t], w_hh, out=run.d_h)
            else:
                torch.mm(at_gates[t], w_hh, out=run.d_h)

    def input_grad(self, run: Backward) -> Tensor:
        """Gradient of the input, (T, B, I)."""
        d_x = run.d_gates.flatten(0, 1).mm(run.weights.w_ih)
        return d_x.view(*run.output.shape[:2], -1)

    def weight_grads(self, run: Backward) -> tuple[Tensor, Tensor]:
        """Gradients of W_ih and W_hh: sums over steps, without a copy of the states."""
        d, output = run.d_recurrent, run.output
        if len(d) == 1:
            return sum_of_products(run.d_gates[0], run.flat), d[0].t().mm(run.h_start)
        if run.call.reverse:
            first, d_rest, h_rest = d[-1], d[:-1], output[1:]
        else:
            first, d_rest, h_rest = d[0], d[1:], output[:-1]
        d_ih = sum_of_products(run.d_gates.flatten(0, 1), run.flat)
        d_hh = sum_of_products(d_rest.flatten(0, 1), h_rest.flatten(0, 1))
        return d_ih, d_hh.addmm_(first.t(), run.h_start)

    def bias_grads(self, run: Backward) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of b_ih and b_hh."""
        if run.weights.b_ih is None:
            return None, None
        d_b = run.d_gates.flatten(0, 1).sum(0)
        # One tensor twice would be scaled twice by what works in place on gradients.
        return d_b, d_b.clone() if run.call.cell.adds else run.d_recurrent.flatten(0, 1).sum(0)


def whole_pass(call: LayerCall, way: str, gates: Tensor, weights: Weights) -> K.StepLoop | None:
    """What runs all steps in one call with the products of torch; None where torch has to be asked.

    Args:
        call: of the pass.
        way: "forward" or "backward".
        gates: (T, B, G), or a gradient of that shape.
        weights: see there.
    """
    routine = gemm_for(gates) if f"{way}_pass" in backend_of(gates).KERNELS else None
    if routine is None or not weights.w_hh.is_contiguous():
        return None
    step = address(f"{call.cell.name}_{way}", gates)
    steps, _, width = gates.shape
    loop = K.StepLoop(routine, step, steps, width, call.reverse, call.cell.adds)
    loop.w = weights.w_hh.data_ptr()
    loop.b_hh = None if weights.b_hh is None else weights.b_hh.data_ptr()
    return loop


def copy_pays(batch: int, w_hh: Tensor) -> bool:
    """Whether products (B, H) with W_hh^T are faster on a copy of it in the order of rows.

    Several threads are up to three times faster on it. On one thread the bits are the same up to
    the size that is asked for here; beyond it they are others, and records keep theirs.
    """
    if torch.get_num_threads() > 1:
        return batch <= 48 and w_hh.numel() <= 2**22
    return batch <= 32 and w_hh.numel() <= 2**20


def leave(
    call: LayerCall, factors: Sequence[tuple[Tensor, Tensor]], multiply: Callable[..., Tensor]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of W_ih and W_hh of one step, None where the factors are left to `call.shared`.

    Args:
        call: of one step.
        factors: d (B, G) and x (B, inputs) of both.
        multiply: d^T x.
    """
    found: list[Tensor | None] = []
    for shared, (d, x) in zip(call.shared, factors, strict=True):
        if shared is not None:
            shared.leave(d, x)
        found.append(multiply(d, x) if shared is None else None)
    d_w_ih, d_w_hh = found
    return d_w_ih, d_w_hh


def sum_of_biases(call: LayerCall, weights: Weights) -> Tensor | None:
    """What the kernels add to the gates, (G,); None where the products add it, or there is none."""
    if not call.cell.adds or weights.b_ih is None or weights.b_hh is None:
        return None
    return weights.b_ih + weights.b_hh


def forward_layer(run: Forward) -> tuple[K.Layer, Tensor | None, Tensor | None]:
    """The structure of a forward pass; what it points to and only the caller keeps.

    That is (B, G) for the recurrent product, None where it is added to the gates, and the biases.
    """
    call, gates = run.call, run.gates
    assert gates is not None
    batch, hidden = run.h_start.shape
    recurrent = None if call.cell.adds else gates.new_zeros(batch, gates.shape[-1])
    bias = sum_of_biases(call, run.weights)
    layer = call.layer(
        batch, hidden, run.ps, gates=gates, cells=run.cells, output=run.output,
        recurrent=recurrent, h_start=run.h_start, c_start=run.c_start, bias=bias,
    )  # fmt: skip
    return layer, recurrent, bias


def gradients_of_p(ps: Sequence[Tensor | None], sums: Tensor) -> list[Tensor | None]:
    """Of every p, from what the kernels have added up for each unit, (units of the cell, H)."""
    return [
        None if p is None else total if p.shape == total.shape else total.sum_to_size(p.shape)
        for p, total in zip(ps, sums.unbind(0), strict=True)
    ]


def sum_of_products(d: Tensor, x: Tensor) -> Tensor:
    """Sum over rows of d^T x, d: (N, G), x: (N, inputs)."""
    return x.t().mm(d).t() if len(d) >= TRANSPOSE_ROWS else d.t().mm(x)
