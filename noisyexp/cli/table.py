"""Write results/<table>.md and .csv, and the tables of results/README.md, from committed records.

A figure's series are kept and printed like the rows of a table.

Examples:
    noisyexp table                      # all that have records
    noisyexp table 2
    noisyexp table 2 compare=true       # exit 1 if the files on disk differ
    noisyexp table summary              # the claims of all sheets
    noisyexp table grid_ptb_char        # the runs that chose sigma
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from noisyexp.cli.arguments import read_arguments
from noisyexp.cli.verb import exit_code_of, seen_from_here
from noisyexp.errors import RecordError
from noisyexp.fileio import atomic_write_text
from noisyexp.places import PACKAGE, configs_of, project_root
from noisyexp.records.deviations import load_deviations
from noisyexp.records.record_files import load_records
from noisyexp.records.row_config import row_config
from noisyexp.records.row_files import Row, load_rows
from noisyexp.report.claims import article, headlines, summary
from noisyexp.report.image_bootstrap import image_blocks
from noisyexp.report.learning_points import learning_blocks
from noisyexp.report.pilot import TITLES, pilot_page
from noisyexp.report.readme_marks import between_marks, with_summary
from noisyexp.report.render import to_csv, to_markdown
from noisyexp.report.sheet import Sheet, find_sheet, load_sheets
from noisyexp.report.table import Compose, Section, Table, build_table
from noisyexp.report.verdict import FEWEST_SEEDS, TOO_FEW
from noisyexp.schema import option

SUMMARY = "summary"
SUMMARY_RULE = (
    "Made by `noisyexp table summary` from the claims of `configs/sheet` and the run records. "
    "Each line is at the paper's scale where both rows have two seeds there, else at the "
    "scale with most seeds. 'holds' if the 95 % interval of the difference over common seeds lies "
    "on the side of the claim, 'reversed' if on the other, 'not shown' if it contains 0, and "
    f"'{TOO_FEW}' if fewer than {FEWEST_SEEDS} are common. The verdict is that of one line alone; "
    "p beside it is adjusted for the number of lines. Points of curves were chosen after the "
    "curves had been seen. At scale cpu 'reversed' says that the row is behind at that budget, not "
    "where a longer run ends. The commands run what is missing and write the table; "
    "`noisyexp verify` repeats a run."
)


def make_table(name: str, root: Path, compose: Compose) -> dict[Path, str]:
    """The files of table `name` and their contents; nothing is written.

    Args:
        name: of the sheet, "table2" or 2.
        root: the repository.
        compose: resolved config of an experiment at a scale.

    Raises:
        RecordError: no such table, or a sheet, row file, record or ledger that cannot be used.
    """
    if name == SUMMARY:
        return make_summary(root, compose)
    kind, _, task = name.partition("_")
    if kind in TITLES and task:
        return make_pilot(kind, task, root / "results")
    typed, name = name, folder_name(name)
    sheet = find_sheet(load_sheets(root), name, typed)
    table, rows = compute(sheet, root, compose)
    results = root / "results"
    used = [r for section in table.sections for line in section.lines for r in line.records]
    more = learning_blocks(sheet.learning, rows, used) if sheet.learning else []
    more += image_blocks(rows, used)
    text = to_markdown(table, more)
    files = {results / f"{name}.md": text, results / f"{name}.csv": to_csv(table)}
    readme = results / "README.md"
    if readme.exists():
        run = [shown_lines(s) for s in table.sections if any(line.records for line in s.lines)]
        shown = to_markdown(replace(table, sections=tuple(run) or table.sections), more)
        files[readme] = with_summary(readme.read_text(encoding="utf-8"), name, shown)
    return files


def shown_lines(section: Section) -> Section:
    """The section with the paper's rows, and our rows that have a run."""
    lines = [line for line in section.lines if line.records or line.row.source == "paper"]
    return replace(section, lines=tuple(lines))


def make_summary(root: Path, compose: Compose) -> dict[Path, str]:
    """results/summary.md from all claims and records; the main ones in README and article."""
    sheets = [sheet for sheet in load_sheets(root).values() if sheet.claims]
    pairs = [(sheet, compute(sheet, root, compose)[0]) for sheet in sheets]
    shown, short = summary(pairs), headlines(pairs)
    page = f"# What the paper claims and what we found\n\n{SUMMARY_RULE}\n\n{shown}\n"
    readme = root / "README.md"
    text = between_marks(readme.read_text(encoding="utf-8"), SUMMARY, short + "\n")
    files = {root / "results" / "summary.md": page, readme: text}
    written = root / "results" / "README.md"
    if written.exists():
        text = written.read_text(encoding="utf-8")
        files[written] = between_marks(text, SUMMARY, article(pairs) + "\n")
    return files


def make_pilot(kind: str, task: str, results: Path) -> dict[Path, str]:
    """The page of the runs that decided settings of a task: `pilot_<task>` or `grid_<task>`.

    Raises:
        RecordError: there is no such run, or one of the wrong arm.
    """
    name = f"{kind}_{task}"
    records = load_records(results / "records" / name)
    if not records:
        raise RecordError(f"{name}: no records in results/records/{name}")
    selection = records[0].selection or ""
    return {
        results / f"{name}.md": pilot_page(kind, task, records, selection, f"noisyexp table {name}")
    }


def compute(sheet: Sheet, root: Path, compose: Compose) -> tuple[Table, list[Row]]:
    """The table of a sheet and its rows, from the records of these rows alone.

    Raises:
        RecordError: as `make_table`.
    """
    rows = load_rows(configs_of(root) / "experiment" / sheet.rows)
    # A configuration file such as ptb_medium may belong to the folder of another name.
    firsts = {row.task: row.experiment for row in reversed(rows)}
    tasks = {
        task: compose(firsts[task], "paper")["task"]["name"]
        for task in dict.fromkeys(row.task for row in rows)
    }
    package = root / "noisyexp" if (root / "noisyexp").is_dir() else PACKAGE
    ledgers = {
        task: load_deviations(package / "tasks" / folder / "deviations.yaml")
        for task, folder in tasks.items()
    }
    table = build_table(
        sheet.name, rows, load_records(root / "results" / "records", [sheet.rows]), compose,
        ledgers, command=f"noisyexp table {sheet.name}", limits=sheet.solved, title=sheet.title,
    )  # fmt: skip
    return table, rows


@dataclass(frozen=True)
class Arguments:
    """Of the command line."""

    names: list[str] = option("tables, as 2, fig11 or summary; default: all that have records")
    compare: bool = option("write nothing; end with 1 if the files on disk differ")


def write(arguments: Sequence[str], root: Path, compose: Compose) -> int:
    """Write or compare the pages of the chosen tables; returns the exit code."""
    given = read_arguments(
        Arguments, arguments, {"names": [], "compare": False}, about=__doc__ or "", words="names"
    )
    code = 0
    records = root / "results" / "records"
    sheets = load_sheets(root)
    run = [name for name, sheet in sheets.items() if (records / sheet.rows).is_dir()]
    run += sorted(path.name for kind in TITLES for path in records.glob(f"{kind}_*"))
    if (root / "README.md").exists() and any(sheet.claims for sheet in sheets.values()):
        run.append(SUMMARY)
    if not given.names and not run:
        print("no records in results/records: no page to write", file=sys.stderr)
    for name in given.names or run:
        for path, text in make_table(name, root, compose).items():
            shown = seen_from_here(path)
            current = path.read_bytes() if path.exists() else None
            if not given.compare:
                atomic_write_text(path, text)
                print(f"wrote {shown}")
            elif current != text.encode("utf-8"):
                code = 1
                state = "is missing" if current is None else "differs from the records"
                print(f"{shown} {state}; run: noisyexp table {name}")
    return code


def folder_name(name: str) -> str:
    """The sheet that a person means: 2 is table2."""
    return f"table{name}" if name.isdigit() else name


def main(arguments: Sequence[str], root: Path | None = None, compose: Compose = row_config) -> int:
    """Command line; returns the exit code: 0 done, 1 files differ (compare=true) or an error."""
    return exit_code_of(lambda: write(arguments, root or project_root(), compose))
