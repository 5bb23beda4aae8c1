"""Shared weights where a backward pass runs within another, or fails: autograd's own gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from noisyexp.activations import ActivationSpec
from noisyexp.nn import NoisyGRUCell, NoisyLSTMCell
from noisyexp.nn.attention import AdditiveAttention
from noisyexp.nn.fused_score import _KeyGradient
from noisyexp.nn.shared import Shared, shared_weights

B, E, H, S, T = 3, 4, 5, 6, 7
CONTEXTS = [shared_weights, contextlib.nullcontext]
CELLS = {"gru": NoisyGRUCell, "lstm": NoisyLSTMCell}


def first(state: Any) -> Tensor:
    h: Tensor = state[0] if isinstance(state, tuple) else state
    return h


class Decoder(nn.Module):
    """Attention and a cell, float64, with the inputs of T steps."""

    def __init__(self, cell: str = "gru", backend: str = "auto") -> None:
        super().__init__()
        torch.manual_seed(0)
        spec = ActivationSpec("nah")
        self.cell = CELLS[cell](E + H, H, variant=spec, backend=backend)
        self.attention = AdditiveAttention(H, H, spec)
        self.attention.unit.backend = backend
        self.keys = nn.Linear(H, H)
        self.double()
        self.words = torch.randn(T, B, E, dtype=torch.float64)
        self.vectors = torch.randn(B, S, H, dtype=torch.float64)

    def forward(self) -> list[Tensor]:
        """h after each step."""
        torch.manual_seed(5)
        annotations = self.vectors * 2.0
        keys, state = self.keys(annotations), None
        h, found = self.words.new_zeros(B, H), []
        for word in self.words:
            context, _ = self.attention(h, keys, annotations)
            state = self.cell(torch.cat([word, context], 1), state)
            h = first(state)
            found.append(h)
        return found

    def wanted(self) -> list[Tensor]:
        """What takes gradients, but the bias of a softmax' input, which has none."""
        named = self.named_parameters()
        return [p for name, p in named if name != "attention.v.bias" and p.requires_grad]


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backward_inside", [True, False])
@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("cell", list(CELLS))
def test_a_reentrant_checkpoint(cell: str, backend: str, backward_inside: bool) -> None:
    """Its step is computed again, and goes back by itself, in the midst of the others' backward."""
    results = []
    for context in CONTEXTS:
        torch.manual_seed(0)
        module = CELLS[cell](4, 5, variant="hard", backend=backend).double()
        x = torch.randn(5, 3, 4, dtype=torch.float64)

        def flat(x: Tensor, *state: Tensor, module: nn.Module = module) -> Any:
            return module(x, state if len(state) == 2 else state[0])

        with context():
            state = None
            for t, step in enumerate(x):
                if t in (1, 3):
                    parts = state if isinstance(state, tuple) else (state,)
                    state = checkpoint(flat, step, *parts, use_reentrant=True)
                else:
                    state = module(step, state)
            loss = first(state).square().sum()
            if backward_inside:
                loss.backward()
        if not backward_inside:
            loss.backward()
        results.append([p.grad for p in module.parameters()])
    assert_same(*results)


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("cell", list(CELLS))
def test_a_pass_of_the_same_graph_in_a_hook(cell: str, backend: str) -> None:
    """Both passes have gradients of their own."""
    results = []
    for context in CONTEXTS:
        model, within = Decoder(cell, backend), []
        with context():
            states = model()
        other = torch.stack(states[:5]).square().sum()

        def nested(_: Tensor, other: Tensor = other, model: Decoder = model,
                   within: list[Tensor] = within) -> None:  # fmt: skip
            if not within:  # the inner pass comes here, too
                within.append(other)
                within[:] = torch.autograd.grad(other, model.wanted(), retain_graph=True)

        states[3].register_hook(nested)
        loss = torch.stack(states).sum()
        found = torch.autograd.grad(loss, model.wanted(), retain_graph=True)
        results.append([*found, *within])
    assert_same(*results)


class Nested(torch.autograd.Function):
    """x as it is; its backward also asks for the gradients of another loss."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, other: Callable[[], None]) -> Tensor:
        ctx.other = other
        return x.clone()

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None]:
        ctx.other()
        return d, None


def test_a_forward_and_its_backward_within_a_backward() -> None:
    """Within the context, with the weights that the outer pass shares."""
    results = []
    for context in CONTEXTS:
        torch.manual_seed(0)
        cell, within = NoisyGRUCell(4, 5, variant="hard").double(), []
        weights, x = list(cell.parameters()), torch.randn(5, 3, 4, dtype=torch.float64)

        def other(cell: nn.Module = cell, x: Tensor = x, within: list[Tensor] = within) -> None:
            with torch.enable_grad():
                loss = cell(x[0], cell(x[1])).square().sum()
            within += torch.autograd.grad(loss, list(cell.parameters()))

        with context():
            h = cell(x[0])
            for step in x[1:]:
                h = Nested.apply(cell(step, h), other)
            found = torch.autograd.grad(h.sum(), weights)
        assert len(within) == 4 * len(weights)
        results.append([*found, *within])
    assert_same(*results)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_piles_up(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of passes that ask for other gradients, or fail, nothing stays while the graph lives."""
    made: list[Any] = []
    for kind in (Shared, _KeyGradient):
        init = kind.__init__

        def watch(self: Any, *args: Any, init: Any = init) -> None:
            init(self, *args)
            made.append(self)

        monkeypatch.setattr(kind, "__init__", watch)
    model = Decoder()
    model.words.requires_grad_()
    with shared_weights():
        states = model()
    loss = torch.stack(states).sum()

    def fail(_: Tensor) -> None:
        raise ValueError("on purpose")

    if fails:
        states[1].register_hook(fail)
    for _ in range(3):
        if fails:
            with pytest.raises(ValueError, match="on purpose"):
                loss.backward(retain_graph=True)
        else:
            torch.autograd.grad(loss, model.words, retain_graph=True)
    kept = [of._factors if isinstance(of, Shared) else of._totals for of in made]
    assert len(kept) >= 4 and not any(of._values for of in kept)
