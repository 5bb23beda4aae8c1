"""The translation model against torch, NumPy and its own description."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

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


def batch() -> Batch:
    return Batch(*pad(SENTENCES[0]), *pad(SENTENCES[1]))


def weights(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


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


@pytest.mark.parametrize("variant", ["reference", "hard"])
def test_encoder_is_torchs_gru_without_hidden_bias(variant: str) -> None:
    """Annotations of an unpadded batch; with hard units where they are linear, nothing to see."""
    model = make(variant=variant)
    with torch.no_grad():
        model.encoder.bias_ih_l0.normal_()
        model.encoder.bias_ih_l0_reverse.normal_()
    names = {name for name, _ in model.encoder.named_parameters() if "units" not in name}
    assert not any(name.startswith("bias_hh") for name in names) and len(names) == 6
    source = torch.randint(1, V, (7, 4))
    memory, _ = model.encode(source, torch.full((4,), 7))
    truth = nn.GRU(E, H, bidirectional=True)
    state = {k: v for k, v in model.encoder.state_dict().items() if not k.startswith("units")}
    truth.load_state_dict(state)
    assert not truth.bias_hh_l0.any() and not truth.bias_hh_l0_reverse.any()
    expected, _ = truth(model.source_embedding(source))
    close = torch.allclose(memory.annotations.transpose(0, 1), expected, atol=1e-6)
    assert close == (variant == "reference")


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_changes_nothing(variant: str) -> None:
    """Annotations, first state, attention and loss of a sentence alone and among longer ones."""
    model = make(variant=variant)
    together, first = model.encode(*pad(SENTENCES[0]))
    losses = model.nll(batch())
    for k, sentence in enumerate(SENTENCES[0]):
        alone, state = model.encode(*pad([sentence]))
        steps = len(sentence) + 1
        for name in ("annotations", "keys"):
            one, many = getattr(alone, name)[0], getattr(together, name)[k]
            torch.testing.assert_close(many[:steps], one, atol=1e-6, rtol=1e-5)
        assert together.mask[k].tolist() == [True] * steps + [False] * (5 - steps)
        torch.testing.assert_close(first[k], state[0], atol=1e-6, rtol=1e-5)
        single = Batch(*pad([sentence]), *pad([SENTENCES[1][k]]))
        torch.testing.assert_close(losses[k], model.nll(single)[0], atol=1e-5, rtol=1e-5)


def test_first_state_is_the_mean_annotation_through_a_tanh() -> None:
    model = make()
    memory, state = model.encode(*pad(SENTENCES[0]))
    mean = memory.annotations[1, :3].mean(0)  # two words and the end
    expected = torch.tanh(model.start.weight @ mean + model.start.bias)
    torch.testing.assert_close(state[1], expected, atol=1e-6, rtol=1e-5)


# Decoders.


def gru1(w: dict[str, np.ndarray], name: str, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Bias outside the reset gate, none inside."""
    w_r, w_z, w_n = np.split(w[f"{name}.weight_ih"], 3)
    u_r, u_z, u_n = np.split(w[f"{name}.weight_hh"], 3)
    b_r, b_z, b_n = np.split(w[f"{name}.bias_ih"], 3)
    r, z = sigmoid(w_r @ x + u_r @ h + b_r), sigmoid(w_z @ x + u_z @ h + b_z)
    return z * h + (1 - z) * np.tanh(w_n @ x + b_n + r * (u_n @ h))


def gru2(w: dict[str, np.ndarray], name: str, c: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Bias inside the reset gate, none on the context."""
    w_r, w_z, w_n = np.split(w[f"{name}.weight_ih"], 3)
    u_r, u_z, u_n = np.split(w[f"{name}.weight_hh"], 3)
    b_r, b_z, b_n = np.split(w[f"{name}.bias_hh"], 3)
    r, z = sigmoid(u_r @ h + b_r + w_r @ c), sigmoid(u_z @ h + b_z + w_z @ c)
    return z * h + (1 - z) * np.tanh(r * (u_n @ h + b_n) + w_n @ c)


def attend(
    w: dict[str, np.ndarray], query: np.ndarray, keys: np.ndarray, annotations: np.ndarray
) -> np.ndarray:
    e = np.array([
        w["attention.v.weight"][0] @ np.tanh(w["attention.query.weight"] @ query + key)
        + w["attention.v.bias"][0] for key in keys
    ])  # fmt: skip
    a = np.exp(e - e.max())
    return (a / a.sum()) @ annotations


def biased(decoder: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if "bias" in name:
                parameter.normal_()
    return decoder


@pytest.mark.parametrize("decoder", ["A", "B"])
def test_loss_is_that_of_plain_loops_in_numpy(decoder: str) -> None:
    """Every sentence by itself, from the annotations on: attention, both decoders, readout."""
    model = make(decoder)
    for part in (model.decoder, model.start, model.keys, model.from_word, model.output):
        biased(part)
    with torch.no_grad():
        losses = model.nll(batch()).double().numpy()
        memory, state = model.encode(*pad(SENTENCES[0]))
    w, all_weights = weights(model.decoder), weights(model)
    for k, (source, target) in enumerate(zip(*SENTENCES, strict=True)):
        steps = len(source) + 1
        keys, annotations = memory.keys[k, :steps].numpy(), memory.annotations[k, :steps].numpy()
        s, y, total = state[k].detach().double().numpy(), np.zeros(E), 0.0
        for word in [*target, 0]:
            if decoder == "B":
                s = gru1(w, "first", y, s)
                c = attend(w, s, keys, annotations)
                s = gru2(w, "second", c, s)
            else:
                c = attend(w, np.concatenate([s, y]), keys, annotations)
                s = gru1(w, "cell", np.concatenate([y, c]), s)
            hidden = sum(
                all_weights[f"{name}.weight"] @ x + all_weights[f"{name}.bias"]
                for name, x in (("from_state", s), ("from_word", y), ("from_context", c))
            )
            scores = all_weights["output.weight"] @ np.tanh(hidden) + all_weights["output.bias"]
            total -= scores[word] - np.log(np.exp(scores).sum())
            y = all_weights["target_embedding.weight"][word]
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
    model.nll(batch())
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
        assert float(log_probs.exp().sum()) == pytest.approx(1, abs=1e-5)
        assert attention.shape == (1, 5)
        total -= float(log_probs[0, word])
        before = word
    assert total == pytest.approx(float(model.nll(batch())[0].detach()), rel=1e-5)


# Initial weights.


def orthogonal(model: Translator) -> dict[str, tuple[Tensor, int]]:
    """The list of the spec: every orthogonal matrix and its number of blocks."""
    gru = {f"encoder.weight_hh_l0{d}": 3 for d in ("", "_reverse")}
    gru |= {"decoder.first.weight_hh": 3, "decoder.second.weight_hh": 3, "keys.weight": 1}
    found = {name: (model.get_parameter(name).detach(), blocks) for name, blocks in gru.items()}
    gates = model.get_parameter("decoder.second.weight_ih").detach()[: 2 * model.start.out_features]
    return {**found, "context to gates": (gates, 1)}


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_initial_weights(scale: float) -> None:
    torch.manual_seed(0)
    size, hidden = 40, 64
    spec = ActivationSpec("nah")
    model = Translator(500, 600, size, hidden, "B", spec, Initial(0.01, scale))
    for name, (weight, blocks) in orthogonal(model).items():
        for block in weight.chunk(blocks):
            assert block.shape[0] == block.shape[1], name
            torch.testing.assert_close(
                block.T @ block / scale**2, torch.eye(len(block)), atol=1e-5, rtol=0
            )
    named = {name: p.detach() for name, p in model.named_parameters()}
    rest = {k: v for k, v in named.items() if k not in orthogonal(model) and v.dim() == 2}
    rest["decoder.second.weight_ih"] = rest["decoder.second.weight_ih"][2 * hidden :]
    assert len(rest) == 13
    for name, weight in rest.items():
        assert abs(float(weight.mean())) < 0.002, name
        assert float(weight.std()) == pytest.approx(0.01, rel=0.2 if weight.numel() < 200 else 0.06)
    biases = [v for k, v in named.items() if "bias" in k]
    assert len(biases) == 11 and not any(v.any() for v in biases)
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
        assert {name for name in state if not name.endswith(".p")} == set(reference)
        assert all(torch.equal(state[name], value) for name, value in reference.items())


def test_at_first_every_word_is_as_likely_and_attention_looks_everywhere() -> None:
    torch.manual_seed(0)
    words = 3000
    model = Translator(words, words, 16, 24, "B", ActivationSpec("nah"), Initial(0.01, 0.01))
    sentences = torch.randint(2, words, (8, 12)).tolist()
    given = Batch(*pad(sentences), *pad(sentences))
    losses = model.nll(given).detach()  # noise on
    assert float(losses.mean()) / 13 == pytest.approx(math.log(words), abs=0.05)
    memory, state = model.encode(*pad(sentences))
    _, _, attention = model.decoder(torch.zeros(8, 16), state, memory)
    assert float((attention.detach() - 1 / 13).abs().max()) < 0.005
