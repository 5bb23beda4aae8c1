"""The example replaces what it says, keeps the weights and trains both models on the same data."""

from __future__ import annotations

import copy

import pytest
import torch

import scripts.example_replace as example
from noisyexp import replace_activations
from noisyexp.activations import activations


def test_examples_name_the_quarter_of_the_largest() -> None:
    x, target = example.examples(50, torch.Generator().manual_seed(0))
    for row, quarter in zip(x[..., 0].tolist(), target.tolist(), strict=True):
        assert max(row) in row[5 * quarter : 5 * quarter + 5]


def test_the_reference_unit_changes_nothing() -> None:
    """With soft units the replaced model is the original, value by value."""
    torch.manual_seed(0)
    model = example.Finder()
    other = copy.deepcopy(model)
    assert len(replace_activations(other, "reference")) == 2
    x, _ = example.examples(8, torch.Generator().manual_seed(0))
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=1e-6)


def test_report_and_learning(capsys: pytest.CaptureFixture[str]) -> None:
    assert example.main(["nan"], steps=120) == 0
    shown = capsys.readouterr().out
    assert "lstm: LSTM -> NoisyLSTM(nan)" in shown and "head.1: Tanh -> NAN(nan)" in shown
    accuracies = [float(part.split()[0]) for part in shown.split("test accuracy ")[1:]]
    assert len(accuracies) == 2 and min(accuracies) > 0.35  # chance is 0.25, its deviation 0.014


def test_p_is_learned() -> None:
    torch.manual_seed(0)
    model = example.Finder()
    replace_activations(model, "nah", c=5.0)
    before = [unit.p.clone() for unit in activations(model) if unit.p is not None]
    example.train(model, 60)
    after = [unit.p for unit in activations(model) if unit.p is not None]
    # Nothing saturates at first, and where nothing saturates p has no gradient.
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert example.main(["nhh"]) == 2 and example.main(["nah", "nan"]) == 2
    shown = capsys.readouterr().err
    assert "did you mean nah?" in shown and "one unit at a time" in shown
