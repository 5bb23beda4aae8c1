"""Numbers of the figure of the units' inputs, against sums by hand."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from noisyexp.errors import RecordError
from noisyexp.pictures import mechanism as M
from noisyexp.pictures.catalogue import MECHANISM, draw_figure, figure_names
from noisyexp.places import CHECKOUT

UNITS = [f"l{layer}.{unit}" for layer in (0, 1) for unit in "ifgoc"]


def unit(value: float, histogram: list[int]) -> dict[str, Any]:
    return {
        "histogram": histogram, "beyond_percent": value, "gradient_beyond_percent": value / 2,
        "mean_absolute": value / 10,
    }  # fmt: skip


@pytest.fixture
def measured() -> dict[str, Any]:
    """Unit number k of `UNITS` has 10 k + epoch percent, and k inputs in bin 1, 2 in bin 2."""
    return {
        "seed": 3, "windows": 10, "bins": {"edge": 2.0, "count": 4},
        "snapshots": [
            {"epoch": epoch,
             "units": {name: unit(10 * k + epoch, [7, k, 2, 0]) for k, name in enumerate(UNITS)}}
            for epoch in (0, 4)
        ],
    }  # fmt: skip


def test_means_are_over_the_units_of_a_place_in_all_layers(measured: dict[str, Any]) -> None:
    # Gates are numbers 0, 1, 3 and 5, 6, 8; candidates 2 and 7; cells 4 and 9.
    gates = 10 * (0 + 1 + 3 + 5 + 6 + 8) / 6
    assert M.mean_over_epochs(measured, "gates", "beyond_percent") == pytest.approx(
        [gates, gates + 4]
    )
    assert M.mean_over_epochs(measured, "candidate", "beyond_percent") == [45.0, 49.0]
    assert M.mean_over_epochs(measured, "cell output", "mean_absolute") == [6.5, 6.9]


def test_a_density_is_a_share_of_all_inputs_by_width(measured: dict[str, Any]) -> None:
    """Two cells: 2 * 7 in the first bin, 4 + 9 in the second, 2 * 2 in the third; 31 in all."""
    middles, found = M.density(measured, "cell output")
    assert middles == [-0.5, 0.5]
    assert found == pytest.approx([13 / 31, 4 / 31])


def test_the_caption_has_the_last_numbers(measured: dict[str, Any]) -> None:
    text = M.caption_mechanism({"hard": measured}, {"hard": "Hard units"})
    assert "seed 3: before the first update and after epochs 4, on 4,000 words" in text
    assert text.endswith(
        "Hard units: 42.3 / 49.0 / 69.0 % beyond, 21.2 / 24.5 / 34.5 % of the gradient there, "
        "4.23 / 4.90 / 6.90 mean size."
    )


def test_measurements_of_several_seeds_are_not_drawn_together(
    measured: dict[str, Any], tmp_path: Path
) -> None:
    assert M.load_mechanism(tmp_path) == {}
    (tmp_path / "hard.json").write_text(json.dumps(measured))
    other = {**copy.deepcopy(measured), "seed": 4}
    (tmp_path / "leak.json").write_text(json.dumps(other))
    with pytest.raises(RecordError, match="measurements of several seeds"):
        M.load_mechanism(tmp_path)
    (tmp_path / "leak.json").write_text(json.dumps(measured))
    assert list(M.load_mechanism(tmp_path)) == ["hard", "leak"]


def test_every_row_has_its_line(measured: dict[str, Any], tmp_path: Path) -> None:
    pair = {"hard": measured, "leak": measured}
    svg, png = M.draw_mechanism(pair, {"hard": "Hard units"}, tmp_path / "figure")
    said = svg.read_text()  # letters are drawn, and named in comments
    assert png.stat().st_size > 1000
    for word in ("gates", "candidate", "cell output", "Hard units", "leak", "density"):
        assert f"<!-- {word} -->" in said


def test_it_is_a_figure_of_the_catalogue(tmp_path: Path) -> None:
    assert MECHANISM in figure_names(CHECKOUT)
    assert draw_figure(MECHANISM, tmp_path) == []
