"""Published weights: written from a run, found by name, and the same model as the run's."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

import noisyexp.cli.evaluate as evaluate
import noisyexp.cli.sample as sample
import noisyexp.training.weights_file as weights_file
from noisyexp.cli.publish import main as publish_main
from noisyexp.errors import CheckpointError, RecordError
from noisyexp.experiments import evaluate as measure
from noisyexp.experiments import frame, load, records, run
from noisyexp.places import CHECKOUT
from noisyexp.records.content_digest import sealed
from noisyexp.records.record_files import load_record
from noisyexp.report.run_set import find_runs
from noisyexp.training.load import load_run

OPTIONS = "task=unique_count scale=smoke act=nah threads=1 device=cpu progress=off"
ANNEALED = "anneal.schedule=interval anneal.every=8 training.use_weights=best"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run with annealed noise, whose result is that of its best weights."""
    root = tmp_path_factory.mktemp("runs")
    record, model, folder = run(f"{OPTIONS} {ANNEALED} run_root={root}")
    assert record["status"] == "complete" and model is not None and not model.training
    # The second call reads what is there.
    again = run([*OPTIONS.split(), *ANNEALED.split(), f"run_root={root}"])
    assert again.record == record
    assert all(torch.equal(*pair) for pair in
               zip(model.parameters(), again.model.parameters(), strict=True))  # fmt: skip
    return folder


@pytest.fixture
def root(tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the weights of the run."""
    pytest.importorskip("safetensors")
    assert publish_main(["to=weights", str(finished)], tmp_path) == 0
    monkeypatch.setattr(weights_file, "project_root", lambda: tmp_path)
    return tmp_path


def test_published_weights_are_those_of_the_result(
    root: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Metrics of the loaded file against the record, to the last bit: same weights and same c."""
    assert weights_file.names() == ["unique_count/nah"]
    loaded, own = load("unique_count/nah"), load(finished)
    recorded = records(finished)[0]
    assert loaded.step == own.step == recorded["step"]
    found = measure(loaded, "cpu")
    assert found and found == {name: recorded[name] for name in found}
    assert found == measure(own, "cpu")
    assert evaluate.main(["weights=unique_count/nah", "device=cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"  valid_loss {recorded['valid_loss']:.4g}  (recorded:" in lines[1] + lines[2]


def test_names_and_files_that_are_wrong_are_one_line(
    root: Path, finished: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(RecordError, match=r"choose from unique_count/nah\. Did you mean"):
        weights_file.find("unique_count/nahh")
    assert sample.main(["weights=worst"]) == 2 and sample.main([]) == 2
    assert sample.main([f"run={finished}", "weights=worst"]) == 2
    assert "of a run expected last or best" in capsys.readouterr().err
    assert sample.main(["weights=unique_count/nah", "prompt=a"]) == 2
    assert "unique_count is no language model" in capsys.readouterr().err
    file = weights_file.find("unique_count/nah")
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="no file of weights"):
        load("unique_count/nah")
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    changed = {**json.loads((other / "run.json").read_text()), "reason": "x"}
    (other / "run.json").write_text(json.dumps(sealed(changed)))
    assert publish_main(["to=weights", str(other)], root) == 2
    assert "replace=true" in capsys.readouterr().err


def test_rows_and_frame_have_settings_cost_and_results(finished: Path) -> None:
    (row,), ((one,), _) = records([finished]), find_runs([finished])
    assert row["anneal.every"] == 8 and row["seed"] == 0 and row["act"] == "nah"
    assert row["valid_loss"] == one.record.final["valid_loss"]
    assert row["cost.train_s"] == one.record.cost["train_s"]
    table = pytest.importorskip("pandas") and frame([finished])
    assert table.loc[0, "valid_loss"] == row["valid_loss"] and len(table) == 1


def test_the_repositorys_weights_fit_their_records_and_are_small() -> None:
    pytest.importorskip("safetensors")
    files = sorted((CHECKOUT / weights_file.FOLDER).rglob("*"))
    assert sum(os.path.getsize(file) for file in files) < 25e6
    for name in weights_file.names(CHECKOUT):
        file = weights_file.find(name, CHECKOUT)
        (found,), left_out = find_runs([file.with_suffix(".json")])
        state = weights_file.read(file)
        assert not left_out and found.record.complete
        assert state["config_hash"] == found.record.config_hash
        assert dataclasses.asdict(found.record)["final"]["step"] == state["step"]
        model = load_run(
            name, only_words=True
        ).model  # without data; strict: every weight, of the right shape
        assert sum(p.numel() for p in model.parameters()) == found.record.parameters["total"]


TESTED = ("test_ppl", "test_nll", "test_acc", "test_error", "test_nats_max")


def test_the_page_has_every_published_model_with_its_number() -> None:
    page = (CHECKOUT / "docs" / "python.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+/\w+)` \| .* \| \D*([\d.]+).* \|$", page, re.M))
    recorded = {}
    for name in weights_file.names(CHECKOUT):
        record = load_record(weights_file.find(name, CHECKOUT).with_suffix(".json"))
        (metric,) = [name for name in TESTED if name in record.final]
        recorded[name] = f"{record.final[metric]:.2f}"
        assert record.scale == "cpu"
    assert rows == recorded


def test_a_large_model_is_rounded_by_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each weight within half a step of its row, vectors and whole numbers as they were."""
    pytest.importorskip("safetensors")
    torch.manual_seed(0)
    sizes = 10.0 ** torch.arange(-3.0, 3.0).view(6, 1)
    model = {
        "weight": torch.randn(6, 50) * sizes,
        "kernel": torch.randn(4, 3, 2),
        "zero": torch.zeros(2, 3),
        "bias": torch.randn(6),
        "p": torch.rand(()),
        "count": torch.arange(6).view(2, 3),
    }
    state = {"model": model, "step": 7, "callbacks": {}, "config_hash": "a"}
    assert not weights_file.write(tmp_path / "whole", state, ["a", "<eos>"])
    monkeypatch.setattr(weights_file, "LARGEST", 100)
    assert weights_file.write(tmp_path / "small", state)
    whole, small = weights_file.read(tmp_path / "whole"), weights_file.read(tmp_path / "small")
    assert whole["words"] == ["a", "<eos>"] and small["words"] == []
    assert small["model"].keys() == model.keys()
    for name, value in model.items():
        assert torch.equal(whole["model"][name], value)
        read = small["model"][name]
        assert read.dtype == value.dtype and read.shape == value.shape
        if name in ("weight", "kernel"):
            step = value.flatten(1).abs().amax(1) / 127
            away = (read - value).flatten(1).abs().amax(1)
            assert (away <= step * 0.5001).all() and (away > 0).all()
        else:
            assert torch.equal(read, value)


def test_a_published_language_model_writes_without_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("safetensors")
    words = "task=ptb scale=smoke data=generated act=nah training.max_steps=2 threads=1 device=cpu"
    finished = run(f"{words} progress=off run_root={tmp_path}/runs")
    assert publish_main(["to=weights", str(finished.folder)], tmp_path) == 0
    monkeypatch.setattr(weights_file, "project_root", lambda: tmp_path)
    known = weights_file.read(weights_file.find("ptb/nah", tmp_path))["words"]
    asked = f"prompt={known[3]} {known[5]}"
    capsys.readouterr()
    assert sample.main([f"run={finished.folder}", asked]) == 0
    own = capsys.readouterr().out

    def no_data(self: object, root: Path) -> dict[str, str]:
        raise AssertionError("the text was read")

    monkeypatch.setattr("noisyexp.tasks.text.word_model.WordLanguageModel.prepare", no_data)
    assert sample.main(["weights=ptb/nah", asked]) == 0
    assert capsys.readouterr().out == own
    with pytest.raises(AssertionError):
        sample.main(["weights=ptb/nah"])
