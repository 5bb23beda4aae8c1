"""What `make reproduce-table-2` decides to run, and that it runs, records and skips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import noisyexp.cli.reproduce as reproduce
from noisyexp.cli.run import main as run_main
from noisyexp.errors import RecordError
from noisyexp.places import CONFIG_DIR
from noisyexp.records.config_hash import config_hash
from noisyexp.records.content_digest import sealed
from noisyexp.records.publish import publish
from noisyexp.records.row_files import load_rows

ROWS = load_rows(CONFIG_DIR / "experiment" / "table2")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder without results."""
    return tmp_path


TABLE_2 = [
    ("reference", 4), ("nan_normal", 4), ("nah", 4), ("hard", 4), ("nan_released", 4),
    ("nah_released", 4), ("leak", 4), ("nah_released_clip", 3), ("nan_released_clip", 3),
    ("nah_released_fixed_p", 3), ("nah_mean", 4), ("tanh_leak", 4), ("tanh_fold", 4),
    ("gates_fold", 4), ("gates_leak", 2), ("tanh_leak_gates_fold", 2), ("leak_outward", 2),
    ("leak_outward_clip1", 2), ("fold_larger", 1), ("dropout_01_reference", 1),
    ("dropout_02_reference", 1), ("dropout_03_reference", 1), ("penalized_tanh", 4),
    ("europarl_reference", 4), ("europarl_fold", 4), ("europarl_hard", 2),
    ("europarl_nah_released", 2), ("bf16_reference", 2), ("bf16_nah_released", 2),
]  # fmt: skip
"""Rows in their order, and how many seeds they have."""
FIGURE_6 = ["reference", "nan_normal", "nah"]


def test_all_rows_and_seeds_are_missing_at_first_seed_by_seed(root: Path) -> None:
    todo = [
        (row.experiment, seed) for row, seed in reproduce.missing_runs(ROWS, "paper", None, root)
    ]
    assert todo == [(f"table2/{row}", s) for s in range(4) for row, seeds in TABLE_2 if s < seeds]


def test_runs_with_a_record_of_the_scale_are_left_out(root: Path) -> None:
    arguments = ["experiment=table2/nah", "scale=smoke", "seed=1", "data=generated"]
    assert run_main([*arguments, f"run_root={root}/runs", "progress=off"]) == 0
    (run,) = (root / "runs").rglob("run.json")
    path = publish(run, root / "results")
    record = json.loads(path.read_text())
    assert (record["experiment"], record["seed"]) == ("table2/nah", 1)

    def todo(scale: str, seeds: list[int]) -> list[tuple[str, int]]:
        return [(r.experiment, s) for r, s in reproduce.missing_runs(ROWS, scale, seeds, root)]

    # A record on generated data is no record of the table's row.
    assert ("table2/nah", 1) in todo("smoke", [1])
    record["data"] = record["config"]["data"]["source"] = "real"
    record["config_hash"] = config_hash(record["config"])
    path.unlink()
    (path.parent / "nah-smoke-seed1.json").write_text(json.dumps(sealed(record)))
    assert ("table2/nah", 1) not in todo("smoke", [0, 1])
    assert ("table2/nah", 0) in todo("smoke", [0, 1])
    assert todo("smoke", [0, 0]) == todo("smoke", [0])
    assert ("table2/nah", 1) in todo("paper", [0, 1])


def test_a_run_with_other_settings_is_not_published_as_the_row(root: Path) -> None:
    arguments = ["experiment=fig6/nah", "scale=smoke", "progress=off", f"run_root={root}/runs"]
    assert run_main([*arguments, "training.lr=0.5"]) == 0
    (run,) = (root / "runs").rglob("run.json")
    row = next(
        row for row in load_rows(CONFIG_DIR / "experiment" / "fig6") if row.experiment == "fig6/nah"
    )
    with pytest.raises(RecordError, match="is not a run of fig6/nah with the settings of its file"):
        reproduce.publish_run(run, row, root)
    assert not (root / "results").exists()


def test_wrong_seeds_and_tables_are_explained(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce.main(["2", "seeds=a,1"], root) == 2
    assert "seeds=a,1" in capsys.readouterr().err
    assert reproduce.main(["table9"], root) != 0
    assert "table9" in capsys.readouterr().err


def test_a_table_is_run_recorded_and_made(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A figure's rows, at scale smoke: all run and recorded; a second call runs nothing."""
    started: list[list[str]] = []

    def start(command: list[str], root: Path) -> int:
        started.append(command)
        return run_main([*command, "progress=off"])

    monkeypatch.setattr(reproduce, "start", start)
    monkeypatch.setattr(reproduce, "make_table", lambda names, root: 0)
    arguments = ["fig6", "scale=smoke", "seeds=0", f"run_root={root}/runs"]
    assert reproduce.main(arguments, root) == 0
    assert len(started) == len(FIGURE_6)
    names = sorted(path.name for path in (root / "results" / "records" / "fig6").iterdir())
    assert names == sorted(f"{row}-smoke-seed0.json" for row in FIGURE_6)
    assert "3 runs: 3 to do, 0 done" in capsys.readouterr().out
    assert reproduce.main(arguments, root) == 0
    assert len(started) == len(FIGURE_6)
    assert "0 runs to do" in capsys.readouterr().out


def test_a_plan_starts_nothing_and_some_at_a_time_are_those_of_the_pool(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[list[str], int]] = []

    def run(self: reproduce.Pool, workers: int) -> int:
        asked.append(([str(job) for job in self.left], workers))
        return 0

    monkeypatch.setattr(reproduce.Pool, "run", run)
    monkeypatch.setattr(reproduce, "make_table", lambda names, root: 0)
    arguments = ["fig6", "scale=smoke", "seeds=0,1", f"run_root={root}/runs", "jobs=3"]
    assert reproduce.main([*arguments, "plan=true"], root) == 0
    assert not asked and not (root / "runs").exists()
    out = capsys.readouterr().out
    assert "6 runs: 6 to do, 0 done" in out and f"folder: {root}/runs/mixture" in out
    assert reproduce.main(arguments, root) == 0
    typed = ["nan" if row == "nan_normal" else row for row in FIGURE_6]
    words = [f"experiment=fig6/{row} scale=smoke seed={s}" for s in (0, 1) for row in typed]
    assert asked == [(words, 3)]


def test_a_row_composed_once_is_the_run_of_each_seed() -> None:
    row = next(row for row in load_rows(CONFIG_DIR / "experiment" / "fig6"))
    jobs = [reproduce.Job.of(row, "smoke", seed) for seed in (0, 3)]
    for job, spec in zip(jobs, reproduce.specs_of(jobs, []), strict=True):
        (whole,) = reproduce.check(list(job.words))
        assert (spec.digest, spec.folder) == (whole.digest, whole.folder)
