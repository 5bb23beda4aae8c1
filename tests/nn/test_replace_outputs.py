"""`replace_activations` leaves outputs alone, whatever is registered after them."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from noisyexp import replace_activations


class Metric(nn.Module):
    """A metric: no parameters, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(1))


class Net(nn.Module):
    """Children by name, registered in that order."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def mlp(inputs: int, outputs: int, last: type[nn.Module], *tail: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs), last(), *tail
    )  # fmt: skip


def replaced(model: nn.Module, **options: Any) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [entry.path for entry in replace_activations(model, "nan", **options)]


@pytest.mark.parametrize(
    "after",
    [
        {"loss": nn.BCELoss()}, {"loss": nn.BCEWithLogitsLoss(pos_weight=torch.ones(1))},
        {"metric": Metric()}, {"drop": nn.Dropout(0.1), "relu": nn.ReLU()},
        {"metrics": nn.ModuleDict({"a": Metric(), "b": Metric()}), "loss": nn.MSELoss()},
    ],
)  # fmt: skip
@pytest.mark.parametrize("flat", [False, True])
def test_what_has_no_parameters_may_come_after_an_output(
    after: dict[str, nn.Module], flat: bool
) -> None:
    if flat:
        children: dict[str, nn.Module] = {"fc": nn.Linear(3, 4), "act": nn.Tanh()}
        children |= {"out": nn.Linear(4, 1), "end": nn.Sigmoid()}
        assert replaced(Net(**children, **after)) == ["act"]
    else:
        model = Net(net=mlp(3, 1, nn.Sigmoid), **after)
        assert replaced(model) == ["net.1"]


def test_a_loss_that_takes_probabilities_goes_on() -> None:
    class D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 1), nn.Sigmoid())
            self.loss = nn.BCELoss()

    model = D()
    with pytest.warns(UserWarning, match=r": net\.1 \(Sigmoid\) left alone; the report"):
        report = replace_activations(model, "nan", c=30.0)
    assert str(report) == (
        "net.1: Sigmoid left alone, the model's output: include_head=True or "
        'include=["*", "net.1"] replaces it'
    )
    for _ in range(30):  # raises outside [0, 1]
        model.loss(model.net(100 * torch.randn(50, 3)), torch.ones(50, 1)).backward()


BRANCHES = {
    "gan": (Net(g=mlp(4, 9, nn.Tanh), d=mlp(9, 1, nn.Sigmoid)), ["g.3", "d.3"]),
    "dict": (nn.ModuleDict({"D": mlp(9, 1, nn.Sigmoid), "G": mlp(4, 9, nn.Tanh)}), ["D.3", "G.3"]),
    "actor": (Net(actor=mlp(4, 2, nn.Tanh), critic=mlp(4, 1, nn.Identity)), ["actor.3"]),
    "dropout": (Net(actor=mlp(4, 2, nn.Tanh, nn.Dropout(0.1)), critic=nn.Linear(4, 1)),
                ["actor.3"]),
    "wrapped": (Net(model=Net(policy_head=mlp(4, 2, nn.Tanh), value_head=mlp(4, 1, nn.Sigmoid)),
                    loss=nn.MSELoss()), ["model.policy_head.3", "model.value_head.3"]),
    "heads": (Net(body=nn.Linear(4, 4), heads=nn.ModuleList([mlp(4, 1, nn.Sigmoid),
                  mlp(4, 1, nn.Tanh)])), ["heads.0.3", "heads.1.3"]),
    "dict of heads": (Net(body=nn.Linear(4, 4), heads=nn.ModuleDict(
        {"a": mlp(4, 4, nn.Sigmoid), "b": mlp(4, 4, nn.Tanh)}), out=nn.Linear(3, 1)),
        ["heads.a.3", "heads.b.3"]),
    "autoencoder": (Net(encoder=mlp(9, 2, nn.Tanh), decoder=mlp(2, 9, nn.Sigmoid)),
                    ["encoder.3", "decoder.3"]),
    "last of all": (Net(fc=nn.Linear(3, 1), sigmoid=nn.Sigmoid(), tanh=nn.Tanh()),
                    ["sigmoid", "tanh"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BRANCHES)
def test_every_branch_has_its_output(name: str) -> None:
    model, expected = BRANCHES[name]
    with pytest.warns(UserWarning, match="left alone"):
        report = replace_activations(model, "nan")
    assert [entry.path for entry in report.skipped] == expected


INNER = {
    "stack": Net(fc1=nn.Linear(3, 4), act1=nn.Tanh(), fc2=nn.Linear(4, 4), act2=nn.Sigmoid(),
                 out=nn.Linear(4, 1)),
    "one layer": Net(features=mlp(4, 8, nn.Tanh), out=nn.Linear(8, 2)),
    "recurrent": Net(front=mlp(4, 6, nn.Tanh, nn.Dropout(0.1)), lstm=nn.LSTM(6, 5),
                     out=nn.Linear(5, 1)),
    "blocks": Net(blocks=nn.ModuleList([mlp(8, 8, nn.Tanh), mlp(8, 8, nn.Tanh)]),
                  out=nn.Linear(8, 1)),
    "sequential": nn.Sequential(mlp(3, 4, nn.Tanh), mlp(5, 4, nn.Tanh), nn.Linear(9, 1)),
    "gate first": Net(cell=nn.ModuleDict({"gate": nn.Sigmoid(), "fc": nn.Linear(3, 4)})),
}  # fmt: skip


@pytest.mark.parametrize("name", INNER)
def test_inner_units_are_replaced(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not replace_activations(INNER[name], "nan").skipped


def test_a_spared_unit_says_how_to_replace_it() -> None:
    def model() -> nn.Module:
        return Net(encoder=mlp(9, 2, nn.Tanh), decoder=mlp(2, 9, nn.Sigmoid))

    with pytest.warns(UserWarning, match=r"encoder\.3 \(Tanh\), decoder\.3 \(Sigmoid\) left alone"):
        report = replace_activations(model(), "nan")
    assert str(report).splitlines()[2:] == [
        "encoder.3: Tanh left alone, it ends encoder and may be an output: include_head=True or "
        'include=["*", "encoder.3"] replaces it',
        "decoder.3: Sigmoid left alone, the model's output: include_head=True or "
        'include=["*", "decoder.3"] replaces it',
    ]
    every = ["encoder.1", "encoder.3", "decoder.1", "decoder.3"]
    assert replaced(model(), include=["*", "encoder.3"]) == every[:3]
    assert replaced(model(), include_head=True) == every


def test_in_a_sequential_the_last_unit_alone_is_the_output() -> None:
    model = nn.Sequential(nn.Linear(3, 1), nn.Tanh(), nn.Sigmoid(), nn.Dropout(0.1))
    assert replaced(model) == ["1"]


def test_p_of_a_unit_is_no_layer() -> None:
    """A noisy unit has a parameter; an output before it is one on a second call, too."""
    model = Net(fc=nn.Linear(3, 1), end=nn.Sigmoid(), other=nn.Tanh())
    assert replaced(model, include=["other"]) == ["other"]
    assert replaced(model, alpha=1.1) == []


class TestShared:
    @staticmethod
    def model() -> nn.Sequential:
        tanh = nn.Tanh()
        return nn.Sequential(nn.Linear(2, 2), tanh, nn.Linear(2, 2), tanh)

    def test_spared_as_a_whole(self) -> None:
        model = self.model()
        with pytest.warns(UserWarning, match=r"1 \(Tanh\), 3 \(Tanh\) left alone"):
            report = replace_activations(model, "nah")
        assert model[1] is model[3] and type(model[1]) is nn.Tanh
        how = 'the model\'s output: include_head=True or include=["*", "3"] replaces it'
        assert str(report) == (
            f"1: Tanh left alone, it is 3, too, {how}\n3: Tanh left alone, {how}"
        )

    @pytest.mark.parametrize(
        ("options", "both"),
        [
            ({"include": "3"}, True),
            ({"include": "1"}, False),
            ({"include": "1", "include_head": True}, True),
            ({"exclude": "1", "include_head": True}, False),
        ],
    )
    def test_a_selection_takes_both_or_none(self, options: dict[str, Any], both: bool) -> None:
        model = self.model()
        assert replaced(model, **options) == (["1", "3"] if both else [])
        assert model[1] is model[3]

    def test_layers(self) -> None:
        lstm = nn.LSTM(2, 2)
        model = Net(a=lstm, b=lstm)
        assert replaced(model, include="b") == ["a", "b"]
        assert model.a is model.b

    def test_it_ends_a_branch(self) -> None:
        tanh = nn.Tanh()
        actor = nn.Sequential(nn.Linear(4, 8), tanh, nn.Linear(8, 2), tanh)
        with pytest.warns(UserWarning, match="left alone"):
            report = replace_activations(Net(actor=actor, critic=mlp(4, 1, nn.Identity)), "nan")
        assert str(report.skipped[0]) == (
            "actor.1: Tanh left alone, it is actor.3, too, and ends actor and may be an output: "
            'include_head=True or include=["*", "actor.3"] replaces it'
        )


class Drops(nn.Linear):
    """A layer with a child that has no weights."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.drop = nn.Dropout(0.1)


class Own(nn.Module):
    """A layer of somebody's own, of no width that its attributes tell."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(8, 1))
        self.drop = nn.Dropout(0.1)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(8, 1), weight_norm(nn.Linear(8, 1)), spectral_norm(nn.Linear(8, 1)), Drops(8, 1),
        Own(), nn.utils.weight_norm(nn.Linear(8, 1)), nn.LSTM(8, 8, proj_size=1),
    ],
    ids=["linear", "weight", "spectral", "child", "own", "old weight", "projected"],
)  # fmt: skip
def test_a_branch_is_as_wide_as_its_last_layer(layer: nn.Module) -> None:
    """Whatever that is made of: here it yields 1 where 8 come next, and so may end in an output."""
    mask = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), layer, nn.Sigmoid())
    assert replaced(Net(mask=mask, out=nn.Linear(8, 2))) == ["mask.1"]


@pytest.mark.parametrize(
    "layer", [spectral_norm(nn.Linear(8, 1)), Drops(8, 1)], ids=["norm", "own"]
)
def test_what_a_branch_feeds_may_be_one_layer_of_several_parts(layer: nn.Module) -> None:
    model = Net(features=nn.Sequential(nn.Linear(4, 8), nn.Tanh()), score=layer)
    assert replaced(model) == ["features.1"]


def test_any_name_of_a_shared_block_selects_what_is_in_it() -> None:
    for options in ({"include": "dec"}, {"include": "enc"}, {"include": "dec.1"}, {}):
        block = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        model = Net(enc=block, dec=block, out=nn.Linear(4, 1))
        assert replaced(model, **options) == ["enc.1", "dec.1"]
        assert type(block[1]).__name__ == "NAN"
    block = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    assert replaced(Net(enc=block, dec=block, out=nn.Linear(4, 1)), exclude="dec") == []
