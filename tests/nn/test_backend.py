"""What a backend has runs by it, the rest by torch or by equations, with the same numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from equivalence import compare, make
from torch import Tensor

from noisyexp import NoisyGRU
from noisyexp.activations import make_activation
from noisyexp.kernels import cpu, dispatch
from noisyexp.nn.equations import GRU, Cell, Draws, State, Units
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


def test_a_backend_without_kernels_and_what_only_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one is a module: before its first kernel all goes by the plain code."""
    own = SimpleNamespace(
        KERNELS=frozenset(), NEAR=1, QUEUED=False, capturing=lambda: False, runs=lambda index: True
    )
    layer, x = make("lstm", 5, 9, variant="nah", c=2.0), torch.randn(3, 5, 5) * 2
    logits, targets = (torch.randn(3, 4), torch.eye(4), None), torch.tensor([0, 4, 1])
    monkeypatch.setitem(dispatch.BACKENDS, "cpu", own)
    compare(layer, x)
    with pytest.raises(IndexError):  # a number can be read
        linear_cross_entropy(*logits, targets)
    own.QUEUED = True  # reading one would wait
    assert dispatch.queued(x.device) and dispatch.queued(torch.device("meta"))
    own.capturing = lambda: True
    assert dispatch.capturing() and dispatch.capturing(x.device)
    assert not dispatch.capturing(torch.device("meta"))
    with pytest.raises(RuntimeError, match="CUDA graph"):
        layer(x)


def gru_of_2014(
    units: Units, x: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None, xi: Draws
) -> State:
    """The reset gate before the product: n = tanh(W x + b + U (r h))."""
    (h,) = state
    size = h.shape[-1]
    x_r, x_z, x_n = x.chunk(3, dim=-1)
    h_r, h_z = (h @ w_hh[: 2 * size].T).chunk(2, dim=-1)
    r, z = units["r"](x_r + h_r, xi["r"]), units["z"](x_z + h_z, xi["z"])
    n = units["n"](x_n + (r * h) @ w_hh[2 * size :].T, xi["n"])
    return ((1.0 - z) * n + z * h,)


class Gru2014(NoisyGRU):
    kernel = Cell("gru_2014", gru_of_2014, GRU.unit_kinds, 3, 1, adds=False, rounds_states=False)
    cell = staticmethod(gru_of_2014)


def test_a_cell_that_no_backend_knows_runs_by_its_equations() -> None:
    torch.manual_seed(0)
    layer, x = Gru2014(3, 4, variant="hard", bias=False), torch.randn(5, 2, 3) * 2
    w_ih, w_hh = (w.detach().chunk(3) for w in (layer.weight_ih_l0, layer.weight_hh_l0))
    h = torch.zeros(2, 4)
    for step in x:
        r, z = ((step @ w_ih[k].T + h @ w_hh[k].T) / 4 + 0.5 for k in (0, 1))
        r, z = r.clamp(0, 1), z.clamp(0, 1)
        n = (step @ w_ih[2].T + (r * h) @ w_hh[2].T).clamp(-1, 1)
        h = (1 - z) * n + z * h
    torch.testing.assert_close(layer(x)[1][0], h)
