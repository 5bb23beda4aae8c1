"""`replace_activations`: what it leaves alone, what goes along, what a second call does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from noisyexp import NoisyGRU, NoisyLSTM, add_noise_parameters, replace_activations
from noisyexp.activations import NoiseSource, activations, attach_noise, noise_parameters


class Own(nn.LSTM):
    pass


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
        self.lstm = nn.LSTM(6, 5)
        self.deep = nn.ModuleDict({"gate": nn.Sigmoid(), "cell": nn.GRUCell(5, 5)})
        self.out = nn.Linear(5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.lstm(self.front(x))[0][-1]
        out: torch.Tensor = self.out(self.deep["cell"](h, self.deep["gate"](h)))
        return out


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (None, None, ["front.1", "lstm", "deep.gate", "deep.cell"]),
        ("deep", None, ["deep.gate", "deep.cell"]),
        (nn.RNNBase, None, ["lstm"]),
        (["lstm", "*.gate"], None, ["lstm", "deep.gate"]),
        (None, (nn.Tanh, "deep.c*"), ["lstm", "deep.gate"]),
        ("deep", nn.Sigmoid, ["deep.cell"]),
        (lambda path, module: path.startswith("d") and isinstance(module, nn.Sigmoid), None,
         ["deep.gate"]),
    ],
)  # fmt: skip
def test_include_and_exclude(include: Any, exclude: Any, expected: list[str]) -> None:
    model = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what was asked for is no surprise
        report = replace_activations(model, "nah", include=include, exclude=exclude)
    assert [entry.path for entry in report] == expected
    every = {"front.1", "lstm", "deep.gate", "deep.cell"}
    assert {entry.path for entry in report.skipped} == every - set(expected)
    noisy = {"front.1", "lstm", "deep.gate", "deep.cell"} & {
        path.split(".units")[0] for path in attach_noise(model, None)
    }
    assert noisy == set(expected)


def discriminator(*tail: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1), nn.Sigmoid(), *tail)


@pytest.mark.parametrize("tail", [(), (nn.Flatten(0),), (nn.Identity(), nn.Flatten(0))])
def test_the_output_stays_a_probability(tail: tuple[nn.Module, ...]) -> None:
    model = discriminator(*tail)
    with pytest.warns(UserWarning, match=r": 3 \(Sigmoid\) left alone; the report"):
        report = replace_activations(model, "nan", c=30.0)
    assert "3: Sigmoid left alone, the model's output: include_head=True" in str(report)
    assert [entry.path for entry in report] == ["1"] and type(model[3]) is nn.Sigmoid
    probability = model(100 * torch.randn(500, 3)).flatten()
    nn.functional.binary_cross_entropy(probability, torch.ones(500))  # raises outside [0, 1]
    for options in ({"include_head": True}, {"include": "3"}):
        model = discriminator(*tail)
        assert "3" in [entry.path for entry in replace_activations(model, "nan", **options)]
    # A block that ends in Tanh is no output when something comes after it.
    assert len(replace_activations(nn.Sequential(nn.Tanh(), nn.Dropout(0.1)), "nah")) == 1


def test_what_cannot_be_replaced_is_named_with_the_reason() -> None:
    model = nn.ModuleDict(
        {
            "own": Own(2, 2),
            "normed": weight_norm(nn.LSTM(2, 2), "weight_hh_l0"),
            "old": torch.nn.utils.weight_norm(nn.GRU(2, 2), "weight_hh_l0"),
            "projected": nn.LSTM(4, 4, proj_size=2),
            "tanh": nn.Tanh(),
            "relu": nn.ReLU(),
            "rnn": nn.RNN(2, 2),
        }
    )
    before = {name: type(module) for name, module in model.items()}
    with pytest.warns(UserWarning) as caught:
        report = replace_activations(model, "nah")
    assert [entry.path for entry in report] == ["tanh"]
    reasons = {entry.path: entry.reason for entry in report.skipped}
    assert {k: v[:24] for k, v in reasons.items()} == {
        "own": "a subclass of torch.nn.L",
        "normed": "it is parametrised: torc",
        "old": "weight_hh_l0_g, weight_h",
        "projected": "proj_size has no noisy f",
        "rnn": "it has no noisy form",
    }
    (warning,) = (str(one.message) for one in caught)
    assert warning == (
        "replace_activations: own (Own), normed (ParametrizedLSTM), old (GRU) and 2 more left "
        "alone; the report that it returns says why"
    )
    # What the report says in full the warning does not say again, and nothing is said for nobody:
    # no optimiser was made before.
    shown = str(report)
    assert all(f"{path}: " in shown and r not in warning for path, r in reasons.items())
    assert "tanh: Tanh -> NAH(nah)" in shown and len(shown.splitlines()) == 6
    assert all(type(model[name]) is kind for name, kind in before.items() if name != "tanh")


@pytest.mark.parametrize("error", ["making", "placing"])
def test_all_or_nothing(error: str) -> None:
    class Stubborn(nn.Module):
        ready = False

        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Tanh()
            self.ready = True

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "last" and self.ready:
                raise RuntimeError("no")
            super().__setattr__(name, value)

    model = nn.ModuleDict({"net": Net(), "end": Stubborn() if error == "placing" else Net()})
    modules, weights = list(model.modules()), {k: id(v) for k, v in model.named_parameters()}

    def refuse(kind: str, num_units: int, **extra: Any) -> Any:
        raise RuntimeError("no")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="no"):
        if error == "making":  # after lone units, in the last layer
            patch.setattr("noisyexp.nn.replace_choice.NoisyGRUCell._make_units", refuse)
        replace_activations(model, "nah", include_head=True)
    assert list(model.modules()) == modules
    assert {k: id(v) for k, v in model.named_parameters()} == weights


def test_hooks_go_along_and_their_handles_too() -> None:
    model, calls = Net(), []

    def said(name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: calls.append(name)

    handles = []
    for module in (model.front[1], model.lstm):
        handles += [
            module.register_forward_hook(said("forward")),
            module.register_forward_pre_hook(said("pre"), with_kwargs=True),
            module.register_full_backward_hook(said("backward")),
            module.register_state_dict_post_hook(said("save")),
            module.register_load_state_dict_pre_hook(
                lambda module, *args: calls.append(type(module).__name__)
            ),
            module.register_load_state_dict_post_hook(said("load")),
        ]
    replace_activations(model, "nah")
    model(torch.randn(3, 2, 4)).sum().backward()
    assert sorted(calls) == ["backward"] * 2 + ["forward"] * 2 + ["pre"] * 2
    calls.clear()
    model.load_state_dict(model.state_dict())
    assert sorted(calls) == ["NAH", "NoisyLSTM", *["load"] * 2, *["save"] * 2]
    calls.clear()
    for handle in handles:
        handle.remove()
    model(torch.randn(3, 2, 4)).sum().backward()
    model.load_state_dict(model.state_dict())
    assert calls == []


def test_a_second_call_changes_the_variant_and_keeps_weights_and_p() -> None:
    model = Net()
    replace_activations(model, "nah", c=0.3)
    source = NoiseSource(5)
    paths = attach_noise(model, source)
    before = dict(model.named_parameters())
    seen: list[Any] = []
    unit: Any = model.lstm.units["l0"]["g"]
    unit.register_forward_hook(lambda *args: seen.append(1))
    assert replace_activations(model, "nah", c=0.3) == []  # nothing to do
    assert {entry.reason for entry in replace_activations(model, "nah", c=0.3).skipped} == {
        "it is so already"
    }
    report = replace_activations(model, "nan", alpha=1.15, c=2.0)
    assert [str(entry) for entry in report] == [
        "front.1: NAH(nah) -> NAN(nan)", "lstm: NoisyLSTM(nah) -> NoisyLSTM(nan)",
        "deep.gate: NAH(nah) -> NAN(nan)", "deep.cell: NoisyGRUCell(nah) -> NoisyGRUCell(nan)",
    ]  # fmt: skip
    after = dict(model.named_parameters())
    assert list(after) == list(before) and all(after[k] is before[k] for k in after)
    units = list(activations(model))
    assert {(u.variant, u.alpha, u.c) for u in units} == {("nan", 1.15, 2.0)}
    assert [u.path for u in units] == paths and all(u.noise_source is source for u in units)
    model(torch.randn(3, 2, 4)).sum().backward()
    assert len(seen) == 3  # the hook of the unit: once a step
    # Without p and back: other units have none, and later ones a new one.
    replace_activations(model, "reference")
    assert noise_parameters(model) == [] and isinstance(model.lstm, NoisyLSTM)
    plain = nn.LSTM(6, 5)
    plain.load_state_dict(model.lstm.state_dict())
    x = torch.randn(3, 2, 6)
    assert torch.equal(model.lstm(x)[0], plain(x)[0])
    replace_activations(model, "nah")
    assert len(noise_parameters(model)) == len(paths)


def test_a_change_of_settings_alone_reaches_noisy_layers() -> None:
    model = nn.ModuleDict({"gru": NoisyGRU(2, 3, p_shape="scalar"), "end": nn.Linear(3, 1)})
    p = [*noise_parameters(model)]
    assert len(replace_activations(model, "nah", clip_output=True)) == 1
    assert all(u.clip_output and u.p_shape == "scalar" for u in activations(model))
    assert all(a is b for a, b in zip(noise_parameters(model), p, strict=True))


@pytest.mark.parametrize("named", [False, True])
def test_an_optimiser_made_before_is_told_and_gets_p(named: bool) -> None:
    model = Net()
    given: Any = model.named_parameters() if named else model.parameters()
    optimizer = torch.optim.AdamW(given, 0.05, weight_decay=0.3, betas=(0.8, 0.9))
    other = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    optimizer.param_groups[0]["lr"] = 0.02
    with pytest.warns(
        UserWarning, match=r"AdamW was made before and lacks the new p: noisyexp\.ad"
    ):
        replace_activations(model, "nah", c=3.0)
    p = noise_parameters(model)
    added = add_noise_parameters(optimizer, model)
    assert [id(one) for one in added] == [id(one) for one in p]
    assert add_noise_parameters(optimizer, model) == []
    first, second = optimizer.param_groups
    assert (second["weight_decay"], second["lr"], second["betas"]) == (0.0, 0.02, (0.8, 0.9))
    assert first["weight_decay"] == 0.3 and len(other.param_groups) == 1
    before = [one.detach().clone() for one in p]
    for one in p:
        one.grad = torch.ones_like(one)
    optimizer.step()
    for old, now in zip(before, p, strict=True):  # Adam's first step is the rate; no decay
        torch.testing.assert_close(now.detach(), old - 0.02)
    with pytest.raises(ValueError, match="LBFGS has one group"):
        add_noise_parameters(torch.optim.LBFGS(model.out.parameters()), model)
    decaying = torch.optim.AdamW(model.parameters(), weight_decay=0.3)
    with pytest.warns(UserWarning, match=rf"weight decay pulls {len(p)} p of the noise towards 0"):
        assert add_noise_parameters(decaying, model) == []
