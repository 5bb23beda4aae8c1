"""The pictures of results/figures: the records and the caption of each.

A figure is drawn once for each scale that has records. The scale nearest to the paper's at which a
noisy row is complete beside the baseline gives the picture its plain name, `fig9`; the others are
`fig9-<scale>`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noisyexp.fileio import read_json
from noisyexp.pictures.analysis_figures import mixture_figures, plot_learning
from noisyexp.pictures.captions import CAPTIONS
from noisyexp.pictures.curves import line_name, plot_curves
from noisyexp.pictures.escape import caption_fig2, draw_fig2
from noisyexp.pictures.levels import Levels, counting_levels, program_levels, recall_levels
from noisyexp.pictures.unit_figures import UNIT_FIGURES
from noisyexp.records.row_files import Row, load_rows
from noisyexp.records.run_record import RunRecord, load_records

MOST_LINES = 7
"""Most rows of one readable figure; with more, our rows get a figure of their own."""
SCALES = ("paper", "cpu", "smoke", "demo")
"""From the paper's own to the smallest."""


@dataclass(frozen=True)
class Picture:
    """One file pair of results/figures.

    Attributes:
        stem: name without suffix, "fig9-cpu".
        caption: content and records.
    """

    stem: str
    caption: str


@dataclass(frozen=True)
class Curves:
    """The curves of the rows of a table or figure.

    Attributes:
        rows: folder of the row files, "table2".
        metrics: panels from top to bottom.
        x: "epoch" or "step".
        end: the paper's number that is drawn as end point, by its name in the row files; at scale
            paper only.
        levels: horizontal lines by metric, from the section `task` of the configuration.
        seeds: every run as a line of its own.
        tops: upper ends of axes by metric.
    """

    rows: str
    metrics: tuple[str, ...]
    x: str = "step"
    end: str = ""
    levels: Callable[[Mapping[str, Any]], Levels] = lambda task: {}
    seeds: bool = False
    tops: Mapping[str, float] = field(default_factory=dict)


CURVES = {
    "fig8": Curves("fig8", ("train_bpc", "valid_bpc", "saturated")),
    "fig9": Curves(
        "table2",
        ("valid_ppl_zaremba", "train_ppl"),
        "epoch",
        end="valid_ppl_zaremba",
        tops={"valid_ppl_zaremba": 150.0, "train_ppl": 150.0},
    ),
    "fig10": Curves(
        "table1", ("target_acc", "train_acc", "level"), end="test_acc", levels=program_levels
    ),
    "fig11": Curves(
        "fig11",
        ("valid_nats_max", "valid_nats_mix", "valid_nats_min", "saturated", "c"),
        levels=recall_levels,
        seeds=True,
    ),
    "table3": Curves("table3", ("valid_nll", "train_nll"), "epoch"),
    "table4": Curves("table4", ("valid_nll", "train_nll")),
    "table5": Curves("table5", ("valid_error", "c", "train_length"), levels=counting_levels),
}


def parts(rows: Sequence[Row]) -> dict[str, set[str]]:
    """Experiments by suffix of the picture: one picture, or the paper's rows and ours apart."""
    if len(rows) <= MOST_LINES:
        return {"": {row.experiment for row in rows}}
    paper = {row.experiment for row in rows if row.source == "paper"}
    first = min(rows, key=lambda row: row.order).experiment
    return {"": paper, "-ours": {row.experiment for row in rows} - paper | {first}}


def by_scale(rows: Sequence[Row], records: Iterable[RunRecord]) -> dict[str, list[RunRecord]]:
    """Records of `rows` on the paper's data, by the suffix of their picture: "" or "-<scale>".

    The suffix is empty for the first of `SCALES` at which runs of the baseline and of another row
    are complete, or, where none is such, for the first that has records.
    """
    names = {row.experiment for row in rows}
    baselines = {row.experiment for row in rows if row.baseline is None}
    found: dict[str, list[RunRecord]] = {}
    for record in records:
        if record.experiment in names and record.data == "real":
            found.setdefault(record.scale, []).append(record)

    def compares(scale: str) -> bool:
        done = {record.experiment for record in found[scale] if record.complete}
        return bool(done & baselines) and bool(done - baselines)

    scales = sorted(found, key=lambda s: SCALES.index(s) if s in SCALES else len(SCALES))
    main = next((scale for scale in scales if compares(scale)), scales[0] if scales else "")
    return {"" if scale == main else f"-{scale}": found[scale] for scale in scales}


def made_of(records: Sequence[RunRecord]) -> str:
    """One sentence: scale, rows, seeds and how many runs did not converge."""
    seeds = sorted({record.seed for record in records})
    rows = len({record.experiment for record in records})
    lost = sum(not record.complete for record in records)
    text = (
        f"Scale {records[0].scale}: {len(records)} run{'s' if len(records) > 1 else ''} of "
        f"{rows} row{'s' if rows > 1 else ''}, seed{'s' if len(seeds) > 1 else ''} "
        f"{', '.join(map(str, seeds))}"
    )
    return text + (f"; {lost} did not converge." if lost else ".")


def draw_curves(name: str, root: Path) -> list[Picture]:
    """The curves of one table or figure, a picture for each scale."""
    curves = CURVES[name]
    rows = load_rows(root / "configs" / "experiment" / curves.rows)
    by_name = {row.experiment: row for row in rows}
    drawn = []
    for suffix, records in by_scale(rows, load_records(root / "results" / "records")).items():
        run = {record.experiment for record in records}
        for part, experiments in parts([row for row in rows if row.experiment in run]).items():
            chosen = [record for record in records if record.experiment in experiments]
            if not chosen:
                continue
            ends = {
                line_name(record): end
                for record in chosen
                if record.scale == "paper"
                and (end := by_name[str(record.experiment)].paper.get(curves.end)) is not None
            }
            stem = f"{name}{suffix}{part}"
            levels = curves.levels(chosen[0].config["task"])
            plot_curves(
                chosen, curves.metrics, root / "results" / "figures" / stem, ends, curves.x,
                levels, curves.seeds, curves.tops,
            )  # fmt: skip
            drawn.append(Picture(stem, f"{CAPTIONS[name]} {made_of(chosen)}"))
    return drawn


def draw_units(name: str, root: Path) -> list[Picture]:
    """Figures 1, 3 and 4, from the units themselves."""
    draw, caption = UNIT_FIGURES[name]
    draw(root / "results" / "figures" / name)
    return [Picture(name, caption())]


def draw_escape(name: str, root: Path) -> list[Picture]:
    """Figure 2, from the numbers of `scripts/escape.py`; nothing without them."""
    path = root / "results" / "escape.json"
    if not path.exists():
        return []
    result = read_json(path)
    draw_fig2(result, root / "results" / "figures" / name)
    return [Picture(name, caption_fig2(result))]


def draw_digits(name: str, root: Path) -> list[Picture]:
    """Figure 5."""
    rows = load_rows(root / "configs" / "experiment" / name)
    drawn = []
    for suffix, records in by_scale(rows, load_records(root / "results" / "records")).items():
        plot_learning(records, root / "results" / "figures" / f"{name}{suffix}")
        drawn.append(Picture(f"{name}{suffix}", f"{CAPTIONS[name]} {made_of(records)}"))
    return drawn


def draw_mixture(name: str, root: Path) -> list[Picture]:
    """Figures 6 (derivatives, p) and 7 (values), whichever `name` asks for."""
    rows = load_rows(root / "configs" / "experiment" / "fig6")
    drawn = []
    for suffix, records in by_scale(rows, load_records(root / "results" / "records")).items():
        runs = [(record.findings, record.config) for record in records if record.complete]
        for stem in mixture_figures(runs, root / "results" / "figures", name, suffix):
            kind = stem.removesuffix(suffix)
            drawn.append(Picture(stem, f"{CAPTIONS[kind]} {made_of(records)}"))
    return drawn


FIGURES: dict[str, Callable[[str, Path], list[Picture]]] = {
    "fig1": draw_units, "fig2": draw_escape, "fig3": draw_units, "fig4": draw_units,
    "fig5": draw_digits, "fig6": draw_mixture, "fig7": draw_mixture,
    **dict.fromkeys(CURVES, draw_curves),
}  # fmt: skip
"""How each is drawn, in the order of the paper."""


def remove_stale(name: str, pictures: Sequence[Picture], folder: Path) -> list[Path]:
    """Delete files of figure `name` that its records no longer give; returns what was deleted."""
    kept = {picture.stem for picture in pictures}
    stale = [
        path
        for path in sorted(folder.glob(f"{name}*"))
        if path.suffix in (".svg", ".png")
        and (path.stem == name or path.stem.startswith(f"{name}-"))
        and path.stem not in kept
    ]
    for path in stale:
        path.unlink()
    return stale


def page(pictures: Mapping[str, Sequence[Picture]]) -> str:
    """results/figures/README.md: every picture with its caption.

    Args:
        pictures: what was drawn, by name of the figure.
    """
    blocks = [
        "# Figures",
        "Drawn by `make figures` from `results/records/`, `results/escape.json` and the units "
        "themselves. Only the text and captions of the paper were at hand, not its images: each "
        "caption says what is inferred. Curves are means over seeds, bands go from the lowest to "
        "the highest seed.",
    ]
    for name, drawn in pictures.items():
        if not drawn:
            continue
        title = name.replace("table", "Table ").replace("fig", "Figure ")
        blocks.append(f"## {title}")
        for picture in drawn:
            blocks += [f"![{title}]({picture.stem}.png)", picture.caption]
    return "\n\n".join(blocks) + "\n"
