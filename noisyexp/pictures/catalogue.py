"""The pictures of results/figures: the records and the caption of each.

A figure is drawn once for each scale that has records. The scale nearest to the paper's at which a
noisy row is complete beside the baseline gives the picture its plain name, `fig9`; the others are
`fig9-<scale>`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from noisyexp.fileio import read_json
from noisyexp.pictures.analysis_figures import plot_learned_units, plot_noise_sides
from noisyexp.pictures.chance import chance_levels
from noisyexp.pictures.curves import line_name, plot_curves
from noisyexp.pictures.escape import caption_fig2, draw_fig2
from noisyexp.pictures.mechanism import caption_mechanism, draw_mechanism, load_mechanism
from noisyexp.pictures.unit_figures import UNIT_FIGURES
from noisyexp.places import configs_of
from noisyexp.records.record_files import load_records
from noisyexp.records.row_files import Row, load_rows
from noisyexp.records.run_record import RunRecord
from noisyexp.report.sheet import PictureSheet, Sheet, load_sheets

ESCAPE = "fig2"
MECHANISM = "mechanism"
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


def draw_figure(name: str, root: Path) -> list[Picture]:
    """Draw every picture of figure `name` into results/figures.

    Raises:
        RecordError: a sheet, row file or record cannot be used.
    """
    folder = root / "results" / "figures"
    if name in UNIT_FIGURES:
        draw, caption = UNIT_FIGURES[name]
        draw(folder / name)
        return [Picture(name, caption())]
    if name == ESCAPE:
        return draw_escape(root)
    if name == MECHANISM:
        return draw_measured_inputs(root)
    drawn = []
    for sheet, wanted in figures_of(load_sheets(root))[name]:
        rows = load_rows(configs_of(root) / "experiment" / sheet.rows)
        records = load_records(root / "results" / "records", [sheet.rows])
        for suffix, chosen in by_scale(rows, records).items():
            stem = folder / f"{wanted.name}{suffix}"
            for made in DRAW[wanted.kind](Drawing(wanted, stem, rows, chosen)):
                drawn.append(Picture(made.name, f"{wanted.caption} {made_of(made.records)}"))
    return drawn


def draw_escape(root: Path) -> list[Picture]:
    """Figure 2, from the numbers of `scripts/escape.py`; nothing without them."""
    path = root / "results" / "escape.json"
    if not path.exists():
        return []
    result = read_json(path)
    draw_fig2(result, root / "results" / "figures" / ESCAPE)
    return [Picture(ESCAPE, caption_fig2(result))]


def draw_measured_inputs(root: Path) -> list[Picture]:
    """What `scripts/mechanism.py` has measured of rows of Table 2; nothing without it."""
    found = load_mechanism(root / "results" / "mechanism")
    if not found:
        return []
    rows = load_rows(configs_of(root) / "experiment" / "table2")
    labels = {row.experiment.partition("/")[2]: row.label for row in rows}
    draw_mechanism(found, labels, root / "results" / "figures" / MECHANISM)
    return [Picture(MECHANISM, caption_mechanism(found, labels))]


@dataclass(frozen=True)
class Drawn:
    """A file pair that was written: its name without suffix, and the records that it shows."""

    name: str
    records: Sequence[RunRecord]


@dataclass(frozen=True)
class Drawing:
    """What a picture is made of.

    Attributes:
        sheet: what the table's sheet says of it.
        stem: where to write, without suffix.
        rows: of the table.
        records: of one scale.
    """

    sheet: PictureSheet
    stem: Path
    rows: Sequence[Row]
    records: Sequence[RunRecord]

    @property
    def labels(self) -> dict[str, str]:
        """The printed label of every row by the name of its line."""
        return {row.experiment.partition("/")[2]: row.label for row in self.rows}

    @property
    def drawn(self) -> list[Drawn]:
        """One picture of all records."""
        return [Drawn(self.stem.name, self.records)]


def draw_curves(drawing: Drawing) -> list[Drawn]:
    """Curves at one scale; the paper's rows and ours apart where they are many."""
    sheet, rows = drawing.sheet, drawing.rows
    by_name = {row.experiment: row for row in rows}
    run = {record.experiment for record in drawing.records}
    drawn = []
    for part, experiments in parts([row for row in rows if row.experiment in run]).items():
        chosen = [record for record in drawing.records if record.experiment in experiments]
        if not chosen:
            continue
        ends = {
            line_name(record): end
            for record in chosen
            if record.scale == "paper"
            and (end := by_name[str(record.experiment)].paper.get(sheet.end or "")) is not None
        }
        stem = drawing.stem.with_name(f"{drawing.stem.name}{part}")
        # A short run at a small scale may begin and end above what is cut off at the paper's.
        tops = sheet.tops if chosen[0].scale == "paper" else {}
        plot_curves(
            chosen, sheet.metrics, stem, ends, sheet.x, chance_levels(chosen[0]),
            sheet.every_seed, tops, drawing.labels, sheet.title,
        )  # fmt: skip
        drawn.append(Drawn(stem.name, chosen))
    return drawn


def draw_noise_sides(drawing: Drawing) -> list[Drawn]:
    """Noise at the output beside noise at the input."""
    plot_noise_sides(drawing.records, drawing.stem, drawing.labels, drawing.sheet.title)
    return drawing.drawn


def draw_learned_units(drawing: Drawing) -> list[Drawn]:
    """What the units of trained networks do, or their p."""
    runs = [(record.findings, record.config) for record in drawing.records if record.complete]
    sheet = drawing.sheet
    drawn = plot_learned_units(runs, sheet.kind, drawing.stem, sheet.title)
    return drawing.drawn if drawn else []


Draw = Callable[[Drawing], list[Drawn]]
DRAW: dict[str, Draw] = {
    "curves": draw_curves, "noise_at_output_and_input": draw_noise_sides,
    "unit_slopes": draw_learned_units, "unit_values": draw_learned_units,
    "p_histograms": draw_learned_units,
}  # fmt: skip
"""By the kind that a sheet names; see `noisyexp.report.sheet.KINDS`."""


def figures_of(sheets: Mapping[str, Sheet]) -> dict[str, list[tuple[Sheet, PictureSheet]]]:
    """The pictures of every figure that is drawn from records, with their sheets."""
    found: dict[str, list[tuple[Sheet, PictureSheet]]] = {}
    for sheet in sheets.values():
        for picture in sheet.pictures:
            found.setdefault(picture.figure, []).append((sheet, picture))
    return found


def figure_names(root: Path) -> list[str]:
    """All figures, those of the paper by their number, then those of tables."""
    drawn = [*UNIT_FIGURES, ESCAPE, MECHANISM, *figures_of(load_sheets(root))]
    return sorted(drawn, key=lambda name: (not name.startswith("fig"), _number(name), name))


def _number(name: str) -> int:
    return int("".join(letter for letter in name if letter.isdigit()) or 0)


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


def captions_page(pictures: Mapping[str, Sequence[Picture]]) -> str:
    """results/figures/README.md: every picture with its caption.

    Args:
        pictures: what was drawn, by name of the figure.
    """
    blocks = [
        "# Figures",
        "Drawn by `make figures` from `results/records/`, `results/escape.json`, "
        "`results/mechanism/` and the units themselves. Only the text and captions of the paper "
        "were at hand, not its images: each caption says what is inferred. Curves are means over "
        "seeds, bands go from the lowest to the highest seed. Colour and dash name the unit, "
        "markers the row; of lines that coincide each has its markers at other places, and "
        "schedules that are the same are drawn one below "
        "the other.",
    ]
    for name, drawn in pictures.items():
        if not drawn:
            continue
        title = name.replace("table", "Table ").replace("fig", "Figure ")
        title = title[0].upper() + title[1:]
        blocks.append(f"## {title}")
        for picture in drawn:
            blocks += [f"![{title}]({picture.stem}.png)", picture.caption]
    return "\n\n".join(blocks) + "\n"
