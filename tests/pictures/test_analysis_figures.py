"""Figures 5, 6 and 7: the drawn numbers against autograd and closed forms, files that stay."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from noisyexp.activations import make_activation
from noisyexp.activations.functional import KINDS
from noisyexp.errors import RecordError
from noisyexp.pictures.analysis_figures import (
    FIGURE_5,
    LearnedUnits,
    learned_units,
    output_noise_slope,
    plot_learned_units,
    plot_noise_sides,
)
from noisyexp.records.record_files import load_record
from noisyexp.records.run_record import RunRecord


@pytest.mark.parametrize("kind", ["tanh", "sigmoid"])
@pytest.mark.parametrize("variant", ["nan", "nah"])
@pytest.mark.parametrize("alpha", [0.9, 1.0, 1.15])
def test_slope_equals_autograd(kind: str, variant: str, alpha: float) -> None:
    """float64, 1e-6, both sides, and by finite differences."""
    x = torch.linspace(-6, 6, 4001, dtype=torch.float64).view(-1, 1).repeat(1, 4)
    xi = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    unit = make_activation(kind, variant, 4, alpha=alpha, c=1.0).double()
    assert unit.p is not None
    with torch.no_grad():
        unit.p.copy_(torch.tensor([-1.0, 0.0, 0.3, 2.5]))
    points = x.clone().requires_grad_()
    (autograd,) = torch.autograd.grad(unit(points, xi).sum(), points)
    p, eps = unit.p.detach(), xi.abs() if variant == "nah" else xi
    found = output_noise_slope(x, eps, p, KINDS[kind], alpha=alpha, c=1.0)
    edge = x.abs() == unit.kind.threshold
    assert float((found - autograd)[~edge].abs().max()) < 1e-6
    near = (x.abs() - unit.kind.threshold).abs() < 1e-5
    with torch.no_grad():
        difference = (unit(x + 1e-6, xi) - unit(x - 1e-6, xi)) / 2e-6
    assert float((found - difference)[~near].abs().max()) < 1e-6


def test_largest_slope() -> None:
    """|sigma'| of tanh is at most 0.0962 c |p|, at |p Delta| = 1.317 (the spec's check)."""
    delta = torch.linspace(0, 10, 100_001, dtype=torch.float64)[1:]
    p = torch.tensor(2.0, dtype=torch.float64)
    slopes = output_noise_slope(1 + delta, torch.ones_like(delta), p, KINDS["tanh"], alpha=1, c=0.5)
    place = int(slopes.abs().argmax())
    assert float(slopes[place].abs()) == pytest.approx(0.0962 * 0.5 * 2, abs=5e-5)
    assert 2 * float(delta[place]) == pytest.approx(1.317, abs=5e-4)


def findings(points: int = 60, units: int = 8) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    x = 3 * torch.randn(3, units, points, generator=generator)
    before = 2 * torch.rand(3, units, generator=generator) - 1
    return {
        "p_before": before.tolist(),
        "p_after": (1.5 * before).tolist(),
        "pre_activations": x.tolist(),
    }


def config(variant: str, seed: int = 0, alpha: float = 1.0) -> dict[str, Any]:
    return {
        "task": {"name": "mixture"},
        "act": {
            "variant": variant, "label": variant.upper(), "alpha": 0.0, "c": 0.0,
            "tanh": {"alpha": alpha, "c": 1.0},
        },
        "scale": "paper",
        "seed": seed,
    }  # fmt: skip


def both() -> tuple[LearnedUnits, LearnedUnits]:
    return learned_units(findings(), config("nan")), learned_units(findings(), config("nah"))


def test_what_figure_6_shows() -> None:
    """1 inside, everywhere within 0.0962 c |p xi| outside, both signs."""
    units, _ = both()
    slopes, inside = units.slopes(), units.x.abs() <= 1
    assert bool((slopes[inside] == 1).all())
    bound = 0.09623 * (units.p_after.unsqueeze(-1) * units.xi).abs()
    assert bool((slopes.abs() <= bound)[~inside].all())
    assert 0.3 < float((slopes[~inside] > 0).double().mean()) < 0.7


def test_what_figure_7_shows() -> None:
    """The identity inside; outside never beyond 1, on the input's side, by Algorithm 1."""
    _, units = both()
    values, inside = units.values(), units.x.abs() <= 1
    assert torch.equal(values[inside], units.x[inside])
    assert float(values.abs().max()) <= 1
    layer, unit, point = (int(k) for k in (~inside).nonzero()[5])
    x, p, xi = (float(t) for t in (
        units.x[layer, unit, point], units.p_after[layer, unit], units.xi[layer, unit, point]
    ))  # fmt: skip
    excess = math.copysign(1, x) - x
    sigma = (1 / (1 + math.exp(-p * excess)) - 0.5) ** 2
    by_hand = math.copysign(1, x) * (1 - sigma * abs(xi))
    assert float(values[layer, unit, point]) == pytest.approx(by_hand, abs=1e-12)


def test_settings_come_from_the_tanh_units() -> None:
    units = learned_units(findings(), config("nah", alpha=1.15))
    assert (units.alpha, units.c, units.title) == (1.15, 1.0, "mixture, NAH, scale paper, seed 0")
    with pytest.raises(RecordError, match="a run of hard has none"):
        learned_units(findings(), config("hard"))
    with pytest.raises(RecordError, match="a run of nan has none"):
        learned_units({}, config("nan"))


def test_figures_of_the_mixture(tmp_path: Path, check_same_drawing: Any) -> None:
    runs = [({}, config("reference"))]
    runs += [
        (findings(20, 2), config(variant, seed)) for variant in ("nah", "nan") for seed in (1, 0)
    ]
    kinds = {"fig6": "unit_slopes", "fig6-p": "p_histograms", "fig7": "unit_values"}
    for name, kind in kinds.items():
        assert plot_learned_units(runs, kind, tmp_path / "a" / name)
        assert plot_learned_units(runs[::-1], kind, tmp_path / "b" / name)
    drawn = [tmp_path / "a" / f"{name}{end}" for name in kinds for end in (".svg", ".png")]
    for one in drawn:
        if one.suffix == ".svg":
            check_same_drawing(one, tmp_path / "b" / one.name)
        else:
            assert one.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "seed 0" in drawn[0].read_text()  # the lowest of both
    assert "12 units, 2 networks" in drawn[2].read_text()
    assert not any(plot_learned_units(runs[:1], kind, tmp_path / "c") for kind in kinds.values())


def records(make_record: Any, **fields: Any) -> list[RunRecord]:
    """Two seeds of five series; train_nll of seed s after epoch e is 1 / (e + s)."""
    info = {"unit": "nats", "direction": "min"}
    metrics = {name: {**info, "label": name} for name in FIGURE_5}
    made = []
    for name, act in (
        ("nani", "nani"), ("nan_alpha115", "nan_normal"), ("nan_normal", "nan_normal"),
        ("hard", "hard"), ("reference", "reference"),
    ):  # fmt: skip
        for seed in (0, 1):
            curve = [
                {"epoch": e, "step": e, **{m: 1 / (e + seed) for m in FIGURE_5}} for e in (1, 2, 5)
            ]
            path = make_record(
                task="mnist", act=act, seed=seed, experiment=f"fig5/{name}", curve=curve,
                metrics=metrics, **fields,
            )  # fmt: skip
            made.append(load_record(path))
    return made


def test_figure_5(make_record: Any, tmp_path: Path, check_same_drawing: Any) -> None:
    runs = records(make_record)
    svg, png = plot_noise_sides(runs, tmp_path / "a" / "fig5-paper")
    assert (svg.name, png.name) == ("fig5-paper.svg", "fig5-paper.png")
    check_same_drawing(svg, plot_noise_sides(runs[::-1], tmp_path / "b" / "x")[0])
    text = svg.read_text()
    assert text.count("row nan_alpha115") == 1 and "noise at the input" in text
    with pytest.raises(RecordError, match="complete runs of one task"):
        plot_noise_sides([*runs, *records(make_record, scale="cpu")], tmp_path / "x")
    with pytest.raises(RecordError, match="complete runs"):
        plot_noise_sides(records(make_record, status="diverged"), tmp_path / "x")
