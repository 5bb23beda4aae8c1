"""Units as a graph sees them: what an operator is told of a unit, and the operator of a lone unit.

A graph is made for a unit's equation, in whole numbers, and takes alpha, c and the keys of noise as
tensors: annealing c makes no new graph, and every call of a graph draws fresh noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from noisyexp.activations import fused
from noisyexp.activations.noise import NoiseSource, fresh_keys
from noisyexp.kernels import bindings as K
from noisyexp.kernels import dispatch
from noisyexp.kernels.ops import define
from noisyexp.kernels.philox import DrawKey

if TYPE_CHECKING:
    from noisyexp.activations.base import Activation

UNITS = "Tensor[] ps, Tensor? keys, Tensor[] given, Tensor[] settings, int[] units"
"""The arguments that `encode` makes, in a schema."""

_WITHOUT, _KEYED, _GIVEN = range(3)
_WORDS = fused.WORDS + 2


class Encoded(NamedTuple):
    """Units as an operator takes them.

    Attributes:
        ps: of the units that use theirs.
        keys: int64 on the CPU, (units that draw,), or (units that draw, 2) with the call.
        given: draws of the units that were given some.
        settings: alpha and c of each unit, (2,) float64 on the CPU.
        units: for each unit what `describe` says, whether it uses p, and where its draws are.
    """

    ps: list[Tensor]
    keys: Tensor | None
    given: list[Tensor]
    settings: list[Tensor]
    units: list[int]


def encode(
    units: Sequence[Activation],
    shape: Sequence[int],
    like: Tensor,
    noise: Tensor | None = None,
) -> Encoded:
    """Units and the noise of one call of each.

    Args:
        units: of one layer, in the order in which it draws.
        shape: of each unit's draws.
        like: a tensor of the dtype and device that the kernel works with.
        noise: the draws of a lone unit; None to draw.
    """
    drawing = [unit for unit in units if unit.training and unit.has_noise]
    keyed = [unit for unit in drawing if noise is None and makes_keys(unit)]
    given = []
    if len(keyed) != len(drawing):  # a source of its own kind, or draws that were handed over
        keyed = []
        for unit in drawing:
            draws = unit.draw_noise(tuple(shape), like.device) if noise is None else noise
            assert draws is not None
            given.append(draws.to(like).expand(shape).contiguous())
    described: list[int] = []
    for unit in units:
        draws_it = unit.training and unit.has_noise
        source = (_KEYED if keyed else _GIVEN) if draws_it else _WITHOUT
        described += [*fused.describe(unit), int(fused.used_p(unit) is not None), source]
    ps = [p for p in (fused.used_p(unit) for unit in units) if p is not None]
    settings = [unit.alpha_and_c for unit in units if unit.alpha_and_c is not None]
    return Encoded(ps, keys_of(keyed) if keyed else None, given, settings, described)


def makes_keys(unit: Activation) -> bool:
    """Whether its draws have keys: it has no source, or one that makes draws as usual."""
    source = unit.noise_source
    return source is None or type(source).normal is NoiseSource.normal


def keys_of(units: Sequence[Activation]) -> Tensor:
    """Keys of one call of each unit, as `Encoded` has them."""
    if all(unit.noise_source is None for unit in units):
        return fresh_keys(len(units))
    rows = []
    for unit in units:
        if unit.noise_source is None:
            key = fresh_keys(1)
            rows.append(torch.cat([key, torch.zeros_like(key)]))
        else:
            rows.append(unit.noise_source.key_tensor(unit.path))
    return torch.stack(rows)


def decode(
    encoded: Encoded,
) -> tuple[list[K.Activation], list[Tensor | None], list[Tensor | None]]:
    """Activations for the kernels, p of each, and draws of each where they are given.

    The activations point to the draws; p is for the pass to point to.
    """
    activations: list[K.Activation] = []
    ps, given = iter(encoded.ps), iter(encoded.given)
    keys = iter([] if encoded.keys is None else encoded.keys.tolist())
    all_ps: list[Tensor | None] = []
    all_given: list[Tensor | None] = []
    for index, values in enumerate(encoded.settings):
        words = tuple(encoded.units[index * _WORDS : (index + 1) * _WORDS])
        activation = fused.filled_activation(words[: fused.WORDS], *values.tolist())
        uses_p, source = words[fused.WORDS :]
        all_ps.append(next(ps) if uses_p else None)
        all_given.append(next(given).contiguous() if source == _GIVEN else None)
        if source == _KEYED:
            key = next(keys)
            activation.key = DrawKey(*(key if isinstance(key, list) else [key])).struct()
        draws = all_given[-1]
        if draws is not None:
            activation.given = draws.data_ptr()
        activations.append(activation)
    return activations, all_ps, all_given


def _unit(x: Tensor, keeps: bool, *units: Any) -> tuple[Tensor, Tensor]:
    """The value and, with `keeps`, what `keep_unit` keeps for backward."""
    (activation,), (p,), _given = decode(Encoded(*units))
    if keeps:
        return fused.keep_unit(x.contiguous(), p, activation)
    return fused.map_unit(x.contiguous(), p, activation), x.new_empty(0)


def _unit_fake(x: Tensor, keeps: bool, *units: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape if keeps else 0)


def _unit_back(
    d_value: Tensor, x: Tensor, kept: Tensor, keeps: bool, *units: Any
) -> tuple[Tensor, Tensor]:
    (activation,), (p,), _given = decode(Encoded(*units))
    of_forward = kept.contiguous() if keeps else None
    d_x, d_p = fused.map_unit_back(
        d_value.contiguous(), x.contiguous(), p, activation, of_forward, over=False
    )
    return d_x, x.new_empty(0) if d_p is None else d_p


def _unit_back_fake(
    d_value: Tensor, x: Tensor, kept: Tensor, keeps: bool, *units: Any
) -> tuple[Tensor, Tensor]:
    ps = Encoded(*units).ps
    return x.new_empty(x.shape), x.new_empty(ps[0].shape if ps else 0)


def keep(ctx: Any, tensors: Sequence[Tensor], encoded: Encoded) -> None:
    """Save tensors and units for backward; `kept` gives them back."""
    parts = (encoded.ps, [] if encoded.keys is None else [encoded.keys], encoded.given)
    ctx.sizes, ctx.units = [len(tensors), *(len(part) for part in parts)], encoded.units
    ctx.save_for_backward(*tensors, *(part for group in parts for part in group), *encoded.settings)


def kept(ctx: Any) -> tuple[list[Tensor], Encoded]:
    """What `keep` saved."""
    saved, groups = list(ctx.saved_tensors), []
    for size in ctx.sizes:
        groups.append(saved[:size])
        saved = saved[size:]
    tensors, ps, keys, given = groups
    return tensors, Encoded(ps, keys[0] if keys else None, given, saved, ctx.units)


def no_gradients(encoded: Encoded, d_ps: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """Gradients of the arguments `UNITS`: of every p, and none of the rest."""
    nothing = [[None] * len(part) for part in (encoded.given, encoded.settings)]
    return list(d_ps), None, nothing[0], nothing[1], None


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, ctx.keeps, *units = inputs
    keep(ctx, [x, output[1]], Encoded(*units))
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, d_value: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    (x, of_forward), encoded = kept(ctx)
    if d_value is None:
        return None, None, *no_gradients(encoded, [None] * len(encoded.ps))
    d_x, d_p = torch.ops.noisyexp.unit_backward(d_value, x, of_forward, ctx.keeps, *encoded)
    return d_x, None, *no_gradients(encoded, [d_p] if encoded.ps else [])


define(
    "unit_backward",
    f"(Tensor d_value, Tensor x, Tensor kept, bool keeps, {UNITS}) -> (Tensor, Tensor)",
    _unit_back,
    _unit_back_fake,
)
define(
    "unit",
    f"(Tensor x, bool keeps, {UNITS}) -> (Tensor, Tensor)",
    _unit,
    _unit_fake,
    _gradients,
    _setup,
)


def unit_in_graph(unit: Activation, x: Tensor, noise: Tensor | None) -> Tensor:
    """phi(x, noise) by an operator; call it where `can_fuse` says `OPERATOR`."""
    encoded = encode([unit], x.shape, x, noise)
    # An exported graph is for every size of x, and `may_keep` asks for it.
    trains = torch.is_grad_enabled() and not dispatch.exporting()
    keeps = encoded.keys is not None and trains and fused.may_keep(unit, x)
    found: tuple[Tensor, Tensor] = torch.ops.noisyexp.unit(x.contiguous(), keeps, *encoded)
    return found[0]
