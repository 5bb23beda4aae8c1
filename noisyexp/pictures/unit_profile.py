"""Numbers of one unit over x: value, spread and gradient from many draws of its noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from noisyexp.activations import Activation, make_activation

PROBE: dict[str, Any] = {"p_shape": "scalar", "dtype": torch.float64}
"""How a unit is made that is looked at."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def make_unit(
    kind: str,
    act: str,
    *,
    c: float | None = None,
    alpha: float = 1.0,
    p: float = 1.0,
    clip_output: bool = False,
    code_compat: bool = False,
) -> Activation:
    """A unit in float64 with one given p, which takes no gradient; see `Activation`."""
    unit = make_activation(
        kind, act, 1, c=c, alpha=alpha, clip_output=clip_output, code_compat=code_compat, **PROBE
    )
    return look_at(unit, p)


def look_at(unit: Activation, p: float) -> Activation:
    """The unit with one given p, which takes no gradient."""
    if unit.p is not None:
        unit.p.requires_grad_(False).fill_(p)
    return unit


@dataclass(frozen=True)
class Profile:
    """A unit at n inputs x, float64, with D draws each.

    Attributes:
        x: (n,).
        values: (D, n), the unit in training.
        mean: (n,), over draws.
        std: (n,), over draws.
        expected: (n,), the unit in evaluation.
        gradients: (D, n), d phi/dx for each draw.
        gradient_mean: (n,).
        gradient_quantiles: (5, n), at `QUANTILES`.
    """

    x: Tensor
    values: Tensor
    mean: Tensor
    std: Tensor
    expected: Tensor
    gradients: Tensor
    gradient_mean: Tensor
    gradient_quantiles: Tensor


def measure(unit: Activation, x: Tensor, draws: int, seed: int = 0) -> Profile:
    """Draw a unit's noise many times.

    Args:
        unit: with num_units 1; its mode (training or evaluation) is restored.
        x: (n,), float64.
        draws: D, number of draws for each x; the same for every unit.
        seed: of the draws.
    """
    was_training = unit.training
    generator = torch.Generator().manual_seed(seed)
    xi = torch.randn(draws, len(x), 1, generator=generator, dtype=x.dtype)
    inputs = x.expand(draws, len(x)).clone().requires_grad_(True)
    values = unit.train()(inputs[..., None], noise=xi if unit.has_noise else None)[..., 0]
    (gradients,) = torch.autograd.grad(values.sum(), inputs)
    with torch.no_grad():
        expected = unit.eval()(x[:, None])[:, 0]
    unit.train(was_training)
    values = values.detach()
    levels = torch.tensor(QUANTILES, dtype=x.dtype)
    return Profile(
        x=x,
        values=values,
        mean=values.mean(0),
        std=values.std(0, unbiased=False),
        expected=expected,
        gradients=gradients,
        gradient_mean=gradients.mean(0),
        gradient_quantiles=torch.quantile(gradients, levels, dim=0),
    )
