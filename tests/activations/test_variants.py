"""Variants: their names, defaults and errors; a new one; settings by kind of unit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from noisyexp.activations import (
    Activation,
    ActivationSpec,
    find_variant,
    make_activation,
    noise_parameters,
    variants,
)
from tests.activations.units import ALL, NOISY, WITH_P


def test_noise_parameters_are_the_p_and_nothing_else() -> None:
    model = nn.Sequential(nn.Linear(2, 4), *(make_activation("tanh", v, 4) for v in ALL))
    found = noise_parameters(model)
    assert [p.shape for p in found] == [(4,)] * len(WITH_P)
    names = {id(p): name for name, p in model.named_parameters()}
    assert [names[id(p)].rpartition(".")[2] for p in found] == ["p"] * len(WITH_P)
    assert noise_parameters(nn.Linear(2, 4)) == []


def test_variants_and_defaults() -> None:
    assert set(ALL) <= set(variants())
    defaults = {v: make_activation("tanh", v, 1).c for v in NOISY}
    assert defaults == {"nan": 0.5, "nah": 0.5, "nanil": 0.5, "nani": 0.05, "nanis": 0.25}
    unit = make_activation("tanh", "nah", 1)
    assert unit.alpha == 1.0 and not unit.clip_output and not unit.code_compat


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        (("relu", "nah", 3), {}, ValueError, r"kind 'relu' is unknown; choose from tanh, sigmoid"),
        (("tanh", "nanill", 3), {}, ValueError, r"'nanill' is unknown; .*did you mean nanil\?"),
        (("tanh", "zzz", 3), {}, ValueError, r"choose from reference, hard, nan(?!.*did you)"),
        (("tanh", "nah", 3), {"c": -0.1}, ValueError, r"c must be at least 0, not -0.1"),
        (("tanh", "nah", 3), {"c": math.nan}, ValueError, r"c must be at least 0, not nan"),
        (("tanh", "nah", -1), {}, ValueError, r"num_units must be at least 0, not -1"),
        (("tanh", "nah", 3), {"p_shape": "layer"}, ValueError, r"choose unit or scalar"),
        (("tanh", "nah", 3), {"beta": 1.0}, TypeError, r"beta"),
        (("tanh", "nowhere.at.all.Unit", 3), {}, ValueError, r"cannot be imported"),
        (("tanh", "torch.nn.NoSuchUnit", 3), {}, ValueError, r"cannot be imported"),
        (("tanh", "torch.nn.Linear", 3), {}, ValueError, r"not a subclass of .*Activation"),
    ],
)
def test_errors(
    arguments: tuple[str, str, int], settings: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        make_activation(*arguments, **settings)


CUSTOM = """
from noisyexp.activations import Activation

class Shift(Activation):
    variant = "shift_by_c"

    def noisy(self, x, xi):
        return x + self.c

    def expected(self, x):
        return x - self.c
"""


def test_a_new_variant_is_one_subclass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Activation, "_known", dict(Activation._known))
    (tmp_path / "own_units.py").write_text(CUSTOM, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="unknown"):
        find_variant("shift_by_c")
    x = torch.zeros(2, 3)
    by_path = make_activation("tanh", "own_units.Shift", 3, c=2.0)  # imports, and registers
    by_name = make_activation("tanh", "shift_by_c", 3, c=2.0)
    assert type(by_path) is type(by_name) and "shift_by_c" in variants()
    assert torch.equal(by_path(x), x + 2) and torch.equal(by_name.eval()(x), x - 2)


def test_spec_has_settings_for_each_kind() -> None:
    spec = ActivationSpec(
        "nan", {"c": 0.4, "alpha": 1.0}, tanh={"alpha": 1.15}, sigmoid={"alpha": 1.1, "c": 0.15}
    )
    tanh, sigmoid = spec("tanh", 2), spec("sigmoid", 3, clip_output=True)
    assert (tanh.variant, tanh.num_units, tanh.alpha, tanh.c) == ("nan", 2, 1.15, 0.4)
    assert (sigmoid.num_units, sigmoid.alpha, sigmoid.c) == (3, 1.1, 0.15)
    assert sigmoid.clip_output and not tanh.clip_output
