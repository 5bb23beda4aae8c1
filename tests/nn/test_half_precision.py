"""Layers, cells and units in half precision: float32 but for the operands of products."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from noisyexp import NoisyGRU, NoisyGRUCell, NoisyLSTM, NoisyLSTMCell, make_activation
from noisyexp.activations import ActivationSpec, NoiseSource, attach_noise
from noisyexp.kernels import library, matmul
from noisyexp.nn import equations, recurrent
from noisyexp.nn.attention import AdditiveAttention

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled kernels")

LAYERS: dict[str, Any] = {"lstm": NoisyLSTM, "gru": NoisyGRU}
HALF = (torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def no_slow_path() -> Iterator[None]:
    """A notice of the plain loop is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(matmul.SWITCH, "rounded")


class _RoundedLinear(torch.autograd.Function):
    """x W^T, and its gradients, of operands rounded to bf16 as each product takes them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        x, w = (t.bfloat16().to(x.dtype) for t in (x, w))
        ctx.save_for_backward(x, w)
        return x @ w.t()

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, w = ctx.saved_tensors
        rows = d.bfloat16().to(d.dtype).flatten(0, -2)
        return (rows @ w).view_as(x), rows.t() @ x.flatten(0, -2)


def rounded_linear(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    found: Tensor = _RoundedLinear.apply(x, w)  # type: ignore[no-untyped-call]
    return found if b is None else found + b


def tensors_of(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, PackedSequence):
        return [result.data]
    return [tensor for part in result for tensor in tensors_of(part)]


def numbers(layer: nn.Module, call: Callable[[], Any], inputs: list[Tensor]) -> list[Tensor]:
    """Results and gradients of inputs and parameters, at one step of the noise."""
    for unit in layer.modules():
        if getattr(unit, "noise_source", None) is not None:
            unit.noise_source.set_step(3)  # type: ignore[union-attr,operator]
    layer.zero_grad(set_to_none=True)
    for tensor in inputs:
        tensor.grad = None
    results = tensors_of(call())
    generator, loss = torch.Generator().manual_seed(1), torch.zeros((), dtype=torch.float64)
    for result in results:
        weights = torch.randn(result.shape, generator=generator, dtype=torch.float64)
        loss = loss + (result.double() * weights.bfloat16()).sum()
    loss.backward()
    grads = [t.grad for t in (*inputs, *layer.parameters())]
    return [t.detach().double() for t in (*results, *grads) if t is not None]


def distance(found: list[Tensor], truth: list[Tensor]) -> float:
    assert len(found) == len(truth)
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, truth, strict=True))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("variant", ["nah", "nani", "reference"])
@pytest.mark.parametrize("packed", [False, True])
def test_layers_against_the_equations_with_rounded_operands(
    cell: str, variant: str, packed: bool, rounds: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain loop in float64 that rounds what each product takes, forward and backward.

    A number within a float32's error of a tie is rounded to either side. That is why not all
    digits agree; unrounded operands are ten times as far away.
    """
    torch.manual_seed(2)
    layer = LAYERS[cell](37, 21, 2, variant=variant, bidirectional=True, bias=cell == "lstm")
    slow = LAYERS[cell](
        37, 21, 2, variant=variant, bidirectional=True, bias=cell == "lstm", backend="eager",
        dtype=torch.float64,
    )  # fmt: skip
    slow.load_state_dict(layer.state_dict())
    for module in (layer, slow):
        attach_noise(module, NoiseSource(5))
    x, h, c = torch.randn(6, 5, 37), torch.randn(4, 5, 21), torch.randn(4, 5, 21)

    def run(module: nn.Module, dtype: torch.dtype) -> list[Tensor]:
        inputs = [t.to(dtype).requires_grad_() for t in (x, h, c)][: 3 if cell == "lstm" else 2]
        state: Any = tuple(inputs[1:]) if cell == "lstm" else inputs[1]
        lengths = [6, 6, 4, 3, 1]
        given: Any = pack_padded_sequence(inputs[0], lengths) if packed else inputs[0]
        return numbers(module, lambda: module(given, state), inputs)

    exact = run(slow, torch.float64)
    monkeypatch.setattr(equations, "shared_linear", rounded_linear)
    monkeypatch.setattr(recurrent.functional, "linear", rounded_linear)
    truth = run(slow, torch.float64)
    monkeypatch.undo()
    monkeypatch.setenv(matmul.SWITCH, "rounded")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(layer, torch.float32)
    if cell == "lstm":  # returned in bf16, and so are the gradients that come in
        assert distance(found, truth) < 0.01
        with torch.autocast("cpu", dtype=torch.bfloat16), monkeypatch.context() as patch:
            patch.setattr(recurrent, "result_dtype", lambda *_: torch.float32)
            found = run(layer, torch.float32)
    assert distance(found, truth) < 3e-4 < 1e-3 < distance(truth, exact)


def torch_twin(layer: Any) -> nn.Module:
    """Torch's own module with the sizes of a noisy one."""
    kinds = {NoisyLSTM: nn.LSTM, NoisyGRU: nn.GRU, NoisyLSTMCell: nn.LSTMCell,
             NoisyGRUCell: nn.GRUCell}  # fmt: skip
    twin: nn.Module = kinds[type(layer)](layer.input_size, layer.hidden_size)
    return twin


def dtypes_of(
    module: nn.Module, autocast: torch.dtype | None, x: Tensor, state: Any
) -> list[torch.dtype | None]:
    """Of results, then of gradients of input, state and weights."""
    inputs = [t.detach().requires_grad_() for t in (x, *tensors_of(() if state is None else state))]
    if state is not None:
        state = tuple(inputs[1:]) if isinstance(state, tuple) else inputs[1]
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        results = tensors_of(module(inputs[0], state))
    sum(result.float().sum() for result in results).backward()  # type: ignore[union-attr]
    grads = [t.grad for t in inputs] + [next(module.parameters()).grad]
    return [t.dtype for t in results] + [None if t is None else t.dtype for t in grads]


@pytest.mark.parametrize("kind", [NoisyLSTM, NoisyGRU, NoisyLSTMCell, NoisyGRUCell])
@pytest.mark.parametrize("variant", ["nah", "reference"])
def test_dtypes_are_torchs(kind: Any, variant: str) -> None:
    """Under autocast with input, weights and state of both precisions; half-precision modules."""
    full, bf16, compared = torch.float32, torch.bfloat16, 0
    cases = list(itertools.product([bf16], (full, bf16), (full, bf16), (None, full, bf16)))
    cases += [(None, half, half, state) for half in HALF for state in (None, half)]
    cases += [(torch.float16, full, full, None), (torch.float16, full, torch.float16, None)]
    layer_is_cell = issubclass(kind, nn.RNNCellBase)
    for autocast, weights, inputs, states in cases:
        layer = kind(3, 4, variant=variant).to(weights)
        twin = torch_twin(layer).to(weights)
        x = torch.randn((2, 3) if layer_is_cell else (5, 2, 3), dtype=inputs)
        state: Any = None
        if states is not None:
            one = torch.randn((2, 4) if layer_is_cell else (1, 2, 4), dtype=states)
            state = (one, one.clone()) if isinstance(layer, nn.LSTM | nn.LSTMCell) else one
        try:
            expected = dtypes_of(twin, autocast, x, state)
        except RuntimeError:  # oneDNN has no float16 LSTM for every processor
            assert torch.float16 in (autocast, weights)
            continue
        compared += 1
        assert dtypes_of(layer, autocast, x, state) == expected, (autocast, weights, inputs, states)
    assert compared >= 16


@pytest.mark.parametrize("kind", [NoisyLSTM, NoisyGRU])
@pytest.mark.parametrize("half", HALF)
def test_dtypes_of_packed_sequences_are_torchs(kind: Any, half: torch.dtype) -> None:
    """torch's LSTM goes another way for them, and keeps the dtype of its states."""
    layer = kind(3, 4)
    twin, compared = torch_twin(layer), 0
    for inputs, states in itertools.product((torch.float32, half), (None, torch.float32, half)):
        x = pack_padded_sequence(torch.randn(4, 2, 3, dtype=inputs), [4, 2])
        one = torch.randn(1, 2, 4, dtype=states)
        state = None if states is None else (one, one) if isinstance(layer, nn.LSTM) else one
        with torch.autocast("cpu", dtype=half):
            try:
                expected = [t.dtype for t in tensors_of(twin(x, state))]
            except RuntimeError:  # not every processor has float16 products
                assert half == torch.float16
                continue
            found = [t.dtype for t in tensors_of(layer(x, state))]
        compared += 1
        assert found == expected, (inputs, states)
    assert compared == 6 or half == torch.float16


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_mixture_without_autocast_is_refused_as_by_torch(cell: str) -> None:
    for dtype in HALF:
        with pytest.raises((RuntimeError, ValueError), match=r"dtype|same type"):
            warnings.simplefilter("ignore")
            LAYERS[cell](3, 4)(torch.randn(5, 2, 3, dtype=dtype))


@pytest.mark.parametrize("autocast", [True, False])
def test_a_state_fed_back_and_a_packed_input(autocast: bool, rounds: None) -> None:
    """Two halves of a sequence with the state between are the whole of it, up to its rounding."""
    torch.manual_seed(0)
    for layer in (NoisyLSTM(3, 5, 2, variant="hard"), NoisyGRU(3, 5, variant="hard")):
        x, full = torch.randn(6, 4, 3), next(layer.parameters()).dtype
        if not autocast:
            layer, x = layer.bfloat16(), x.bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            whole, end = layer(x)
            first, state = layer(x[:3])
            second, last = layer(x[3:], state)
            packed, of_packed = layer(pack_padded_sequence(x, [6, 6, 6, 6]))
        torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0.02, atol=0.02)
        for a, b in zip(tensors_of(last), tensors_of(end), strict=True):
            torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)
        assert torch.equal(packed.data.view_as(whole).to(whole.dtype), whole)
        for a, b in zip(tensors_of(of_packed), tensors_of(end), strict=True):
            assert torch.equal(a.to(b.dtype), b)
        assert full == torch.float32


def test_float16_computes_in_float32_on_a_processor() -> None:
    """Only what comes in and goes out is rounded."""
    layer = NoisyLSTM(3, 5, 2, variant="nah").half()
    attach_noise(layer, NoiseSource(1))
    wide = NoisyLSTM(3, 5, 2, variant="nah")
    wide.load_state_dict(layer.float().state_dict())
    attach_noise(wide, NoiseSource(1))
    layer.half()
    x = torch.randn(4, 2, 3, dtype=torch.float16)
    assert torch.equal(layer(x)[0], wide(x.float())[0].half())


def test_a_retained_graph_gives_its_gradients_twice(rounds: None) -> None:
    for cell in ("lstm", "gru"):
        layer = LAYERS[cell](3, 5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = layer(torch.randn(4, 2, 3))[0].float().square().sum()
        parameters = list(layer.parameters())
        first = torch.autograd.grad(loss, parameters, retain_graph=True)
        again = torch.autograd.grad(loss, parameters)
        assert all(map(torch.equal, first, again))


def test_cells_are_layers_of_one_step(rounds: None) -> None:
    for layer, cell in (
        (NoisyLSTM(3, 5), NoisyLSTMCell(3, 5)),
        (NoisyGRU(3, 5), NoisyGRUCell(3, 5)),
    ):
        cell.load_state_dict(
            {k.replace("units.l0.", "units.").replace("_l0", ""): v
             for k, v in layer.state_dict().items()}
        )  # fmt: skip
        x, found = torch.randn(2, 3), []
        for module, given in ((layer, x[None]), (cell, x)):
            torch.manual_seed(4)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                result = module(given)
            found.append(tensors_of(result)[-1].float().flatten())
        torch.testing.assert_close(*found, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("kind", ["tanh", "sigmoid"])
def test_units_compute_in_float32_and_return_what_came(kind: str, dtype: torch.dtype) -> None:
    unit, xi = make_activation(kind, "nah", 7, c=3.0), torch.randn(50, 7)
    x = (4 * torch.randn(50, 7)).to(dtype).requires_grad_()
    wide = x.detach().float().requires_grad_()
    for module in (unit, unit.to(dtype)):
        expected = unit.float()(wide, xi)
        module.to(dtype)
        found = module(x, xi)
        assert found.dtype == dtype and torch.equal(found, expected.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert unit.float()(wide, xi).dtype == torch.float32
        assert unit(x, xi).dtype == dtype
    (d_x,) = torch.autograd.grad(unit(x, xi).sum(), x)
    (d_wide,) = torch.autograd.grad(unit(wide, xi).sum(), wide)
    assert d_x.dtype == dtype and torch.equal(d_x, d_wide.to(dtype))


def test_attention_scores_in_float32_with_keys_made_once() -> None:
    torch.manual_seed(0)
    attention = AdditiveAttention(4, 6, ActivationSpec("nah", {"c": 2.0}))
    attach_noise(attention, NoiseSource(2))
    source: Any = attention.unit.noise_source
    leaf = torch.randn(3, 5, 6, requires_grad=True)
    found = []
    for autocast in (True, False):
        leaf.grad = None
        source.set_step(0)
        attention.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            keys = (leaf + 0).bfloat16()
            keys = keys if autocast else keys.float()
            queries = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
            queries = queries if autocast else queries.float()
            weights = [attention.weights(q, keys) for q in queries]
        assert all(w.dtype == torch.float32 for w in weights)
        sum((w * torch.arange(5.0)).sum() for w in weights).backward()  # type: ignore[union-attr]
        assert leaf.grad is not None
        found.append([*(w.detach() for w in weights), leaf.grad.clone()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.01)


def test_float64_stays_as_it_is_under_autocast() -> None:
    layer = NoisyLSTM(3, 5, dtype=torch.float64)
    attach_noise(layer, NoiseSource(1))
    source: Any = next(layer.units.modules()) and layer.units["l0"]["i"].noise_source
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    outputs = []
    for enabled in (False, True):
        source.set_step(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            outputs.append(layer(x)[0])
    assert torch.equal(*outputs)
