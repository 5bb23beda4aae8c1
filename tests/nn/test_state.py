"""State dicts carry the settings of units: whatever saves or loads them, the model is the same."""

from __future__ import annotations

import copy
import io
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from noisyexp import NoisyGRUCell, NoisyLSTM, make_activation, replace_activations, set_noise_level
from noisyexp.activations import Activation, NoiseSource, activations, attach_noise
from noisyexp.activations.settings import pack, unpack

X = 5 * torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Lone units, a layer and a cell."""

    def __init__(self, c: float = 30.0, variant: str = "nah", **settings: Any) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
        self.lstm = NoisyLSTM(4, 5, variant=variant, c=c, **settings)
        self.cell = NoisyGRUCell(5, 5, variant=variant, c=c, **settings)
        self.out = nn.Linear(5, 1)
        replace_activations(self, variant, c=c, **settings, include="front")

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.out(self.cell(self.lstm(self.front(x))[0][-1]))
        return value


def annealed() -> Net:
    model = Net()
    set_noise_level(model, 0.7)
    return model.eval()


def levels(model: nn.Module) -> set[float]:
    return {unit.c for unit in activations(model)}


def by_file(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = Net()
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    return other


def by_safetensors(model: nn.Module) -> nn.Module:
    safetensors: Any = pytest.importorskip("safetensors.torch")
    other = Net()
    other.load_state_dict(safetensors.load(safetensors.save(model.state_dict())))
    return other


def by_compiled(model: nn.Module) -> nn.Module:
    other = Net()
    state = torch.compile(model, backend="eager").state_dict()
    torch.compile(other, backend="eager").load_state_dict(state)
    return other


def by_average(model: nn.Module) -> nn.Module:
    other = AveragedModel(Net())
    other.load_state_dict(AveragedModel(model).state_dict())
    return other


def by_meta(model: nn.Module) -> nn.Module:
    with torch.device("meta"):
        other = Net()
        state = {**model.state_dict()}  # settings are on the CPU, in this context, too
    other.load_state_dict(state, assign=True)
    return other


def by_loose_assignment(model: nn.Module) -> nn.Module:
    other = Net()
    other.load_state_dict(model.state_dict(), strict=False, assign=True)
    return other


WAYS = [by_file, by_safetensors, by_compiled, by_average, by_meta, by_loose_assignment,
        copy.deepcopy]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_after_annealing_a_loaded_model_is_the_saved_one(way: Callable[..., nn.Module]) -> None:
    torch.manual_seed(1)
    model = annealed()
    with torch.no_grad():
        expected = model(X)
        assert float((Net().eval()(X) - expected).abs().max()) > 0.01  # c matters
        other = way(model).eval()
        assert torch.equal(other(X), expected) and levels(other) == {0.7}


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")
def test_fsdp_and_distributed_checkpoints(process_group: None, tmp_path: Path) -> None:
    """FSDP2 refuses parameters of shape (); a checkpoint fills tensors of the same shapes."""
    fsdp: Any = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("no FSDP2")
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh

    model = Net()
    set_noise_level(model, 0.123456789)
    expected = model.eval()(X)
    for part in (model.lstm, model):
        fsdp.fully_shard(part, mesh=init_device_mesh("cpu", (1,)))
    model.train()(X).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    dcp.save(get_model_state_dict(model), checkpoint_id=tmp_path)
    other = Net()
    state = get_model_state_dict(other)
    dcp.load(state, checkpoint_id=tmp_path)
    set_model_state_dict(other, state)
    assert torch.equal(other.eval()(X), expected) and levels(other) == {0.123456789}


def test_functional_call_takes_a_state_dict() -> None:
    model, other = annealed(), annealed()
    assert torch.equal(torch.func.functional_call(other, model.state_dict(), (X,)), model(X))
    assert not any("_extra_state" in vars(unit) for unit in activations(other))


def test_settings_survive_another_dtype_and_a_mean() -> None:
    """What is done to a whole state dict is done to c; names stay what they are."""
    model, other = annealed(), annealed()
    for dtype, error in ((torch.bfloat16, 4e-3), (torch.float16, 5e-4)):
        other.load_state_dict({k: v.to(dtype) for k, v in model.state_dict().items()})
        (c,) = levels(other)
        assert c == pytest.approx(0.7, rel=error) and c != 0.7
    set_noise_level(other, 1.4)
    state = {k: (v + other.state_dict()[k]) / 2 for k, v in model.state_dict().items()}
    other.load_state_dict(state)
    assert list(levels(other)) == [pytest.approx(1.05, abs=1e-7)]


def test_every_setting_travels_and_exactly() -> None:
    saved = Net(c=0.1 + 0.2, alpha=1 / 3, clip_output=True, code_compat=True)
    loaded = Net()
    loaded.load_state_dict(saved.state_dict())
    for unit in activations(loaded):
        assert (unit.c, unit.alpha) == (0.1 + 0.2, 1 / 3)
        assert unit.clip_output is True and unit.code_compat is True
    shapes = [value.shape for value in saved.state_dict().values()]
    assert shapes == [value.shape for value in loaded.state_dict().values()]


def test_another_unit_is_refused_in_one_message() -> None:
    state = Net(variant="nah").state_dict()
    for other in ("nan", "reference", "nani"):
        with pytest.raises(RuntimeError) as caught:
            Net(variant=other).load_state_dict(state, strict=False)
        _, line = str(caught.value).splitlines()
        start = "front.1: the state dict has a unit of variant 'nah' where the model has "
        assert line.strip().startswith(f"{start}'{other}'.")
    with pytest.raises(RuntimeError, match="unit of kind 'tanh' where the model has 'sigmoid'"):
        make_activation("sigmoid", "nah", 2).load_state_dict(
            make_activation("tanh", "nah", 2).state_dict()
        )
    with pytest.raises(RuntimeError, match="unit of p_shape 'scalar' where the model has 'unit'"):
        Net().load_state_dict(Net(p_shape="scalar").state_dict())
    # The way that the message names.
    other, loaded = Net(variant="nan"), {k: v for k, v in state.items() if "_extra" not in k}
    with pytest.warns(UserWarning, match="no settings"):
        other.load_state_dict(loaded)
    assert torch.equal(other.lstm.units["l0"]["i"].p, state["lstm.units.l0.i.p"])


@pytest.mark.parametrize("state", [torch.zeros(9), torch.ones(()), 3, torch.full((999,), 1e9)])
def test_what_is_no_settings_is_refused(state: Any) -> None:
    unit = make_activation("tanh", "nah", 2)
    with pytest.raises(RuntimeError, match="NAH: no settings of a noisy unit"):
        unit.load_state_dict({**unit.state_dict(), "_extra_state": state})
    nan = unit.state_dict()
    nan["_extra_state"][-1] = torch.nan
    with pytest.raises(RuntimeError, match="a number among alpha, c is not finite"):
        unit.load_state_dict(nan)


class Plain(nn.Module):
    """What `Net` is before noise."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
        self.lstm, self.cell, self.out = nn.LSTM(4, 5), nn.GRUCell(5, 5), nn.Linear(5, 1)


@pytest.mark.parametrize("assign", [False, True])
def test_checkpoints_of_torch_load_without_a_word(assign: bool) -> None:
    model, plain = Net(c=0.4), Plain()
    p = {name: value.clone() for name, value in model.named_parameters() if name.endswith(".p")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = model.load_state_dict(plain.state_dict(), strict=True, assign=assign)
    assert not result.missing_keys and not result.unexpected_keys
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in p.items()) and len(p) == 9
    assert all(torch.equal(after[name], value) for name, value in plain.named_parameters())
    assert levels(model) == {0.4}
    # Soft units have no setting: theirs is a checkpoint of torch, both ways.
    plain.load_state_dict(Net(variant="reference").state_dict(), strict=True)


def test_older_noisy_checkpoints_load_with_a_word() -> None:
    """Without settings, and one p of shape ()."""
    saved = annealed()
    old = {k: v for k, v in saved.state_dict().items() if not k.endswith("_extra_state")}
    old["front.1.p"] = old["front.1.p"].reshape(())
    model = Net()
    with pytest.warns(UserWarning, match="has p of noisy units and no settings"):
        assert not model.load_state_dict(old, strict=True).missing_keys
    assert old["front.1.p"].shape == () and levels(model) == {30.0}
    set_noise_level(model, 0.7)
    assert torch.equal(model.eval()(X), saved(X))
    missing = {k: v for k, v in saved.state_dict().items() if k != "front.1.p"}
    with pytest.raises(RuntimeError, match=r"Missing key.*front\.1\.p"):
        model.load_state_dict(missing)


def test_a_variant_of_ones_own_adds_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Activation, "_known", dict(Activation._known))

    class Own(Activation):
        variant = "own_with_settings"
        setting_names = (*Activation.setting_names, "order", "name", "slope")

        def __init__(self, *args: Any, order: int = 1, name: str = "a", **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.order, self.name, self.slope = order, name, torch.tensor(0.5)

        def noisy(self, x: Tensor, xi: Tensor) -> Tensor:
            return x

        def expected(self, x: Tensor) -> Tensor:
            return x

    saved, loaded = Own("tanh", 2, order=3, name="b"), Own("tanh", 2)
    saved.slope = torch.tensor(0.25, requires_grad=True)
    loaded.load_state_dict(saved.state_dict())
    assert (loaded.order, loaded.name, float(loaded.slope)) == (3, "b", 0.25)
    # c as a parameter is torch's to save.
    saved.c = nn.Parameter(torch.tensor(2.0))  # type: ignore[assignment]
    loaded.c = nn.Parameter(torch.tensor(1.0))  # type: ignore[assignment]
    loaded.load_state_dict(saved.state_dict())
    assert isinstance(loaded.c, nn.Parameter) and float(loaded.c.detach()) == 2.0


def test_packing_is_readable_and_exact() -> None:
    numbers = {"a": 0.1, "b": -3.3e-30, "c": 1e30, "d": 0.0, "e": 2.0**-126}
    state = pack({"variant": "nah", "flag": True, **numbers})
    assert state.dtype == torch.float32 and state.device.type == "cpu"
    assert unpack(state) == {"variant": "nah", "flag": True, **numbers}
    text = bytes(int(value) for value in state[2:258]).decode()
    assert json.loads(text) == {"variant": "nah", "flag": True, "numbers": list("abcde")}


def test_a_module_that_was_pickled_whole_by_the_first_version() -> None:
    """It calls the path of a unit `site`."""
    torch.manual_seed(0)
    layer = NoisyLSTM(3, 4, variant="nah")
    attach_noise(layer, NoiseSource(3))
    for unit in activations(layer):
        unit.__dict__["site"] = unit.__dict__.pop("path")
    old = copy.deepcopy(layer)  # by the same two methods as pickle
    assert [unit.path for unit in activations(old)] == [
        f"units.l0.{name}" for name in ("i", "f", "g", "o", "c")
    ]
    again = NoisyLSTM(3, 4, variant="nah")
    again.load_state_dict(old.state_dict())
    attach_noise(again, NoiseSource(3))
    assert torch.equal(old(X)[0], again(X)[0])
