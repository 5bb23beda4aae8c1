"""Attention of a translation as a picture: words of the source across, of the translation down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noisyexp.results.figures import figure_style, save_figure


def plot_alignment(
    weights: Any, source: Sequence[str], target: Sequence[str], path: Path
) -> tuple[Path, Path]:
    """Draw attention weights as shades of grey, as SVG and PNG; black is 1.

    Args:
        weights: (rows, columns), at least one row a target word and one column a source word;
            more columns are padding and not drawn.
        source: words, the end included.
        target: words, the end included.
        path: where to write, without or with a suffix.

    Returns:
        Paths of the SVG and the PNG file.

    Raises:
        ValueError: fewer weights than words.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if weights.shape[0] < len(target) or weights.shape[1] < len(source):
        raise ValueError(
            f"weights of shape {tuple(weights.shape)} for {len(target)} words that look at "
            f"{len(source)}"
        )
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
