"""What the queue decides to run, and that a failure or a locked run stops nothing."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import noisyexp.cli.pool as pool
import noisyexp.cli.queue as run_queue
from noisyexp.cli.compose import check
from noisyexp.cli.run import main as run_main
from noisyexp.errors import RecordError
from noisyexp.places import CHECKOUT
from noisyexp.records.config_hash import config_hash
from noisyexp.records.content_digest import sealed
from noisyexp.training.folder import locked

ENTRIES = """
- {table: fig6, rows: [nah], scale: smoke, seeds: [1]}
- {table: fig6, rows: [reference, nah], scale: smoke, seeds: [0, 1]}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A list of runs, and no results."""
    (tmp_path / "queue.yaml").write_text(ENTRIES)
    return tmp_path


def short(jobs: list[pool.Job]) -> list[str]:
    """Row and seed of each job."""
    words = [re.fullmatch(r"experiment=fig6/(\w+) scale=smoke seed=(\d)", str(job)) for job in jobs]
    return [f"{match[1]} {match[2]}" for match in words if match]


def test_runs_in_the_order_of_the_list_each_once(root: Path) -> None:
    jobs = run_queue.to_do(root / "queue.yaml", root)
    # An entry goes seed by seed; the first entry's run is not repeated by the second.
    assert short(jobs) == ["nah 1", "reference 0", "nah 0", "reference 1"]


def test_the_committed_list_can_be_read() -> None:
    for rows, scale, seeds in run_queue.entries(CHECKOUT / "results" / "queue.yaml"):
        assert rows and scale in ("paper", "cpu")
        assert all(seed in row.seeds for row in rows for seed in seeds or ())


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("- {table: fig6, rows: [nahh]}", "fig6 has no row nahh; its rows are reference, nan_"),
        ("- {table: fig6, row: [nah]}", "needs table and rows"),
        ("- {table: fig6, rows: [nah], sacle: cpu}", "may have scale and seeds"),
        ("table2", "needs table and rows"),
    ],
)
def test_mistakes_in_the_list(root: Path, entry: str, message: str) -> None:
    (root / "queue.yaml").write_text(entry)
    with pytest.raises(RecordError, match=message):
        run_queue.to_do(root / "queue.yaml", root)
    assert run_queue.main([f"file={root}/queue.yaml", "list=true"], root) == 2


class Process:
    """In place of a process: runs at once in this one; seed 0 of the reference dies."""

    def __init__(self, command: list[str], **settings: Any) -> None:
        arguments = command[4:]
        dies = {"experiment=fig6/reference", "seed=0"} <= set(arguments)
        self.returncode = 1 if dies else run_main([*arguments[:-1], "progress=off"])

    def poll(self) -> int:
        return self.returncode

    def terminate(self) -> None: ...

    def wait(self) -> int:
        return self.returncode


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is started, and none waited for."""
    monkeypatch.setattr(pool, "subprocess", SimpleNamespace(Popen=Process, STDOUT=None))
    monkeypatch.setattr(pool, "time", SimpleNamespace(sleep=int, strftime=str))


def test_a_failed_run_stops_nothing_and_finished_ones_are_published(
    root: Path, in_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"file={root}/queue.yaml", f"run_root={root}/runs", "device=cpu"]
    assert run_queue.main(arguments, root) == 1
    captured = capsys.readouterr()
    assert captured.out.count(" start ") == 4
    assert captured.err.count("failed experiment=fig6/reference scale=smoke seed=0") == 1
    records = sorted(path.name for path in (root / "results/records/fig6").iterdir())
    assert records == [
        "nah-smoke-seed0.json", "nah-smoke-seed1.json", "reference-smoke-seed1.json",
    ]  # fmt: skip
    # Again: only what has no record that fits is left.
    assert short(run_queue.to_do(root / "queue.yaml", root)) == ["reference 0"]
    path = root / "results/records/fig6/nah-smoke-seed0.json"
    record = json.loads(path.read_text())
    record["config"]["training"]["lr"] *= 2
    record["config_hash"] = config_hash(record["config"])
    path.write_text(json.dumps(sealed(record)))
    assert short(run_queue.to_do(root / "queue.yaml", root)) == ["reference 0", "nah 0"]


def test_a_run_that_another_process_works_at_is_passed_over(
    root: Path, in_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    queue = run_queue.Queue(root / "queue.yaml", [f"run_root={root}/runs"], root)
    job = run_queue.to_do(root / "queue.yaml", root)[0]
    with locked(check([*job.words, f"run_root={root}/runs"])[0].folder):
        assert queue.start_next()
    assert short(list(queue.running)) == ["reference 0"]
    queue.running.clear()
    # A mistake in the list, made while it runs, ends nothing.
    (root / "queue.yaml").write_text("table2")
    os.utime(root / "queue.yaml", (1, 1))
    assert queue.start_next()
    assert short(list(queue.running)) == ["nah 1"]
    assert "list read before stays in use" in capsys.readouterr().err
