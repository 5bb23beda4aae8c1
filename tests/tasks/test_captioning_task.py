"""The captioning task: configuration, metrics, what it learns on the stand-in, its rows."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from noisyexp.activations import ActivationSpec
from noisyexp.cli.compose import CONFIG_DIR, check
from noisyexp.errors import DataError, NoisyexpError
from noisyexp.records.row_files import load_row
from noisyexp.schema import build
from noisyexp.tasks import find_task
from noisyexp.tasks.captioning import Captioning, CaptioningConfig
from noisyexp.tasks.captioning.cost import training_cost
from noisyexp.tasks.captioning.data import Batch
from noisyexp.tasks.captioning.model import Captioner, Shape
from noisyexp.tasks.captioning.task import side_by_side
from noisyexp.training import execute

CPU = torch.device("cpu")


@cache
def small() -> CaptioningConfig:
    """Section `task` of a run at scale smoke."""
    (spec,) = check(["task=captioning", "scale=smoke", "data=generated"])
    assert isinstance(spec.task_config, CaptioningConfig)
    return spec.task_config


def prepared(variant: str = "reference", **changes: Any) -> tuple[Captioning, Captioner]:
    """Task and model of a small run."""
    task = Captioning(replace(small(), **changes), "generated", 0)
    task.prepare(Path())
    torch.manual_seed(0)
    model = task.build_model(ActivationSpec(variant))
    assert isinstance(model, Captioner)
    return task, model


def learn(task: Captioning, model: Captioner, steps: int) -> float:
    """Validation NLL after `steps` updates of Adam."""
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        task.loss(model.train(), step, CPU).loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        return task.validate(model.eval(), CPU)["valid_nll"]


# --- configuration


def test_the_setting_of_the_paper() -> None:
    """The released script for COCO with RMSProp and 1000 units (spec section 5)."""
    assert find_task("captioning") is Captioning
    (spec,) = check(["task=captioning", "act=nah"])
    assert spec.task_config == CaptioningConfig(
        name="captioning", features="vgg19", attention="soft", embedding_size=512,
        hidden_size=1000, attention_layers=2, init_layers=2, output_layers=1, prev2out=True,
        ctx2out=True, selector=True, dropout=True, penalty=1.0, orthogonal_scale=None,
        n_words=None, max_words=100, batch_size=64, train_images=None, beam=5,
        other_beams=[1, 10], decode_words=200, meteor=True, held_out=200,
    )  # fmt: skip
    training = spec.plain["training"]
    names = ("optimizer", "lr", "rms_decay", "rms_eps", "momentum", "max_grad_norm", "patience")
    assert [training[name] for name in names] == [
        "graves_rmsprop", 1e-4, 0.95, 1e-4, 0.9, None, 10,
    ]  # fmt: skip
    problems: list[str] = []
    build(CaptioningConfig, vars(spec.task_config) | {"other_beams": [1, 0]}, "task", problems)
    assert problems == ["task.other_beams=[1, 0]: whole numbers from 1 to 1000"]


def test_rows_of_table_3() -> None:
    """Numbers as printed: BLEU-1 to 4, METEOR, NLL."""
    printed = {
        "reference": (67, 44.8, 29.9, 19.5, 18.9, 40.33),
        "nah": (66, 45.8, 30.69, 20.9, 20.5, 40.17),
        "nah_no_dropout": (64.9, 44.2, 30.7, 20.9, 20.3, 39.8),
        "nani": (66, 45.0, 30.6, 20.7, 20.5, 40.0), "nanil": (66, 44.6, 30.1, 20.0, 20.5, 39.9),
        "hard_attention": (67, 45.7, 31.4, 21.3, 19.5, None), "hard": (),
        "reference_small_orthogonal": (), "nah_released": (),
    }  # fmt: skip
    units = {"nah_no_dropout": "nah", "hard_attention": "reference",
             "reference_small_orthogonal": "reference", "nah_released": "nah"}  # fmt: skip
    for order, (name, numbers) in enumerate(printed.items(), 1):
        row = load_row(CONFIG_DIR / "experiment" / "table3" / f"{name}.yaml")
        assert (row.order, row.task, row.act) == (order, "captioning", units.get(name, name))
        assert tuple(row.paper.values()) == numbers
        assert row.source == ("paper" if numbers else "ours")
    (spec,) = check(["experiment=table3/nah_no_dropout"])
    assert (spec.task_config.dropout, spec.task_config.attention) == (False, "soft")
    (spec,) = check(["experiment=table3/hard_attention"])
    assert (spec.task_config.dropout, spec.task_config.attention) == (True, "hard")
    (spec,) = check(["experiment=table3/reference_small_orthogonal"])
    assert spec.task_config.orthogonal_scale == 0.01


def test_orthogonal_scale_goes_with_the_units() -> None:
    """1 for soft units, 0.01 for all others, unless a number is given."""
    for variant, given, expected in (
        ("reference", None, 1.0), ("hard", None, 0.01), ("nanil", None, 0.01), ("nah", 0.5, 0.5),
        ("reference", 0.01, 0.01),
    ):  # fmt: skip
        _, model = prepared(variant, orthogonal_scale=given)
        norm = model.cell.weight_hh.detach()[:16].square().sum(1)
        assert norm.tolist() == pytest.approx([expected**2] * 16, rel=1e-4)


def test_meteor_is_checked_before_data_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """To annotate the images takes a quarter of an hour."""

    def read(self: Captioning, root: Path) -> dict[str, str]:
        raise AssertionError("data were read")

    monkeypatch.setattr(Captioning, "prepare", read)
    monkeypatch.setitem(sys.modules, "pycocoevalcap.cider.cider", None)
    words = ["task=captioning", "scale=smoke", "data=generated", f"run_root={tmp_path}"]
    (spec,) = check([*words, "task.meteor=true"])
    with pytest.raises(NoisyexpError, match=r"task\.meteor=false"):
        execute(spec)


# --- what it measures


def test_metrics() -> None:
    """At first (words + 1) ln V of each split; means are over captions, not over batches."""
    task, model = prepared()
    expected = {
        split: float((captions.lengths + 1).double().mean()) * math.log(len(task.data.vocab))
        for split, captions in task.data.splits.items()
    }
    # Another split, or a mean over batches (of one length each), is off by 4 %.
    assert abs(expected["test"] / expected["valid"] - 1) > 0.03
    with torch.no_grad():
        found = task.validate(model.eval(), CPU)
        assert found["valid_nll"] == pytest.approx(expected["valid"], rel=1e-3)
        assert found["saturated"] == 0.0
        out = task.test(model, CPU)
    assert out["test_nll"] == pytest.approx(expected["test"], rel=1e-3)
    assert set(out) == {"test_nll"} | {
        f"test_bleu{n}{s}" for n in (1, 2, 3, 4) for s in ("", "_plain")
    }
    assert set(out) | set(found) | {"train_nll"} <= set(task.metrics)
    assert task.training_metrics({"nll": 30.0, "captions": 4}) == {"train_nll": 7.5}
    assert task.floor() == {"valid_nll": math.log(4), "test_nll": math.log(4)}


def test_words_beyond_the_limit_are_unknown() -> None:
    task, model = prepared(n_words=6)
    assert model.output.out_features == 6
    batch = task.batch(0)
    assert int(batch.targets.max()) <= 5 and bool((batch.targets == 1).any())
    # More than there are: rows of the output layer without a word, as in the original.
    task, model = prepared(n_words=90)
    with torch.no_grad():
        model.output.bias[80] = 20.0
        _, captions, _ = task.describe(model.eval(), CPU, 1)
    assert captions[0] == " ".join(["UNK"] * 16)


def test_long_captions_are_left_out() -> None:
    task, _ = prepared(max_words=9)
    seen = {task.batch(step).targets.shape[1] for step in range(task.steps_per_epoch)}
    assert seen == {9}  # of 8, 10, 12, 14 words those of 8, with their end
    count = sum(len(task.batch(step).targets) for step in range(task.steps_per_epoch))
    assert count == int((task.data.splits["train"].lengths == 8).sum())
    shortest = int(task.data.splits["train"].lengths.min())
    with pytest.raises(DataError, match=rf"max_words={shortest} .* take {shortest + 1} or more"):
        prepared(max_words=shortest)


def test_findings_and_sample() -> None:
    task, model = prepared(other_beams=[1], beam=2, decode_words=7)
    with torch.no_grad():
        model.eval()
        model.output.bias[3] = 8.0  # now it says the same word all the time
        scores = task.test(model, CPU)
        found = task.findings(model, CPU)
        shown = task.sample(model, CPU)
    word = task.data.vocab.lookup_token(3)
    assert {k: v["caption"] for k, v in found["test"].items()} == {
        f"test{k}": " ".join([word] * 7) for k in range(8)
    }
    costs = [one["nll"] for one in found["test"].values()]
    assert sum(costs) / 8 == pytest.approx(scores["test_nll"], abs=1e-4)
    assert max(costs) - min(costs) > 0.01
    assert set(found["beams"]) == {"1"} and len(found["beams"]["1"]["bleu"]) == 4
    assert shown.text.splitlines()[1] == f"  model: {' '.join([word] * 7)}"
    assert shown.text.count("human:") == 10 and len(shown.panels) == 5
    panel = shown.panels[0].values
    assert panel.shape == (4, 7 * 5)
    assert panel.sum() == pytest.approx(7.0) and not panel[:, 4::5].any()
    maps = torch.arange(8.0).view(2, 2, 2)
    assert side_by_side(maps).tolist() == [[0, 1, 0, 4, 5, 0], [2, 3, 0, 6, 7, 0]]


# --- what it learns


def test_overfits_64_captions_of_8_images() -> None:
    """Eight captions for each image leave ln 8 nats of doubt; less than 1 nat remains above."""
    generator = torch.Generator().manual_seed(4)
    annotations = torch.rand(8, 4, 12, generator=generator).repeat_interleave(8, 0)
    targets = torch.randint(2, 30, (64, 7), generator=generator)
    targets[:, -1] = 0
    inputs = torch.cat([torch.full((64, 1), -1), targets[:, :-1]], 1)
    torch.manual_seed(0)
    shape = Shape(30, 12, 24, 64, 2, 2, 1, True, True, True, False, "soft")
    model = Captioner(shape, ActivationSpec("reference"))
    optimizer, batch = torch.optim.Adam(model.parameters(), 0.01), Batch(
        annotations, inputs, targets
    )  # fmt: skip
    for _ in range(200):
        optimizer.zero_grad()
        training_cost(model, batch, 0.0).loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    found = float(training_cost(model, batch, 0.0).nll.mean())
    assert math.log(8) - 0.01 < found < math.log(8) + 1


@pytest.mark.slow
def test_attention_beats_looking_everywhere() -> None:
    """By more than 1 nat; without it colour and order of the things have to be guessed."""
    setting: dict[str, Any] = {
        "train_images": 1000, "embedding_size": 32, "hidden_size": 48, "dropout": False,
        "batch_size": 32, "penalty": 0.0, "held_out": 40,
    }  # fmt: skip
    found = {
        attention: learn(*prepared(attention=attention, **setting), 280)
        for attention in ("soft", "uniform")
    }
    assert found["soft"] > math.log(4) and found["soft"] < found["uniform"] - 1
