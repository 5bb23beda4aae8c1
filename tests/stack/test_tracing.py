"""Export, fake and meta tensors, TorchScript, ONNX."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from stack_helpers import assert_same, first
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from noisyexp import NoisyGRU, NoisyLSTM, NoisyLSTMCell, make_activation
from noisyexp.activations import NoiseSource, attach_noise
from noisyexp.activations.fused import KEPT_NUMBERS
from noisyexp.kernels import library

needs_kernels = pytest.mark.skipif(library() is None, reason="no compiled kernels")
X = torch.randn(5, 3, 4)
LONGER = 4 * torch.randn(9, 2, 4)  # so that units saturate: noise is nothing elsewhere
LONG = torch.randn(9, 3, 4)


@needs_kernels
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("layer", [NoisyLSTM, NoisyGRU])
def test_export(layer: Any, training: bool) -> None:
    """Any length and batch, fresh noise at every call, gradients, after a save and a load."""
    module = layer(4, 6).train(training)
    sizes = {0: torch.export.Dim("T", min=2, max=99), 1: torch.export.Dim("B", min=2, max=99)}
    program = torch.export.export(module, (X,), dynamic_shapes={"input": sizes})
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    exported = torch.export.load(file).module()
    found = []
    for call in (module, exported):
        torch.manual_seed(1)
        value = first(call(LONGER))
        weights = [p for name, p in sorted(call.named_parameters())]
        found.append([value, *torch.autograd.grad(value.square().sum(), weights)])
    assert_same(*found)
    assert torch.equal(first(exported(LONGER)), first(exported(LONGER))) is not training


@needs_kernels
def test_an_exported_unit_takes_more_numbers_than_are_kept_for_backward() -> None:
    unit = make_activation("tanh", "nah", 4)
    sizes = {"x": {0: torch.export.Dim("B", min=1, max=10**6)}, "noise": None}
    exported = torch.export.export(unit, (X[0], None), dynamic_shapes=sizes).module()
    x = torch.linspace(-3, 3, KEPT_NUMBERS + 4).view(-1, 4).requires_grad_()
    found = []
    for call in (unit, exported):
        torch.manual_seed(1)
        value = call(x, None)
        found.append([value, *torch.autograd.grad(value.square().sum(), [x, call.p])])
    assert_same(*found)


@needs_kernels
def test_an_exported_graph_without_its_source_says_so() -> None:
    module, source = NoisyLSTM(4, 6), NoiseSource(1)
    attach_noise(module, source)
    exported = torch.export.export(module, (X,)).module()
    expected = first(module(X))
    source.set_step(0)
    assert_same([first(exported(X))], [expected])
    attach_noise(module, None)
    del source
    with pytest.raises(RuntimeError, match="NoiseSource of this graph is gone"):
        exported(X)


@pytest.mark.parametrize("make", [lambda: FakeTensorMode(), lambda: torch.device("meta")])
def test_shapes_alone(make: Any) -> None:
    """As torch's layers: values, states and gradients without numbers."""
    with make():
        x = torch.empty(5, 3, 4, requires_grad=True)
        for ours, theirs in (
            (
                NoisyLSTM(4, 6, num_layers=2, bidirectional=True),
                nn.LSTM(4, 6, 2, bidirectional=True),
            ),
            (NoisyGRU(4, 6, batch_first=True), nn.GRU(4, 6, batch_first=True)),
        ):
            (output, state), (expected, expected_state) = ours(x), theirs(x)
            assert output.shape == expected.shape
            pairs = zip(ours._as_tuple(state), ours._as_tuple(expected_state), strict=True)
            assert all(one.shape == two.shape for one, two in pairs)
            output.sum().backward()
            assert x.grad is not None and x.grad.shape == x.shape
            assert all(p.grad is not None and p.grad.shape == p.shape for p in ours.parameters())
        assert make_activation("tanh", "nah", 4)(x).shape == x.shape
        assert first(NoisyLSTMCell(4, 6)(x[0])).shape == (3, 6)


def test_skip_init() -> None:
    """Weights as they lie in memory; a state dict fills them."""
    torch.manual_seed(0)
    full = NoisyLSTM(4, 6, variant="nah").eval()
    empty = torch.nn.utils.skip_init(NoisyLSTM, 4, 6, variant="nah").eval()
    empty.load_state_dict(full.state_dict())
    assert_same([first(empty(X))], [first(full(X))])
    cell = torch.nn.utils.skip_init(NoisyLSTMCell, 4, 6)
    assert first(cell(X[0])).shape == (3, 6)


@needs_kernels
def test_a_trace_knows_other_lengths(recwarn: pytest.WarningsRecorder) -> None:
    module = NoisyLSTM(4, 6, bidirectional=True).eval()
    traced = torch.jit.trace(module, X)
    assert_same([first(traced(LONGER))], [first(module(LONGER))])


@pytest.mark.parametrize("kernels", ["0", "1"])
def test_a_trace_in_training_is_refused(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its noise would be the same at every call."""
    monkeypatch.setenv("NOISYEXP_KERNELS", kernels)
    for module in (NoisyLSTM(4, 6), make_activation("tanh", "nah", 4)):
        for source in (None, NoiseSource(1)):
            attach_noise(module, source)
            with pytest.raises(RuntimeError, match=r"torch\.jit\.trace is at work"):
                torch.jit.trace(module, X)


def test_a_trace_of_the_plain_loop_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would have the length of its example."""
    monkeypatch.setenv("NOISYEXP_KERNELS", "0")
    with pytest.raises(RuntimeError, match="has 5 steps for inputs of any length"):
        torch.jit.trace(NoisyLSTM(4, 6).eval(), X)


def test_scripting_is_refused() -> None:
    modules = (NoisyLSTM(4, 6), NoisyLSTMCell(4, 6), make_activation("tanh", "nah", 4))
    for module in (*modules, nn.Sequential(modules[2])):
        with pytest.raises(TypeError, match=r"torch\.jit\.script cannot read noisy units"):
            torch.jit.script(module)


@pytest.mark.slow
def test_onnx(tmp_path: Path) -> None:
    """The exporter of torch.export is right; TorchScript's is refused where it would not be."""
    pytest.importorskip("onnxscript", reason="no ONNX exporter")
    reference = pytest.importorskip("onnx.reference", reason="no ONNX")
    path = str(tmp_path / "model.onnx")
    modules = (NoisyLSTM(4, 6).eval(), make_activation("tanh", "nah", 4).eval())
    for module in modules:
        torch.onnx.export(module, (X,), dynamo=True, verbose=False).save(path)
        session = reference.ReferenceEvaluator(path)
        x = torch.randn_like(X)
        (value, *_) = session.run(None, {session.input_names[0]: x.numpy()})
        assert_same([torch.as_tensor(value)], [first(module(x))])
    torch.onnx.export(
        modules[1], (X,), path, dynamo=False, dynamic_axes={"x": [0]}, input_names=["x"]
    )
    (value,) = reference.ReferenceEvaluator(path).run(None, {"x": LONG.numpy()})
    assert_same([torch.as_tensor(value)], [modules[1](LONG)])
    with pytest.raises(RuntimeError, match="dynamo=True"):
        torch.onnx.export(modules[0], (X,), path, dynamo=False)
