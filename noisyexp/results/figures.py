"""Learning curves from run records, drawn so that they can be read in print and without colour."""

from __future__ import annotations

import contextlib
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from noisyexp.errors import RecordError
from noisyexp.fileio import atomic_write_bytes
from noisyexp.results.records import MetricInfo, Record

# Okabe and Ito (2008), without yellow, which is too light for lines on white.
PALETTE = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (7, 2)), (0, (1, 2)))
# One colour an activation in every figure of the project, whatever else is drawn beside it.
ACT_ORDER = ("reference", "hard", "nan_normal", "nah", "nani", "nanil", "nanis")


def curve_band(
    records: Sequence[Record], metric: str, x: str
) -> tuple[list[float], list[float], list[float], list[float]]:
    """Mean, lowest and highest value over runs, at the points that all of them have.

    Args:
        records: runs of one activation.
        metric: key of the curve entries.
        x: "epoch" or "step".

    Returns:
        Positions, means, lowest and highest values, equally long; empty when nothing is common.
    """
    curves = [
        {float(p[x]): float(p[metric]) for p in r.curve if p.get(metric) is not None and x in p}
        for r in records
    ]
    common = sorted(set.intersection(*map(set, curves))) if curves else []
    points = [[curve[position] for curve in curves] for position in common]
    return (
        common,
        [sum(values) / len(values) for values in points],
        [min(values) for values in points],
        [max(values) for values in points],
    )


def plot_curves(
    records: Sequence[Record],
    metric: str,
    path: Path,
    reference_lines: Mapping[str, float] | None = None,
    x: str = "epoch",
    floor: float | None = None,
) -> tuple[Path, Path]:
    """Draw `metric` over training, one line a row or activation, as SVG and PNG.

    The line is the mean over the runs that converged, the band goes from the lowest to the highest
    of them. Runs that diverged are counted in the legend and not drawn.

    Args:
        records: runs of one task at one scale.
        metric: key of the curve entries, "valid_ppl".
        path: where to write, without or with a suffix; ".svg" and ".png" are put in its place.
        reference_lines: the paper's end point by name of the line (see `line_name`), drawn as a
            diamond at the right end.
        x: what to draw it over, "epoch" or "step".
        floor: best value that any model can reach, drawn as a horizontal line.

    Returns:
        Paths of the SVG and the PNG file. The SVG has the same bytes whenever it is drawn from the
        same records.

    Raises:
        RecordError: no run has the metric, or the runs are of several tasks, scales or data sets.
    """
    kinds = sorted({(r.task, r.scale, r.data) for r in records})
    if len(kinds) > 1:
        raise RecordError(f"one figure shows one task, scale and data set; given are {kinds}")
    groups = {
        name: [r for r in records if line_name(r) == name]
        for _, name in sorted({(_act_index(r.act), line_name(r)) for r in records})
    }
    bands = {
        name: curve_band([r for r in runs if r.complete], metric, x)
        for name, runs in groups.items()
    }
    if not any(positions for positions, *_ in bands.values()):
        raise RecordError(f"nothing to draw: no complete run has {metric!r} over {x!r}")
    with figure_style():
        return save_figure(_draw(groups, bands, metric, reference_lines or {}, x, floor), path)


@contextlib.contextmanager
def figure_style() -> Iterator[None]:
    """Fonts of all figures, and SVG files whose bytes depend on nothing but what they show."""
    import matplotlib  # heavy, and not needed to make tables

    with matplotlib.rc_context({"svg.hashsalt": "noisyexp", "font.size": 9}):
        yield


def save_figure(figure: Any, path: Path) -> tuple[Path, Path]:
    """Write a matplotlib figure as SVG and PNG, with the suffix of `path` replaced.

    Call it within `figure_style`, where the figure was made.
    """
    targets = path.with_suffix(".svg"), path.with_suffix(".png")
    for target, metadata in zip(targets, ({"Date": None}, {"Software": None}), strict=True):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=target.suffix[1:], dpi=150, metadata=metadata)
        atomic_write_bytes(target, buffer.getvalue())
    return targets


def _draw(
    groups: Mapping[str, Sequence[Record]],
    bands: Mapping[str, tuple[list[float], list[float], list[float], list[float]]],
    metric: str,
    ends: Mapping[str, float],
    x: str,
    floor: float | None,
) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)  # no window system is needed, and pyplot's global state is not touched
    axes = figure.add_subplot()
    styles = _styles({name: runs[0].act for name, runs in groups.items()})
    right = max(positions[-1] for positions, *_ in bands.values() if positions)
    for key, (positions, mean, low, high) in bands.items():
        (colour, line), runs = styles[key], groups[key]
        converged = sum(run.complete for run in runs)
        seeds = f"{converged} seed{'s' if converged != 1 else ''}"
        if converged < len(runs):
            seeds = f"{converged} of {len(runs)} converged"
        name = (runs[0].config.get("act") or {}).get("label") or runs[0].act
        if key not in (runs[0].act, "reference"):
            name += f", row {key}"
        style: dict[str, Any] = {"color": colour, "linestyle": line}
        axes.plot(positions, mean, label=f"{name} ({seeds})", linewidth=1.6, **style)
        axes.fill_between(positions, low, high, color=colour, alpha=0.18, linewidth=0)
        if key in ends:
            axes.plot(
                [right], [ends[key]], marker="D", markersize=6, linestyle="none", clip_on=False,
                markerfacecolor="white", markeredgecolor=colour,
                label=f"{name}, paper's end point",
            )  # fmt: skip
    if floor is not None:
        axes.axhline(floor, color="0.45", linewidth=1.0, label=f"best possible, {floor:.2f}")
    record = next(iter(groups.values()))[0]
    info = record.metrics.get(metric, MetricInfo("", "min", metric))
    axes.set_xlabel({"epoch": "epoch", "step": "update [steps]"}.get(x, x))
    axes.set_ylabel(textwrap.fill(info.title, 36))
    kind = "" if record.data == "real" else f", {record.data} data"
    axes.set_title(f"{record.task}, scale {record.scale}{kind}: mean and range over seeds")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(True, linewidth=0.4, alpha=0.5)
    # Outside the axes: a legend inside covers some curve sooner or later.
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _act_index(act: str) -> tuple[int, str]:
    return (ACT_ORDER.index(act) if act in ACT_ORDER else len(ACT_ORDER), act)


def line_name(record: Record) -> str:
    """What a run's line is called: its row of an experiment, else its activation."""
    return (record.experiment or record.act).rpartition("/")[2]


def _styles(acts: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    """Colour by activation and line style by line, from the activation of each line's name."""
    others = sorted({act for act in acts.values() if act not in ACT_ORDER})
    places = {act: rank for rank, act in enumerate([*ACT_ORDER, *others])}
    styles: dict[str, tuple[str, Any]] = {}
    for name, act in acts.items():
        colour = PALETTE[places[act] % len(PALETTE)]
        # The activation's own line, then the next ones for further rows of the same colour.
        first = places[act] + places[act] // len(PALETTE)
        taken = [line for other, line in styles.values() if other == colour]
        lines = [LINE_STYLES[(first + k) % len(LINE_STYLES)] for k in range(len(LINE_STYLES))]
        styles[name] = colour, next((line for line in lines if line not in taken), lines[0])
    return styles
