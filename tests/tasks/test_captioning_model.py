"""The captioner against the specification's equations, initial values and checks (section 3)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from noisyexp.activations import ActivationSpec, activations, noise_parameters
from noisyexp.nn.output import linear_cross_entropy
from noisyexp.tasks.captioning.cost import (
    TINY,
    caption_nll,
    doubly_stochastic,
    training_cost,
    word_costs,
)
from noisyexp.tasks.captioning.data import Batch
from noisyexp.tasks.captioning.decoding import decode
from noisyexp.tasks.captioning.model import Captioner, OldDropout, Shape

SHAPE = Shape(
    words=11, channels=6, embedding=5, hidden=4, attention_layers=2, init_layers=2,
    output_layers=1, prev2out=True, ctx2out=True, selector=True, dropout=False, attention="soft",
)  # fmt: skip


def captioner(
    variant: str = "reference", scale: float = 1.0, c: float = 0.5, **changes: Any
) -> Any:
    torch.manual_seed(0)
    settings = {} if variant in ("reference", "hard") else {"c": c}
    return Captioner(replace(SHAPE, **changes), ActivationSpec(variant, settings), scale)


def scatter(model: Captioner, deviation: float = 0.5) -> Captioner:
    """Weights far from where they start, so that every part of the model matters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith(".p"):
                parameter.normal_(0.0, deviation, generator=generator)
    return model


def a_batch(rows: int = 3, words: int = 4, places: int = 7, **changes: int) -> Batch:
    generator = torch.Generator().manual_seed(2)
    size = changes.get("channels", SHAPE.channels)
    annotations = torch.rand(rows, places, size, generator=generator)
    high = changes.get("vocabulary", SHAPE.words)
    targets = torch.randint(2, high, (rows, words + 1), generator=generator)
    targets[:, -1] = 0
    inputs = torch.cat([torch.full((rows, 1), -1), targets[:, :-1]], 1)
    return Batch(annotations, inputs, targets)


def by_hand(model: Captioner, batch: Batch) -> tuple[Tensor, Tensor]:
    """Scores (T, V) and weights (T, S) of the first caption, as section 3 of the spec has them."""
    w = {name: value.detach() for name, value in model.state_dict().items()}

    def affine(name: str, x: Tensor) -> Tensor:
        return w[f"{name}.weight"] @ x + w[f"{name}.bias"]

    a, shape = batch.annotations[0], model.shape
    kept = 0.5 if shape.dropout else 1.0  # dropout in evaluation
    mean = a.mean(0)
    for layer in range(shape.init_layers - 1):
        mean = kept * torch.relu(affine(f"init_hidden.{layer}", mean))
    h, c = torch.tanh(affine("init_h", mean)), torch.tanh(affine("init_c", mean))
    keys = torch.stack([affine("keys.0", row) for row in a])
    for layer in range(1, shape.attention_layers):
        keys = torch.stack([torch.tanh(affine(f"keys.{layer}", row)) for row in keys])
    scores, weights = [], []
    for word in batch.inputs[0].tolist():
        y = torch.zeros(SHAPE.embedding) if word < 0 else w["embedding.weight"][word]
        e = torch.stack(
            [w["attention.v.weight"][0] @ torch.tanh(k + w["attention.query.weight"] @ h)
             for k in keys]
        )  # fmt: skip
        alpha = torch.exp(e) / torch.exp(e).sum()
        context = sum(weight * row for weight, row in zip(alpha, a, strict=True))
        context = torch.sigmoid(affine("selector", h)) * context
        x = torch.cat([y, context])
        pre = w["cell.weight_ih"] @ x + w["cell.bias_ih"] + w["cell.weight_hh"] @ h
        i, f, g, o = pre.chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        r = torch.tanh(affine("readout_h", kept * h) + y + affine("readout_context", context))
        r = kept * r
        for layer in range(shape.output_layers - 1):
            r = kept * torch.relu(affine(f"output_hidden.{layer}", r))
        scores.append(affine("output", r))
        weights.append(alpha)
    return torch.stack(scores), torch.stack(weights)


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize(("init", "attention", "output"), [(2, 2, 1), (3, 3, 3)])
def test_equations(init: int, attention: int, output: int, dropout: bool) -> None:
    """Dropout is at four places, as a factor of one half in evaluation, and at no other."""
    layers = {"init_layers": init, "attention_layers": attention, "output_layers": output}
    model, batch = scatter(captioner(**layers, dropout=dropout)), a_batch()
    model.train(not dropout)
    out = model(batch.annotations, batch.inputs)
    scores, weights = by_hand(model, batch)
    torch.testing.assert_close(model.output(out.readout)[0], scores, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.alpha[0], weights, rtol=1e-5, atol=1e-6)
    assert out.used is not None and torch.equal(out.used, out.alpha)


def test_switches_remove_their_part() -> None:
    model, batch = scatter(captioner()), a_batch()
    full = model(batch.annotations, batch.inputs).readout
    with torch.no_grad():
        model.readout_context.weight.zero_()
        model.readout_context.bias.zero_()
    for name, off in (("ctx2out", {"ctx2out": False}), ("all", {"ctx2out": False, "prev2out": False,
                      "selector": False, "attention_layers": 1, "init_layers": 1})):  # fmt: skip
        other = captioner(**off)
        other.load_state_dict(model.state_dict(), strict=False)
        found = other(batch.annotations, batch.inputs).readout
        same = torch.equal(found, model(batch.annotations, batch.inputs).readout)
        assert same == (name == "ctx2out") and not torch.equal(found, full)


# --- where it starts


def test_first_cost_and_first_attention() -> None:
    """(words + 1) ln V; every weight 1/S; penalty B (1 - T/S)^2."""
    model = captioner(words=8809, channels=16, embedding=16, hidden=24)
    batch = a_batch(rows=8, words=6, places=49, channels=16, vocabulary=8809)
    with torch.no_grad():
        out = model(batch.annotations, batch.inputs)
    nll = word_costs(model, out.readout, batch.targets).costs.sum(1)
    assert nll.tolist() == pytest.approx([7 * math.log(8809)] * 8, rel=1e-3)
    assert torch.allclose(out.alpha, torch.tensor(1 / 49), rtol=1e-2)
    assert float(doubly_stochastic(out.alpha)) == pytest.approx(8 * (1 - 7 / 49) ** 2, rel=1e-3)
    cost = training_cost(model, batch, 2.0)
    assert float(cost.loss.detach()) == pytest.approx(
        7 * math.log(8809) + 2 * 8 * (1 - 7 / 49) ** 2, rel=1e-3
    )


def test_the_penalty_sums_over_the_batch() -> None:
    """Mean over two locations of (1 - 0.5 - 0.25)^2 + (1 - 1)^2 and (1 - 1.25)^2 + 0."""
    alpha = torch.tensor([[[0.5, 0.5], [0.25, 0.75]], [[0.25, 0.75], [0.75, 0.25]]])
    assert float(doubly_stochastic(alpha)) == pytest.approx((0.0625 + 0.0625) / 2)


def test_cost_of_a_word() -> None:
    """-ln(p + 1e-8): an impossible word costs 18.4 nats and no more."""
    logits = torch.tensor([[[0.0, 0.0, math.log(2)], [0.0, -1000.0, 0.0]]])
    found = linear_cross_entropy(logits, torch.eye(3), None, torch.tensor([[2, 1]]), floor=TINY)
    assert found.costs[0].tolist() == pytest.approx([math.log(2), 8 * math.log(10)], rel=1e-5)


def orthogonal(weight: Tensor, blocks: int, scale: float) -> bool:
    return all(
        torch.allclose(b.T @ b, scale**2 * torch.eye(len(b)), atol=1e-5 * scale**2)
        for b in weight.detach().chunk(blocks)
    )


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_first_weights(scale: float) -> None:
    """Sizes related as in the paper's setting: D = E, H another."""
    model = captioner("nah", scale, channels=40, embedding=40, hidden=30, words=50, output_layers=2)
    square = {"cell.weight_hh": 4, "keys.1.weight": 1, "init_hidden.0.weight": 1,
              "readout_context.weight": 1, "output_hidden.0.weight": 1}  # fmt: skip
    for name, parameter in model.named_parameters():
        if name in square:
            assert orthogonal(parameter, square[name], scale), name
        elif name.endswith(".p"):
            assert 0.3 < float(parameter.detach().abs().max()) <= 1
        elif "bias" in name:
            assert not parameter.any()
        else:
            assert float(parameter.detach().std()) == pytest.approx(0.01, rel=0.35), name
    assert "cell.bias_hh" not in dict(model.named_parameters())
    # Words to gates: orthogonal gate by gate where E = H.
    same = captioner(embedding=7, hidden=7)
    assert orthogonal(same.cell.weight_ih[:, :7], 4, 1.0)


def test_arms_start_from_the_same_weights() -> None:
    first = captioner().state_dict()
    for variant in ("hard", "nan", "nani"):
        other = captioner(variant).state_dict()
        assert all(torch.equal(value, other[name]) for name, value in first.items())


# --- units


@pytest.mark.parametrize(("variant", "learns"), [("nah", 1), ("nani", 0), ("nanil", 1)])
def test_eleven_units_and_their_p(variant: str, learns: int) -> None:
    """2 H at the start, D in the second layer of keys, D in the score, 1, 5 H, E."""
    hard, noisy = captioner("hard"), captioner(variant)
    assert len(list(activations(noisy))) == 11
    kinds = [unit.kind.name for unit in activations(noisy)]
    assert (kinds.count("tanh"), kinds.count("sigmoid")) == (7, 4)
    grown = sum(p.numel() for p in noisy.parameters()) - sum(p.numel() for p in hard.parameters())
    d, h, e = SHAPE.channels, SHAPE.hidden, SHAPE.embedding
    assert grown == learns * (2 * h + d + d + 1 + 5 * h + e)
    assert grown == sum(p.numel() for p in noise_parameters(noisy))


# Less noise than that of c = 30 does not take NANIL out of saturation.
@pytest.mark.parametrize(
    ("variant", "c"), [("nan", 0.5), ("nah", 0.5), ("nani", 0.5), ("nanil", 30)]
)
def test_without_noise_every_unit_is_hard(variant: str, c: float) -> None:
    batch = a_batch()
    hard, noisy = scatter(captioner("hard"), 2.0), scatter(captioner(variant, c=c), 2.0)
    noiseless = scatter(captioner(variant, c=0.0), 2.0)
    expected = hard(batch.annotations, batch.inputs).readout
    assert not torch.allclose(noisy(batch.annotations, batch.inputs).readout, expected)
    found = noiseless(batch.annotations, batch.inputs).readout
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    if variant == "nan":  # its expectation is the hard unit
        found = noisy.eval()(batch.annotations, batch.inputs).readout
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# --- masks, dropout, layout


@pytest.mark.parametrize("variant", ["reference", "nah", "nani", "nanil"])
def test_a_masked_step_keeps_the_state(variant: str) -> None:
    """Whatever the noise."""
    model, batch, seen = scatter(captioner(variant, c=30)), a_batch(), []
    model.readout_h.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]).bool()
    for given in (mask, None):
        torch.manual_seed(4)
        model(batch.annotations, batch.inputs, given)
    masked, free = seen
    assert torch.equal(masked[0], free[0]) and torch.equal(masked[:, :2], free[:, :2])
    assert all(torch.equal(masked[1, t], masked[1, 1]) for t in (2, 3, 4))
    assert torch.equal(masked[2, 4], masked[2, 2]) and not torch.equal(free[2, 4], free[2, 2])


def test_nll_of_captions_of_different_lengths() -> None:
    """Together, padded, as one by one; the end is counted, what follows it is not."""
    model, batch = scatter(captioner()).eval(), a_batch(rows=2)
    targets = batch.targets.clone()
    targets[1, 2:] = 0
    inputs = torch.cat([torch.full((2, 1), -1), targets[:, :-1]], 1)
    generator = torch.Generator()
    together = caption_nll(model, Batch(batch.annotations, inputs, targets), generator)
    alone = [
        caption_nll(
            model, Batch(batch.annotations[k : k + 1], inputs[k : k + 1, :n],
                         targets[k : k + 1, :n]), generator,
        )
        for k, n in ((0, 5), (1, 3))
    ]  # fmt: skip
    assert together.tolist() == pytest.approx([float(one) for one in alone], rel=1e-6)


def test_dropout_of_old() -> None:
    """A coin without rescaling in training, one half in evaluation: the means agree."""
    drop, x = OldDropout(True), torch.rand(200, 100) + 1
    torch.manual_seed(3)
    found = drop(x)
    kept = found != 0
    assert torch.equal(found[kept], x[kept])
    assert float(kept.float().mean()) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(x.numel()))
    assert torch.equal(drop.eval()(x), 0.5 * x)
    assert torch.equal(OldDropout(False)(x), x)
    # At the first state, the LSTM's output and the readout; equal seeds give equal draws.
    model, batch = scatter(captioner(dropout=True)), a_batch()
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(model(batch.annotations, batch.inputs).readout)
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_locations_are_a_set_of_vectors() -> None:
    """Moving whole locations moves the attention and nothing else; mixing up channels does more.

    A map that is read in the wrong layout has the right mean and the wrong vectors.
    """
    model, batch = scatter(captioner()).eval(), a_batch(rows=1)
    a = batch.annotations
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    out = model(a, batch.inputs)
    moved = model(a[:, order], batch.inputs)
    torch.testing.assert_close(moved.readout, out.readout, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moved.alpha, out.alpha[:, :, order], rtol=1e-4, atol=1e-6)
    mixed = torch.stack([a[:, :, k].roll(k, 1) for k in range(a.shape[2])], 2)
    torch.testing.assert_close(mixed.mean(1), a.mean(1))
    difference = (model(mixed, batch.inputs).readout - out.readout).abs().max()
    assert float(difference.detach()) > 0.01


# --- decoding


def test_a_beam_of_one_is_greedy() -> None:
    model, batch = scatter(captioner()).eval(), a_batch(rows=4)
    found = decode(model, batch.annotations, 1, 8)
    for row, hypothesis in enumerate(found):
        words, nats, alphas = [-1], 0.0, []
        while len(words) <= 8 and words[-1] != 0:
            out = model(batch.annotations[row : row + 1], torch.tensor([words]))
            log_p = model.output(out.readout)[0, -1].log_softmax(-1)
            nats -= float(log_p.max().detach())
            alphas.append(out.alpha[0, -1])
            words.append(int(log_p.argmax()))
        ended = words[-1] == 0
        assert hypothesis.tokens == words[1 : len(words) - ended]
        assert hypothesis.finished == ended
        assert hypothesis.score == pytest.approx(nats, rel=1e-5)
        assert hypothesis.attention is not None
        torch.testing.assert_close(hypothesis.attention, torch.stack(alphas))


def test_a_wider_beam_costs_less() -> None:
    """The cost that it reports is the caption's NLL, and never above the greedy one here."""
    model, batch = scatter(captioner()).eval(), a_batch(rows=4)
    one, ten = (decode(model, batch.annotations, beam, 8) for beam in (1, 10))
    for row, (greedy, found) in enumerate(zip(one, ten, strict=True)):
        assert found.score <= greedy.score + 1e-5
        targets = torch.tensor([[*found.tokens, 0]])[:, : found.length]
        inputs = torch.cat([torch.full((1, 1), -1), targets[:, :-1]], 1)
        out = model(batch.annotations[row : row + 1], inputs)
        nll = -model.output(out.readout)[0].log_softmax(-1).gather(1, targets[0, :, None]).sum()
        assert found.score == pytest.approx(float(nll.detach()), rel=1e-4)
