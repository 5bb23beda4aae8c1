"""Figure 2: a non-convex objective in one w, and where gradient descent of noisy units ends.

The paper's figure is a drawing: noise lets gradient descent explore and leave poor minima, and
annealing it lets it settle. Here the objective is a network of four units and one parameter w,

    L(w) = 1/2 (sum_k v_k phi(w - b_k) - T)^2,

whose hard version has a poor local minimum at w = -3, the global one (L = 0) at w = 3 and plateaus
without gradient between and outside them. Nothing changes between the arms but the unit and its c.
`scripts/escape.py` runs them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisyexp.activations import Activation, make_activation
from noisyexp.pictures.curves import PALETTE, figure_style, save_figure

CENTRES, WEIGHTS, TARGET = (-4.0, -2.0, 2.0, 4.0), (0.6, -0.6, 1.0, -1.0), 2.0
"""b, v and T. Two units make a bump in the shape of a triangle, of height 1.2 and of height 2."""
POOR, GLOBAL = -3.0, 3.0


@dataclass(frozen=True)
class Arm:
    """A unit and its noise: c goes from `start` down to `floor` by the schedule, or is constant."""

    label: str
    variant: str
    start: float = 0.0
    floor: float = 0.0

    @property
    def annealed(self) -> bool:
        """Whether c changes."""
        return self.start != self.floor


# The paper anneals from 30 to 0.5, and takes 0.05 where NAN has 0.5 for the sigma of NANI.
ARMS = (
    Arm("tanh", "reference"),
    Arm("hard-tanh", "hard"),
    *(
        Arm(f"{variant.upper()}, {text}", variant, start, floor)
        for variant, high, low in (("nan", 30.0, 0.5), ("nah", 30.0, 0.5), ("nani", 3.0, 0.05))
        for text, start, floor in (
            (f"c = {low:g}", low, low),
            (f"c = {high:g}", high, high),
            (f"c from {high:g} to {low:g}", high, low),
        )
    ),
)


def objective(w: Tensor, unit: Activation, xi: Tensor | None = None) -> Tensor:
    """L(w) of shape (n,), for w of shape (n,) and xi of shape (n, 4) or None."""
    output = unit(w[:, None] - w.new_tensor(CENTRES), noise=xi) @ w.new_tensor(WEIGHTS)
    loss: Tensor = 0.5 * (output - TARGET).square()
    return loss


def make_unit(arm: Arm, p: float, dtype: torch.dtype = torch.float32) -> Activation:
    """The unit of an arm, with one fixed p."""
    unit = make_activation("tanh", arm.variant, len(CENTRES), p_shape="scalar", dtype=dtype)
    if unit.p is not None:
        unit.p.requires_grad_(False).fill_(p)
    return unit


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a binomial share by Wilson, which is sound at 0 and 1 as well."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def draw_fig2(result: Mapping[str, Any], path: Path) -> tuple[Path, Path]:
    """Figure 2 as SVG and PNG: the objective, some ways down it, and where all runs end.

    Args:
        result: content of results/escape.json.
        path: where to write; the suffix is replaced.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with figure_style():
        figure = Figure(figsize=(10.4, 5.8), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(2, 3, height_ratios=(1, 1.3), width_ratios=(1.3, 1, 1))
        top = figure.add_subplot(grid[0, 0])
        _draw_objective(top)
        _draw_ways(figure.add_subplot(grid[1, 0], sharex=top), result)
        every = figure.add_subplot(grid[:, 1])
        _draw_rates(every, result, "all", "starts everywhere")
        poor = figure.add_subplot(grid[:, 2], sharey=every)
        _draw_rates(poor, result, "from_poor", "starts in the poor well")
        poor.tick_params(labelleft=False)
        handles, labels = poor.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower right", ncols=3, frameon=False)
        return save_figure(figure, path)


def caption_fig2(result: Mapping[str, Any]) -> str:
    """Text under Figure 2, with the shares of every arm at every learning rate of `result`."""
    settings = result["settings"]
    everywhere, escaped = (_shares(result, group) for group in ("all", "from_poor"))
    rates = " / ".join(f"{rate:g}" for rate in settings["learning_rates"])
    error = max(r[g]["standard_error"] for r in result["rates"] for g in ("all", "from_poor"))
    return (
        "The paper's figure is a drawing without data; our experiment stands in its place. "
        "Gradient descent on the one parameter of a network of four units, "
        f"{settings['starts']} starts, {settings['updates']} updates, the same starts and draws in "
        "every arm, no arm tuned. Share that ends within 1 of the global minimum at learning rates "
        f"{rates} (standard errors up to {error:.2f}), all starts: {everywhere}. Those that start "
        "in the poor well: "
        f"{escaped}. NAN draws w to where its noise is weak; the deeper minimum of this "
        "objective belongs to the units of larger weight, which may favour it."
    )


def _shares(result: Mapping[str, Any], group: str) -> str:
    """Shares of every arm, one a learning rate."""
    found = {(r["label"], r["learning_rate"]): r[group]["global"] for r in result["rates"]}
    rates = result["settings"]["learning_rates"]
    return "; ".join(
        f"{arm.label}: " + " / ".join(f"{found[arm.label, rate]:.2f}" for rate in rates)
        for arm in ARMS
    )


def _draw_objective(axes: Any) -> None:
    w = torch.linspace(-8, 8, 641)
    for arm, label, colour, style, width in (
        (ARMS[1], "hard-tanh", PALETTE[3], "-", 2.2),
        (ARMS[0], "tanh", PALETTE[0], "--", 1.2),
    ):
        axes.plot(w, objective(w, make_unit(arm, 1.0)), color=colour, linestyle=style, label=label,
                  linewidth=width)  # fmt: skip
    axes.annotate("poor", (POOR, 0.2), ha="center", va="top", fontsize=8)
    axes.annotate("global", (GLOBAL, -0.08), ha="center", va="top", fontsize=8)
    axes.set(ylabel="L(w) without noise", ylim=(-0.7, 2.3), title="One parameter, four units")
    axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0.0, -0.02), fontsize=8)
    axes.tick_params(labelbottom=False)


def _draw_ways(axes: Any, result: Mapping[str, Any]) -> None:
    settings = result["settings"]
    for k, (label, ways) in enumerate(result["ways"].items()):
        colour = (PALETTE[3], PALETTE[4], PALETTE[2])[k % 3]
        for n, way in enumerate(ways):
            updates = [settings["keep"] * index for index in range(len(way))]
            axes.plot(
                way, updates, color=colour, alpha=0.9, linewidth=(2.6, 0.9, 1.4)[k % 3],
                label=None if n else label, zorder=3 - k % 2,
            )  # fmt: skip
            axes.plot(way[:1], [0], marker="o", color=PALETTE[0], markersize=4)
    axes.set_xticks(range(-8, 9, 4))
    for well in (POOR, GLOBAL):
        axes.axvline(well, color="0.6", linewidth=0.8, linestyle=":")
    axes.set(
        xlabel="parameter w", ylabel="updates", ylim=(settings["updates"], -150), xlim=(-8, 8),
        title=f"Some runs, learning rate {settings['learning_rates'][-1]:g}",
    )  # fmt: skip
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2))


def _draw_rates(axes: Any, result: Mapping[str, Any], group: str, title: str) -> None:
    """Shares of one group of starts with their intervals, a line for each arm."""
    labels = list(dict.fromkeys(entry["label"] for entry in result["rates"]))
    rates = result["settings"]["learning_rates"]
    colours, marks = (PALETTE[1], PALETTE[6], PALETTE[0]), ("o", "s", "^")
    for k, rate in enumerate(rates):
        entries = [entry for entry in result["rates"] if entry["learning_rate"] == rate]
        found = [entry[group]["global"] for entry in entries]
        bounds = [wilson(share, entries[0][group]["starts"]) for share in found]
        sides = [[abs(share - bound[end]) for share, bound in zip(found, bounds, strict=True)]
                 for end in (0, 1)]  # fmt: skip
        offset = 0.22 * (k - (len(rates) - 1) / 2)
        axes.errorbar(
            found, [labels.index(entry["label"]) + offset for entry in entries], xerr=sides,
            linestyle="none", marker=marks[k % 3], markersize=4.5, color=colours[k % 3],
            elinewidth=1.2, capsize=2, clip_on=False, zorder=3,
            label=f"learning rate {rate:g}",
        )  # fmt: skip
    axes.set_yticks(range(len(labels)), labels)
    axes.set(
        xlim=(0, 1), ylim=(len(labels) - 0.5, -0.5), xlabel="share in the global minimum, 95 %",
        title=f"{result['rates'][0][group]['starts']} {title}",
    )  # fmt: skip
    for edge in range(1, len(labels)):
        axes.axhline(edge - 0.5, color="0.88", linewidth=0.6)
    axes.grid(True, axis="x", linewidth=0.4, alpha=0.5)
