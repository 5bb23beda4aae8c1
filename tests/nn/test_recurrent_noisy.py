"""Noisy LSTM and GRU against cells written out in numpy, and what their noise does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from noisyexp import ActivationSpec, NoisyGRU, NoisyLSTM, make_activation
from noisyexp.activations import NoiseSource, activations, attach_noise, set_noise_level

Array = np.ndarray[Any, np.dtype[np.float64]]
LAYERS: dict[str, Any] = {"lstm": NoisyLSTM, "gru": NoisyGRU}
KINDS = {
    "lstm": {"i": "sigmoid", "f": "sigmoid", "g": "tanh", "o": "sigmoid", "c": "tanh"},
    "gru": {"r": "sigmoid", "z": "sigmoid", "n": "tanh"},
}
NOISY = ("nan", "nah", "nani", "nanil", "nanis")
cells = pytest.mark.parametrize("cell", ["lstm", "gru"])
backends = pytest.mark.parametrize("backend", ["eager", "auto"])


class GivenNoise(NoiseSource):
    """Hands out draws by the name of the unit, the last part of its path."""

    def __init__(self, draws: Mapping[str, Tensor]) -> None:
        super().__init__(0)
        self.draws = draws

    def normal(self, path: str, shape: Sequence[int], device: torch.device) -> Tensor:
        draw = self.draws[path.rpartition(".")[2]]
        assert tuple(draw.shape) == tuple(shape)
        return draw


def numpy_nah(kind: str, x: Array, eps: Array | float, p: Array, alpha: float, c: float) -> Array:
    """Algorithm 1: alpha h + (1 - alpha) u + d sigma eps, eps = |xi| or its mean."""
    u, h = (x, np.clip(x, -1, 1)) if kind == "tanh" else (x / 4 + 0.5, np.clip(x / 4 + 0.5, 0, 1))
    sigma = c * (1 / (1 + np.exp(-p * (h - u))) - 0.5) ** 2
    d = -np.where(x >= 0, 1, -1) * (1 if 1 - alpha >= 0 else -1)
    return alpha * h + (1 - alpha) * u + d * sigma * eps


def numpy_layer(
    cell: str,
    w: Mapping[str, Array],
    x: Array,
    eps: Mapping[str, Any],
    alpha: float,
    c_noise: float,
) -> tuple[list[Array], tuple[Array, ...]]:
    """Outputs and final state from zeros, one sequence, one step after the other. x: (T, I)."""

    def unit(name: str, v: Array, t: int) -> Array:
        e = eps[name] if isinstance(eps[name], float) else eps[name][t]
        return numpy_nah(KINDS[cell][name], v, e, w[f"units.l0.{name}.p"], alpha, c_noise)

    n = w["weight_hh_l0"].shape[1]
    h, c = np.zeros(n), np.zeros(n)
    outputs = []
    for t in range(len(x)):
        a = w["weight_ih_l0"] @ x[t] + w["bias_ih_l0"]
        b = w["weight_hh_l0"] @ h + w["bias_hh_l0"]
        if cell == "lstm":
            i, f = unit("i", (a + b)[:n], t), unit("f", (a + b)[n : 2 * n], t)
            g, o = unit("g", (a + b)[2 * n : 3 * n], t), unit("o", (a + b)[3 * n :], t)
            c = f * c + i * g
            h = o * unit("c", c, t)
        else:
            r, z = unit("r", (a + b)[:n], t), unit("z", (a + b)[n : 2 * n], t)
            h = (1 - z) * unit("n", a[2 * n :] + r * b[2 * n :], t) + z * h
        outputs.append(h)
    return outputs, (h, c) if cell == "lstm" else (h,)


def two_unit_layer(cell: str, backend: str, alpha: float) -> tuple[Any, Tensor, dict[str, Tensor]]:
    """Two units, two steps, weights so large that every unit saturates; input; draws of a unit."""
    torch.manual_seed(13)
    layer = LAYERS[cell](
        3, 2, variant="nah", alpha=alpha, c=3.0, backend=backend, dtype=torch.float64
    )
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            weight.uniform_(0.5, 1.5) if name.endswith(".p") else weight.normal_(0, 2.5)
    x = torch.randn(2, 1, 3, dtype=torch.float64)
    draws = {name: torch.randn(2, 1, 2, dtype=torch.float64) for name in layer.unit_kinds}
    attach_noise(layer, GivenNoise(draws))
    return layer, x, draws


def as_numpy(layer: nn.Module) -> dict[str, Array]:
    return {k: v.detach().numpy().copy() for k, v in layer.named_parameters()}


@cells
@backends
@pytest.mark.parametrize("alpha", [1.0, 1.15])
@pytest.mark.parametrize("training", [True, False])
def test_two_steps_equal_the_equations(
    cell: str, backend: str, alpha: float, training: bool
) -> None:
    """Outputs and final state of NAH cells, with given noise and with its expectation (Eq 13)."""
    layer, x, draws = two_unit_layer(cell, backend, alpha)
    output, final = layer.train(training)(x)
    eps: dict[str, Any] = {s: np.abs(d[:, 0].numpy()) for s, d in draws.items()}
    if not training:
        eps = dict.fromkeys(draws, math.sqrt(2 / math.pi))
    outputs, state = numpy_layer(cell, as_numpy(layer), x[:, 0].numpy(), eps, alpha, 3.0)
    np.testing.assert_allclose(output[:, 0].detach().numpy(), outputs, rtol=0, atol=1e-13)
    parts = final if cell == "lstm" else (final,)
    for part, expected in zip(parts, state, strict=True):
        np.testing.assert_allclose(part[0, 0].detach().numpy(), expected, rtol=0, atol=1e-13)
    silent = numpy_layer(
        cell, as_numpy(layer), x[:, 0].numpy(), dict.fromkeys(draws, 0.0), alpha, 3.0
    )[0]
    assert np.abs(np.array(silent) - outputs).max() > 0.05  # the noise is not a detail here


@cells
@backends
def test_gradients_equal_finite_differences_of_the_equations(cell: str, backend: str) -> None:
    """Every weight and every p of the two-unit layer."""
    alpha = 1.15
    layer, x, draws = two_unit_layer(cell, backend, alpha)
    layer(x)[0].pow(2).sum().backward()
    eps = {name: np.abs(draw[:, 0].numpy()) for name, draw in draws.items()}
    weights, step = as_numpy(layer), 1e-6

    def loss() -> float:
        return float(
            np.square(numpy_layer(cell, weights, x[:, 0].numpy(), eps, alpha, 3.0)[0]).sum()
        )

    for name, parameter in layer.named_parameters():
        numeric = np.zeros_like(weights[name])
        for index in np.ndindex(numeric.shape):
            middle = weights[name][index]
            weights[name][index] = middle + step
            above = loss()
            weights[name][index] = middle - step
            numeric[index] = (above - loss()) / (2 * step)
            weights[name][index] = middle
        np.testing.assert_allclose(parameter.grad.numpy(), numeric, rtol=1e-6, atol=1e-7)


# Cell and unit -> pre-activation of each gate, and the cell state (LSTM) or hidden state (GRU)
# before the step, such that the unit saturates and no saturation after it hides its noise.
REACH: dict[str, tuple[dict[str, float], float]] = {
    "lstm/i": ({"i": 6, "f": 6, "g": -3, "o": 6}, 1.5),
    "lstm/f": ({"i": 6, "f": 6, "g": -3, "o": 6}, 1.5),
    "lstm/g": ({"i": 6, "f": 6, "g": -3, "o": 6}, 1.5),
    "lstm/o": ({"i": 6, "f": 6, "g": -3, "o": 6}, 1.5),
    "lstm/c": ({"i": 6, "f": 6, "g": -3, "o": 6}, 4.0),
    "gru/r": ({"r": 6, "z": 0, "n": 0.2}, 0.5),
    "gru/z": ({"r": 6, "z": -6, "n": 0.2}, 0.5),
    "gru/n": ({"r": 6, "z": -6, "n": 3}, 0.5),
}


@backends
@pytest.mark.filterwarnings("ignore:p of .* is 0")  # here it is meant
@pytest.mark.parametrize("where", REACH)
def test_noise_of_each_unit_reaches_the_output(backend: str, where: str) -> None:
    """One step by hand, p = 1 of the unit alone: at alpha = 1 it is pushed inward by sigma |xi|."""
    cell, _, noisy = where.partition("/")
    bias, before = REACH[where]
    c, xi, h_n = 1.6, -0.75, 0.4
    layer = LAYERS[cell](1, 1, variant="nah", c=c, backend=backend, dtype=torch.float64)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
        layer.bias_ih_l0.copy_(torch.tensor(list(bias.values()), dtype=torch.float64))
        if cell == "gru":
            layer.bias_hh_l0[2] = h_n  # U h + b_h, which r scales
        layer.units["l0"][noisy].p.fill_(1.0)
    attach_noise(layer, GivenNoise({s: torch.full((1, 1, 1), xi) for s in layer.unit_kinds}))

    def output(noisy_name: str | None) -> float:
        def unit(name: str, v: float) -> float:
            low, u = (-1.0, v) if KINDS[cell][name] == "tanh" else (0.0, v / 4 + 0.5)
            h = min(max(u, low), 1.0)
            sigma = c / 4 * math.tanh((h - u) / 2) ** 2 if name == noisy_name else 0.0
            return h - math.copysign(sigma * abs(xi), v)

        if cell == "lstm":
            new = unit("f", bias["f"]) * before + unit("i", bias["i"]) * unit("g", bias["g"])
            return unit("o", bias["o"]) * unit("c", new)
        r, z = unit("r", bias["r"]), unit("z", bias["z"])
        return (1 - z) * unit("n", bias["n"] + r * h_n) + z * before

    state = torch.full((1, 1, 1), before, dtype=torch.float64)
    start = (torch.zeros_like(state), state) if cell == "lstm" else state
    actual = float(layer(torch.zeros(1, 1, 1, dtype=torch.float64), start)[0].detach())
    assert actual == pytest.approx(output(noisy), abs=1e-13)
    assert abs(output(noisy) - output(None)) > 0.005


@cells
def test_one_seed_gives_every_variant_the_same_weights(cell: str) -> None:
    """In the layer and in what is built after it; p is drawn apart, anew for each layer."""

    def build(variant: str, seed: int = 0) -> tuple[dict[str, Tensor], list[Tensor]]:
        torch.manual_seed(seed)
        model = nn.Sequential(
            LAYERS[cell](3, 4, variant=variant), LAYERS[cell](4, 4, variant=variant),
            nn.Linear(4, 5),
        )  # fmt: skip
        state = {k: v for k, v in model.state_dict().items() if not k.endswith("_extra_state")}
        return state, [state.pop(name) for name in list(state) if name.endswith(".p")]

    weights, _ = build("reference")
    for variant in NOISY:
        own, p = build(variant)
        assert list(own) == list(weights)
        assert all(torch.equal(own[name], weights[name]) for name in weights)
        values = [*p, *(build(variant, seed=1)[1])]
        assert len({tuple(value.tolist()) for value in values}) == len(values)


@cells
@backends
@pytest.mark.parametrize("variant", NOISY)
def test_training_draws_anew_and_evaluation_does_not(cell: str, backend: str, variant: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[cell](3, 8, 2, variant=variant, c=30.0, clip_output=True, backend=backend)
    x = 20 * torch.randn(6, 4, 3)
    torch.manual_seed(1)
    first, second = layer(x)[0], layer(x)[0]
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(layer(x)[0], first)
    layer.eval()
    before = torch.get_rng_state()
    assert torch.equal(layer(x)[0], layer(x)[0])
    assert torch.equal(before, torch.get_rng_state())


@cells
@backends
def test_noise_differs_between_steps_and_sequences(cell: str, backend: str) -> None:
    """Without recurrence and with one input throughout, only the draws differ."""
    torch.manual_seed(0)
    layer = LAYERS[cell](3, 8, variant="nan", c=2.0, backend=backend)
    with torch.no_grad():
        layer.weight_hh_l0.zero_()
    h = layer(torch.full((5, 4, 3), 30.0))[0].detach()
    if cell == "lstm":  # the first step alone: later ones differ by the cell state
        h = torch.stack([layer(torch.full((1, 4, 3), 30.0))[0][0].detach() for _ in range(5)])
    flat = h.reshape(20, 8)
    assert len({tuple(row.tolist()) for row in flat}) == 20


@cells
def test_draws_of_a_run_depend_on_seed_step_and_path(cell: str) -> None:
    layer = LAYERS[cell](3, 4, 2, variant="nah", bidirectional=True, c=4.0)
    source, x = NoiseSource(5), 10 * torch.randn(6, 2, 3)
    paths = attach_noise(layer, source)
    directions = ("l0", "l0_reverse", "l1", "l1_reverse")
    assert paths == [f"units.{d}.{name}" for d in directions for name in layer.unit_kinds]
    source.set_step(3)
    third = layer(x)[0]
    source.set_step(4)
    fourth = layer(x)[0]
    torch.manual_seed(77)
    source.set_step(3)
    assert torch.equal(layer(x)[0], third) and not torch.equal(third, fourth)


@cells
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("variant", ["hard", "nan", "nah"])
def test_packed_sequences_equal_one_run_each(cell: str, bidirectional: bool, variant: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[cell](
        3, 5, 2, variant=variant, alpha=1.1, c=2.0, bidirectional=bidirectional,
        dtype=torch.float64,
    ).eval()  # fmt: skip
    sequences = [4 * torch.randn(n, 3, dtype=torch.float64) for n in (3, 6, 1, 4)]
    output, final = layer(pack_sequence(sequences, enforce_sorted=False))
    padded, lengths = pad_packed_sequence(output)
    assert lengths.tolist() == [3, 6, 1, 4]
    for k, sequence in enumerate(sequences):
        alone, state = layer(sequence)
        torch.testing.assert_close(padded[: len(sequence), k], alone, atol=1e-12, rtol=0)
        assert not padded[len(sequence) :, k].any()
        for part, expected in zip(
            *((final, state) if cell == "lstm" else ((final,), (state,))), strict=True
        ):
            torch.testing.assert_close(part[:, k], expected, atol=1e-12, rtol=0)


@cells
@pytest.mark.parametrize("variant", ["hard", "nah"])
def test_a_sequence_in_two_parts(cell: str, variant: str) -> None:
    """The final state carries everything: running on from it equals one run."""
    layer = LAYERS[cell](3, 5, 2, variant=variant, c=2.0, dtype=torch.float64).eval()
    x = 3 * torch.randn(7, 2, 3, dtype=torch.float64)
    first, state = layer(x[:3])
    second, _ = layer(x[3:], state)
    torch.testing.assert_close(torch.cat([first, second]), layer(x)[0], atol=1e-13, rtol=0)


@cells
def test_c_and_settings_reach_every_unit(cell: str) -> None:
    spec = ActivationSpec("nan", {"c": 0.5}, tanh={"alpha": 1.15}, sigmoid={"alpha": 1.1})
    layer = LAYERS[cell](3, 4, 2, variant=spec, p_shape="scalar")
    units = list(activations(layer))
    assert len(units) == 2 * len(KINDS[cell])
    assert {(u.kind.name, u.alpha, u.c) for u in units} == {
        ("tanh", 1.15, 0.5), ("sigmoid", 1.1, 0.5),
    }  # fmt: skip
    assert all(u.p is not None and u.p.shape == (1,) for u in units)
    set_noise_level(layer, 7.0)
    assert {u.c for u in units} == {7.0}


@cells
def test_noise_off_is_the_hard_layer(cell: str) -> None:
    """c = 0 and alpha = 1 leave h, in training as in evaluation."""
    quiet, hard = (LAYERS[cell](3, 5, 2, variant=v, c=0.0) for v in ("nah", "hard"))
    hard.load_state_dict({k: v for k, v in quiet.state_dict().items() if "units" not in k})
    x = 5 * torch.randn(6, 2, 3)
    for training in (True, False):
        assert torch.equal(quiet.train(training)(x)[0], hard(x)[0])


@cells
def test_gradient_reaches_every_parameter_under_autocast(cell: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[cell](3, 16, variant="nah", c=4.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = layer(40 * torch.randn(5, 8, 3))
    output.float().square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


STATE_ERRORS = {
    "lstm": [(torch.zeros(1, 3, 4),) * 2, (torch.zeros(1, 2, 4),), (torch.zeros(1, 2, 5),) * 2],
    "gru": [torch.zeros(1, 3, 4), torch.zeros(2, 2, 4), torch.zeros(2, 4)],
}


@cells
@pytest.mark.parametrize("variant", ["hard", "nah"])
def test_wrong_input_and_state_are_errors(cell: str, variant: str) -> None:
    layer = LAYERS[cell](3, 4, variant=variant)
    for bad in (torch.zeros(5, 2, 7), torch.zeros(5, 7), torch.zeros(3), torch.zeros(1, 5, 2, 3)):
        with pytest.raises(ValueError, match=r"input of shape \(.*input_size=3"):
            layer(bad)
    with pytest.raises(ValueError, match=r"input of shape \(.*input_size=3"):
        layer(pack_sequence([torch.zeros(4, 7), torch.zeros(2, 7)]))
    for state in STATE_ERRORS[cell]:
        with pytest.raises(ValueError, match=r"state .*expected"):
            layer(torch.zeros(5, 2, 3), state)


@cells
@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        ((), {"variant": "nahh"}, ValueError, r"'nahh' is unknown.*did you mean nah"),
        (
            (),
            {"backend": "cudnn"},
            ValueError,
            r"backend 'cudnn' is unknown; choose from auto",
        ),
        ((), {"beta": 2.0}, TypeError, r"beta"),
        ((), {"variant": "reference", "num_layer": 2}, TypeError, r"num_layer"),
        ((), {"c": -1.0}, ValueError, r"c must be at least 0"),
        ((), {"proj_size": 2}, ValueError, r"proj_size"),
        ((1, True, False, 0.0, False, 2), {}, ValueError, r"proj_size"),
    ],
)
def test_wrong_settings_are_errors(
    cell: str, args: tuple[Any, ...], kwargs: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        LAYERS[cell](3, 4, *args, **kwargs)


def test_a_new_variant_works_in_a_layer() -> None:
    """By import path, as a unit of one's own does."""
    path = "noisyexp.activations.variants.Hard"
    assert type(make_activation("tanh", path, 2)).__name__ == "Hard"
    own, hard = NoisyLSTM(3, 4, variant=path), NoisyLSTM(3, 4, variant="hard")
    own.load_state_dict(hard.state_dict())
    x = 4 * torch.randn(5, 2, 3)
    assert torch.equal(own(x)[0], hard(x)[0])
