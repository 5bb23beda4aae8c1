"""Attention as a picture: of a translation over words, of a caption over an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noisyexp.pictures.curves import figure_style, save_figure

DRAWN = 60
"""Most words of a side in a picture."""


def check_picture(path: Path) -> None:
    """Whether `plot_alignment` can write to a path of this name.

    Raises:
        ValueError: it has no name, or a suffix that is neither .png nor .svg.
    """
    if not path.name or path.suffix not in ("", ".png", ".svg"):
        raise ValueError(f"'{path}' is no name of a picture: let it end with .png or .svg")


def plot_alignment(
    weights: Any, source: Sequence[str], target: Sequence[str], path: Path
) -> tuple[Path, Path]:
    """Draw attention weights as shades of grey, as SVG and PNG; black is 1.

    Of a side with more than `DRAWN` words the first `DRAWN` are drawn.

    Args:
        weights: (rows, columns), at least one row a target word and one column a source word;
            more columns are padding and not drawn.
        source: words, the end included.
        target: words, the end included.
        path: where to write, without a suffix or with one of the two.

    Returns:
        Paths of the SVG and the PNG file.

    Raises:
        ValueError: fewer weights than words, or see `check_picture`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    check_picture(path)
    if weights.shape[0] < len(target) or weights.shape[1] < len(source):
        raise ValueError(
            f"weights of shape {tuple(weights.shape)} for {len(target)} words that look at "
            f"{len(source)}"
        )
    source, target = source[:DRAWN], target[:DRAWN]
    drawn = weights[: len(target), : len(source)]
    with figure_style():
        size = (1.6 + 0.26 * len(source), 1.2 + 0.26 * len(target))
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.imshow(drawn, cmap="gray_r", aspect="auto", interpolation="nearest", vmin=0, vmax=1)
        axes.set_xticks(range(len(source)), source, rotation=90, parse_math=False)
        axes.set_yticks(range(len(target)), target, parse_math=False)
        axes.xaxis.tick_top()
        return save_figure(figure, path)


def draw_caption_maps(pixels: Any, words: Sequence[str], maps: Any, columns: int = 6) -> Any:
    """The image once plain and once for each word, bright where the model looked.

    Args:
        pixels: uint8 (3, height, width).
        words: of the caption.
        maps: (words, side, side), each summing to 1 at most.
        columns: most pictures in a row.

    Returns:
        A matplotlib figure.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = np.asarray(pixels).transpose(1, 2, 0)
    columns = min(len(words) + 1, columns)
    rows = -(-(len(words) + 1) // columns)
    figure = Figure(figsize=(2 * columns, 2.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if place > len(words):
            continue
        axes.imshow(picture)
        if place:
            repeat = picture.shape[0] // maps.shape[1]
            light = np.kron(np.asarray(maps[place - 1]), np.ones((repeat, repeat)))
            axes.imshow(light, cmap="gray", alpha=0.65, interpolation="bilinear")
            axes.set_title(words[place - 1], parse_math=False)
    return figure
