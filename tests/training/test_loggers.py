"""metrics.jsonl and metrics.csv, TensorBoard and Weights & Biases, read back."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from noisyexp.cli.compose import check
from noisyexp.cli.run import run_one
from noisyexp.errors import ConfigError
from noisyexp.training import RunSpec, Trainer, execute
from noisyexp.training.loggers import MetricsFiles

Row = dict[str, float]


def jsonl(folder: Path) -> list[Row]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_files_of_a_known_run(tmp_path: Path, toy_trainer: Callable[..., Trainer]) -> None:
    trainer = toy_trainer([5.0, 6.0], [MetricsFiles(tmp_path, 2)], epochs=3, steps=3,
                          evaluate_every=2)  # fmt: skip
    trainer.fit()
    # Update n meets w = 1 - 0.5^(n - 1) twice: loss 0.25^(n - 1), norm sqrt(2) 0.5^(n - 1).
    steps = [
        {"step": n, "train_loss": 0.25 ** (n - 1), "grad_norm": 2**0.5 * 0.5 ** (n - 1), "lr": 0.5}
        for n in (2, 4, 6, 8)
    ]
    rows = jsonl(tmp_path)
    assert [row["step"] for row in rows] == [2, 3, 4, 6, 6, 8, 9]
    for row, expected in zip([row for row in rows if "epoch" not in row], steps, strict=True):
        assert row == pytest.approx(expected)
    assert [row for row in rows if "epoch" in row] == trainer.curve
    with (tmp_path / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["step", "epoch", "loss", "score"]
    values = [{name: float(text) for name, text in row.items() if text} for row in table]
    assert values == trainer.curve
    assert [row["score"] for row in table] == ["", "5.0", "6.0"]


def test_files_of_a_run(tmp_path: Path, make_spec: Callable[..., RunSpec]) -> None:
    spec = make_spec(tmp_path, act="reference", keys={"logger.every_steps": 5})
    record = execute(spec).record
    rows = jsonl(spec.folder)
    assert [row["step"] for row in rows] == [5, 8, 10, 15, 16, 20, 24]
    assert [row for row in rows if "epoch" in row] == record["curve"]
    assert [row["lr"] for row in rows if "epoch" not in row] == [1.0, 0.5, 0.5, 0.25]


def test_lines_newer_than_the_checkpoint_are_dropped(
    tmp_path: Path, toy_trainer: Callable[..., Trainer]
) -> None:
    (tmp_path / "a").mkdir()
    whole = toy_trainer(callbacks=[MetricsFiles(tmp_path / "a", 1)], steps=2, epochs=2)
    whole.fit()
    first = toy_trainer(steps=2, epochs=2)
    for _ in range(2):
        first.run_step()
    state = first.state_dict()  # before the end of the first epoch
    lines = (tmp_path / "a" / "metrics.jsonl").read_text()
    (tmp_path / "b").mkdir()
    # All of another future, and a line cut off by a kill.
    (tmp_path / "b" / "metrics.jsonl").write_text(lines + '{"step": 9, "tra')
    second = toy_trainer(callbacks=[MetricsFiles(tmp_path / "b", 1)], steps=2, epochs=2)
    second.load_state_dict(state)
    second.fit()
    for name in ("metrics.jsonl", "metrics.csv"):
        assert (tmp_path / "b" / name).read_text() == (tmp_path / "a" / name).read_text()


def test_tensorboard_holds_the_curve(tmp_path: Path, make_spec: Callable[..., RunSpec]) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    keys = {"logger.tensorboard": True, "logger.every_steps": 5}
    spec = make_spec(tmp_path, act="reference", keys=keys)
    record = execute(spec).record
    events = accumulator.EventAccumulator(str(spec.folder / "tensorboard"))
    events.Reload()
    for name in ("train_ppl", "valid_ppl", "valid_ppl_zaremba", "epoch"):
        read = [(event.step, event.value) for event in events.Scalars(name)]
        # Event files hold float32.
        assert [step for step, _ in read] == [8, 16, 24]
        assert [v for _, v in read] == pytest.approx([r[name] for r in record["curve"]], rel=1e-6)
    losses = {row["step"]: row["train_loss"] for row in jsonl(spec.folder) if "train_loss" in row}
    read = {event.step: event.value for event in events.Scalars("train_loss")}
    assert read == pytest.approx(losses, rel=1e-6)


@pytest.mark.parametrize(
    ("extra", "override"),
    [("wandb", "logger.wandb=offline"), ("tensorboard", "logger=tensorboard")],
)
def test_missing_package_is_a_problem_of_the_configuration(
    extra: str, override: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(ConfigError) as caught:
        check([override])
    assert caught.value.problems == [
        f"logger: {extra} is not installed; run pip install -e '.[{extra}]'"
    ]


def test_broken_package_is_named(
    tmp_path: Path,
    make_spec: Callable[..., RunSpec],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    spec = make_spec(tmp_path, act="reference", keys={"logger.tensorboard": True})
    assert run_one(spec) == 1
    message = capsys.readouterr().err
    assert "tensorboard is not installed: run `pip install -e '.[tensorboard]'`" in message
    assert "Traceback" not in message
    # Without the logger the same run goes through.
    assert run_one(make_spec(tmp_path, act="reference")) == 0
