"""A recurrent pass on a GPU with half operands: bf16 or fp16 into products, sums in float32.

States, gates before their units and all gradients are float32; what multiplies is a rounded copy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from noisyexp.kernels.dispatch import backend_of
from noisyexp.kernels.matmul import mm
from noisyexp.nn.layer_call import LayerCall
from noisyexp.nn.products import (
    Backward,
    Forward,
    Gradients,
    Products,
    Weights,
    forward_layer,
)


class HalfProducts(Products):
    """Products of rounded operands.

    Args:
        operands: torch.bfloat16 or torch.float16.
    """

    def __init__(self, operands: torch.dtype) -> None:
        self.operands = operands

    def round(self, x: Tensor) -> Tensor:
        """As an operand."""
        return x.to(self.operands)

    def input_share(self, call: LayerCall, flat: Tensor, weights: Weights) -> Tensor:
        """As the base's."""
        share = mm(self.round(flat), self.round(weights.w_ih).t())
        return share if weights.b_ih is None or call.cell.adds else share.add_(weights.b_ih)

    def forward_steps(self, run: Forward) -> None:
        """As the base's; the rounded output is kept."""
        call, gates, b_hh = run.call, run.gates, run.weights.b_hh
        assert gates is not None
        layer, recurrent, _bias = forward_layer(run)
        step = backend_of(gates).function(f"{call.cell.name}_forward", gates)
        w_t = self.round(run.weights.w_hh).t()
        for t, before in call.order(len(gates)):
            share = mm(self.round(run.h_start if before < 0 else run.output[before]), w_t)
            if recurrent is None:
                gates[t].add_(share)
            else:
                torch.add(share, 0.0 if b_hh is None else b_hh, out=recurrent)
            step(layer, t, before)
        run.kept = [self.round(run.output)]

    def backward(self, run: Backward) -> Gradients:
        """As the base's."""
        d_gates, d_recurrent = (d.flatten(0, 1) for d in self.backward_halves(run))
        d_x = None
        if run.wants_x:
            d_x = mm(d_gates, self.round(run.weights.w_ih)).view(*run.output.shape[:2], -1)
        output, start = run.kept[0].flatten(0, 1), self.round(run.h_start)
        rows = len(start)
        before = [output[rows:], start] if run.call.reverse else [start, output[:-rows]]
        d_ih = mm(d_gates.t(), self.round(run.flat))
        d_hh = mm(d_recurrent.t(), torch.cat(before))
        return Gradients(d_x, d_ih, d_hh, *self.bias_grads(run))

    def backward_halves(self, run: Backward) -> tuple[Tensor, Tensor]:
        """All steps back; d_gates and d_recurrent as operands."""
        call, w_hh = run.call, self.round(run.weights.w_hh)
        step = backend_of(run.output).function(f"{call.cell.name}_backward", run.output)
        for t, before in reversed(call.order(len(run.output))):
            step(run.layer, t, before)
            if before >= 0 or run.wants_h:
                torch.add(mm(self.round(run.d_recurrent[t]), w_hh), run.d_carry, out=run.d_h)
        d_gates = self.round(run.d_gates)
        return d_gates, d_gates if call.cell.adds else self.round(run.d_recurrent)
