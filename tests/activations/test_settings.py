"""Settings that cannot be, p that has died, inputs that are none, units without units."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from noisyexp import NoisyGRUCell, NoisyLSTM, NoisyLSTMCell, make_activation, set_noise_level
from noisyexp.activations import NoiseSource, attach_noise, reset_noise_parameters
from noisyexp.activations.base import Activation
from noisyexp.activations.settings import pack
from noisyexp.activations.variants import NAH
from noisyexp.pictures.unit_equations import describe as described


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"alpha": math.inf}, ValueError, "alpha must be finite, not inf"),
        ({"alpha": -math.inf}, ValueError, "alpha must be finite, not -inf"),
        ({"alpha": math.nan}, ValueError, "alpha must be finite, not nan"),
        ({"alpha": "1.0"}, TypeError, "alpha must be a number, not '1.0'"),
        ({"alpha": True}, TypeError, "alpha must be a number, not True"),
        ({"c": math.inf}, ValueError, "c must be finite, not inf"),
        ({"c": 1e39}, ValueError, r"c must be finite, not 1e\+39"),
        ({"c": math.nan}, ValueError, "c must be at least 0, not nan"),
        ({"c": "0.5"}, TypeError, "c must be a number, not '0.5'"),
        ({"clip_output": "yes"}, TypeError, "clip_output must be True or False, not 'yes'"),
        ({"clip_output": 1}, TypeError, "clip_output must be True or False, not 1"),
        ({"code_compat": None}, TypeError, "code_compat must be True or False, not None"),
        ({"p_shape": None}, ValueError, "p_shape None is unknown; choose unit or scalar"),
    ],
)
def test_wrong_settings_are_refused_by_name(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    for make in (lambda: make_activation("tanh", "nah", 3, **settings),
                 lambda: NoisyLSTM(2, 3, **settings)):  # fmt: skip
        with pytest.raises(error, match=message):
            make()
    if "c" in settings:
        with pytest.raises(error, match=message):
            set_noise_level(make_activation("tanh", "nah", 3), settings["c"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("c", -1.0, "c must be at least 0, not -1.0"),
        ("c", True, "c must be a number, not True"),
        ("c", math.nan, "c must be at least 0, not nan"),
        ("c", math.inf, "c must be finite, not inf"),
        ("c", "a", "c must be a number, not 'a'"),
        ("c", None, "c must be a number, not None"),
        ("alpha", math.inf, "alpha must be finite, not inf"),
        ("alpha", "a", "alpha must be a number, not 'a'"),
        ("clip_output", 1, "clip_output must be True or False, not 1"),
        ("code_compat", "no", "code_compat must be True or False, not 'no'"),
        ("slope", math.nan, "slope must be finite, not nan"),
        ("slope", object, "slope must be a number, True, False or a text, not <class 'object'>"),
    ],
)
def test_an_assigned_setting_is_checked_as_the_constructor_does(
    name: str, value: Any, message: str
) -> None:
    unit = Sloped("tanh", 3, c=0.25)
    before = unit.settings()
    with pytest.raises((TypeError, ValueError)) as caught:
        setattr(unit, name, value)
    assert str(caught.value) == message
    assert unit.settings() == before
    numbers = unit.alpha_and_c
    assert numbers is not None and numbers.tolist() == [1.0, 0.25]


class Sloped(NAH):
    setting_names = (*NAH.setting_names, "slope")

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.slope = 0.5


def test_numbers_of_other_kinds_become_floats() -> None:
    unit = Sloped("tanh", 3)
    unit.c, unit.alpha, unit.slope = 5, np.float32(1.5), np.float32(0.25)  # type: ignore[assignment]
    assert [type(value) for value in (unit.c, unit.alpha, unit.slope)] == [float] * 3
    assert unit.alpha_and_c is not None and unit.alpha_and_c.tolist() == [1.5, 5.0]
    other = Sloped("tanh", 3)
    other.load_state_dict(unit.state_dict())
    assert other.settings() == unit.settings()


def test_a_variant_s_own_limit_holds_at_assignment() -> None:
    for make in (
        lambda: make_activation("tanh", "penalized_tanh", 3, clip_output=True),
        lambda: setattr(make_activation("tanh", "penalized_tanh", 3), "clip_output", True),
    ):
        with pytest.raises(ValueError, match="clip_output: penalized_tanh is negative where"):
            make()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"c": -1.0}, "c must be at least 0, not -1.0"),
        ({"c": "0.5"}, "c must be a number, not '0.5'"),
        ({"code_compat": 3}, "code_compat must be True or False, not 3"),
    ],
)
def test_a_damaged_state_leaves_the_unit_as_it_was(damage: dict[str, Any], message: str) -> None:
    model = nn.Sequential(make_activation("tanh", "nah", 3, c=0.25))
    unit: Any = model[0]
    p, settings = unit.p.detach().clone(), unit.settings()
    state = make_activation("tanh", "nah", 3, alpha=1.25).state_dict(prefix="0.")
    state["0._extra_state"] = pack({**settings, "alpha": 1.25, **damage})
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict(state)
    assert f"0: the state dict has settings that cannot be: {message}." in str(caught.value)
    assert unit.settings() == settings and torch.equal(unit.p, p)


@pytest.mark.parametrize("name", ["c", "alpha"])
def test_a_learned_setting_is_shown_set_and_trained(name: str) -> None:
    unit = make_activation("tanh", "nah", 4)
    setattr(unit, name, nn.Parameter(torch.tensor(0.5)))
    assert f", {name}=0.5" in repr(nn.Sequential(unit)) and f"{name} = 0.5" in described(unit)
    with pytest.raises(TypeError) as caught:
        setattr(unit, name, 2)
    assert str(caught.value) == (
        f"{name} of this unit is a parameter or a buffer: set its number by "
        f"unit.{name}.data.fill_(2.0), or `del unit.{name}` first"
    )
    set_noise_level(unit, 0.75)
    assert float(torch.as_tensor(unit.c).detach()) == 0.75
    unit(torch.full((2, 4), 3.0)).sum().backward()
    assert getattr(unit, name).grad is not None
    setattr(unit, name, nn.Parameter(torch.rand(4)))
    assert f", {name}=4 numbers" in repr(unit)
    with torch.device("meta"):
        setattr(unit, name, nn.Parameter(torch.tensor(0.5)))
    assert f", {name}=1 numbers" in repr(unit)


def test_what_is_registered_as_c_is_not_taken_for_a_number() -> None:
    """The kernels know no gradient of c."""
    unit = make_activation("tanh", "nah", 4)
    del unit.c
    unit.register_parameter("c", nn.Parameter(torch.tensor(0.5)))
    unit(torch.full((2, 4), 3.0)).sum().backward()
    assert unit.c.grad is not None  # type: ignore[attr-defined]


@pytest.mark.parametrize("num_units", ["3", 3.0, True, None])
def test_num_units_is_a_whole_number(num_units: Any) -> None:
    with pytest.raises(TypeError, match=f"num_units must be a whole number, not {num_units!r}"):
        make_activation("tanh", "nah", num_units)


@pytest.fixture
def unwarned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Activation, "_warned", False)
    yield


def dead(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.zeros_(parameter)
    return model


@pytest.mark.usefixtures("unwarned")
@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("kind", ["layer", "cell", "unit"])
def test_p_of_zero_is_said_once_at_the_first_training_call(kind: str, backend: str) -> None:
    x = 5 * torch.randn(4, 2, 3)
    model: Any = {"layer": NoisyLSTM(3, 3), "cell": NoisyLSTMCell(3, 3),
                  "unit": make_activation("tanh", "nah", 3)}[kind]  # fmt: skip
    x = x[0] if kind == "cell" else x
    model.backend = backend
    attach_noise(nn.ModuleDict({"own": model}), NoiseSource(0))
    dead(model)
    path = {"layer": r"own\.units\.l0\.i", "cell": r"own\.units\.i", "unit": "own"}[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.eval()(x)
    with pytest.warns(UserWarning, match=rf"p of {path} is 0: .*reset_noise_param") as caught:
        model.train()(x)
    assert len(caught) == 1  # for all units of the layer
    reset_noise_parameters(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(x)
    dead(model)
    with pytest.warns(UserWarning, match=rf"p of {path} is 0"):  # after the cure, once more
        reset_noise_parameters(model)
        dead(model)
        model(x)


@pytest.mark.usefixtures("unwarned")
def test_p_of_zero_is_no_matter_where_it_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen; in the code's NANIL, whose noise does not need it; one of several; or unreadable."""
    frozen = dead(make_activation("tanh", "nah", 3))
    frozen.p.requires_grad_(False)
    several = make_activation("tanh", "nah", 3)
    several.p.data[:2] = 0  # type: ignore[union-attr]
    code: Any = dead(make_activation("tanh", "nanil", 3, code_compat=True))
    x = 5 * torch.randn(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="noisy units run without their compiled kernels")
        for unit in (frozen, several, code):
            unit(x)
        with torch.device("meta"):
            meta = make_activation("tanh", "nah", 3)
        meta.backend = "eager"
        meta(x.to("meta"), x.to("meta"))
        unit: Any = dead(make_activation("tanh", "nah", 3))
        torch.compile(unit, backend="eager")(x, x)
        p = torch.zeros(4, 3)
        torch.vmap(lambda p: torch.func.functional_call(unit, {"p": p}, (x, x)))(p)
    code(torch.full((2, 3), 1.1), -torch.ones(2, 3)).sum().backward()
    assert code.p.grad.abs().sum() > 0
    with pytest.warns(UserWarning, match="is 0"):  # those looks did not count
        unit(x)


def test_integers_are_one_clear_error() -> None:
    x = torch.ones(2, 4, 3, dtype=torch.int64)
    for backend in ("auto", "eager"):
        unit, layer, cell = make_activation("tanh", "nah", 3), NoisyLSTM(3, 4), NoisyGRUCell(3, 4)
        unit.backend = layer.backend = cell.backend = backend
        with pytest.raises(TypeError, match=r"x must be floating, not torch\.int64; use x\.float"):
            unit(x)
        for module, given in ((layer, x), (cell, x[0])):
            message = r"input of dtype torch\.int64: expected .*torch\.float32; use input\.to"
            with pytest.raises(ValueError, match=message):
                module(given)


@pytest.mark.parametrize("cell", ["LSTMCell", "GRUCell"])
@pytest.mark.parametrize("sizes", [(3, 0), (0, 4), (0, 0)])
def test_no_units_and_no_inputs_are_as_in_torch(cell: str, sizes: tuple[int, int]) -> None:
    ours: Any = {"LSTMCell": NoisyLSTMCell, "GRUCell": NoisyGRUCell}[cell]
    for variant in ("nah", "nan"):
        for backend in ("auto", "eager"):
            noisy, plain = ours(*sizes, variant=variant), getattr(nn, cell)(*sizes)
            noisy.backend = backend
            noisy.load_state_dict(plain.state_dict())
            for rows in (2, 0):
                x = torch.zeros(rows, sizes[0])
                found, expected = noisy(x), plain(x)
                found = found if isinstance(found, tuple) else (found,)
                expected = expected if isinstance(expected, tuple) else (expected,)
                assert [part.shape for part in found] == [part.shape for part in expected]
                sum(part.sum() for part in found).backward()


@pytest.mark.parametrize("variant", ["hard", "nah", "nani", "nanil"])
def test_a_unit_of_no_units(variant: str) -> None:
    unit = make_activation("tanh", variant, 0)
    assert unit(torch.zeros(3, 0)).shape == (3, 0)
    assert unit.eval()(torch.zeros(0, 0)).shape == (0, 0)


def test_layers_without_steps_or_units_refuse_as_torch_s() -> None:
    for layer in (nn.LSTM, NoisyLSTM):
        for sizes in ((3, 0), (0, 3)):
            with pytest.raises(ValueError, match="must be greater than zero"):
                layer(*sizes)
        for batch_first, shape in ((False, (0, 2, 3)), (True, (2, 0, 3)), (True, (0, 3))):
            with pytest.raises(RuntimeError, match=r"larger than 0|at least 1"):
                layer(3, 4, batch_first=batch_first)(torch.zeros(shape))
    assert NoisyLSTM(3, 4)(torch.zeros(2, 0, 3))[0].shape == (2, 0, 4)


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("variant", ["nah", "nan", "nanil", "hard"])
def test_an_input_without_dimensions(variant: str, backend: str) -> None:
    """As torch.nn.Tanh takes it; p has a dimension."""
    unit = make_activation("tanh", variant, 1, p_shape="scalar", c=3.0)
    unit.backend = backend
    x = torch.tensor(2.5, requires_grad=True)
    torch.manual_seed(0)
    value = unit(x)
    torch.manual_seed(0)
    assert value.shape == () and torch.equal(value, unit(x.detach()[None])[0])
    value.backward()
    assert x.grad is not None and x.grad.shape == ()
