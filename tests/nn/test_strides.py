"""Parameters that are views, empty inputs, two backward passes at once: as the plain loop."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisyexp import NoisyGRU, NoisyGRUCell, NoisyLSTM, NoisyLSTMCell, make_activation
from noisyexp.activations import NoiseSource, attach_noise
from noisyexp.kernels import library

pytestmark = pytest.mark.skipif(library() is None, reason="no kernels")

MODULES: list[Any] = [NoisyLSTM, NoisyGRU, NoisyLSTMCell, NoisyGRUCell]


def strided(values: Tensor) -> nn.Parameter:
    """The same numbers, every second one of a longer row."""
    return nn.Parameter(values.detach().repeat_interleave(2)[::2])


def spread(values: Tensor) -> nn.Parameter:
    """One number seen at all places."""
    return nn.Parameter(values.detach()[:1].expand(len(values)))


def results(
    module: Any, backend: str, x: Tensor, change: Callable[[Any], None] = lambda made: None
) -> list[Tensor]:
    """Output and gradients with equal draws, of a copy that was changed."""
    made = copy.deepcopy(module)
    change(made)
    for part in made.modules():
        if hasattr(part, "backend"):
            part.backend = backend
    attach_noise(made, NoiseSource(5))
    output = made(x)
    parts = [p for p in (output if isinstance(output, tuple) else (output,)) if p is not None]
    total = sum(part[0].sum() if isinstance(part, tuple) else part.square().sum() for part in parts)
    names = [p for p in made.parameters() if p.requires_grad]
    return [parts[0], *torch.autograd.grad(total, names, allow_unused=False)]


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("view", [strided, spread])
@pytest.mark.parametrize("gain", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("which", ["bias", "p"])
def test_a_parameter_that_is_a_view(
    kind: Any, view: Callable[[Tensor], nn.Parameter], gain: float, which: str
) -> None:
    torch.manual_seed(1)
    module = kind(5, 24, variant="nah", alpha=1.15)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if "weight" in name:
                weight.mul_(gain)

    def change(made: Any) -> None:
        changed = 0
        for owner in list(made.modules()):
            for name, parameter in list(owner.named_parameters(recurse=False)):
                if name == "p" if which == "p" else name.startswith("bias"):
                    setattr(owner, name, view(parameter))
                    changed += not getattr(owner, name).is_contiguous()
        assert changed >= 2

    x = torch.randn(3, 3, 5) if kind in (NoisyLSTM, NoisyGRU) else torch.randn(3, 5)
    found = (results(module, backend, x, change) for backend in ("auto", "eager"))
    for own, plain in zip(*found, strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [NoisyLSTMCell, NoisyGRUCell])
@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_without_inputs(kind: Any, bias: bool) -> None:
    torch.manual_seed(1)
    module = kind(0, 5, variant="nah", bias=bias)
    x = torch.zeros(3, 0)
    for own, plain in zip(results(module, "auto", x), results(module, "eager", x), strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-5, atol=1e-6)


def test_two_threads_in_the_backward_of_a_unit() -> None:
    """Each has its own sums for the gradient of p."""
    torch.manual_seed(1)
    unit = make_activation("tanh", "nah", num_units=1024)
    total = unit((torch.randn(1000, 1024) * 3).requires_grad_()).sum()
    (expected,) = torch.autograd.grad(total, unit.p, retain_graph=True)
    found: list[Tensor] = []

    def run() -> None:
        found.extend(torch.autograd.grad(total, unit.p, retain_graph=True))

    for _ in range(4):
        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 12 and all(torch.equal(one, expected) for one in found)
