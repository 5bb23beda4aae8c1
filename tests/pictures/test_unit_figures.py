"""Figures 1, 3 and 4: the plotted numbers against closed forms, the files against themselves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from noisyexp.pictures.unit_figures import ALPHAS, UNIT_FIGURES, derivative, fan, sketch


def _x(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def sigma(excess: float, c: float) -> float:
    return c * (1 / (1 + math.exp(-excess)) - 0.5) ** 2


def test_soft_derivatives() -> None:
    """s(1 - s) and 1 - tanh^2, with peaks 0.25 and 1."""
    places = (-4.0, -1.0, 0.0, 0.5, 2.0)
    logistic = [1 / (1 + math.exp(-x)) for x in places]
    found = derivative(_x(*places), "sigmoid", "reference").tolist()
    assert found == pytest.approx([s * (1 - s) for s in logistic], abs=1e-12) and found[2] == 0.25
    found = derivative(_x(*places), "tanh", "reference").tolist()
    assert found == pytest.approx([1 - math.tanh(x) ** 2 for x in places], abs=1e-12)
    assert found[2] == 1.0


@pytest.mark.parametrize(("kind", "edge", "slope"), [("tanh", 1.0, 1.0), ("sigmoid", 2.0, 0.25)])
def test_hard_derivatives_are_steps(kind: str, edge: float, slope: float) -> None:
    near = 1e-4
    places = _x(-6, -edge - near, -edge, -edge + near, 0, edge - near, edge, edge + near, 6)
    found = derivative(places, kind, "hard").tolist()
    assert found[:2] + found[3:6] + found[7:] == [0, 0, slope, slope, slope, 0, 0]
    assert math.isnan(found[2]) and math.isnan(found[6])


def test_sketch() -> None:
    """Sigma at c = 1 is 0.053 at x = 2 and 0.145 at x = 3; inside nothing is noisy."""
    found = sketch(_x(-3, -1, 0.5, 2, 3), c=1.0)
    assert found.u.tolist() == [-3, -1, 0.5, 2, 3]
    assert found.h.tolist() == found.mean.tolist() == [-1, -1, 0.5, 1, 1]
    wanted = [sigma(2, 1), 0, 0, sigma(1, 1), sigma(2, 1)]
    assert found.sigma.tolist() == pytest.approx(wanted, abs=1e-15)
    assert found.sigma[3:].tolist() == pytest.approx([0.053, 0.145], abs=5e-4)
    shown = sketch(_x(2)).sigma.item()
    assert shown == pytest.approx(4 * sigma(1, 1))


@pytest.mark.parametrize(
    ("alpha", "means"), [(0.9, (1.1, 1.3, 1.5)), (1.0, (1, 1, 1)), (1.1, (0.9, 0.7, 0.5))]
)
def test_fans(alpha: float, means: tuple[float, ...]) -> None:
    """Means and standard deviations that the specification gives at |x| = 2, 4, 6, c = 0.5."""
    n = 40_000
    for x, mean, std in zip((2.0, 4.0, 6.0), means, (0.027, 0.102, 0.122), strict=True):
        for side in (1, -1):
            generator = torch.Generator().manual_seed(3)
            found = fan(torch.full((n,), side * x, dtype=torch.float64), alpha, 0.5, generator)
            exact = sigma(x - 1, 0.5)
            assert exact == pytest.approx(std, abs=6e-4)
            assert found.std().item() == pytest.approx(exact, rel=0.02)
            assert found.mean().item() == pytest.approx(side * mean, abs=5 * exact / n**0.5)


def test_nothing_is_noisy_inside() -> None:
    x = torch.linspace(-1, 1, 11, dtype=torch.float64)
    for alpha in ALPHAS:
        generator = torch.Generator().manual_seed(0)
        torch.testing.assert_close(fan(x, alpha, 1.0, generator), x, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fig1", ("hard-sigmoid", "hard-tanh", "input x")),
        ("fig3", ("hard-tanh h", "linearisation u")),
        ("fig4", ("c = 0.5", "c = 1", "hard-tanh h")),
    ],
)
def test_files(name: str, words: tuple[str, ...], tmp_path: Path, check_same_drawing: Any) -> None:
    draw, caption = UNIT_FIGURES[name]
    first, png = draw(tmp_path / "a" / name)
    check_same_drawing(first, draw(tmp_path / "b" / f"{name}.png")[0])
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    text = first.read_text()
    assert all(f"<!-- {word} -->" in text for word in words)
    assert len(text) < 400_000
    assert "Inferred:" in caption()


def test_the_caption_of_the_sketch_says_what_is_exaggerated() -> None:
    text = UNIT_FIGURES["fig3"][1]()
    assert "c = 4, sigma = 0.214 at x = 2 and 0.580 at x = 3" in text
    assert "c = 1 would give 0.053 and 0.145" in text
