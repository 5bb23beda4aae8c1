"""Run records as files: read, checked and typed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from noisyexp.errors import RecordError
from noisyexp.fileio import check_regular, explain_read
from noisyexp.records.kinds import SCHEMA
from noisyexp.records.run_record import RunRecord, from_content
from noisyexp.records.schema import problems_of

MOST_PROBLEMS = 6
"""Problems that a message lists."""


def checked(raw: Any, name: str) -> RunRecord:
    """The record that `raw`, the parsed content of a run.json, holds.

    Raises:
        RecordError: it breaks the schema; the message names the file and the fields.
    """
    problems = problems_of(raw)
    if problems:
        more = len(problems) - MOST_PROBLEMS
        shown = problems[:MOST_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
        raise RecordError(f"{name} is not a run record of schema {SCHEMA}: {'; '.join(shown)}")
    return from_content(raw, name)


class UnreadableError(RecordError):
    """A file that was to be a run record is none at all."""


def read_run_json(path: Path, name: str) -> Any:
    """The content of a JSON file, unchecked.

    Raises:
        RecordError: there is none.
        UnreadableError: it cannot be read or is not JSON.
    """
    try:
        check_regular(path)
        text = path.read_text(encoding="utf-8-sig")
        raw = json.loads(text)
        if "\\ud" in text.lower():  # halves of characters, which no file can hold
            json.dumps(raw, ensure_ascii=False).encode("utf-8")
        return raw
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RecordError(f"{name}: no such file") from error
    except UnicodeEncodeError as error:
        raise UnreadableError(f"{name} is no run record: it has half a character") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableError(f"{name} is no run record: {explain_read(error)}") from error


def load_record(path: Path, name: str | None = None) -> RunRecord:
    """Read and check one run record.

    Args:
        path: the JSON file.
        name: how messages and footnotes call it; default is the path.

    Raises:
        RecordError: the file cannot be read, is not JSON, or breaks the schema.
    """
    name = name or str(path)
    return checked(read_run_json(path, name), name)


def load_records(folder: Path, tables: Iterable[str] | None = None) -> list[RunRecord]:
    """Every `*.json` below `folder` as a record, ordered by path. No folder means no records.

    Args:
        folder: results/records.
        tables: folders in it that are read, the names of tables; None reads all.

    Raises:
        RecordError: one of them is not a valid record.
    """
    places = [folder] if tables is None else [folder / table for table in dict.fromkeys(tables)]
    paths = [path for place in places for path in place.rglob("*.json")]
    paths.sort(key=lambda path: path.relative_to(folder).parts)
    try:
        return [load_record(path, path.relative_to(folder).as_posix()) for path in paths]
    except UnreadableError as error:  # it was a record when it was committed
        raise RecordError(f"{error}. Restore it (git checkout) or delete it.") from error
