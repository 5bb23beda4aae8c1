"""Figures 1, 3 and 4 of the paper, drawn from the units themselves; no run is needed.

Only the text and captions of the paper were at hand, not its images: each caption says what is
inferred. The numbers come from the functions that return
tensors; the functions named `draw_fig...` only draw them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisyexp.activations import functional as F
from noisyexp.activations import make_activation
from noisyexp.pictures.curves import PALETTE, figure_style, save_figure

BLACK, BLUE, VERMILION, GREEN, PINK, SKY, ORANGE, _ = PALETTE

SKETCH_C, SKETCH_X = 4.0, 2.0
"""Figure 3: c, larger than in any experiment after annealing, and where Delta is drawn."""
ALPHAS = (0.9, 1.0, 1.1, 1.15)
FAN_C = (0.5, 1.0)
FAN_POINTS, FAN_SEED = 1000, 0
_ONE = torch.ones((), dtype=torch.float64)


def derivative(x: Tensor, kind: str, variant: str) -> Tensor:
    """D phi/dx of a unit without noise, by autograd; NaN at the thresholds of the hard one.

    Args:
        x: (n,), float64.
        kind: "tanh" or "sigmoid".
        variant: "reference" or "hard".

    Returns:
        (n,), in the unit's output per unit of x.
    """
    inputs = x.clone().requires_grad_(True)
    unit = make_activation(kind, variant, 1).eval()
    (slope,) = torch.autograd.grad(unit(inputs[:, None]).sum(), inputs)
    if variant == "hard":  # it jumps there, and a line through the jump would be a lie
        slope[torch.isclose(x.abs(), torch.full_like(x, F.KINDS[kind].threshold))] = torch.nan
    return slope


@dataclass(frozen=True)
class Sketch:
    """Figure 3 over x, all (n,): h, its linearisation u, mean and sigma of the noisy unit."""

    h: Tensor
    u: Tensor
    mean: Tensor
    sigma: Tensor


def sketch(x: Tensor, c: float = SKETCH_C) -> Sketch:
    """NAN on hard-tanh with alpha = 1, p = 1: its mean falls back on h (Eq 8, 9, 12).

    Args:
        x: (n,), float64.
        c: scale of the noise.
    """
    return Sketch(
        h=F.hard(x, F.TANH),
        u=F.linear(x, F.TANH),
        mean=F.nan_expected(x, F.TANH, alpha=1.0),
        sigma=F.noise_scale(F.delta(x, F.TANH), _ONE, c),
    )


def fan(x: Tensor, alpha: float, c: float, generator: torch.Generator) -> Tensor:
    """One draw of NAN on hard-tanh for each x, p = 1 (Eq 12).

    Args:
        x: (n,), float64.
        alpha: weight of the hard unit.
        c: scale of the noise.
        generator: of xi.

    Returns:
        (n,).
    """
    xi = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return F.nan(x, xi, _ONE, F.TANH, alpha=alpha, c=c)


def draw_fig1(path: Path) -> tuple[Path, Path]:
    """Figure 1, derivatives of the units without noise, as SVG and PNG (suffix replaced)."""
    x = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    lines = (
        ("sigmoid", "sigmoid", "reference", BLUE, "-"),
        ("tanh", "tanh", "reference", VERMILION, "-"),
        # Outside the thresholds the two hard ones lie on each other: one is wider.
        ("hard-sigmoid", "sigmoid", "hard", BLUE, "--"),
        ("hard-tanh", "tanh", "hard", VERMILION, "--"),
    )
    with figure_style():
        figure, (axes,) = make_figure(1, (6.4, 3.8))
        for label, kind, variant, colour, style in lines:
            slope = derivative(x, kind, variant)
            width = 3.4 if label == "hard-sigmoid" else 1.6
            axes.plot(x, slope, color=colour, linestyle=style, linewidth=width, label=label)
            if variant == "hard":
                jump = F.KINDS[kind].threshold
                top = F.KINDS[kind].slope
                axes.vlines((-jump, jump), 0, top, color=colour, linewidth=0.9, linestyle=":")
        axes.set(
            xlabel="input x", ylabel=r"derivative d$\phi$/dx", ylim=(-0.04, 1.08), xlim=(-6, 6),
            title="Derivatives of activation functions",
        )  # fmt: skip
        axes.legend(frameon=False, loc="upper right")
        return save_figure(figure, path)


def caption_fig1() -> str:
    """Text under Figure 1."""
    return (
        "Derivatives of sigmoid (at most 0.25), tanh (at most 1) and their hard versions, which "
        "are exactly 0 outside -2..2 and -1..1; dotted where they jump. Inferred: the range of "
        "both axes and that these four are the functions shown."
    )


def draw_fig3(path: Path) -> tuple[Path, Path]:
    """Figure 3, sketch of the noisy unit, as SVG and PNG (suffix replaced)."""
    x = torch.linspace(-3, 3, 601, dtype=torch.float64)
    found = sketch(x)
    (at,) = sketch(torch.tensor([SKETCH_X], dtype=torch.float64)).h.tolist()
    with figure_style():
        figure, (axes,) = make_figure(1, (6.4, 4.2))
        axes.fill_between(
            x, found.mean - found.sigma, found.mean + found.sigma, color=SKY, alpha=0.45,
            linewidth=0, label=r"noisy unit $\phi$: mean $\pm$ one $\sigma$",
        )  # fmt: skip
        axes.plot(x, found.u, color=BLACK, linewidth=1.0, linestyle="--", label="linearisation u")
        axes.plot(x, found.h, color=GREEN, linewidth=3.0, label="hard-tanh h")
        axes.plot(x, found.mean, color=BLACK, linewidth=1.0, linestyle=":", label=r"mean of $\phi$")
        axes.annotate(
            "", xy=(SKETCH_X, at), xytext=(SKETCH_X, SKETCH_X),
            arrowprops={"arrowstyle": "->", "color": VERMILION, "linewidth": 1.8, "shrinkA": 0,
                        "shrinkB": 0},
        )  # fmt: skip
        axes.text(
            SKETCH_X + 0.1, SKETCH_X - 0.3 * (SKETCH_X - at), r"$\Delta = h - u$", color=VERMILION,
            va="center", fontsize=11,
        )  # fmt: skip
        axes.set(
            xlabel="input x", ylabel="output", xlim=(-3, 3), ylim=(-3, 3),
            title=rf"Noise where the unit saturates ($p = 1$, $\alpha = 1$, $c = {SKETCH_C:g}$)",
        )  # fmt: skip
        axes.grid(True, linewidth=0.4, alpha=0.5)
        axes.legend(frameon=False, loc="upper left")
        return save_figure(figure, path)


def caption_fig3() -> str:
    """Text under Figure 3."""
    points = torch.tensor([2.0, 3.0], dtype=torch.float64)
    plain = sketch(points, 1.0).sigma.tolist()
    shown = sketch(points).sigma.tolist()
    return (
        f"NAN on hard-tanh, p = 1, alpha = 1. The noise is exaggerated: c = {SKETCH_C:g}, sigma = "
        f"{shown[0]:.3f} at x = 2 and {shown[1]:.3f} at x = 3, where c = 1 would give "
        f"{plain[0]:.3f} and {plain[1]:.3f}. Between the thresholds Delta is 0 and there is no "
        "noise; outside, the mean falls back on h. Inferred: the band of one sigma, the range of "
        "the axes and the place of the arrow."
    )


def draw_fig4(path: Path) -> tuple[Path, Path]:
    """Figure 4, one draw for each x at several alpha, as SVG and PNG (suffix replaced)."""
    x = torch.linspace(-6, 6, FAN_POINTS, dtype=torch.float64)
    colours, marks = (BLUE, VERMILION, PINK, BLACK), ("o", "s", "^", "v")
    with figure_style():
        figure, panels = make_figure(len(FAN_C), (8.6, 4.4), sharey=True)
        for axes, c in zip(panels, FAN_C, strict=True):
            generator = torch.Generator().manual_seed(FAN_SEED)
            for alpha, colour, mark in zip(ALPHAS, colours, marks, strict=True):
                axes.plot(
                    x, fan(x, alpha, c, generator), linestyle="none", marker=mark, markersize=2.2,
                    markeredgewidth=0, color=colour, alpha=0.75, label=rf"$\alpha = {alpha:g}$",
                    rasterized=True,  # a thousand marks as vectors make a file of a megabyte
                )  # fmt: skip
            axes.plot(x, F.hard(x, F.TANH), color=GREEN, linewidth=3.0, label="hard-tanh h")
            axes.set(xlabel="input x", xlim=(-6, 6), ylim=(-2.4, 2.4), title=f"c = {c:g}")
            axes.grid(True, linewidth=0.4, alpha=0.5)
        panels[0].set_ylabel(r"output $\phi$, one draw for each x")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=5, frameon=False, markerscale=3
        )
        return save_figure(figure, path)


def caption_fig4() -> str:
    """Text under Figure 4."""
    return (
        f"NAN (normal noise) on hard-tanh, p = 1, {FAN_POINTS} inputs and one draw of xi for each. "
        "With alpha = 1 it scatters around the hard unit (bold green); with alpha < 1 it fans "
        "outwards, with alpha > 1 inwards; inside -1..1 all are equal to x. Inferred: the range of "
        f"x, c, and the alphas: {', '.join(f'{alpha:g}' for alpha in ALPHAS)} (1.15 is the default "
        "of the authors' code)."
    )


UNIT_FIGURES: dict[str, tuple[Callable[[Path], tuple[Path, Path]], Callable[[], str]]] = {
    "fig1": (draw_fig1, caption_fig1),
    "fig3": (draw_fig3, caption_fig3),
    "fig4": (draw_fig4, caption_fig4),
}
"""How each is drawn, and its caption."""


def make_figure(columns: int, size: tuple[float, float], sharey: bool = False) -> tuple[Any, Any]:
    """A matplotlib figure with a row of axes, within `figure_style`; size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False, sharey=sharey)[0])
