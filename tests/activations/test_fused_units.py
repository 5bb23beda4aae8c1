"""Single units by the compiled kernels against the functions of the paper's equations."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from noisyexp import make_activation
from noisyexp.activations import NoiseSource, attach_noise, fused
from noisyexp.kernels import library

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled kernels")

VARIANTS = ["hard", "nan", "nah", "nani", "nanil", "nanis"]
DIMENSIONS = st.sampled_from([1, 2, 3, 4, 5, 15, 16, 17, 33])


def both(unit: Any, x: torch.Tensor, noise: torch.Tensor | None = None) -> list[list[Any]]:
    """Value and gradients of x and p, first as written, then by the kernels."""
    found = []
    for backend in ("eager", "auto"):
        unit.backend = backend
        if unit.noise_source is not None:
            unit.noise_source.set_step(2)
        unit.zero_grad()
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        value = unit(leaf, noise)
        weight = torch.linspace(-1, 2, value.numel(), dtype=x.dtype).view(value.shape)
        (value * weight).sum().backward()
        p_grad = None if unit.p is None or unit.p.grad is None else unit.p.grad.clone()
        found.append([value.detach(), leaf.grad, p_grad])
    return found


def assert_same(slow: list[Any], fast: list[Any], tolerance: float) -> None:
    for expected, value in zip(slow, fast, strict=True):
        assert (expected is None) == (value is None)
        if expected is not None:
            limit = tolerance * max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(value, expected, rtol=0, atol=limit)


def jumps(unit: Any, x: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
    """Where the slope in float64 changes within a rounding error of float32: a clip is next to x.

    There one float32 result lies on either side, and the slopes may differ as they like.
    """
    twin = copy.deepcopy(unit).double()
    attach_noise(twin, unit.noise_source)
    wide = None if noise is None else noise.double()
    near = [both(twin, x.double() * (1 + e), wide)[0][1] for e in (-4e-6, 0.0, 4e-6)]
    return ((near[0] - near[1]).abs() > 1e-3) | ((near[2] - near[1]).abs() > 1e-3)


@settings(max_examples=120, deadline=None)
@given(
    variant=st.sampled_from(VARIANTS),
    kind=st.sampled_from(["tanh", "sigmoid"]),
    shape=st.lists(DIMENSIONS, min_size=1, max_size=3),
    alpha=st.sampled_from([0.9, 1.0, 1.15]),
    flags=st.tuples(*[st.booleans()] * 4),
    scalar=st.booleans(),
    double=st.booleans(),
)
def test_any_setting_and_shape(
    variant: str, kind: str, shape: list[int], alpha: float, flags: tuple[bool, ...], scalar: bool,
    double: bool,
) -> None:  # fmt: skip
    clip, compat, training, given_noise = flags
    torch.manual_seed(0)
    dtype = torch.float64 if double else torch.float32
    unit = make_activation(
        kind, variant, shape[-1], alpha=alpha, c=3.0, clip_output=clip, code_compat=compat,
        p_shape="scalar" if scalar else "unit", dtype=dtype,
    ).train(training)  # fmt: skip
    attach_noise(unit, NoiseSource(1))
    x = 4 * torch.randn(*shape, dtype=dtype)
    noise = torch.randn(*shape, dtype=dtype) if given_noise else None
    slow, fast = both(unit, x, noise)
    # Sums over p of n terms of size one; the code's NANIL divides by |xi|, which may be tiny.
    loose = variant == "nanil" and compat
    if not double and bool((skip := jumps(unit, x, noise)).any()):
        # Without the elements at a jump of the slope, and without the sum over p that has them in.
        slow, fast = ([v, g.masked_fill(skip, 0), None] for v, g, _ in (slow, fast))
    assert_same(slow, fast, 1e-9 if double else 2e-3 if loose else 1e-5 * max(1, x.numel() ** 0.5))


def test_non_contiguous_input_keeps_its_shape_and_gradient() -> None:
    unit = make_activation("tanh", "nah", 6, c=2.0, dtype=torch.float64)
    attach_noise(unit, NoiseSource(1))
    x = 3 * torch.randn(6, 5, 4, dtype=torch.float64).transpose(0, 2)
    assert_same(*both(unit, x), 1e-10)


def test_thresholds_and_far_saturation() -> None:
    """At the threshold, next to it, at 0, and where exp would overflow."""
    values = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 1.0000001, 1e-30, 50.0, -50.0, 1e4, -1e4, 1e20]
    x = torch.tensor(values, dtype=torch.float32)[:, None].expand(-1, 3)
    for variant in VARIANTS:
        for kind in ("tanh", "sigmoid"):
            torch.manual_seed(0)
            unit = make_activation(kind, variant, 3, alpha=1.0, c=2.0)
            attach_noise(unit, NoiseSource(1))
            slow, fast = both(unit, x[:-3])
            assert_same(slow[:2], fast[:2], 1e-6)
            # At |x| = 50 the gradient of p is 49 times g (1 - g), of which float32 has few digits.
            assert_same(slow[2:], fast[2:], 5e-5)
            assert torch.isfinite(unit(x)).all()


def test_draws_of_the_kernel_are_the_source_s() -> None:
    """NANI is h(x + c xi): at x = 0 and small c its value is the draw itself."""
    unit, source = make_activation("tanh", "nani", 40, c=0.1), NoiseSource(3)
    attach_noise(unit, source)
    value = unit(torch.zeros(3, 9, 40))
    source.set_step(0)
    xi = source.normal("", (3, 9, 40), torch.device("cpu"))
    torch.testing.assert_close(value, (0.1 * xi).clamp(-1, 1))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kept_derivatives_are_those_that_backward_makes_again(
    variant: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, whatever the size says, and for a second backward pass."""
    x = torch.randn(3, 7, 19, dtype=dtype) * 3
    found = []
    for limit in (x.numel(), 0):
        monkeypatch.setattr(fused, "KEPT_NUMBERS", limit)
        torch.manual_seed(2)
        unit = make_activation("sigmoid", variant, 19, c=2.0, alpha=1.15, dtype=dtype)
        leaf = x.clone().requires_grad_()
        value = unit(leaf)
        for _ in range(2):
            value.backward(torch.full_like(value, 0.3), retain_graph=True)
        found.append([value.detach(), leaf.grad, *(p.grad for p in unit.parameters())])
    assert all(torch.equal(kept, made) for kept, made in zip(*found, strict=True))


@pytest.mark.parametrize("variant", ["nan", "nah"])
@pytest.mark.parametrize("kind", ["tanh", "sigmoid"])
@pytest.mark.parametrize("alpha", [0.9, 1.0, 1.15])
def test_a_number_does_not_depend_on_how_many_beside_it_saturate(
    variant: str, kind: str, alpha: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles in which few units saturate have a loop of their own; the rest keeps its bits."""
    monkeypatch.setattr(fused, "KEPT_NUMBERS", 0)  # derivatives with the noise, as within layers
    torch.manual_seed(5)
    unit = make_activation(kind, variant, 16, alpha=alpha, p_shape="unit")
    source = NoiseSource(9)
    attach_noise(unit, source)
    calm, far = 0.4 * torch.rand(9, 16) - 0.2, 6 * torch.randn(9, 16)
    far[0, 3], far[1, 4], far[2, 5] = 1e19, torch.inf, torch.nan
    order = torch.randperm(16)
    found = []
    for saturated in range(17):  # from none to all of a tile's units
        x = calm.clone()
        x[:, order[:saturated]] = far[:, order[:saturated]]
        source.set_step(1)
        leaf, weight = x.requires_grad_(), torch.linspace(-1, 2, x.numel()).view(x.shape)
        value = unit(leaf)
        grads = torch.autograd.grad((value * weight).sum(), (leaf, unit.p))
        found.append([part.nan_to_num(7.5) for part in (value.detach(), *grads)])
    for saturated in range(17):
        for part, of_none, of_all in zip(found[saturated], found[0], found[16], strict=True):
            assert torch.equal(part[..., order[:saturated]], of_all[..., order[:saturated]])
            assert torch.equal(part[..., order[saturated:]], of_none[..., order[saturated:]])
