"""Products of bf16 operands against float64, by plain C and by tiles that C emulates."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from noisyexp.kernels import build, cpu, library, matmul

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled kernels")

SIZES = [(1, 1, 1), (5, 31, 15), (16, 32, 16), (17, 33, 17), (20, 70, 40), (33, 64, 100),
         (70, 2100, 17), (130, 96, 70)]  # fmt: skip
"""Rows, length of the sum, columns: within, at and past the edges of tiles, panels and parts."""


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """matmul.h, compiled with tiles that do in C what Intel says of the instructions."""
    folder = tmp_path_factory.mktemp("emulated")
    source, target = folder / "matmul.c", folder / "matmul.so"
    source.write_text('#include "matmul.h"\n')
    compiler = build.find_compiler()
    assert compiler is not None
    flags = ["-O1", "-fPIC", "-shared", "-std=gnu11", "-fopenmp", "-w", "-DEMULATE_TILES"]
    command = [compiler, *flags, f"-I{build.SOURCES}", "-o", str(target), str(source), "-lm"]
    subprocess.run(command, check=True, capture_output=True)
    return target


@pytest.fixture(params=["rounded", "tiles"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A form that this test can use on any processor."""
    if request.param == "tiles":
        loaded = matmul.load_products(request.getfixturevalue("emulated"))
        monkeypatch.setattr(matmul, "library", lambda: loaded)
    monkeypatch.setattr(matmul, "_state", {})
    monkeypatch.setenv(matmul.SWITCH, request.param)
    yield request.param


def rounded(x: Tensor) -> Tensor:
    return x.bfloat16().double()


def error(found: Tensor, a: Tensor, b: Tensor, start: Tensor | float) -> float:
    """Largest error, relative to the sum of absolute terms."""
    size = rounded(a).abs() @ rounded(b).abs() + torch.as_tensor(start).abs() + 1e-30
    return float(((found - (rounded(a) @ rounded(b) + start)).abs() / size).max())


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_products_of_all_layouts(form: str, size: tuple[int, int, int]) -> None:
    rows, depth, columns = size
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(s, generator=generator) for s in ((rows, depth), (depth, columns)))
    starts: list[Tensor | None] = [
        None, torch.randn(columns, generator=generator),
        torch.randn(rows, columns, generator=generator),
    ]  # fmt: skip
    lefts = [a, a.t().contiguous().t(), a.bfloat16(), a.bfloat16().t().contiguous().t()]
    rights = [b, b.t().contiguous().t(), b.bfloat16(), b.bfloat16().t().contiguous().t()]
    for index, (left, right) in enumerate(zip(lefts, rights[1:] + rights[:1], strict=True)):
        start = starts[index % 3]
        found = matmul.bf16_matmul(left, right, start)
        assert found.dtype == torch.float32
        assert error(found, a, b, 0.0 if start is None else start) < 1e-6


def test_what_lies_between_rows_does_not_count(form: str) -> None:
    """Operands that are parts of larger arrays, with NaN around them."""
    a, b = torch.full((9, 50), torch.nan), torch.full((50, 40), torch.nan)
    a[:7, :33], b[:33, :19] = torch.randn(7, 33), torch.randn(33, 19)
    for left in (a[:7, :33], a.bfloat16()[:7, :33]):
        assert error(matmul.bf16_matmul(left, b[:33, :19]), a[:7, :33], b[:33, :19], 0.0) < 1e-6
    wide = torch.randn(40, 20)[:, ::2]  # no stride is 1
    assert error(matmul.bf16_matmul(wide.t(), wide), wide.t(), wide, 0.0) < 1e-6


def test_special_numbers(form: str) -> None:
    a = torch.tensor([[torch.nan, 1.0], [torch.inf, 1.0], [3e38, 3e38], [-0.0, 0.0]])
    found = matmul.bf16_matmul(a, torch.tensor([[1.0], [2.0]])).squeeze(1)
    assert found[0].isnan() and found[1] == torch.inf and found[2] == torch.inf and found[3] == 0


def test_rounding_is_torch_s() -> None:
    """Every pattern of 32 bits with one of many lower halves, ties among them."""
    high = np.arange(2**16, dtype=np.uint32) << 16
    for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        x = torch.from_numpy((high | np.uint32(low)).view(np.float32).copy()).view(256, 256)
        ours, theirs = matmul.as_rows(x), x.bfloat16()
        assert torch.equal(ours.isnan(), theirs.isnan())
        known = ~theirs.isnan()
        assert torch.equal(ours[known].view(torch.int16), theirs[known].view(torch.int16))


@pytest.mark.parametrize("form", ["tiles"], indirect=True)
def test_tiles_sum_even_and_odd_numbers_apart(form: str) -> None:
    """The order of sums that Intel documents for TDPBF16PS, to the last bit."""
    a, b = torch.randn(1, 96), torch.randn(96, 1)
    c = np.float32(0)
    for k in range(0, 96, 32):
        sums = [np.float32(0), np.float32(0)]
        for i in range(32):  # a product of two bf16 numbers and a float32 fit float64: rounded once
            term = rounded(a)[0, k + i] * rounded(b)[k + i, 0]
            sums[i % 2] = np.float32(float(term) + float(sums[i % 2]))
        c = c + (sums[0] + sums[1])
    assert float(matmul.bf16_matmul(a, b)) == float(c)


def test_neither_threads_nor_neighbours_change_bits(form: str) -> None:
    a, b = torch.randn(150, 80), torch.randn(80, 300)
    threads = torch.get_num_threads()
    matmul_of = matmul.WORK_OF_A_THREAD
    try:
        torch.set_num_threads(1)
        alone = matmul.bf16_matmul(a, b)
        torch.set_num_threads(4)
        kept = dict(matmul_of)
        matmul_of.update(dict.fromkeys(matmul_of, 1))
        assert torch.equal(matmul.bf16_matmul(a, b), alone)  # by columns
        assert torch.equal(matmul.bf16_matmul(a.repeat(2, 1), b)[150:], alone)  # by rows
        matmul_of.update(kept)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(matmul.bf16_matmul(a[13:14], b[:, 40:60]), alone[13:14, 40:60])


def test_packed_once_for_many_products(form: str) -> None:
    a, b = torch.randn(5, 40), torch.randn(40, 50)
    columns = matmul.Columns(b)
    assert matmul.packs(torch.device("cpu"))
    for rows in (a, a[:2]):
        assert torch.equal(matmul.bf16_matmul(rows, columns), matmul.bf16_matmul(rows, b))
    with pytest.raises(ValueError, match=r"\(5, 40\) and \(39, 50\)"):
        matmul.bf16_matmul(a, b[1:])
    with pytest.raises(ValueError, match="product of"):
        matmul.bf16_matmul(a, b, torch.zeros(49))


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def switch(value: str) -> None:
        monkeypatch.setattr(matmul, "_state", {})
        monkeypatch.setenv(matmul.SWITCH, value)

    return switch


def test_without_instructions_it_is_float32_and_says_so_once(
    forget: Callable[[str], None],
) -> None:
    forget("off")
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    assert matmul.form() is None and not matmul.packs(torch.device("cpu"))
    assert torch.equal(matmul.bf16_matmul(a, b), a @ b)
    with pytest.warns(UserWarning, match="computes in float32 here: it is switched off"):
        matmul.note_float32()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        matmul.note_float32()


def test_a_wrong_switch(forget: Callable[[str], None]) -> None:
    forget("fast")
    with pytest.raises(ValueError, match="NOISYEXP_BF16=fast: choose from auto, off, rounded"):
        matmul.form()
    found = cpu.library()
    assert found is not None
    for name, number in matmul.FORMS.items():
        forget(name)
        if matmul.library().bf16_usable(number):
            assert matmul.form() == name
        else:
            with pytest.raises(ValueError, match="does not have them"):
                matmul.form()


def test_a_form_that_is_wrong_is_not_used(
    forget: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, emulated: Path
) -> None:
    loaded = matmul.load_products(emulated)
    forget("auto")
    monkeypatch.setattr(matmul, "library", lambda: loaded)
    assert matmul.form() == "tiles"
    real = matmul.multiply
    monkeypatch.setattr(
        matmul, "multiply", lambda a, b, start: real(a, b, start) + 0.01 * (b.form == "tiles")
    )
    forget("auto")
    with pytest.warns(RuntimeWarning, match="by tiles are wrong on this processor"):
        assert matmul.form() is None
