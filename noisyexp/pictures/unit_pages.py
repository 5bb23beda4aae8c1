"""Pictures of units, and a page that holds them all."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from noisyexp.activations import Activation, make_activation
from noisyexp.pictures.curves import PALETTE, figure_style, save_figure
from noisyexp.pictures.unit_equations import describe, equation
from noisyexp.pictures.unit_profile import Profile, measure

BLACK, BLUE, VERMILION, GREEN = PALETTE[:4]
REACH, DRAWS, CLOUD = 5.0, 2000, 6
"""Inputs go to this many thresholds; draws for each of them; how many of them are drawn as dots."""
SATURATED, HISTOGRAM_DRAWS = 3.0, 50_000
"""Where the histogram is taken, in thresholds, and its draws."""


@dataclass(frozen=True)
class Drawing:
    """A unit with its numbers over x and at one saturated input."""

    unit: Activation
    profile: Profile
    saturated: Profile


def measure_unit(unit: Activation) -> Drawing:
    """Measure what the pictures of a unit show."""
    reach = REACH * unit.kind.threshold
    x = torch.linspace(-reach, reach, 401, dtype=torch.float64)
    point = torch.tensor([SATURATED * unit.kind.threshold], dtype=torch.float64)
    return Drawing(unit, measure(unit, x, DRAWS), measure(unit, point, HISTOGRAM_DRAWS))


def draw_unit(drawing: Drawing, path: Path) -> tuple[Path, Path]:
    """Value, spread, gradient and saturated output of one unit, as SVG and PNG."""
    with figure_style():
        figure = Figure(figsize=(9.0, 7.0), layout="constrained")
        FigureCanvasAgg(figure)
        (value, spread), (gradient, histogram) = figure.subplots(2, 2)
        figure.suptitle(f"{describe(drawing.unit)}\n{equation(drawing.unit)}", fontsize=11)
        draw_value(value, drawing)
        draw_spread(spread, drawing)
        draw_gradient(gradient, drawing)
        draw_histogram(histogram, drawing)
        for axes in (value, spread, gradient):
            axes.set_xlabel("input x")
        value.legend(frameon=False, fontsize=8, loc="upper left", markerscale=5)
        gradient.legend(frameon=False, fontsize=8, loc="upper right")
        histogram.legend(frameon=False, fontsize=8, loc="upper left")
        return save_figure(figure, path)


def draw_overview(drawings: Sequence[Drawing], path: Path) -> tuple[Path, Path]:
    """Value, spread and gradient of several units, as SVG and PNG: variants down, kinds across."""
    acts = list(dict.fromkeys(drawing.unit.variant for drawing in drawings))
    kinds = list(dict.fromkeys(drawing.unit.kind.name for drawing in drawings))
    with figure_style():
        size = (7.5 * len(kinds) + 1.5, 1.75 * len(acts) + 0.9)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(acts), 3 * len(kinds), squeeze=False, sharex="col")
        for drawing in drawings:
            row, kind = acts.index(drawing.unit.variant), kinds.index(drawing.unit.kind.name)
            cells = grid[row, 3 * kind : 3 * kind + 3]
            titles = (r"value $\phi$", r"spread of $\phi$", r"gradient d$\phi$/dx")
            functions = (draw_value, draw_spread, draw_gradient)
            for axes, draw, title in zip(cells, functions, titles, strict=True):
                draw(axes, drawing)
                axes.set(title="" if row else f"{kinds[kind]}: {title}", ylabel="")
        for row, act in enumerate(acts):
            grid[row, 0].set_ylabel(act, fontsize=11)
        for axes in grid[-1]:
            axes.set_xlabel("input x")
        # The rows of units without noise lack the clouds and bands that the others have.
        found = {}
        for axes in grid.flat:
            found.update(dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True)))
        figure.legend(
            list(found.values()), list(found), loc="outside lower center", ncols=7, frameon=False,
            markerscale=5,
        )  # fmt: skip
        return save_figure(figure, path)


def draw_value(axes: Axes, drawing: Drawing) -> None:
    """Draws, mean and expectation over x, with the hard and the soft unit."""
    unit, found = drawing.unit, drawing.profile
    if unit.has_noise:
        some = found.values[:CLOUD]
        axes.plot(
            found.x.repeat(len(some)), some.flatten(), linestyle="none", marker=".", markersize=2,
            markeredgewidth=0, color=BLUE, alpha=0.6, label="draws", rasterized=True,
        )  # fmt: skip
    for label, variant, colour, style, width in (
        ("soft unit", "reference", BLACK, ":", 1.2),
        ("hard unit h", "hard", GREEN, "-", 2.6),
    ):
        other = make_activation(unit.kind.name, variant, 1).eval()
        axes.plot(found.x, other(found.x[:, None])[:, 0], color=colour, linestyle=style,
                  linewidth=width, label=label)  # fmt: skip
    axes.plot(found.x, found.mean, color=VERMILION, linestyle="--", linewidth=1.5, label="mean")
    _finish(axes, "value", r"output $\phi$")


def draw_spread(axes: Axes, drawing: Drawing) -> None:
    """Standard deviation over draws."""
    axes.plot(drawing.profile.x, drawing.profile.std, color=BLUE, linewidth=1.6)
    if float(drawing.profile.std.max()) == 0:
        axes.set_ylim(-0.05, 1)
        words = "all draws are equal here" if drawing.unit.has_noise else "no noise"
        axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center")
    else:
        axes.set_ylim(bottom=0)
    _finish(axes, f"spread over {DRAWS:,} draws", r"standard deviation of $\phi$")


def draw_gradient(axes: Axes, drawing: Drawing) -> None:
    """Bands of quantiles, mean and median of d phi/dx over draws."""
    found = drawing.profile
    low, quarter, median, three, high = found.gradient_quantiles
    if drawing.unit.has_noise:
        axes.fill_between(found.x, low, high, color=BLUE, alpha=0.22, linewidth=0, label="5-95 %")
        axes.fill_between(found.x, quarter, three, color=BLUE, alpha=0.4, linewidth=0,
                          label="25-75 %")  # fmt: skip
        axes.plot(found.x, median, color=BLACK, linewidth=1.0, linestyle=":", label="median")
    axes.plot(found.x, found.gradient_mean, color=VERMILION, linewidth=1.4, linestyle="--",
              label="mean")  # fmt: skip
    _finish(axes, "gradient", r"d$\phi$/dx")


def draw_histogram(axes: Axes, drawing: Drawing) -> None:
    """Distribution of the output at one saturated input."""
    found, unit = drawing.saturated, drawing.unit
    values = found.values[:, 0]
    spread = float(values.max() - values.min())
    at = float(found.x[0])
    if spread > 0:
        axes.hist(values.numpy(), bins=60, density=True, color=BLUE, alpha=0.6)
        axes.set_ylabel("density")
    else:
        axes.set_yticks([])
        middle = float(values[0])
        axes.set_xlim(middle - 0.5, middle + 0.5)
    hard = min(max(unit.kind.slope * at + unit.kind.offset, unit.kind.low), unit.kind.high)
    for place, colour, style, label in (
        (hard, GREEN, "-", "hard unit h"),
        (float(found.mean[0]), VERMILION, "--", "mean over draws"),
        (float(found.expected[0]), BLACK, ":", "expected (evaluation)"),
    ):
        axes.axvline(place, color=colour, linestyle=style, linewidth=1.8, label=label)
    axes.set(title=f"output in saturation, x = {at:g}", xlabel=r"output $\phi$")


def _finish(axes: Axes, title: str, label: str) -> None:
    axes.set(title=title, ylabel=label)
    axes.margins(x=0)
    axes.grid(True, linewidth=0.4, alpha=0.5)


def page(title: str, overview: bytes, sections: Sequence[tuple[str, bytes]]) -> str:
    """HTML with all pictures inside it, nothing to load.

    Args:
        title: heading.
        overview: SVG of all units.
        sections: name and SVG of each unit.
    """
    toc = " · ".join(f'<a href="#{_anchor(name)}">{html.escape(name)}</a>' for name, _ in sections)
    body = "".join(
        f'<h2 id="{_anchor(name)}">{html.escape(name)}</h2>{_image(name, svg)}\n'
        for name, svg in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>"
        "body{font-family:sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "img{width:100%;height:auto}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1><p>{toc}</p>\n"
        f"{_image('overview', overview)}\n{body}</body></html>\n"
    )


def _anchor(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _image(name: str, svg: bytes) -> str:
    # As data: pasted into one document, two SVGs would share ids.
    data = base64.b64encode(svg).decode("ascii")
    return f'<img alt="{html.escape(name)}" src="data:image/svg+xml;base64,{data}">'
