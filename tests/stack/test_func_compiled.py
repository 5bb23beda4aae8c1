"""Transforms of torch.func in compiled functions: the numbers of the same transforms uncompiled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from stack_helpers import assert_same, first
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from noisyexp import NoisyGRU, NoisyLSTMCell, make_activation
from noisyexp.activations import NoiseSource, attach_noise

X = torch.linspace(-4, 4, 12).view(3, 1, 4).sin() * 3


def modules() -> dict[str, tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    return {
        "layer": (NoisyGRU(4, 3), X),
        "lstm_cell": (NoisyLSTMCell(4, 3), X[0]),
        "unit": (make_activation("tanh", "nah", 4), X),
    }


def gradients_of(module: nn.Module) -> Callable[..., list[Tensor]]:
    def loss(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return first(functional_call(module, params, (x,))).square().sum()

    return lambda params, x: list(grad(loss)(params, x).values())


@pytest.mark.parametrize(
    ("name", "transform"),
    [
        ("unit", "jvp"),
        ("lstm_cell", "rows of gradients"),
        *((name, "grad") for name in modules()),
        pytest.param("layer", "jvp", marks=pytest.mark.slow),
        pytest.param("layer", "rows of gradients", marks=pytest.mark.slow),
        pytest.param("lstm_cell", "jvp", marks=pytest.mark.slow),
        pytest.param("unit", "rows of gradients", marks=pytest.mark.slow),
    ],
)
def test_a_graph_has_the_numbers_of_transforms(
    name: str, transform: str, rnn_in_graphs: None
) -> None:
    module, x = modules()[name]
    params = {key: value.detach() for key, value in module.named_parameters()}
    of_one = gradients_of(module)
    call: Callable[..., list[Tensor]] = {
        "grad": of_one,
        "jvp": lambda _, x: list(jvp(lambda x: first(module(x)), (x,), (torch.ones_like(x),))),
        "rows of gradients": lambda params, x: vmap(of_one, (None, 0), randomness="different")(
            params, torch.stack([x, x])
        ),
    }[transform]
    found = []
    for function in (call, torch.compile(call, backend="eager", fullgraph=True)):
        torch.manual_seed(1)
        found.append(function(params, x))
    assert_same(*found)
    assert sum(float(part.abs().sum()) for part in found[0]) > 0


def test_the_kernels_are_in_the_graph_again_after_a_transform() -> None:
    """One function, called within a transform and without."""
    unit = make_activation("tanh", "nah", 4)
    compiled = torch.compile(lambda x: unit(x).square().sum(), backend="eager", fullgraph=True)
    x = X.clone().requires_grad_()
    torch.manual_seed(1)
    transformed = grad(lambda x: compiled(x))(X)
    torch.manual_seed(1)
    (plain,) = torch.autograd.grad(compiled(x), x)
    assert_same([transformed], [plain])


def test_a_source_refuses_rows_of_their_own_in_a_graph() -> None:
    unit = make_activation("tanh", "nani", 4)
    source = NoiseSource(3)
    attach_noise(unit, source)

    def rows(x: Tensor, randomness: str) -> Tensor:
        return vmap(unit, randomness=randomness)(x)

    compiled = torch.compile(rows, backend="eager")
    same = compiled(X.new_zeros(2, 3, 4), "same")
    assert torch.equal(same[0], same[1])
    with pytest.raises(RuntimeError, match="a NoiseSource gives all rows"):
        compiled(X, "different")
