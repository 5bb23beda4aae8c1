"""Figure 2: the objective, its descent and the shares, against hand calculation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import scripts.escape as script
from noisyexp.fileio import read_json
from noisyexp.pictures.escape import (
    ARMS,
    Arm,
    caption_fig2,
    draw_fig2,
    make_unit,
    objective,
    wilson,
)
from scripts.escape import SHOWN, Settings, descend, draw_starts, shares

HARD = Arm("hard", "hard")
SMALL = Settings(starts=40, updates=30, learning_rates=(0.05, 0.1), keep=10)


def bumps(w: float) -> tuple[float, float]:
    """Two triangles of half-width 2, height 1.2 at -3 and 2 at 3: value and slope."""
    for centre, height in ((-3.0, 1.2), (3.0, 2.0)):
        if abs(w - centre) < 2:
            side = math.copysign(1, centre - w)
            return height - height / 2 * abs(w - centre), side * height / 2
    return 0.0, 0.0


def test_objective_without_noise() -> None:
    """Plateaus at 1/2 T^2 = 2, the poor minimum 1/2 0.8^2, the global one 0."""
    w = torch.tensor([-8.0, -4.0, -3.0, 0.0, 2.0, 3.0, 7.0])
    wanted = [0.5 * (bumps(x)[0] - 2) ** 2 for x in w.tolist()]
    assert wanted[::2] == pytest.approx([2, 0.32, 0.5, 2]) and wanted[5] == 0
    assert objective(w, make_unit(HARD, 1.0)).tolist() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("variant", ["nan", "nah", "nani", "reference"])
def test_gradient_agrees_with_finite_differences(variant: str) -> None:
    """For fixed draws, away from the kinks."""
    unit = make_unit(Arm(variant, variant), 1.0, torch.float64)
    unit.c = 0.3 if variant == "nani" else 30.0
    generator = torch.Generator().manual_seed(1)
    w = torch.tensor([-7.1, -3.6, 0.33, 2.2, 6.3], dtype=torch.float64, requires_grad=True)
    xi = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    (slope,) = torch.autograd.grad(objective(w, unit, xi).sum(), w)
    with torch.no_grad():
        above, below = (objective(w + step, unit, xi) for step in (1e-6, -1e-6))
    torch.testing.assert_close(slope, (above - below) / 2e-6, rtol=1e-5, atol=1e-6)


def test_descent_is_plain_gradient_descent() -> None:
    """Without noise: the same steps by hand, with the gradient clipped to 1."""
    last, ways = descend(HARD, SMALL)
    assert last.shape == (2, 40) and ways.shape == (2, 4, len(SHOWN))
    for rate, found in zip(SMALL.learning_rates, ways, strict=True):
        for start, way in zip(SHOWN, found.T.tolist(), strict=True):
            w, kept = start, [start]
            for update in range(SMALL.updates):
                value, slope = bumps(w)
                w -= rate * min(max((value - 2) * slope, -1), 1)
                if update % 10 == 9:
                    kept.append(w)
            assert way == pytest.approx(kept, abs=1e-4)
    # Nothing moves a unit off a plateau, and both arms began at the same places.
    assert ways[0, :, 0].tolist() == [SHOWN[0]] * 4


def test_arms_see_the_same_starts_and_noise() -> None:
    none = Settings(starts=40, updates=0, keep=10)
    firsts = [descend(arm, none)[0] for arm in ARMS]
    assert all(torch.equal(first, firsts[0]) for first in firsts)
    assert float(firsts[0].abs().max()) <= 8 and float(firsts[0].std()) > 3
    again, _ = descend(ARMS[3], SMALL)
    assert torch.equal(again, descend(ARMS[3], SMALL)[0])


def test_annealing_is_the_literal_schedule() -> None:
    """One update at c = 30 is that of the constant arm; 30 / sqrt(2) at the next one is not."""
    constant, annealed = Arm("a", "nan", 30.0, 30.0), Arm("b", "nan", 30.0, 0.5)
    for updates, same in ((1, True), (2, False)):
        short = Settings(starts=40, updates=updates, keep=10)
        ends = [descend(arm, short)[0] for arm in (constant, annealed)]
        assert torch.equal(*ends) == same


def test_shares_by_hand() -> None:
    """Five runs; three began in the poor well, one of those escaped."""
    first = torch.tensor([-4.9, -3.0, -1.1, 0.0, 3.0])
    last = torch.tensor([3.9, -2.5, -3.5, 0.0, 2.5])
    found = shares(first, last)
    assert found["all"]["global"] == 0.4 and found["all"]["starts"] == 5
    assert found["all"]["standard_error"] == pytest.approx((0.4 * 0.6 / 5) ** 0.5, abs=5e-5)
    assert found["from_poor"]["starts"] == 3
    assert found["from_poor"]["global"] == pytest.approx(1 / 3, abs=5e-5)
    assert found["poor"] == 0.4


def test_interval_of_a_share() -> None:
    """Published values of Wilson's interval."""
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-3)
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-3)


def test_record_and_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], check_same_drawing: Any
) -> None:
    path = tmp_path / "escape.json"
    threads = torch.get_num_threads()
    try:
        assert script.main(path, SMALL) == 0
    finally:
        torch.set_num_threads(threads)
    record: dict[str, Any] = read_json(path)
    assert {"command", "code", "settings", "rates", "ways"} <= record.keys()
    assert len(record["rates"]) == len(ARMS) * 2 and set(record["code"]) == {"commit", "dirty"}
    assert record["settings"]["weights"] == [0.6, -0.6, 1.0, -1.0]
    assert capsys.readouterr().out.count("global minimum") == len(ARMS) * 2
    svg, png = draw_fig2(record, tmp_path / "a")
    check_same_drawing(svg, draw_fig2(record, tmp_path / "b")[0])
    assert png.stat().st_size > 10_000
    assert "<!-- 40 starts everywhere -->" in svg.read_text()
    hard = [r["all"]["global"] for r in record["rates"] if r["label"] == "hard-tanh"]
    assert f"hard-tanh: {hard[0]:.2f} / {hard[1]:.2f}; " in caption_fig2(record)
    assert "drawing without data" in caption_fig2(record)


def test_strong_noise_escapes_and_none_does_not() -> None:
    """What the figure shows, at a tenth of its size."""
    short = Settings(starts=100, updates=600, learning_rates=(0.1,), keep=600)
    first = draw_starts(short, torch.Generator().manual_seed(short.seed))
    escaped = {
        arm.label: shares(first, descend(arm, short)[0][0])["from_poor"]["global"]
        for arm in ARMS
        if arm.label in ("tanh", "hard-tanh", "NAN, c = 30")
    }
    assert escaped["hard-tanh"] == escaped["tanh"] == 0
    assert escaped["NAN, c = 30"] > 0.5
