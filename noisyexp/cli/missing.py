"""Which runs of a table's rows have no committed record yet, and publishing theirs."""

from __future__ import annotations

from pathlib import Path

from noisyexp.errors import RecordError
from noisyexp.records.agreement import mismatches
from noisyexp.records.publish import publish
from noisyexp.records.record_files import load_record, load_records
from noisyexp.records.row_config import row_config
from noisyexp.records.row_files import Row
from noisyexp.records.run_record import RunRecord


def _fits(record: RunRecord, row: Row) -> bool:
    """Whether a record is a run of the row with the settings that its file has now."""
    return record.experiment == row.experiment and not mismatches(
        record, row, row_config(row.experiment, record.scale)
    )


def publish_run(run: Path, row: Row, root: Path) -> Path:
    """Publish a run of `row`, in the place of an older record.

    Raises:
        RecordError: it is a run of something else, or with other settings than the row's.
    """
    record = load_record(run, str(run))
    if not _fits(record, row):
        raise RecordError(f"{run} is not a run of {row.experiment} with the settings of its file")
    return publish(run, root / "results", replace=True)


def missing_runs(
    rows: list[Row], scale: str, seeds: list[int] | None, root: Path
) -> list[tuple[Row, int]]:
    """Rows and seeds without a committed record of this scale, seed by seed.

    Args:
        rows: of the table.
        scale: name of the scale.
        seeds: seeds to run; None takes those that each row names.
        root: folder with results/records.
    """
    # Runs on a stand-in for the row's data are no runs of the row.
    source = row_config(rows[0].experiment, scale)["data"]["source"]
    by_name = {row.experiment: row for row in rows}
    folders = {name.split("/")[0] for name in by_name}
    done = {
        (record.experiment, record.seed)
        for record in load_records(root / "results" / "records", folders)
        if record.experiment in by_name
        and record.scale == scale
        and record.data == source
        and _fits(record, by_name[record.experiment])
    }
    wanted = [
        (row, seed) for row in rows for seed in dict.fromkeys(row.seeds if seeds is None else seeds)
    ]
    # Seed by seed: after an interruption the rows have seeds in common, which can be compared.
    return sorted(
        (pair for pair in wanted if (pair[0].experiment, pair[1]) not in done),
        key=lambda pair: (pair[1], pair[0].order),
    )
