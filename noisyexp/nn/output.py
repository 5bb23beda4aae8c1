"""The output layer with its cross-entropy: logits exist for some rows at a time only.

Rows are taken in blocks. While the logits of a block are near, they become the gradient of the
loss, and that goes at once into the gradients of hidden, weight and bias: backward has nothing left
to do but to scale them. Torch's two calls keep logits, their logarithmic softmax and its gradient,
each (N, V), to the end.

N rows, H units, V classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from noisyexp.kernels import bindings as K
from noisyexp.kernels import dispatch
from noisyexp.kernels import matmul as M
from noisyexp.kernels.backend import switched_off
from noisyexp.kernels.derivatives import first_derivatives
from noisyexp.kernels.precision import half_dtype, operand_dtype

ROWS = 256
"""Rows of a block at least: every block writes the whole gradient of the weight."""


class CrossEntropy(NamedTuple):
    """Losses of rows.

    Attributes:
        total: (), the weighted sum of costs, to differentiate.
        costs: cost of every row, of the targets' shape, without a graph; 0 where ignored.
        hits: whether no class has a higher logit than the target, of the targets' shape; False
            where ignored.
    """

    total: Tensor
    costs: Tensor
    hits: Tensor


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    row_weight: float | Tensor = 1.0,
    ignore_index: int = -100,
    floor: float = 0.0,
) -> CrossEntropy:
    """Costs -ln(p + floor) of targets, p the softmax of `hidden @ weight.T + bias`.

    Products take operands in the dtype of autocast, or that of the operands; logits, softmax and
    costs are float32, or float64. Derivatives once only: for second ones, and under torch.compile,
    torch.func and tracing, which all get torch's plain functions, see NOISYEXP_KERNELS=0.

    Args:
        hidden: (..., H).
        weight: (V, H).
        bias: (V,), or None.
        targets: (...) int64, classes.
        row_weight: of each row in `total`, for all rows or (...); a mean over B is 1 / B.
        ignore_index: a target that costs nothing.
        floor: added to the probability inside the logarithm.

    Returns:
        The weighted sum, and cost and hit of every row.

    Raises:
        ValueError: shapes or types that do not belong together.
        IndexError: a target is no class.
    """
    if hidden.shape[:-1] != targets.shape or targets.dtype != torch.int64:
        raise ValueError(
            f"targets of shape {tuple(targets.shape)} and {targets.dtype}: expected "
            f"{tuple(hidden.shape[:-1])}, as hidden has, and torch.int64"
        )
    flat, ids = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    kept = ids != ignore_index
    if not isinstance(row_weight, Tensor):
        row_weight = torch.full((), row_weight, device=hidden.device)
    weights = row_weight.expand(targets.shape).reshape(-1)
    if _plain(hidden, weight, bias, targets):
        found = _by_torch(flat, weight, bias, ids, ignore_index, weights, floor)
    else:
        if not dispatch.queued(ids.device):
            _check(ids[kept], len(weight))
        ids = torch.where(kept, ids, -1)
        half = half_dtype(hidden, weight)
        operands = None if half is None else operand_dtype(half, hidden.device)
        if half is None and hidden.dtype != weight.dtype:
            raise ValueError(f"hidden is {hidden.dtype} and weight {weight.dtype}: one is needed")
        inputs = (flat, weight, bias)
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
            found = _Loss.apply(*inputs, ids, weights, floor, operands)  # type: ignore[no-untyped-call]
        else:
            found = _run(inputs, ids, weights, floor, operands, (False,) * 3)[0]
    total, costs, hits = found
    return CrossEntropy(total, costs.view(targets.shape), hits.view(targets.shape))


def _plain(*tensors: Tensor | None) -> bool:
    """Whether torch's functions have to do it, since somebody wants to see them or has no data."""
    if dispatch.recorded() or torch._C._get_tracing_state() is not None:
        return True
    for tensor in tensors:
        if tensor is not None and (tensor.is_meta or type(tensor) not in (Tensor, nn.Parameter)):
            return True
    return switched_off()


def _check(ids: Tensor, classes: int) -> None:
    wrong = ids[(ids < 0) | (ids >= classes)]
    if len(wrong):
        raise IndexError(f"target {int(wrong[0])} is no class: they are 0 to {classes - 1}")


def _by_torch(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, ignore_index: int,
    weights: Tensor, floor: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The same with all logits in memory; differentiable as often as one likes."""
    logits = functional.linear(hidden, weight, bias)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    costs = functional.cross_entropy(logits, ids, ignore_index=ignore_index, reduction="none")
    kept = ids != ignore_index
    if floor:
        costs = torch.where(kept, -torch.log(torch.exp(-costs) + floor), 0.0)
    found = logits.detach().gather(1, torch.where(kept, ids, 0).unsqueeze(1)).squeeze(1)
    return (costs * weights).sum(), costs.detach(), (found >= logits.detach().amax(1)) & kept


Inputs = tuple[Tensor, Tensor, Tensor | None]
"""hidden (N, H), weight (V, H), bias (V,)."""
Wants = tuple[bool, ...]
"""Which of their gradients are asked for."""


class _Loss(torch.autograd.Function):
    """Differentiable in hidden, weight and bias; gradients are made in forward."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor,
        weights: Tensor, floor: float, operands: torch.dtype | None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        ctx.floor, ctx.operands = floor, operands
        ctx.save_for_backward(hidden, weight, bias, ids, weights)
        found, ctx.gradients = _run(
            (hidden, weight, bias), ids, weights, floor, operands, ctx.needs_input_grad[:3]
        )
        ctx.mark_non_differentiable(*found[1:])
        ctx.set_materialize_grads(False)
        return found

    @staticmethod
    @first_derivatives
    def backward(
        ctx: Any, saved: tuple[Any, ...], d_total: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        if d_total is None:
            return (None,) * 7
        # Given away, not copied, so that they become the gradients of the parameters as they are.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:  # a second backward of a retained graph
            *inputs, ids, weights = saved
            wants = ctx.needs_input_grad[:3]
            gradients = _run(tuple(inputs), ids, weights, ctx.floor, ctx.operands, wants)[1]
        if dispatch.queued(d_total.device) or float(d_total) != 1.0:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(d_total)
        return (*gradients, None, None, None, None)


def _run(
    inputs: Inputs,
    ids: Tensor,
    weights: Tensor,
    floor: float,
    operands: torch.dtype | None,
    wants: Wants,
) -> tuple[tuple[Tensor, Tensor, Tensor], list[Tensor | None]]:
    """Total, costs and hits, and the gradients of the total that are wanted.

    Args:
        inputs: see there.
        ids: (N,) int64, negative where ignored.
        weights: (N,) of rows.
        floor: see `linear_cross_entropy`.
        operands: what those of products are rounded to; None for nothing.
        wants: gradients of which inputs.
    """
    device = inputs[0].device
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        blocks = _Blocks(inputs, wants) if operands is None else _Halved(inputs, wants, operands)
        weights = weights.to(blocks.sums).contiguous()
        costs = torch.empty(len(ids), dtype=blocks.sums, device=device)
        hits = torch.empty(len(ids), dtype=torch.bool, device=device)
        scale = _scale(weights) if operands == torch.float16 else None
        factors = weights if scale is None else weights * scale
        for rows in blocks.slices():
            logits = blocks.logits(rows)
            given = factors[rows] if any(wants) else None
            _entropy(logits, ids[rows], given, floor, costs[rows], hits[rows], blocks.d_bias)
            blocks.add_gradients(rows, logits)
        return ((costs * weights).sum(), costs, hits), blocks.gradients(scale)


class _Blocks:
    """Gradients as they grow, block of rows after block; products by torch in one dtype."""

    def __init__(self, inputs: Inputs, wants: Wants) -> None:
        hidden, weight, bias = self.inputs = inputs
        self.sums = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        self.hidden, self.weight = hidden.to(self.sums), weight.to(self.sums)
        self.bias = None if bias is None else bias.to(self.sums)
        (self.size, width), classes = hidden.shape, len(weight)
        # A block as large as the gradient of the weight, and more only where that is small.
        rows = max(ROWS, width, dispatch.numbers_near(hidden.device) // classes)
        self.rows = math.ceil(self.size / math.ceil(max(self.size, 1) / rows))
        make = hidden.new_empty if self.size else hidden.new_zeros
        self.buffer: Tensor | None = None
        self.d_hidden = make(self.size, width, dtype=self.sums) if wants[0] else None
        self.d_weight = make(classes, width, dtype=self.sums) if wants[1] else None
        parts = (K.CHUNKS if dispatch.has("cross_entropy", hidden.device) else 1, classes)
        self.d_bias = hidden.new_zeros(parts, dtype=self.sums) if wants[2] else None

    def slices(self) -> Iterator[slice]:
        """The rows of each block."""
        for start in range(0, self.size, max(self.rows, 1)):
            yield slice(start, min(start + self.rows, self.size))

    def logits(self, rows: slice) -> Tensor:
        """Logits of a block, written over those of the block before."""
        if self.buffer is None:
            self.buffer = self.hidden.new_empty(self.rows, len(self.weight))
        out = self.buffer[: rows.stop - rows.start]
        if self.bias is None:
            return torch.mm(self.hidden[rows], self.weight.t(), out=out)
        return torch.addmm(self.bias, self.hidden[rows], self.weight.t(), out=out)

    def add_gradients(self, rows: slice, d: Tensor) -> None:
        """What the gradient of a block's logits gives to those of hidden and weight."""
        if self.d_hidden is not None:
            torch.mm(d, self.weight, out=self.d_hidden[rows])
        if self.d_weight is None:
            return
        if rows.start:
            self.d_weight.addmm_(d.t(), self.hidden[rows])
        else:
            torch.mm(d.t(), self.hidden[rows], out=self.d_weight)

    def gradients(self, scale: Tensor | None) -> list[Tensor | None]:
        """Those of hidden, weight and bias, divided by `scale`."""
        d_bias = None if self.d_bias is None else self.d_bias.sum(0)
        found = [self.d_hidden, self.d_weight, d_bias]
        if scale is not None:
            found = [None if d is None else d.div_(scale) for d in found]
        return [
            None if d is None or given is None else d.to(given.dtype)
            for d, given in zip(found, self.inputs, strict=True)
        ]


class _Halved(_Blocks):
    """Operands of products in half precision, their sums in float32."""

    def __init__(self, inputs: Inputs, wants: Wants, operands: torch.dtype) -> None:
        super().__init__(inputs, wants)
        self.operands, weight = operands, inputs[1]
        if M.packs(weight.device, operands):
            self.forth: Tensor | M.Columns = M.Columns(weight.t())
            self.back: Tensor | M.Columns | None = M.Columns(weight) if wants[0] else None
        else:
            self.back = weight.to(operands)
            self.forth = self.back.t()

    def logits(self, rows: slice) -> Tensor:
        return M.bf16_matmul(self.hidden[rows], self.forth, self.bias, dtype=self.operands)

    def add_gradients(self, rows: slice, d: Tensor) -> None:
        if self.d_hidden is not None and self.back is not None:
            self.d_hidden[rows] = M.bf16_matmul(d, self.back, dtype=self.operands)
        if self.d_weight is not None:
            start = self.d_weight if rows.start else None
            x = self.hidden[rows]
            self.d_weight = M.bf16_matmul(d.t(), x, start, dtype=self.operands)


def _scale(weights: Tensor) -> Tensor:
    """A power of two that brings gradients of logits to at most 2^10, (): far from fp16's ends."""
    largest = weights.abs().amax() if len(weights) else weights.new_ones(())
    return torch.exp2(10 - torch.ceil(torch.log2(largest.clamp(min=1e-30))))


def _entropy(
    logits: Tensor, ids: Tensor, weights: Tensor | None, floor: float, costs: Tensor, hits: Tensor,
    d_bias: Tensor | None,
) -> None:  # fmt: skip
    """Write costs and hits of a block; with weights, the gradient of the total over the logits."""
    shape = (1, *logits.shape)
    if dispatch.runs("cross_entropy", logits.device):
        backend = dispatch.backend_of(logits)
        size = K.Shape(*shape, backend.parts_of_map(*shape))
        arrays = (logits, ids, weights, floor, costs, hits, d_bias)
        pointers = [t.data_ptr() if isinstance(t, Tensor) else t for t in arrays]
        backend.function("cross_entropy", logits)(size, *pointers)
        return
    kept, ids = ids >= 0, ids.clamp(min=0).unsqueeze(1)
    right = logits.gather(1, ids).squeeze(1)
    torch.logical_and(right >= logits.amax(1), kept, out=hits)
    torch.log_softmax(logits, 1, out=logits)
    nll = -logits.gather(1, ids).squeeze(1)
    share = torch.exp(-nll)
    costs.copy_(torch.where(kept, -torch.log(share + floor) if floor else nll, 0.0))
    if weights is None:
        return
    slope = torch.where(kept, weights * (share / (share + floor)) if floor else weights, 0.0)
    if dispatch.runs("cross_entropy_back", logits.device):
        # torch's deterministic scatter_add_ is a dozen launches, one of which waits for the GPU.
        backend = dispatch.backend_of(logits)
        size = K.Shape(*shape, backend.parts_of_map(*shape))
        pointers = [t.data_ptr() for t in (logits, ids, slope)]
        backend.function("cross_entropy_back", logits)(size, *pointers)
    else:
        logits.exp_().mul_(slope.unsqueeze(1)).scatter_add_(1, ids, -slope.unsqueeze(1))
    if d_bias is not None:
        d_bias[0].add_(logits.sum(0))
