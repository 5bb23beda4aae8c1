"""Sweeps: all runs, one report, failures that stop nobody, and going on after an interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisyexp.cli.run import main
from noisyexp.tasks.ptb import PTB
from noisyexp.training.trainer import Trainer

Run = Callable[..., Any]
Records = Callable[..., dict[str, dict[str, Any]]]
ROOT = Path(__file__).resolve().parents[2]


def sweep_list(tmp_path: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((tmp_path / "runs" / "sweep.json").read_text())
    return entries


def report_of(result: Any) -> list[str]:
    """The lines of the report at the end of a sweep."""
    lines = result.out.splitlines()
    start = next(i for i, line in enumerate(lines) if " runs complete" in line)
    return lines[start:]


def outcomes(records: dict[str, dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """What must be the same to the last bit wherever and however a run is done."""
    return {
        name: (record["curve"], record["final"], record["best"], record["config_hash"])
        for name, record in records.items()
    }


def test_every_combination_runs_and_is_reported(
    tiny: Run, records: Records, tmp_path: Path
) -> None:
    result = tiny("act=reference,nan", "-m", "seed=0,1")
    assert (result.code, result.err) == (0, "")
    found = records()
    assert sorted(found) == ["nan_normal 0", "nan_normal 1", "reference 0", "reference 1"]
    assert {record["status"] for record in found.values()} == {"complete"}
    assert found["nan_normal 1"]["command"][:4] == [
        "run.py",
        "task=ptb",
        "act=nan_normal",
        "seed=1",
    ]
    names = ["reference 0", "reference 1", "nan_normal 0", "nan_normal 1"]
    ends = [f"valid_ppl {found[name]['final']['valid_ppl']:.2f}" for name in names]
    assert report_of(result) == [
        f"4 of 4 runs complete (list in {tmp_path / 'runs' / 'sweep.json'})",
        *(
            f"  act={name.split()[0].removesuffix('_normal')} seed={name.split()[1]}: {end}"
            for name, end in zip(names, ends, strict=True)
        ),
    ]
    assert [entry["status"] for entry in sweep_list(tmp_path)] == ["complete"] * 4
    # One line each before the report, with the numbers of the run.
    assert len(result.out.splitlines()) == 4 + 5


def test_a_diverged_run_stops_nobody(tiny: Run, tmp_path: Path) -> None:
    command = ("--multirun", "training.lr=1e38,1.0", "act=reference")
    for _ in range(2):
        result = tiny(*command)
        assert result.code == 1
        head, first, second = report_of(result)
        # The same command would only diverge again, so it is not recommended.
        path = tmp_path / "runs" / "sweep.json"
        assert head == f"1 of 2 runs complete, 1 diverged (list in {path})"
        assert first.startswith("  training.lr=1e+38: diverged: non-finite loss at step 2: loss ")
        assert second.startswith("  training.lr=1.0: valid_ppl ")
        bad, good = sweep_list(tmp_path)
        assert (bad["status"], good["status"]) == ("diverged", "complete")
        assert bad["reason"].startswith("non-finite loss at step 2")
        assert json.loads((Path(bad["run"]) / "run.json").read_text())["status"] == "diverged"


def fail_for_seed(monkeypatch: pytest.MonkeyPatch, seed: int, error: Exception) -> None:
    prepare = PTB.prepare

    def failing(self: PTB, root: Path) -> dict[str, str]:
        if self.seed == seed:
            raise error
        return prepare(self, root)

    monkeypatch.setattr(PTB, "prepare", failing)


def test_a_failed_run_stops_nobody_and_is_run_again(
    tiny: Run, records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError("boom\nand more")
    fail_for_seed(monkeypatch, 1, error)
    command = ("-m", "seed=0,1,2", "act=reference")
    result = tiny(*command)
    assert result.code == 1
    # A bug keeps its traceback.
    assert "Traceback (most recent call last)" in result.err
    assert "RuntimeError: boom\nand more" in result.err
    head, *lines = report_of(result)
    assert head.startswith("2 of 3 runs complete, 1 failed; the same command goes on with what is")
    assert lines[1] == "  seed=1: failed: boom"
    assert [entry["status"] for entry in sweep_list(tmp_path)] == ["complete", "failed", "complete"]
    assert sweep_list(tmp_path)[1]["reason"] == "boom\nand more"

    monkeypatch.undo()
    before = records()
    result = tiny(*command)
    assert (result.code, result.err) == (0, "")
    assert result.out.count("already finished") == 2
    after = records()
    for name in ("reference 0", "reference 2"):
        assert after[name] == before[name]
    assert after["reference 1"]["status"] == "complete"
    # Nothing failed any more, and the list says so.
    assert [entry["status"] for entry in sweep_list(tmp_path)] == ["complete"] * 3


def test_an_interrupted_sweep_goes_on_where_it_was(
    tiny: Run, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("-m", "seed=0,1,2", "act=nah")
    updates, run_step = [0], Trainer.run_step

    def run_step_and_stop(self: Trainer) -> None:
        updates[0] += 1
        # Four updates a run: during the third update of the second run.
        if updates[0] == 4 + 3:
            os.kill(os.getpid(), signal.SIGTERM)
        run_step(self)

    monkeypatch.setattr(Trainer, "run_step", run_step_and_stop)
    result = tiny(*command)
    assert result.code == 128 + signal.SIGTERM
    assert "SIGTERM: checkpoint written; the same command goes on from it" in result.err
    before = records()
    assert {name: record["status"] for name, record in before.items()} == {
        "nah 0": "complete", "nah 1": "interrupted",
    }  # fmt: skip

    monkeypatch.undo()
    result = tiny(*command)
    assert result.code == 0
    assert result.out.count("already finished") == 1
    assert report_of(result)[0].startswith("3 of 3 runs complete (")
    (resumed,) = [text for text in result.err.splitlines() if text.startswith("resuming")]
    assert resumed.endswith("at step 3")
    after = records()
    assert after["nah 0"] == before["nah 0"]
    assert [after[f"nah {seed}"]["cost"]["sessions"] for seed in (0, 1, 2)] == [1, 2, 1]

    assert tiny("seed=1", "act=nah", root="at once").code == 0
    assert outcomes(records("at once"))["nah 1"] == outcomes(after)["nah 1"]


def test_the_report_comes_even_if_the_launcher_gives_up(tiny: Run, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    result = tiny("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=0", "seed=0,1")
    assert result.code == 1
    assert "n_jobs == 0" in result.err
    head, *lines = report_of(result)
    assert head.startswith("0 of 2 runs complete, 2 not run; the same command goes on with")
    assert lines == [
        f"  seed={seed}: not run: no record was written; it may have been killed" for seed in (0, 1)
    ]


def test_two_processes_give_the_same_bits_as_one(
    tiny: Run, settings: Callable[..., list[str]], records: Records, tmp_path: Path
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    sweep = ["-m", "task=ptb", "act=nan", "seed=0,1"]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *sweep, *launcher, *settings("parallel")],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 of 2 runs complete" in done.stdout
    assert tiny(*sweep).code == 0
    serial = outcomes(records())
    assert outcomes(records("parallel")) == serial
    assert serial["nan_normal 0"] != serial["nan_normal 1"]


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_workers_stop_with_the_command_that_started_them(
    signum: signal.Signals, settings: Callable[..., list[str]], records: Records, tmp_path: Path
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["-m", "seed=0,1,2,3", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    endless = ["training.epochs=100000", "training.max_steps=null"]
    command = [sys.executable, str(ROOT / "run.py"), *words, *settings(), *endless]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as sweep:
        while len([*(tmp_path / "runs").rglob("last.pt")]) < 2:
            assert sweep.poll() is None
            time.sleep(0.05)
        sweep.send_signal(signum)
        # Ends when the last process that holds the pipe has ended, so the workers are gone, too.
        sweep.communicate(timeout=60)
    found = [record for record in records().values() if record["status"] == "interrupted"]
    assert [record["reason"] for record in found] == ["SIGTERM", "SIGTERM"]
    assert len(records()) == 2  # the two that waited were not begun


def test_a_folder_that_cannot_be_made_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "file"
    root.write_text("")
    words = ["-m", "task=unique_count", "scale=smoke", "seed=0,1", "progress=off"]
    assert main([*words, f"run_root={root}"]) == 1
    assert capsys.readouterr() == ("", f"run_root={root}: File exists; choose another\n")
