"""Do the runs that results/queue.yaml lists and that have no record yet, and publish their records.

A run that fails does not stop the others. After a stop of any kind the same command goes on, each
run from its checkpoint. The list is read again when it has changed.

Examples:
    noisyexp queue                           # two runs at a time, one thread each
    noisyexp queue list=true                 # what is left to do
    noisyexp queue workers=14 device=cuda    # any other key=value is given to every run
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from noisyexp.cli.arguments import read_arguments, split_arguments
from noisyexp.cli.missing import missing_runs
from noisyexp.cli.pool import Job, Pool
from noisyexp.cli.verb import exit_code_of
from noisyexp.errors import NoisyexpError, RecordError
from noisyexp.places import CONFIG_DIR, project_root
from noisyexp.records.row_files import Row, load_rows
from noisyexp.records.yaml_file import read_yaml
from noisyexp.schema import option


def entries(path: Path) -> list[tuple[list[Row], str, list[int] | None]]:
    """Rows, scale and seeds (None: those of the rows) of every entry of the list.

    Raises:
        RecordError: the list cannot be read, or names a table or row that is not there.
    """
    found, content = [], read_yaml(path)
    for entry in content if isinstance(content, list) else [content]:
        keys = set(entry) if isinstance(entry, dict) else set()
        if not {"table", "rows"} <= keys <= {"table", "rows", "scale", "seeds"}:
            raise RecordError(f"{path}: {entry} needs table and rows, and may have scale and seeds")
        if not (_list_of(str, entry["rows"]) and _list_of(int, entry.get("seeds", []))):
            raise RecordError(f"{path}: {entry}: expected rows: [nah, nan] and seeds: [0, 1]")
        rows = {
            row.experiment.split("/")[1]: row
            for row in load_rows(CONFIG_DIR / "experiment" / str(entry["table"]))
        }
        if unknown := set(entry["rows"]) - set(rows):
            raise RecordError(
                f"{path}: {entry['table']} has no row {', '.join(sorted(unknown))}; its rows are "
                f"{', '.join(rows)}"
            )
        wanted = [row for name, row in rows.items() if name in entry["rows"]]
        found.append((wanted, str(entry.get("scale", "paper")), entry.get("seeds")))
    return found


def _list_of(kind: type, value: object) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)


def to_do(path: Path, root: Path) -> list[Job]:
    """Runs of the list without a record that fits the row, in the order of the list, each once."""
    jobs = []
    for rows, scale, seeds in entries(path):
        for row, seed in missing_runs(rows, scale, seeds, root):
            jobs.append(Job.of(row, scale, seed))
    return list(dict.fromkeys(jobs))


class Queue(Pool):
    """The runs of a list that may change while they go on."""

    def __init__(self, path: Path, overrides: list[str], root: Path) -> None:
        super().__init__([], overrides, root)
        self.path, self.read_at = path, -1.0

    def refresh(self) -> None:
        """Read the list if it has changed.

        Raises:
            NoisyexpError: it cannot be read at the start; later a mistake must not end what runs.
        """
        changed = self.path.stat().st_mtime
        if changed == self.read_at:
            return
        try:
            self.left = to_do(self.path, self.root)
        except NoisyexpError as error:
            if self.read_at < 0:
                raise
            print(f"{error}\nThe list read before stays in use.", file=sys.stderr, flush=True)
        self.read_at = changed


@dataclass(frozen=True)
class Arguments:
    """Of the command line."""

    file: str | None = option("the list; default results/queue.yaml")
    workers: int = option("runs at a time", low=1)
    list: bool = option("print what is left to do, and stop")


def main(arguments: Sequence[str], root: Path | None = None) -> int:
    """Command line; returns the exit code: 0 all done, 1 some failed, 2 a mistake, 130 stopped."""
    root = root or project_root()

    def run() -> int:
        mine, overrides = split_arguments(Arguments, arguments)
        defaults = {"file": None, "workers": 2, "list": False}
        given = read_arguments(Arguments, mine, defaults, about=__doc__ or "")
        path = Path(given.file) if given.file else root / "results" / "queue.yaml"
        if not path.is_file():
            raise RecordError(f"{path.absolute()}: no such file; a list of runs is written there")
        if given.list:
            print(*to_do(path, root), sep="\n")
            return 0
        return Queue(path, overrides or ["threads=1"], root).run(given.workers)

    return exit_code_of(run)
