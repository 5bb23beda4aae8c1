"""Sweeps: all runs, one report, failures that stop nobody, and going on after an interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisyexp.cli.run import main
from noisyexp.report.group_table import number
from noisyexp.report.run_set import find_runs
from noisyexp.tasks.ptb import PTB
from noisyexp.training.trainer import Trainer

Run = Callable[..., Any]
Records = Callable[..., dict[str, dict[str, Any]]]
ROOT = Path(__file__).resolve().parents[2]


def sweep_file(tmp_path: Path) -> Path:
    """The list of the newest sweep."""
    return max((tmp_path / "runs" / "sweeps").glob("*/sweep.json"), key=lambda p: p.stat().st_mtime)


def sweep_list(tmp_path: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(sweep_file(tmp_path).read_text())["runs"]
    return entries


def report_of(result: Any) -> list[str]:
    """The lines of the report at the end of a sweep, without the means behind them."""
    lines = result.out.splitlines()
    start = next(i for i, line in enumerate(lines) if " runs complete" in line)
    end = lines.index("") if "" in lines else len(lines)
    return lines[start:end]


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
        f"4 of 4 runs complete (list in {sweep_file(tmp_path)})",
        *(
            f"  act={name.split()[0].removesuffix('_normal')} seed={name.split()[1]}: {end}"
            for name, end in zip(names, ends, strict=True)
        ),
    ]
    entries = sweep_list(tmp_path)
    assert [entry["status"] for entry in entries] == ["complete"] * 4
    assert [entry["metrics"] for entry in entries] == [found[name]["final"] for name in names]
    assert entries[0]["overrides"][:3] == ["task=ptb", "act=reference", "seed=0"]
    # How many there are; one line each before the report, with the numbers of the run.
    assert result.out.splitlines().index("") == 1 + 4 + 5
    means = result.out.splitlines()[1 + 4 + 5 + 1 :]
    assert means[0].split()[:2] == ["act", "n"] and len(means) == 6
    for line, unit in zip(means[1:3], ("reference", "nan"), strict=True):
        name = {"nan": "nan_normal"}.get(unit, unit)
        values = [found[f"{name} {seed}"]["final"]["valid_ppl"] for seed in (0, 1)]
        assert line.split()[:3] == [unit, "2", number(sum(values) / 2)]
    assert means[3] == "Differences are to reference."
    # The command at the end makes a table of the same runs, and of no others.
    folder = sweep_file(tmp_path).parent
    assert means[4].startswith("* the best mean; ± half the width")
    assert means[5] == f"their page: noisyexp report {folder} out=page.html"
    assert tiny("act=reference", "seed=5").code == 0
    assert sorted(run.settings["seed"] for run in find_runs([folder])[0]) == [0, 0, 1, 1]
    # A second sweep has a list of its own.
    assert tiny("act=reference", "-m", "seed=0,1").code == 0
    assert len([*(tmp_path / "runs" / "sweeps").iterdir()]) == 2


@pytest.mark.slow
def test_a_diverged_run_stops_nobody(tiny: Run, tmp_path: Path) -> None:
    command = ("--multirun", "training.lr=1e38,1.0", "act=reference")
    for _ in range(2):
        result = tiny(*command)
        assert result.code == 1
        head, first, second = report_of(result)
        # The same command would only diverge again, so it is not recommended.
        path = sweep_file(tmp_path)
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
    assert result.out.splitlines()[0] == "3 runs, 2 finished before"
    after = records()
    for name in ("reference 0", "reference 2"):
        assert after[name] == before[name]
    assert after["reference 1"]["status"] == "complete"
    # Nothing failed any more, and the list says so.
    assert [entry["status"] for entry in sweep_list(tmp_path)] == ["complete"] * 3


@pytest.mark.slow
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
    assert result.out.splitlines()[0] == "3 runs, 1 finished before"
    assert report_of(result)[0].startswith("3 of 3 runs complete (")
    (resumed,) = [text for text in result.err.splitlines() if text.startswith("resuming")]
    assert resumed.endswith("at step 3")
    after = records()
    assert after["nah 0"] == before["nah 0"]
    assert [after[f"nah {seed}"]["cost"]["sessions"] for seed in (0, 1, 2)] == [1, 2, 1]

    assert tiny("seed=1", "act=nah", root="at once").code == 0
    assert outcomes(records("at once"))["nah 1"] == outcomes(after)["nah 1"]


REFUSED = {
    "training.lr=interval(0.1,5.0)": "training.lr=interval(0.1,5.0): an interval needs a sweeper "
    "that draws from it, as hydra/sweeper=optuna; or list values: 0.1,0.3",
    "+hydra.sweeper.params.seed=21,22": "+hydra.sweeper.params.seed=21,22: Hydra's own keys cannot "
    "be swept over; quote the values for its sweeper: '+hydra.sweeper.params.seed=\"21,22\"'",
    "seed=range(0,300000000)": "seed=range(0,300000000): 300,000,000 runs; at most 10,000 at a "
    "time",
    "hydra.job.chdir=true": "hydra.job.chdir=true: a run has a folder of its own; leave it out",
}


@pytest.mark.parametrize("word", REFUSED)
def test_sweeps_that_cannot_be_are_refused_in_a_line(word: str, tiny: Run, tmp_path: Path) -> None:
    result = tiny("-m", "act=reference", word)
    assert (result.code, result.problems) == (2, [REFUSED[word]])
    assert not (tmp_path / "runs").exists()


def test_a_product_that_is_too_large_is_refused_with_its_size(tiny: Run) -> None:
    result = tiny("-m", "seed=range(0,3000)", "training.lr=0.1,0.2,0.3,0.4")
    assert result.problems == ["the sweep has 12,000 runs; at most 10,000 at a time, split it"]


def test_values_in_the_sweepers_own_key(tiny: Run, records: Records) -> None:
    assert tiny("-m", "act=reference", 'hydra.sweeper.params.seed="0,1"').code == 0
    assert sorted(records()) == ["reference 0", "reference 1"]


@pytest.mark.slow
def test_two_processes_give_the_same_bits_as_one(
    tiny: Run, settings: Callable[..., list[str]], records: Records, tmp_path: Path
) -> None:
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


def test_a_folder_that_cannot_be_made_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "file"
    root.write_text("")
    words = ["-m", "task=unique_count", "scale=smoke", "seed=0,1", "progress=off"]
    assert main([*words, f"run_root={root}"]) == 1
    assert capsys.readouterr() == (
        "",
        f"run_root={root}: File exists; move away what lies where a folder should be\n",
    )
