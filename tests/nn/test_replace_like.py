"""p that `replace_activations` makes: its dtype, its device, whether it is learned."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from noisyexp import replace_activations
from noisyexp.activations import noise_parameters


class Net(nn.Module):
    """An encoder, a body with an inner unit, a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4))
        self.act = nn.Tanh()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        self.lstm = nn.LSTM(4, 5)


def dtypes(model: nn.Module) -> dict[str, torch.dtype]:
    """Of the p of lone units, and one for all of a layer."""
    replace_activations(model, "nah")
    of_p = {id(p) for p in noise_parameters(model)}
    named = [(name, p) for name, p in model.named_parameters() if id(p) in of_p]
    return {name.split(".units")[0].removesuffix(".p"): p.dtype for name, p in named}


UNITS = ("encoder.1", "act", "body.1", "lstm")


def test_a_frozen_encoder_in_half_precision() -> None:
    model = Net()
    model.encoder.bfloat16().requires_grad_(False)
    assert dtypes(model) == dict.fromkeys(UNITS, torch.float32)
    model.act.p.grad = torch.ones_like(model.act.p)  # type: ignore[arg-type,union-attr]
    p: Any = model.act.p
    before = p.detach().clone()
    torch.optim.Adam([p], 1e-5).step()
    torch.testing.assert_close(before - p.detach(), torch.full((1,), 1e-5), rtol=0.01, atol=0)


def test_a_part_in_half_precision_beside_a_float32_rest() -> None:
    model = Net()
    model.encoder.bfloat16()
    model.body.half()
    assert dtypes(model) == dict.fromkeys(UNITS, torch.float32)


def test_a_model_in_half_precision() -> None:
    """p of a lone unit, as p of a layer and as weight of torch's norm layers."""
    assert dtypes(Net().bfloat16()) == dict.fromkeys(UNITS, torch.bfloat16)
    assert dtypes(Net().bfloat16().requires_grad_(False)) == dict.fromkeys(UNITS, torch.float32)
    assert dtypes(Net().double()) == dict.fromkeys(UNITS, torch.float64)


def test_one_scale_in_float64() -> None:
    class Scaled(Net):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
            self.act, self.fc = nn.Tanh(), nn.Linear(3, 4)

    assert dtypes(Scaled()) == dict.fromkeys(UNITS, torch.float32)
    assert dtypes(First()) == {"act": torch.float32}
    model = Net()
    model.body.double()
    expected = dict.fromkeys(UNITS, torch.float32) | {"body.1": torch.float64}
    assert dtypes(model) == expected


def test_parts_on_two_devices() -> None:
    model = Net()
    model.body.to("meta")
    replace_activations(model, "nah")
    places = {name: p.device.type for name, p in model.named_parameters() if name.endswith(".p")}
    lone = {name: places[f"{name}.p"] for name in UNITS[:3]}
    assert lone == {"encoder.1": "cpu", "act": "cpu", "body.1": "meta"}
    assert {places[name] for name in places if name.startswith("lstm")} == {"cpu"}


def test_p_of_a_half_layer_in_float32_computes() -> None:
    model = Net()
    model.lstm.bfloat16()
    model.rest = nn.Linear(30, 30)  # float32 has the most weights
    replace_activations(model, "nah", c=3.0)
    assert {p.dtype for p in noise_parameters(model.lstm)} == {torch.float32}
    output, _ = model.lstm(9 * torch.randn(3, 2, 4).bfloat16())
    assert output.dtype == torch.bfloat16
    output.float().square().sum().backward()
    assert all(p.grad is not None for p in noise_parameters(model.lstm))


def test_what_is_frozen_stays_frozen() -> None:
    model = Net()
    model.lstm.requires_grad_(False)
    model.encoder.requires_grad_(False)
    optimizer = torch.optim.SGD(model.body.parameters(), 0.1)
    with pytest.warns(UserWarning, match="SGD was made before"):
        report = replace_activations(model, "nah")
    note = ", p frozen like the weights: p.requires_grad_() lets it learn"
    assert [str(entry) for entry in report] == [
        f"encoder.1: Tanh -> NAH(nah){note}",
        "act: Tanh -> NAH(nah)",
        "body.1: Tanh -> NAH(nah)",
        f"lstm: LSTM -> NoisyLSTM(nah){note}",
    ]
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    body = {"body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias"}
    assert learned == {"act.p", "body.1.p"} | body
    assert len(optimizer.param_groups) == 1
    # It stays so when the units change, by a way without p, too.
    for variant in ("nan", "reference", "nah"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            replace_activations(model, variant)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == learned


def test_no_optimiser_lacks_a_p_that_is_not_learned() -> None:
    model = nn.Sequential(nn.LSTM(2, 2)).requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert replace_activations(model, "nah") and len(optimizer.param_groups) == 1


def test_lazy_modules() -> None:
    """Their weights have a dtype and no numbers yet."""
    model = nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.Linear(4, 1))
    assert dtypes(model) == {"1": torch.float32}
    model = nn.Sequential(nn.LazyLinear(4, dtype=torch.float64), nn.Tanh(), nn.LazyLinear(1))
    assert dtypes(model) == {"1": torch.float64}
