"""Beside plain gradients: infinite inputs, torch.func, second derivatives, shared memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from noisyexp import NoisyGRU, NoisyLSTM, make_activation
from noisyexp.activations import Activation, ActivationSpec
from noisyexp.nn.attention import AdditiveAttention

WITHOUT_MEAN = ("hard", "nan", "nani", "nanil", "nanis")
"""In evaluation; NAH's sigma is NaN in the kernels where the input is infinite."""


@pytest.mark.parametrize("kind", ["tanh", "sigmoid"])
@pytest.mark.parametrize("variant", WITHOUT_MEAN)
def test_infinite_inputs_are_those_of_the_equations(variant: str, kind: str) -> None:
    unit = make_activation(kind, variant, 2, alpha=1.0).eval()
    x = torch.tensor([[math.inf, -math.inf], [-math.inf, 3.0]])
    value = unit(x)
    unit.backend = "eager"
    torch.testing.assert_close(value, unit(x))
    assert value.isfinite().all()


def test_a_gate_that_is_masked_by_minus_infinity() -> None:
    lstm = NoisyLSTM(3, 4, variant="hard").eval()
    with torch.no_grad():
        lstm.bias_ih_l0[:4] = -math.inf  # the input gate is shut
    output, _ = lstm(torch.randn(5, 2, 3))
    assert torch.equal(output, torch.zeros_like(output))


def _units() -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    unit = make_activation("tanh", "nah", 3).double().eval()
    lstm = NoisyLSTM(3, 4, variant="nah").double().eval()
    gru = NoisyGRU(3, 4, variant="nah").double().eval()
    x = torch.randn(2, 2, 3).double() * 3
    return {"unit": (unit, (x,)), "lstm": (lstm, (x,)), "gru": (gru, (x,))}


@pytest.mark.parametrize("name", ["unit", "lstm", "gru"])
def test_second_derivatives_are_refused(name: str) -> None:
    """Not zero: the plain code gives some, and torch's `once_differentiable` would not object."""
    module, (x,) = _units()[name]

    def total(x: Tensor) -> Tensor:
        value = module(x)
        return (value if isinstance(value, Tensor) else value[0]).square().sum()

    with pytest.raises(RuntimeError, match=r"no second derivatives: .* backend='eager'"):
        torch.autograd.functional.hessian(total, x)
    (first,) = torch.autograd.grad(total(x.requires_grad_()), x, create_graph=True)
    (plain,) = torch.autograd.grad(total(x), x)
    assert torch.equal(first, plain)
    for part in module.modules():
        if isinstance(part, Activation):
            part.backend = "eager"
    assert torch.autograd.functional.hessian(total, x.detach()).abs().sum() > 0


def test_second_derivatives_of_the_score_are_refused() -> None:
    attention = AdditiveAttention(3, 4, ActivationSpec("nah")).double().eval()
    query = torch.randn(2, 3).double().requires_grad_()
    leaf = torch.randn(2, 5, 4).double().requires_grad_()
    for keys in (leaf, leaf * 1.0):
        total = attention.weights(query, keys).square().sum()
        with pytest.raises(RuntimeError, match="no second derivatives"):
            (first,) = torch.autograd.grad(total, query, create_graph=True)
            torch.autograd.grad(first.sum(), query)
        with pytest.raises(RuntimeError, match="no second derivatives"):
            (first,) = torch.autograd.grad(
                attention.weights(query, keys).square().sum(), leaf, create_graph=True
            )
            torch.autograd.grad(first.sum(), leaf)


@pytest.mark.parametrize("layer", [NoisyLSTM, NoisyGRU])
def test_every_gradient_has_memory_of_its_own(layer: type[NoisyLSTM] | type[NoisyGRU]) -> None:
    module = layer(3, 4, num_layers=2, variant="nah").eval()
    weights = [p for name, p in module.named_parameters() if "units" not in name]
    grads = torch.autograd.grad(module(torch.randn(5, 2, 3))[0].sum(), weights)
    assert len({grad.data_ptr() for grad in grads}) == len(grads)


def test_transforms_of_torch_func() -> None:
    unit = make_activation("tanh", "nah", 3).double().eval()
    x = torch.linspace(-3, 3, 12).double().view(4, 3)
    torch.testing.assert_close(torch.func.vmap(unit)(x), unit(x))
    per_row = torch.func.vmap(torch.func.grad(lambda row: unit(row).sum()))(x)
    (plain,) = torch.autograd.grad(unit(x.requires_grad_()).sum(), x)
    torch.testing.assert_close(per_row, plain)


def test_a_learned_c_has_a_gradient() -> None:
    unit = make_activation("tanh", "nah", 3)
    unit.c = torch.tensor(0.5, requires_grad=True)  # type: ignore[assignment]
    unit(torch.full((2, 3), 3.0)).sum().backward()
    assert unit.c.grad is not None and unit.c.grad.abs() > 0  # type: ignore[attr-defined]


def test_whole_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"x must be floating, not torch.int64; use x.float\(\)"):
        make_activation("tanh", "nah", 4)(torch.ones(3, 4, dtype=torch.long))
