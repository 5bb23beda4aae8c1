"""A report as one HTML file that needs no network: table, curves, runs."""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from noisyexp.errors import NoisyexpError
from noisyexp.report.charts import make_chart
from noisyexp.report.group_table import RULE, Report, cells, compared_with, number, problems
from noisyexp.report.groups import FIRST, Group
from noisyexp.report.run_set import Run

COMPONENTS = ("bokeh", "bokeh-widgets")
"""Parts of Bokeh's script that the page carries."""
FEW_SETTINGS = 3
RUN_HEAD = (
    "group", "seed", "status", "step", "wall time [min]", "training time [ms/step]", "device",
    "folder",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """Text of a cell, the number it is sorted by, and what it leads to."""

    text: str
    value: float | None = None
    best: bool = False
    link: str = ""


def make_html(report: Report) -> str:
    """The page.

    Raises:
        NoisyexpError: Bokeh is not installed.
    """
    try:
        from bokeh.embed import components
        from bokeh.resources import Resources
    except ImportError as error:
        raise NoisyexpError(
            "a page needs Bokeh: run pip install 'noisyexp[report]' (or choose out=table.md)"
        ) from error
    from jinja2 import Environment
    from markupsafe import Markup

    infos = {n: i for g in report.groups for run in g.runs for n, i in run.record.metrics.items()}
    chart = make_chart(report.groups, infos, [*report.metrics, *selections(report)])
    script, block = components(chart) if chart is not None else ("", "")
    inline = Resources(mode="inline", components=list(COMPONENTS)).render() if chart else ""
    head, lines = table(report)
    runs = [run_cells(group, run) for group in report.groups for run in group.runs]
    template = resources.files("noisyexp.report").joinpath("html_report.html").read_text("utf-8")
    text: str = (
        Environment(autoescape=True)
        .from_string(template)
        .render(
            title=title(report),
            lead=lead(report),
            head=head,
            lines=lines,
            rule=" ".join(filter(None, [RULE.replace("Bold", "Green"), compared_with(report)])),
            chart=Markup(block + script),
            scripts=Markup(inline),
            problems=problems(report),
            run_head=RUN_HEAD,
            runs=runs,
            command=command(),
            made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        )
    )
    return text


def selections(report: Report) -> list[str]:
    """The metrics by which the tasks select."""
    found = dict.fromkeys(run.record.selection for group in report.groups for run in group.runs)
    return [name for name in found if name is not None]


def title(report: Report) -> str:
    """Tasks of the report."""
    return "Runs of " + ", ".join(dict.fromkeys(group.task for group in report.groups))


def lead(report: Report) -> str:
    """How many runs and groups, and their wall time."""
    runs = [run for group in report.groups for run in group.runs]
    done = sum(run.record.complete for run in runs)
    hours = sum(_cost(run, "wall_s") or 0.0 for run in runs) / 3600
    groups = len(report.groups)
    return (
        f"{len(runs)} runs in {groups} group{'s' if groups != 1 else ''}, {done} complete, "
        f"{number(hours)} hours of wall time."
    )


def table(report: Report) -> tuple[list[str], list[list[Cell]]]:
    """Head and lines of the table of groups, with the numbers to sort by.

    Where groups differ in more settings than fit beside their names, these come last.
    """
    head, lines, best = cells(report)
    rows = []
    for place, (group, line) in enumerate(zip(report.groups, lines, strict=True)):
        values = sort_values(report, group)
        rows.append(
            [
                Cell(text, values.get(j), (place, j) in best and bool(text))
                for j, text in enumerate(line)
            ]
        )
    names = [j for j, key in enumerate(report.keys) if key in FIRST]
    others = [j for j in range(len(report.keys)) if j not in names]
    order = [*names, *range(len(report.keys), len(head)), *others]
    if len(others) <= FEW_SETTINGS:
        order = list(range(len(head)))
    return [head[j] for j in order], [[row[j] for j in order] for row in rows]


def sort_values(report: Report, group: Group) -> dict[int, float]:
    """Number of a cell by its column; cells of text have none."""
    values: dict[int, float] = {}
    for j, key in enumerate(report.keys):
        setting = group.settings[key]
        if isinstance(setting, int | float) and not isinstance(setting, bool):
            values[j] = float(setting)
    place = len(report.keys)
    values[place] = float(group.statuses["complete"])
    for name in report.metrics:
        place += 1
        estimate = group.estimate(name)
        if estimate is not None:
            values[place] = estimate.mean
        if report.compares:
            place += 1
            found = report.difference(group, name)
            if found is not None:
                values[place] = found.mean
    return values


def run_cells(group: Group, run: Run) -> list[Cell]:
    """One run: how it ended, what it cost, where it lies."""
    record = run.record
    folder = run.path.parent if run.path.name == "run.json" else run.path
    minutes, speed = _cost(run, "wall_s"), _cost(run, "s_per_step")
    machine: Mapping[str, Any] = record.machine
    step = record.final.get("step")
    return [
        Cell(group.name),
        Cell(str(record.seed), record.seed),
        Cell(record.status),
        Cell("" if step is None else str(step), step),
        Cell("" if minutes is None else number(minutes / 60), minutes),
        Cell("" if speed is None else number(1000 * speed), speed),
        Cell(str(machine.get("device", ""))),
        Cell(folder.name, link=folder.resolve().as_uri()),
    ]


def _cost(run: Run, key: str) -> float | None:
    value = run.record.cost.get(key)
    return float(value) if isinstance(value, int | float) else None


def command() -> str:
    """The command line that made the page."""
    return shlex.join(["noisyexp", *sys.argv[1:]])
