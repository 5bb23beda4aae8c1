"""Whether the record in a run folder says, and shows, that nothing is left to do."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noisyexp.errors import RecordError
from noisyexp.fileio import read_json

FINISHED = ("complete", "diverged")
"""Statuses that running the same command again would only repeat."""

PARTS = {
    "config_hash": str, "experiment": str | None, "config": dict, "task": str, "act": str,
    "scale": str, "data": str, "seed": int,
}  # fmt: skip
RESULTS = {"final": dict, "metrics": dict, "selection": str, "curve": list, "cost": dict}


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
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _made_again(path, str(error))
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
    lacks = _lacks(record)
    if lacks:
        _made_again(path, f"it says {record['status']} without {lacks}")
        return None
    return record


def _lacks(record: Mapping[str, Any]) -> str | None:
    """The first part of a finished record that is missing or no such thing; None for none."""
    complete = record["status"] == "complete"
    parts: dict[str, Any] = {**PARTS, **(RESULTS if complete else {"reason": str})}
    for name, kind in parts.items():
        if name not in record or not isinstance(record[name], kind):
            return name
    if not complete:
        return None
    final, seconds = record["final"], record["cost"].get("wall_s")
    numbers = {f"final.{name}": value for name, value in final.items()}
    numbers["cost.wall_s"] = seconds
    for name, value in numbers.items():
        if not isinstance(value, int | float) and not (value is None and name != "cost.wall_s"):
            return name
    if record["selection"] not in final:
        return f"final.{record['selection']}"
    rows = [row for row in record["curve"] if isinstance(row, dict)]
    own = [row for row in rows if row.get("step") == final.get("step")]
    if len(rows) != len(record["curve"]) or not own:
        return "a curve that has the final step"
    same = all(final.get(name) == value for name, value in own[-1].items())
    return None if same else "a final row that is that of the curve"


def _made_again(path: Path, reason: str) -> None:
    print(f"{path} cannot be used ({reason}): it is made again", file=sys.stderr)
