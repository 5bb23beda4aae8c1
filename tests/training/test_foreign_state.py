"""State in a run folder that is not the run's own: refused by name or made again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from noisyexp.cli.run import run_one
from noisyexp.errors import CheckpointError, FolderLostError, RecordError, RunLockedError
from noisyexp.tasks.ptb import PTB
from noisyexp.training import Outcome, RunSpec, execute
from noisyexp.training import run as run_module
from noisyexp.training.folder import locked
from noisyexp.training.sessions import Sessions

MakeSpec = Callable[..., RunSpec]
StopAt = Callable[[RunSpec, str, int], None]
SHORT: dict[str, Any] = {"training.epochs": 2, "training.optimizer": "adam", "training.lr": 0.01}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}


# --- checkpoints


@pytest.mark.parametrize("other", [{"seed": 1}, {"act.alpha": 0.9}, {"training.lr": 0.02}])
def test_the_checkpoints_of_another_run_are_refused(
    other: dict[str, Any], tmp_path: Path, make_spec: MakeSpec, stop_at: StopAt
) -> None:
    own, foreign = make_spec(tmp_path, keys=SHORT), make_spec(tmp_path, keys={**SHORT, **other})
    assert own.folder != foreign.folder
    for spec in (own, foreign):
        stop_at(spec, "on_step_end", 10)
    for name in ("last.pt", "previous.pt"):
        shutil.copy(foreign.folder / name, own.folder / name)
    with pytest.raises(CheckpointError, match=r"last\.pt is of another run"):
        execute(own)
    assert json.loads((own.folder / "run.json").read_text())["status"] == "failed"
    assert (own.folder / "last.pt").read_bytes() == (foreign.folder / "last.pt").read_bytes()


def test_the_best_weights_of_another_run_are_refused(
    tmp_path: Path, make_spec: MakeSpec, stop_at: StopAt
) -> None:
    keys = {**SHORT, "training.use_weights": "best"}
    own, foreign = make_spec(tmp_path, keys=keys), make_spec(tmp_path, keys={**keys, "seed": 1})
    stop_at(own, "on_fit_end", 16)
    execute(foreign)
    whole = (own.folder / "best.pt").read_bytes()
    shutil.copy(foreign.folder / "best.pt", own.folder / "best.pt")
    with pytest.raises(CheckpointError, match=r"best\.pt is of another run"):
        execute(own)
    # Of the right run, and of a step that is not its best.
    (own.folder / "best.pt").write_bytes(whole)
    state = torch.load(own.folder / "best.pt", weights_only=True)
    torch.save({"format": 1, "model": state["model"], "step": 3}, own.folder / "best.pt")
    with pytest.raises(CheckpointError, match=r"best\.pt is of step 3"):
        execute(own)
    (own.folder / "best.pt").write_bytes(whole)
    assert execute(own).record["status"] == "complete"


def put(state: dict[str, Any], path: str, value: Any) -> None:
    *way, last = path.split("/")
    for part in way:
        state = state[int(part) if part.isdigit() else part]
    if value is KeyError:
        del state[last]
    else:
        state[last] = value


IMPLAUSIBLE = [
    ("step", -1), ("step", 10**9), ("step", 9.5), ("step", True), ("step", KeyError), ("step", 1),
    ("epoch", 99), ("epoch", -1), ("epoch", 2), ("epoch", None), ("curve", []), ("curve", None),
    ("curve", [{}]), ("curve", [5]), ("curve/0/step", 7), ("curve/0/valid_ppl", "x"),
    ("stop", 1), ("sums", {"nll": "x"}), ("train_seconds", float("nan")), ("train_seconds", -1.0),
    ("model", {}), ("model", []), ("model/embedding.weight", torch.zeros(3, 3)),
    ("optimizer", {}), ("optimizer/state", {}), ("optimizer/state", {0: {}}),
    ("optimizer/state", {99: {}}), ("optimizer/param_groups", []), ("optimizer/param_groups", [1]),
    ("optimizer/param_groups/0/lr", float("inf")), ("optimizer/param_groups/0/lr", "x"),
    ("optimizer/param_groups/0/weight_decay", 0.5), ("scaler", None), ("task", None),
    ("callbacks", {}), ("callbacks/Evaluate", {}), ("callbacks/Evaluate/best", {}),
    ("callbacks/Evaluate/best/step", 3), ("callbacks/Evaluate/best/valid_ppl", 1.0),
    ("callbacks/Sessions", {"seconds": "x"}),
]  # fmt: skip


def test_what_cannot_be_this_runs_is_refused(
    tmp_path: Path, make_spec: MakeSpec, stop_at: StopAt, whole_run: Callable[..., Outcome]
) -> None:
    """In the format of older versions, which has no digest: each part is looked at."""
    spec = make_spec(tmp_path, keys=SHORT)
    stop_at(spec, "on_step_end", 10)
    last = spec.folder / "last.pt"
    whole = last.read_bytes()
    (spec.folder / "previous.pt").unlink()
    task = PTB(spec.task_config, "generated", 0)
    task.prepare(tmp_path)
    trainer = run_module.build_trainer(spec, task, torch.device("cpu"), [Sessions({}, {})])
    for path, value in IMPLAUSIBLE:
        last.write_bytes(whole)
        state = torch.load(last, weights_only=True)
        del state["digest"], state["config_hash"]
        put(state, path, value)
        torch.save({**state, "format": 1}, last)
        with pytest.raises(CheckpointError, match=r"not of this run|does not fit this version"):
            run_module._restore(trainer, spec.folder, spec.digest)
    # One that is right goes on as if nothing had happened.
    last.write_bytes(whole)
    state = torch.load(last, weights_only=True)
    del state["digest"], state["config_hash"]
    torch.save({**state, "format": 1}, last)
    assert execute(spec).record["curve"] == whole_run(keys=SHORT).record["curve"]


# --- run.json


def test_a_damaged_record_is_made_again(
    tmp_path: Path, make_spec: MakeSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make_spec(tmp_path, act="reference", keys=SHORT)
    first = execute(spec).record
    path = spec.folder / "run.json"
    whole = json.loads(path.read_text())
    final = whole["final"]
    damaged = [
        "[]", "5", "null", '"x"', "", "{", "[" * 100_000, '{"status": 5}',
        '{"status": "complete"}', '{"status": "diverged"}',
        *(json.dumps({**whole, **change}) for change in (
            {"final": 5}, {"final": {}}, {"final": {**final, "valid_ppl": "x"}}, {"curve": []},
            {"curve": [5]}, {"cost": []}, {"cost": {}}, {"metrics": None}, {"selection": "x"},
            {"config": 3}, {"final": {**final, "valid_ppl": 1.0}}, {"experiment": 1},
            {"final": {**final, "test_ppl": 1.0}}, {"digest": "0" * 12},
        )),
    ]  # fmt: skip
    for text in [*damaged, b"\xff\xfe\x00"]:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        capsys.readouterr()
        outcome = execute(spec)
        assert "run.json cannot be used" in capsys.readouterr().err
        assert (outcome.skipped, outcome.record["final"]) == (False, first["final"])
    path.unlink()
    path.mkdir()
    assert run_one(spec) == 1
    assert "move away the folder that lies where a file should be" in capsys.readouterr().err


def test_the_record_of_another_run_is_refused(tmp_path: Path, make_spec: MakeSpec) -> None:
    own, other = (make_spec(tmp_path, keys={**SHORT, "seed": seed}) for seed in (0, 1))
    execute(other)
    own.folder.mkdir(parents=True)
    shutil.copy(other.folder / "run.json", own.folder)
    with pytest.raises(RecordError, match=r"run\.json is the record of another run"):
        execute(own)
    assert list(content(own.folder)) == ["run.json"]


# --- metrics.jsonl


def test_damaged_lines_of_metrics_are_left_out_once(
    tmp_path: Path, make_spec: MakeSpec, stop_at: StopAt, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make_spec(tmp_path, keys=SHORT)
    stop_at(spec, "on_step_end", 10)
    path = spec.folder / "metrics.jsonl"
    whole = path.read_bytes()
    damage = b"5\nnull\n\xff\n[]\n{}\n" + b"[" * 50_000 + b"\n" + b'{"step": "x"}\n'
    path.write_bytes(damage + whole + b'{"step": 11, "tra')
    assert execute(spec).record["status"] == "complete"
    assert "7 damaged lines were left out" in capsys.readouterr().err
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in lines if "epoch" not in row] == list(range(1, 17))


# --- the folder itself


@pytest.mark.parametrize("part", ["loss", "test"])
@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_is_deleted_during_the_run(
    part: str,
    again: bool,
    tmp_path: Path,
    make_spec: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also if another process makes it anew: its files are not ours."""
    spec = make_spec(tmp_path, keys=SHORT)
    real = getattr(PTB, part)

    def delete(self: PTB, model: nn.Module, *args: Any) -> Any:
        if part == "test" or args[0] == 5:
            shutil.rmtree(spec.folder, ignore_errors=True)
            if again:
                spec.folder.mkdir()
        return real(self, model, *args)

    with monkeypatch.context() as patch:
        patch.setattr(PTB, part, delete)
        with pytest.raises(FolderLostError, match="was deleted or moved during the run"):
            execute(spec)
        assert list(spec.folder.parent.glob("*/*")) == []
        if not again:
            assert run_one(spec) == 1
            assert "Traceback" not in capsys.readouterr().err
    assert not execute(spec).skipped


def test_a_lock_file_that_is_a_link_leaves_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("of the user")
    (tmp_path / "lock").symlink_to("text")
    with pytest.raises(OSError, match="a symbolic link, not a file"), locked(tmp_path):
        raise AssertionError
    assert (tmp_path / "text").read_text() == "of the user"


def test_a_lock_file_that_is_deleted_lets_nobody_in(tmp_path: Path) -> None:
    with locked(tmp_path):
        os.unlink(tmp_path / "lock")
        with pytest.raises(RunLockedError, match="in use by process"), locked(tmp_path):
            raise AssertionError
        assert not (tmp_path / "lock").exists()
    with locked(tmp_path):
        pass
