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
from noisyexp.activations.fused import draw_for, make_site, point_to_p, used_p
from noisyexp.kernels import bindings as K
from noisyexp.kernels.derivatives import MESSAGE, first_derivatives
from noisyexp.nn.fused import can_fuse

_NAME = "_noisyexp_key_gradient"


class _KeyGradient:
    """The gradient of keys while one backward pass adds it up, step by step."""

    def __init__(self) -> None:
        self._pass = -1
        self._total: Tensor | None = None

    def so_far(self, keys: Tensor) -> tuple[Tensor, bool]:
        """Where to write, (B, S, A) contiguous, and whether it holds numbers to add to."""
        # A pass that asked for other gradients only may have left a sum that nobody took.
        now = torch._C._current_graph_task_id()
        if self._total is not None and self._pass == now:
            return self._total, True
        self._pass, self._total = now, keys.new_empty(keys.shape)
        return self._total, False

    def take(self) -> Tensor | None:
        """The sum of this pass; None if no step was in it."""
        total = self._total if self._pass == torch._C._current_graph_task_id() else None
        self._total = None
        return total


class _Gather(torch.autograd.Function):
    """An empty tensor that stands between keys and their steps in the graph.

    Its backward runs when those of all steps are done, and hands on what they have added up.
    """

    @staticmethod
    def forward(ctx: Any, keys: Tensor, gradient: _KeyGradient) -> Tensor:
        ctx.gradient = gradient
        ctx.set_materialize_grads(False)
        return keys.new_empty(0)

    @staticmethod
    def backward(ctx: Any, _: Tensor | None) -> tuple[Tensor | None, None]:
        if torch.is_grad_enabled():  # nothing is saved here that could tell later
            raise RuntimeError(MESSAGE)
        return ctx.gradient.take(), None


def _shared(keys: Tensor) -> tuple[Tensor | None, _KeyGradient | None]:
    """The tensor of `_Gather` and the gradient that all steps with these keys have in common.

    Kept at the keys themselves, so that both live as long. None for keys that need no gradient, and
    for leaves, whose graph would hold them for ever.
    """
    if keys.is_leaf or not (keys.requires_grad and torch.is_grad_enabled()):
        return None, None
    kept = keys.__dict__.get(_NAME)
    if kept is None or kept[0] != keys._version:  # changed in place, keys have a new graph
        gradient = _KeyGradient()
        token = _Gather.apply(keys, gradient)  # type: ignore[no-untyped-call]
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
        site: K.Site,
        given: Tensor | None,
        gradient: _KeyGradient | None,
    ) -> Tensor:
        scores = keys.new_empty(keys.shape[:2])
        ctx.site, ctx.gradient = site, gradient
        ctx.save_for_backward(keys, q, v, p, given)
        point_to_p(site, p)
        call = _call(site, keys, q, v)
        call.scores = scores.data_ptr()
        K.function("score_forward", keys)(call)
        return scores

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, saved: tuple[Any, ...], d_scores: Tensor) -> tuple[Tensor | None, ...]:
        keys, q, v, p, given = saved
        d_scores, d_q = d_scores.contiguous(), torch.zeros_like(q)
        sums = keys.new_zeros(2, K.CHUNKS, keys.shape[-1])
        point_to_p(ctx.site, p, None if p is None else sums[1])
        if given is not None:
            ctx.site.given = given.data_ptr()
        call = _call(ctx.site, keys, q, v)
        d_keys = None
        if ctx.gradient is not None:
            total, call.adds = ctx.gradient.so_far(keys)
            call.d_keys = total.data_ptr()
        elif ctx.needs_input_grad[0]:
            d_keys = keys.new_empty(keys.shape)
            call.d_keys = d_keys.data_ptr()
        call.d_scores, call.d_q = d_scores.data_ptr(), d_q.data_ptr()
        call.d_v = sums.data_ptr()
        K.function("score_backward", keys)(call)
        d_v, d_p = sums.sum(1)
        return (
            d_keys, None, d_q, d_v.view_as(v), None if p is None else d_p.sum_to_size(p.shape),
            None, None, None,
        )  # fmt: skip


def _call(site: K.Site, keys: Tensor, q: Tensor, v: Tensor) -> K.Score:
    """What both ways have in common."""
    blocks, rows, units = keys.shape
    threads = K.threads_for(keys.numel(), min(K.CHUNKS, blocks))
    call = K.Score(unit=site, size=K.Shape(blocks, rows, units, threads))
    call.key_strides[:] = keys.stride()[:2]
    call.keys, call.q, call.v = keys.data_ptr(), q.data_ptr(), v.data_ptr()
    return call


def can_fuse_score(unit: Activation, q: Tensor, keys: Tensor, *of_v: Tensor) -> bool:
    """Whether the kernel computes these scores; on a GPU, torch's few passes over them do well."""
    on_processor = keys.numel() > 0 and not K.on_gpu(keys.device)
    return on_processor and not unit.by_torch and can_fuse({"score": unit}, keys, q, *of_v)


def fused_score(unit: Activation, q: Tensor, keys: Tensor, v: Tensor) -> Tensor:
    """The score v . phi(key + q) of every position; call it where `can_fuse_score` says so.

    Args:
        unit: phi, of A units; it draws as for an input of shape (B, S, A).
        q: (B, A).
        keys: (B, S, A), not empty; positions and rows may lie apart.
        v: (1, A).

    Returns:
        (B, S).
    """
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
        make_site(unit, draws),
        given,
        gradient,
    )
    return scores
