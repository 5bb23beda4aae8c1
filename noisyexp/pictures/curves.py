"""Learning curves from run records, drawn so that they can be read in print and without colour."""

from __future__ import annotations

import contextlib
import io
import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from noisyexp.errors import RecordError
from noisyexp.fileio import atomic_write_bytes
from noisyexp.records.run_record import RunRecord
from noisyexp.report.group_curves import curve_title

# Okabe and Ito (2008), without yellow, which is too light for lines on white, and a grey.
PALETTE = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#808080")
LABEL_WIDTH = 36
"""Letters of a line of a legend in two columns, which has to fit below the picture."""
HARD_SPACE = "\N{NO-BREAK SPACE}"
LEVEL_WIDTH = 20
"""Letters of a line of what is written beside a level."""
LINE_STYLES = (
    "-",
    "--",
    "-.",
    ":",
    (0, (5, 1, 1, 1, 1, 1)),
    (0, (7, 2)),
    (0, (1, 2)),
    (0, (9, 2, 2, 2)),
)
# One colour and one dash an activation in every figure of the project, whatever is drawn beside it.
MARKERS = ("", "o", "s", "^", "v", "X", "P", "<", ">", "*")
"""Of the lines of a figure in their order: they tell rows of one activation apart, and lines that
coincide, since each line has its markers at places of its own."""
ACT_ORDER = ("reference", "hard", "nan_normal", "nah", "nani", "nanil", "nanis", "nah_mean")


def curve_band(
    records: Sequence[RunRecord], metric: str, x: str
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
    records: Sequence[RunRecord],
    metrics: str | Sequence[str],
    path: Path,
    reference_lines: Mapping[str, float] | None = None,
    x: str = "epoch",
    levels: Mapping[str, Mapping[str, float]] | None = None,
    seeds: bool = False,
    tops: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
    title: str | None = None,
) -> tuple[Path, Path]:
    """Draw metrics over training, one line a row or activation, as SVG and PNG.

    The line is the mean of the runs that finished, the band their range; others are only counted.

    Args:
        records: runs of one task at one scale.
        metrics: key of the curve entries, "valid_ppl", or several for panels one above the other;
            what changes along the way, "c" or the level of a curriculum, is drawn in this manner.
            Only the first has to be there.
        path: where to write, without or with a suffix; ".svg" and ".png" are put in its place.
        reference_lines: the paper's end point by name of the line (see `line_name`), drawn as a
            diamond at the right end of the first panel.
        x: what to draw it over, "epoch" or "step".
        levels: horizontal lines by metric: label to value, as the chance level.
        seeds: draw every run instead of mean and range, which hide sudden changes.
        labels: printed name by name of the line; default: the activation and the row.
        title: above the picture, before the scale; default: the task.
        tops: upper ends of axes by metric; without effect where all values are higher.

    Returns:
        Paths of the SVG and the PNG file; the same records give the same SVG.

    Raises:
        RecordError: no run has the metric, or the runs are of several tasks, scales or data sets.
    """
    kinds = sorted({(r.task, r.scale, r.data) for r in records})
    if len(kinds) > 1:
        raise RecordError(f"one figure shows one task, scale and data set; given are {kinds}")
    groups = _by_line(records)
    wanted = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    panels = {
        metric: {
            name: curve_band([r for r in runs if r.complete], metric, x)
            for name, runs in groups.items()
        }
        for metric in wanted
    }
    drawn = {m: bands for m, bands in panels.items() if any(band[0] for band in bands.values())}
    if wanted[0] not in drawn:
        raise RecordError(f"nothing to draw: no complete run has {wanted[0]!r} over {x!r}")
    with figure_style():
        return save_figure(
            _draw(
                groups, drawn, reference_lines or {}, x, levels or {}, seeds, tops or {},
                {key: legend_label(key, runs, labels or {}) for key, runs in groups.items()}, title,
            ),
            path,
        )  # fmt: skip


def _by_line(records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """The runs of every line, in the order of the legend."""
    # The plain row of an activation first: it gets the activation's own line style.
    order = sorted({(_act_index(r.act), line_name(r) != r.act, line_name(r)) for r in records})
    return {name: [r for r in records if line_name(r) == name] for *_, name in order}


@contextlib.contextmanager
def figure_style() -> Iterator[None]:
    """Fonts of all figures, and SVG files whose bytes depend on their content alone."""
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


Band = tuple[list[float], list[float], list[float], list[float]]


def _draw(
    groups: Mapping[str, Sequence[RunRecord]],
    panels: Mapping[str, Mapping[str, Band]],
    ends: Mapping[str, float],
    x: str,
    levels: Mapping[str, Mapping[str, float]],
    seeds: bool,
    tops: Mapping[str, float],
    names: Mapping[str, str],
    title: str | None,
) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    heights = [3.0] + [1.2] * (len(panels) - 1)
    rows = len(ends) + sum(name.count("\n") + 1 for name in names.values())
    legend = 0.2 * ((rows + 1) // 2)
    figure = Figure(figsize=(6.4, sum(heights) + legend + 0.4), layout="constrained")
    FigureCanvasAgg(figure)  # no window system is needed, and pyplot's global state is not touched
    every = figure.subplots(
        len(panels), sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    styles = _styles({name: runs[0].act for name, runs in groups.items()})
    record = next(iter(groups.values()))[0]
    for axes, (metric, bands) in zip(every, panels.items(), strict=True):
        if seeds:
            runs = {name: [curve_band([r], metric, x) for r in groups[name]] for name in bands}
            _draw_runs(axes, names, runs, styles)
        else:
            _draw_panel(axes, names, bands, styles)
        for k, (label, value) in enumerate(levels.get(metric, {}).items()):
            axes.axhline(value, color="0.45", linewidth=1.0, linestyle=LINE_STYLES[k % 4])
            axes.annotate(  # beside the axes: within, curves would cover it
                textwrap.fill(f"{label}, {value:.4g}", LEVEL_WIDTH), (1.0, value),
                xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
                fontsize=7, color="0.25", va="center", annotation_clip=False,
            )  # fmt: skip
        words = curve_title(metric, record.metrics)
        axes.set_ylabel(textwrap.fill(words, 36 if axes is every[0] else 18))
        axes.grid(True, linewidth=0.4, alpha=0.5)
        low, top = axes.dataLim.ymin, tops.get(metric, -math.inf)
        if low < top < axes.dataLim.ymax:
            axes.set_ylim(low - 0.05 * (top - low), top)
    _draw_ends(every[0], panels, groups, ends, styles)
    every[-1].set_xlabel({"epoch": "epoch", "step": "update"}.get(x, x))
    every[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    kind = "" if record.data == "real" else f", {record.data} data"
    shown = "single runs" if seeds else "mean and range over seeds"
    every[0].set_title(f"{title or record.task}, scale {record.scale}{kind}: {shown}")
    # Outside the axes: a legend inside covers some curve sooner or later.
    handles, labels = every[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw_panel(
    axes: Any, names: Mapping[str, str], bands: Mapping[str, Band], styles: Mapping[str, Style]
) -> None:
    """Mean and range of every line that has the metric."""
    from matplotlib.transforms import ScaledTranslation

    equal = Counter[tuple[float, ...]]()
    for key, (positions, mean, low, high) in bands.items():
        # A given schedule may be the same for several lines: then one below the other.
        line = draw_line(axes, styles[key], positions, mean, names[key], 1.6)
        lower = ScaledTranslation(0, -2.5 / 72 * equal[tuple(mean)], axes.figure.dpi_scale_trans)
        line.set_transform(line.get_transform() + lower)
        equal[tuple(mean)] += 1
        axes.fill_between(positions, low, high, color=styles[key].colour, alpha=0.18, linewidth=0)


def _draw_runs(
    axes: Any,
    names: Mapping[str, str],
    runs: Mapping[str, Sequence[Band]],
    styles: Mapping[str, Style],
) -> None:
    """Every run as a line of its own, named once a row."""
    for key, bands in runs.items():
        for index, (positions, values, *_) in enumerate(bands):
            label = names[key] if index == 0 else None
            draw_line(axes, styles[key], positions, values, label, 1.2)


def draw_line(
    axes: Any, style: Style, x: Sequence[float], y: Sequence[float], label: str | None, width: float
) -> Any:
    """One line in its style, with a few markers."""
    lines = style.lines
    stride = max(1, min(max(lines, len(x) // 8), len(x) // 3))
    (line,) = axes.plot(
        x, y, label=label, linewidth=width, color=style.colour, linestyle=style.dash,
        marker=style.marker, markevery=(style.place * stride // lines, stride), markersize=4,
        markerfacecolor="white", markeredgewidth=1.0,
    )  # fmt: skip
    return line


def legend_label(key: str, runs: Sequence[RunRecord], labels: Mapping[str, str]) -> str:
    """What the legend says of a line: its printed name and how many of its runs finished."""
    finished = sum(run.complete for run in runs)
    seeds = f"{finished} seed{'s' if finished != 1 else ''}"
    if finished < len(runs):
        seeds = f"{finished} of {len(runs)} finished"
    if key in labels:
        # A space that does not break: a line of the legend never begins within the brackets.
        return textwrap.fill(f"{labels[key]} ({seeds.replace(' ', HARD_SPACE)})", LABEL_WIDTH)
    name = _act_label(runs[0])
    if key not in (runs[0].act, "reference"):
        name += f", row {key}"
    return f"{name} ({seeds})"


def _act_label(record: RunRecord) -> str:
    act = record.config.get("act") or {}
    kinds = [act.get(kind) or {} for kind in ("tanh", "sigmoid")]
    scales = [act.get("c") if kind.get("c") is None else kind["c"] for kind in kinds]
    quiet = ", c = 0" if all(c == 0 for c in scales) else ""
    return str(act.get("label") or record.act) + quiet


def _draw_ends(
    axes: Any,
    panels: Mapping[str, Mapping[str, Band]],
    groups: Mapping[str, Sequence[RunRecord]],
    ends: Mapping[str, float],
    styles: Mapping[str, Style],
) -> None:
    """The paper's end points at the right end of the first panel."""
    first = next(iter(panels.values()))
    right = max(positions[-1] for positions, *_ in first.values() if positions)
    named: set[tuple[str, float]] = set()
    for key in (key for key in first if key in ends):
        label = f"{_act_label(groups[key][0])}, paper's end point"
        if (label, ends[key]) in named:  # one row of the paper, run in several settings
            continue
        named.add((label, ends[key]))
        axes.plot(
            [right], [ends[key]], marker="D", markersize=6, linestyle="none", clip_on=False,
            markerfacecolor="white", markeredgecolor=styles[key].colour, label=label,
        )  # fmt: skip


def _act_index(act: str) -> tuple[int, str]:
    return (ACT_ORDER.index(act) if act in ACT_ORDER else len(ACT_ORDER), act)


def line_name(record: RunRecord) -> str:
    """The name of a run's line: its row of an experiment, else its activation."""
    return (record.experiment or record.act).rpartition("/")[2]


class Style(NamedTuple):
    """How a line is drawn: colour and dash say which activation, the marker which line it is.

    Attributes:
        colour, dash, marker: as matplotlib takes them.
        place: of the line in its figure, from 0.
        lines: of the figure.
    """

    colour: str
    dash: Any
    marker: str
    place: int
    lines: int


def _styles(acts: Mapping[str, str]) -> dict[str, Style]:
    """The styles of a figure's lines, from the activation of each line's name."""
    others = sorted({act for act in acts.values() if act not in ACT_ORDER})
    ranks = {act: rank for rank, act in enumerate([*ACT_ORDER, *others])}
    size = len(PALETTE)
    return {
        name: Style(
            PALETTE[ranks[act] % size], LINE_STYLES[(ranks[act] + ranks[act] // size) % size],
            MARKERS[place % len(MARKERS)], place, len(acts),
        )
        for place, (name, act) in enumerate(acts.items())
    }  # fmt: skip


def plot_panels(panels: Sequence[tuple[str, Any, str, str]], path: Path) -> tuple[Path, Path]:
    """Draw matrices as shades of grey, one above the other, as SVG and PNG.

    Panels whose rows mean the same share a scale, so that one shade is one number.

    Args:
        panels: title, values (rows, columns), meaning of the columns, meaning of the rows.
        path: where to write, without or with a suffix.

    Returns:
        Paths of the SVG and the PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    shapes = [tuple(values.shape) for _, values, _, _ in panels]
    heights = [max(min(6.0 * rows / columns, 0.25 * rows, 4.0), 0.8) for rows, columns in shapes]
    with figure_style():
        figure = Figure(figsize=(6.4, sum(heights) + 0.6 * len(panels)), layout="constrained")
        FigureCanvasAgg(figure)
        every = figure.subplots(len(panels), squeeze=False, gridspec_kw={"height_ratios": heights})[
            :, 0
        ]
        for axes, (title, values, x, y) in zip(every, panels, strict=True):
            alike = [other for _, other, _, meaning in panels if meaning == y]
            image = axes.imshow(
                values, cmap="gray_r", aspect="auto", interpolation="nearest",
                vmin=min(0.0, *(float(other.min()) for other in alike)),
                vmax=max(float(other.max()) for other in alike),
            )  # fmt: skip
            figure.colorbar(image, ax=axes)
            axes.set(title=title, xlabel=x, ylabel=y)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return save_figure(figure, path)
