"""Pictures of attention: what lies where in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from noisyexp.pictures import attention
from noisyexp.pictures.attention import draw_caption_maps, plot_alignment

SOURCE, TARGET = ["the", "cat", "$x$", "<eos>"], ["le", "chat", "<eos>"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The axes of the pictures that are made, which are not written."""
    seen: list[Any] = []

    def keep(figure: Any, path: Path) -> tuple[Path, Path]:
        seen.extend(figure.axes)
        return path, path

    monkeypatch.setattr(attention, "save_figure", keep)
    return seen


def labels(texts: Sequence[Any]) -> list[str]:
    return [text.get_text() for text in texts]


def test_a_row_is_a_target_word_and_a_column_a_source_word(drawn: list[Axes]) -> None:
    """Weights that look at padding, and at a step after the end, are left out."""
    weights = np.arange(20, dtype=np.float32).reshape(4, 5) / 20
    plot_alignment(weights, SOURCE, TARGET, Path("x.png"))
    (axes,) = drawn
    (image,) = axes.images
    shown = image.get_array()
    assert shown is not None and shown.tolist() == weights[:3, :4].tolist()
    assert image.get_clim() == (0, 1) and image.get_cmap().name == "gray_r"
    assert labels(axes.get_xticklabels()) == SOURCE and labels(axes.get_yticklabels()) == TARGET
    assert image.origin == "upper"  # the first target word is on top


def test_long_sentences_are_cut(drawn: list[Axes]) -> None:
    weights = np.eye(70, 90)
    plot_alignment(weights, [f"s{k}" for k in range(90)], [f"t{k}" for k in range(70)], Path("x"))
    shown = drawn[0].images[0].get_array()
    assert shown is not None and shown.tolist() == np.eye(60).tolist()
    assert labels(drawn[0].get_xticklabels())[-1] == "s59"
    assert labels(drawn[0].get_yticklabels())[-1] == "t59"


def test_fewer_weights_than_words() -> None:
    for shape in ((2, 4), (3, 3)):
        with pytest.raises(ValueError, match="3 words that look at 4"):
            plot_alignment(np.zeros(shape), SOURCE, TARGET, Path("x.png"))


@pytest.mark.parametrize("name", ["x.pdf", "x.jpeg", "look.v2", ""])
def test_names_that_are_no_pictures(name: str) -> None:
    with pytest.raises(ValueError, match=r"let it end with \.png or \.svg"):
        plot_alignment(np.zeros((3, 4)), SOURCE, TARGET, Path(name))


def test_maps_of_a_caption() -> None:
    """The plain picture and one a word, in rows; a map lies over the picture as it is turned."""
    pixels = np.full((3, 40, 40), 128, np.uint8)
    maps = np.zeros((4, 4, 4))
    places = [(0, 3), (2, 0), (3, 2), (1, 1)]
    for one, place in zip(maps, places, strict=True):
        one[place] = 1.0
    words = ["a", "red", "$d_o$g", "."]
    figure = draw_caption_maps(pixels, words, maps, columns=3)
    assert len(figure.axes) == 6 and sum(bool(axes.images) for axes in figure.axes) == 5
    assert [axes.get_title() for axes in figure.axes] == ["", *words, ""]
    assert len(figure.axes[0].images) == 1
    figure.canvas.draw()
    canvas = np.asarray(figure.canvas.buffer_rgba())[:, :, 0].astype(float)
    for axes, place in zip(figure.axes[1:], places, strict=False):
        box = axes.get_window_extent()
        top, left = len(canvas) - box.y1, box.x0
        cells = np.array([
            [canvas[int(top + (r + 0.5) * box.height / 4), int(left + (c + 0.5) * box.width / 4)]
             for c in range(4)] for r in range(4)
        ])  # fmt: skip
        assert np.unravel_index(cells.argmax(), (4, 4)) == place
        assert cells.max() > 2 * np.median(cells)
