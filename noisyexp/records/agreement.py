"""Whether a record is a run of the row file as it stands today."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from noisyexp.records.row_files import Row
from noisyexp.records.run_record import RunRecord

# What decides the numbers of a run. Row, logger and path settings may differ freely.
COMPARED = ("task", "training", "act", "anneal", "precision")
IGNORED = ("act.label", "task.workers", "training.cuda_graph", "training.accumulate")


def mismatches(record: RunRecord, row: Row, config: Mapping[str, Any]) -> list[str]:
    """Why `record` is no run of `row` as its file stands today; empty when it is one.

    Args:
        record: of the same experiment.
        row: the row file.
        config: its resolved configuration at the record's scale, see `disagreements`.
    """
    named = [
        f"{key} is {own!r}, the row file gives {wanted!r}"
        for key, own, wanted in (
            ("task", record.task, row.task),
            ("act", record.act, row.act),
        )
        if own != wanted
    ]
    return named + disagreements(record.config, config)


def disagreements(
    config: Mapping[str, Any],
    row_config: Mapping[str, Any],
    compared: Sequence[str] = COMPARED,
) -> list[str]:
    """Settings on which a run and a row disagree.

    Only keys that both have are compared, because a config may gain keys after the run; nothing is
    said about keys that one of them lacks.

    Args:
        config: of the run.
        row_config: resolved config of the row at the run's scale, plain containers.
        compared: sections that are compared.

    Returns:
        One line a setting, "training.lr is 1.0, the row file gives 0.5"; empty when they agree.
    """
    ours = {key: config[key] for key in compared if key in config}
    row = {key: row_config[key] for key in compared if key in row_config}
    return _differences(ours, row, "")


def _differences(ours: Any, row: Any, path: str) -> list[str]:
    if path in IGNORED:
        return []
    if isinstance(ours, Mapping) and isinstance(row, Mapping):
        lines = []
        for key in ours:
            if key in row:
                lines += _differences(ours[key], row[key], f"{path}.{key}" if path else str(key))
        return lines
    ours, row = _plain(ours), _plain(row)
    return [] if ours == row else [f"{path} is {ours!r}, the row file gives {row!r}"]


def _plain(value: Any) -> Any:
    """As the value reads after a way through JSON: tuples are lists, non-finite numbers null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
