"""Curves of groups of runs as a picture: one panel for each metric that is shown."""

from __future__ import annotations

import io
from collections import Counter

from noisyexp.errors import RecordError
from noisyexp.pictures.curves import LINE_STYLES, PALETTE, figure_style
from noisyexp.report.group_curves import curve_metrics, curve_title, group_curve
from noisyexp.report.group_table import Report


def draw(report: Report) -> bytes:
    """A PNG: mean over seeds and 95 % interval over epochs, a line a group.

    Raises:
        RecordError: no run has a curve of the metrics, or there are several tasks.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = Counter(group.task for group in report.groups)
    if len(tasks) > 1:
        raise RecordError(f"a picture shows one task, here are {', '.join(tasks)}: use where=task=")
    shown = [name for name in curve_metrics(report.groups) if name in report.metrics]
    shown = shown or curve_metrics(report.groups)[:1]
    if not shown:
        raise RecordError("nothing to draw: no complete run has a curve")
    with figure_style():
        figure = Figure(figsize=(7.0, 1.0 + 2.6 * len(shown)), layout="constrained")
        FigureCanvasAgg(figure)  # type: ignore[no-untyped-call]
        panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for panel, metric in zip(panels, shown, strict=True):
            for place, group in enumerate(report.groups):
                curve = group_curve(group, metric, "epoch")
                colour = PALETTE[place % len(PALETTE)]
                style = LINE_STYLES[place // len(PALETTE) % len(LINE_STYLES)]
                label = f"{group.name} (n={curve.n})"
                panel.plot(curve.x, curve.mean, color=colour, linestyle=style, label=label)
                panel.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, lw=0)
            panel.set_ylabel(curve_title(metric, report.metrics))
            panel.grid(alpha=0.3)
        panels[-1].set_xlabel("epoch")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
