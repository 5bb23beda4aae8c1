"""Where the kernels cannot run, the plain loop does, with one notice and the same numbers."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from noisyexp import NoisyGRU, NoisyLSTM, make_activation
from noisyexp.activations import NoiseSource, attach_noise
from noisyexp.activations.variants import NAH
from noisyexp.kernels import backend as B
from noisyexp.kernels import build, cpu, library
from noisyexp.nn.equations import lstm_cell
from noisyexp.places import CACHE_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
needs_kernels = pytest.mark.skipif(library() is None, reason="no compiled kernels")


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_state", {})
    monkeypatch.setattr(B, "_noticed", set())
    monkeypatch.delenv(B.SWITCH, raising=False)


@needs_kernels
def test_without_a_compiler_one_notice_and_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch, no_library: None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    layer, source = NoisyLSTM(3, 5, variant="nah", c=3.0), NoiseSource(4)
    attach_noise(layer, source)
    x = torch.randn(6, 2, 3) * 4
    source.set_step(1)
    fast = layer(x)[0]
    monkeypatch.setattr(cpu, "_state", {})
    monkeypatch.setattr(B, "_noticed", set())
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    source.set_step(1)
    with pytest.warns(RuntimeWarning, match="no C compiler found") as caught:
        slow = layer(x)[0]
    assert len(caught) == 1
    torch.testing.assert_close(slow, fast, rtol=1e-5, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)
        make_activation("tanh", "nah", 5)(x[..., :1].expand(6, 2, 5))
    assert list(tmp_path.iterdir()) == []


def test_the_switch_turns_the_kernels_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(B.SWITCH, "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert library() is None
        NoisyGRU(2, 3)(torch.randn(4, 1, 2))


def test_a_compiler_that_fails_is_reported_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, no_library: None, tmp_path: Path
) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'kernels.c:1: error: no good' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    with pytest.warns(RuntimeWarning, match="error: no good"):
        assert library() is None
    left = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert left <= {"lock"}


@needs_kernels
@pytest.mark.slow  # a quarter of a minute of compiler
def test_first_use_compiles_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    code = "from noisyexp.kernels import library; assert library() is not None"
    command = [sys.executable, "-W", "error", "-c", code]
    for lines in (1, 0):
        done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
        assert done.stderr.count("compiling the kernels") == len(done.stderr.splitlines()) == lines
        (made,) = tmp_path.iterdir()
        stamp = made.stat().st_mtime_ns
    assert made.name.startswith("kernels-") and made.stat().st_mtime_ns == stamp


@pytest.mark.slow
@needs_kernels
@pytest.mark.parametrize("flags", [(), ("-march=x86-64-v3",)])
def test_other_instruction_sets(
    flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, no_library: None, tmp_path: Path
) -> None:
    """The same sources for older processors: without vector flags, and with AVX2."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(build, "FLAG_SETS", ((*build._BASE, *flags),))
    layer, source = NoisyLSTM(3, 21, variant="nah", c=3.0), NoiseSource(4)
    attach_noise(layer, source)
    x, found = torch.randn(6, 5, 3) * 4, []
    for backend in ("eager", "auto"):
        layer.backend = backend
        source.set_step(1)
        layer.zero_grad()
        output = layer(x)[0]
        output.square().sum().backward()
        found.append([output.detach(), *(p.grad.clone() for p in layer.parameters())])
    assert len(list(tmp_path.iterdir())) == 1
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_a_cell_or_unit_of_ones_own_is_not_replaced_by_a_kernel() -> None:
    class Loud(NAH):
        variant = "loud-nah"

        def expected(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full_like(x, 7.0)

    class Open(NoisyLSTM):
        @staticmethod
        def cell(units, x, state, w_hh, b_hh, xi):  # type: ignore[no-untyped-def]
            h, c = lstm_cell(units, x, state, w_hh, b_hh, xi)
            return torch.ones_like(h), c

    assert float(Loud("tanh", 3).eval()(torch.zeros(2, 3)).mean()) == 7.0
    layer = Open(2, 3, variant="nah")
    assert torch.equal(layer(torch.randn(4, 1, 2))[0], torch.ones(4, 1, 3))
    loud = NoisyLSTM(2, 3, variant="loud-nah").eval()
    assert torch.equal(loud(torch.randn(4, 1, 2))[0][0], torch.full((1, 3), 49.0))


def test_torch_compile_around_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path for devices without kernels, traced and run without a code generator."""
    import noisyexp.nn.noisy as noisy

    torch._dynamo.reset()
    traced = torch.compile(lstm_cell, backend="eager")
    monkeypatch.setattr(noisy, "_compiled", lambda step: traced)
    layer = NoisyLSTM(3, 5, 2, variant="nah", c=2.0)
    attach_noise(layer, NoiseSource(2))
    x, found = torch.randn(4, 2, 3) * 3, []
    for backend in ("eager", "compile"):
        layer.backend = backend
        layer.units["l0"]["i"].noise_source.set_step(0)
        found.append(layer(x)[0])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.slow
def test_torch_compile_with_its_code_generator() -> None:
    layer, x = NoisyLSTM(3, 5, variant="nah", c=2.0), torch.randn(4, 2, 3) * 3
    attach_noise(layer, NoiseSource(2))
    found = []
    for backend in ("eager", "compile"):
        layer.backend = backend
        layer.units["l0"]["i"].noise_source.set_step(0)
        layer.zero_grad()
        output = layer(x)[0]
        output.square().sum().backward()
        found.append([output.detach(), *(p.grad.clone() for p in layer.parameters())])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


def test_backends_are_checked() -> None:
    with pytest.raises(ValueError, match="'fast' is unknown; choose from auto, eager, compile"):
        NoisyLSTM(2, 3, backend="fast")
    layer = NoisyLSTM(2, 3, backend="eager")
    assert {unit.backend for unit in layer.units["l0"].values()} == {"eager"}
    layer.backend = "auto"
    assert {unit.backend for unit in layer.units["l0"].values()} == {"auto"}
    assert isinstance(layer, nn.LSTM)
