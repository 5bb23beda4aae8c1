"""What a sweep says of its runs: in use elsewhere, given twice, with a folder that cannot be."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisyexp.cli.compose import check
from noisyexp.fileio import write_json
from noisyexp.training import RunSpec
from noisyexp.training.folder import locked
from noisyexp.training.record import start_record

Run = Callable[..., Any]
Records = Callable[..., dict[str, dict[str, Any]]]
Settings = Callable[..., list[str]]


def sweep_list(tmp_path: Path) -> list[dict[str, Any]]:
    """The runs of the one sweep."""
    (path,) = (tmp_path / "runs" / "sweeps").glob("*/sweep.json")
    entries: list[dict[str, Any]] = json.loads(path.read_text())["runs"]
    return entries


def report_of(result: Any) -> list[str]:
    """The lines of the report at the end of a sweep, without where its list is."""
    lines = result.out.splitlines()
    start = next(i for i, line in enumerate(lines) if " runs complete" in line)
    return [line.partition(" (list in ")[0] for line in lines[start:]]


def spec_of(settings: Settings, *words: str) -> RunSpec:
    (spec,) = check(["task=ptb", "act=reference", *words, *settings()])
    return spec


@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_a_run_that_another_process_works_at_is_in_use(
    launcher: str, tiny: Run, settings: Settings, tmp_path: Path
) -> None:
    """Its record says "interrupted" as long as it is at work, and is not this sweep's."""
    spec = spec_of(settings, "seed=0")
    with locked(spec.folder):
        record = start_record(spec.names, spec.plain, spec.digest, spec.command)
        write_json(spec.folder / "run.json", record.to_json())
        result = tiny("-m", "act=reference", "seed=0,1", f"hydra/launcher={launcher}")
    holder = f"process {os.getpid()} on host {socket.gethostname()}"
    assert result.code == 1
    head, first, second = report_of(result)[:3]
    assert head == (
        "1 of 2 runs complete, 1 in use; the same command goes on with what is not finished"
    )
    assert first == f"  seed=0: in use by {holder}"
    assert second.startswith("  seed=1: valid_ppl ")
    entries = sweep_list(tmp_path)
    assert [entry["status"] for entry in entries] == ["in use", "complete"]
    assert entries[0]["reason"].startswith(f"{spec.folder} is in use by {holder}: wait for it")
    if launcher == "local":
        lines = {f"{n}/2 ptb-reference-s0: in use by {holder}" for n in (1, 2)}  # either ends first
        assert len(lines.intersection(result.out.splitlines())) == 1


@pytest.mark.parametrize(
    "damage",
    [{"status": "complete"}, {}, {"status": "interrupted"}, {"status": ["failed"]},
     {"status": "complete", "final": {}}, {"status": "failed"}],
    ids=str,
)  # fmt: skip
def test_a_damaged_record_ends_no_sweep(
    damage: dict[str, Any], tiny: Run, settings: Settings
) -> None:
    """The list of a sweep is written before its first run: what it cannot read counts as none."""
    spec = spec_of(settings, "seed=0")
    spec.folder.mkdir(parents=True)
    write_json(spec.folder / "run.json", {"config_hash": spec.digest, **damage})
    result = tiny("-m", "act=reference", "seed=0,1")
    assert (result.code, result.problems) == (0, [])
    assert report_of(result)[0] == "2 of 2 runs complete"


@pytest.mark.parametrize(
    "words", [("seed=1,1",), ("seed=1", "training.lr=1,1.0"), ("seed=1,1", "hydra/launcher=local")]
)
def test_a_run_that_is_given_twice_is_done_and_counted_once(
    words: tuple[str, ...], tiny: Run, records: Records, tmp_path: Path
) -> None:
    result = tiny("-m", "act=reference", *words)
    assert (result.code, result.err) == (0, "")
    first = "1 run (2 were asked for; those that are the same are done once)"
    assert result.out.splitlines()[0].startswith(first)
    assert report_of(result)[0] == "1 of 1 runs complete"
    assert len(report_of(result)) == 2  # no mean of one run and itself
    assert len(sweep_list(tmp_path)) == 1
    assert [record["cost"]["sessions"] for record in records().values()] == [1]


def occupy_folder(folder: Path) -> str:
    folder.parent.mkdir(parents=True)
    folder.write_text("")
    return f"{folder}: File exists; move away what lies where a folder should be"


def occupy_lock(folder: Path) -> str:
    (folder / "lock").mkdir(parents=True)
    path = folder / "lock"
    return f"{path}: a folder, not a file; move away the folder that lies where a file should be"


def occupy_task(folder: Path) -> str:
    folder.parent.parent.mkdir(parents=True)
    folder.parent.write_text("")
    return f"{folder}: Not a directory; move away what lies where a folder should be"


@pytest.mark.parametrize("occupy", [occupy_folder, occupy_lock, occupy_task])
@pytest.mark.parametrize("launcher", ["basic", pytest.param("local", marks=pytest.mark.slow)])
def test_what_lies_where_a_run_folder_should_be_is_named_with_what_to_do(
    launcher: str, occupy: Callable[[Path], str], tiny: Run, settings: Settings, tmp_path: Path
) -> None:
    spec = spec_of(settings, "seed=0")
    said = occupy(spec.folder)
    result = tiny("-m", "act=reference", "seed=0", f"hydra/launcher={launcher}")
    assert result.code == 1
    assert "Errno" not in result.out + result.err
    assert "Traceback" not in result.err
    (line,) = report_of(result)[1:]
    assert line.endswith(f": not run: {said}")
    assert [(entry["status"], entry["reason"]) for entry in sweep_list(tmp_path)] == [
        ("not run", said)
    ]


@pytest.mark.parametrize(("name", "launcher"), [(".hydra", "basic"), ("sweeps", "local")])
def test_what_lies_where_a_sweeps_own_folder_should_be_is_named(
    name: str, launcher: str, tiny: Run, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / name).write_text("")
    result = tiny("-m", "act=reference", "seed=0,1", f"hydra/launcher={launcher}")
    assert result.code == 1
    (line,) = result.err.splitlines()
    assert line.startswith(str(tmp_path / "runs" / name)) and "where a folder should be" in line
    assert "Errno" not in result.out
