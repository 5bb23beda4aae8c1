"""Write results/<table>.md and .csv, and the tables of results/README.md, from committed records.

A figure's series are kept and printed like the rows of a table.

Examples:
    python scripts/make_table.py                    # all that have records
    python scripts/make_table.py table2
    python scripts/make_table.py table2 --check     # exit 1 if the files on disk differ
    python scripts/make_table.py summary            # the claims of results/claims.yaml
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a checkout that is not installed

from noisyexp.errors import NoisyexpError, RecordError  # noqa: E402
from noisyexp.fileio import atomic_write_text  # noqa: E402
from noisyexp.results.deviations import load_deviations  # noqa: E402
from noisyexp.results.images import image_blocks  # noqa: E402
from noisyexp.results.learning import LEARNING, learning_blocks  # noqa: E402
from noisyexp.results.records import load_records  # noqa: E402
from noisyexp.results.render import to_csv, to_markdown  # noqa: E402
from noisyexp.results.rows import Row, load_rows  # noqa: E402
from noisyexp.results.summary import headlines, load_claims, summary  # noqa: E402
from noisyexp.results.table import Compose, Section, Table, build_table  # noqa: E402
from noisyexp.results.verdict import FEWEST_SEEDS, TOO_FEW  # noqa: E402
from noisyexp.tasks import find_task  # noqa: E402

SUMMARY = "summary"
SUMMARY_RULE = (
    "Made by `python scripts/make_table.py summary` from `results/claims.yaml` and the run "
    "records. Each line is at the paper's scale where both rows have two seeds there, else at the "
    "scale with most seeds. 'holds' if the 95 % interval of the difference over common seeds lies "
    "on the side of the claim, 'reversed' if on the other, 'not shown' if it contains 0, and "
    f"'{TOO_FEW}' if fewer than {FEWEST_SEEDS} are common. The verdict is that of one line alone; "
    "p beside it is adjusted for the number of lines. Points of curves were chosen when curves had "
    "been seen. At scale cpu 'reversed' says that the row is behind at that budget, not where a "
    "longer run ends. The commands make what is missing and the table; `scripts/verify.py` repeats "
    "a run."
)


def table_names(root: Path) -> list[str]:
    """Folders of row files, "table2" or "fig11"."""
    return sorted(path.name for path in (root / "configs" / "experiment").iterdir())


def make_table(name: str, root: Path, compose: Compose) -> dict[Path, str]:
    """The files of table `name` and what belongs in them; nothing is written.

    Args:
        name: folder below `configs/experiment`, "table2".
        root: the repository.
        compose: resolved config of an experiment at a scale.

    Raises:
        RecordError: no such table, or a row file, record or ledger that cannot be used.
    """
    if name == SUMMARY:
        return make_summary(root, compose)
    table, rows = compute(name, root, compose)
    results = root / "results"
    used = [r for section in table.sections for line in section.lines for r in line.records]
    more = learning_blocks(LEARNING[name], rows, used) if name in LEARNING else []
    more += image_blocks(rows, used)
    text = to_markdown(table, more)
    files = {results / f"{name}.md": text, results / f"{name}.csv": to_csv(table)}
    readme = root / "results" / "README.md"
    if readme.exists():
        run = [shown_lines(s) for s in table.sections if any(line.records for line in s.lines)]
        shown = to_markdown(replace(table, sections=tuple(run) or table.sections), more)
        files[readme] = with_summary(readme.read_text(encoding="utf-8"), name, shown)
    return files


def shown_lines(section: Section) -> Section:
    """The section with the paper's rows and those of ours that have a run."""
    lines = [line for line in section.lines if line.records or line.row.source == "paper"]
    return replace(section, lines=tuple(lines))


def make_summary(root: Path, compose: Compose) -> dict[Path, str]:
    """results/summary.md and its main claims in the README, from all claims and records."""
    claims = load_claims(root / "results" / "claims.yaml")
    names = dict.fromkeys(claim.row.split("/")[0] for claim in claims)
    tables = {name: compute(name, root, compose)[0] for name in names}
    shown, short = summary(claims, tables), headlines(claims, tables)
    page = f"# What the paper claims and what we found\n\n{SUMMARY_RULE}\n\n{shown}\n"
    readme = root / "README.md"
    text = between_marks(readme.read_text(encoding="utf-8"), SUMMARY, short + "\n")
    return {root / "results" / "summary.md": page, readme: text}


def compute(name: str, root: Path, compose: Compose) -> tuple[Table, list[Row]]:
    """Table `name` and its rows, from the records.

    Raises:
        RecordError: as `make_table`.
    """
    experiments = root / "configs" / "experiment"
    if not (experiments / name).is_dir():
        known = table_names(root)
        raise RecordError(f"no table {name!r}; there are {', '.join(known) or 'none'}")
    rows = load_rows(experiments / name)
    # A configuration file such as ptb_medium may belong to the folder of another name.
    firsts = {row.task: row.experiment for row in reversed(rows)}
    tasks = {
        task: compose(firsts[task], "paper")["task"]["name"]
        for task in dict.fromkeys(row.task for row in rows)
    }
    ledgers = {
        task: load_deviations(root / "noisyexp" / "tasks" / folder / "deviations.yaml")
        for task, folder in tasks.items()
    }
    records = load_records(root / "results" / "records")
    table = build_table(
        name, rows, records, compose, ledgers,
        command=f"python scripts/make_table.py {name}",
        limits=find_task(next(iter(tasks.values()))).solved,
    )  # fmt: skip
    return table, rows


def with_summary(readme: str, name: str, table: str) -> str:
    """The page with the first tables of each scale between its marks for `name`, if it has them.

    That are the final numbers and, where the page has them, the first metric while learning. What
    is given has the scales that have been run.

    Args:
        readme: text with `<!-- table2 -->` and `<!-- /table2 -->`.
        name: "table2".
        table: the rendered table.
    """
    scales = re.findall(r"^## (Scale: .*|While learning, scale .*)\n\n((?:\|.*\n)+)", table, re.M)
    block = "\n".join(f"{title}\n\n{rows}" for title, rows in scales)
    return between_marks(readme, name, block)


def between_marks(readme: str, name: str, block: str) -> str:
    """The page with `block` between its marks for `name`, if it has them."""
    marks = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    return re.sub(marks, lambda match: f"{match[1]}\n{block}\n{match[2]}", readme, flags=re.S)


@cache
def compose_experiment(experiment: str, scale: str) -> Mapping[str, Any]:
    """Resolved config of `experiment` at `scale`, composed by Hydra, which takes its time."""
    from noisyexp.cli.compose import compose_config

    config: Mapping[str, Any] = compose_config([f"experiment={experiment}", f"scale={scale}"])
    return config


def main(
    arguments: Sequence[str] | None = None, root: Path = ROOT, compose: Compose = compose_experiment
) -> int:
    """Command line; returns the exit code: 0 done, 1 files differ (--check) or an error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "tables",
        nargs="*",
        metavar="TABLE",
        help="table2, fig11, summary; default: all with records",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; compare with the disk")
    options = parser.parse_args(arguments)
    code = 0
    try:
        records = root / "results" / "records"
        run = [name for name in table_names(root) if (records / name).is_dir()]
        if (root / "results" / "claims.yaml").exists():
            run.append(SUMMARY)
        for name in options.tables or run:
            for path, text in make_table(name, root, compose).items():
                shown = path.relative_to(root).as_posix()
                current = path.read_bytes() if path.exists() else None
                if not options.check:
                    atomic_write_text(path, text)
                    print(f"wrote {shown}")
                elif current != text.encode("utf-8"):
                    code = 1
                    state = "is missing" if current is None else "differs from the records"
                    print(f"{shown} {state}; run: python scripts/make_table.py {name}")
    except NoisyexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return code


if __name__ == "__main__":
    sys.exit(main())
