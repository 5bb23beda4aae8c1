"""A recurrent layer on a GPU with all steps of a pass in one launch, where that can be had.

A small layer waits for the processor, so there is as little beside the launch as can be: the
kernels also add biases, sum up the gradients of biases and of p, and write the final states.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from noisyexp.activations.fused import point_to_p
from noisyexp.kernels import bindings as K
from noisyexp.kernels import persistent as P
from noisyexp.kernels.matmul import mm
from noisyexp.nn.layer_call import LayerCall
from noisyexp.nn.products import (
    AllGradients,
    Backward,
    Forward,
    Gradients,
    Products,
    Weights,
    sum_of_products,
)


def choose(x: Tensor, operands: torch.dtype, steps: Products) -> Products:
    """What computes a pass on x, float32 or float64 on a GPU that has these kernels.

    Args:
        x: the input.
        operands: the dtype that those of products are rounded to, or x's own.
        steps: what else would compute it.
    """
    use = P.enabled and operands in P.OPERANDS
    limits = P.limits_of(x.device.index) if use else None
    return steps if limits is None else PersistentProducts(operands, steps, limits)


class PersistentProducts(Products):
    """One launch a pass, in each direction of time.

    Args:
        operands: what goes into products, float32, bfloat16 or float16; sums are float32.
        steps: what computes a layer of which the weights do not fit, or that is too large to gain.
        limits: of the GPU.
    """

    def __init__(self, operands: torch.dtype, steps: Products, limits: P.Limits) -> None:
        self.operands, self.steps, self.limits = operands, steps, limits
        self.half = operands != torch.float32
        self.cuts: dict[bool, tuple[P.Work, P.Cut]] = {}  # by whether backward
        self.states: Tensor | None = None

    def new_output(self, call: LayerCall, x: Tensor, steps: int, batch: int, hidden: int) -> Tensor:
        """As the base's. In float32 it has the state before the first step beside it."""
        if not self._fits(call, batch, hidden):
            return self.steps.new_output(call, x, steps, batch, hidden)
        self.states = x.new_empty(steps + 1, batch, hidden, dtype=self.operands)
        if self.half:
            return x.new_empty(steps, batch, hidden)
        # Not a view, which could not be changed in place.
        shape = (steps, batch, hidden)
        first = self.states.storage_offset() + (0 if call.reverse else batch * hidden)
        strides = (batch * hidden, hidden, 1)
        return x.new_empty(0).set_(self.states.untyped_storage(), first, shape, strides)

    def _fits(self, call: LayerCall, batch: int, hidden: int) -> bool:
        """Whether both passes of such a layer fit and pay; it sets `cuts`."""
        gates = call.cell.gates
        self.cuts = P.best_cuts(gates, batch, hidden, P.OPERANDS[self.operands], self.limits)
        return bool(self.cuts)

    def forward(self, run: Forward) -> None:
        """Write `gates`, `cells`, `output`, `ends`; kept are the states before all steps."""
        if not self.cuts:
            return self.steps.forward(run)
        assert self.states is not None
        call, states = run.call, self.states
        weights = _contiguous(run.weights)
        run.gates = self._mm(run.flat, weights.w_ih.t()).view(*run.output.shape[:2], -1)
        run.ends = [torch.empty_like(run.h_start) for _ in range(call.cell.states)]
        run.kept, self.states = [states], None
        steps = self._describe(call, run.ps, weights, backward=False)
        own = steps.own
        own.gates, own.cells = run.gates.data_ptr(), run.cells.data_ptr()
        own.output, own.h_start = run.output.data_ptr(), run.h_start.data_ptr()
        if weights.b_ih is not None and weights.b_hh is not None:
            steps.b_ih, steps.b_hh = weights.b_ih.data_ptr(), weights.b_hh.data_ptr()
        steps.end_h = run.ends[0].data_ptr()
        if run.c_start is not None:
            own.c_start, steps.end_c = run.c_start.data_ptr(), run.ends[1].data_ptr()
        start, first = states.data_ptr(), states[0].numel() * states.element_size()
        if call.reverse:
            start, first = start + first * (len(states) - 1), 0
        if self.half:
            steps.start_half, steps.output_half = start, states.data_ptr() + first
        else:
            steps.start = start
        self._launch(call, steps, run.output, backward=False)
        return None

    def backward(self, run: Backward) -> Gradients:
        """Of a layer that goes by steps; `gradients` is the other's."""
        return self.steps.backward(run)

    def gradients(
        self,
        run: Forward,
        grads: Sequence[Tensor | None],
        wants: tuple[bool, bool],
        d_gates: Tensor,
    ) -> AllGradients | None:
        """All gradients, see the base."""
        if not self._fits(run.call, *run.h_start.shape):
            return None
        call, gates = run.call, run.gates
        weights = _contiguous(run.weights)
        assert gates is not None
        adds, hidden = call.cell.adds, run.h_start.shape[1]
        d_recurrent = d_gates if adds else torch.empty_like(gates)
        halves = [
            torch.empty_like(gates, dtype=self.operands) for _ in range(1 if adds else 2)
        ] if self.half else [d_recurrent, d_gates]  # fmt: skip
        given = [None if grad is None else grad.contiguous() for grad in grads]
        ends = [torch.empty_like(run.h_start) if wants[1] else None]
        ends.append(None if run.c_start is None else torch.empty_like(run.h_start))
        work, cut = self.cuts[True]
        units = len(call.activations)
        totals = gates.new_empty(units + 2 * work.gates, hidden)
        partial = gates.new_empty(cut.groups, P.MOST_TOTALS, hidden)
        steps = self._describe(call, run.ps, weights, backward=True)
        own = steps.own
        own.gates, own.cells, own.output = (
            gates.data_ptr(),
            run.cells.data_ptr(),
            run.output.data_ptr(),
        )
        own.h_start, own.c_start = run.h_start.data_ptr(), _pointer(run.c_start)
        own.d_gates, own.d_recurrent = d_gates.data_ptr(), d_recurrent.data_ptr()
        own.d_output, own.d_h, own.d_c = (_pointer(grad) for grad in (*given, None)[:3])
        steps.end_h, steps.end_c = _pointer(ends[0]), _pointer(ends[1])
        steps.partial, steps.totals = partial.data_ptr(), totals.data_ptr()
        if self.half:
            steps.d_recurrent_half, steps.d_gates_half = (_pointer(h) for h in (halves * 2)[:2])
        self._launch(call, steps, run.output, backward=True)
        recurrent, from_input = (half.flatten(0, 1) for half in (halves * 2)[:2])
        d_x = None
        if wants[0]:
            d_x = self._mm(from_input, weights.w_ih).view(*run.output.shape[:2], -1)
        before = self._states_before(run).flatten(0, 1)
        found = [d_x, *ends, self._sum(from_input, run.flat), self._sum(recurrent, before)]
        biases: list[Tensor | None] = [None, None]
        if weights.b_ih is not None:
            biases = [*totals[units:].view(2, -1).unbind(0)]
        ps = zip(run.ps, totals[:units].unbind(0), strict=True)
        return [*found, *biases], [
            None if p is None else total if p.shape == total.shape else total.sum_to_size(p.shape)
            for p, total in ps
        ]

    @staticmethod
    def _states_before(run: Forward) -> Tensor:
        """The states h before every step, (T, B, H); operands where the forward pass kept them."""
        if run.kept:
            return run.kept[0][1:] if run.call.reverse else run.kept[0][:-1]
        start, output = run.h_start[None], run.output
        return torch.cat([output[1:], start] if run.call.reverse else [start, output[:-1]])

    def _describe(
        self, call: LayerCall, ps: Sequence[Tensor | None], weights: Weights, backward: bool
    ) -> K.Persistent:
        steps = P.describe(*self.cuts[backward])
        steps.reverse = call.reverse
        units = zip(call.activations, ps, call.given, strict=True)
        for index, (activation, p, given) in enumerate(units):
            steps.own.activations[index] = activation
            own = steps.own.activations[index]  # other threads may use `activation`, too
            point_to_p(own, p)
            own.given = _pointer(given)
        steps.own.mask, steps.w_hh = _pointer(call.mask), weights.w_hh.data_ptr()
        return steps

    def _launch(self, call: LayerCall, steps: K.Persistent, output: Tensor, backward: bool) -> None:
        work, cut = self.cuts[backward]
        exchange = output.new_empty(cut.exchange_bytes(work) // 4)
        counters = P.counters(cut, output.device)
        steps.steps, steps.exchange = len(output), exchange.data_ptr()
        steps.arrived = counters.data_ptr()
        P.launch(call.cell.name, work, cut, steps, output.device.index)

    def _mm(self, a: Tensor, b: Tensor) -> Tensor:
        return mm(a.to(self.operands), b.to(self.operands)) if self.half else torch.mm(a, b)

    def _sum(self, d: Tensor, x: Tensor) -> Tensor:
        """Sum over rows of d^T x."""
        return mm(d.t(), x.to(self.operands)) if self.half else sum_of_products(d, x)


def _contiguous(weights: Weights) -> Weights:
    w_ih, w_hh, *biases = weights
    b_ih, b_hh = (None if bias is None else bias.contiguous() for bias in biases)
    return Weights(w_ih, w_hh.contiguous(), b_ih, b_hh)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
