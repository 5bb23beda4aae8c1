"""What `noisyexp sample` shows is what the run learned, by the weights that are asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import noisyexp.cli.sample as sample
from noisyexp.activations import activations
from noisyexp.cli.compose import check
from noisyexp.errors import CheckpointError, RecordError
from noisyexp.training import checkpoint, execute
from noisyexp.training.load import load_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with annealed noise."""
    root = tmp_path_factory.mktemp("runs")
    options = [f"run_root={root}", "threads=1", "device=cpu", "progress=off", "act=nah"]
    (spec,) = check(
        ["task=unique_count", "scale=smoke", "anneal.schedule=interval", "anneal.every=8", *options]
    )
    return execute(spec).folder


def test_loaded_model_scores_what_the_run_recorded(run: Path) -> None:
    """The test metrics of the record again, which needs the weights and the annealed c."""
    record = checkpoint.load(run / "last.pt")["curve"][-1]
    loaded = load_run(run)
    assert loaded.step == record["step"] == 40
    with torch.no_grad():
        found = loaded.task.validate(loaded.model, torch.device("cpu"))
    assert found["valid_loss"] == record["valid_loss"]
    levels = [unit.c for unit in activations(loaded.model)]
    assert levels == [record["c"]] * 5 and record["c"] == pytest.approx(30 / 5**0.5)


def test_a_record_without_keys_that_came_later(run: Path, tmp_path: Path) -> None:
    """Both kinds of unit then have the settings of all, as when the run was made."""
    shutil.copytree(run, tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["config"]["act"]["c"] = 0.25
    for kind in ("tanh", "sigmoid"):
        record["config"]["act"][kind] = {"alpha": 1.5}
    del record["config"]["act"]["clip_output"]
    record["config"]["anneal"]["schedule"] = "none"
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    units = [*activations(load_run(tmp_path / "run").model)]
    assert {(unit.alpha, unit.c, unit.clip_output) for unit in units} == {(1.5, 0.25, False)}


def test_best_weights_are_those_of_the_best_epoch(run: Path) -> None:
    step = checkpoint.load(run / "best.pt")["step"]
    assert load_run(run, "best").step == step


def test_a_picture_and_the_numbers_are_shown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert sample.main([f"run={run}"]) == 0
    shown = capsys.readouterr().out
    assert f"{run.name}, 40 updates" in shown and "true count: sequences" in shown
    assert (run / "sample.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert {path: path.read_bytes() for path in before} == before


def test_a_picture_that_cannot_be_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("run.json", "last.pt"):
        shutil.copy(run / name, folder)
    (folder / "sample.svg").mkdir()
    assert sample.main([f"run={folder}"]) == 1
    assert f"error: {folder}/sample.png: cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rn=x"], "rn=x: no such key. Did you mean run?"),
        ([], "no model given: run=<folder>, or weights="),
        (["run=x", "weights=first"], "weights=first: of a run expected last or best"),
        (["run=nowhere"], "nowhere is not the folder of a run"),
    ],
)
def test_mistakes_are_explained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample.main(arguments) != 0
    assert message in capsys.readouterr().err


def test_a_place_that_is_no_run_is_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    places = {file: "it is a file", tmp_path / "x": "there is no such folder",
              tmp_path: "it has no run.json"}  # fmt: skip
    for place, said in places.items():
        assert sample.main([f"run={place}"]) == 2
        err = capsys.readouterr().err
        whole = f"{place} is not the folder of a run: {said}; `noisyexp runs` lists the runs"
        assert err == f"error: {whole}\n"
    (tmp_path / "run.json").mkdir()
    assert sample.main([f"run={tmp_path}"]) == 2
    assert "a run: run.json: a folder, not a file; " in capsys.readouterr().err


def test_a_checkpoint_without_weights_is_one_line(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "last.pt"
    state = checkpoint.load(path)
    weights = dict(state["model"])
    kept = {key: state[key] for key in state if key not in ("format", "digest", "config_hash")}
    first = next(iter(weights))
    count = sum(not key.endswith("_extra_state") for key in weights)
    for model, said in (
        ({}, f"{count} are missing ({first}, ...)"),
        ({**weights, "x": torch.zeros(1)}, "1 is unknown (x)"),
        ({**weights, first: torch.zeros(1)}, f"1 is of another shape ({first})"),
    ):
        checkpoint.save({**kept, "model": model}, path, state["config_hash"])
        with pytest.raises(CheckpointError, match="of another model") as caught:
            load_run(tmp_path / "run")
        assert str(caught.value).endswith(f"of another model: {said}")
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"it is empty\. Put a good copy there, or delete"):
        load_run(tmp_path / "run")


def test_a_run_that_was_killed(run: Path, tmp_path: Path) -> None:
    """Its run.json has no curve: c is that of the schedule at the checkpoint's step."""
    for name in ("last.pt", "best.pt"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    record = json.loads((run / "run.json").read_text())
    for key in ("curve", "best", "final"):
        del record[key]
    (tmp_path / "run.json").write_text(json.dumps(record))
    levels = [unit.c for unit in activations(load_run(tmp_path).model)]
    assert levels == pytest.approx([30 / 5**0.5] * 5)
    record["config"]["task"]["hidden_size"] = 13
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="of another model"):
        load_run(tmp_path)


def test_a_run_from_before_a_key_was_there(run: Path, tmp_path: Path) -> None:
    """The key's default changes nothing; a key that is known no more is an error."""
    for name in ("last.pt", "best.pt"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    record = json.loads((run / "run.json").read_text())
    del record["config"]["act"]["learn_p"], record["config"]["task"]["test_size"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    found, same = load_run(tmp_path), load_run(run)
    weights, expected = found.model.state_dict(), same.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    record["config"]["act"]["gone"] = 1
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(RecordError, match=r"another version: act\.gone=1"):
        load_run(tmp_path)


def test_the_level_of_a_curriculum_is_restored(tmp_path: Path) -> None:
    """Validation of the loaded model gives the numbers of the curve, at the level of the run."""
    options = [f"run_root={tmp_path}", "threads=1", "progress=off", "act=reference"]
    (spec,) = check(["task=lte", "scale=smoke", "task.threshold=0", *options])
    loaded = load_run(execute(spec).folder)
    state = checkpoint.load(spec.folder / "last.pt")
    assert loaded.task.curriculum is not None
    assert loaded.task.curriculum.state_dict() == state["callbacks"]["FollowCurriculum"]
    assert loaded.task.curriculum.level()["level"] > 0


def test_a_run_without_a_checkpoint(run: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes((run / "run.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"last\.pt is missing"):
        load_run(tmp_path)
