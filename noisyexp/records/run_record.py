"""The record of one run, the content of its `run.json`: its fields, each named here and once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from noisyexp.records import kinds
from noisyexp.records.kinds import (
    ANY,
    COUNT,
    NUMBER_OR_NULL,
    SCHEMA,
    TEXT,
    Kind,
    list_of,
    object_of,
    or_null,
)
from noisyexp.records.metric import Metric

FINISHED = ("complete", "diverged")
"""Status of runs that nothing is left to do for; only they can be evidence."""

KNOWN, MEASURED, ADDED = range(3)
"""When a field gets its value: before anything runs; by the run, so that one that failed early
lacks it; or it may be missing because records of older versions and published ones lack it."""

NOTHING: dict[str, Any] = {}
"""Of a field that the record does not have; not to be changed."""


def _known(kind: Kind) -> Any:
    return field(metadata={"kind": kind, "when": KNOWN})


def _measured(kind: Kind, missing: Any = NOTHING) -> Any:
    return field(default_factory=lambda: missing, metadata={"kind": kind, "when": MEASURED})


def _added(kind: Kind, missing: Any = NOTHING) -> Any:
    return field(default_factory=lambda: missing, metadata={"kind": kind, "when": ADDED})


@dataclass(kw_only=True)
class RunRecord:
    """One run. Training makes it and writes it; tables, figures and reports read it.

    Fields have the names and the order of the JSON file, and here the kinds of their values.

    Attributes:
        name: how messages and footnotes call the record; not in the file.
        job: host, and the number by which an engine knows the process.
        floor: the best value that any model can reach, where it is known (generated data).
        chance: what predictors that learned nothing reach, by metric of the curve and name.
        best, final: metric names to values; None for a value that was not finite.
        findings: what a task keeps of the final model beside metrics.
        environments: code, torch, device and threads of the run's sessions, each once.
        diverged: where and how, if it did.
        digest: of all the rest, see `noisyexp.records.content_digest`.
    """

    name: str
    status: str = _known(kinds.STATUS)
    reason: str | None = _known(or_null(kinds.NAME))
    experiment: str | None = _known(or_null(TEXT))
    task: str = _known(TEXT)
    act: str = _known(TEXT)
    scale: str = _known(TEXT)
    data: str = _known(TEXT)
    seed: int = _known(COUNT)
    config: Mapping[str, Any] = _known(kinds.CONFIG)
    config_hash: str = _known(kinds.HASH)
    command: Sequence[str] = _known(list_of(TEXT))
    job: Mapping[str, str | None] = _added(object_of(ANY))
    code: Mapping[str, Any] = _known(kinds.CODE)
    versions: Mapping[str, str] = _known(object_of(kinds.NAME))
    machine: Mapping[str, Any] = _measured(kinds.MACHINE)
    data_files: Mapping[str, str] = _added(object_of(kinds.NAME))
    metrics: Mapping[str, Metric] = _measured(object_of(kinds.METRIC))
    selection: str | None = _measured(or_null(TEXT), None)
    floor: Mapping[str, float] = _added(object_of(NUMBER_OR_NULL))
    chance: Mapping[str, Mapping[str, float]] = _added(object_of(object_of(kinds.NUMBER)))
    parameters: Mapping[str, int] = _measured(object_of(COUNT))
    final: Mapping[str, Any] = _measured(or_null(object_of(NUMBER_OR_NULL)))
    findings: Mapping[str, Any] = _added(kinds.FINDINGS)
    curve: Sequence[Mapping[str, Any]] = _measured(list_of(kinds.POINT), ())
    best: Mapping[str, Any] = _measured(or_null(object_of(NUMBER_OR_NULL)))
    progress: Mapping[str, int] = _added(object_of(COUNT))
    cost: Mapping[str, Any] = _measured(kinds.COST)
    environments: Sequence[Mapping[str, Any]] = _added(list_of(kinds.CODE), ())
    diverged: Mapping[str, Any] = _added(object_of(ANY))
    digest: str | None = _added(kinds.HASH, None)

    def to_json(self) -> dict[str, Any]:
        """The content of its run.json: what is known, and what the run has measured so far."""
        found: dict[str, Any] = {"schema": SCHEMA}
        for key, one in _FIELDS.items():
            value = getattr(self, key)
            missing = one.default_factory
            if missing is MISSING or value is not missing():
                found[key] = value
        if "metrics" in found:
            found["metrics"] = {key: asdict(metric) for key, metric in self.metrics.items()}
        return found

    @property
    def complete(self) -> bool:
        """Whether the run reached its last step with finite numbers."""
        return self.status == "complete"

    def value(self, metric: str) -> float | None:
        """`metric` at the end of the run, or None when the run has no finite value of it."""
        value = self.final.get(metric)
        return None if value is None else float(value)


_FIELDS = {one.name: one for one in fields(RunRecord) if one.metadata}
KINDS: dict[str, Kind] = {name: one.metadata["kind"] for name, one in _FIELDS.items()}
"""Kind of every field of the file, but for its schema's number."""


def needed(key: str, status: Any) -> bool:
    """Whether a record of this status must have the field; one that diverged has no `final`."""
    when = _FIELDS[key].metadata["when"]
    ended = status == "complete" or (status == "diverged" and key != "final")
    return when == KNOWN or (when == MEASURED and ended)


def from_content(content: Mapping[str, Any], name: str) -> RunRecord:
    """The record of the content of a file in which `schema.problems_of` finds nothing."""
    given = {
        key: content[key]
        for key, one in _FIELDS.items()
        if content.get(key) is not None or one.metadata["when"] == KNOWN
    }
    metrics = given.get("metrics", NOTHING)
    if metrics:
        given["metrics"] = {
            key: Metric(info["label"], info["unit"], info["direction"])
            for key, info in metrics.items()
        }
    return RunRecord(name=name, **given)
