"""Draw results/figures/ from the committed run records: `make figures`.

Examples:
    python scripts/make_figures.py
    python scripts/make_figures.py table5 fig11
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a checkout that is not installed

from noisyexp.errors import NoisyexpError  # noqa: E402
from noisyexp.fileio import read_json  # noqa: E402
from noisyexp.results.analysis_figures import mixture_figures, plot_learning  # noqa: E402
from noisyexp.results.escape import draw_fig2  # noqa: E402
from noisyexp.results.figures import line_name, plot_curves  # noqa: E402
from noisyexp.results.records import Record, load_records  # noqa: E402
from noisyexp.results.rows import Row, load_rows  # noqa: E402
from noisyexp.results.unit_figures import UNIT_FIGURES  # noqa: E402
from noisyexp.tasks.lte.scoring import chance_accuracies  # noqa: E402
from noisyexp.tasks.ntm_recall.data import (  # noqa: E402
    chance_nats,
    query_blind_mean,
    query_blind_nats,
)
from noisyexp.tasks.unique_count.data import majority_error  # noqa: E402

MOST_LINES = 6
"""Rows that still can be told apart in one figure; beyond, rows of ours get one of their own."""


Levels = Mapping[str, Mapping[str, float]]


def counting_levels(task: Mapping[str, Any]) -> Levels:
    """The majority error, and smooth counting at the lengths and values of Table 5."""
    lines = {"majority": majority_error(task["length"], task["num_values"])}
    if (task["length"], task["num_values"]) == (26, 11):
        # Best thresholds on sums of 1 - exp(-a n); tests/tasks/test_unique_count.py.
        lines |= {"smooth counting, a = 0.25": 34.1, "smooth counting, a = 1": 10.3}
    return {"valid_error": lines}


def recall_levels(task: Mapping[str, Any]) -> Levels:
    """Chance, and the best that a machine can do that knows the list and ignores the query."""
    low, high = task["min_items"], task["max_items"]
    blind = {
        "max": query_blind_nats(high), "mix": query_blind_mean(low, high),
        "min": query_blind_nats(low),
    }  # fmt: skip
    return {
        f"valid_nats_{role}": {"chance": chance_nats(), "query ignored": value}
        for role, value in blind.items()
    }


def program_levels(task: Mapping[str, Any]) -> Levels:
    """The most frequent character at each place of the output, given the one before it."""
    chance = chance_accuracies((task["target_length"], task["target_nesting"]))
    return {"target_acc": {"place and last character": chance["previous"]}}


@dataclass(frozen=True)
class Curves:
    """What is drawn of the rows of a table or figure.

    Attributes:
        metrics: panels from top to bottom.
        x: "epoch" or "step".
        levels: horizontal lines by metric, from the section `task` of the configuration.
        seeds: every run as a line of its own.
    """

    metrics: tuple[str, ...]
    x: str = "step"
    levels: Callable[[Mapping[str, Any]], Levels] = lambda task: {}
    seeds: bool = False


CURVES = {
    "table1": Curves(("target_acc", "train_acc", "level"), levels=program_levels),
    "table2": Curves(("valid_ppl_zaremba",), "epoch"),
    "table5": Curves(("valid_error", "c", "train_length"), levels=counting_levels),
    "fig8": Curves(("valid_bpc", "train_bpc", "saturated")),
    "fig11": Curves(
        ("valid_nats_max", "valid_nats_mix", "valid_nats_min", "saturated", "c"),
        levels=recall_levels,
        seeds=True,
    ),
}


def parts(rows: list[Row]) -> dict[str, set[str]]:
    """Experiments by suffix of the figure: one figure, or the paper's rows and ours apart."""
    if len(rows) <= MOST_LINES:
        return {"": {row.experiment for row in rows}}
    paper = {row.experiment for row in rows if row.source == "paper"}
    first = min(rows, key=lambda row: row.order).experiment
    return {"": paper, "-ours": {row.experiment for row in rows} - paper | {first}}


def scales_of(name: str, root: Path) -> dict[str, list[Record]]:
    """Records of the rows of `name` on the paper's data, by scale."""
    names = {row.experiment for row in load_rows(root / "configs" / "experiment" / name)}
    found: dict[str, list[Record]] = {}
    for record in load_records(root / "results" / "records"):
        if record.experiment in names and record.data == "real":
            found.setdefault(record.scale, []).append(record)
    return found


def draw_curves(name: str, curves: Curves, root: Path) -> list[Path]:
    """The curves of one table or figure, a picture for each scale."""
    rows = load_rows(root / "configs" / "experiment" / name)
    by_name = {row.experiment: row for row in rows}
    metric = curves.metrics[0]
    drawn: list[Path] = []
    for scale, records in scales_of(name, root).items():
        for suffix, experiments in parts(rows).items():
            chosen = [record for record in records if record.experiment in experiments]
            if not chosen:
                continue
            ends = {
                line_name(record): end
                for record in chosen
                if scale == "paper" and (end := by_name[str(record.experiment)].paper.get(metric))
            }
            path = root / "results" / "figures" / f"{name}-{scale}{suffix}"
            levels = curves.levels(chosen[0].config["task"])
            drawn += plot_curves(chosen, curves.metrics, path, ends, curves.x, levels, curves.seeds)
    return drawn


def draw_units(name: str, root: Path) -> list[Path]:
    """Figures 1, 3 and 4, from the units themselves."""
    return list(UNIT_FIGURES[name][0](root / "results" / "figures" / name))


def draw_escape(root: Path) -> list[Path]:
    """Figure 2, from the numbers of `scripts/escape.py`; nothing without them."""
    path = root / "results" / "escape.json"
    if not path.exists():
        return []
    return list(draw_fig2(read_json(path), root / "results" / "figures" / "fig2"))


def draw_digits(root: Path) -> list[Path]:
    """Figure 5."""
    drawn: list[Path] = []
    for scale, records in scales_of("fig5", root).items():
        drawn += plot_learning(records, root / "results" / "figures" / f"fig5-{scale}")
    return drawn


def draw_mixture(root: Path) -> list[Path]:
    """Figures 6 and 7."""
    drawn: list[Path] = []
    for scale, records in scales_of("fig6", root).items():
        runs = [(record.findings, record.config) for record in records if record.complete]
        drawn += mixture_figures(runs, root / "results" / "figures", scale)
    return drawn


FIGURES: dict[str, Callable[[Path], list[Path]]] = {
    **{name: partial(draw_units, name) for name in UNIT_FIGURES},
    "fig2": draw_escape,
    "fig5": draw_digits,
    "fig6": draw_mixture,
    **{name: partial(draw_curves, name, curves) for name, curves in CURVES.items()},
}


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Draw figures from the committed run records.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(FIGURES)}; default: all")
    names = parser.parse_args(arguments).names or list(FIGURES)
    for name in names:
        if name not in FIGURES:
            parser.error(f"no figure {name}; there are {', '.join(FIGURES)}")
    try:
        for name in names:
            for path in FIGURES[name](root):
                print(f"wrote {path.relative_to(root)}")
    except NoisyexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
