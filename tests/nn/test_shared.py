"""Gradients of weights that steps share: equal to autograd's own, step by step."""

from __future__ import annotations

import contextlib
import copy
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from noisyexp.activations import ActivationSpec
from noisyexp.kernels import cpu
from noisyexp.kernels import matmul as M
from noisyexp.nn import NoisyGRUCell, NoisyLSTMCell
from noisyexp.nn.attention import AdditiveAttention
from noisyexp.nn.shared import Combine, Shared, shared_weights

B, E, H, S, T = 3, 4, 5, 6, 7
VARIANTS = ["reference", "hard", "nah"]


class Decoder(nn.Module):
    """Attention over learned annotations, then a cell; both as an attention decoder has them."""

    def __init__(self, cell: str, variant: str, backend: str) -> None:
        super().__init__()
        spec = ActivationSpec(variant)
        kind = {"lstm": NoisyLSTMCell, "gru": NoisyGRUCell}[cell]
        self.cell = kind(E + H, H, variant=spec, backend=backend)
        self.attention = AdditiveAttention(H, H, spec)
        self.attention.unit.backend = backend
        self.keys = nn.Linear(H, H)

    def forward(self, words: Tensor, vectors: Tensor) -> Tensor:
        annotations = vectors * 2.0
        keys, state = self.keys(annotations), None
        h, found = words.new_zeros(B, H), []
        for word in words:
            context, _ = self.attention(h, keys, annotations)
            state = self.cell(torch.cat([word, context], 1), state)
            h = state[0] if isinstance(state, tuple) else state
            found.append(h)
        return torch.stack(found)


def make(
    cell: str = "gru", variant: str = "nah", backend: str = "auto"
) -> tuple[Decoder, Tensor, Tensor, Tensor]:
    """A decoder, words, vectors and a direction for the gradient; float64."""
    torch.manual_seed(0)
    model = Decoder(cell, variant, backend).double()
    words = torch.randn(T, B, E, dtype=torch.float64, requires_grad=True)
    vectors = torch.randn(B, S, H, dtype=torch.float64, requires_grad=True)
    return model, words, vectors, torch.randn(T, B, H, dtype=torch.float64)


Context = Callable[[], contextlib.AbstractContextManager[None]]


def run(
    context: Context, model: Decoder, words: Tensor, vectors: Tensor, direction: Tensor
) -> dict[str, Tensor]:
    """The loss and all gradients."""
    torch.manual_seed(5)
    with context():
        loss = (model(words, vectors) * direction).sum()
    named = {"words": words, "vectors": vectors, **dict(model.named_parameters())}
    wanted = {name: p for name, p in named.items() if p.requires_grad}
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    gradients = {k: g for k, g in zip(wanted, found, strict=True) if g is not None}
    return {"loss": loss.detach(), **gradients}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gradients_are_autograds_own(cell: str, variant: str, backend: str) -> None:
    case = make(cell, variant, backend)
    assert_same(run(shared_weights, *case), run(contextlib.nullcontext, *case))


def test_a_weight_has_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three weights of T rows each, and the annotations."""
    seen = []
    take = Shared.take

    def count(self: Shared) -> Tensor | None:
        seen.append(len(self._factors.get(list)))
        return take(self)

    monkeypatch.setattr(Shared, "take", count)
    run(shared_weights, *make())
    assert seen == [T] * 4


@pytest.mark.parametrize("frozen", ["cell.weight_ih", "cell.weight_hh", "attention.query.weight"])
def test_frozen_weights(frozen: str) -> None:
    case = make()
    case[0].get_parameter(frozen).requires_grad_(False)
    ours = run(shared_weights, *case)
    assert frozen not in ours
    assert_same(ours, run(contextlib.nullcontext, *case))


def test_frozen_annotations() -> None:
    case = make()
    case[2].requires_grad_(False)
    assert_same(run(shared_weights, *case), run(contextlib.nullcontext, *case))


def test_retained_graph_and_parts_of_the_steps() -> None:
    """Every backward pass has a product of its own: of the same steps again, or of some."""
    model, words, vectors, direction = make()
    weights = [model.cell.weight_hh, model.attention.query.weight]
    results = []
    for context in (shared_weights, contextlib.nullcontext):
        torch.manual_seed(5)
        with context():
            states = model(words, vectors)
        losses = [(states * direction).sum(), states[2].sum(), (states * direction).sum()]
        # One that asks for another gradient leaves factors that nobody takes.
        torch.autograd.grad(losses[0], words, retain_graph=True)
        found = [
            g for loss in losses for g in torch.autograd.grad(loss, weights, retain_graph=True)
        ]
        results.append({str(k): g for k, g in enumerate(found)})
    assert_same(*results)


def test_weights_used_outside_as_well() -> None:
    """Half of the steps within the context, half outside, a change of the weight between passes."""
    model, words, vectors, direction = make()
    results = []
    for context in (shared_weights, contextlib.nullcontext):
        copied = copy.deepcopy(model)
        torch.manual_seed(5)
        for _ in range(2):
            with context():
                inside = copied(words, vectors)
            loss = ((inside + copied(words, vectors)) * direction).sum()
            copied.zero_grad()
            loss.backward()
            with torch.no_grad():
                for p in copied.parameters():
                    if p.grad is not None:
                        p.sub_(0.1 * p.grad)
        results.append({k: p.detach() for k, p in copied.named_parameters()})
    assert_same(*results)


def test_batched_gradients() -> None:
    """A Jacobian by one batched pass equals one pass a row."""
    model, words, vectors, direction = make()
    with shared_weights():
        states = model(words, vectors)
    out, weight = (states * direction).sum((1, 2)), model.cell.weight_hh
    rows = torch.eye(T, dtype=torch.float64)
    (found,) = torch.autograd.grad(out, weight, rows, retain_graph=True, is_grads_batched=True)
    each = [torch.autograd.grad(out, weight, row, retain_graph=True)[0] for row in rows]
    torch.testing.assert_close(found, torch.stack(each))


def test_second_derivatives_of_the_plain_loop_and_an_error_of_the_kernels() -> None:
    def penalty(case: tuple[Decoder, Tensor, Tensor, Tensor], context: Context) -> Tensor:
        model, words, vectors, direction = case
        torch.manual_seed(5)
        with context():
            loss = (model(words, vectors) * direction).sum()
        weights = [model.cell.weight_hh, model.attention.query.weight, vectors]
        first = torch.autograd.grad(loss, weights, create_graph=True)
        (second,) = torch.autograd.grad(sum(g.square().sum() for g in first), model.cell.weight_hh)
        return second

    eager = make(backend="eager")
    torch.testing.assert_close(
        penalty(eager, shared_weights), penalty(eager, contextlib.nullcontext)
    )
    if cpu.library() is not None:
        with pytest.raises(RuntimeError, match="no second derivatives"):
            penalty(make(), shared_weights)


@pytest.mark.parametrize("inside", [True, False])
def test_checkpoints(inside: bool) -> None:
    """The whole loop within a checkpoint, or every call of the model."""
    case = make(variant="hard")
    model, words, vectors, direction = case
    expected = run(contextlib.nullcontext, *case)

    def states(*inputs: Tensor) -> Tensor:
        with shared_weights() if inside else contextlib.nullcontext():
            return model(*inputs)

    with contextlib.nullcontext() if inside else shared_weights():
        found = torch.utils.checkpoint.checkpoint(states, words, vectors, use_reentrant=False)
    gradients = torch.autograd.grad((found * direction).sum(), [model.cell.weight_hh, vectors])
    torch.testing.assert_close(gradients[0], expected["cell.weight_hh"])
    torch.testing.assert_close(gradients[1], expected["vectors"])


def test_hooks_of_the_query_layer_are_called() -> None:
    model, words, vectors, _ = make()
    seen = []
    model.attention.query.register_forward_hook(lambda *_: seen.append(1))
    with shared_weights():
        model(words, vectors)
    assert len(seen) == T


def test_parametrised_weights_have_their_gradient() -> None:
    case = make()
    nn.utils.parametrizations.weight_norm(case[0].attention.query)
    assert_same(run(shared_weights, *case), run(contextlib.nullcontext, *case))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("variant", ["reference", "nah"])
def test_half_precision(cell: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operands rounded to bf16: gradients as near to float32's as those of each step by itself."""
    if cpu.library() is None:
        pytest.skip("no compiled kernels here")
    monkeypatch.setenv(M.SWITCH, "rounded")
    model, words, vectors, direction = (part.float() for part in make(cell, variant))
    leaves = words.detach().requires_grad_(), vectors.detach().requires_grad_(), direction

    def cast(context: Context) -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        stack.enter_context(context())
        return stack

    exact = run(contextlib.nullcontext, model, *leaves)
    ours = run(lambda: cast(shared_weights), model, *leaves)
    theirs = run(lambda: cast(contextlib.nullcontext), model, *leaves)
    assert list(ours) == list(theirs)
    for name in exact:
        assert ours[name].dtype == theirs[name].dtype
    # p of one unit may have next to no gradient: all together; v.bias has none but by rounding.
    apart = [name for name in exact if not name.endswith((".p", "v.bias"))]
    groups = [[name] for name in apart]
    if variant == "nah":
        groups.append([name for name in exact if name.endswith(".p")])
    for names in groups:
        value, one, other = (
            torch.cat([found[name].flatten() for name in names]) for found in (exact, ours, theirs)
        )
        errors = [float((found - value).norm() / value.norm()) for found in (one, other)]
        assert errors[0] <= 1.5 * errors[1] + 2e-3, names
        assert errors[0] < (0.1 if len(names) > 1 else 3e-2), names


def test_half_precision_packs_a_weight_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three weights, in one layout for all steps forward and in another for all steps back."""
    if cpu.library() is None:
        pytest.skip("no compiled kernels here")
    monkeypatch.setenv(M.SWITCH, "rounded")
    model, words, vectors, _ = (part.float() for part in make())
    packed, init = [], M.Columns.__init__

    def count(self: M.Columns, b: Tensor, *rest: object) -> None:
        packed.append(tuple(b.shape))
        init(self, b, *rest)

    monkeypatch.setattr(M.Columns, "__init__", count)
    with torch.autocast("cpu", torch.bfloat16), shared_weights():
        loss = model(words, vectors).float().sum()
    layouts = [(H, 3 * H), (H, H), (E + H, 3 * H)]
    assert sorted(packed) == sorted(layouts)
    loss.backward()
    sums = [(T * B, E + H), (T * B, H), (T * B, H)]
    assert sorted(packed) == sorted([*layouts, *((b, a) for a, b in layouts), *sums])
    packed.clear()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), shared_weights():
        model(words, vectors)
    assert sorted(packed) == sorted(layouts)


def test_nothing_is_kept_when_the_graph_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither graph nor factors live on, and not until a garbage collection either."""
    made: list[weakref.ref[Shared]] = []
    init = Shared.__init__

    def watch(self: Shared, combine: Combine, wanted: bool) -> None:
        init(self, combine, wanted)
        made.append(weakref.ref(self))

    monkeypatch.setattr(Shared, "__init__", watch)
    model, words, vectors, _ = make()
    gc.disable()
    try:
        with shared_weights():
            loss = model(words, vectors).sum()
        loss.backward(retain_graph=True)
        assert len(made) == 4 and all(ref() is not None for ref in made)
        del loss
        assert all(ref() is None for ref in made)
    finally:
        gc.enable()
