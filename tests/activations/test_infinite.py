"""Infinite inputs: the limits of the equations, and of their derivatives, never NaN."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from noisyexp import make_activation
from noisyexp.kernels import library

BACKENDS = ["eager", pytest.param("auto", marks=pytest.mark.skipif(library() is None, reason="C"))]
RANGES = {"tanh": (1.0, -1.0, 1.0), "sigmoid": (0.25, 0.0, 1.0)}
"""Slope, low, high."""
XI = [1.7, -0.4]


def limit(
    variant: str, kind: str, x: float, xi: float, p: float, *, alpha: float, c: float,
    code_compat: bool, training: bool,
) -> float:  # fmt: skip
    """phi(x) for x -> +-inf, by hand."""
    slope, low, high = RANGES[kind]
    side, bound = (1.0, high) if x > 0 else (-1.0, low)
    if variant == "nanil" and code_compat and training and p > 0:
        # x + c p |u| sgn(xi) for large x: the noise grows with x and may win.
        growth = side + c * p * slope * math.copysign(1.0, xi)
        return high if growth > 0 else low
    if variant not in ("nan", "nah", "nah_mean"):
        return bound
    if training and variant != "nah_mean":
        push = xi if variant == "nan" else abs(xi)
    else:
        push = 0.0 if variant == "nan" else 0.797 if code_compat else math.sqrt(2 / math.pi)
    away = alpha > 1 and not (code_compat and variant == "nan" and training)
    sigma = c / 4 if p else 0.0  # g(p Delta) is 0 or 1, or 1/2 for p = 0
    leak = (1 - alpha) * x if alpha != 1 else 0.0
    return alpha * bound + leak + (side if away else -side) * sigma * push


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["tanh", "sigmoid"])
@pytest.mark.parametrize("variant", ["hard", "nan", "nah", "nah_mean", "nani", "nanil", "nanis"])
def test_values_and_gradients_are_their_limits(
    variant: str, kind: str, dtype: torch.dtype, backend: str
) -> None:
    points = [(x, xi, p) for x in (math.inf, -math.inf) for xi in XI for p in (0.7, -0.6, 0.0)]
    slope, low, high = RANGES[kind]
    xi = torch.tensor([[xi for _, xi, _ in points]], dtype=dtype)
    for alpha, c, compat, training, clip in itertools.product(
        (0.9, 1.0, 1.15), (0.5, 30.0), *[(True, False)] * 3
    ):
        options = {"alpha": alpha, "c": c, "code_compat": compat}
        unit = make_activation(
            kind, variant, len(points), **options, clip_output=clip, dtype=dtype
        ).train(training)
        unit.backend = backend
        if unit.p is not None:
            unit.p.data = torch.tensor([p for _, _, p in points], dtype=dtype)
        x = torch.tensor([[x for x, _, _ in points]], dtype=dtype, requires_grad=True)
        value = unit(x, xi)
        value.sum().backward()
        expected = torch.tensor(
            [[limit(variant, kind, *point, **options, training=training) for point in points]],
            dtype=dtype,
        )
        rest = slope * (1 - alpha) if variant in ("nan", "nah", "nah_mean") else 0.0
        d_x = torch.full_like(expected, rest)
        if clip:
            d_x[(expected < low) | (expected > high)] = 0
            expected = expected.clamp(low, high)
        torch.testing.assert_close(value.detach(), expected, rtol=1e-6, atol=1e-6)
        assert x.grad is not None
        torch.testing.assert_close(x.grad, d_x, rtol=1e-6, atol=1e-6)
        if unit.p is not None and unit.p.grad is not None:
            assert torch.equal(unit.p.grad, torch.zeros_like(unit.p))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_stays_nan_beside_infinity(dtype: torch.dtype, backend: str) -> None:
    """A diverged run has to show it; neighbours of one tile keep their values."""
    x = torch.tensor([[math.inf, math.nan, 3.0]], dtype=dtype)
    for variant in ("nan", "nah", "nanil"):
        unit = make_activation("tanh", variant, 3, dtype=dtype)
        unit.backend = backend
        found = unit(x, torch.ones_like(x))
        assert found.isnan().tolist() == [[False, True, False]]
        alone = unit(torch.full_like(x, 3.0), torch.ones_like(x))
        assert float(found[0, 2].detach()) == float(alone[0, 2].detach())
