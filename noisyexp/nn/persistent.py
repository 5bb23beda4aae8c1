"""A recurrent layer on a GPU with all steps of a pass in one launch, where that can be had."""

from __future__ import annotations

import torch
from torch import Tensor

from noisyexp.kernels import bindings as K
from noisyexp.kernels import persistent as P
from noisyexp.nn.half_products import HalfProducts
from noisyexp.nn.products import Backward, CellShape, Forward, Products, sum_of_biases


def choose(x: Tensor, operands: torch.dtype) -> Products:
    """What computes a pass on x, float32 or float64 on a GPU, with such operands of products."""
    if operands not in P.OPERANDS or P.limits_of(x.device.index) is None:
        return Products() if operands == x.dtype else HalfProducts(operands)
    return PersistentProducts() if operands == torch.float32 else PersistentHalfProducts(operands)


class PersistentProducts(Products):
    """float32 in one launch; by steps, as its base, where a layer's weights do not fit."""

    def forward_steps(self, run: Forward) -> None:
        """All steps forward."""
        if not forward_at_once(run, torch.float32, None):
            super().forward_steps(run)

    def backward_steps(self, run: Backward) -> None:
        """All steps back."""
        if not backward_at_once(run, torch.float32, None, None):
            super().backward_steps(run)


class PersistentHalfProducts(HalfProducts):
    """The same with half operands."""

    def forward_steps(self, run: Forward) -> None:
        """All steps forward; the rounded output is kept."""
        half = torch.empty_like(run.output, dtype=self.operands)
        if forward_at_once(run, self.operands, half):
            run.kept = [half]
        else:
            super().forward_steps(run)

    def backward_halves(self, run: Backward) -> tuple[Tensor, Tensor]:
        """All steps back; d_gates and d_recurrent as operands."""
        recurrent = torch.empty_like(run.d_gates, dtype=self.operands)
        gates = recurrent if run.plan.cell.adds else torch.empty_like(recurrent)
        if backward_at_once(run, self.operands, gates, recurrent):
            return gates, recurrent
        return super().backward_halves(run)


def forward_at_once(run: Forward, operands: torch.dtype, output_half: Tensor | None) -> bool:
    """All steps of a forward pass in one launch, or false.

    Args:
        run: the pass.
        operands: dtype of what goes into the products with the state.
        output_half: (T, B, H), where to write the output in that dtype, too.
    """
    steps, batch, hidden = run.output.shape
    found = _cut(run.plan.cell, batch, hidden, run.output, operands, backward=False)
    if found is None:
        return False
    work, cut = found
    weights, counters = run.weights, cut.groups * P.COUNTERS_APART
    bias = sum_of_biases(run.plan, weights) if run.plan.cell.adds else weights.b_hh
    layer = run.plan.layer(
        batch, hidden, run.ps, gates=run.gates, cells=run.cells, output=run.output,
        h_start=run.h_start, c_start=run.c_start, bias=bias,
    )  # fmt: skip
    zeros = torch.zeros(
        counters + cut.exchange_bytes(work) // 4, dtype=torch.int32, device=run.output.device
    )
    _launch(run, layer, work, cut, zeros, zeros[counters:], output_half=output_half)
    return True


def backward_at_once(
    run: Backward, operands: torch.dtype, d_gates: Tensor | None, d_recurrent: Tensor | None
) -> bool:
    """All steps of a backward pass in one launch, or false.

    Args:
        run: the pass.
        operands: dtype of what goes into the products with the state.
        d_gates, d_recurrent: (T, B, G), where to write both in that dtype, too.
    """
    batch, hidden = run.h_start.shape
    found = _cut(run.plan.cell, batch, hidden, run.output, operands, backward=True)
    if found is None:
        return False
    work, cut = found
    arrived = torch.zeros(
        cut.groups * P.COUNTERS_APART, dtype=torch.int32, device=run.output.device
    )
    exchange = run.output.new_empty(cut.exchange_bytes(work) // 4)
    _launch(
        run, run.layer, work, cut, arrived, exchange,
        d_gates_half=d_gates, d_recurrent_half=d_recurrent,
    )  # fmt: skip
    return True


def _cut(
    cell: CellShape, batch: int, hidden: int, like: Tensor, operands: torch.dtype, backward: bool
) -> tuple[P.Work, P.Cut] | None:
    limits = P.limits_of(like.device.index)
    work = P.Work(4 if cell.adds else 3, batch, hidden, P.OPERANDS[operands], backward)
    cut = None if limits is None else P.best_cut(work, limits)
    return None if cut is None else (work, cut)


def _launch(
    run: Forward | Backward, layer: K.Layer, work: P.Work, cut: P.Cut, arrived: Tensor,
    exchange: Tensor, **halves: Tensor | None,
) -> None:  # fmt: skip
    w_hh = run.weights.w_hh.contiguous()
    described = P.describe(
        work, cut, own=layer, steps=len(run.output), reverse=run.plan.reverse,
        w_hh=w_hh.data_ptr(), arrived=arrived.data_ptr(), exchange=exchange.data_ptr(),
        **{name: None if half is None else half.data_ptr() for name, half in halves.items()},
    )  # fmt: skip
    P.launch(run.plan.cell.name, work, cut, described, w_hh.device.index)
