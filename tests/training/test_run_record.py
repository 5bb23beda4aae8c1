"""run.json: every field of schema 1, checked against what was run."""

from __future__ import annotations

import datetime
import json
import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import noisyexp
from noisyexp.records.record_files import load_record
from noisyexp.tasks.ptb import PTB
from noisyexp.training import RunSpec, execute, record

FIELDS = {
    "schema", "status", "reason", "experiment", "task", "act", "scale", "data", "seed", "config",
    "config_hash", "command", "code", "versions", "machine", "data_files", "parameters", "metrics",
    "selection", "curve", "best", "final", "progress", "cost",
}  # fmt: skip
COST = {
    "wall_s", "train_s", "s_per_step", "peak_memory_mb", "sessions", "started", "finished",
}  # fmt: skip


@pytest.fixture
def written(whole_root: Path, make_spec: Callable[..., RunSpec]) -> tuple[RunSpec, dict[str, Any]]:
    """A spec with absolute places, and the record as it is on the disk; made once for all tests."""
    keys = {"seed": 3, "device": "cpu", "data.root": str(whole_root / "data")}
    spec = make_spec(whole_root / "runs", act="nan_normal", keys=keys)
    outcome = execute(spec)
    on_disk = json.loads((spec.folder / "run.json").read_text("utf-8"))
    assert on_disk == json.loads(json.dumps(outcome.record))
    return spec, on_disk


def test_fields(written: tuple[RunSpec, dict[str, Any]]) -> None:
    spec, run = written
    assert set(run) >= FIELDS
    assert (run["schema"], run["status"], run["reason"]) == (1, "complete", None)
    assert (run["experiment"], run["task"], run["act"]) == (None, "ptb", "nan_normal")
    assert (run["scale"], run["data"], run["seed"]) == ("smoke", "generated", 3)
    assert run["command"] == ["run.py"]
    assert re.fullmatch("[0-9a-f]{12}", run["config_hash"])
    assert spec.folder.name == f"nan_normal-smoke-generated-s3-{run['config_hash']}"
    assert run["versions"]["python"] == platform.python_version()
    assert run["versions"]["torch"] == torch.__version__
    assert run["versions"]["noisyexp"] == noisyexp.__version__
    assert run["machine"]["device"] == "cpu"
    assert run["machine"]["threads"] == 1
    assert run["machine"]["name"] and run["machine"]["platform"] == platform.platform()
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in run["data_files"].values())
    # V = 40, H = 6: embedding 240, two layers of 4 * 6 * (6 + 6 + 2), output 280, and 2 * 5 * 6 p.
    assert run["parameters"] == {"total": 240 + 2 * 336 + 280 + 60, "noise": 60}
    assert run["config"]["training"]["lr"] == 1.0
    assert run["config"]["act"]["tanh"] == {"alpha": 1.0, "c": 0.5, "clip_output": False}


def test_metrics_curve_and_final(written: tuple[RunSpec, dict[str, Any]]) -> None:
    _, run = written
    assert set(run["metrics"]) == {"train_ppl", "valid_ppl", "valid_ppl_zaremba", "test_ppl"}
    for metric in run["metrics"].values():
        assert (metric["unit"], metric["direction"]) == ("perplexity", "min")
    assert run["metrics"]["test_ppl"]["label"] == "test perplexity"
    assert run["selection"] == "valid_ppl"
    assert [(row["step"], row["epoch"], row["lr"]) for row in run["curve"]] == [
        (8, 1, 1.0), (16, 2, 0.5), (24, 3, 0.25),
    ]  # fmt: skip
    best = min(run["curve"], key=lambda row: row["valid_ppl"])
    assert run["best"] == {name: best[name] for name in ("step", "epoch", "valid_ppl")}
    test = run["final"].pop("test_ppl")
    assert 1 < test < 1000
    assert run["final"] == run["curve"][-1]
    assert run["progress"] == {"step": 24, "total_steps": 24}


def test_cost(written: tuple[RunSpec, dict[str, Any]]) -> None:
    cost = written[1]["cost"]
    assert set(cost) == COST
    assert 0 < cost["train_s"] < cost["wall_s"] < 60
    assert cost["s_per_step"] == pytest.approx(cost["train_s"] / 24, abs=1e-4)
    assert 50 < cost["peak_memory_mb"] < 20_000
    assert cost["sessions"] == 1
    started, finished = (datetime.datetime.fromisoformat(cost[k]) for k in ("started", "finished"))
    assert started.tzinfo is not None
    assert 0 <= (finished - started).total_seconds() <= cost["wall_s"] + 2


def test_no_folder_of_this_machine(
    whole_root: Path, written: tuple[RunSpec, dict[str, Any]]
) -> None:
    run = written[1]
    texts: list[str] = []

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                texts.append(key)
                collect(item)
        elif isinstance(value, list):
            for item in value:
                collect(item)
        elif isinstance(value, str):
            texts.append(value)

    collect(run)
    assert len(texts) > 50
    for text in texts:
        assert not text.startswith(("/", "~"))
        assert str(whole_root) not in text
        assert str(Path(__file__).parents[2]) not in text
    assert "root" not in run["config"]["data"]
    assert "run_root" not in run["config"]


def test_code_version(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(record.__file__).parents[2]
    if not (root / ".git").exists():
        pytest.skip("not a git checkout")
    head = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    code = record.code_version()
    assert code["commit"] == head
    assert isinstance(code["dirty"], bool)

    def missing(*args: Any, **kwargs: Any) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert record.code_version() == {"commit": None, "dirty": None}


def test_code_outside_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setattr(record, "__file__", str(tmp_path / "a" / "noisyexp" / "training" / "r.py"))
    (tmp_path / "a").mkdir()
    assert record.code_version() == {"commit": None, "dirty": None}


def test_findings_of_the_task_are_in_the_record(
    tmp_path: Path, make_spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken of the final model in evaluation mode; a task without any leaves no entry."""
    assert "findings" not in execute(make_spec(tmp_path / "a", act="hard")).record

    def findings(task: PTB, model: nn.Module, device: torch.device) -> dict[str, Any]:
        return {"training": model.training, "steps": [1, 2]}

    monkeypatch.setattr(PTB, "findings", findings)
    outcome = execute(make_spec(tmp_path / "b", act="hard"))
    assert outcome.record["findings"] == {"training": False, "steps": [1, 2]}
    assert load_record(outcome.folder / "run.json").findings == outcome.record["findings"]
