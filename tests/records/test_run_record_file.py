"""Loading, checking and publishing run records; agreement with a row file."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path
from typing import Any

import pytest

from noisyexp.errors import RecordError
from noisyexp.records import run_record as records_module
from noisyexp.records.agreement import disagreements
from noisyexp.records.publish import publish
from noisyexp.records.run_record import load_record, load_records


def test_loads_what_the_file_says(make_record: Any) -> None:
    record = load_record(make_record(seed=2, test_ppl=99.5))
    assert (record.experiment, record.act, record.seed) == ("table9/nah", "nah", 2)
    assert record.value("test_ppl") == 99.5
    assert record.value("absent") is None
    assert record.metrics["test_ppl"].direction == "min"
    assert record.complete


def test_folder_is_read_in_order_and_a_missing_one_is_empty(
    make_record: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "records"
    assert load_records(folder) == []
    for name in ("b/x.json", "a/y.json", "a/x.json"):
        make_record(folder / name)
    (folder / ".half.json.abc.tmp").write_text("{")
    assert [record.name for record in load_records(folder)] == ["a/x.json", "a/y.json", "b/x.json"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"schema": 2}, "schema is 2"),
        ({"status": "done"}, "complete, diverged, failed, interrupted"),
        ({"seed": True}, "seed is True, expected a whole number"),
        ({"seed": "0"}, "seed is '0', expected a whole number"),
        ({"task": ""}, "task is '', expected text"),
        ({"final": {"test_ppl": "100"}}, r"final.test_ppl is '100', expected a finite number"),
        ({"metrics": {"m": {"unit": "", "label": "m"}}}, "metrics.m.direction is missing"),
        ({"metrics": {"m": {"unit": "", "label": "m", "direction": "up"}}}, "min or max"),
    ],
)
def test_bad_records_are_named_with_the_reason(
    make_record: Any, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(RecordError, match=words) as caught:
        load_record(make_record(**fields))
    assert "run.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\ufeff{}"])
def test_files_that_are_no_record(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=r"x\.json"):
        load_record(path)


def test_publish_names_the_file_and_keeps_every_byte(make_record: Any, tmp_path: Path) -> None:
    source = make_record(seed=3, code={"commit": None, "dirty": True})
    target = publish(source, tmp_path / "results")
    assert target == tmp_path / "results/records/table9/nah-paper-seed3.json"
    assert target.read_bytes() == source.read_bytes()
    assert publish(source, tmp_path / "results") == target
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_publish_names_by_task_and_by_unusual_data(make_record: Any, tmp_path: Path) -> None:
    plain = publish(make_record(experiment=None, scale="cpu"), tmp_path)
    assert plain.relative_to(tmp_path).as_posix() == "records/ptb/nah-cpu-seed0.json"
    other = publish(make_record(data="generated"), tmp_path)
    assert other.name == "nah-paper-generated-seed0.json"


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_unfinished_runs_are_not_published(make_record: Any, tmp_path: Path, status: str) -> None:
    with pytest.raises(RecordError, match=status):
        publish(make_record(status=status), tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_diverged_run_is_published(make_record: Any, tmp_path: Path) -> None:
    source = make_record(status="diverged", reason="non-finite loss at step 7", final=None)
    assert load_record(publish(source, tmp_path)).value("test_ppl") is None


def test_other_evidence_is_replaced_only_on_request(make_record: Any, tmp_path: Path) -> None:
    target = publish(make_record(test_ppl=100.0), tmp_path)
    other = make_record(test_ppl=50.0)
    with pytest.raises(RecordError, match="replace=True"):
        publish(other, tmp_path)
    assert load_record(target).value("test_ppl") == 100.0
    assert load_record(publish(other, tmp_path, replace=True)).value("test_ppl") == 50.0


def test_a_write_that_fails_leaves_the_old_record(
    make_record: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = publish(make_record(test_ppl=100.0), tmp_path)
    other = make_record(test_ppl=50.0)

    def full_disk(source: str, destination: str) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("noisyexp.fileio.os.replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        publish(other, tmp_path, replace=True)
    assert load_record(target).value("test_ppl") == 100.0
    assert [path.name for path in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize("experiment", ["../../etc/x", "table9/a b", "table9/.."])
def test_no_path_outside_the_records(make_record: Any, tmp_path: Path, experiment: str) -> None:
    with pytest.raises(RecordError, match="file name"):
        publish(make_record(experiment=experiment), tmp_path / "results")


def test_disagreements_compare_common_keys_that_decide_the_numbers(make_record: Any) -> None:
    record = load_record(make_record())
    row = json.loads(json.dumps(record.config))
    assert disagreements(record.config, row) == []
    row["training"]["lr"] = 1  # the same number as 1.0
    row["training"]["new_setting"] = 3
    row["act"]["label"] = "another name"
    row["row"] = {"label": "x"}
    row["logger"] = "csv"
    row["anneal"] = math.inf  # JSON has no infinity: the record holds null
    assert disagreements(record.config, row) == []
    row["training"]["lr"] = 0.5
    row["act"]["c"] = 30.0
    row["precision"] = "bfloat16"
    assert disagreements(record.config, row) == [
        "training.lr is 1.0, the row file gives 0.5",
        "act.c is 0.5, the row file gives 30.0",
        "precision is 'float32', the row file gives 'bfloat16'",
    ]


def test_a_block_against_nothing_is_a_mismatch(make_record: Any) -> None:
    record = load_record(make_record())
    assert disagreements(record.config, {"anneal": {"start": 30.0}}) == [
        "anneal is None, the row file gives {'start': 30.0}"
    ]


DRAW_UNITS = {"analysis_figures.py", "escape.py", "unit_figures.py"}
"""Modules that draw what units do, not what records say."""


def test_reading_records_imports_neither_torch_nor_hydra() -> None:
    imported = set()
    paths = {path.name: path for path in Path(records_module.__file__).parent.glob("*.py")}
    for path in (path for name, path in paths.items() if name not in DRAW_UNITS):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    assert "json" in imported
    assert not imported & {"torch", "hydra"}
