"""debug=overfit, profile and anomaly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from noisyexp.cli.compose import check
from noisyexp.training import RunSpec, execute
from noisyexp.training.callbacks import Callback
from noisyexp.training.trainer import Trainer
from tests.cli.conftest import TINY


def spec(root: Path, *words: str) -> RunSpec:
    (found,) = check(["task=ptb", "device=cpu", *TINY, f"run_root={root}/runs", *words])
    return found


class Batches(Callback):
    """The inputs of every update."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_fit_start(self, trainer: Trainer) -> None:
        trainer.model.embedding.register_forward_pre_hook(  # type: ignore[operator,union-attr]
            lambda module, given: self.seen.append(given[0]) if module.training else None
        )


@pytest.mark.parametrize(("mode", "same"), [("overfit", True), ("none", False)])
def test_overfit_sees_one_batch(mode: str, same: bool, tmp_path: Path) -> None:
    batches = Batches()
    outcome = execute(spec(tmp_path, "act=reference", f"debug={mode}"), [batches])
    first, *others = batches.seen
    assert len(others) == outcome.record["curve"][-1]["step"] - 1 == 3
    assert all(torch.equal(first, other) for other in others) == same


def test_a_profile_is_written_and_changes_no_number(tmp_path: Path) -> None:
    plain = execute(spec(tmp_path, "act=nah"))
    outcome = execute(spec(tmp_path, "act=nah", "debug=profile"))
    assert outcome.folder != plain.folder
    assert outcome.record["final"] == plain.record["final"]
    assert "Self CPU" in (outcome.folder / "profile.txt").read_text()
    assert json.loads((outcome.folder / "profile.json").read_text())["traceEvents"]


def test_anomaly_holds_for_its_run_alone(tmp_path: Path) -> None:
    execute(spec(tmp_path, "act=reference", "debug=anomaly"))
    assert torch.is_anomaly_enabled()
    execute(spec(tmp_path, "act=reference"))
    assert not torch.is_anomaly_enabled()


def test_a_debugging_run_belongs_to_no_row(tmp_path: Path) -> None:
    words = ["experiment=table2/nah", "scale=smoke", "data=generated", f"run_root={tmp_path}"]
    assert check(words)[0].names.experiment == "table2/nah"
    assert check([*words, "debug=overfit"])[0].names.experiment is None
