"""The translation model against torch, NumPy and its own description."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from noisyexp.activations import ActivationSpec, activations, noise_parameters
from noisyexp.tasks.nmt.batches import Batch, mask_of, pad
from noisyexp.tasks.nmt.decoders import ConditionalDecoder, Memory, SingleDecoder
from noisyexp.tasks.nmt.initial import Initial
from noisyexp.tasks.nmt.model import Translator

E, H, V = 5, 6, 23
VARIANTS = ("reference", "hard", "nah")
SENTENCES = ([[3, 4, 5, 6], [7, 8], [9, 10, 11]], [[5, 6], [7, 8, 9, 10, 11], [12]])


def make(
    decoder: str = "B", variant: str = "reference", initial: Initial | None = None
) -> Translator:
    torch.manual_seed(0)
    spec = ActivationSpec(variant)
    return Translator(V, V, E, H, decoder, spec, initial or Initial(0.5)).eval()


def biased(module: nn.Module) -> nn.Module:
    """Biases of a trained model are not zero."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "bias" in name:
                parameter.normal_()
    return module


def batch() -> Batch:
    return Batch(*pad(SENTENCES[0]), *pad(SENTENCES[1]))


def weights(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


Unit = Callable[[np.ndarray], np.ndarray]
UNITS: dict[str, tuple[Unit, Unit]] = {
    "reference": (sigmoid, np.tanh),
    "hard": (lambda x: np.clip(x / 4 + 0.5, 0, 1), lambda x: np.clip(x, -1, 1)),
}
"""Sigmoid and tanh, and the hard units in their place (Eq. 3 and 4)."""


# Size.


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors without numbers: the paper's size costs nothing."""
    monkeypatch.setattr(Translator, "reset_weights", lambda *_: None)
    with torch.device("meta"):
        yield


@pytest.mark.parametrize(
    ("variant", "noise"),
    # One p a unit: 8 gates and 5 candidates of 1024, attention 2048, readout 500, start 1024 of
    # which the gates are 2 x 4, the candidates 4.
    [("reference", 0), ("hard", 0), ("nah", 8 * 1024 + 4 * 1024 + 1024 + 2048 + 500)],
)
def test_parameters_at_the_size_of_the_original(variant: str, noise: int, on_meta: None) -> None:
    model = Translator(30_000, 30_000, 500, 1024, "B", ActivationSpec(variant), Initial())
    total = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in noise_parameters(model)) == noise
    assert total - noise == 78_705_885


def test_one_p_a_site_is_fifteen(on_meta: None) -> None:
    spec = ActivationSpec("nah", {"p_shape": "scalar"})
    model = Translator(30_000, 30_000, 500, 1024, "B", spec, Initial())
    assert sum(p.numel() for p in model.parameters()) == 78_705_885 + 15


@pytest.mark.parametrize(("decoder", "gates", "tanhs"), [("B", 8, 7), ("A", 6, 6)])
def test_every_nonlinearity_is_a_unit(decoder: str, gates: int, tanhs: int) -> None:
    kinds = Counter(unit.kind.name for unit in activations(make(decoder, "nah")))
    assert kinds == {"sigmoid": gates, "tanh": tanhs}
    widths = Counter(unit.num_units for unit in activations(make(decoder, "nah")))
    assert widths == {H: gates + tanhs - 2, 2 * H: 1, E: 1}


# Encoder.


def gru1(
    w: dict[str, np.ndarray], names: str, x: np.ndarray, h: np.ndarray, units: tuple[Unit, Unit]
) -> np.ndarray:
    """Bias outside the reset gate, none inside; names of the weights with {} for their kind."""
    gate, candidate = units
    w_r, w_z, w_n = np.split(w[names.format("weight_ih")], 3)
    u_r, u_z, u_n = np.split(w[names.format("weight_hh")], 3)
    b_r, b_z, b_n = np.split(w[names.format("bias_ih")], 3)
    r, z = gate(w_r @ x + u_r @ h + b_r), gate(w_z @ x + u_z @ h + b_z)
    return z * h + (1 - z) * candidate(w_n @ x + b_n + r * (u_n @ h))


def annotate(model: Translator, source: list[int], units: tuple[Unit, Unit]) -> np.ndarray:
    """(words and end, 2 H): states of two GRUs, the second one from the end to the start."""
    w, steps = weights(model), [*source, 0]
    sides = []
    for suffix, order in (("", steps), ("_reverse", steps[::-1])):
        h, states = np.zeros(H), []
        for word in order:
            x = w["source_embedding.weight"][word]
            h = gru1(w, f"encoder.{{}}_l0{suffix}", x, h, units)
            states.append(h)
        sides.append(states[:: -1 if suffix else 1])
    return np.concatenate(sides, 1)


@pytest.mark.parametrize("variant", UNITS)
def test_encoder_is_two_plain_loops_in_numpy(variant: str) -> None:
    """Annotations and the first state of every sentence by itself; no bias on the hidden side."""
    model = make(variant=variant)
    for part in (model.encoder, model.start):
        biased(part)
    names = {name for name, _ in model.encoder.named_parameters() if "units" not in name}
    assert not any(name.startswith("bias_hh") for name in names) and len(names) == 6
    memory, state = model.encode(*pad(SENTENCES[0]))
    w = weights(model)
    for k, sentence in enumerate(SENTENCES[0]):
        expected = annotate(model, sentence, UNITS[variant])
        found = memory.annotations[k, : len(expected)].detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)
        first = UNITS[variant][1](w["start.weight"] @ expected.mean(0) + w["start.bias"])
        np.testing.assert_allclose(state[k].detach().numpy(), first, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_changes_nothing(variant: str) -> None:
    """Annotations, first state, attention and loss of a sentence alone and among longer ones."""
    model = make(variant=variant)
    together, first = model.encode(*pad(SENTENCES[0]))
    losses = model.loss(batch())[1]
    for k, sentence in enumerate(SENTENCES[0]):
        alone, state = model.encode(*pad([sentence]))
        steps = len(sentence) + 1
        for name in ("annotations", "keys"):
            one, many = getattr(alone, name)[0], getattr(together, name)[k]
            torch.testing.assert_close(many[:steps], one, atol=1e-6, rtol=1e-5)
        assert together.mask[k].tolist() == [True] * steps + [False] * (5 - steps)
        torch.testing.assert_close(first[k], state[0], atol=1e-6, rtol=1e-5)
        single = Batch(*pad([sentence]), *pad([SENTENCES[1][k]]))
        torch.testing.assert_close(losses[k], model.loss(single)[1][0], atol=1e-5, rtol=1e-5)


# Decoders.


def gru2(
    w: dict[str, np.ndarray], name: str, c: np.ndarray, h: np.ndarray, units: tuple[Unit, Unit]
) -> np.ndarray:
    """Bias inside the reset gate, none on the context."""
    gate, candidate = units
    w_r, w_z, w_n = np.split(w[f"{name}.weight_ih"], 3)
    u_r, u_z, u_n = np.split(w[f"{name}.weight_hh"], 3)
    b_r, b_z, b_n = np.split(w[f"{name}.bias_hh"], 3)
    r, z = gate(u_r @ h + b_r + w_r @ c), gate(u_z @ h + b_z + w_z @ c)
    return z * h + (1 - z) * candidate(r * (u_n @ h + b_n) + w_n @ c)


def attend(
    w: dict[str, np.ndarray], query: np.ndarray, annotations: np.ndarray, tanh: Unit
) -> np.ndarray:
    keys = annotations @ w["keys.weight"].T + w["keys.bias"]
    inner = tanh(keys + w["decoder.attention.query.weight"] @ query)
    e = inner @ w["decoder.attention.v.weight"][0] + w["decoder.attention.v.bias"][0]
    a = np.exp(e - e.max())
    return (a / a.sum()) @ annotations


@pytest.mark.parametrize("variant", UNITS)
@pytest.mark.parametrize("decoder", ["A", "B"])
def test_loss_is_that_of_plain_loops_in_numpy(decoder: str, variant: str) -> None:
    """Every sentence by itself, from its words on: encoder, attention, decoder, readout."""
    model, units = biased(make(decoder, variant)), UNITS[variant]
    assert isinstance(model, Translator)
    with torch.no_grad():
        losses = model.loss(batch())[1].double().numpy()
    w = weights(model)
    for k, (source, target) in enumerate(zip(*SENTENCES, strict=True)):
        annotations = annotate(model, source, units)
        s = units[1](w["start.weight"] @ annotations.mean(0) + w["start.bias"])
        y, total = np.zeros(E), 0.0
        for word in [*target, 0]:
            if decoder == "B":
                s = gru1(w, "decoder.first.{}", y, s, units)
                c = attend(w, s, annotations, units[1])
                s = gru2(w, "decoder.second", c, s, units)
            else:
                c = attend(w, np.concatenate([s, y]), annotations, units[1])
                s = gru1(w, "decoder.cell.{}", np.concatenate([y, c]), s, units)
            hidden = sum(
                w[f"{name}.weight"] @ x + w[f"{name}.bias"]
                for name, x in (("from_state", s), ("from_word", y), ("from_context", c))
            )
            scores = w["output.weight"] @ units[1](hidden) + w["output.bias"]
            total -= scores[word] - np.log(np.exp(scores).sum())
            y = w["target_embedding.weight"][word]
        assert losses[k] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("kind", [ConditionalDecoder, SingleDecoder])
def test_masked_source_positions_have_no_weight(kind: type[ConditionalDecoder]) -> None:
    torch.manual_seed(0)
    decoder = kind(E, H, ActivationSpec("reference"))
    annotations, keys = torch.randn(2, 4, 2 * H), torch.randn(2, 4, 2 * H)
    mask = mask_of(torch.tensor([4, 2]), 4)
    word, state = torch.randn(2, E), torch.randn(2, H)
    found = decoder(word, state, Memory(annotations, keys, mask))
    attention = found[2].detach()
    assert attention[1, 2:].tolist() == [0, 0] and float(attention[1].sum()) == pytest.approx(1)
    cut = decoder(word, state, Memory(annotations[:, :2], keys[:, :2], mask[:, :2]))
    torch.testing.assert_close(found[0][1], cut[0][1])


def test_masked_target_positions_leave_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = make(), []
    forward = type(model.decoder).forward

    def watch(self: nn.Module, word: Tensor, state: Tensor, memory: Memory) -> object:
        seen.append(state)
        return forward(self, word, state, memory)

    monkeypatch.setattr(type(model.decoder), "forward", watch)
    model.loss(batch())[1]
    # Sentence 1 has 5 words, sentence 2 one: its state stays from the second step on.
    assert len(seen) == 6
    states = torch.stack(seen)[:, 2]
    assert not torch.equal(states[1], states[2])
    for later in states[3:]:
        assert torch.equal(later, states[2])


@pytest.mark.parametrize("decoder", ["A", "B"])
def test_search_steps_are_the_steps_of_training(decoder: str) -> None:
    """ln p along a given translation, one step after the other, sums to the loss."""
    model = make(decoder)
    memory, state = model.encode(*pad(SENTENCES[0][:1]))
    full: tuple[Tensor, ...] = (state, memory.annotations, memory.keys, memory.mask)
    total, before = 0.0, -1
    for word in [*SENTENCES[1][0], 0]:
        log_probs, full, attention = model.step(torch.tensor([before]), full)
        assert log_probs.detach().exp().sum().item() == pytest.approx(1, abs=1e-5)
        assert attention.shape == (1, 5)
        total -= log_probs[0, word].item()
        before = word
    assert total == pytest.approx(float(model.loss(batch())[1][0].detach()), rel=1e-5)


# Initial weights.


GATES = {"A": "decoder.cell.weight_ih", "B": "decoder.second.weight_ih"}
"""What has the matrix from context to gates in its first rows and last columns."""


def orthogonal(model: Translator, decoder: str) -> dict[str, tuple[Tensor, int]]:
    """The list of the spec: every orthogonal matrix and its number of blocks."""
    cells = {"A": ["cell"], "B": ["first", "second"]}[decoder]
    names = {f"encoder.weight_hh_l0{d}": 3 for d in ("", "_reverse")} | {"keys.weight": 1}
    names |= {f"decoder.{cell}.weight_hh": 3 for cell in cells}
    found = {name: (model.get_parameter(name).detach(), blocks) for name, blocks in names.items()}
    hidden = model.start.out_features
    gates = model.get_parameter(GATES[decoder]).detach()[: 2 * hidden, -2 * hidden :]
    return {**found, "context to gates": (gates, 1)}


@pytest.mark.parametrize("scale", [1.0, 0.01])
@pytest.mark.parametrize(("decoder", "rectangular", "biases"), [("A", 13, 10), ("B", 13, 11)])
def test_initial_weights(decoder: str, rectangular: int, biases: int, scale: float) -> None:
    torch.manual_seed(0)
    size, hidden = 40, 64
    spec = ActivationSpec("nah")
    model = Translator(500, 600, size, hidden, decoder, spec, Initial(0.01, scale))
    for name, (weight, blocks) in orthogonal(model, decoder).items():
        for block in weight.chunk(blocks):
            assert block.shape[0] == block.shape[1], name
            torch.testing.assert_close(
                block.T @ block / scale**2, torch.eye(len(block)), atol=1e-5, rtol=0
            )
    named = {name: p.detach() for name, p in model.named_parameters()}
    rest = {k: v for k, v in named.items() if k not in orthogonal(model, decoder) and v.dim() == 2}
    gates = rest.pop(GATES[decoder])
    rest["context to candidate"] = gates[2 * hidden :, -2 * hidden :]
    if decoder == "A":
        rest["word to gates and candidate"] = gates[:, :size]
    assert len(rest) == rectangular
    for name, weight in rest.items():
        assert abs(float(weight.mean())) < 0.002, name
        assert float(weight.std()) == pytest.approx(0.01, rel=0.2 if weight.numel() < 200 else 0.06)
    zeros = [v for k, v in named.items() if "bias" in k]
    assert len(zeros) == biases and not any(v.any() for v in zeros)
    for unit in activations(model):  # p is drawn apart and not by any rule of the weights
        assert unit.p is not None and 0.9 < float(unit.p.detach().abs().max()) <= 1


def test_equal_sizes_make_input_matrices_orthogonal_but_not_the_readout() -> None:
    torch.manual_seed(0)
    model = Translator(50, 50, 8, 8, "B", ActivationSpec("reference"), Initial(0.01, 1.0))
    for name in ("encoder.weight_ih_l0", "decoder.first.weight_ih"):
        for block in model.get_parameter(name).detach().chunk(3):
            torch.testing.assert_close(block.T @ block, torch.eye(8), atol=1e-5, rtol=0)
    for layer in (model.from_state, model.from_word):
        assert float(layer.weight.detach().std()) < 0.02


def test_arms_start_from_the_same_weights() -> None:
    reference = make("B", "reference", Initial(0.01, 0.01)).state_dict()
    for variant in ("hard", "nah", "nani"):
        state = make("B", variant, Initial(0.01, 0.01)).state_dict()
        assert {name for name in state if not name.endswith((".p", "_extra_state"))} == set(
            reference
        )
        assert all(torch.equal(state[name], value) for name, value in reference.items())


@pytest.mark.parametrize(
    ("sizes", "sentences"),
    [((3000, 16, 24), 8), pytest.param((30_000, 500, 1024), 4, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(("variant", "scale"), [("reference", 1.0), ("hard", 0.01), ("nah", 0.01)])
def test_at_first_every_word_is_as_likely_and_attention_looks_everywhere(
    variant: str, scale: float, sizes: tuple[int, int, int], sentences: int
) -> None:
    """At the size of the original too."""
    torch.manual_seed(0)
    words, embedding, hidden = sizes
    initial = Initial(0.01, scale)
    model = Translator(words, words, embedding, hidden, "B", ActivationSpec(variant), initial)
    ids = torch.randint(2, words, (sentences, 12)).tolist()
    with torch.no_grad():
        losses = model.loss(Batch(*pad(ids), *pad(ids)))[1]  # noise on
        memory, state = model.encode(*pad(ids))
        _, _, attention = model.decoder(torch.zeros(sentences, embedding), state, memory)
    assert float(losses.mean()) / 13 == pytest.approx(math.log(words), abs=0.05)
    assert float((attention - 1 / 13).abs().max()) < 0.005
