"""The GPU's kernels: their source as C on any machine, themselves where there is a GPU.

The source is compiled by the C compiler and its threads run one after another. What that cannot
show, NVRTC and the launch, needs a GPU; the same tests then run on it, too.
"""

from __future__ import annotations

import ctypes
import subprocess
from typing import Any

import pytest
import torch
from equivalence import VARIANTS, compare, make
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from noisyexp.activations import make_activation
from noisyexp.kernels import bindings, build, cuda
from noisyexp.kernels.philox import DrawKey, normal, normal_torch

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="no C compiler")

MACHINES = ["source", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target = tmp_path_factory.mktemp("gpu") / "gpu.so"
    flags = ["-O1", "-shared", "-fPIC", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
    command = [build.find_compiler(), "-x", "c", *flags, str(build.SOURCES / "gpu.cu"), "-lm"]
    subprocess.run([*command, "-o", str(target)], check=True)
    return ctypes.CDLL(str(target))


class OneByOne:
    """`cuda.Launch` on a machine without a GPU."""

    library: ctypes.CDLL

    def __init__(self, name: str, index: int | None) -> None:
        self.function = getattr(self.library, name)
        self.thread = ctypes.c_int64.in_dll(self.library, "THREAD")

    def __call__(self, *args: Any) -> None:
        (threads,) = [arg.gpu_threads for arg in args if hasattr(arg, "gpu_threads")]
        whole_blocks = -(-threads // cuda.BLOCK) * cuda.BLOCK
        self.function.restype = None
        values = [
            arg if isinstance(arg, ctypes.Structure) else ctypes.c_int64(arg or 0) for arg in args
        ]
        for self.thread.value in range(whole_blocks):
            self.function(*values)


@pytest.fixture(params=MACHINES)
def device(
    request: pytest.FixtureRequest, source: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> torch.device:
    """Where the tensors of a test lie."""
    if request.param == "cuda":
        assert cuda.why_not(0) is None
        return torch.device("cuda", 0)
    monkeypatch.setattr(OneByOne, "library", source, raising=False)
    monkeypatch.setattr(cuda, "Launch", OneByOne)
    monkeypatch.setattr(cuda, "why_not", lambda index: None)
    monkeypatch.setattr(bindings, "on_gpu", lambda device: True)
    return torch.device("cpu")


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
        layer = make(cell, 5, 19, variant=variant, dtype=dtype, bidirectional=True, **kwargs)
        compare(
            layer.to(device).train(training), (torch.randn(3, 7, 5, dtype=dtype) * 2).to(device)
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
        patch.setattr(bindings, "on_gpu", lambda device: False)
        expected = layer(x)[0]
    for unit in layer.units["l0"].values():
        unit.noise_source.set_step(0)
    found = layer.to(device)(x.to(device))[0]
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(6,), (5, 6), (3, 2, 5, 6)])
def test_single_units(device: torch.device, variant: str, shape: tuple[int, ...]) -> None:
    unit = make_activation("tanh", variant, 6, c=2.0, dtype=torch.float64).to(device)
    x = (torch.randn(shape, dtype=torch.float64) * 3).to(device)
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


@pytest.mark.parametrize("shape", [(7,), (9, 5), (3, 6, 20)])
def test_draws(device: torch.device, shape: tuple[int, ...]) -> None:
    """Those of PyTorch alone, which tests/kernels compares with published words of Philox."""
    key = DrawKey(0x1234_5678_9ABC_DEF0, call=3)
    expected = normal_torch(key, shape, torch.device("cpu"))
    torch.testing.assert_close(normal(key, shape, device).cpu(), expected, rtol=1e-5, atol=2e-6)


def test_source_compiles_for_current_gpus() -> None:
    """Where NVRTC is at hand, which needs no GPU."""
    try:
        cuda._nvrtc()
    except build.BuildError as error:
        pytest.skip(str(error))
    assert all(len(cuda.compile_for(capability)) > 10_000 for capability in ((7, 5), (9, 0)))
