"""A step of a cell in one call of C against the general pass of one step: the same bits."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor

from noisyexp import NoisyGRU, NoisyGRUCell, NoisyLSTM, NoisyLSTMCell
from noisyexp.activations import NoiseSource, attach_noise
from noisyexp.kernels import blas, library
from noisyexp.nn import shared_weights, single

pytestmark = pytest.mark.skipif(
    library() is None or blas.gemm(torch.float32) is None, reason="no kernels, or no product"
)

CELLS: dict[str, Any] = {"lstm": NoisyLSTMCell, "gru": NoisyGRUCell}


def make(cell: str, **kwargs: Any) -> Any:
    """A cell whose units saturate often."""
    torch.manual_seed(2)
    made = CELLS[cell](7, 37, alpha=1.15, **kwargs)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if name.startswith("weight"):
                weight.mul_(5)
    attach_noise(made, NoiseSource(3))
    return made


def loop(cell: Any, xs: list[Tensor], shares: bool) -> list[Tensor | None]:
    """The state after some steps, and gradients of inputs and parameters."""
    next(unit.noise_source for unit in cell.units.values()).set_step(4)
    leaves, state = [x.clone().requires_grad_() for x in xs], None
    with shared_weights() if shares else contextlib.nullcontext():
        total = torch.zeros((), dtype=xs[0].dtype)
        for x in leaves:
            state = cell(x, state)
            states = state if isinstance(state, tuple) else (state,)
            total = total + sum(part.square().sum() for part in states)
    wanted = [*leaves, *cell.parameters()]
    grads = torch.autograd.grad(total, wanted, retain_graph=True, allow_unused=True)
    again = torch.autograd.grad(total, wanted, allow_unused=True)
    return [*states, *grads, *again]


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [1, 4, 5, 33])
@pytest.mark.parametrize("shares", [False, True])
def test_bits(
    cell: str, dtype: torch.dtype, bias: bool, batch: int, shares: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made = make(cell, dtype=dtype, bias=bias)
    xs = list(torch.randn(3, batch, 7, dtype=dtype))
    calls = []
    one_call = single.run

    def counted(*args: Any) -> Any:
        calls.append(args)
        return one_call(*args)

    monkeypatch.setattr(single, "run", counted)
    found = loop(made, xs, shares)
    assert len(calls) == 3
    monkeypatch.setattr(single, "product_for", lambda *_: None)
    expected = loop(made, xs, shares)
    assert len(calls) == 3
    for one, other in zip(found, expected, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)  # type: ignore[arg-type]


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gradients_that_nobody_asks_for_are_not_made(cell: str) -> None:
    """Of a frozen cell and of its input alone; the others are those with all."""
    made, x = make(cell), torch.randn(3, 7)
    expected = loop(made, [x], False)[2 if cell == "lstm" else 1]  # behind the states
    made.requires_grad_(False)
    next(unit.noise_source for unit in made.units.values()).set_step(4)
    leaf = x.clone().requires_grad_()
    after = made(leaf)
    states = after if isinstance(after, tuple) else (after,)
    sum(part.square().sum() for part in states).backward()
    assert leaf.grad is not None and expected is not None
    assert torch.equal(leaf.grad, expected)
    assert all(p.grad is None for p in made.parameters())


@pytest.mark.parametrize("layer_class", [NoisyLSTM, NoisyGRU])
def test_results_of_a_layer_of_one_step_are_apart(layer_class: Any) -> None:
    """As torch's: who changes the output in place has the state as it was."""
    with torch.no_grad():
        output, state = layer_class(3, 5)(torch.randn(1, 2, 3))
        h = state[0] if isinstance(state, tuple) else state
        assert torch.equal(output, h)
        output.zero_()
        assert h.abs().sum() > 0


def test_a_gradient_of_one_state_alone() -> None:
    """The other one's is zero."""
    made, x = make("lstm", dtype=torch.float64), torch.randn(2, 7, dtype=torch.float64)
    for index in (0, 1):
        found = []
        for backend in ("eager", "auto"):
            made.backend = backend
            next(unit.noise_source for unit in made.units.values()).set_step(4)
            leaf = x.clone().requires_grad_()
            made(leaf)[index].square().sum().backward()
            found.append(leaf.grad)
        torch.testing.assert_close(*found)
