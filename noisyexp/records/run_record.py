"""Run records as typed objects: read, validate, publish.

A record is the `run.json` of one run (schema 1). `publish` copies it into `results/records/`,
where it is committed as the evidence behind the tables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisyexp.errors import RecordError
from noisyexp.fileio import atomic_write_bytes

SCHEMA = 1
STATUSES = ("complete", "diverged", "failed", "interrupted")
PUBLISHABLE = ("complete", "diverged")

_TEXT, _OPTIONAL_TEXT, _INTEGER = "text", "text or null", "a whole number"
_OBJECT, _OPTIONAL_OBJECT, _LIST = "an object", "an object or null", "a list"
_CHECKS = {
    _TEXT: lambda v: isinstance(v, str) and v != "",
    _OPTIONAL_TEXT: lambda v: v is None or isinstance(v, str),
    _INTEGER: lambda v: isinstance(v, int) and not isinstance(v, bool),
    _OBJECT: lambda v: isinstance(v, dict),
    _OPTIONAL_OBJECT: lambda v: v is None or isinstance(v, dict),
    _LIST: lambda v: isinstance(v, list),
}
_FIELDS = {
    "status": _TEXT, "reason": _OPTIONAL_TEXT, "experiment": _OPTIONAL_TEXT, "task": _TEXT,
    "act": _TEXT, "scale": _TEXT, "data": _TEXT, "seed": _INTEGER, "config": _OBJECT,
    "config_hash": _TEXT, "command": _LIST, "code": _OBJECT, "versions": _OBJECT,
    "machine": _OBJECT, "parameters": _OBJECT, "metrics": _OBJECT, "selection": _OPTIONAL_TEXT,
    "curve": _LIST, "best": _OPTIONAL_OBJECT, "final": _OPTIONAL_OBJECT, "cost": _OBJECT,
}  # fmt: skip


@dataclass(frozen=True)
class MetricInfo:
    """How to read one metric: its unit, whether "min" or "max" is better, its printed name."""

    unit: str
    direction: str
    label: str

    @property
    def title(self) -> str:
        """Label and unit, the unit left out where the label says it: "test perplexity"."""
        unit = f" [{self.unit}]" if self.unit and self.unit not in self.label else ""
        return self.label + unit


@dataclass(frozen=True)
class Record:
    """One run, as written by the trainer; the names are those of the JSON file.

    `name` is the path of the file below the folder it was loaded from, for messages and footnotes.
    `best` and `final` map metric names to values; a null value means it was not finite. `floor`
    has the best value that any model can reach, where it is known (generated data), `findings` what
    a task keeps of the final model beside metrics, `environments` code, torch, device and threads
    of its sessions, each once.
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
    parameters: Mapping[str, int]
    metrics: Mapping[str, MetricInfo]
    selection: str | None
    curve: tuple[Mapping[str, Any], ...]
    best: Mapping[str, Any]
    final: Mapping[str, Any]
    cost: Mapping[str, Any]
    floor: Mapping[str, float]
    findings: Mapping[str, Any]
    environments: tuple[Mapping[str, Any], ...]

    @property
    def complete(self) -> bool:
        """Whether the run reached its last step with finite numbers."""
        return self.status == "complete"

    def value(self, metric: str) -> float | None:
        """`metric` at the end of the run, or None when the run has no finite value of it."""
        value = self.final.get(metric)
        return None if value is None else float(value)


def load_record(path: Path, name: str | None = None) -> Record:
    """Read and check one run record.

    Args:
        path: the JSON file.
        name: how messages and footnotes call it; default is the file's own name.

    Raises:
        RecordError: the file cannot be read, is not JSON, or breaks schema 1; every problem is
            listed.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(
            f"cannot read the run record {path}: {error}. Restore it (git checkout) or delete it."
        ) from error
    problems = _problems(raw)
    if problems:
        raise RecordError(f"{path} is not a run record of schema {SCHEMA}: " + "; ".join(problems))
    fields = {key: raw.get(key) for key in _FIELDS}
    fields["metrics"] = {key: MetricInfo(**_info(info)) for key, info in raw["metrics"].items()}
    fields["command"], fields["curve"] = tuple(raw["command"]), tuple(raw["curve"])
    fields["floor"] = raw.get("floor") or {}
    fields["findings"] = raw.get("findings") or {}
    fields["environments"] = tuple(raw.get("environments") or ())
    fields["best"], fields["final"] = raw.get("best") or {}, raw.get("final") or {}
    return Record(name=name or path.name, **fields)


def load_records(folder: Path) -> list[Record]:
    """Every `*.json` below `folder` as a record, ordered by path. No folder means no records.

    Raises:
        RecordError: one of them is not a valid record.
    """
    paths = sorted(folder.rglob("*.json"), key=lambda path: path.relative_to(folder).parts)
    return [load_record(path, path.relative_to(folder).as_posix()) for path in paths]


def record_path(record: Record, results_root: Path) -> Path:
    """Where `publish` puts `record`: `records/<table or task>/<row>-<scale>-seed<k>.json`.

    Runs outside an experiment use task and activation for folder and row. Runs on other data than
    the real ones carry the name of the data, so that the two never collide.

    Raises:
        RecordError: a name holds characters that do not belong in a file name.
    """
    folder, _, row = (record.experiment or f"{record.task}/{record.act}").rpartition("/")
    folder = folder or record.task
    data = [] if record.data == "real" else [record.data]
    parts = [row, record.scale, *data, f"seed{record.seed}"]
    for part in (folder, *parts):
        if not re.fullmatch(r"\w[\w.+]*", part, flags=re.ASCII):
            raise RecordError(
                f"{record.name}: {part!r} cannot be part of a file name; letters, digits and _ . + "
                f"are allowed. Rename the experiment, scale or data set."
            )
    return results_root / "records" / folder / f"{'-'.join(parts)}.json"


def publish(run_json: Path, results_root: Path, replace: bool = False) -> Path:
    """Copy the record of a finished run into `results_root/records/`, atomically, byte for byte.

    A record of a modified working tree is taken too; the table prints that in a footnote.

    Args:
        run_json: the `run.json` of a run folder.
        results_root: the committed `results` folder.
        replace: overwrite a different record of the same row, scale and seed.

    Returns:
        The path of the published record.

    Raises:
        RecordError: the record is invalid or of a run that did not end (failed, interrupted), or a
            different record is already there and `replace` is false.
    """
    record = load_record(run_json, str(run_json))
    if record.status not in PUBLISHABLE:
        raise RecordError(
            f"{run_json} is the record of a run that is {record.status!r}; only runs that are "
            f"{' or '.join(PUBLISHABLE)} can be published. Start the same command again to finish."
        )
    content, target = run_json.read_bytes(), record_path(record, results_root)
    if target.exists() and target.read_bytes() != content and not replace:
        raise RecordError(
            f"{target} exists and differs from {run_json}; evidence is not overwritten silently. "
            f"Delete it, or publish with replace=True."
        )
    atomic_write_bytes(target, content)
    return target


def _problems(raw: Any) -> list[str]:
    """Every way in which `raw` breaks schema 1, one line each."""
    if not isinstance(raw, dict):
        return ["the file holds no JSON object"]
    if raw.get("schema") != SCHEMA:
        return [f"schema is {raw.get('schema')!r}"]
    problems = [
        f"{key} is {raw.get(key)!r}, expected {kind}"
        for key, kind in _FIELDS.items()
        if not _CHECKS[kind](raw.get(key))
    ]
    if isinstance(raw.get("status"), str) and raw["status"] not in STATUSES:
        problems.append(f"status is {raw['status']!r}, expected one of {', '.join(STATUSES)}")
    metrics = raw.get("metrics")
    for name, info in metrics.items() if isinstance(metrics, dict) else ():
        if not isinstance(info, dict) or set(_info(info)) != {"unit", "direction", "label"}:
            problems.append(f"metrics.{name} needs unit, direction and label")
        elif info["direction"] not in ("min", "max"):
            problems.append(
                f"metrics.{name}.direction is {info['direction']!r}, expected min or max"
            )
    for block in ("best", "final"):
        items = raw.get(block)
        for name, value in items.items() if isinstance(items, dict) else ():
            if isinstance(value, bool) or not isinstance(value, int | float | None):
                problems.append(f"{block}.{name} is {value!r}, expected a number or null")
    return problems


def _info(info: Mapping[str, Any]) -> dict[str, Any]:
    return {key: info[key] for key in ("unit", "direction", "label") if key in info}
