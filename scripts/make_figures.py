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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a checkout that is not installed

from noisyexp.errors import NoisyexpError  # noqa: E402
from noisyexp.results.figures import line_name, plot_curves  # noqa: E402
from noisyexp.results.records import load_records  # noqa: E402
from noisyexp.results.rows import Row, load_rows  # noqa: E402
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
        seeds: every run as a thin line too.
    """

    metrics: tuple[str, ...]
    x: str = "step"
    levels: Callable[[Mapping[str, Any]], Levels] = lambda task: {}
    seeds: bool = False


CURVES = {
    "table1": Curves(("target_acc", "train_acc", "level"), levels=program_levels),
    "table2": Curves(("valid_ppl_zaremba",), "epoch"),
    "table5": Curves(("valid_error", "c", "train_length"), levels=counting_levels),
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


def draw(name: str, curves: Curves, root: Path) -> list[Path]:
    """The figures of one table, for each scale that has runs on the paper's data."""
    rows = load_rows(root / "configs" / "experiment" / name)
    by_name = {row.experiment: row for row in rows}
    records = [r for r in load_records(root / "results" / "records") if r.experiment in by_name]
    metric = curves.metrics[0]
    drawn: list[Path] = []
    for scale in dict.fromkeys(record.scale for record in records):
        for suffix, experiments in parts(rows).items():
            chosen = [
                record
                for record in records
                if record.scale == scale
                and record.data == "real"
                and record.experiment in experiments
            ]
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


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Draw figures from the committed run records.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CURVES)}; default: all")
    names = parser.parse_args(arguments).names or list(CURVES)
    for name in names:
        if name not in CURVES:
            parser.error(f"no curves for {name}; there are {', '.join(CURVES)}")
    try:
        for name in names:
            for path in draw(name, CURVES[name], root):
                print(f"wrote {path.relative_to(root)}")
    except NoisyexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
