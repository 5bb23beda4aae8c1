"""The record of one run: the content of its `run.json`, read, checked and typed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from noisyexp.errors import RecordError
from noisyexp.records.metric import Metric
from noisyexp.records.schema import MOST_PROBLEMS, SCHEMA, problems_of

__all__ = ["Metric", "RunRecord", "load_record", "load_records", "read_run_json"]


@dataclass(frozen=True)
class RunRecord:
    """One run; the names are those of the JSON file, which `noisyexp.records.schema` describes.

    Attributes:
        name: path of the file below the folder it was loaded from, for messages and footnotes.
        best, final: metric names to values; None for a value that was not finite.
        floor: the best value that any model can reach, where it is known (generated data).
        findings: what a task keeps of the final model beside metrics.
        chance: what predictors that learned nothing reach, by metric of the curve and name.
        environments: code, torch, device and threads of the run's sessions, each once.
    """

    name: str
    status: str
    reason: str | None
    experiment: str | None
    task: str
    act: str
    scale: str
    data: str
    seed: int
    config: Mapping[str, Any]
    config_hash: str
    command: tuple[str, ...]
    code: Mapping[str, Any]
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    data_files: Mapping[str, str]
    parameters: Mapping[str, int]
    metrics: Mapping[str, Metric]
    selection: str | None
    curve: tuple[Mapping[str, Any], ...]
    best: Mapping[str, Any]
    final: Mapping[str, Any]
    cost: Mapping[str, Any]
    floor: Mapping[str, float]
    findings: Mapping[str, Any]
    chance: Mapping[str, Mapping[str, float]]
    environments: tuple[Mapping[str, Any], ...]

    @classmethod
    def from_json(cls, raw: Any, name: str) -> RunRecord:
        """The record that `raw`, the parsed content of a run.json, holds.

        Raises:
            RecordError: it breaks the schema; the message names the file and the fields.
        """
        problems = problems_of(raw)
        if problems:
            more = len(problems) - MOST_PROBLEMS
            shown = problems[:MOST_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
            raise RecordError(f"{name} is not a run record of schema {SCHEMA}: {'; '.join(shown)}")
        values = {field.name: raw.get(field.name) for field in fields(cls)}
        for key in ("command", "curve", "environments"):
            values[key] = tuple(values[key] or ())
        for key in ("machine", "data_files", "parameters", "metrics", "best", "final", "cost",
                    "floor", "findings", "chance"):  # fmt: skip
            values[key] = values[key] or {}
        values["metrics"] = {
            key: Metric(info["label"], info["unit"], info["direction"])
            for key, info in values["metrics"].items()
        }
        return cls(**{**values, "name": name})

    @property
    def complete(self) -> bool:
        """Whether the run reached its last step with finite numbers."""
        return self.status == "complete"

    def value(self, metric: str) -> float | None:
        """`metric` at the end of the run, or None when the run has no finite value of it."""
        value = self.final.get(metric)
        return None if value is None else float(value)


def read_run_json(path: Path, name: str) -> Any:
    """The content of a JSON file, unchecked.

    Raises:
        RecordError: it cannot be read or is not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text)
        if "\\ud" in text.lower():  # halves of characters, which no file can hold
            json.dumps(raw, ensure_ascii=False).encode("utf-8")
        return raw
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, RecursionError):
            reason = "it is nested too deeply"
        raise RecordError(
            f"cannot read the run record {name}: {reason}. Restore it (git checkout) or delete it."
        ) from error


def load_record(path: Path, name: str | None = None) -> RunRecord:
    """Read and check one run record.

    Args:
        path: the JSON file.
        name: how messages and footnotes call it; default is the path.

    Raises:
        RecordError: the file cannot be read, is not JSON, or breaks the schema.
    """
    name = name or str(path)
    return RunRecord.from_json(read_run_json(path, name), name)


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
    return [load_record(path, path.relative_to(folder).as_posix()) for path in paths]
