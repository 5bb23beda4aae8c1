"""What `noisyexp plan` says: which runs would start, and what they cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import noisyexp.cli.cost as cost
import noisyexp.cli.plan as plan
from noisyexp.activations.variants import Hard
from noisyexp.cli.compose import check
from noisyexp.cli.cost import Pace, cost_of, measure, pace_of_records
from noisyexp.cli.run import main as run_main
from noisyexp.fileio import read_json, write_json
from noisyexp.records.record_files import load_record
from noisyexp.records.run_record import RunRecord
from noisyexp.training.folder import locked
from noisyexp.training.run import RunSpec
from tests.cli.conftest import TINY


class Plain(Hard):
    """A unit of one's own, which the compiled kernels do not know; under no name of its own."""


@pytest.fixture
def specs(tmp_path: Path) -> list[RunSpec]:
    """Three seeds of a run of four updates."""
    words = ["task=ptb", "act=nah", "seed=0,1,2", *TINY, f"run_root={tmp_path}/runs", "device=cpu"]
    return check(words)


@pytest.fixture
def record(specs: list[RunSpec], capsys: pytest.CaptureFixture[str]) -> RunRecord:
    """Of the first of them, run to its end."""
    assert run_main(specs[0].command[1:]) == 0
    capsys.readouterr()
    return load_record(specs[0].folder / "run.json")


def changed(record: RunRecord, **values: Any) -> RunRecord:
    """The record with other costs, or on another machine."""
    return dataclasses.replace(
        record,
        cost={**record.cost, **values.get("cost", {})},
        machine={**record.machine, **values.get("machine", {})},
        config={**record.config, **values.get("config", {})},
    )


def test_done_running_resumed_and_new_runs_are_told_apart(
    specs: list[RunSpec], record: RunRecord
) -> None:
    assert [plan.state_of(spec).word for spec in specs] == ["done", "to do", "to do"]
    text = plan.plan([*specs, specs[0]], []).splitlines()
    assert text[0] == "3 runs: 2 to do, 1 done"
    assert not specs[1].folder.exists()  # nothing was started
    raw = read_json(specs[0].folder / "run.json")
    raw |= {"status": "interrupted", "progress": {"step": 3, "total_steps": 4}}
    write_json(specs[0].folder / "run.json", raw)
    assert plan.state_of(specs[0]) == plan.State("to resume", 3)
    with locked(specs[0].folder):
        assert plan.state_of(specs[0]).word == "in progress"


def test_time_is_that_of_the_record_that_is_most_like_the_run(
    specs: list[RunSpec], record: RunRecord
) -> None:
    """Seconds an update, times updates, times what evaluations add: numbers of the records."""
    near = [changed(record, cost={"s_per_step": s, "train_s": 4.0, "wall_s": 6.0})
            for s in (1.0, 2.0, 9.0)]  # fmt: skip
    far = changed(record, cost={"s_per_step": 0.01}, machine={"name": "another"})
    pace = pace_of_records(specs[1], [*near, far])
    assert pace is not None and pace.here
    assert (pace.per_update, pace.updates, pace.whole, pace.seconds) == (2.0, 4, 1.5, 12.0)
    pace = pace_of_records(specs[1], [far])
    assert pace is not None and not pace.here and "another machine than this one" in pace.source
    other = {**record.config["task"], "hidden_size": 99}
    assert pace_of_records(specs[1], [changed(record, config={"task": other})]) is None


def test_only_what_holds_here_is_said(specs: list[RunSpec], record: RunRecord) -> None:
    """No GPU speaks for a processor, and no compiled unit for one that runs as written."""
    gpu = {"device": "cuda", "name": "NVIDIA H100"}
    assert pace_of_records(specs[1], [changed(record, machine=gpu)]) is None
    text = plan.plan(specs[1:], [changed(record, machine=gpu)])
    assert "wall time not known for 2 of 2 runs" in text and "H100" not in text
    own = f"act.variant={Plain.__module__}.Plain"
    (mine,) = check([*specs[1].command[1:], own])
    assert pace_of_records(mine, [record]) is None
    assert "memory: at least" in plan.plan([mine], [record])
    assert "memory: about" in plan.plan(specs[1:], [record])
    # One record of the unit itself does, and of it alone.
    act = {**record.config["act"], "variant": mine.config.act.variant}
    theirs = changed(record, config={"act": act}, cost={"s_per_step": 7.0})
    pace = pace_of_records(mine, [record, theirs])
    assert pace is not None and pace.per_update == 7.0 and "units" not in pace.source
    assert pace_of_records(specs[1], [theirs]) is None


def test_runs_that_differ_in_a_setting_are_told_apart(specs: list[RunSpec]) -> None:
    words = [word for word in specs[0].command[1:] if not word.startswith("seed=")]
    text = plan.plan(check([*words, "seed=0,1", "act.c=0.1,0.2"]), [])
    lines = [line.strip() for line in text.splitlines() if " seed " in line]
    assert lines == [
        f"ptb nah act.c={c} smoke seed {seed}: to do" for seed in (0, 1) for c in (0.1, 0.2)
    ]


def test_twice_the_epochs_are_twice_the_updates(specs: list[RunSpec], record: RunRecord) -> None:
    training = dataclasses.replace(specs[1].config.training, epochs=4)
    longer = dataclasses.replace(
        specs[1], config=dataclasses.replace(specs[1].config, training=training)
    )
    pace = pace_of_records(longer, [record])
    assert pace is not None and pace.updates == 8


def test_the_rest_of_a_run_costs_its_share(specs: list[RunSpec]) -> None:
    item = plan.Item(
        specs[0], plan.State("to resume", 3), cost.Cost(Pace(2.0, 4, 1.5, "", True), 0, 0)
    )
    assert item.seconds == 3.0 and str(item).endswith("to resume from update 3, 3 s")


def test_a_calibration_counts_the_updates_and_writes_nothing(specs: list[RunSpec]) -> None:
    pace = measure(specs[0])
    assert pace.updates == 4 and pace.per_update > 0 and not specs[0].folder.exists()


def test_disk_holds_the_best_weights_and_two_checkpoints(
    specs: list[RunSpec], record: RunRecord
) -> None:
    """The estimate counts parameters; the record has the true number."""
    found = cost_of(specs[0], [], calibrate=False)
    assert found.pace is None
    assert found.disk == pytest.approx(3 * 4 * record.parameters["total"], rel=0.2)


def test_the_command_line_and_its_mistakes(
    specs: list[RunSpec], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "published", list)
    call: Callable[[list[str]], int] = plan.main
    words = [word for word in specs[0].command[1:] if not word.startswith("seed=")]
    assert call([*words, "seed=0,1", "calibrate=false"]) == 0
    first = capsys.readouterr().out
    assert first.startswith("2 runs: 2 to do, 0 done\n")
    assert run_main(["-m", *words, "seed=0,1", "plan=true", "calibrate=false"]) == 0
    assert capsys.readouterr().out == first
    assert call([]) == 2 and call(["task=ptbb"]) == 2
    assert "Did you mean ptb?" in capsys.readouterr().err
