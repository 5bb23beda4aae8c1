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
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from noisyexp.kernels import dispatch
from noisyexp.kernels import matmul as M
from noisyexp.kernels.derivatives import MESSAGE, batching, is_batched
from noisyexp.kernels.precision import half_dtype

T = TypeVar("T")

Combine = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""The gradient from the factors (d, x) of all steps."""


class _EndOfPass:
    """What a backward pass keeps as long as it runs; then it forgets a value of the pass."""

    def __init__(self, values: dict[int, Any], number: int) -> None:
        self.values, self.number = values, number

    def __call__(self) -> None:
        """Nothing: of a pass that fails it is not called."""

    def __del__(self) -> None:
        self.values.pop(self.number, None)


class OfPass(Generic[T]):
    """A value for each running backward pass of a graph.

    There may be several at a time: of threads, or one within another, as reentrant checkpoints make
    them. What a pass has is gone when it is over, also where nobody has taken it.
    """

    def __init__(self) -> None:
        self._values: dict[int, T] = {}

    def get(self, make: Callable[[], T]) -> T:
        """The value of this pass, made by the first who asks."""
        now = torch._C._current_graph_task_id()
        if now not in self._values:
            self._values[now] = make()
            if now != -1:
                # A pass that asks for other gradients only has nobody who takes the value.
                end = _EndOfPass(self._values, now)
                torch.autograd.Variable._execution_engine.queue_callback(end)
        return self._values[now]

    def take(self) -> T | None:
        """The value of this pass, which has none from then on; None if it has none."""
        return self._values.pop(torch._C._current_graph_task_id(), None)


class Shared:
    """What steps have in common that use one tensor in one forward pass.

    Args:
        combine: makes its gradient of what the steps leave behind.
        wanted: whether anybody asks for it.
    """

    def __init__(self, combine: Combine, wanted: bool) -> None:
        self.combine, self.wanted = combine, wanted
        self._made: dict[Any, Any] = {}
        self._factors: OfPass[list[tuple[Tensor, Tensor]]] = OfPass()

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What `make` gives of the tensor, a packed copy say, made by the first step alone."""
        if key not in self._made:
            self._made[key] = make()
        found: T = self._made[key]
        return found

    def leave(self, d: Tensor, x: Tensor) -> None:
        """Factors of one step; they must stay as they are until the pass is over."""
        if self.wanted:
            self._factors.get(list).append((d, x))

    def take(self) -> Tensor | None:
        """The gradient of this pass; None if no step was in it."""
        factors = self._factors.take()
        if factors is None:
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


Use = tuple[Tensor | None, Shared | None]
"""The empty tensor that a step takes as an input, and what it has in common with the others.

The first is None where no gradient is asked for, both for a step that is by itself.
"""

_uses: ContextVar[dict[Any, tuple[Tensor, Use]] | None] = ContextVar("uses", default=None)


@contextlib.contextmanager
def shared_weights() -> Iterator[None]:
    """Within it, cells and attention make the gradient of a weight once for all their steps.

    So they do with the copies that products in half precision need of it.

    For one forward pass: `with shared_weights(): for x in sequence: h = cell(x, h)`. Gradients are
    those without it but for rounding, since sums have another order. What is inside has no second
    derivatives where it runs in compiled kernels. No effect where a graph is recorded
    (torch.compile, torch.func, tracing) or saved tensors are packed (offloading, checkpoints that
    are not reentrant). Backward passes may also run within it, and one within another.
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


def use(tensor: Tensor, combine: Combine) -> Use:
    """How one more step uses a tensor.

    Args:
        tensor: shared by the steps. One that is made anew for each is used by one step.
        combine: see there; the same for all steps.
    """
    uses = _uses.get() if sharing() else None
    if uses is None or torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
        # A checkpoint of a step makes it again outside of the context: it must save the same.
        return None, None
    wanted = tensor.requires_grad and torch.is_grad_enabled()
    if tensor.is_leaf and not isinstance(tensor, nn.Parameter):
        return None, None  # perhaps a copy for this step alone: not to be kept
    key = id(tensor), tensor._version, wanted, combine  # changed in place, it has a new graph
    if key not in uses:
        shared = Shared(combine, wanted)
        token = Gather.apply(tensor, shared) if wanted else None  # type: ignore[no-untyped-call]
        uses[key] = tensor, (token, shared)  # the tensor too, so that its id stays its own
    return uses[key][1]


def sum_of_outer_products(ds: Sequence[Tensor], xs: Sequence[Tensor]) -> Tensor:
    """Gradient of a weight, (G, I), from d (B, G) and x (B, I) of every step."""
    return torch.cat(tuple(ds)).t().mm(torch.cat(tuple(xs)))


def leaves(d: Tensor) -> bool:
    """Whether a step may leave its factors behind: they are numbers, and nothing more is asked."""
    return not (torch.is_grad_enabled() or batching() or is_batched(d))


def sum_of_rounded(ds: Sequence[Tensor], xs: Sequence[Tensor]) -> Tensor:
    """`sum_of_outer_products` of operands in half precision, with sums in float32."""
    return M.bf16_matmul(torch.cat(tuple(ds)).t(), torch.cat(tuple(xs)))


class _Linear(torch.autograd.Function):
    """x W^T + b; the gradient of W is left to `shared` where `leaves` says so.

    With `half`, operands are that and the result has it, as torch's has under autocast.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, token: Tensor | None,
        shared: Shared, half: torch.dtype | None,
    ) -> Tensor:  # fmt: skip
        ctx.shared, ctx.has_bias, ctx.half = shared, bias is not None, half
        ctx.save_for_backward(x, weight)
        if half is None:
            return functional.linear(x, weight, bias)
        columns = shared.once("forward", lambda: M.Columns(weight.t()))
        return M.multiply(M.as_rows(x), columns, None if bias is None else bias.float()).to(half)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        d_bias = d.sum(0) if ctx.has_bias else None
        with torch.autocast(d.device.type, enabled=False):
            if not leaves(d):
                d = d.to(weight.dtype)
                return d.mm(weight).to(x.dtype), d.t().mm(x.to(d.dtype)), d_bias, None, None, None
            if ctx.half is None:
                d_x = d.mm(weight) if ctx.needs_input_grad[0] else None
            else:
                columns = ctx.shared.once("backward", lambda: M.Columns(weight))
                d, x, dtype = M.as_rows(d), M.as_rows(x), x.dtype
                d_x = M.multiply(d, columns).to(dtype)
        ctx.shared.leave(d, x)
        return d_x, None, d_bias, None, None, None


def shared_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear` of a step's rows, (B, I) to (B, G), with a shared weight."""
    if not sharing() or x.dim() != 2:
        return functional.linear(x, weight, bias)
    half = half_dtype(x, weight)
    if half is not None and not M.packs(x.device, half):
        return functional.linear(x, weight, bias)
    token, shared = use(weight, sum_of_outer_products if half is None else sum_of_rounded)
    if shared is None or (half is None and token is None):
        return functional.linear(x, weight, bias)
    y: Tensor = _Linear.apply(x, weight, bias, token, shared, half)  # type: ignore[no-untyped-call]
    return y


def is_watched(module: nn.Module) -> bool:
    """Whether somebody has hooks on the calls of a module."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def call(layer: nn.Linear, x: Tensor) -> Tensor:
    """`layer(x)`, its weight shared where the layer is torch's and nobody watches its calls."""
    if type(layer) is nn.Linear and not is_watched(layer):
        return shared_linear(x, layer.weight, layer.bias)
    y: Tensor = layer(x)
    return y


def sum_of_steps(ds: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Gradient of vectors (B, S, D) from d (B, D) and weights (B, S) of every step."""
    return torch.bmm(torch.stack(tuple(weights), 2), torch.stack(tuple(ds), 1))


class _WeightedSum(torch.autograd.Function):
    """sum_s w_s v_s; the gradient of v is left to `shared`, and `half` is, as in `_Linear`."""

    @staticmethod
    def forward(
        ctx: Any, weights: Tensor, vectors: Tensor, token: Tensor, shared: Shared,
        half: torch.dtype | None,
    ) -> Tensor:  # fmt: skip
        ctx.shared, ctx.half = shared, half
        ctx.save_for_backward(weights, vectors)
        if half is not None:
            weights = weights.to(half)
            vectors = shared.once("half", lambda: vectors.to(half))
        return torch.bmm(weights.unsqueeze(1), vectors).squeeze(1)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        weights, vectors = ctx.saved_tensors
        half, d_weights, dtype = ctx.half, None, weights.dtype
        with torch.autocast(d.device.type, enabled=False):
            if half is not None:
                weights = weights.to(half)
                if leaves(d):
                    vectors = ctx.shared.once("half", lambda: vectors.to(half))
                else:
                    vectors = vectors.to(half)
            if ctx.needs_input_grad[0]:
                d_weights = torch.bmm(vectors, d.unsqueeze(2)).squeeze(2).to(dtype)
            if not leaves(d):
                d_vectors = torch.bmm(weights.unsqueeze(2), d.unsqueeze(1))
                return d_weights, d_vectors, None, None, None
        ctx.shared.leave(d, weights)
        return d_weights, None, None, None, None


def weighted_sum(weights: Tensor, vectors: Tensor) -> Tensor:
    """Sum over s of weights (B, S) times vectors (B, S, D): (B, D), with shared vectors."""
    if sharing():
        token, shared = use(vectors, sum_of_steps)
        if token is not None:
            device = vectors.device.type
            autocast = torch.is_autocast_enabled(device) and vectors.dtype != torch.float64
            half = torch.get_autocast_dtype(device) if autocast else None
            total: Tensor = _WeightedSum.apply(  # type: ignore[no-untyped-call]
                weights, vectors, token, shared, half
            )
            return total
    return torch.bmm(weights.unsqueeze(1), vectors).squeeze(1)
