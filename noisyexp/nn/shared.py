"""Gradients of tensors that many steps share: one product for all steps, at the end of backward.

A decoder that loops over its steps uses the same weights in each. Autograd then makes the gradient
of a weight step by step: a whole matrix is written and added to the sum so far, for a product of a
few rows. Within `shared_weights()` a step leaves its two factors behind instead. An empty tensor
stands between the weight and its steps in the graph; its backward runs when those of all steps are
done, and multiplies what they have left.

B rows of a step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from noisyexp.kernels import dispatch
from noisyexp.kernels.derivatives import MESSAGE, batching, is_batched

Combine = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""The gradient from the factors (d, x) of all steps."""


class Shared:
    """What steps leave behind for the gradient of one tensor in one backward pass.

    Args:
        combine: makes the gradient of it.
    """

    def __init__(self, combine: Combine) -> None:
        self.combine = combine
        self._pass = -1
        self._factors: list[tuple[Tensor, Tensor]] = []

    def leave(self, d: Tensor, x: Tensor) -> None:
        """Factors of one step; they must stay as they are until the pass is over."""
        # A pass that asked for other gradients only may have left some that nobody took.
        now = torch._C._current_graph_task_id()
        if self._pass != now:
            self._pass, self._factors = now, []
        self._factors.append((d, x))

    def take(self) -> Tensor | None:
        """The gradient of this pass; None if no step was in it."""
        factors, self._factors = self._factors, []
        if not factors or self._pass != torch._C._current_graph_task_id():
            return None
        if torch.is_grad_enabled():  # nothing is saved here that could tell later
            raise RuntimeError(MESSAGE)
        ds, xs = zip(*factors, strict=True)
        return self.combine(ds, xs)


class Gather(torch.autograd.Function):
    """An empty tensor that stands between a tensor and its steps in the graph.

    Its backward runs when those of all steps are done, and hands on what `gradient.take()` gives.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, gradient: Any) -> Tensor:
        """Any tensor, and an object whose `take` gives its gradient."""
        ctx.gradient = gradient
        ctx.set_materialize_grads(False)
        return tensor.new_empty(0)

    @staticmethod
    def backward(ctx: Any, _: Tensor | None) -> tuple[Tensor | None, None]:
        """What the steps have left."""
        return ctx.gradient.take(), None


Use = tuple[Tensor, Shared]
"""The empty tensor that a step takes as an input, and where it leaves its factors."""

_uses: ContextVar[dict[tuple[int, int], tuple[Tensor, Use]] | None] = ContextVar(
    "uses", default=None
)


@contextlib.contextmanager
def shared_weights() -> Iterator[None]:
    """Within it, cells and attention make the gradient of a weight once for all their steps.

    For one forward pass: `with shared_weights(): for x in sequence: h = cell(x, h)`. Gradients are
    those without it but for rounding, since sums have another order. What is inside has no second
    derivatives where it runs in compiled kernels. No effect where a graph is recorded
    (torch.compile, torch.func, tracing) or saved tensors are packed (checkpoints, offloading).
    """
    if dispatch.recorded() or torch._C._get_tracing_state() is not None:
        yield
        return
    before = _uses.set({})
    try:
        yield
    finally:
        _uses.reset(before)


def sharing() -> bool:
    """Whether this is within `shared_weights()`, with effect."""
    return not torch.compiler.is_compiling() and _uses.get() is not None


def use(tensor: Tensor, combine: Combine) -> Use | None:
    """How one more step uses a tensor; None for a step that makes its gradient by itself.

    Args:
        tensor: shared by the steps.
        combine: see there; the same for all steps.
    """
    if not sharing() or not (tensor.requires_grad and torch.is_grad_enabled()):
        return None
    uses = _uses.get()
    assert uses is not None
    if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
        # A checkpoint of a step makes it again outside of the context: it must save the same.
        return None
    key = id(tensor), tensor._version  # changed in place, it has a new graph
    if key not in uses:
        gradient = Shared(combine)
        token: Tensor = Gather.apply(tensor, gradient)  # type: ignore[no-untyped-call]
        uses[key] = tensor, (token, gradient)  # the tensor too, so that its id stays its own
    return uses[key][1]


def sum_of_outer_products(ds: Sequence[Tensor], xs: Sequence[Tensor]) -> Tensor:
    """Gradient of a weight, (G, I), from d (B, G) and x (B, I) of every step."""
    return torch.cat(tuple(ds)).t().mm(torch.cat(tuple(xs)))


def leaves(d: Tensor) -> bool:
    """Whether a step may leave its factors behind: they are numbers, and nothing more is asked."""
    return not (torch.is_grad_enabled() or batching() or is_batched(d))


class _Linear(torch.autograd.Function):
    """x W^T + b; the gradient of W is left to `gradient` where `leaves` says so."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, token: Tensor, gradient: Shared
    ) -> Tensor:
        ctx.gradient, ctx.has_bias = gradient, bias is not None
        ctx.save_for_backward(x, weight)
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        d_x = d.mm(weight) if ctx.needs_input_grad[0] else None
        d_bias = d.sum(0) if ctx.has_bias else None
        if not leaves(d):
            return d_x, d.t().mm(x), d_bias, None, None
        ctx.gradient.leave(d, x)
        return d_x, None, d_bias, None, None


def shared_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear` of a step's rows, (B, I) to (B, G), with a shared weight."""
    found = None
    if x.dim() == 2 and not torch.is_autocast_enabled(x.device.type):
        found = use(weight, sum_of_outer_products)
    if found is None:
        return functional.linear(x, weight, bias)
    y: Tensor = _Linear.apply(x, weight, bias, *found)  # type: ignore[no-untyped-call]
    return y


def call(layer: nn.Linear, x: Tensor) -> Tensor:
    """`layer(x)`, its weight shared where the layer is torch's and nobody watches its calls."""
    watched = (
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
    )
    if type(layer) is nn.Linear and not watched:
        return shared_linear(x, layer.weight, layer.bias)
    y: Tensor = layer(x)
    return y


def sum_of_steps(ds: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Gradient of vectors (B, S, D) from d (B, D) and weights (B, S) of every step."""
    return torch.bmm(torch.stack(tuple(weights), 2), torch.stack(tuple(ds), 1))


class _WeightedSum(torch.autograd.Function):
    """sum_s w_s v_s; the gradient of v is left to `gradient`, as in `_Linear`."""

    @staticmethod
    def forward(
        ctx: Any, weights: Tensor, vectors: Tensor, token: Tensor, gradient: Shared
    ) -> Tensor:
        ctx.gradient = gradient
        ctx.save_for_backward(weights, vectors)
        return torch.bmm(weights.unsqueeze(1), vectors).squeeze(1)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        weights, vectors = ctx.saved_tensors
        d_weights = None
        if ctx.needs_input_grad[0]:
            d_weights = torch.bmm(vectors, d.unsqueeze(2)).squeeze(2)
        if not leaves(d):
            return d_weights, torch.bmm(weights.unsqueeze(2), d.unsqueeze(1)), None, None
        ctx.gradient.leave(d, weights)
        return d_weights, None, None, None


def weighted_sum(weights: Tensor, vectors: Tensor) -> Tensor:
    """Sum over s of weights (B, S) times vectors (B, S, D): (B, D), with shared vectors."""
    found = None
    if not torch.is_autocast_enabled(vectors.device.type):
        found = use(vectors, sum_of_steps)
    if found is None:
        return torch.bmm(weights.unsqueeze(1), vectors).squeeze(1)
    total: Tensor = _WeightedSum.apply(weights, vectors, *found)  # type: ignore[no-untyped-call]
    return total
