"""The operator of one recurrent layer in one direction, and that of its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from noisyexp.activations.ops import UNITS, Encoded, decode, keep, kept, no_gradients
from noisyexp.kernels.ops import define
from noisyexp.nn import single
from noisyexp.nn.equations import CELLS
from noisyexp.nn.layer_call import LayerCall
from noisyexp.nn.passes import backward_pass, choose_products, forward_pass
from noisyexp.nn.products import Forward, Weights

_FIELDS = len(Encoded._fields)
_ARGUMENTS = f"{UNITS}, Tensor? mask, str cell, bool reverse, ScalarType? operands"


def _weights(given: Sequence[Tensor]) -> Weights:
    w_ih, w_hh, *biases = given
    b_ih, b_hh = biases or (None, None)
    return Weights(w_ih, w_hh, b_ih, b_hh)


def _layer_call(arguments: Sequence[Any]) -> tuple[LayerCall, list[Tensor | None]]:
    """What the arguments `_ARGUMENTS` stand for, and p of each unit."""
    activations, ps, given = decode(Encoded(*arguments[:_FIELDS]))
    mask, cell, reverse, operands = arguments[_FIELDS:]
    return LayerCall(CELLS[cell], activations, given, mask, reverse, operands), ps


def _forward(
    x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], *arguments: Any
) -> tuple[Tensor, ...]:
    """Output (T, B, H), h and c (empty without c) after the last step, and what backward needs."""
    call, ps = _layer_call(arguments)
    gemm = _single_product(call, x, weights)
    if gemm is not None:
        return _forward_single(call, gemm, x, state, _weights(weights), ps)
    with torch.autocast(x.device.type, enabled=False):
        run = forward_pass(choose_products(call, x), call, x, state, _weights(weights), ps)
    h, *rest = run.final_states()
    assert run.gates is not None
    return run.output, h, rest[0] if rest else x.new_empty(0), run.gates, run.cells


def _single_product(call: LayerCall, x: Tensor, weights: Sequence[Tensor]) -> int | None:
    """The routine by which one step of a cell is one call of C, see `single`; None elsewhere."""
    if len(x) != 1 or call.mask is not None or call.operands is not None:
        return None
    return single.product_for(x[0], _weights(weights))


def _forward_single(
    call: LayerCall, gemm: int, x: Tensor, state: Sequence[Tensor], weights: Weights,
    ps: Sequence[Tensor | None],
) -> tuple[Tensor, ...]:  # fmt: skip
    """As `_forward`; no two results share memory."""
    h, *rest = (part.contiguous() for part in state)
    start = h, rest[0] if rest else None
    (output, *c), (gates, cells) = single.forward(
        call, gemm, x[0].contiguous(), *start, weights, ps
    )
    cells = c[0].clone() if cells is None else cells
    gates, final = gates[: len(h)], c[0] if c else x.new_empty(0)
    return output.clone()[None], output, final, gates[None], cells[None]


def _forward_fake(
    x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], *arguments: Any
) -> tuple[Tensor, ...]:
    steps, batch = x.shape[:2]
    gates, hidden = weights[1].shape
    return (
        x.new_empty(steps, batch, hidden),
        x.new_empty(batch, hidden),
        x.new_empty(batch, hidden) if len(state) == 2 else x.new_empty(0),
        x.new_empty(steps, batch, gates),
        x.new_empty(steps, batch, hidden),
    )


def _backward(
    grads: Sequence[Tensor | None], wants: Sequence[bool], x: Tensor, state: Sequence[Tensor],
    weights: Sequence[Tensor], of_forward: Sequence[Tensor], *arguments: Any,
) -> list[Tensor]:  # fmt: skip
    """Gradients of x, state, weights and every p; empty where not asked for.

    The gates stay as they are: a graph may still need them.
    """
    call, ps = _layer_call(arguments)
    output, gates, cells = of_forward
    gemm = _single_product(call, x, weights)
    if gemm is not None:
        d_output, d_final, d_c = grads
        parts = [d for d in (None if d_output is None else d_output[0], d_final) if d is not None]
        d_h = parts[0] + parts[1] if len(parts) == 2 else next(iter(parts), None)
        h, *rest = (part.contiguous() for part in state)
        found, d_ps = single.backward(
            call, gemm, x[0].contiguous(), h, rest[0] if rest else None, _weights(weights),
            (gates[0].contiguous(), None if rest else cells[0].contiguous()), ps, (d_h, d_c),
            (wants[0], wants[1], wants[1], True, True),
        )  # fmt: skip
        return _found(found, d_ps, x, len(state), len(weights))
    flat = x.reshape(x.shape[0] * x.shape[1], -1)
    h_start, *rest = (part.contiguous() for part in state)
    run = Forward(
        call, flat, h_start, rest[0] if rest else None, _weights(weights), ps, cells.contiguous(),
        output.contiguous(), gates.contiguous(),
    )  # fmt: skip
    products = choose_products(call, x)
    d_gates = torch.empty_like(gates[0] if products.keeps_gates else gates)
    with torch.autocast(x.device.type, enabled=False):
        found, d_ps = backward_pass(products, run, grads, (wants[0], wants[1]), d_gates)
    return _found(found, d_ps, x, len(state), len(weights))


def _found(
    found: Sequence[Tensor | None], d_ps: Sequence[Tensor | None], x: Tensor, states: int,
    weights: int,
) -> list[Tensor]:  # fmt: skip
    """Gradients as the operator gives them: those of c and of biases only where there are some."""
    d_x, d_h, d_c, *d_weights = found
    d_x = None if d_x is None else d_x.view(x.shape)
    given = [d_x, d_h, *([d_c] if states == 2 else []), *d_weights[:weights]]
    given += [d_p for d_p in d_ps if d_p is not None]
    return [x.new_empty(0) if d is None else d.contiguous() for d in given]


def _backward_fake(
    grads: Sequence[Tensor | None], wants: Sequence[bool], x: Tensor, state: Sequence[Tensor],
    weights: Sequence[Tensor], of_forward: Sequence[Tensor], *arguments: Any,
) -> list[Tensor]:  # fmt: skip
    like = [x, *state, *weights, *arguments[0]]
    asked = [*wants, *([True] * (len(like) - 2))]
    return [x.new_empty(part.shape if want else 0) for part, want in zip(like, asked, strict=True)]


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, state, weights, *arguments = inputs
    values, _, _, gates, cells = output
    encoded, (mask, *names) = Encoded(*arguments[:_FIELDS]), arguments[_FIELDS:]
    ctx.counts, ctx.names = (len(state), len(weights)), names
    ctx.masked = mask is not None
    masks = [mask] if ctx.masked else []
    keep(ctx, [x, *state, *weights, values, gates, cells, *masks], encoded)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    (x, *tensors), encoded = kept(ctx)
    states, weights = ctx.counts
    mask = tensors.pop() if ctx.masked else None
    needs = ctx.needs_input_grad
    state, of_layer, of_forward = (
        tensors[:states], tensors[states : states + weights], tensors[states + weights :],
    )  # fmt: skip
    d_x, *found = torch.ops.noisyexp.recurrence_backward(
        list(grads[:3]),
        [needs[0], any(needs[1])],
        x,
        state,
        of_layer,
        of_forward,
        *encoded,
        mask,
        *ctx.names,
    )
    parts = found[:states], found[states : states + weights], found[states + weights :]
    return d_x, parts[0], parts[1], *no_gradients(encoded, parts[2]), None, None, None, None


define(
    "recurrence_backward",
    "(Tensor?[] grads, bool[] wants, Tensor x, Tensor[] state, Tensor[] weights, "
    f"Tensor[] of_forward, {_ARGUMENTS}) -> Tensor[]",
    _backward,
    _backward_fake,
)
define(
    "recurrence",
    f"(Tensor x, Tensor[] state, Tensor[] weights, {_ARGUMENTS}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
    _gradients,
    _setup,
)


def _operations(x: Any, state: Any, weights: Any, *arguments: Any, out_shape: Any = None) -> int:
    """Two for every product of two numbers, for `FlopCounterMode`; arguments are shapes."""
    gates, hidden = weights[1]
    return int(2 * x[0] * x[1] * gates * (x[2] + hidden))


def _operations_backward(
    grads: Any, wants: Any, x: Any, state: Any, weights: Any, *arguments: Any, out_shape: Any = None
) -> int:
    return 2 * _operations(x, state, weights)


register_flop_formula(torch.ops.noisyexp.recurrence)(_operations)
register_flop_formula(torch.ops.noisyexp.recurrence_backward)(_operations_backward)


def recurrence(
    cell: str, x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor | None],
    units: Encoded, mask: Tensor | None, reverse: bool, operands: torch.dtype | None,
) -> tuple[Tensor, tuple[Tensor, ...]]:  # fmt: skip
    """One layer in one direction, as `fused.run_fused`, by an operator."""
    output, h, c, _, _ = torch.ops.noisyexp.recurrence(
        x.contiguous(), list(state), [w for w in weights if w is not None], *units, mask, cell,
        reverse, operands,
    )  # fmt: skip
    return output, (h, c) if len(state) == 2 else (h,)
