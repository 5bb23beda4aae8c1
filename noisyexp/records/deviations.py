"""The deviations ledger of a task: where paper, released code and this project differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from noisyexp.errors import RecordError
from noisyexp.records.yaml_file import read_yaml

FIELDS = ("paper", "code", "ours", "switch", "section")


@dataclass(frozen=True)
class Deviation:
    """One entry.

    Attributes:
        paper: what the paper says.
        code: what the released code does.
        ours: what this project does.
        switch: the override `key=value` that gives the other behaviour, or "none".
        section: section or equation of the paper.
    """

    paper: str
    code: str
    ours: str
    switch: str
    section: str


def load_deviations(path: Path) -> tuple[Deviation, ...]:
    """Read a `deviations.yaml`; a task without one has an empty ledger.

    Raises:
        RecordError: the file is not a list of entries with exactly the five text fields.
    """
    if not path.exists():
        return ()
    raw = read_yaml(path)
    if not isinstance(raw, list):
        raise RecordError(f"{path} must be a list of entries with the keys {', '.join(FIELDS)}")
    for number, entry in enumerate(raw, start=1):
        good = isinstance(entry, dict) and set(entry) == set(FIELDS)
        if not good or not all(isinstance(text, str) and text for text in entry.values()):
            raise RecordError(
                f"{path}, entry {number}: exactly the keys {', '.join(FIELDS)} are needed, each "
                f"with a text (quote numbers)"
            )
    return tuple(Deviation(**entry) for entry in raw)
