"""Scores of additive attention by a compiled kernel: v . phi(key + q) without phi in memory.

B rows, S positions, A units. A step keeps q, (B, A), for backward, which makes phi and its
derivative again from q and the keys, with the same draws. All steps of a sentence have the same
keys: their backward passes add to one gradient, (B, S, A) for all steps together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from noisyexp.activations import Activation
from noisyexp.activations.fused import draw_for, kernel_activation, point_to_p, used_p
from noisyexp.activations.ops import UNITS, Encoded, decode, encode, keep, kept, no_gradients
from noisyexp.kernels import bindings as K
from noisyexp.kernels import dispatch
from noisyexp.kernels.cpu import threads_for
from noisyexp.kernels.derivatives import MESSAGE, first_derivatives
from noisyexp.kernels.ops import define
from noisyexp.kernels.precision import HALF
from noisyexp.nn.fused import can_fuse
from noisyexp.nn.shared import Gather, OfPass

_NAME, _WIDE = "_noisyexp_key_gradient", "_noisyexp_float32"


class _KeyGradient:
    """The gradient of keys while a backward pass adds it up, step by step."""

    def __init__(self) -> None:
        self._totals: OfPass[list[Tensor]] = OfPass()

    def so_far(self, keys: Tensor) -> tuple[Tensor, bool]:
        """Where to write, (B, S, A) contiguous, and whether it holds numbers to add to."""
        total = self._totals.get(list)
        adds = bool(total)
        if not adds:
            total.append(keys.new_empty(keys.shape))
        return total[0], adds

    def take(self) -> Tensor | None:
        """The sum of this pass; None if no step was in it."""
        if torch.is_grad_enabled():  # nothing is saved here that could tell later
            raise RuntimeError(MESSAGE)
        total = self._totals.take()
        return total[0] if total else None


def _shared(keys: Tensor) -> tuple[Tensor | None, _KeyGradient | None]:
    """The tensor of `Gather` and the gradient that all steps with these keys have in common.

    Kept at the keys themselves, so that both live as long. None for keys that need no gradient, and
    for leaves, whose graph would hold them for ever.
    """
    if keys.is_leaf or not (keys.requires_grad and torch.is_grad_enabled()):
        return None, None
    kept = keys.__dict__.get(_NAME)
    if kept is None or kept[0] != keys._version:  # changed in place, keys have a new graph
        gradient = _KeyGradient()
        token = Gather.apply(keys, gradient)  # type: ignore[no-untyped-call]
        kept = keys.__dict__[_NAME] = (keys._version, token, gradient)
    return kept[1], kept[2]


class _Score(torch.autograd.Function):
    """Differentiable in keys (by themselves or by way of `token`), q, v and p."""

    @staticmethod
    def forward(
        ctx: Any,
        keys: Tensor,
        token: Tensor | None,
        q: Tensor,
        v: Tensor,
        p: Tensor | None,
        activation: K.Activation,
        given: Tensor | None,
        gradient: _KeyGradient | None,
    ) -> Tensor:
        ctx.activation, ctx.gradient = activation, gradient
        ctx.save_for_backward(keys, q, v, p, given)
        return _scores(activation, keys, q, v, p)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, saved: tuple[Any, ...], d_scores: Tensor) -> tuple[Tensor | None, ...]:
        keys, q, v, p, given = saved
        # Another thread may be in this graph's backward, too.
        activation = K.Activation.from_buffer_copy(ctx.activation)
        if given is not None:
            activation.given = given.data_ptr()
        d_keys, total, adds = None, None, False
        if ctx.gradient is not None:
            total, adds = ctx.gradient.so_far(keys)
        elif ctx.needs_input_grad[0]:
            total = d_keys = keys.new_empty(keys.shape)
        found = _scores_back(activation, d_scores, keys, q, v, p, total, adds)
        return d_keys, None, *found, None, None, None


def _scores(
    activation: K.Activation, keys: Tensor, q: Tensor, v: Tensor, p: Tensor | None
) -> Tensor:
    """(B, S); rows and positions of keys may lie apart."""
    scores = keys.new_empty(keys.shape[:2])
    point_to_p(activation, p)
    call = _call(activation, keys, q, v)
    call.scores = scores.data_ptr()
    dispatch.backend_of(keys).function("score_forward", keys)(call)
    return scores


def _scores_back(
    activation: K.Activation, d_scores: Tensor, keys: Tensor, q: Tensor, v: Tensor,
    p: Tensor | None, d_keys: Tensor | None, adds: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Gradients of q, v and p; that of keys is written into `d_keys`, or added to it."""
    d_scores, d_q = d_scores.contiguous(), torch.zeros_like(q)
    sums = keys.new_zeros(2, K.CHUNKS, keys.shape[-1])
    point_to_p(activation, p, None if p is None else sums[1])
    call = _call(activation, keys, q, v)
    call.adds, call.d_keys = adds, None if d_keys is None else d_keys.data_ptr()
    call.d_scores, call.d_q = d_scores.data_ptr(), d_q.data_ptr()
    call.d_v = sums.data_ptr()
    dispatch.backend_of(keys).function("score_backward", keys)(call)
    d_v, d_p = sums.sum(1)
    return d_q, d_v.view_as(v), None if p is None else d_p.sum_to_size(p.shape)


def _call(activation: K.Activation, keys: Tensor, q: Tensor, v: Tensor) -> K.Score:
    """What both ways have in common."""
    blocks, rows, units = keys.shape
    threads = threads_for(keys.numel(), min(K.CHUNKS, blocks))
    call = K.Score(unit=activation, size=K.Shape(blocks, rows, units, threads))
    call.key_strides[:] = keys.stride()[:2]
    call.keys, call.q, call.v = keys.data_ptr(), q.data_ptr(), v.data_ptr()
    return call


def _op(keys: Tensor, q: Tensor, v: Tensor, *units: Any) -> Tensor:
    (activation,), (p,), _given = decode(Encoded(*units))
    return _scores(activation, keys.contiguous(), q.contiguous(), v.contiguous(), p)


def _op_fake(keys: Tensor, q: Tensor, v: Tensor, *units: Any) -> Tensor:
    return keys.new_empty(keys.shape[:2])


def _op_back(
    d_scores: Tensor, keys: Tensor, q: Tensor, v: Tensor, *units: Any
) -> tuple[Tensor, ...]:
    (activation,), (p,), _given = decode(Encoded(*units))
    keys, d_keys = keys.contiguous(), keys.new_empty(keys.shape)
    d_q, d_v, d_p = _scores_back(
        activation, d_scores, keys, q.contiguous(), v.contiguous(), p, d_keys, False
    )
    # No result may share memory with another: d_v is a row of the sums.
    return d_keys, d_q, d_v.clone(), keys.new_empty(0) if d_p is None else d_p.clone()


def _op_back_fake(
    d_scores: Tensor, keys: Tensor, q: Tensor, v: Tensor, *units: Any
) -> tuple[Tensor, ...]:
    ps = Encoded(*units).ps
    shapes = [keys.shape, q.shape, v.shape, ps[0].shape if ps else (0,)]
    d_keys, d_q, d_v, d_p = (keys.new_empty(shape) for shape in shapes)
    return d_keys, d_q, d_v, d_p


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    keep(ctx, inputs[:3], Encoded(*inputs[3:]))


def _gradients(ctx: Any, d_scores: Tensor) -> tuple[Any, ...]:
    tensors, units = kept(ctx)
    *found, d_p = torch.ops.noisyexp.score_backward(d_scores, *tensors, *units)
    return *found, *no_gradients(units, [d_p] if units.ps else [])


define(
    "score_backward",
    f"(Tensor d_scores, Tensor keys, Tensor q, Tensor v, {UNITS}) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _op_back,
    _op_back_fake,
)
define(
    "score", f"(Tensor keys, Tensor q, Tensor v, {UNITS}) -> Tensor", _op, _op_fake, _gradients,
    _setup,
)  # fmt: skip


def can_fuse_score(unit: Activation, q: Tensor, keys: Tensor, *of_v: Tensor) -> int:
    """How the kernel computes these scores, see `dispatch.way`; 0 if not at all.

    Not on a GPU, where torch's few passes over them do well.
    """
    if keys.numel() == 0 or unit.by_torch or not dispatch.has("score_forward", keys.device):
        return dispatch.PLAIN
    return can_fuse({"score": unit}, keys, q, *of_v)


def keys_in_float32(keys: Tensor) -> Tensor:
    """Keys of half precision as float32, made once for all steps that share them."""
    if keys.dtype not in HALF:
        return keys
    if keys.is_leaf or torch.compiler.is_compiling():
        return keys.float()
    now = (keys._version, keys.requires_grad and torch.is_grad_enabled())
    kept = keys.__dict__.get(_WIDE)
    if kept is None or kept[0] != now:
        kept = keys.__dict__[_WIDE] = (now, keys.float())
    wide: Tensor = kept[1]
    return wide


def fused_score(way: int, unit: Activation, q: Tensor, keys: Tensor, v: Tensor) -> Tensor:
    """The score v . phi(key + q) of every position.

    Args:
        way: what `can_fuse_score` said, not 0.
        unit: phi, of A units; it draws as for an input of shape (B, S, A).
        q: (B, A).
        keys: (B, S, A), not empty; positions and rows may lie apart.
        v: (1, A).

    Returns:
        (B, S).
    """
    if way == dispatch.OPERATOR:
        units = encode([unit], keys.shape, keys)
        found: Tensor = torch.ops.noisyexp.score(keys, q, v, *units)
        return found
    (draws,) = draw_for([unit], tuple(keys.shape), keys)
    given = draws if isinstance(draws, Tensor) else None
    keys = keys if keys.stride(-1) == 1 else keys.contiguous()
    token, gradient = _shared(keys)
    scores: Tensor = _Score.apply(  # type: ignore[no-untyped-call]
        keys,
        token,
        q.contiguous(),
        v.contiguous(),
        used_p(unit),
        kernel_activation(unit, draws),
        given,
        gradient,
    )
    return scores
