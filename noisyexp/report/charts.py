"""The curves of a page, drawn by Bokeh: metric, axis and scales can be chosen, lines hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from noisyexp.records.metric import Metric
from noisyexp.report.group_curves import POSITIONS, curve_metrics, curve_title, group_curve
from noisyexp.report.groups import Group

# Okabe and Ito (2008) without yellow and black: these are read on white and on near black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8c8c8c")
DASHES = ("solid", "dashed", "dotdash", "dotted")
INK = "#808891"
"""Text and axes: readable on white and on near black, as the page follows the reader's choice."""


def chart_data(groups: Sequence[Group]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Curves by metric, position and group, as plain lists."""
    data: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for metric in curve_metrics(groups):
        for x in POSITIONS:
            curves = [group_curve(group, metric, x) for group in groups]
            if any(curve.x for curve in curves):
                data.setdefault(metric, {})[x] = [
                    {"x": c.x, "mean": c.mean, "low": c.low, "high": c.high} for c in curves
                ]
    return data


def make_chart(groups: Sequence[Group], infos: dict[str, Metric], first: Sequence[str]) -> Any:
    """A Bokeh layout, or None when no run has a curve.

    Args:
        groups: one line each.
        infos: titles of metrics.
        first: metrics of which the first with a curve is shown at the beginning.
    """
    from bokeh.layouts import column, row
    from bokeh.models import ColumnDataSource, CustomJS, RadioButtonGroup, Select

    data = chart_data(groups)
    if not data:
        return None
    metric = next(name for name in [*first, *data] if name in data)
    x = next(iter(data[metric]))
    sources = [ColumnDataSource(dict(entry)) for entry in data[metric][x]]
    figures = {kinds: _figure(groups, sources, kinds, x) for kinds in SCALES}
    for kinds, figure in figures.items():
        figure.visible = kinds == ("linear", "linear")
    titles = [(name, curve_title(name, infos)) for name in data]
    choose_metric = Select(
        title="metric", value=metric, options=titles, width=320, stylesheets=[READABLE]
    )
    choose_x = RadioButtonGroup(labels=list(POSITIONS), active=POSITIONS.index(x))
    choose_y_scale = RadioButtonGroup(labels=["linear y", "log y"], active=0)
    choose_x_scale = RadioButtonGroup(labels=["linear x", "log x"], active=0)
    plots = list(figures.values())
    update = CustomJS(
        args={
            "data": data, "sources": sources, "plots": plots, "positions": list(POSITIONS),
            "metric": choose_metric, "x": choose_x, "ys": choose_y_scale, "xs": choose_x_scale,
            "axes": [plot.xaxis[0] for plot in plots],
        },
        code=UPDATE,
    )  # fmt: skip
    choose_metric.js_on_change("value", update)
    for choice in (choose_x, choose_y_scale, choose_x_scale):
        choice.js_on_change("active", update)
    bar = row(
        choose_metric, choose_x, choose_x_scale, choose_y_scale, sizing_mode="stretch_width",
        styles={"flex-wrap": "wrap", "gap": "0.6rem", "align-items": "end"},
    )  # fmt: skip
    return column(bar, *plots, sizing_mode="stretch_width")


READABLE = ".bk-input { color: #1c1e21; background-color: #ffffff; } label { color: #808891; }"
"""Of the list of metrics, whose box stays white in the dark."""
SCALES = (("linear", "linear"), ("log", "linear"), ("linear", "log"), ("log", "log"))
"""Of x and y: Bokeh cannot change the scale of an axis, so there is a plot for each."""

UPDATE = """
const name = positions[x.active];
const chosen = data[metric.value][name] ?? Object.values(data[metric.value])[0];
chosen.forEach((curve, place) => { sources[place].data = curve; });
plots.forEach((plot, place) => {
  plot.visible = place === xs.active + 2 * ys.active;
  axes[place].axis_label = name;
});
"""


def _figure(groups: Sequence[Group], sources: Sequence[Any], kinds: tuple[str, str], x: str) -> Any:
    """One plot with the given axes; all plots share their sources."""
    from bokeh.models import HoverTool, Legend
    from bokeh.plotting import figure

    plot = figure(
        frame_height=360, sizing_mode="stretch_width", x_axis_type=kinds[0], y_axis_type=kinds[1],
        tools="pan,box_zoom,wheel_zoom,reset,save", active_scroll=None,
        background_fill_alpha=0.0, border_fill_alpha=0.0, outline_line_color=None,
    )  # fmt: skip
    items = []
    for place, (group, source) in enumerate(zip(groups, sources, strict=True)):
        colour = COLOURS[place % len(COLOURS)]
        dash = DASHES[place // len(COLOURS) % len(DASHES)]
        band = plot.varea("x", "low", "high", source=source, fill_color=colour, fill_alpha=0.15)
        line = plot.line(
            "x", "mean", source=source, line_color=colour, line_dash=dash, line_width=2,
            name=group.name,
        )  # fmt: skip
        items.append((f"{group.name} (n={group.statuses['complete']})", [line, band]))
        tips = [("", group.name), (x if x == "step" else "at", "@x"), ("mean", "@mean{0.000}"),
                ("95 %", "@low{0.000} to @high{0.000}")]  # fmt: skip
        plot.add_tools(HoverTool(renderers=[line], tooltips=tips, visible=False))
    if kinds[1] == "log":  # an interval may reach below 0, which a logarithm cannot show
        plot.y_range.renderers = [renderers[0] for _, renderers in items]
    legend = Legend(items=items, click_policy="hide", ncols=1, label_text_font_size="9pt")
    legend.label_text_color, legend.background_fill_alpha, legend.border_line_color = INK, 0.0, None
    legend.location, legend.padding = "bottom_left", 0
    plot.add_layout(legend, "below")
    for axis in plot.axis:
        axis.axis_label_text_color = axis.major_label_text_color = INK
        axis.axis_line_color = axis.major_tick_line_color = INK
        axis.minor_tick_line_color = None
    plot.grid.grid_line_color, plot.grid.grid_line_alpha = INK, 0.25
    plot.xaxis.axis_label = x
    return plot
