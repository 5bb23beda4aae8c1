"""A recurrent layer on a GPU with all steps of a pass in one launch, where that can be had."""

from __future__ import annotations

import torch
from torch import Tensor

from noisyexp.kernels import persistent as P
from noisyexp.nn.products import Backward, CellShape, Forward, Products, sum_of_biases


def can_persist(x: Tensor) -> bool:
    """Whether the GPU of x runs such launches, in float32."""
    return x.dtype == torch.float32 and P.limits_of(x.device.index) is not None


class PersistentProducts(Products):
    """float32 in one launch; by steps, as its base, where a layer's weights do not fit."""

    def forward_steps(self, run: Forward) -> None:
        """All steps forward."""
        steps, batch, hidden = run.output.shape
        found = _plan(run.plan.cell, batch, hidden, run.output, backward=False)
        if found is None:
            return super().forward_steps(run)
        work, cut = found
        weights, counters = run.weights, cut.groups * P.COUNTERS_APART
        bias = sum_of_biases(run.plan, weights) if run.plan.cell.adds else weights.b_hh
        layer = run.plan.layer(
            batch, hidden, run.ps, gates=run.gates, cells=run.cells, output=run.output,
            h_start=run.h_start, c_start=run.c_start, bias=bias,
        )  # fmt: skip
        w_hh = weights.w_hh.contiguous()
        zeros = torch.zeros(
            counters + cut.exchange_bytes(work) // 4, dtype=torch.int32, device=w_hh.device
        )
        described = P.describe(
            work, cut, own=layer, steps=steps, reverse=run.plan.reverse, w_hh=w_hh.data_ptr(),
            arrived=zeros.data_ptr(), exchange=zeros.data_ptr() + 4 * counters,
        )  # fmt: skip
        P.launch(run.plan.cell.name, work, cut, described, w_hh.device.index)
        return None

    def backward_steps(self, run: Backward) -> None:
        """All steps back."""
        steps, batch, hidden = run.output.shape
        found = _plan(run.plan.cell, batch, hidden, run.output, backward=True)
        if found is None:
            return super().backward_steps(run)
        work, cut = found
        w_hh = run.weights.w_hh.contiguous()
        exchange = w_hh.new_empty(cut.exchange_bytes(work) // 4)
        arrived = torch.zeros(
            cut.groups * P.COUNTERS_APART, dtype=torch.int32, device=w_hh.device
        )
        described = P.describe(
            work, cut, own=run.layer, steps=steps, reverse=run.plan.reverse, w_hh=w_hh.data_ptr(),
            arrived=arrived.data_ptr(), exchange=exchange.data_ptr(),
        )  # fmt: skip
        P.launch(run.plan.cell.name, work, cut, described, w_hh.device.index)
        return None


def _plan(
    cell: CellShape, batch: int, hidden: int, like: Tensor, backward: bool
) -> tuple[P.Work, P.Cut] | None:
    limits = P.limits_of(like.device.index)
    work = P.Work(4 if cell.adds else 3, batch, hidden, P.OPERANDS[torch.float32], backward)
    cut = None if limits is None else P.best_cut(work, limits)
    return None if cut is None else (work, cut)
