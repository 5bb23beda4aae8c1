"""The language model of Penn Treebank: size, initial values, equations (spec check 2)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from noisyexp.activations import ActivationSpec
from noisyexp.nn.language_model import LanguageModel, detach

VARIANTS = ("reference", "hard", "nan", "nah", "nani", "nanil", "nanis")
LEARNED = ("nan", "nah", "nanil")


def build(variant: str, dropout: float = 0.0, seed: int = 0, **settings: object) -> LanguageModel:
    torch.manual_seed(seed)
    return LanguageModel(11, 4, 2, dropout, 0.1, ActivationSpec(variant, settings))


def parameters(
    hidden: int, variant: str = "reference", vocab: int = 10_000, **settings: object
) -> int:
    with torch.device("meta"):
        model = LanguageModel(vocab, hidden, 2, 0.0, 0.1, ActivationSpec(variant, settings))
    return sum(p.numel() for p in model.parameters())


def test_parameter_counts() -> None:
    assert parameters(200) == 4_653_200
    assert parameters(1500) == 66_034_000
    # Embedding and output of 10,000 x 650, its bias, and per layer 4 * 650 * (650 + 650 + 2).
    assert parameters(650) == 13_010_000 + 2 * 4 * 650 * 1302


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_counts_of_variants(variant: str) -> None:
    """Five units in each of two layers: one p for each hidden unit, or one for all."""
    learned = variant in LEARNED
    assert parameters(200, variant) == 4_653_200 + (2 * 5 * 200 if learned else 0)
    assert parameters(200, variant, p_shape="scalar") == 4_653_200 + (10 if learned else 0)


def test_initial_values_at_the_size_of_the_paper() -> None:
    torch.manual_seed(0)
    model = LanguageModel(10_000, 200, 2, 0.0, 0.1, ActivationSpec("nah"))
    values = {name: value.detach() for name, value in model.named_parameters()}
    weights = {name: value for name, value in values.items() if not name.endswith(".p")}
    assert len(weights) == 1 + 2 * 4 + 2
    for name, value in weights.items():
        assert float(value.abs().max()) <= 0.1, name
        assert abs(float(value.mean())) < 0.1 / math.sqrt(3 * value.numel()) * 5, name
        # Biases have 800 numbers: the standard error of their deviation is 1.6 %.
        assert float(value.std()) == pytest.approx(0.1 / math.sqrt(3), rel=0.06), name
    everything = torch.cat([value.flatten() for value in weights.values()])
    assert float(everything.std()) == pytest.approx(0.0577, abs=1e-4)
    p = torch.cat([value for name, value in values.items() if name.endswith(".p")])
    assert p.shape == (2_000,)
    assert 0.99 < float(p.abs().max()) <= 1.0
    assert float(p.std()) == pytest.approx(0.577, rel=0.05)
    assert abs(float(p.mean())) < 0.05


def test_every_variant_starts_from_the_same_weights() -> None:
    reference = build("reference").state_dict()
    p: dict[str, Tensor] = {}
    for variant in VARIANTS:
        state = build(variant).state_dict()
        own = {name: state.pop(name) for name in list(state) if name.endswith(".p")}
        assert len(own) == (10 if variant in LEARNED else 0)
        assert [name for name in state if not name.endswith("_extra_state")] == list(reference)
        for name, value in reference.items():
            assert torch.equal(state[name], value), (variant, name)
        p = p or own
        for name, value in own.items():
            assert torch.equal(p[name], value), (variant, name)
    assert not torch.equal(build("reference", seed=1).output.weight, reference["output.weight"])


SOFT = (torch.sigmoid, torch.tanh)
HARD = (lambda x: (0.25 * x + 0.5).clamp(0, 1), lambda x: x.clamp(-1, 1))


def by_hand(model: LanguageModel, tokens: Tensor, hard: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and final h and c by the equations, gate after gate, step after step."""
    sigmoid, tanh = HARD if hard else SOFT
    weights = dict(model.named_parameters())
    size = model.lstm.hidden_size
    h = torch.zeros(2, tokens.shape[1], size)
    c = torch.zeros(2, tokens.shape[1], size)
    logits = []
    for row in tokens:
        x = weights["embedding.weight"][row]
        for layer in range(2):
            gates = {}
            for place, name in enumerate("ifgo"):
                rows = slice(place * size, (place + 1) * size)
                parts = [weights[f"lstm.{kind}_l{layer}"][rows] for kind in
                         ("weight_ih", "bias_ih", "weight_hh", "bias_hh")]  # fmt: skip
                gates[name] = x @ parts[0].T + parts[1] + h[layer] @ parts[2].T + parts[3]
            new_c = sigmoid(gates["f"]) * c[layer] + sigmoid(gates["i"]) * tanh(gates["g"])
            new_h = sigmoid(gates["o"]) * tanh(new_c)
            c = torch.stack([new_c, c[1]]) if layer == 0 else torch.stack([c[0], new_c])
            h = torch.stack([new_h, h[1]]) if layer == 0 else torch.stack([h[0], new_h])
            x = new_h
        logits.append(x @ weights["output.weight"].T + weights["output.bias"])
    return torch.stack(logits), h, c


@pytest.mark.parametrize("variant", ["reference", "hard"])
def test_forward_follows_the_equations(variant: str) -> None:
    model = build(variant)
    with torch.no_grad():  # far enough for the hard units to saturate
        for weight in model.parameters():
            weight.mul_(30)
    tokens = torch.randint(11, (7, 3))
    logits, (h, c) = model(tokens, model.zero_state(3))
    expected = by_hand(model, tokens, variant == "hard")
    for ours, truth in zip((logits, h, c), expected, strict=True):
        assert torch.allclose(ours, truth, rtol=1e-4, atol=1e-5)
    assert logits.shape == (7, 3, 11)
    assert c.abs().max().item() > 1  # it did saturate


def test_state_is_carried_and_detached() -> None:
    model = build("reference")
    tokens = torch.randint(11, (6, 2))
    whole, final = model(tokens, model.zero_state(2))
    first, state = model(tokens[:2], model.zero_state(2))
    second, last = model(tokens[2:], state)
    assert torch.allclose(torch.cat([first, second]), whole, atol=1e-6)
    for a, b in zip(last, final, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert all(part.requires_grad for part in state)
    cut = detach(state)
    assert not any(part.requires_grad for part in cut)
    for a, b in zip(cut, state, strict=True):
        assert torch.equal(a, b)


def test_dropout_is_on_the_three_vertical_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs of both layers and the top output; nothing from step to step, nothing in tests."""
    model = build("hard", dropout=0.5)
    shapes = []
    dropout = functional.dropout

    def record(x: Tensor, p: float, training: bool, *rest: bool) -> Tensor:
        if training and p == 0.5:
            shapes.append(tuple(x.shape))
        return dropout(x, p, training, *rest)

    monkeypatch.setattr(functional, "dropout", record)
    tokens = torch.randint(11, (6, 2))
    model(tokens, model.zero_state(2))
    assert shapes == [(6, 2, 4)] * 3
    model.eval()
    kept, _ = model(tokens, model.zero_state(2))
    assert len(shapes) == 3
    without, _ = build("hard")(tokens, model.zero_state(2))
    assert torch.equal(kept, without)


def test_dropout_of_torchs_own_layer() -> None:
    """The reference runs torch's LSTM, whose dropout is between its layers only."""
    model = build("reference", dropout=0.5)
    assert model.lstm.dropout == 0.5
    with torch.no_grad():
        model.lstm.weight_ih_l0.zero_()  # the input is cut off
        model.lstm.weight_ih_l1.zero_()  # and so is the second layer from the first
    tokens = torch.randint(11, (6, 2))
    states = [model(tokens, model.zero_state(2))[1] for _ in range(2)]
    # What is left is recurrent, and not random.
    assert torch.equal(states[0][0], states[1][0])
    assert torch.equal(states[0][1], states[1][1])
