"""The GPU's kernels: their source as C on any machine, themselves where there is a GPU.

The source is compiled by the C compiler and its threads run one after another. What that cannot
show, NVRTC and the launch, needs a GPU; the same tests then run on it, too.
"""

from __future__ import annotations

import ctypes
from typing import Any, ClassVar

import pytest
import torch
from equivalence import VARIANTS, compare, make
from torch import Tensor
from torch.nn.functional import cross_entropy, linear
from torch.nn.utils.rnn import pack_sequence

from noisyexp import NoisyGRUCell, NoisyLSTM
from noisyexp.activations import NoiseSource, attach_noise, make_activation
from noisyexp.activations.fused import fused_unit
from noisyexp.kernels import bindings, build, cpu, cuda, dispatch, persistent
from noisyexp.kernels.philox import DrawKey, normal, normal_torch
from noisyexp.nn import output
from noisyexp.nn.output import linear_cross_entropy
from noisyexp.nn.shared import shared_weights


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "kwargs",
    [
        {"alpha": 0.9, "c": 1.0, "clip_output": True},
        {"alpha": 1.15, "c": 3.0, "code_compat": True, "p_shape": "scalar"},
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_every_variant(
    device: torch.device, cell: str, variant: str, kwargs: dict[str, Any], training: bool
) -> None:
    for dtype in (torch.float32, torch.float64):
        layer = make(cell, 5, 9, variant=variant, dtype=dtype, bidirectional=True, **kwargs)
        compare(
            layer.to(device).train(training), (torch.randn(3, 5, 5, dtype=dtype) * 2).to(device)
        )


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_packed_sequences_states_and_layers(device: torch.device, cell: str) -> None:
    layer = make(cell, 3, 18, 2, variant="nah", bidirectional=True, dtype=torch.float64, c=2.0)
    parts = [torch.randn(n, 3, dtype=torch.float64).to(device) for n in (1, 4, 4, 2, 6, 1, 3)]
    states = 2 if cell == "lstm" else 1
    hx = [torch.randn(4, 7, 18, dtype=torch.float64).to(device) for _ in range(states)]
    compare(layer.to(device), pack_sequence(parts, enforce_sorted=False), hx)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_same_as_the_processor(device: torch.device, cell: str) -> None:
    """Not only as the plain loop beside it: the draws are the same on both machines."""
    layer, x = make(cell, 4, 33, variant="nah", c=2.0), torch.randn(6, 5, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(dispatch.BACKENDS, "cpu", cpu)
        expected = layer(x)[0]
    for unit in layer.units["l0"].values():
        unit.noise_source.set_step(0)
    found = layer.to(device)(x.to(device))[0]
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(6,), (5, 6), (3, 2, 5, 6)])
def test_single_units(
    device: torch.device, variant: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "THREADS", 20)  # so that a thread has several rows
    unit = make_activation("tanh", variant, 6, c=2.0, dtype=torch.float64).to(device)
    x = (torch.randn(shape, dtype=torch.float64) * 3).to(device)
    x.view(-1)[:2] = torch.tensor([torch.inf, -torch.inf])
    results: list[list[Tensor]] = []
    for unit.backend in ("eager", "auto"):
        torch.manual_seed(1)
        leaf = x.clone().requires_grad_()
        value = unit(leaf)
        value.square().sum().backward()
        results.append([value.detach(), leaf.grad, *(p.grad.clone() for p in unit.parameters())])
        unit.zero_grad()
    for slow, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["tanh", "sigmoid"])
def test_soft_units(device: torch.device, kind: str) -> None:
    ends = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, 700.0, -700.0])
    for dtype in (torch.float32, torch.float64):
        x = torch.cat([torch.linspace(-30, 30, 600), ends]).to(dtype).view(-1, 6).to(device)
        unit = make_activation(kind, "reference", 6)
        leaf, truth = x.clone().requires_grad_(), x.double().requires_grad_()
        value, expected = fused_unit(unit, leaf, None), getattr(torch, kind)(truth)
        value.backward(torch.ones_like(value))
        expected.backward(torch.ones_like(expected))
        assert leaf.grad is not None and truth.grad is not None
        near = {"rtol": 1e-6 if dtype == torch.float32 else 1e-13, "equal_nan": True}
        torch.testing.assert_close(value.double(), expected, atol=1e-30, **near)
        torch.testing.assert_close(leaf.grad.double(), truth.grad, atol=2e-16, **near)


@pytest.mark.parametrize("shape", [(7,), (9, 5), (3, 6, 20)])
def test_draws(
    device: torch.device, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of PyTorch alone, which tests/kernels compares with published words of Philox."""
    monkeypatch.setattr(cuda, "THREADS", 20)
    key = DrawKey(0x1234_5678_9ABC_DEF0, call=3)
    expected = normal_torch(key, shape, torch.device("cpu"))
    torch.testing.assert_close(normal(key, shape, device).cpu(), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("floor", [0.0, 0.01])
def test_gradients_of_cross_entropy(
    device: torch.device, floor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weighted rows, some without a target, against torch's functions in float64."""
    monkeypatch.setattr(output, "ROWS", 7)
    monkeypatch.setattr(cuda, "NEAR", 1)
    torch.manual_seed(0)
    parts = [torch.randn(23, 5), torch.randn(41, 5), torch.randn(41)]
    targets, weights = torch.randint(41, (23,)), torch.rand(23).to(device)
    targets[::5] = -1
    targets = targets.to(device)
    leaves = [part.to(device).requires_grad_() for part in parts]
    total = linear_cross_entropy(
        *leaves, targets, row_weight=weights, ignore_index=-1, floor=floor
    ).total
    total.backward()
    exact = [part.detach().to(device).double().requires_grad_() for part in parts]
    costs = cross_entropy(linear(*exact), targets, ignore_index=-1, reduction="none")
    costs = torch.where(targets >= 0, -torch.log(torch.exp(-costs) + floor), 0.0)
    expected = (costs * weights.double()).sum()
    expected.backward()
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-5)
    for leaf, truth in zip(leaves, exact, strict=True):
        torch.testing.assert_close(leaf.grad.double(), truth.grad, rtol=1e-4, atol=1e-5)


def test_steps_that_share_their_weights_go_by_torchs_products(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the launch for all steps, which would make the gradient of a weight at every step."""
    monkeypatch.setattr(persistent, "limits_of", lambda index: persistent.Limits(132, 232448))
    monkeypatch.setattr(persistent, "launch", None)
    x, found = torch.randn(3, 2, 4).to(device), []
    for backend in ("auto", "eager"):
        torch.manual_seed(0)
        cell = NoisyGRUCell(4, 9, variant="nah", c=2.0, backend=backend)
        attach_noise(cell, NoiseSource(1))
        cell, h = cell.to(device), torch.zeros(2, 9).to(device)
        with shared_weights():
            for part in x:
                h = cell(part, h)
        h.square().sum().backward()
        found.append([h.detach(), *(p.grad for p in cell.parameters())])
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


def test_source_compiles_for_current_gpus() -> None:
    """Where NVRTC is at hand, which needs no GPU."""
    try:
        cuda._nvrtc()
    except build.BuildError as error:
        pytest.skip(str(error))
    assert all(len(cuda.compile_for(capability)) > 10_000 for capability in ((7, 5), (9, 0)))
    with pytest.raises(build.BuildError, match=r"does not know GPUs of compute capability 99\.0"):
        cuda.compile_for((99, 0))


def test_values_that_are_no_numbers_go_through(device: torch.device) -> None:
    """As in the plain form: a diverged model must not look healthy."""
    x = torch.tensor([[float("nan"), float("inf"), -float("inf"), 1.0]], dtype=torch.float64)
    for variant in VARIANTS:
        unit = make_activation("tanh", variant, 4, c=2.0, dtype=torch.float64).to(device).eval()
        unit.backend = "eager"
        expected = unit(x.to(device))
        unit.backend = "auto"
        assert unit(x.to(device))[0, 0].isnan()
        torch.testing.assert_close(unit(x.to(device)), expected, equal_nan=True)


def test_draws_on_another_device_are_refused_as_by_the_plain_form() -> None:
    """The kernels are handed addresses, which mean nothing elsewhere."""
    unit = make_activation("tanh", "nan", 4)
    with pytest.raises(RuntimeError):
        unit(torch.ones(2, 4) * 3, noise=torch.ones(2, 4, device="meta")).sum().item()


@pytest.mark.parametrize("source", [None, NoiseSource(1)])
def test_no_noise_is_frozen_in_a_cuda_graph(
    source: NoiseSource | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    lstm = NoisyLSTM(2, 3)
    attach_noise(lstm, source)
    for backend in ("auto", "eager"):
        lstm.backend = backend
        with pytest.raises(RuntimeError, match="CUDA graph"):
            lstm(torch.ones(1, 1, 2))
        with torch.no_grad():
            lstm.eval()(torch.ones(1, 1, 2))
        lstm.train()


def test_a_launch_hands_over_structures_by_value_and_64_bits_for_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the driver is given, read as it reads it: an array of pointers to the parameters."""
    calls: list[tuple[Any, ...]] = []

    class Driver:
        contexts: ClassVar[list[int | None]] = []

        @staticmethod
        def cuCtxGetCurrent(_: Any) -> int:
            return 0  # null: none is current in this thread

        @staticmethod
        def cuCtxSetCurrent(context: ctypes.c_void_p) -> int:
            Driver.contexts.append(context.value)
            return 0

        @staticmethod
        def cuLaunchKernel(*args: Any) -> int:
            pointers = args[9]
            size = bindings.Shape.from_address(pointers[0])
            numbers = [ctypes.c_int64.from_address(pointers[k]).value for k in (1, 2, 3)]
            calls.append((args[:8], (size.blocks, size.rows, size.units), numbers))
            return 0

    monkeypatch.setattr(cuda, "driver", Driver)
    monkeypatch.setattr(cuda, "handle", lambda name, index: ctypes.c_void_p(7))
    monkeypatch.setattr(cuda, "_module", lambda index: (ctypes.c_void_p(), ctypes.c_void_p(9)))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    stream = type("Stream", (), {"cuda_stream": 11})
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: stream)
    launch = cuda.Launch("unit_map_f", 0)
    launch(bindings.Shape(3, 5, 13, 15), 2**40 + 1, None, -1)
    (grid, size, numbers) = calls[0]
    threads = 13 * 15
    assert grid[1:] == (-(-threads // cuda.BLOCK), 1, 1, cuda.BLOCK, 1, 1, 0)
    assert size == (3, 5, 13) and numbers == [2**40 + 1, 0, -1]
    assert launch.stream.value == 11 and Driver.contexts == [9]
