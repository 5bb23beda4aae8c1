"""`noisyexp verify` on a record of its own: equal, changed by hand, of another configuration."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from noisyexp.cli.run import main as run
from noisyexp.cli.verify import TOLERANCE, main
from noisyexp.errors import RecordError
from noisyexp.records.comparison import Comparison, compare_curves, compare_results
from noisyexp.records.config_hash import config_hash
from noisyexp.records.content_digest import sealed
from noisyexp.records.record_files import load_records
from noisyexp.tasks import find_task
from noisyexp.training.record import ARITHMETIC, ARITHMETIC_OF_TASKS


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    words = ["task=unique_count", "act=nah", "scale=smoke", "threads=1", "progress=off"]
    assert run([*words, f"run_root={root}"]) == 0
    (path,) = root.rglob("run.json")
    return path


def changed(record: Path, folder: Path, change: Any) -> Path:
    content = json.loads(record.read_text())
    change(content)
    path = folder / "changed.json"
    path.write_text(json.dumps(sealed(content)))
    return path


def scale_first_loss(content: Any, factor: float) -> None:
    """In the curve, and in `final` where it is of the same update."""
    first = content["curve"][0]
    first["valid_loss"] *= factor
    if content["final"]["step"] == first["step"]:
        content["final"]["valid_loss"] = first["valid_loss"]


def test_a_run_repeats_bit_for_bit(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    epochs = len(json.loads(record.read_text())["curve"])
    assert epochs > 1
    assert main([str(record), f"epochs={epochs}"]) == 0
    said = f" values, {epochs} of {epochs} validations and the final numbers"
    out = capsys.readouterr().out
    assert said in out and "equal bit for bit over " in out
    assert main([str(record)]) == 0
    out = capsys.readouterr().out
    assert f" values, 1 of {epochs} validations; not compared: the later validations, best, " in out
    assert f"need epochs={epochs}" in out


def test_a_pipe_or_a_device_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, "/dev/null"):
        assert main([str(path)]) == 2
        said = f"{path} is no run record: a pipe, socket or device, not a file"
        assert said in capsys.readouterr().err


def test_a_file_that_is_no_record_is_not_to_be_deleted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "passwd"
    path.write_text("root:x:0:0")
    assert main([str(path)]) == 2
    err = capsys.readouterr().err
    assert f"{path} is no run record: it is not JSON" in err and "run.json in its folder" in err
    assert "delete" not in err
    with pytest.raises(RecordError, match=r"x\.json is no run record.*Restore it \(git checkout\)"):
        path.rename(tmp_path / "x.json")
        load_records(tmp_path)


def test_on_the_same_machine_no_difference_is_tolerated(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(content: Any) -> None:
        scale_first_loss(content, 1.0001)

    path = changed(record, tmp_path, change)
    assert main([str(path)]) == 1
    out = capsys.readouterr().out
    assert "valid_loss after update " in out and "beyond 0 %" in out
    assert main([str(path), "tolerance=0.001"]) == 0
    assert "apart by up to 0.01 %, within 0.1 %" in capsys.readouterr().out


@pytest.mark.parametrize(("factor", "code"), [(1 + TOLERANCE / 2, 0), (1 + 2 * TOLERANCE, 1)])
def test_elsewhere_a_small_difference_is(
    record: Path, tmp_path: Path, factor: float, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(content: Any) -> None:
        content["machine"]["name"] = "another"
        scale_first_loss(content, factor)

    assert main([str(changed(record, tmp_path, change))]) == code
    out = capsys.readouterr().out
    assert "name was another, is " in out and f"{'beyond' if code else 'within'} 2 %" in out


def test_a_record_from_before_a_change_of_the_order_of_sums(
    record: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may differ in last bits if the change concerned its task, and not at all otherwise."""

    def change(content: Any) -> None:
        del content["versions"]["arithmetic"]
        scale_first_loss(content, 1 + 1e-6)

    path = str(changed(record, tmp_path, change))
    assert main([path]) == 1
    assert "beyond 0 %" in capsys.readouterr().out
    monkeypatch.setitem(ARITHMETIC_OF_TASKS, "unique_count", 2)
    assert main([path]) == 0
    assert "arithmetic was 1, is 2" in capsys.readouterr().out


def test_every_task_whose_sums_moved_is_one() -> None:
    assert all(find_task(name) for name in ARITHMETIC_OF_TASKS)
    assert set(ARITHMETIC_OF_TASKS.values()) <= set(range(2, ARITHMETIC + 1))


def _drop_metrics(content: Any) -> None:
    content["curve"] = [{k: row[k] for k in ("step", "epoch")} for row in content["curve"]]


def _final(content: Any) -> None:
    content["final"]["test_error"] = 0.0


@pytest.mark.parametrize(
    ("change", "word"),
    [(_drop_metrics, "valid_error after update "), (_final, "final.test_error: 0.0 recorded")],
)
def test_all_numbers_are_compared(
    record: Path, tmp_path: Path, change: Any, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    epochs = len(json.loads(record.read_text())["curve"])
    assert main([str(changed(record, tmp_path, change)), f"epochs={epochs}"]) == 1
    assert word in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", 7, "seed is 7, config has 0"),
        ("act", "hard", "act is hard, its command gives nah"),
        ("config_hash", "0" * 12, "config and config_hash do not belong together"),
        ("status", "failed", "status is failed; only a run that ended is repeated"),
        ("curve", {}, "curve is {}, expected a list"),
        ("data_files", {"words": "0" * 64}, "other data than recorded: words"),
    ],
)
def test_a_record_that_contradicts_itself(
    record: Path,
    tmp_path: Path,
    key: str,
    value: Any,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def change(content: Any) -> None:
        content[key] = value

    assert main([str(changed(record, tmp_path, change))]) == 2
    assert message in capsys.readouterr().err


def test_another_configuration_is_no_repetition(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(content: Any) -> None:
        content["config"]["training"]["lr"] = 7.0
        content["config_hash"] = config_hash(content["config"])

    assert main([str(changed(record, tmp_path, change))]) == 2
    assert "training.lr is 7.0, the code now gives 0.001" in capsys.readouterr().err
    assert main([str(tmp_path / "absent.json")]) == 2


def test_differences() -> None:
    """Relative to the larger one; what one side lacks or has not finite is infinitely far."""
    one: dict[str, Any] = {"step": 5, "a": 1.0, "b": None}
    assert compare_curves([one], [{**one, "new": 3.0}], {"a"}) == Comparison(3, 0.0, [])
    assert compare_curves([one], [{**one, "b": float("nan")}], {"a"}) == Comparison(3, 0.0, [])
    assert compare_curves([one], [{**one, "a": 1.25}], {"a"}) == Comparison(
        3, 0.2, ["a after update 5: 1.0 recorded, 1.25 now"]
    )
    for other in ({**one, "a": float("nan")}, {"step": 5, "b": None}, {**one, "new": 3.0}):
        assert compare_curves([one], [other], {"a", "new"}).largest == math.inf
    assert compare_curves([one], [], {"a"}).largest == math.inf


def test_every_result_is_compared() -> None:
    found = Comparison()
    old = {"final": {"a": 2.0}, "findings": {"p": [[1.0, 2.0]]}, "floor": {}, "status": "complete"}
    new = {"final": {"a": 2.0, "b": 1}, "findings": {"p": [[1.0, 4.0]]}, "status": "diverged"}
    compare_results(found, old, new, ["final", "findings", "floor", "best"])
    assert found == Comparison(3, 0.5, ["findings.p[0][1]: 2.0 recorded, 4.0 now"])
    compare_results(found, old, new, ["status"])
    assert found.largest == math.inf and found.lines[1] == "status: complete recorded, diverged now"
