"""`replace_activations`: what it swaps, what it keeps, what it reports."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from noisyexp import ActivationSpec, NoisyLSTM, NoisyLSTMCell, replace_activations
from noisyexp.activations import activations
from noisyexp.nn.initial import drop_bias


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.1))
        self.lstm = nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True, dropout=0.2)
        self.heads = nn.ModuleList([nn.GRU(10, 3, bias=False), nn.LSTMCell(3, 2)])
        self.gate = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.lstm(self.front(x))[0]
        x = self.heads[0](x)[0]
        out: torch.Tensor = self.gate(self.heads[1](x[:, 0])[0])
        return out


def test_everything_is_swapped_and_every_weight_kept() -> None:
    model = Model().double()
    before = dict(model.named_parameters())
    report = replace_activations(model, "nah", include_head=True, alpha=1.1, c=0.4)
    assert [(entry.path, entry.old) for entry in report] == [
        ("front.1", "Tanh"), ("lstm", "LSTM"), ("heads.0", "GRU"), ("heads.1", "LSTMCell"),
        ("gate", "Sigmoid"),
    ]  # fmt: skip
    assert str(report[1]) == "lstm: LSTM -> NoisyLSTM(nah)"
    after = dict(model.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    # One p for each of 4 x 5, 3 and 5 units, and two lone units.
    assert len(after) - len(before) == 4 * 5 + 3 + 5 + 2
    assert after["front.1.p"].shape == (1,) and after["lstm.units.l1_reverse.c.p"].shape == (5,)
    assert {p.dtype for p in after.values()} == {torch.float64}
    assert all(unit.alpha == 1.1 and unit.c == 0.4 for unit in activations(model))
    lstm: Any = model.lstm
    assert isinstance(lstm, NoisyLSTM) and lstm.batch_first and lstm.dropout == 0.2
    model(torch.randn(2, 3, 4, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_reference_changes_nothing() -> None:
    model = Model().eval()
    x = torch.randn(2, 3, 4)
    expected = model(x)
    replace_activations(model, "reference", include_head=True)
    torch.testing.assert_close(model(x), expected)
    assert not model.lstm.training


def test_hard_units_where_nothing_saturates() -> None:
    """Small weights: hard tanh of x is x, and the module computes what the linear one does."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    assert len(replace_activations(model, ActivationSpec("hard"), include_head=True)) == 1
    x = 0.01 * torch.randn(5, 3)
    linear: Any = model[0]
    assert torch.equal(model(x), linear(x).clamp(-1, 1))


def test_shared_modules_stay_shared() -> None:
    tanh = nn.Tanh()
    model = nn.Sequential(nn.Linear(2, 2), tanh, nn.Linear(2, 2), tanh)
    assert len(replace_activations(model, "nan", include_head=True)) == 2
    assert model[1] is model[3]


def test_mistakes_are_said() -> None:
    with pytest.raises(ValueError, match="LSTM is the model itself: put it into a module"):
        replace_activations(nn.LSTM(2, 2), "nah")
    with pytest.raises(ValueError, match=r"'nahh' is unknown.*did you mean nah"):
        replace_activations(nn.Sequential(nn.Tanh()), "nahh")
    with pytest.raises(ValueError, match=r"include 'frnt' matches no .*did you mean front\.1"):
        replace_activations(Model(), "nah", include=["lstm", "frnt"])
    with pytest.raises(ValueError, match="exclude 'x' matches no module"):
        replace_activations(Model(), "nah", exclude="x")
    with pytest.raises(ValueError, match="include ReLU has no noisy form; choose from Tanh"):
        replace_activations(Model(), "nah", include=nn.ReLU)
    with pytest.raises(TypeError, match="exclude must be types, names or functions, not 3"):
        replace_activations(Model(), "nah", exclude=3)  # type: ignore[arg-type]


def test_cells_keep_their_interface() -> None:
    model = nn.Sequential(nn.LSTMCell(3, 4))
    replace_activations(model, "hard")
    assert isinstance(model[0], NoisyLSTMCell)
    h, c = model[0](torch.randn(2, 3))
    assert h.shape == c.shape == (2, 4)


@pytest.mark.parametrize("variant", ["reference", "hard"])
def test_a_bias_that_was_taken_away_stays_away(variant: str) -> None:
    model = nn.Sequential(nn.GRU(4, 6))
    drop_bias(model[0], "bias_hh_l0")
    x = torch.randn(3, 2, 4)
    before, _ = model(x)
    replace_activations(model, variant)
    assert "bias_hh_l0" not in dict(model[0].named_parameters())
    assert torch.equal(model[0].bias_hh_l0, torch.zeros(18))
    if variant == "reference":
        torch.testing.assert_close(model(x)[0], before)
