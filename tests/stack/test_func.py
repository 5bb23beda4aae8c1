"""Transforms of torch.func in training, batched gradients, second derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stack_helpers import assert_same, first
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacrev, vmap

from noisyexp import NoisyGRU, NoisyGRUCell, NoisyLSTM, NoisyLSTMCell, make_activation
from noisyexp.activations import ActivationSpec, NoiseSource, attach_noise
from noisyexp.nn.attention import AdditiveAttention

X = torch.linspace(-4, 4, 24, dtype=torch.float64).view(3, 2, 4).sin() * 3


def modules() -> dict[str, tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    return {
        "lstm": (NoisyLSTM(4, 5, bidirectional=True).double(), X),
        "gru": (NoisyGRU(4, 5).double(), X),
        "lstm_cell": (NoisyLSTMCell(4, 5).double(), X[0]),
        "gru_cell": (NoisyGRUCell(4, 5).double(), X[0]),
        "unit": (make_activation("tanh", "nah", 4).double(), X),
    }


def loss_of(module: nn.Module, params: dict[str, Tensor], x: Tensor) -> Tensor:
    return first(functional_call(module, params, (x,))).square().sum()


@pytest.mark.parametrize("name", modules())
def test_grad_and_functional_call(name: str) -> None:
    """Against autograd through the kernels, with the same noise."""
    module, x = modules()[name]
    params = dict(module.named_parameters())
    torch.manual_seed(1)
    found = grad(loss_of, argnums=1)(module, params, x)
    torch.manual_seed(1)
    expected = torch.autograd.grad(loss_of(module, params, x), list(params.values()))
    assert_same(found.values(), expected, 1e-6)


@pytest.mark.parametrize("name", modules())
def test_vmap_draws_as_its_randomness_says(name: str) -> None:
    module, x = modules()[name]
    params = dict(module.named_parameters())
    per_row = grad(loss_of, argnums=1)
    rows = torch.stack([x, x])

    def all_rows(randomness: str) -> list[Tensor]:
        torch.manual_seed(1)
        return list(
            vmap(per_row, (None, None, 0), randomness=randomness)(module, params, rows).values()
        )

    torch.manual_seed(1)
    alone = list(per_row(module, params, x).values())
    same = all_rows("same")
    assert_same([part[0] for part in same], alone, 1e-6)
    assert_same([part[1] for part in same], alone, 1e-6)
    different = all_rows("different")
    assert not torch.allclose(different[0][0], different[0][1])
    with pytest.raises(RuntimeError, match="randomness error mode"):
        all_rows("error")


def test_rows_of_vmap_draw_normal_and_independent_noise() -> None:
    unit = make_activation("tanh", "nani", 200, c=1.0)
    x = torch.zeros(50, 4, 200)
    drawn = vmap(lambda row: unit.draw_noise((4, 200), row.device), randomness="different")(x)
    assert drawn.shape == (50, 4, 200)
    assert abs(float(drawn.mean())) < 0.03 and abs(float(drawn.std()) - 1) < 0.02
    flat = drawn.flatten(1)
    assert float((flat[1:] * flat[:-1]).mean().abs()) < 0.03


def test_a_source_gives_all_rows_the_same_noise_or_refuses() -> None:
    lstm, source = NoisyLSTM(4, 5).double(), NoiseSource(3)
    attach_noise(lstm, source)
    rows = torch.stack([X, X])

    def all_rows(randomness: str) -> Tensor:
        source.set_step(1)
        return vmap(lambda x: first(lstm(x)), randomness=randomness)(rows)

    source.set_step(1)
    alone = first(lstm(X))
    assert_same(all_rows("same"), [alone, alone], 1e-6)
    for randomness in ("different", "error"):
        with pytest.raises(RuntimeError, match="a NoiseSource gives all rows"):
            all_rows(randomness)


@pytest.mark.parametrize("name", modules())
def test_jacobians_and_batched_gradients(name: str) -> None:
    """Row by row, by torch.func.jacrev, and by `is_grads_batched`: kernels are called in turn."""
    module, x = modules()[name]
    inputs = [x.clone().requires_grad_(), *module.parameters()]

    def outputs() -> Tensor:
        torch.manual_seed(1)
        return first(module(inputs[0])).flatten()[:3]

    rows = [torch.autograd.grad(value, inputs, retain_graph=True) for value in outputs()]
    expected = [torch.stack(parts) for parts in zip(*rows, strict=True)]
    unit_vectors = torch.eye(3, dtype=torch.float64)
    batched = torch.autograd.grad(outputs(), inputs, unit_vectors, is_grads_batched=True)
    assert_same(batched, expected, 1e-9)
    torch.manual_seed(1)
    jacobian = jacrev(lambda x: first(module(x)).flatten()[:3])(x)
    assert_same([jacobian], expected[:1], 1e-6)


def test_batched_gradients_of_scores() -> None:
    attention = AdditiveAttention(3, 4, ActivationSpec("nah")).double()
    query = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    leaf = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    weights = attention.weights(query, leaf).flatten()[:3]
    inputs = [query, leaf, *attention.unit.parameters()]
    rows = [torch.autograd.grad(value, inputs, retain_graph=True) for value in weights]
    unit_vectors = torch.eye(3, dtype=torch.float64)
    batched = torch.autograd.grad(weights, inputs, unit_vectors, is_grads_batched=True)
    assert_same(batched, [torch.stack(parts) for parts in zip(*rows, strict=True)], 1e-9)


@pytest.mark.parametrize("name", modules())
def test_second_derivatives_by_torch_func(name: str) -> None:
    """There the plain code runs, which has them; elsewhere tests/kernels has the refusal."""
    module, x = modules()[name]
    module.eval()

    def total(x: Tensor) -> Tensor:
        return first(module(x)).square().sum()

    found = hessian(total)(x)
    for part in module.modules():
        if hasattr(part, "backend"):
            part.backend = "eager"
    expected: Any = torch.autograd.functional.hessian(total, x)
    assert_same([found], [expected], 1e-9)
    assert expected.abs().sum() > 0
