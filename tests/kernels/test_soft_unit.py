"""The soft units in the kernels against torch in float64: tanh, the logistic, layers of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from noisyexp import NoisyGRU, NoisyLSTM
from noisyexp.activations import make_activation
from noisyexp.activations.fused import can_fuse, fused_unit
from noisyexp.kernels import dispatch, library
from noisyexp.nn.equations import CELLS
from noisyexp.nn.fused import run_fused
from noisyexp.nn.fused_score import can_fuse_score

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled kernels")

UNITS = 19  # not a whole number of tiles
SMALLEST = float(np.finfo(np.float32).tiny)
SOFT: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "sigmoid": torch.sigmoid}


def whole_range() -> Tensor:
    """Float32 numbers of all sizes, infinite ones and denormals among them, (rows, UNITS)."""
    patterns = np.arange(0, 2**32, 30_011, dtype=np.uint64).astype(np.uint32)
    numbers = torch.from_numpy(patterns.view(np.float32).copy())
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1e-45, -1e-45, SMALLEST, 87.7, -87.7])
    found = torch.cat([numbers[~numbers.isnan()], torch.linspace(-20, 20, 40_001), special])
    return found[-(len(found) // UNITS * UNITS) :].view(-1, UNITS)


def derivative(kind: str, x: Tensor) -> Tensor:
    """In the form that keeps its digits for large |x|."""
    slope, scale = (1.0, 2.0) if kind == "tanh" else (0.25, 1.0)
    e = torch.exp(-scale * x.abs())
    return 4 * slope * e / (1 + e) ** 2


def off(found: Tensor, truth: Tensor, least: float) -> float:
    """Largest error against the size of the truth, or against `least` where that is smaller."""
    return float(((found.double() - truth).abs() / truth.abs().clamp_min(least)).max())


@pytest.mark.parametrize("kind", SOFT)
@pytest.mark.parametrize(
    ("dtype", "bound", "least"), [(torch.float32, 3e-7, 1e-30), (torch.float64, 1e-14, 1e-290)]
)
def test_values_and_gradients(kind: str, dtype: torch.dtype, bound: float, least: float) -> None:
    x = whole_range().to(dtype).requires_grad_()
    truth = x.detach().double()
    value = fused_unit(make_activation(kind, "reference", UNITS), x, None)
    value.backward(torch.ones_like(value))  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert off(value.detach(), SOFT[kind](truth), least) < bound
    assert off(x.grad, derivative(kind, truth), least) < bound
    # Below `least` results may be flushed to zero, and never stray.
    assert torch.equal(value.detach().signbit(), SOFT[kind](truth).signbit())
    ends = torch.tensor([[torch.inf] * UNITS, [-torch.inf] * UNITS], dtype=dtype)
    unit = make_activation(kind, "reference", UNITS)
    assert torch.equal(fused_unit(unit, ends, None), SOFT[kind](ends))


@pytest.mark.parametrize("kind", SOFT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_stays(kind: str, dtype: torch.dtype) -> None:
    x = torch.zeros(3, UNITS, dtype=dtype)
    x[1, 4] = torch.nan
    x.requires_grad_()
    value = fused_unit(make_activation(kind, "reference", UNITS), x, None)
    value.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(value.detach().isnan(), x.detach().isnan())
    assert torch.equal(x.grad.isnan(), x.detach().isnan())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_layer_is_torchs(cell: str, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    noisy = {"lstm": NoisyLSTM, "gru": NoisyGRU}[cell](6, UNITS, variant="reference", dtype=dtype)
    own = {"lstm": nn.LSTM, "gru": nn.GRU}[cell](6, UNITS, dtype=dtype)
    own.load_state_dict(noisy.state_dict())
    x = torch.randn(5, 7, 6, dtype=dtype, requires_grad=True)
    start = (torch.zeros(7, UNITS, dtype=dtype),) * (2 if cell == "lstm" else 1)
    weights = (noisy.weight_ih_l0, noisy.weight_hh_l0, noisy.bias_ih_l0, noisy.bias_hh_l0)
    output, state = run_fused(
        dispatch.DIRECT, CELLS[cell], noisy.units["l0"], x, start, None, weights
    )
    truth, (*truth_state,) = own(x)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-12
    d_output = torch.randn_like(truth)
    found = torch.autograd.grad(output, [x, *weights], d_output)
    wanted = torch.autograd.grad(truth, [x, *own.parameters()], d_output)
    for a, b in zip([output, *found], [truth, *wanted], strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    last = truth_state[0] if cell == "gru" else truth_state[0][0]
    torch.testing.assert_close(state[0], last.view(7, UNITS), rtol=tolerance, atol=tolerance)


def test_alone_it_is_torchs_own() -> None:
    unit = make_activation("tanh", "reference", UNITS)
    x = torch.randn(4, UNITS)
    assert not can_fuse(unit, x)
    assert not can_fuse_score(unit, x, torch.randn(4, 3, UNITS), torch.randn(1, UNITS))
    assert torch.equal(unit(x), torch.tanh(x))
