"""Name, hash and lock of the run folder, and what a second execution does."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from noisyexp import locks
from noisyexp.cli.compose import check
from noisyexp.errors import RunLockedError
from noisyexp.locks import this_process
from noisyexp.records.config_hash import config_hash
from noisyexp.records.content_digest import content_digest
from noisyexp.training import RunSpec, execute
from noisyexp.training.finished import finished_record
from noisyexp.training.folder import RunNames, locked, run_folder

# What may differ between two executions of one run: where, how fast, how shown.
FREE = {
    "run_root", "device", "threads", "progress", "row", "data.root", "init_from",
    "logger.every_steps", "logger.tensorboard", "logger.wandb", "logger.wandb_project",
    "checkpoint.every_seconds", "checkpoint.every_steps", "training.cuda_graph",
    "logger.wandb_entity", "logger.wandb_tags", "logger.wandb_group", "training.accumulate",
}  # fmt: skip


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def changed(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A copy with another value at the dotted `key`."""
    copied = copy.deepcopy(dict(values))
    section: Any = copied
    *path, last = key.split(".")
    for part in path:
        section = section[part]
    section[last] = "something else"
    return copied


def test_every_key_that_matters_changes_the_hash(
    tmp_path: Path, make_spec: Callable[..., RunSpec]
) -> None:
    plain = make_spec(tmp_path).plain
    names = dict(leaves(plain))
    for key in ("seed", "task.hidden_size", "training.lr", "training.lr_schedule.after", "act.c",
                "act.tanh.c", "anneal.every", "precision", "data.source", "scale"):  # fmt: skip
        assert key in names
    hashes = {key: config_hash(changed(plain, key)) for key in names}
    same = {key for key, value in hashes.items() if value == config_hash(plain)}
    assert same == FREE
    different = [value for key, value in hashes.items() if key not in FREE]
    assert len(set(different)) == len(different)


def test_hash_is_of_the_sorted_content() -> None:
    digest = hashlib.sha256(b'{"a":{"b":0.5},"seed":1}').hexdigest()[:12]
    assert config_hash({"seed": 1, "a": {"b": 0.5}}) == digest
    assert config_hash({"a": {"b": 0.5}, "seed": 1, "run_root": "x", "data": {}}) != digest
    assert config_hash({"a": {"b": 0.5}, "seed": 1, "run_root": "x"}) == digest


def test_hash_leaves_the_configuration_as_it_is(
    tmp_path: Path, make_spec: Callable[..., RunSpec]
) -> None:
    plain = make_spec(tmp_path).plain
    before = copy.deepcopy(plain)
    config_hash(plain)
    assert plain == before


def test_names_of_folders() -> None:
    names = RunNames("ptb", "nah", "paper", "real", None, 3)
    assert run_folder(Path("runs"), names, "0123") == Path("runs/ptb/nah-paper-s3-0123")
    names = RunNames("ptb", "nan_normal", "smoke", "generated", "table2/nan_normal", 0)
    expected = Path("runs/ptb/nan_normal-smoke-generated-s0-0123")
    assert run_folder(Path("runs"), names, "0123") == expected


def test_an_experiment_and_the_same_choices_by_hand_are_one_run() -> None:
    by_row = check(["experiment=table2/nah", "seed=1"])[0]
    by_hand = check(["task=ptb", "act=nah", "seed=1"])[0]
    assert by_row.plain["row"] != by_hand.plain["row"]
    assert by_row.folder == by_hand.folder


def test_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert (tmp_path / "lock").read_text() == this_process()
        message = f"in use by process {os.getpid()} on host {socket.gethostname()}: "
        with pytest.raises(RunLockedError, match=message), locked(tmp_path):
            raise AssertionError
        assert (tmp_path / "lock").read_text() == this_process()
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    (tmp_path / "lock").write_text("999999999")  # left by a process that was killed
    with locked(tmp_path):
        assert (tmp_path / "lock").read_text() == this_process()


NO_FLOCK = {"Lustre without flock": errno.ENOSYS, "NFS without lockd": errno.ENOLCK}


@pytest.mark.parametrize("number", NO_FLOCK.values(), ids=NO_FLOCK)
def test_a_disk_without_flock_locks_by_a_file(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    mark = tmp_path / "lock.held"
    with locked(tmp_path):
        assert mark.read_text() == this_process()
        assert f"cannot be locked ({os.strerror(number)})" in capsys.readouterr().err
        with (
            pytest.raises(RunLockedError, match=f"by process {os.getpid()} on host"),
            locked(tmp_path),
        ):
            raise AssertionError
    assert not mark.exists()
    # Left by a process that was killed, or whose number another process has now: taken over.
    host = socket.gethostname()
    for left in (f"999999999 {host} 5", f"{os.getpid()} {host} 5"):
        mark.write_text(left)
        with locked(tmp_path):
            assert mark.read_text() == this_process()
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    # Of another machine nobody here can tell.
    mark.write_text("17 elsewhere 5")
    with (
        pytest.raises(RunLockedError, match=f"process 17 on host elsewhere .*delete {mark}"),
        locked(tmp_path),
    ):
        raise AssertionError
    assert mark.read_text() == "17 elsewhere 5"
    # What names no process, damaged as it may be, is left to a person as well.
    for left in (b"", b"\xff\xfe\x00", f"{10**20} {host} 5".encode(), f"\u00b2 {host} 5".encode()):
        mark.write_bytes(left)
        with (
            pytest.raises(RunLockedError, match=f"process unknown .*delete {mark}"),
            locked(tmp_path),
        ):
            raise AssertionError
        assert mark.read_bytes() == left


@pytest.mark.parametrize("left", [b"\xff\xfe\x00", b"9" * 30, "\u00b2".encode()])
def test_a_lock_that_is_held_names_nobody_where_it_was_damaged(left: bytes, tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / "lock").write_bytes(left)
        with pytest.raises(RunLockedError, match="process unknown"), locked(tmp_path):
            raise AssertionError


def test_a_finished_run_is_not_touched_again(
    tmp_path: Path, make_spec: Callable[..., RunSpec]
) -> None:
    spec = make_spec(tmp_path, act="reference")
    first = execute(spec)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in
              spec.folder.iterdir() if path.name != "lock"}  # fmt: skip
    second = execute(make_spec(tmp_path, act="reference", keys={"checkpoint.every_steps": 5}))
    assert (first.skipped, second.skipped) == (False, True)
    assert second.record == json.loads((spec.folder / "run.json").read_text())
    for path, (time, content) in before.items():
        assert (path.stat().st_mtime_ns, path.read_bytes()) == (time, content)


def test_an_experiment_adopts_a_run_made_by_hand(
    tmp_path: Path, make_spec: Callable[..., RunSpec]
) -> None:
    arguments: dict[str, Any] = {"act": "reference"}
    by_hand = execute(make_spec(tmp_path, **arguments)).record
    assert (by_hand["experiment"], by_hand["config"]["row"]) == (None, None)
    row = {"table": 2, "label": "LSTM (Reference)", "source": "paper", "paper": {}}
    arguments["keys"] = {"row": row}
    spec = make_spec(tmp_path, experiment="table2/reference", **arguments)
    outcome = execute(spec)
    assert outcome.skipped
    assert outcome.record["experiment"] == "table2/reference"
    assert outcome.record["config"]["row"] == row
    on_disk = json.loads((spec.folder / "run.json").read_text())
    assert on_disk == outcome.record
    assert content_digest(on_disk) == on_disk["digest"] != by_hand["digest"]
    for name in ("experiment", "config", "digest"):
        del on_disk[name], by_hand[name]
    assert on_disk == by_hand
    # It keeps its row when another asks.
    other = execute(make_spec(tmp_path, experiment="table9/other", **arguments))
    assert other.skipped
    assert other.record["experiment"] == "table2/reference"


@pytest.mark.parametrize(
    ("words", "experiment"),
    [
        ([], "table5/reference"),
        (["seed=3", "scale=cpu", "threads=1"], "table5/reference"),
        (["act=nan_normal"], None),
        (["task=ptb"], None),
    ],
)
def test_a_row_with_other_units_or_task_is_no_run_of_the_row(
    words: list[str], experiment: str | None
) -> None:
    (spec,) = check(["experiment=table5/reference", *words])
    assert spec.names.experiment == experiment
    assert (spec.plain["row"] is None) == (experiment is None)


def test_a_file_in_place_of_the_folder_has_no_record_to_make_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file"
    path.touch()
    assert finished_record(path) is None
    assert capsys.readouterr().err == ""


def test_an_unreadable_record_is_made_again(
    tmp_path: Path, make_spec: Callable[..., RunSpec]
) -> None:
    spec = make_spec(tmp_path, act="reference")
    record = execute(spec).record
    (spec.folder / "run.json").write_text('{"status": "comp')
    outcome = execute(spec)
    assert not outcome.skipped
    assert outcome.record["final"] == record["final"]
    assert outcome.record["cost"]["sessions"] == 2
