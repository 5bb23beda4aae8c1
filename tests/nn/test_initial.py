"""Initial weights: orthogonality, moments; biases that are no parameters."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from noisyexp import NoisyGRU, NoisyGRUCell
from noisyexp.nn.initial import drop_bias, gaussian_, orthogonal_blocks_


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_every_block_is_orthogonal_by_itself(scale: float) -> None:
    torch.manual_seed(0)
    weight = orthogonal_blocks_(nn.Parameter(torch.empty(3 * 20, 20)), 3, scale)
    blocks = weight.detach().double().chunk(3)
    for block in blocks:
        for product in (block.T @ block, block @ block.T):
            error = product - scale**2 * torch.eye(20, dtype=torch.float64)
            assert float(error.abs().max()) < 1e-6 * scale**2
    for one, two in ((0, 1), (1, 2), (0, 2)):  # independent: one does not map to the other
        assert float((blocks[one] - blocks[two]).abs().max()) > 0.1 * scale


def test_uniform_over_orthogonal_matrices() -> None:
    """An entry of such a matrix of size n has mean 0 and variance 1 / n, the first one too.

    A factor whose diagonal has one sign, as some decompositions give, would fail here.
    """
    torch.manual_seed(0)
    entries = torch.stack([orthogonal_blocks_(torch.empty(3, 3), 1)[0, 0] for _ in range(2000)])
    assert abs(float(entries.mean())) < 4.5 / math.sqrt(3 * 2000)
    # The fourth moment of a coordinate on the sphere in 3 dimensions is 1/5.
    deviation = math.sqrt((1 / 5 - 1 / 9) / 2000)
    assert abs(float(entries.square().mean()) - 1 / 3) < 4.5 * deviation


def test_a_rectangular_block_has_orthonormal_rows_or_columns() -> None:
    wide, tall = orthogonal_blocks_(torch.empty(4, 9), 2), orthogonal_blocks_(torch.empty(9, 4), 1)
    torch.testing.assert_close(wide[:2] @ wide[:2].T, torch.eye(2))
    torch.testing.assert_close(tall.T @ tall, torch.eye(4))


@pytest.mark.parametrize(("shape", "blocks"), [((7, 3), 2), ((6,), 2), ((6, 3), 0)])
def test_blocks_must_fit(shape: tuple[int, ...], blocks: int) -> None:
    with pytest.raises(ValueError, match=f"{blocks} equal blocks of rows"):
        orthogonal_blocks_(torch.empty(shape), blocks)


def test_gaussian() -> None:
    torch.manual_seed(0)
    weight = gaussian_(nn.Parameter(torch.empty(200, 300)))
    n = weight.numel()
    assert abs(float(weight.mean())) < 4.5 * 0.01 / math.sqrt(n)
    assert abs(float(weight.var()) / 1e-4 - 1) < 4.5 * math.sqrt(2 / n)


@pytest.mark.parametrize("dropped", ["bias_hh", "bias_ih"])
@pytest.mark.parametrize("variant", ["reference", "hard"])
def test_a_cell_without_one_of_its_biases(dropped: str, variant: str) -> None:
    """h' = z h + (1 - z) n, n = tanh(W x + b_ih + r (U h + b_hh)), one bias being zero."""
    torch.manual_seed(0)
    cell = NoisyGRUCell(3, 4, variant=variant, dtype=torch.float64)
    before = sum(p.numel() for p in cell.parameters())
    drop_bias(cell, dropped)
    assert before - sum(p.numel() for p in cell.parameters()) == 12
    kept: Any = cell.bias_hh if dropped == "bias_ih" else cell.bias_ih
    x, h = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    share, own = x @ cell.weight_ih.T, h @ cell.weight_hh.T
    share, own = (share + kept, own) if dropped == "bias_hh" else (share, own + kept)
    if variant == "reference":
        tanh, gate = torch.tanh, torch.sigmoid
    else:
        tanh, gate = lambda t: t.clamp(-1, 1), lambda t: (0.25 * t + 0.5).clamp(0, 1)
    r, z = gate(share[:, :4] + own[:, :4]), gate(share[:, 4:8] + own[:, 4:8])
    expected = z * h + (1 - z) * tanh(share[:, 8:] + r * own[:, 8:])
    torch.testing.assert_close(cell(x, h), expected)
    cell(x, h).sum().backward()
    assert kept.grad is not None and getattr(cell, dropped).grad is None
    assert torch.equal(getattr(cell, dropped), torch.zeros(12, dtype=torch.float64))


@pytest.mark.parametrize("variant", ["reference", "nah"])
def test_a_layer_exchanges_weights_with_torch_s(variant: str) -> None:
    ours, theirs = NoisyGRU(3, 4, variant=variant).eval(), nn.GRU(3, 4)
    drop_bias(ours, "bias_hh_l0")
    with torch.no_grad():
        theirs.bias_hh_l0.zero_()
    ours.load_state_dict(theirs.state_dict())
    assert "bias_hh_l0" in ours.state_dict()
    assert "bias_hh_l0" not in dict(ours.named_parameters())
    x = torch.randn(5, 2, 3)
    if variant == "reference":
        torch.testing.assert_close(ours(x)[0], theirs(x)[0])
        torch.testing.assert_close(ours.double()(x.double())[0], theirs.double()(x.double())[0])
    else:
        auto = ours(x)[0]
        ours.backend = "eager"
        torch.testing.assert_close(ours(x)[0], auto)
    optimizer = torch.optim.SGD(ours.parameters(), 1.0)
    ours(x.to(ours.weight_ih_l0.dtype))[0].sum().backward()
    optimizer.step()
    assert float(ours.bias_hh_l0.abs().max()) == 0.0 and float(ours.weight_ih_l0.grad.norm()) > 0


def test_a_name_that_is_no_parameter() -> None:
    with pytest.raises(ValueError, match=r"Linear has no parameter 'bais'; its own are: weight, b"):
        drop_bias(nn.Linear(2, 3), "bais")
    layer = nn.Linear(2, 3)
    drop_bias(layer, "bias")
    with pytest.raises(ValueError, match="no parameter 'bias'"):
        drop_bias(layer, "bias")
