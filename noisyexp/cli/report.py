"""Average any runs over their seeds: a table in the terminal, or a file or page.

Runs are grouped by the settings in which they differ, seed aside. Folders of runs, run folders and
record files can be mixed.

Examples:
    noisyexp report runs
    noisyexp report runs by=act.tanh.alpha metric=test_ppl out=table.csv
    noisyexp report runs results/records/table2 where=scale=paper baseline=act=reference
    noisyexp report runs out=page.html watch=true    # written anew every half minute
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from noisyexp.cli.arguments import read_arguments
from noisyexp.cli.verb import exit_code_of, writing
from noisyexp.errors import ConfigError
from noisyexp.fileio import atomic_write_bytes, read_json
from noisyexp.report.averages import average
from noisyexp.report.group_table import Report, to_csv, to_json, to_markdown, to_text
from noisyexp.report.run_set import RUN, SWEEP
from noisyexp.schema import option

WATCH_SECONDS = 30.0


@dataclass(frozen=True)
class Arguments:
    """Of the command line."""

    paths: list[str] = option("folders of runs, run folders, record files; default: runs")
    by: str | None = option("keys that tell groups apart, with commas; default: what differs")
    where: str | None = option("key=value,key=value: only runs that have them")
    metric: str | None = option("metrics to show, with commas; default: what selects, and test")
    baseline: str | None = option(
        "key=value: the group that others are compared with; default: the reference units"
    )
    out: str | None = option("file: .md, .csv, .json, .png or .html; default: the terminal")
    watch: bool = option("write out= again every half minute, until Ctrl-C")


DEFAULTS: Mapping[str, object] = {
    "paths": [], "by": None, "where": None, "metric": None, "baseline": None, "out": None,
    "watch": False,
}  # fmt: skip


def _picture(report: Report) -> bytes:
    from noisyexp.pictures.group_curves import draw

    return draw(report)


def _html(report: Report) -> bytes:
    from noisyexp.report.html_report import make_html

    return make_html(report).encode("utf-8")


WRITERS: dict[str, Callable[[Report], bytes]] = {
    ".md": lambda report: to_markdown(report).encode("utf-8"),
    ".csv": lambda report: to_csv(report).encode("utf-8"),
    ".json": lambda report: to_json(report).encode("utf-8"),
    ".png": _picture,
    ".html": _html,
}


def names(text: str | None) -> list[str] | None:
    """Names between commas; None for None."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def make_report(given: Arguments) -> Report:
    """Find, choose and group the runs.

    Raises:
        RecordError: no run fits, or a key that no run has.
    """
    return average(
        [Path(path) for path in given.paths or ["runs"]],
        by=names(given.by),
        where=given.where or None,
        metrics=names(given.metric) or [],
        baseline=given.baseline,
    )


def write(given: Arguments, path: Path) -> None:
    """Make the report and write it to `path`."""
    content = WRITERS[path.suffix](make_report(given))
    with writing(str(path)):
        atomic_write_bytes(path, content)
    print(f"wrote {path}", flush=True)


def _spare_records(path: Path) -> None:
    """Refuse to write onto the record of a run or the list of a sweep.

    Raises:
        ConfigError: the file is one.
    """
    try:
        found = read_json(path)
    except (OSError, ValueError):
        found = None
    if path.name in (RUN, SWEEP) or (isinstance(found, dict) and "config_hash" in found):
        raise ConfigError([f"out={path}: is the record of a run; give another name"])


def main(arguments: Sequence[str]) -> int:
    """Command line; returns the exit code."""

    def run() -> None:
        given = read_arguments(Arguments, arguments, DEFAULTS, about=__doc__ or "", words="paths")
        if given.out is None:
            if given.watch:
                raise ConfigError(["watch=true: needs out=, the file to write again"])
            print(to_text(make_report(given)))
            return
        path = Path(given.out)
        if path.suffix not in WRITERS:
            allowed = ", ".join(WRITERS)
            raise ConfigError([f"out={given.out}: the name must end in one of {allowed}"])
        _spare_records(path)
        write(given, path)
        while given.watch:
            try:
                time.sleep(WATCH_SECONDS)
            except KeyboardInterrupt:
                return
            write(given, path)

    return exit_code_of(run)
