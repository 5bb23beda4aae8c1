"""Figures of the exploratory analysis (Section 6.1): 5 from curves, 6 and 7 from learned units."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noisyexp.activations import functional as F
from noisyexp.errors import RecordError
from noisyexp.pictures.curves import (
    PALETTE,
    _act_index,
    _styles,
    curve_band,
    draw_line,
    figure_style,
    legend_label,
    line_name,
    save_figure,
)
from noisyexp.records.run_record import RunRecord

OUTPUT_NOISE, INPUT_NOISE = ("nan_normal", "nah"), ("nani", "nanil", "nanis")
NOISE_FREE = ("reference", "hard")
FIGURE_5 = ("train_nll", "train_nll_clean", "valid_nll", "saturated")
"""Panels of Figure 5 from top to bottom; the paper has the first or the second."""
_INSIDE, _OUTSIDE = PALETTE[1], PALETTE[2]


# --- Figure 5


def plot_noise_sides(
    records: Sequence[RunRecord],
    path: Path,
    labels: Mapping[str, str] | None = None,
    title: str | None = None,
) -> tuple[Path, Path]:
    """Figure 5: curves of the MNIST networks, noise at the output left, at the input right.

    Both columns have tanh and hard tanh; lines are means over seeds, bands go from the lowest to
    the highest. Negative log-likelihoods are on a logarithmic scale.

    Args:
        records: complete runs of task mnist at one scale.
        path: where to write, without or with a suffix.
        labels: printed name by name of the line.
        title: above the picture, before the scale; default: the task.

    Returns:
        Paths of the SVG and the PNG file.

    Raises:
        RecordError: no complete run, or runs of several scales or data sets.
    """
    records = [record for record in records if record.complete]
    if len({(r.task, r.scale, r.data) for r in records}) != 1:
        raise RecordError("Figure 5 needs complete runs of one task, scale and data set")
    columns = {
        title: [r for r in records if r.act in (*NOISE_FREE, *acts)]
        for title, acts in (
            ("noise at the output", OUTPUT_NOISE),
            ("noise at the input", INPUT_NOISE),
        )
    }
    with figure_style():
        figure = _new_figure(7.2, 9.2)
        axes = figure.subplots(len(FIGURE_5), 2, sharex=True, sharey="row", squeeze=False)
        for column, (heading, chosen) in enumerate(columns.items()):
            axes[0, column].set_title(heading)
            axes[-1, column].set_xlabel("epoch")
            _draw_noise_side(axes[:, column], chosen, labels or {})
        for row, metric in zip(axes, FIGURE_5, strict=True):
            row[0].set_ylabel(records[0].metrics[metric].title.replace(", ", ",\n"))
            if "nll" in metric:
                _log_scale(row[0])
        handles = {
            label: handle
            for axis in axes[0]
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=False
        )
        first = records[0]
        kind = "" if first.data == "real" else f", {first.data} data"
        figure.suptitle(
            f"{title or first.task}, scale {first.scale}{kind}: mean and range over seeds"
        )
        return save_figure(figure, path)


def _draw_noise_side(
    axes: Sequence[Any], records: Sequence[RunRecord], labels: Mapping[str, str]
) -> None:
    """One column of Figure 5."""
    groups = _series(records)
    styles = _styles({name: runs[0].act for name, runs in groups.items()})
    for axis, metric in zip(axes, FIGURE_5, strict=True):
        for name, runs in groups.items():
            positions, mean, low, high = curve_band(runs, metric, "epoch")
            style = styles[name]
            draw_line(axis, style, positions, mean, legend_label(name, runs, labels), 1.4)
            axis.fill_between(positions, low, high, color=style.colour, alpha=0.15, linewidth=0)
        axis.grid(True, which="major", linewidth=0.4, alpha=0.5)


def _log_scale(axis: Any) -> None:
    """A logarithmic axis whose labels do not touch: 1, 2, 5 on two decades, else powers of ten."""
    from matplotlib.ticker import LogFormatterMathtext, LogLocator, NullLocator

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    wide = high / low > 100
    axis.yaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5), numticks=8))
    axis.yaxis.set_major_formatter(LogFormatterMathtext() if wide else "{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())


def _series(records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Runs by name of their line: activations in their usual order, the plain row first."""
    names = sorted({(_act_index(r.act), line_name(r) != r.act, line_name(r)) for r in records})
    return {name: [r for r in records if line_name(r) == name] for *_, name in names}


# --- Figures 6 and 7


@dataclass(frozen=True)
class LearnedUnits:
    """The hidden units of one trained network of task mixture.

    Attributes:
        variant: "nan" or "nah".
        alpha, c: settings of the units.
        title: task, scale and seed, for figures.
        p_before, p_after: (layers, units), float64.
        x: pre-activations of test points, (layers, units, points), float64.
        xi: one standard normal draw for each of them.
    """

    variant: str
    alpha: float
    c: float
    title: str
    p_before: Tensor
    p_after: Tensor
    x: Tensor
    xi: Tensor

    @property
    def eps(self) -> Tensor:
        """What sigma is multiplied by: xi, or |xi| for half-normal noise."""
        return self.xi.abs() if self.variant == "nah" else self.xi

    def values(self) -> Tensor:
        """phi(x, xi), shape of x (Eq 12, Algorithm 1)."""
        unit = F.nah if self.variant == "nah" else F.nan
        p = self.p_after.unsqueeze(-1)
        return unit(self.x, self.xi, p, F.TANH, alpha=self.alpha, c=self.c)

    def slopes(self) -> Tensor:
        """The derivative of phi in x at fixed xi, shape of x."""
        p = self.p_after.unsqueeze(-1)
        return output_noise_slope(self.x, self.eps, p, F.TANH, alpha=self.alpha, c=self.c)


def learned_units(
    findings: Mapping[str, Any], config: Mapping[str, Any], task: str | None = None
) -> LearnedUnits:
    """From the findings and the configuration of a run record; `task` is its name in the title.

    Raises:
        RecordError: the run has no units with a learned p at the output.
    """
    act = config["act"]
    if act["variant"] not in ("nan", "nah") or "pre_activations" not in findings:
        raise RecordError(
            f"Figures 6 and 7 show learned units of NAN and NAH; a run of {act['variant']} has none"
        )
    try:
        x, before, after = (
            torch.tensor(findings[name], dtype=torch.float64)
            for name in ("pre_activations", "p_before", "p_after")
        )
        alpha, c = (float(act["tanh"][name]) for name in ("alpha", "c"))
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"findings of seed {config['seed']} cannot be drawn: {error}") from error
    if x.dim() != 3 or not x.shape[:2] == before.shape == after.shape or x.numel() == 0:
        raise RecordError(f"findings of seed {config['seed']}: p and pre_activations do not fit")
    # The legacy generator: its stream is promised never to change.
    xi = torch.from_numpy(np.random.RandomState(0).standard_normal(tuple(x.shape)))
    return LearnedUnits(
        variant=act["variant"],
        alpha=alpha,
        c=c,
        title=f"{task or config['task']['name']}, {act['label']}, scale {config['scale']}, "
        f"seed {config['seed']}",
        p_before=before,
        p_after=after,
        x=x,
        xi=xi,
    )


def output_noise_slope(
    x: Tensor, eps: Tensor, p: Tensor, kind: F.Kind, *, alpha: float, c: float
) -> Tensor:
    """Derivative of phi in x, of NAN and NAH at fixed noise, almost everywhere.

    Inside the threshold it is the slope s of u; outside, where h is constant and Delta' = -s,

        (1 - alpha) s + d eps 2 c (g - 1/2) g (1 - g) p (-s),   g = sigmoid(p Delta).

    Args:
        x: (..., points).
        eps: xi for NAN, |xi| for NAH.
        p: broadcastable to x.
        kind: tanh or sigmoid.
        alpha: weight of the hard unit (Eq 11).
        c: scale of the noise (Eq 9).
    """
    g = torch.sigmoid(p * F.delta(x, kind))
    noise = F.direction(x, alpha) * eps * 2 * c * (g - 0.5) * g * (1 - g) * p * -kind.slope
    outside = (1 - alpha) * kind.slope + noise
    return torch.where(x.abs() > kind.threshold, outside, kind.slope)


def plot_slopes(units: LearnedUnits, path: Path) -> tuple[Path, Path]:
    """Figure 6: the derivative of every unit against its input, with the learned p.

    Linear between -0.1 and 0.1 and logarithmic beyond, to show the plateau at 1 and the cloud.
    """
    with figure_style():
        slopes = units.slopes()
        figure, axes = _unit_grid(units, slopes, "slope dφ/dx")
        low = min(-0.2, 1.2 * float(slopes.min()))
        for axis in axes.flat:
            axis.set_yscale("symlog", linthresh=0.1, linscale=1.5)
            axis.set(ylim=(low, 2.0), yticks=[-0.1, 0, 0.1, 1], yticklabels=["-.1", 0, ".1", 1])
            axis.minorticks_off()
        return save_figure(figure, path)


def plot_values(units: LearnedUnits, path: Path) -> tuple[Path, Path]:
    """Figure 7: the value of every unit against its input, with the learned p."""
    with figure_style():
        figure, axes = _unit_grid(units, units.values(), "value φ")
        for axis in axes.flat:
            axis.set(ylim=(-1.25, 1.25), yticks=[-1, 0, 1])
            for bound in (-1, 1):
                axis.axhline(bound, color="0.6", linewidth=0.5, zorder=0)
        return save_figure(figure, path)


def _unit_grid(units: LearnedUnits, y: Tensor, label: str) -> tuple[Any, Any]:
    """Panels of y against x, a row a layer and a column a unit; linear range shaded."""
    layers, size = units.p_after.shape
    figure = _new_figure(1.05 * size + 0.9, 1.35 * layers + 0.7)
    axes = figure.subplots(layers, size, sharex=True, sharey=True, squeeze=False)
    reach = math.ceil(float(units.x.abs().max()))
    for (layer, unit), axis in np.ndenumerate(axes):
        x, value = units.x[layer, unit], y[layer, unit]
        axis.axvspan(-1, 1, color="0.92", linewidth=0, zorder=0)
        for chosen, colour in ((x.abs() <= 1, _INSIDE), (x.abs() > 1, _OUTSIDE)):
            axis.plot(
                x[chosen].numpy(), value[chosen].numpy(), ".", markersize=3, color=colour,
                markeredgewidth=0,
            )  # fmt: skip
        axis.set_title(f"p = {_signed(float(units.p_after[layer, unit]))}", fontsize=8, pad=2)
        axis.set_xlim(-reach, reach)
        axis.tick_params(labelsize=8, length=2, pad=2)
    for layer, row in enumerate(axes):
        row[0].set_ylabel(f"layer {layer + 1}\n{label}", fontsize=8)
    figure.supxlabel("input x of the unit, test points; grey: the linear range |x| ≤ 1", fontsize=9)
    noise = "half-normal" if units.variant == "nah" else "normal"
    figure.suptitle(f"{units.title}: {noise} noise, alpha = {units.alpha:g}, c = {units.c:g}")
    return figure, axes


def _signed(value: float) -> str:
    """Two decimals, without the sign of a zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def plot_p(networks: Iterable[LearnedUnits], path: Path) -> tuple[Path, Path]:
    """Histograms of p before and after training, one panel a variant, over all given networks."""
    groups: dict[str, list[LearnedUnits]] = {}
    for network in networks:
        groups.setdefault(network.variant, []).append(network)
    every = [n for group in groups.values() for n in group]
    widest = max(float(torch.stack([n.p_before, n.p_after]).abs().max()) for n in every)
    count = math.ceil(widest / 0.2)
    bins = (np.arange(-count, count + 2) - 0.5) * 0.2  # one is centred on 0
    with figure_style():
        figure = _new_figure(6.4, 2.9)
        axes = figure.subplots(1, len(groups), sharex=True, sharey=True, squeeze=False)[0]
        for axis, (variant, group) in zip(axes, groups.items(), strict=True):
            before, after = (
                torch.cat([getattr(n, name).flatten() for n in group]).numpy()
                for name in ("p_before", "p_after")
            )
            axis.hist(before, bins, color="0.8", label="before training")
            axis.hist(after, bins, histtype="step", color=_INSIDE, linewidth=1.6, label="after")
            plural = "s" if len(group) > 1 else ""
            axis.set_title(f"{variant.upper()}, {len(before)} units, {len(group)} network{plural}")
            axis.set_xlabel("p")
        axes[0].set_ylabel("units")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
        return save_figure(figure, path)


def plot_learned_units(
    runs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]],
    kind: str,
    path: Path,
    task: str | None = None,
) -> bool:
    """Slopes of NAN's units or values of NAH's at the lowest seed, or p over all networks.

    Args:
        runs: findings and configuration of complete runs; those without learned units are skipped.
        kind: "unit_slopes" (Figure 6), "unit_values" (Figure 7) or "p_histograms".
        path: where to write, without or with a suffix.
        task: its name in the title; default: that of its folder.

    Returns:
        Whether some run has such units; without one nothing is drawn.
    """
    chosen = [
        (int(config["seed"]), learned_units(findings, config, task))
        for findings, config in runs
        if findings and config["act"]["variant"] in ("nan", "nah")
    ]
    chosen.sort(key=lambda pair: (pair[1].variant != "nan", pair[0]))
    if kind == "p_histograms":
        if chosen:
            plot_p((units for _, units in chosen), path)
        return bool(chosen)
    variant, plot = {"unit_slopes": ("nan", plot_slopes), "unit_values": ("nah", plot_values)}[kind]
    first = next((units for _, units in chosen if units.variant == variant), None)
    if first is not None:
        plot(first, path)
    return first is not None


def _new_figure(width: float, height: float) -> Any:
    """A matplotlib figure in inches, without a window system; call it within `figure_style`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
