"""A backend of few kernels: what it has runs by it, the rest by torch, with the same numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from equivalence import compare, make

from noisyexp.activations import make_activation
from noisyexp.kernels import cpu, dispatch
from noisyexp.nn.output import linear_cross_entropy


@pytest.mark.skipif(cpu.library() is None, reason="no compiled kernels")
def test_a_backend_of_few_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()

    def function(name: str, like: torch.Tensor) -> Any:
        asked.add(name)
        return cpu.function(name, like)

    few = frozenset({"lstm_forward", "lstm_backward", "unit_map"})
    own = {**vars(cpu), "KERNELS": few, "function": function}
    monkeypatch.setitem(dispatch.BACKENDS, "cpu", SimpleNamespace(**own))
    layer = make("lstm", 5, 9, variant="nah", c=2.0)
    compare(layer, torch.randn(3, 5, 5) * 2)
    unit, x = make_activation("tanh", "nah", 4, c=2.0, dtype=torch.float64), torch.tensor([[2.0]])
    given, found = torch.ones(1, 4, dtype=torch.float64), []
    for unit.backend in ("eager", "auto"):
        leaf = x.double().expand(1, 4).clone().requires_grad_()
        value = unit(leaf, given)
        found.append([value, *torch.autograd.grad(value.sum(), [leaf, *unit.parameters()])])
    for slow, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    logits = torch.tensor([[0.0, 0.0, 0.0]])
    same = linear_cross_entropy(logits, torch.eye(3), None, torch.tensor([1]))
    torch.testing.assert_close(same.total, torch.tensor(3.0).log())
    assert asked == few
