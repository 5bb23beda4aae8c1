"""Learning curves: the drawn numbers, and files that do not change from run to run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from noisyexp.errors import RecordError
from noisyexp.pictures.catalogue import MOST_LINES
from noisyexp.pictures.curves import (
    ACT_ORDER,
    LINE_STYLES,
    MARKERS,
    PALETTE,
    _styles,
    curve_band,
    line_name,
    plot_curves,
    plot_panels,
)
from noisyexp.records.record_files import load_record
from noisyexp.records.run_record import RunRecord


def _records(make_record: Any) -> list[RunRecord]:
    curves = {
        ("nah", 0): [10.0, 6.0, 4.0],
        ("nah", 1): [12.0, 8.0],
        ("reference", 0): [11.0, 9.0, 8.0],
    }
    return [
        load_record(
            make_record(
                act=act, seed=seed,
                curve=[{"epoch": e + 1, "valid_ppl": v} for e, v in enumerate(values)],
            )
        )
        for (act, seed), values in curves.items()
    ]  # fmt: skip


def test_band_is_over_common_points(make_record: Any) -> None:
    nah = [record for record in _records(make_record) if record.act == "nah"]
    positions, mean, low, high = curve_band(nah, "valid_ppl", "epoch")
    assert positions == [1.0, 2.0]
    assert (mean, low, high) == ([11.0, 7.0], [10.0, 6.0], [12.0, 8.0])


def test_band_skips_points_without_a_value(make_record: Any) -> None:
    curve = [{"epoch": 1, "valid_ppl": None}, {"epoch": 2}, {"epoch": 3, "valid_ppl": 5.0}]
    record = load_record(make_record(curve=curve))
    assert curve_band([record], "valid_ppl", "epoch")[:2] == ([3.0], [5.0])
    assert curve_band([], "valid_ppl", "epoch") == ([], [], [], [])


def test_files_are_written_and_the_svg_is_deterministic(
    make_record: Any, tmp_path: Path, check_same_drawing: Any
) -> None:
    records = _records(make_record)
    first = plot_curves(records, "valid_ppl", tmp_path / "a" / "curves", {"nah": 3.5})
    second = plot_curves(records, "valid_ppl", tmp_path / "b" / "curves.png", {"nah": 3.5})
    assert [path.name for path in first] == ["curves.svg", "curves.png"]
    check_same_drawing(first[0], second[0])
    assert first[1].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    svg = first[0].read_text()
    assert "<dc:date>" not in svg
    assert PALETTE[0].lower() in svg and PALETTE[3].lower() in svg


def test_runs_of_different_kinds_are_not_drawn_together(make_record: Any, tmp_path: Path) -> None:
    records = [load_record(make_record(scale=scale)) for scale in ("paper", "cpu")]
    with pytest.raises(RecordError, match="one task, scale and data set"):
        plot_curves(records, "valid_ppl", tmp_path / "x")


def test_nothing_to_draw(make_record: Any, tmp_path: Path) -> None:
    for records in ([], _records(make_record)):
        with pytest.raises(RecordError, match="nothing to draw"):
            plot_curves(records, "absent", tmp_path / "x")


def test_rows_of_one_activation_have_lines_of_their_own(make_record: Any, tmp_path: Path) -> None:
    """One colour and one dash, as of one unit; two markers, two entries in the legend."""
    curve = [{"epoch": e, "valid_ppl": 9.0 - e} for e in (1, 2)]
    records = [
        load_record(make_record(act="nah", experiment=f"table2/{row}", curve=curve))
        for row in ("nah", "nah_released")
    ]
    assert [line_name(record) for record in records] == ["nah", "nah_released"]
    styles = _styles({"nah": "nah", "nah_released": "nah", "mine": "my.Unit"})
    assert styles["nah"].colour == styles["nah_released"].colour == PALETTE[3]
    assert styles["nah"].dash == styles["nah_released"].dash != styles["mine"].dash
    assert styles["mine"].colour != PALETTE[3]
    assert len({style.marker for style in styles.values()}) == 3
    svg, _ = plot_curves(records, "valid_ppl", tmp_path / "x")
    assert svg.read_text().count("row nah_released") == 1
    ends = {"nah": 112.6, "nah_released": 112.6}  # one row of the paper in two settings
    svg, _ = plot_curves(records, "valid_ppl", tmp_path / "x", ends)
    assert svg.read_text().count("paper's end point -->") == 1


def test_styles_are_distinct() -> None:
    assert len(set(PALETTE)) == len(PALETTE) == len({str(style) for style in LINE_STYLES})
    assert len(set(MARKERS)) == len(MARKERS) > MOST_LINES


def test_a_dash_means_one_unit_in_every_figure() -> None:
    """Whatever else is drawn beside it."""
    alone = {act: _styles({act: act})[act].dash for act in ACT_ORDER}
    assert len({str(dash) for dash in alone.values()}) == len(ACT_ORDER)
    together = _styles({f"{act}{n}": act for act in reversed(ACT_ORDER) for n in (1, 2)})
    assert all(style.dash == alone[name[:-1]] for name, style in together.items())


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn, instead of files."""
    drawn: list[Any] = []

    def keep(figure: Any, path: Path) -> tuple[Path, Path]:
        figure.draw_without_rendering()
        drawn.append(figure)
        return path, path

    monkeypatch.setattr("noisyexp.pictures.curves.save_figure", keep)
    return drawn


def test_lines_that_coincide_can_be_told_apart(
    make_record: Any, tmp_path: Path, figures: list[Any]
) -> None:
    """Each has a marker where the others have none; a schedule that they share is drawn twice."""
    curve = [{"epoch": e, "valid_ppl": 100.0 / e, "c": 30.0 / e} for e in range(1, 21)]
    acts = ("hard", "nan_normal", "nani", "nanis")
    records = [
        load_record(make_record(act=act, experiment=f"table9/{act}", curve=curve)) for act in acts
    ]
    plot_curves(records, ("valid_ppl", "c"), tmp_path / "x")
    for axes in figures[0].axes:
        marked: list[int] = []
        heights = set()
        for line in axes.lines:
            first, stride = line.get_markevery()
            marked += range(first, 20, stride) if line.get_marker() else []
            heights.add(round(float(line.get_transform().transform((10.0, 3.0))[1]), 3))
        assert len(marked) == len(set(marked)) >= 2 * (len(acts) - 1)
        assert len(heights) == len(acts)


@pytest.mark.parametrize("letter", ["i", "x"])
def test_a_legend_and_the_words_of_levels_are_within_the_picture(
    make_record: Any, tmp_path: Path, figures: list[Any], letter: str
) -> None:
    curve = [{"epoch": e, "valid_ppl": 9.0 - e} for e in (1, 2, 3)]
    records = [
        load_record(make_record(act="nah", experiment=f"table2/{row}", curve=curve))
        for row in ("nah", "other", "third")
    ]
    words = " ".join([letter * 7] * 14)
    plot_curves(
        records, "valid_ppl", tmp_path / "x", labels=dict.fromkeys(("nah", "other"), words),
        levels={"valid_ppl": {"smooth counting, a = 0.25": 8.0, "chance": 6.0}},
    )  # fmt: skip
    (figure,) = figures
    (legend,) = figure.legends
    boxes = [legend.get_window_extent(), *(t.get_window_extent() for t in figure.axes[0].texts)]
    width = figure.bbox.width
    outside = [box for box in boxes if box.x0 < 0 or box.x1 > width or box.y0 < 0]
    assert len(boxes) == 3 and not outside
    axes = figure.axes[0].get_window_extent()
    assert all(box.x0 > axes.x1 for box in boxes[1:])


def test_panels_and_levels(make_record: Any, tmp_path: Path) -> None:
    """A panel for c below, none for a level that no run has; a line with its value."""
    curve = [{"epoch": e, "valid_ppl": 9.0 - e, "c": 30.0 / e} for e in (1, 2)]
    records = [load_record(make_record(act="nah", curve=curve))]
    svg, _ = plot_curves(
        records, ("valid_ppl", "c", "level"), tmp_path / "x",
        levels={"valid_ppl": {"chance": 7.25}},
    )  # fmt: skip
    text = svg.read_text()
    assert "<!-- c (noise) -->" in text and "<!-- chance, 7.25 -->" in text
    assert "curriculum level" not in text and text.count('id="axes_') == 2
    with pytest.raises(RecordError, match="nothing to draw"):
        plot_curves(records, ("absent", "c"), tmp_path / "x")


def test_matrices_are_drawn_one_above_the_other(tmp_path: Path) -> None:
    panels = [("first", np.eye(3), "columns", "rows"), ("second", np.ones((2, 5)), "time", "bits")]
    svg, png = plot_panels(panels, tmp_path / "look")
    text = svg.read_text()
    assert all(f"<!-- {word} -->" in text for word in ("first", "second", "time", "bits"))
    assert text.count("<image") >= 2 and png.stat().st_size > 1000


def test_panels_whose_rows_mean_the_same_share_a_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scales = []
    drawn = Axes.imshow

    def imshow(self: Axes, *values: Any, **settings: Any) -> Any:
        scales.append((settings["vmin"], settings["vmax"]))
        return drawn(self, *values, **settings)

    monkeypatch.setattr(Axes, "imshow", imshow)
    half, two = np.full((2, 3), 0.5), np.full((2, 3), 2.0)
    panels = [("a", half, "x", "location"), ("b", two, "x", "location"), ("c", -half, "x", "bit")]
    plot_panels(panels, tmp_path / "x")
    assert scales == [(0.0, 2.0), (0.0, 2.0), (-0.5, -0.5)]


def test_single_runs_are_drawn_apart(make_record: Any, tmp_path: Path) -> None:
    """Two runs of one unit: two lines and one entry in the legend, and no band."""
    records = [record for record in _records(make_record) if record.act == "nah"]
    svg, _ = plot_curves(records, "valid_ppl", tmp_path / "x", seeds=True)
    text = svg.read_text()
    assert text.count("<!-- NAH (2 seeds) -->") + text.count("<!-- nah (2 seeds) -->") == 1
    assert "FillBetweenPolyCollection" not in text
    band, _ = plot_curves(records, "valid_ppl", tmp_path / "y")
    assert "FillBetweenPolyCollection" in band.read_text()


def test_a_steep_beginning_is_cut_off(make_record: Any, tmp_path: Path) -> None:
    """Ticks end at the top, unless all is above it or another metric is meant."""
    curve = [{"epoch": e, "valid_ppl": v} for e, v in ((1, 900.0), (2, 20.0), (3, 10.0))]
    records = [load_record(make_record(act="nah", curve=curve))]

    def highest(top: float, metric: str = "valid_ppl") -> float:
        svg, _ = plot_curves(records, "valid_ppl", tmp_path / "x", tops={metric: top})
        return max(map(float, re.findall(r"<!-- ([\d.]+) -->", svg.read_text())))

    assert 20 < highest(30.0) <= 30
    assert highest(5.0) >= 800 and highest(30.0, "train_ppl") >= 800


@pytest.mark.parametrize(
    ("c", "words"), [((0.5, 0.0, None), "NAH"), ((0.5, 0.0, 0.0), "NAH, c = 0")]
)
def test_a_unit_whose_noise_is_off_says_so(
    c: tuple[float | None, ...], words: str, make_record: Any, tmp_path: Path
) -> None:
    """The scale of a kind of unit is its own, else the one of all."""
    both, tanh, sigmoid = c
    act = {"label": "NAH", "c": both, "tanh": {"c": tanh}, "sigmoid": {"c": sigmoid}}
    curve = [{"epoch": e, "valid_ppl": 9.0 - e} for e in (1, 2)]
    records = [load_record(make_record(act="nah", config={"act": act}, curve=curve))]
    svg, _ = plot_curves(records, "valid_ppl", tmp_path / "x")
    assert f"<!-- {words} (1 seed) -->" in svg.read_text()
