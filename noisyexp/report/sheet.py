"""The sheet of a table: all that makes a page of rows, in configs/sheet/<table>.yaml.

A sheet says which rows its page has, which curves are drawn of their runs, which points of the
curves are printed, when the task counts as solved, and which claims are tested on the rows. A new
table is a sheet and its rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from noisyexp.errors import RecordError
from noisyexp.places import configs_of
from noisyexp.records.yaml_file import read_yaml
from noisyexp.schema import build, closest, option

KINDS = ("curves", "noise_at_output_and_input", "unit_slopes", "unit_values", "p_histograms")
Part = TypeVar("Part")


@dataclass(frozen=True)
class LearningPoints:
    """Points of the curves that a page prints beside the final numbers."""

    x: str = option("key of the curve", choices=("epoch", "step"))
    points: list[int] = option("where, as [1, 5, 10]")
    ratios: list[str] = option("metrics compared by their ratio, as they span orders of magnitude")
    differences: list[str] = option("metrics compared by their difference")
    against: list[str] = option("names of the rows to compare with, as [reference]")


@dataclass(frozen=True)
class PictureSheet:
    """A picture that is drawn of the runs of the rows, once for each scale."""

    name: str = option("of the files in results/figures, as fig9 or table3")
    kind: str = option("how it is drawn", choices=KINDS)
    caption: str = option("content, and what was inferred")
    title: str | None = option("above the picture; null: the task")
    metrics: list[str] = option("curves: keys of the curve, a panel each from top to bottom")
    x: str = option("curves: what they are drawn over", choices=("epoch", "step"))
    end: str | None = option("curves: the paper's number that is drawn as end point")
    every_seed: bool = option("curves: every run as a line of its own")
    tops: dict[str, float] = option("curves: upper ends of axes by metric")

    def check(self) -> list[str]:
        """Curves need metrics."""
        lacks = self.kind == "curves" and not self.metrics
        return ["metrics=[]: curves need at least one"] if lacks else []

    @property
    def figure(self) -> str:
        """The figure that it belongs to: fig6 of fig6-p."""
        return self.name.partition("-")[0]


@dataclass(frozen=True)
class Claim:
    """One claim: `row` is better than `against` in `metric`."""

    text: str = option("the claim in words")
    where: str = option("where the paper makes it")
    row: str = option("name of the row, as nah")
    against: str = option("name of the row that it is compared with")
    metric: str = option("name of the metric")
    at: dict[str, int] | None = option("point of the curve, as {epoch: 5}; null for final numbers")
    command: str = option("makes the table or figure at the paper's scale")
    headline: bool = option("whether the README has it")
    beside: str | None = option("further differences between the two rows")
    doubt: str | None = option("what would change our mind; given, the article has the claim")

    @property
    def words(self) -> str:
        """The claim, and further differences between its rows."""
        return f"{self.text} (also different: {self.beside})" if self.beside else self.text


@dataclass(frozen=True)
class Sheet:
    """All that makes a page.

    Attributes:
        name: of the sheet and of its page, "table2".
        order: place among the sheets.
        title: as people call it, "Table 2".
        rows: folder of the row files below configs/experiment.
        command: makes the page at the paper's scale.
        solved: the task counts as solved when all these metrics of the curve are smaller.
        learning, pictures, claims: see their classes.
    """

    name: str
    order: int
    title: str
    rows: str
    command: str
    solved: Mapping[str, float]
    learning: LearningPoints | None
    pictures: tuple[PictureSheet, ...]
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class _Head:
    """The keys of a sheet's file, whose lists are checked entry by entry."""

    order: int = option("place among the sheets, from 1", low=1)
    title: str = option("as people call it, as Table 2")
    rows: str = option("folder of the row files below configs/experiment")
    command: str = option("makes the page at the paper's scale")
    solved: dict[str, float] = option("the task is solved when all these metrics are smaller")
    learning: LearningPoints | None = option("points of the curves that are printed")
    pictures: list[Any] = option("what is drawn of the runs")
    claims: list[Any] = option("what is tested on the rows")


OPTIONAL: Mapping[str, Any] = {"solved": {}, "learning": None, "pictures": [], "claims": []}
OPTIONAL_IN_PICTURES: Mapping[str, Any] = {
    "title": None, "metrics": [], "x": "step", "end": None, "every_seed": False, "tops": {},
}  # fmt: skip
OPTIONAL_IN_CLAIMS: Mapping[str, Any] = {
    "at": None, "headline": False, "beside": None, "doubt": None,
}  # fmt: skip


def load_sheet(path: Path, rows_root: Path) -> Sheet:
    """Read and check one sheet.

    Args:
        path: configs/sheet/<table>.yaml.
        rows_root: configs/experiment, where the rows that it names have to be.

    Raises:
        RecordError: every mistake of the file in one message.
    """
    raw, problems = read_yaml(path), list[str]()
    if not isinstance(raw, dict):
        raise RecordError(f"{path}: expected keys and values, as title: Table 2")
    head = build(_Head, {**OPTIONAL, **raw}, "", problems)
    title, command = raw.get("title"), raw.get("command")
    pictures = _parts(PictureSheet, raw, "pictures", OPTIONAL_IN_PICTURES, problems)
    of_table = {**OPTIONAL_IN_CLAIMS, "where": title, "command": command}
    claims = _parts(Claim, raw, "claims", of_table, problems)
    if head is not None:
        problems += _row_problems(head, claims, rows_root)
    if head is None or problems:
        raise RecordError(f"{path}: {'; '.join(problems)}")
    return Sheet(
        path.stem, head.order, head.title, head.rows, head.command, head.solved, head.learning,
        tuple(pictures), tuple(claims),
    )  # fmt: skip


def load_sheets(root: Path) -> dict[str, Sheet]:
    """All sheets of a repository by name, in their order.

    Args:
        root: of the repository, with configs/sheet and configs/experiment; any folder for the
            installed ones.

    Raises:
        RecordError: a sheet is wrong, or two want the same place or draw the same picture.
    """
    folder, rows_root = configs_of(root) / "sheet", configs_of(root) / "experiment"
    found = [load_sheet(path, rows_root) for path in sorted(folder.glob("*.yaml"))]
    for what, taken in (
        ("order", [(sheet.order, sheet.name) for sheet in found]),
        ("pictures.name", [(p.name, sheet.name) for sheet in found for p in sheet.pictures]),
    ):
        owners: dict[Any, str] = {}
        for key, name in taken:
            if key in owners:
                raise RecordError(f"{folder}: {owners[key]} and {name} both have {what} {key}")
            owners[key] = name
    return {sheet.name: sheet for sheet in sorted(found, key=lambda sheet: sheet.order)}


def find_sheet(sheets: Mapping[str, Sheet], name: str, typed: str | None = None) -> Sheet:
    """The sheet of this name, or the one that draws the figure of this name.

    Args:
        sheets: all there are.
        name: of one.
        typed: what the person typed for it, for the message; default `name`.

    Raises:
        RecordError: there is none.
    """
    if name in sheets:
        return sheets[name]
    for sheet in sheets.values():
        if name in [picture.figure for picture in sheet.pictures]:
            return sheet
    raise RecordError(
        f"no table {(typed or name)!r}; there are {', '.join(sheets) or 'none'}."
        f"{closest(name, sheets)}"
    )


def _parts(
    cls: type[Part], raw: Mapping[str, Any], key: str, defaults: Mapping[str, Any],
    problems: list[str],
) -> list[Part]:  # fmt: skip
    """The entries of a list of sections, each checked."""
    entries = raw.get(key) if isinstance(raw.get(key), list) else []
    made = []
    for index, entry in enumerate(entries or ()):
        values = {**defaults, **entry} if isinstance(entry, dict) else entry
        part = build(cls, values, f"{key}[{index}]", problems)
        made += [] if part is None else [part]
    return made


def _row_problems(head: _Head, claims: Sequence[Claim], rows_root: Path) -> list[str]:
    """Rows that the sheet names and that have no file."""
    known = sorted(path.stem for path in (rows_root / head.rows).glob("*.yaml"))
    if not known:
        folders = sorted(path.name for path in rows_root.glob("*"))
        return [f"rows={head.rows!r}: choose from {', '.join(folders)}."
                f"{closest(head.rows, folders)}"]  # fmt: skip
    named = [("claims", name) for claim in claims for name in (claim.row, claim.against)]
    against = head.learning.against if head.learning else []
    named += [("learning.against", name) for name in against]
    return [
        f"{where}: {head.rows} has no row {name}.{closest(name, known)}"
        for where, name in dict.fromkeys(named)
        if name not in known
    ]
