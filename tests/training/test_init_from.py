"""Runs that start from the weights of another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from noisyexp.cli.compose import check
from noisyexp.errors import CheckpointError, ConfigError
from noisyexp.fileio import read_json
from noisyexp.records.config_hash import config_hash
from noisyexp.training import RunSpec, checkpoint, execute
from noisyexp.training.callbacks import Callback
from noisyexp.training.trainer import Trainer
from tests.cli.conftest import TINY


def spec(root: Path, *words: str) -> RunSpec:
    (found,) = check(["task=ptb", "device=cpu", *TINY, f"run_root={root}/runs", *words])
    return found


class Watch(Callback):
    """The weights before the first update."""

    def on_fit_start(self, trainer: Trainer) -> None:
        self.state = {key: value.clone() for key, value in trainer.model.named_parameters()}


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """Folder of a finished run of reference units."""
    return execute(spec(tmp_path, "act=reference")).folder


@pytest.mark.parametrize("act", ["reference", "nah"])
def test_a_run_begins_with_the_weights_of_the_other(act: str, first: Path, tmp_path: Path) -> None:
    """p, which reference units do not have, is what a run of its own would draw."""
    watch, fresh = Watch(), Watch()
    outcome = execute(spec(tmp_path, f"act={act}", f"init_from={first}", "seed=7"), [watch])
    execute(spec(tmp_path, f"act={act}", "seed=7"), [fresh])
    trained = checkpoint.load(first / "last.pt")["model"]
    assert watch.state.keys() == fresh.state.keys()
    noise = 0
    for name, value in watch.state.items():
        assert torch.equal(value, trained[name] if name in trained else fresh.state[name])
        noise += name not in trained
    assert (noise > 0) == (act == "nah")
    record = read_json(outcome.folder / "run.json")
    assert "init_from" not in record["config"]  # a place on this machine
    assert config_hash(record["config"]) == record["config_hash"]


def test_the_hash_is_that_of_the_weights_and_not_of_the_place(first: Path, tmp_path: Path) -> None:
    plain = spec(tmp_path, "act=nah")
    without = {k: v for k, v in plain.plain.items() if k not in ("init_from", "init_weights")}
    assert config_hash(without) == plain.digest  # older records keep their hash
    moved = first.rename(tmp_path / "moved")
    found = spec(tmp_path, "act=nah", f"init_from={moved}")
    assert found.digest != plain.digest
    other = execute(spec(tmp_path, "act=reference", "seed=3")).folder
    assert spec(tmp_path, "act=nah", f"init_from={other}").digest != found.digest
    moved.rename(tmp_path / "again")
    assert spec(tmp_path, "act=nah", f"init_from={tmp_path / 'again'}").digest == found.digest


def test_weights_that_do_not_fit_are_one_message(first: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"another model: embedding.weight is .* 4\) there, .* 5\) here"
    ) as error:
        execute(spec(tmp_path, "act=reference", f"init_from={first}", "task.hidden_size=5"))
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="init_from=nowhere: nowhere is not the folder of a run"):
        spec(tmp_path, "act=reference", "init_from=nowhere")
    with pytest.raises(
        ConfigError, match="is not the folder of a run: run\\.json: File name too long"
    ):
        spec(tmp_path, "act=reference", f"init_from={'a' * 300}")
    with pytest.raises(ConfigError, match="init_weights: filled in by init_from"):
        spec(tmp_path, "act=reference", "init_weights=0123")
