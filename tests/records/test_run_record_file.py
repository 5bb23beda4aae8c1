"""Loading, checking and publishing run records; agreement with a row file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from noisyexp.errors import RecordError
from noisyexp.fileio import read_json, write_json
from noisyexp.records.agreement import disagreements
from noisyexp.records.content_digest import sealed
from noisyexp.records.publish import publish
from noisyexp.records.record_files import checked, load_record, load_records

ROOT = Path(__file__).resolve().parents[2]


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


def test_publish_leaves_out_the_machine_of_the_run(make_record: Any, tmp_path: Path) -> None:
    command = ["run.py", "experiment=table9/nah", "run_root=/home/me/runs", "data.root=/data"]
    source = make_record(command=command, job={"host": "mine", "id": "12_3"})
    target = publish(source, tmp_path / "results")
    kept, raw = json.loads(target.read_text()), json.loads(source.read_text())
    assert kept.pop("command") == command[:2]
    assert kept == {k: v for k, v in raw.items() if k not in ("command", "job")}
    assert publish(source, tmp_path / "results") == target


def test_a_record_shows_that_it_was_changed(make_record: Any, tmp_path: Path) -> None:
    raw = json.loads(make_record(command=["run.py", "task=ptb", "run_root=/a/\udcff"]).read_text())
    path = tmp_path / "run.json"
    write_json(path, sealed({**raw, "cost": {**raw["cost"], "peak_memory_mb": math.nan}}))
    found = load_record(path)
    whole = path.read_text()
    value = found.value("test_ppl")
    assert whole.count(f'"test_ppl": {value}') == 1
    for old, new in ((f'"test_ppl": {value}', '"test_ppl": 9.0'), ('"digest": "', '"digest": "0')):
        path.write_text(whole.replace(old, new))
        with pytest.raises(RecordError, match="digest is "):
            load_record(path)
    path.write_text(json.dumps(json.loads(whole), sort_keys=True))  # what it says is the same
    assert load_record(path) == found
    published = publish(path, tmp_path / "results")
    assert list(load_record(published).command) == ["run.py", "task=ptb"]
    assert json.loads(published.read_text())["digest"] != json.loads(whole)["digest"]


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r["final"].update(valid_ppl=90.0), "final.valid_ppl is 90.0, curve has 101.0"),
        (lambda r: r["final"].update(valid_ppl=math.nan), "final.valid_ppl is nan, expected a fin"),
        (lambda r: r["final"].update(step=7), "final.step is 7, curve has no such step"),
        (lambda r: r.update(best={"step": 2, "valid_ppl": 99.0}), "best.valid_ppl is 99.0, curve"),
        (lambda r: r["curve"].append({"step": 3, "epoch": 2, "valid_ppl": 90.0}) or
         r.update(best={"step": 2, "valid_ppl": 101.0}), "best.valid_ppl is 101.0, curve has 90.0"),
        (lambda r: r["curve"].append(dict(r["curve"][0])), "not in the order of its steps"),
        (lambda r: r.update(curve=[5]), r"curve\[0\] is 5, expected an object"),
        (lambda r: r.update(curve="x"), "curve is 'x', expected a list"),
        (lambda r: r["curve"][0].update(valid_ppl="low"), r"curve\[0\].valid_ppl is 'low'"),
        (lambda r: r.update(config={}), "config.task is missing; config.training is missing"),
        (lambda r: r.update(config_hash="0" * 12), "config and config_hash do not belong together"),
        (lambda r: r.update(seed=1), "seed is 1, config has 0"),
        (lambda r: r.update(cost=[]), r"cost is \[\], expected an object"),
        (lambda r: r.update(environments=[None]), r"environments\[0\] is None"),
        (lambda r: r.update(machine=None), "machine is None, expected an object"),
        (lambda r: r.update(selection="nope"), "selection is 'nope', metrics has test_ppl"),
        (lambda r: r.pop("curve"), "curve is missing"),
        (lambda r: r.update(final={}), "final is empty, status is complete"),
        (lambda r: r["config"].update(deep=nested(60)), "nested deeper than 40 levels"),
    ],
)  # fmt: skip
def test_a_record_that_contradicts_itself(
    make_record: Any, tmp_path: Path, change: Any, words: str
) -> None:
    raw = json.loads(make_record().read_text())
    change(raw)
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(RecordError, match=words) as caught:
        load_record(path)
    assert "damaged.json is not a run record of schema 1: " in str(caught.value)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_nesting_that_no_parser_takes(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(RecordError, match=r"x\.json is no run record: it has brackets"):
        load_record(path)


def test_a_run_that_failed_early_may_lack_what_was_never_measured(make_record: Any) -> None:
    raw = json.loads(make_record(status="failed", reason="no data").read_text())
    for key in ("machine", "metrics", "curve", "best", "final", "cost", "parameters", "selection"):
        del raw[key]
    assert checked(raw, "x").metrics == {}
    with pytest.raises(RecordError, match="machine is missing; metrics is missing"):
        checked({**raw, "status": "complete"}, "x")


def test_every_committed_record_is_one_and_would_be_written_as_it_is() -> None:
    records = load_records(ROOT / "results" / "records")
    assert len(records) > 260
    for record in records:
        raw = read_json(ROOT / "results" / "records" / record.name)
        assert list(record.to_json().items()) == list(raw.items()), record.name
