"""What must not reach the kernels, or not crash there: shapes of p and draws, hooks, contexts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from noisyexp import NoisyLSTM, make_activation, replace_activations
from noisyexp.activations import NoiseSource
from noisyexp.kernels import DrawKey, normal

CPU = torch.device("cpu")


def test_draws_are_float32_whatever_the_default() -> None:
    expected = normal(DrawKey(3), (4, 8), CPU)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(normal(DrawKey(3), (4, 8), CPU), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_one_p_is_broadcast_and_a_wrong_number_is_an_error() -> None:
    x = 3 * torch.randn(2, 200)
    one = make_activation("tanh", "nah", 1).eval()
    fused = one(x)
    one.backend = "eager"
    torch.testing.assert_close(fused, one(x))
    with pytest.raises(ValueError, match=r"num_units=8.* last size of x is 200"):
        make_activation("tanh", "nah", 8)(x)
    model = nn.Sequential(nn.Linear(3, 200), nn.Tanh(), nn.Linear(200, 1))
    assert replace_activations(model, "nan", p_shape="unit")
    assert model.get_parameter("1.p").shape == (1,)


def test_a_strided_p_is_read_by_its_stride() -> None:
    unit = make_activation("tanh", "nah", 40).eval()
    unit.p = nn.Parameter(torch.rand(80)[::2])
    x = 3 * torch.randn(5, 40)
    fused = unit(x)
    unit.backend = "eager"
    torch.testing.assert_close(fused, unit(x))


def test_draws_of_a_source_are_broadcast_or_refused() -> None:
    class Given(NoiseSource):
        def normal(self, path, shape, device):  # type: ignore[no-untyped-def]
            return self.draws

    unit, source = make_activation("tanh", "nani", 40, c=0.1), Given(0)
    unit.noise_source, source.draws = source, torch.ones(1, 1)  # type: ignore[attr-defined]
    torch.testing.assert_close(unit(torch.zeros(8, 40)), torch.full((8, 40), 0.1))
    source.draws = torch.ones(3, 40)  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match=r"expand|size of tensor"):
        unit(torch.zeros(8, 40))


def test_backward_in_other_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = NoisyLSTM(3, 5, variant="nah"), torch.randn(4, 2, 3, requires_grad=True)
    output = layer(x)[0].sum()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output.backward()
    output = layer(x)[0].sum()
    monkeypatch.setenv("NOISYEXP_KERNELS", "0")
    output.backward()
    assert x.grad is not None and x.grad.dtype == torch.float32


def test_hooks_and_backends_of_single_units_count() -> None:
    layer, seen = NoisyLSTM(3, 5, variant="nah"), []
    handle = layer.units["l0"]["g"].register_forward_hook(lambda *_: seen.append(1))
    layer(torch.randn(4, 2, 3))
    assert len(seen) == 4
    handle.remove()
    noise = torch.randn(2, 5, requires_grad=True)
    make_activation("tanh", "nan", 5, c=5.0)(3 * torch.ones(2, 5), noise).sum().backward()
    assert noise.grad is not None and float(noise.grad.abs().sum()) > 0
