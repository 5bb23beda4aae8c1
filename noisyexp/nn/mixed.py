"""A recurrent pass whose products have operands of 16 bits and sums of 32.

On a processor all steps are one call of C (loops.h): weights are packed once a pass, states and the
gradients of gates are rounded where they are made, and the rounded copies are the operands of the
weight gradients. On a GPU torch multiplies, step by step.

T steps, B rows, N = T * B, I inputs, H units, G = gates * H.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from noisyexp.kernels import bindings as K
from noisyexp.kernels import matmul as M
from noisyexp.kernels.derivatives import batching
from noisyexp.nn.layer_call import LayerCall
from noisyexp.nn.products import (
    Backward,
    Forward,
    Gradients,
    Products,
    forward_layer,
    leave,
)


class PackedProducts(Products):
    """A pass on a processor, by one of matmul's forms.

    Args:
        form: one of `matmul.FORMS`.
    """

    keeps_gates = True

    def __init__(self, form: str) -> None:
        self.form = form

    def forward(self, run: Forward) -> None:
        """As `Products.forward`; keeps the rounded input (N, I) and states (T + 1, B, H)."""
        call, weights = run.call, run.weights
        steps, batch, hidden = run.output.shape
        x = M.as_rows(run.flat, fresh=True)
        states = torch.empty(steps + 1, batch, M.width_of(hidden), dtype=torch.bfloat16)
        run.kept += [x, states[..., :hidden]]
        start = None if call.cell.adds else weights.b_ih
        share = M.multiply(x, self._columns(call, 0, weights.w_ih, transposed=True), start)
        run.gates = share.view(steps, batch, -1)
        layer, _recurrent, _bias = forward_layer(run)
        columns = self._columns(call, 1, weights.w_hh, transposed=True)
        self._run(
            "forward", call, layer, columns, states,
            b_hh=None if call.cell.adds else weights.b_hh,
        )  # fmt: skip

    def backward(self, run: Backward) -> Gradients:
        """As `Products.backward`; `d_gates` and `d_recurrent` are (B, G), those of one step."""
        call, weights = run.call, run.weights
        x, states = run.kept or self._round_again(run)
        steps, batch, _ = run.output.shape
        size, adds = weights.w_hh.shape[0], call.cell.adds
        rounded = torch.empty(
            1 if adds else 2, steps, batch, M.width_of(size), dtype=torch.bfloat16
        )
        sums = None if weights.b_ih is None else torch.zeros(1 if adds else 2, size)
        self._run(
            "backward", call, run.layer, self._columns(call, 1, weights.w_hh), rounded[0],
            past_start=run.wants_h, rounded_recurrent=None if adds else rounded[1],
            d_bias=None if sums is None else sums[0],
            d_bias_hh=None if sums is None or adds else sums[1],
        )  # fmt: skip
        rows = rounded.flatten(1, 2)[..., :size]
        d = rows[0]
        d_recurrent = d if adds else rows[1]
        before = states[1:] if call.reverse else states[:-1]
        d_x = None
        if run.wants_x:
            columns = self._columns(call, 0, weights.w_ih)
            d_x = M.multiply(d, columns).view(steps, batch, -1)
        factors = (d, x), (d_recurrent, before.flatten(0, 1))
        if any(call.shared) and not batching():
            d_w_ih, d_w_hh = leave(call, factors, self._sum_of_products)
        else:
            d_w_ih, d_w_hh = self._weight_grads(factors)
        if sums is None:
            return Gradients(d_x, d_w_ih, d_w_hh, None, None)
        # One tensor twice would be scaled twice by what works in place on gradients.
        return Gradients(d_x, d_w_ih, d_w_hh, sums[0], sums[0].clone() if adds else sums[1])

    def _columns(
        self, call: LayerCall, index: int, weight: Tensor, transposed: bool = False
    ) -> M.Columns:
        """W_ih or W_hh, packed; once for all steps that share it."""
        shared = call.shared[index]

        def make() -> M.Columns:
            return M.Columns(weight.t() if transposed else weight, self.form)

        return make() if shared is None else shared.once((self.form, transposed), make)

    def _sum_of_products(self, d: Tensor, x: Tensor) -> Tensor:
        return M.multiply(M.as_rows(d.t()), M.Columns(x, self.form))

    def _weight_grads(
        self, factors: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor | None, Tensor | None]:
        (d, x), (d_recurrent, states) = factors
        d_t = M.as_rows(d.t())
        d_w_ih = M.multiply(d_t, M.Columns(x, self.form))
        if d_recurrent is not d:
            d_t = M.as_rows(d_recurrent.t())
        return d_w_ih, M.multiply(d_t, M.Columns(states, self.form))

    def _round_again(self, run: Backward) -> tuple[Tensor, Tensor]:
        """What forward keeps, where nobody kept it."""
        steps, batch, hidden = run.output.shape
        start = run.h_start[None]
        parts = [run.output, start] if run.call.reverse else [start, run.output]
        states = M.as_rows(torch.cat(parts).flatten(0, 1), fresh=True)
        return M.as_rows(run.flat, fresh=True), states.view(steps + 1, batch, hidden)

    def _run(
        self, way: str, call: LayerCall, layer: K.Layer, columns: M.Columns, rounded: Tensor,
        past_start: bool = False, **arrays: Tensor | None,
    ) -> None:  # fmt: skip
        """All steps in C; rounded: (T or T + 1, B, width), arrays by their names in loops.h."""
        steps = len(rounded) - (way == "forward")
        work = layer.batch * columns.depth * columns.columns
        recurrence = M.Recurrence(
            layer, steps, call.reverse, M.FORMS[self.form], M.threads_for(self.form, work),
            past_start, columns.packed.data_ptr(), rounded.data_ptr(), rounded.shape[-1],
        )  # fmt: skip
        for name, array in arrays.items():
            setattr(recurrence, name, None if array is None else array.data_ptr())
        M.loop(f"{call.cell.name}_{way}_bf16")(ctypes.byref(recurrence))
