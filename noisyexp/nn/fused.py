"""One layer of a noisy LSTM or GRU, all steps, by matrix products and one kernel a step.

The input's share of all gates is one product, as are both weight gradients; a step is one product
with the recurrent weights and one pass of a compiled kernel over gates, noise and state. Kept for
backward: the gates before their units, the cells, the output. Noise is made again. Backward writes
the gradient of the gates over the gates, so that its peak is no higher than the forward's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from noisyexp.activations import Activation
from noisyexp.activations.fused import draw_for, fits, is_fusible, make_site, point_to_p, used_p
from noisyexp.kernels import bindings as K
from noisyexp.kernels.derivatives import first_derivatives

TRANSPOSE_ROWS = 1500
"""From so many rows on the transposed weight gradient is the faster product, copy included."""

Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


@dataclass
class Plan:
    """What one call needs besides tensors that take gradients.

    Attributes:
        cell: "lstm" or "gru".
        sites: the cell's units in the order in which the kernels number them.
        given: draws of each site, where they are given and not made in the kernel.
        mask: (T, B) uint8, 0 past the end of a sequence; None if all have T steps.
        reverse: from the last step to the first.
    """

    cell: str
    sites: list[K.Site]
    given: list[Tensor | None]
    mask: Tensor | None
    reverse: bool

    def order(self, steps: int) -> list[tuple[int, int]]:
        """(step, the step before it or -1) in the order of computation."""
        if self.reverse:
            return [(t, t + 1 if t + 1 < steps else -1) for t in reversed(range(steps))]
        return [(t, t - 1) for t in range(steps)]

    def layer(self, batch: int, hidden: int, ps: Sequence[Tensor | None], **arrays: Any) -> K.Layer:
        """The structure that the kernels take; arrays by name, None for those without."""
        work = batch * hidden * len(self.sites)
        layer = K.Layer(batch, hidden, K.parts_of_step(arrays["gates"].device, batch, work))
        for index, (site, p, given) in enumerate(zip(self.sites, ps, self.given, strict=True)):
            point_to_p(site, p)
            site.given = None if given is None else given.data_ptr()
            layer.sites[index] = site
        for name, array in arrays.items():
            setattr(layer, name, None if array is None else array.data_ptr())
        layer.mask = None if self.mask is None else self.mask.data_ptr()
        return layer


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
        steps, batch, hidden = x.shape[0], x.shape[1], w_hh.shape[1]
        lstm = plan.cell == "lstm"
        flat = x.reshape(steps * batch, -1)
        bias = b_ih + b_hh if lstm and b_ih is not None and b_hh is not None else None
        gates = _input_share(plan, flat, w_ih, b_ih).view(steps, batch, -1)
        output, cells = x.new_empty(steps, batch, hidden), x.new_empty(steps, batch, hidden)
        recurrent = None if lstm else x.new_zeros(batch, 3 * hidden)
        h_start = h_start.contiguous()
        c_start = None if c_start is None else c_start.contiguous()
        layer = plan.layer(
            batch, hidden, ps, gates=gates, cells=cells, output=output, recurrent=recurrent,
            h_start=h_start, c_start=c_start, bias=bias,
        )  # fmt: skip
        step = K.function(f"{plan.cell}_forward", x)
        at_gates, at_output, w_t = gates.unbind(0), output.unbind(0), w_hh.t()
        if steps >= 16 and batch <= 32 and w_hh.numel() <= 2**20:
            w_t = w_t.contiguous()  # small products are faster then, by more than the copy costs
        for t, before in plan.order(steps):
            h = h_start if before < 0 else at_output[before]
            if recurrent is None:
                torch.addmm(at_gates[t], h, w_t, out=at_gates[t])
            elif b_hh is None:
                torch.mm(h, w_t, out=recurrent)
            else:
                torch.addmm(b_hh, h, w_t, out=recurrent)
            step(layer, t, before)
        last = 0 if plan.reverse else steps - 1
        ctx.plan, ctx.spent = plan, False
        ctx.save_for_backward(
            flat, h_start, c_start, w_ih, w_hh, b_ih, b_hh, bias, gates, cells, output, *ps
        )
        ctx.set_materialize_grads(False)
        return output, output[last].clone(), cells[last].clone() if lstm else None

    @staticmethod
    @first_derivatives
    def backward(
        ctx: Any, d_output: Tensor | None, d_h: Tensor | None, d_c: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        # The products of a float32 forward stay float32, whatever context backward is called in.
        with torch.autocast(ctx.saved_tensors[0].device.type, enabled=False):
            return _backward(ctx, d_output, d_h, d_c)


def _backward(
    ctx: Any, d_output: Tensor | None, d_h: Tensor | None, d_c: Tensor | None
) -> tuple[Tensor | None, ...]:
    plan: Plan = ctx.plan
    flat, h_start, c_start, w_ih, w_hh, b_ih, b_hh, bias, gates, cells, output, *ps = (
        ctx.saved_tensors
    )
    if ctx.spent:  # a second backward of a retained graph
        # .data: the saved tensor's version must not count this as a change of it.
        gates.data.copy_(_gates_again(plan, flat, h_start, w_ih, w_hh, b_ih, b_hh, output))
    ctx.spent = True
    steps, batch, hidden = output.shape
    lstm = plan.cell == "lstm"
    d_output = torch.zeros_like(output) if d_output is None else d_output.contiguous()
    start = h_start.new_zeros(batch, hidden)
    d_h = start.clone() if d_h is None else d_h.clone(memory_format=torch.contiguous_format)
    d_c = start.clone() if d_c is None else d_c.clone(memory_format=torch.contiguous_format)
    d_gates = gates
    d_recurrent = d_gates if lstm else torch.empty_like(gates)
    layer = plan.layer(
        batch, hidden, ps, gates=gates, cells=cells, output=output, h_start=h_start,
        c_start=c_start, d_output=d_output, d_gates=d_gates, d_recurrent=d_recurrent, d_h=d_h,
        d_c=d_c, d_carry=start, bias=bias,
    )  # fmt: skip
    p_sums = h_start.new_zeros(len(ps), K.sums_for_p(output.device, layer.threads), hidden)
    for site, p, part in zip(layer.sites, ps, p_sums, strict=False):
        point_to_p(site, p, None if p is None else part)
    step = K.function(f"{plan.cell}_backward", output)
    at_gates = d_recurrent.unbind(0)
    carries = not lstm or plan.mask is not None  # gradient that goes past the product
    for t, before in reversed(plan.order(steps)):
        step(layer, t, before)
        if before < 0 and not ctx.needs_input_grad[2]:
            d_h = None
            break
        if carries:
            torch.addmm(start, at_gates[t], w_hh, out=d_h)
        else:
            torch.mm(at_gates[t], w_hh, out=d_h)
    d_flat = d_gates.view(steps * batch, -1)
    d_x = d_flat.mm(w_ih).view(steps, batch, -1) if ctx.needs_input_grad[1] else None
    d_b = d_flat.sum(0) if b_ih is not None else None
    # One tensor twice would be scaled twice by what works in place on gradients.
    d_b_hh = None if d_b is None else d_b.clone() if lstm else d_recurrent.flatten(0, 1).sum(0)
    return (
        None, d_x, d_h, d_c if lstm else None, _weight_grad(d_flat, flat),
        _recurrent_weight_grad(plan, d_recurrent, h_start, output), d_b, d_b_hh,
        *(None if p is None else total.sum_to_size(p.shape)
          for p, total in zip(ps, p_sums.sum(1), strict=True)),
    )  # fmt: skip


def _input_share(plan: Plan, flat: Tensor, w_ih: Tensor, b_ih: Tensor | None) -> Tensor:
    """The part of all gates that no state enters, (T * B, gates * H); an LSTM's without bias."""
    if b_ih is None or plan.cell == "lstm":
        return torch.mm(flat, w_ih.t())
    return torch.addmm(b_ih, flat, w_ih.t())


def _gates_again(
    plan: Plan, flat: Tensor, h_start: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None,
    b_hh: Tensor | None, output: Tensor,
) -> Tensor:  # fmt: skip
    """What forward kept of the gates, from the states before each step: (T, B, gates * H)."""
    gates = _input_share(plan, flat, w_ih, b_ih).view(*output.shape[:2], -1)
    start = h_start[None]
    before = torch.cat([output[1:], start] if plan.reverse else [start, output[:-1]])
    if plan.cell == "lstm":
        return gates + before @ w_hh.t()
    share = functional.linear(before, w_hh, b_hh)
    hidden = output.shape[-1]
    gates[..., : 2 * hidden] += share[..., : 2 * hidden]  # n keeps its two parts apart
    return gates


def _weight_grad(d: Tensor, x: Tensor) -> Tensor:
    """Sum over rows of d^T x, d: (N, gates * H), x: (N, inputs)."""
    return x.t().mm(d).t() if len(d) >= TRANSPOSE_ROWS else d.t().mm(x)


def _recurrent_weight_grad(plan: Plan, d: Tensor, h_start: Tensor, output: Tensor) -> Tensor:
    """Sum over steps of d_t^T h_before, d: (T, B, gates * H), without a copy of the states."""
    if plan.reverse:
        first, d_rest, h_rest = d[-1], d[:-1], output[1:]
    else:
        first, d_rest, h_rest = d[0], d[1:], output[:-1]
    total = _weight_grad(d_rest.flatten(0, 1), h_rest.flatten(0, 1))
    return total.addmm_(first.t(), h_start)


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
    weights: Weights,
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
    plan = Plan(cell, sites, given, bytes_mask, reverse)
    c_start = state[1] if cell == "lstm" else None
    ps = [used_p(unit) for unit in units.values()]
    output, h, c = _Recurrence.apply(  # type: ignore[no-untyped-call]
        plan, x, state[0], c_start, *weights, *ps
    )
    return output, (h,) if c is None else (h, c)
