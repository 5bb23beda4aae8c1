"""Units by the compiled kernels: value and derivatives in one pass, noise made where it is used.

What a kernel needs to know of a unit is in `kernels.bindings.Activation`. Backward asks for the
draws again instead of keeping them, so a unit holds nothing for backward but its input.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from noisyexp.activations import functional as F
from noisyexp.activations.noise import NoiseSource, fresh_keys, replayed_keys
from noisyexp.kernels import bindings as K
from noisyexp.kernels import dispatch
from noisyexp.kernels.derivatives import first_derivatives
from noisyexp.kernels.dispatch import backend_of
from noisyexp.kernels.philox import DeviceKey, DrawKey, blocks_rows_units
from noisyexp.kernels.precision import to_float

if TYPE_CHECKING:
    from noisyexp.activations.base import Activation


KEPT_NUMBERS = 2**18
"""Up to so many numbers a lone unit keeps one for each, by which backward makes no noise again."""

Draws = DrawKey | DeviceKey | Tensor


def is_fusible(unit: Activation) -> bool:
    """Whether the kernels know this unit.

    Not a subclass, which may compute anything, nor one whose alpha or c is a tensor, which may want
    a gradient.
    """
    # Not by alpha and c themselves, for whose every value a graph would be made again.
    return unit.alpha_and_c is not None and "kernel_forms" in type(unit).__dict__


def _form(unit: Activation) -> tuple[int, int]:
    """Equation and multiplier of the noise, in training or in evaluation."""
    form, multiplier = unit.kernel_forms[0 if unit.training else 1]
    if form == K.FORM_INPUT_LEARNED and unit.code_compat:
        form = K.FORM_INPUT_LEARNED_CODE
    return form, multiplier


def used_p(unit: Activation) -> Tensor | None:
    """The p that the kernels take: float32 in half-precision modules, None where it is not used.

    NAN without noise is alpha h + (1 - alpha) u.
    """
    p = unit.p  # asked for once: a module looks its parameters up
    if p is None or unit.kernel_forms[0 if unit.training else 1][0] == K.FORM_HARD:
        return None
    return to_float(p)


def describe(unit: Activation) -> tuple[int, ...]:
    """The unit's equation in whole numbers: all that a graph is made for."""
    sigmoid = unit.kind.name == "sigmoid"
    flags = (int(unit.clip_output), int(unit.leaks), int(unit.code_compat))
    return (int(sigmoid), *_form(unit), *flags)


WORDS = 6
"""Whole numbers that `describe` gives."""


def filled_activation(described: tuple[int, ...], alpha: float, c: float) -> K.Activation:
    """The unit as the kernels take it, without draws and without p."""
    return K.Activation.from_buffer_copy(_filled(described, alpha, c))


@functools.lru_cache(maxsize=64)
def _filled(described: tuple[int, ...], alpha: float, c: float) -> bytes:
    """Filling a structure takes longer than copying one."""
    sigmoid, form, multiplier, clip, leaks, of_code = described
    kind = F.SIGMOID if sigmoid else F.TANH
    # The code's NAN pushes to the same side for every alpha.
    one_side = of_code and multiplier == K.MULTIPLIER_NORMAL
    activation = K.Activation(
        form=form,
        multiplier=multiplier,
        clip=clip,
        slope=kind.slope,
        offset=kind.offset,
        low=kind.low,
        high=kind.high,
        threshold=kind.threshold,
        alpha=alpha if leaks else 1.0,
        c=c,
        side=1.0 if alpha > 1.0 and not one_side else -1.0,
        mean=F.HALF_NORMAL_MEAN_CODE if of_code else F.HALF_NORMAL_MEAN,
    )
    return bytes(activation)


def kernel_activation(unit: Activation, noise: Draws | None) -> K.Activation:
    """The unit as the kernels take it, without the pointer to p (see `point_to_p`).

    Args:
        unit: one that `is_fusible`.
        noise: the key of the draws, or where a GPU reads it; the draws themselves (contiguous, of
            x's dtype, kept alive by the caller); or None where the unit draws nothing.
    """
    if unit.training and not unit._p_checked:
        unit.warn_of_dead_p()
    activation = filled_activation(describe(unit), unit.alpha, unit.c)
    if isinstance(noise, DrawKey):
        activation.key = noise.struct()
    elif isinstance(noise, DeviceKey):
        activation.key_from = noise.words.data_ptr()
        activation.words = noise.words  # as long as the structure
    elif noise is not None:
        activation.given = noise.data_ptr()
    return activation


def point_to_p(activation: K.Activation, p: Tensor | None, p_grad: Tensor | None = None) -> None:
    """Tell the kernel where p and the sum of its gradient are."""
    if p is None:
        activation.p = activation.p_grad = None
        return
    activation.p, activation.p_stride = p.data_ptr(), 0 if p.numel() == 1 else p.stride(0)
    activation.p_grad = None if p_grad is None else p_grad.data_ptr()


def draw_for(
    units: Sequence[Activation], shape: tuple[int, ...], like: Tensor
) -> list[Draws | None]:
    """The noise of one call of each unit: keys where the kernel can make the draws, else draws.

    Args:
        units: of one layer, in the order in which it draws.
        shape: of each unit's draws.
        like: a tensor of the dtype and device that the kernel works with.
    """
    drawing = [unit for unit in units if unit.training and unit.has_noise]
    if not drawing:
        return [None] * len(units)
    drawn: list[Draws]
    if all(unit.noise_source is None for unit in drawing):
        # The numbers that one call for each unit would give, in a fraction of the time.
        replayed = replayed_keys(len(drawing), like)
        drawn = (
            [DrawKey(key) for key in fresh_keys(len(drawing)).tolist()]
            if replayed is None
            else [*replayed]
        )
    else:
        drawn = [_draw(unit, shape, like) for unit in drawing]
    if len(drawn) == len(units):
        return [*drawn]
    of_each = iter(drawn)
    return [next(of_each) if unit.training and unit.has_noise else None for unit in units]


def _draw(unit: Activation, shape: tuple[int, ...], like: Tensor) -> Draws:
    source = unit.noise_source
    if source is None or type(source).normal is NoiseSource.normal:
        if source is None:
            keys = replayed_keys(1, like)
            return DrawKey(int(fresh_keys(1))) if keys is None else keys[0]
        return source.draw_key(unit.path)
    draws = source.normal(unit.path, shape, like.device)  # a source of its own kind
    return draws.to(like).expand(shape).contiguous()


def map_unit(x: Tensor, p: Tensor | None, activation: K.Activation) -> Tensor:
    """phi(x), x contiguous."""
    value = torch.empty_like(x)
    point_to_p(activation, p)
    run = backend_of(x).function("unit_map", x)
    run(activation, unit_size(x), x.data_ptr(), value.data_ptr(), None, None)
    return value


def keep_unit(x: Tensor, p: Tensor | None, activation: K.Activation) -> tuple[Tensor, Tensor]:
    """phi(x), x contiguous, and one number for each of x by which backward makes no noise again."""
    value, kept = torch.empty_like(x), torch.empty_like(x)
    point_to_p(activation, p)
    run = backend_of(x).function("unit_keep", x)
    run(activation, unit_size(x), *addresses(x, value, kept))
    return value, kept


def may_keep(unit: Activation, x: Tensor) -> bool:
    """Whether `keep_unit` is for this unit, whose draws have keys, on this x.

    Without a draw backward costs little; a clip is not in what is kept.
    """
    return (
        x.numel() <= KEPT_NUMBERS and not unit.clip_output and dispatch.has("unit_keep", x.device)
    )


def map_unit_back(
    d_value: Tensor,
    x: Tensor,
    p: Tensor | None,
    activation: K.Activation,
    kept: Tensor | None = None,
    given: Tensor | None = None,
    over: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of x and p, all contiguous; with `over` that of x is written over `kept`.

    `given` are the draws, where they lie elsewhere than `activation` says.
    """
    size, backend = unit_size(x), backend_of(x)
    # Another thread may be in this graph's backward, too.
    activation = K.Activation.from_buffer_copy(activation)
    sums = None if p is None else x.new_zeros(backend.sums_for_p(size.threads), size.units)
    point_to_p(activation, p, sums)
    if given is not None:
        activation.given = given.data_ptr()
    if kept is None:
        d_x = torch.empty_like(x)
        name, arrays = "unit_map", addresses(x, None, d_value, d_x)
    else:
        d_x = kept if over else torch.empty_like(x)
        name, arrays = "unit_back_kept", addresses(x, kept, d_value, d_x)
    backend.function(name, x)(activation, size, *arrays)
    return d_x, None if p is None or sums is None else sums.sum_to_size(p.shape)


def take(right: list[bool]) -> bool:
    """Whether this backward pass may write over what forward kept; the others then may not.

    Args:
        right: [whether the first may], or empty; of one graph, for all threads.
    """
    try:
        return right.pop()
    except IndexError:
        return False


def unit_size(x: Tensor) -> K.Shape:
    """The shape of x, (..., units), as the kernels of a unit take it; they only read it."""
    return _unit_size(x.shape, x.device.type, torch.get_num_threads())


@functools.lru_cache(maxsize=64)
def _unit_size(shape: torch.Size, kind: str, threads: int) -> K.Shape:
    sizes = blocks_rows_units(shape)
    return K.Shape(*sizes, dispatch.BACKENDS[kind].parts_of_map(*sizes))


class _Unit(torch.autograd.Function):
    """phi(x) for x of any shape; differentiable in x and p."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        p: Tensor | None,
        activation: K.Activation,
        given: Tensor | None,
        keeps: bool,
    ) -> Tensor:
        # What is kept may be written over once, by whichever backward takes the right to it.
        ctx.activation, ctx.right = activation, [keeps]
        if not keeps:
            ctx.save_for_backward(x, p, given, None)
            return map_unit(x, p, activation)
        value, kept = keep_unit(x, p, activation)
        ctx.save_for_backward(x, p, given, kept)
        return value

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, saved: tuple[Any, ...], d_value: Tensor) -> tuple[Tensor | None, ...]:
        x, p, given, kept = saved
        kept = kept if take(ctx.right) else None
        found = map_unit_back(d_value.contiguous(), x, p, ctx.activation, kept, given)
        return *found, None, None, None


def addresses(*tensors: Tensor | None) -> list[int | None]:
    """For a kernel; None for those that are not there."""
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


def fits(unit: Activation, num_units: int) -> bool:
    """Whether p has one number, or one for each of `num_units`."""
    p = unit.p
    return p is None or p.shape == (num_units,) or p.numel() == 1


def can_fuse(unit: Activation, x: Tensor, noise: Tensor | None = None) -> int:
    """How the kernels compute this unit on x, here and now: see `dispatch.way`; 0 if not at all."""
    if (
        unit.backend == "auto"
        and not unit.by_torch
        and is_fusible(unit)
        and x.numel() > 0
        and dispatch.has("unit_map", x.device)
        and fits(unit, x.shape[-1] if x.dim() else 1)
        and (noise is None or (noise.device == x.device and not noise.requires_grad))
    ):
        return dispatch.way(x, used_p(unit))
    return dispatch.PLAIN


def fused_unit(unit: Activation, x: Tensor, noise: Tensor | None) -> Tensor:
    """phi(x, noise) as `Activation.forward` gives it; call it where `can_fuse` says `DIRECT`."""
    draws: Draws | None
    if noise is not None and unit.training and unit.has_noise:
        draws = noise.to(x.dtype).expand(x.shape).contiguous()
    else:
        (draws,) = draw_for([unit], tuple(x.shape), x)
    given = draws if isinstance(draws, Tensor) else None
    p = used_p(unit)
    activation, x = kernel_activation(unit, draws), x.contiguous()
    if not (torch.is_grad_enabled() and (x.requires_grad or (p is not None and p.requires_grad))):
        return map_unit(x, p, activation)
    keeps = isinstance(draws, DrawKey) and may_keep(unit, x)
    value: Tensor = _Unit.apply(x, p, activation, given, keeps)  # type: ignore[no-untyped-call]
    return value
