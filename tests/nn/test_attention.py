"""Additive attention against a plain loop over rows and positions, with masks and padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from noisyexp.activations import ActivationSpec, NoiseSource, attach_noise
from noisyexp.nn.attention import AdditiveAttention

B, S, Q, A, D = 4, 6, 5, 7, 3
HARD = lambda x: np.clip(x, -1.0, 1.0)  # noqa: E731
UNITS: dict[str, Any] = {"reference": np.tanh, "hard": HARD, "nani": HARD}


def make(variant: str = "reference", **settings: Any) -> AdditiveAttention:
    torch.manual_seed(5)
    return AdditiveAttention(Q, A, ActivationSpec(variant, settings)).double()


def inputs(positions: int = S) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    query, keys, annotations = (
        torch.randn(shape, generator=generator, dtype=torch.float64) * 2
        for shape in ((B, Q), (B, positions, A), (B, positions, D))
    )
    lengths = torch.tensor([positions, 1, 3, 4])
    return query, keys, annotations, torch.arange(positions) < lengths[:, None]


@pytest.mark.parametrize("variant", list(UNITS))
@pytest.mark.parametrize("masked", [True, False])
def test_a_plain_loop(variant: str, masked: bool) -> None:
    attention = make(variant).eval()
    query, keys, annotations, mask = inputs()
    context, weights = attention(query, keys, annotations, mask if masked else None)
    w, v, b = (t.detach().numpy() for t in attention.parameters())
    for row in range(B):
        real = [i for i in range(S) if not masked or mask[row, i]]
        scores = [
            float(v[0] @ UNITS[variant](w @ query[row].numpy() + keys[row, i].numpy()) + b[0])
            for i in real
        ]
        powers = np.exp(np.array(scores) - max(scores))
        expected = np.zeros(S)
        expected[real] = powers / powers.sum()
        np.testing.assert_allclose(weights[row].detach(), expected, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(
            context[row].detach(), expected @ annotations[row].numpy(), rtol=1e-11
        )
    assert torch.equal(weights, attention.weights(query, keys, mask if masked else None))


def test_masked_positions_have_no_weight_and_no_gradient() -> None:
    query, keys, annotations, mask = inputs()
    for tensor in (keys, annotations):
        tensor.requires_grad_()
    context, weights = make("nah", c=2.0)(query, keys, annotations, mask)
    assert bool((weights[~mask] == 0).all()) and bool((weights[mask] > 0).all())
    torch.testing.assert_close(weights.sum(1), torch.ones(B, dtype=torch.float64))
    context.square().sum().backward()
    for gradient in (keys.grad, annotations.grad):
        assert gradient is not None
        assert bool((gradient[~mask] == 0).all()) and bool((gradient[mask] != 0).any())


@pytest.mark.parametrize("variant", ["reference", "nah", "nani"])
@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_padding_changes_nothing_noise_included(variant: str, backend: str) -> None:
    """A real position draws the same noise however many padded ones stand behind it."""
    attention, source = make(variant, c=2.0), NoiseSource(3)
    attach_noise(attention, source)
    attention.unit.backend = backend
    query, keys, annotations, mask = inputs()
    pad = torch.nn.functional.pad
    found = []
    for extra in (0, 5):
        source.set_step(7)
        found.append(
            attention(
                query,
                pad(keys, (0, 0, 0, extra), value=9.0),
                pad(annotations, (0, 0, 0, extra), value=9.0),
                pad(mask, (0, extra)),
            )
        )
    (context, weights), (padded_context, padded) = found
    torch.testing.assert_close(padded_context, context, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(padded[:, :S], weights, rtol=1e-12, atol=1e-14)
    assert bool((padded[:, S:] == 0).all())


@pytest.mark.parametrize("variant", ["reference", "nah"])
def test_without_v_the_weights_are_uniform(variant: str) -> None:
    attention = make(variant)
    torch.nn.init.zeros_(attention.v.weight)
    query, keys, annotations, mask = inputs()
    context, weights = attention(query, keys, annotations, mask)
    lengths = mask.sum(1, keepdim=True)
    torch.testing.assert_close(weights, mask / lengths.double(), rtol=1e-15, atol=0)
    for row in range(B):
        mean = annotations[row, : int(lengths[row])].mean(0)
        torch.testing.assert_close(context[row], mean)


def test_the_score_s_bias_shifts_all_scores_alike() -> None:
    attention, (query, keys, annotations, mask) = make("hard"), inputs()
    before = attention(query, keys, annotations, mask)[0]
    with torch.no_grad():
        attention.v.bias += 3.0
    torch.testing.assert_close(attention(query, keys, annotations, mask)[0], before)


def test_parameters_and_what_the_unit_leaves_alone() -> None:
    """Names, sizes, and one seed giving all variants the same weights."""
    reference, noisy = make(), make("nah")
    assert {n: tuple(p.shape) for n, p in noisy.named_parameters()} == {
        "query.weight": (A, Q), "v.weight": (1, A), "v.bias": (1,), "unit.p": (A,),
    }  # fmt: skip
    for name, parameter in reference.named_parameters():
        assert torch.equal(parameter, noisy.get_parameter(name))
    scalar = make("nah", p_shape="scalar")
    assert scalar.unit.p is not None and scalar.unit.p.shape == (1,)


def test_shapes_that_do_not_belong_together() -> None:
    attention, (query, keys, annotations, mask) = make(), inputs()
    with pytest.raises(ValueError, match=r"keys of shape \(4, 6, 6\): expected \(4, positions, 7"):
        attention(query, keys[..., 1:], annotations)
    with pytest.raises(ValueError, match=r"keys of shape \(3, 6, 7\): expected \(4, positions, 7"):
        attention(query, keys[1:], annotations)
    with pytest.raises(ValueError, match=r"mask of shape \(6,\): expected \(4, 6\), as keys"):
        attention(query, keys, annotations, mask[0])
    with pytest.raises(ValueError, match=r"annotations of shape \(4, 5, 3\): expected \(4, 6\)"):
        attention(query, keys, annotations[:, 1:])
