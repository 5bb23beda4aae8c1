"""Copying the record of a finished run into `results/records/`, as the evidence of the tables."""

from __future__ import annotations

import re
from pathlib import Path

from noisyexp.errors import RecordError
from noisyexp.fileio import atomic_write_bytes
from noisyexp.records.run_record import RunRecord, load_record
from noisyexp.records.schema import FINISHED


def record_path(record: RunRecord, results_root: Path) -> Path:
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
    if record.status not in FINISHED:
        raise RecordError(
            f"{run_json} is the record of a run that is {record.status!r}; only runs that are "
            f"{' or '.join(FINISHED)} can be published. Start the same command again to finish."
        )
    content, target = run_json.read_bytes(), record_path(record, results_root)
    if target.exists() and target.read_bytes() != content and not replace:
        raise RecordError(
            f"{target} exists and differs from {run_json}; evidence is not overwritten silently. "
            f"Delete it, or publish with replace=True."
        )
    atomic_write_bytes(target, content)
    return target
