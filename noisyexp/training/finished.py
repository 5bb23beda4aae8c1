"""Whether the record in a run folder says, and shows, that nothing is left to do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from noisyexp.errors import RecordError
from noisyexp.fileio import explain_read, read_json
from noisyexp.records.run_record import FINISHED
from noisyexp.records.schema import problems_of


def finished_record(folder: Path, digest: str | None = None) -> dict[str, Any] | None:
    """run.json of `folder` if it says that nothing is left to do.

    One that is damaged, or says so without the results, counts as none: it is made again.

    Args:
        folder: of the run.
        digest: hash of the run's configuration; None for any.

    Raises:
        RecordError: it is the record of another run.
    """
    path = folder / "run.json"
    try:
        record: dict[str, Any] = read_json(path)
    except (FileNotFoundError, NotADirectoryError):  # whoever makes the folder says the latter
        return None
    except (OSError, ValueError, RecursionError) as error:
        _made_again(path, explain_read(error))
        return None
    if not isinstance(record, dict) or not isinstance(record.get("status"), str):
        _made_again(path, "it is no record of a run")
        return None
    found = record.get("config_hash")
    if digest is not None and isinstance(found, str) and found != digest:
        raise RecordError(
            f"{path} is the record of another run: its configuration is {found}, that of this run "
            f"is {digest}. Put the right file back, or delete it."
        )
    if record["status"] not in FINISHED:
        return None
    problems = problems_of(record)
    if problems:
        _made_again(path, f"it says {record['status']}, but {problems[0]}")
        return None
    return record


def _made_again(path: Path, reason: str) -> None:
    print(f"{path} cannot be used ({reason}): it is made again", file=sys.stderr)
