"""Activation checkpointing: the gradients of the same run without it, noise included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from stack_helpers import assert_same, first
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from noisyexp import NoisyGRU, NoisyGRUCell, NoisyLSTM, NoisyLSTMCell, make_activation
from noisyexp.activations import NoiseSource, attach_noise


class Loop(nn.Module):
    """A cell over all steps."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for step in x:
            state = self.cell(step, state)
        return first(state)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: NoisyLSTM(4, 4, num_layers=2, dropout=0.3),
    "gru": lambda: NoisyGRU(4, 2, bidirectional=True),
    "lstm_cell": lambda: Loop(NoisyLSTMCell(4, 4)),
    "gru_cell": lambda: Loop(NoisyGRUCell(4, 4)),
    "unit": lambda: make_activation("tanh", "nah", 4),
}


def run(
    module: nn.Module, source: NoiseSource | None, around: Callable[..., Any], twice: bool = False
) -> list[Tensor]:
    """Value and gradients of a module that is called three times, each time within `around`."""
    torch.manual_seed(1)
    if source is not None:
        source.set_step(2)
    torch.manual_seed(2)
    x = torch.randn(5, 3, 4, dtype=torch.float64).mul(2).requires_grad_()
    value = x
    for _ in range(3):
        value = first(around(module, value))
        value = value.expand(5, 3, 4) * 2
    loss = value.square().sum()
    inputs = [x, *module.parameters()]
    if twice:
        torch.autograd.grad(loss, inputs, retain_graph=True)
    return [value.detach(), *torch.autograd.grad(loss, inputs)]


def checkpointed(module: nn.Module, x: Tensor) -> Any:
    return checkpoint(module, x, use_reentrant=False)


def plain(module: nn.Module, x: Tensor) -> Any:
    return module(x)


@pytest.mark.parametrize("with_source", [False, True])
@pytest.mark.parametrize(
    ("name", "kernels"), [*((name, "1") for name in MODULES), ("unit", "0"), ("gru_cell", "0")]
)
def test_gradients_are_those_without_a_checkpoint(
    name: str, with_source: bool, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISYEXP_KERNELS", kernels)
    module = MODULES[name]().double()
    source = NoiseSource(5) if with_source else None
    attach_noise(module, source)
    expected = run(module, source, plain)
    for twice in (False, True):  # a retained graph is computed again for each pass
        assert_same(run(module, source, checkpointed, twice), expected, 1e-10)


def test_calls_after_a_checkpoint_are_counted_as_without_one() -> None:
    """Two updates in one step of a source: the second draws what it would have drawn."""
    module = NoisyLSTM(4, 4).double()
    found = []
    for around in (plain, checkpointed):
        source = NoiseSource(5)
        attach_noise(module, source)
        run(module, source, around)
        x = torch.ones(5, 3, 4, dtype=torch.float64)
        found.append([first(module(x)).detach()])
    assert_same(*found)


def test_steps_may_change_before_the_backward_pass() -> None:
    module, source = NoisyLSTM(4, 4).double(), NoiseSource(5)
    attach_noise(module, source)
    x = torch.ones(5, 3, 4, dtype=torch.float64).mul(3).requires_grad_()
    found = []
    for around in (plain, checkpointed):
        source.set_step(1)
        loss = first(around(module, x)).square().sum()
        source.set_step(2)
        first(module(x))
        found.append(torch.autograd.grad(loss, [x, *module.parameters()]))
    assert_same(*found, 1e-10)


def test_offloaded_tensors() -> None:
    """Saved on the CPU and handed back as copies, also for a second backward pass."""
    module = NoisyLSTM(4, 4).double()

    def offloaded(module: nn.Module, x: Tensor) -> Any:
        with torch.autograd.graph.save_on_cpu():
            return module(x)

    for twice in (False, True):
        assert_same(run(module, None, offloaded, twice), run(module, None, plain), 1e-10)


def test_what_a_source_cannot_give_again_is_refused() -> None:
    """A reentrant checkpoint, one within another, a forward pass in a backward hook."""
    module, source = NoisyLSTM(4, 4).double(), NoiseSource(5)
    attach_noise(module, source)

    def reentrant(module: nn.Module, x: Tensor) -> Any:
        return checkpoint(module, x, use_reentrant=True)

    def nested(module: nn.Module, x: Tensor) -> Any:
        def inner(x: Tensor) -> Any:
            return first(checkpointed(module, x * 1)).sin()

        return checkpoint(inner, x, use_reentrant=False)

    def hooked(module: nn.Module, x: Tensor) -> Any:
        x = x * 1
        x.register_hook(lambda grad: grad + first(module(x)).sum())
        return module(x)

    for around in (reentrant, nested, hooked):
        x = torch.ones(5, 3, 4, dtype=torch.float64, requires_grad=True)
        loss = first(around(module, x)).square().sum()
        with pytest.raises(RuntimeError, match="computed again during backward"):
            loss.backward()
