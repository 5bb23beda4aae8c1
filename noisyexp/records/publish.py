"""Copying the record of a finished run into `results/records/`, as the evidence of the tables."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noisyexp.errors import RecordError
from noisyexp.fileio import atomic_write_bytes, read_json, write_json
from noisyexp.records.content_digest import DIGEST, sealed
from noisyexp.records.record_files import load_record
from noisyexp.records.run_record import FINISHED, RunRecord

FOLDERS = ("run_root=", "data.root=")
"""Words of a command that name folders of the machine."""


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
    """Copy the record of a finished run into `results_root/records/`, atomically.

    What belongs to a machine of one's own is left out, see `impersonal`; every other byte is kept.
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
    target = record_path(record, results_root)
    if target.exists() and read_json(target) != impersonal(read_json(run_json)) and not replace:
        raise RecordError(
            f"{target} exists and differs from {run_json}; evidence is not overwritten silently. "
            f"Delete it, or publish with replace=True."
        )
    copy_record(run_json, target)
    return target


def copy_record(run_json: Path, target: Path) -> None:
    """Write the record to `target` as it is published: see `impersonal`."""
    raw = read_json(run_json)
    kept = impersonal(raw)
    if kept == raw:
        atomic_write_bytes(target, run_json.read_bytes())
    else:
        write_json(target, kept)


def impersonal(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A record without the name of the host, its job, and the folders of runs and data.

    None of them is in the hash of the configuration.
    """
    kept = copy.deepcopy(dict(raw))
    kept.pop("job", None)
    kept["command"] = [word for word in raw["command"] if not str(word).startswith(FOLDERS)]
    config = kept["config"]
    if "run_root" in config:
        config["run_root"] = Path(str(config["run_root"])).name
    if isinstance(config.get("data"), dict) and "root" in config["data"]:
        config["data"]["root"] = Path(str(config["data"]["root"])).name
    return sealed(kept) if DIGEST in kept else kept
