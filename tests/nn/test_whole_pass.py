"""All steps in one call from C against the loop that asks torch step by step: the same bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from equivalence import make, run
from torch.nn.utils.rnn import pack_sequence

from noisyexp.kernels import blas, library
from noisyexp.nn import products, single

pytestmark = pytest.mark.skipif(
    library() is None or blas.gemm(torch.float32) is None, reason="no kernels, or no product"
)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (7, 1), (7, 5), (3, 20)])
@pytest.mark.parametrize("packed", [False, True])
def test_bits(
    cell: str, dtype: torch.dtype, bias: bool, batch: int, steps: int, packed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    layer = make(cell, 6, 33, dtype=dtype, bias=bias, bidirectional=True, c=2.0)
    x: Any = torch.randn(steps, batch, 6, dtype=dtype)
    if packed:
        x = pack_sequence([x[: max(1, steps - row), row] for row in range(batch)])
    states = 2 if cell == "lstm" else 1
    hx = [torch.randn(2, batch, 33, dtype=dtype) for _ in range(states)]
    whole = run(layer, "auto", x, hx)
    asked = []

    def nothing(like: torch.Tensor) -> None:
        asked.append(like)

    monkeypatch.setattr(products, "gemm_for", nothing)
    monkeypatch.setattr(single, "gemm_for", nothing)
    in_parts = run(layer, "auto", x, hx)
    assert asked
    assert whole.keys() == in_parts.keys()
    assert all(torch.equal(whole[name], in_parts[name]) for name in whole)


def test_products_in_less_than_float32_are_torchs() -> None:
    x = torch.ones(2, 2)
    assert blas.gemm_for(x) is not None
    torch.set_float32_matmul_precision("medium")
    try:
        assert blas.gemm_for(x) is None
        assert blas.gemm_for(x.double()) is not None
    finally:
        torch.set_float32_matmul_precision("highest")
