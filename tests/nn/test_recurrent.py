"""NoisyLSTM and NoisyGRU with soft units against torch.nn.LSTM and torch.nn.GRU."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from noisyexp import NoisyGRU, NoisyLSTM
from noisyexp.activations import noise_parameters

TORCH = {"lstm": nn.LSTM, "gru": nn.GRU}
NOISY = {"lstm": NoisyLSTM, "gru": NoisyGRU}
UNIT_NAMES = {"lstm": "ifgoc", "gru": "rzn"}
cells = pytest.mark.parametrize("cell", ["lstm", "gru"])
backends = pytest.mark.parametrize("backend", ["eager", "auto"])

# Layer, then shape of the input; "state" gives an initial state, "lengths" packs the sequences.
CASES: dict[str, dict[str, Any]] = {
    "plain": {"shape": (5, 4, 3)},
    "state": {"shape": (6, 3, 5), "state": True},
    "two layers": {"layer": {"num_layers": 2}, "shape": (4, 3, 7), "state": True},
    "three layers": {"layer": {"num_layers": 3}, "shape": (5, 2, 3)},
    "bidirectional": {"layer": {"bidirectional": True}, "shape": (5, 3, 2), "state": True},
    "deep and bidirectional": {
        "layer": {"num_layers": 3, "bidirectional": True, "batch_first": True},
        "shape": (3, 7, 5), "state": True,
    },
    "batch first": {"layer": {"batch_first": True}, "shape": (3, 6, 4), "state": True},
    "no bias": {"layer": {"bias": False, "num_layers": 2}, "shape": (5, 3, 4), "state": True},
    "unbatched": {"shape": (6, 3)},
    "unbatched with state": {
        "layer": {"num_layers": 2, "bidirectional": True, "batch_first": True},
        "shape": (5, 3), "state": True,
    },
    "one step": {"layer": {"num_layers": 2, "bidirectional": True}, "shape": (1, 3, 4)},
    "ones": {"hidden": 1, "shape": (1, 1, 1), "state": True},
    "odd sizes": {"hidden": 13, "shape": (7, 11, 3), "state": True},
    "sorted": {"shape": (3,), "lengths": (5, 3, 3, 1)},
    "unsorted": {"shape": (3,), "lengths": (2, 5, 1, 4), "state": True},
    "unsorted with ties": {"shape": (3,), "lengths": (2, 4, 2, 4, 1), "state": True},
    "unsorted, deep": {
        "layer": {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False},
        "shape": (3,), "lengths": (3, 1, 6), "state": True,
    },
    "sorted, bidirectional": {
        "layer": {"bidirectional": True}, "shape": (2,), "lengths": (6, 2, 1), "state": True,
    },
}  # fmt: skip


def as_tuple(state: Any) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def random_case(case: dict[str, Any], cell: str, dtype: torch.dtype) -> tuple[list[Tensor], Any]:
    """Input sequences (one tensor, or one for each length) and the initial state."""
    layer, hidden = case.get("layer", {}), case.get("hidden", 6)
    if lengths := case.get("lengths"):
        inputs = [torch.randn(n, *case["shape"], dtype=dtype) for n in lengths]
        batch: tuple[int, ...] = (len(lengths),)
    else:
        inputs = [torch.randn(case["shape"], dtype=dtype)]
        batch = (case["shape"][0 if layer.get("batch_first") else 1],)
        batch = batch if len(case["shape"]) == 3 else ()
    if not case.get("state"):
        return inputs, None
    rows = layer.get("num_layers", 1) * (2 if layer.get("bidirectional") else 1)
    parts = [torch.randn(rows, *batch, hidden, dtype=dtype) for _ in range(2)]
    return inputs, tuple(parts) if cell == "lstm" else parts[0]


def results(
    layer: nn.Module, inputs: list[Tensor], state: Any, lengths: tuple[int, ...] | None
) -> list[Tensor]:
    """Output, final states, then gradients of input, initial state and torch's weights."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    leaves = [s.clone().requires_grad_() for s in as_tuple(state)] if state is not None else []
    hx = None if state is None else tuple(leaves) if isinstance(state, tuple) else leaves[0]
    x: Any = inputs[0]
    if lengths is not None:
        in_order = list(lengths) == sorted(lengths, reverse=True)
        x = pack_sequence(inputs, enforce_sorted=in_order)
    output, final = layer(x, hx)
    if isinstance(output, PackedSequence):
        assert torch.equal(output.batch_sizes, x.batch_sizes)
        for ours, given in (
            (output.sorted_indices, x.sorted_indices),
            (output.unsorted_indices, x.unsorted_indices),
        ):
            assert ours is given is None or torch.equal(ours, given)
        output = output.data
    values = [output, *as_tuple(final)]
    torch.manual_seed(1)
    loss = sum((v * torch.randn_like(v)).sum() for v in values)
    weights = [p for name, p in layer.named_parameters() if not name.startswith("units.")]
    return values + list(torch.autograd.grad(loss, inputs + leaves + weights))


@cells
@backends
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_soft_units_give_the_layer_of_torch(
    cell: str, backend: str, dtype: torch.dtype, name: str
) -> None:
    case = CASES[name]
    sizes, layer = (case["shape"][-1], case.get("hidden", 6)), case.get("layer", {})
    torch.manual_seed(0)
    expected = TORCH[cell](*sizes, **layer, dtype=dtype)
    ours = NOISY[cell](*sizes, **layer, dtype=dtype, variant="reference", backend=backend)
    ours.load_state_dict(expected.state_dict(), strict=True)
    inputs, state = random_case(case, cell, dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    for training in (True, False):
        one, two = (
            results(module.train(training), inputs, state, case.get("lengths"))
            for module in (ours, expected)
        )
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            assert a.dtype == dtype
            # Gradients are sums over steps and sequences: their rounding grows with their size.
            scale = max(1.0, float(b.detach().abs().max()))
            torch.testing.assert_close(a, b, atol=tolerance * scale, rtol=0)


@cells
@backends
@pytest.mark.parametrize("batch_first", [False, True])
def test_dropout_is_that_of_torch(cell: str, backend: str, batch_first: bool) -> None:
    """The same mask from the same seed, between layers only, and only in training."""
    layer: dict[str, Any] = {
        "num_layers": 3, "dropout": 0.4, "bidirectional": True, "batch_first": batch_first,
        "dtype": torch.float64,
    }  # fmt: skip
    torch.manual_seed(0)
    expected, x = TORCH[cell](3, 4, **layer), torch.randn(5, 6, 3, dtype=torch.float64)
    ours = NOISY[cell](3, 4, **layer, variant="reference", backend=backend)
    ours.load_state_dict(expected.state_dict())
    outputs = []
    for seed in (1, 2):
        pair = []
        for module in (ours, expected):
            torch.manual_seed(seed)
            pair.append(module(x)[0].detach())
        torch.testing.assert_close(*pair, atol=1e-12, rtol=0)
        outputs.append(pair[0])
    assert not torch.equal(*outputs)
    torch.testing.assert_close(ours.eval()(x)[0], expected.eval()(x)[0], atol=1e-12, rtol=0)


@cells
@pytest.mark.parametrize("variant", ["hard", "nah"])
def test_dropout_lies_between_layers_of_noisy_units_too(cell: str, variant: str) -> None:
    """All dropped: the second layer sees zeros, so that its output knows nothing of the input."""
    layer = NOISY[cell](3, 4, 2, dropout=1.0, variant=variant, c=0.0)
    one, two = torch.randn(2, 5, 2, 3)
    assert torch.equal(layer(one)[0], layer(two)[0])
    assert not torch.equal(layer(one)[1][0], layer(two)[1][0])  # the first layer's final state
    layer.eval()
    assert not torch.equal(layer(one)[0], layer(two)[0])


ARGUMENTS = [
    ((3, 4), {}),
    ((3, 4, 2, False, True, 0.25, True), {}),
    ((3,), {"hidden_size": 4, "num_layers": 3, "bidirectional": True}),
    ((), {"input_size": 1, "hidden_size": 7, "bias": False, "batch_first": True}),
    ((5, 6), {"dtype": torch.float64}),
    ((3, 4, 1, True, False, 0.0, False, 0, None, torch.float64), {}),
]


@cells
@pytest.mark.parametrize(("args", "kwargs"), ARGUMENTS)
@pytest.mark.parametrize("variant", ["reference", "hard", "nah"])
def test_constructor_and_state_dict_are_those_of_torch(
    cell: str, args: tuple[Any, ...], kwargs: dict[str, Any], variant: str
) -> None:
    """Names, order, shapes, and from the same seed the same weights, bit for bit."""
    torch.manual_seed(4)
    expected = TORCH[cell](*args, **kwargs)
    torch.manual_seed(4)
    ours = NOISY[cell](*args, **kwargs, variant=variant)
    assert isinstance(ours, TORCH[cell])
    for name in (
        "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout",
        "bidirectional", "proj_size", "mode",
    ):  # fmt: skip
        assert getattr(ours, name) == getattr(expected, name)
    state = ours.state_dict()
    own = [key for key in state if not key.startswith("units.")]
    assert own == list(expected.state_dict())
    for key in own:
        assert torch.equal(state[key], expected.state_dict()[key])
    suffixes = [key.removeprefix("weight_ih_") for key in own if key.startswith("weight_ih_")]
    of_unit = {"reference": [], "hard": ["_extra_state"], "nah": ["p", "_extra_state"]}[variant]
    names = [
        f"units.{s}.{unit}.{n}" for s in suffixes for unit in UNIT_NAMES[cell] for n in of_unit
    ]
    assert list(state)[len(own) :] == names
    weights = [value for key, value in state.items() if not key.endswith("_extra_state")]
    assert {tensor.dtype for tensor in weights} == {expected.weight_ih_l0.dtype}


@cells
@pytest.mark.parametrize("nested", [False, True])
def test_weights_of_torch_load_and_p_stays(cell: str, nested: bool) -> None:
    expected: nn.Module = TORCH[cell](3, 4, 2, bidirectional=True)
    ours: nn.Module = NOISY[cell](3, 4, 2, bidirectional=True, variant="nah")
    if nested:
        expected, ours = nn.ModuleDict({"rnn": expected}), nn.ModuleDict({"rnn": ours})
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    given = expected.state_dict()
    keys = list(given)
    result = ours.load_state_dict(given, strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    assert list(given) == keys  # the dictionary of the caller is left alone
    for key, tensor in ours.state_dict().items():
        assert torch.equal(tensor, given[key] if key in given else before[key])
        assert key in given or not torch.equal(tensor, torch.zeros_like(tensor))


@cells
def test_a_layer_on_meta_has_no_p_to_keep(cell: str) -> None:
    theirs: nn.Module = TORCH[cell](3, 4)
    with torch.device("meta"):
        ours: nn.Module = NOISY[cell](3, 4, variant="nah")
    with pytest.raises(RuntimeError, match=r"Missing key.*units\.l0\..\.p"):
        ours.load_state_dict(theirs.state_dict(), assign=True)
    ours.to_empty(device="cpu")
    ours.reset_parameters()  # type: ignore[operator]
    p = {k: v.clone() for k, v in ours.state_dict().items() if k.startswith("units.")}
    ours.load_state_dict(theirs.state_dict(), assign=True)
    assert all(torch.equal(ours.state_dict()[k], v) and -1 <= v.min() < 1 for k, v in p.items())
    own: nn.Module = NOISY[cell](3, 4, variant="nah")
    with torch.device("meta"):
        ours = NOISY[cell](3, 4, variant="nah")
    ours.load_state_dict(own.state_dict(), assign=True)
    x = torch.randn(5, 2, 3)
    assert torch.equal(ours.eval()(x)[0], own.eval()(x)[0])


@cells
def test_a_state_dict_with_some_p_missing_is_an_error(cell: str) -> None:
    layer = NOISY[cell](3, 4, 2, variant="nan")
    state = layer.state_dict()
    missing = f"units.l1.{UNIT_NAMES[cell][0]}.p"
    for key in (missing, missing.removesuffix("p") + "_extra_state"):  # settings, or none
        state.pop(key)
        with pytest.raises(RuntimeError, match=rf"Missing key.*: \"{missing}\"\. $"):
            layer.load_state_dict(state, strict=True)
    without_weight = {k: v for k, v in layer.state_dict().items() if k != "weight_hh_l0"}
    with pytest.raises(RuntimeError, match=r"Missing key.*weight_hh_l0"):
        layer.load_state_dict(without_weight)
    with pytest.raises(RuntimeError, match="unit of variant 'nan' where the model has 'hard'"):
        NOISY[cell](3, 4, 2, variant="hard").load_state_dict(layer.state_dict())


@cells
@pytest.mark.parametrize("variant", ["reference", "nah"])
def test_state_dict_copy_and_pickle_round_trips(cell: str, variant: str) -> None:
    layer = NOISY[cell](3, 4, 2, variant=variant, alpha=1.15)
    other = NOISY[cell](3, 4, 2, variant=variant, alpha=1.15)
    other.load_state_dict(layer.state_dict(), strict=True)
    x = torch.randn(5, 2, 3)
    outputs = []
    for module in (layer, other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.manual_seed(0)
        outputs.append(module(x)[0])
    assert all(torch.equal(outputs[0], output) for output in outputs)


@cells
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reset_draws_weights_like_torch_and_p_from_its_own_law(
    cell: str, dtype: torch.dtype
) -> None:
    ours = NOISY[cell](10, 300, 2, variant="nah", dtype=dtype)
    expected = TORCH[cell](10, 300, 2, dtype=dtype)
    for p in ours.parameters():
        nn.init.uniform_(p, -0.1, 0.1)  # a host model that overwrites everything
    torch.manual_seed(9)
    expected.reset_parameters()
    torch.manual_seed(9)
    ours.reset_parameters()
    for name, weight in expected.named_parameters():
        assert torch.equal(ours.get_parameter(name), weight)
        assert weight.abs().max() <= 1 / math.sqrt(300)
    found = noise_parameters(ours)
    assert len(found) == 2 * len(UNIT_NAMES[cell]) and {p.shape for p in found} == {(300,)}
    p = torch.cat([p.detach() for p in found]).double()
    assert p.abs().max() <= 1
    error = math.sqrt(0.8 / (4 * len(p)))  # of the std of a uniform law, kurtosis 1.8
    assert float(p.std()) == pytest.approx(1 / math.sqrt(3), rel=5 * error)
    assert {p.dtype for p in found} == {dtype}


@cells
def test_backend_auto_and_eager_agree_for_noisy_units(cell: str) -> None:
    layers = [NOISY[cell](3, 4, 2, variant="nah", backend=b) for b in ("auto", "eager")]
    layers[1].load_state_dict(layers[0].state_dict())
    x = 4 * torch.randn(5, 2, 3)
    for training in (True, False):
        outputs = []
        for layer in layers:
            torch.manual_seed(3)
            outputs.append(layer.train(training)(x)[0])
        torch.testing.assert_close(*outputs, atol=1e-6, rtol=1e-6)
