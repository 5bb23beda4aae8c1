"""The translation task: loss, learning, search, scores, configuration."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from noisyexp.activations import ActivationSpec, NoiseSource, attach_noise
from noisyexp.cli.compose import check
from noisyexp.nn.beam import Hypothesis, beam_search
from noisyexp.records.row_files import load_rows
from noisyexp.tasks import find_task
from noisyexp.tasks.nmt import NMT
from noisyexp.tasks.nmt.batches import pad, take
from noisyexp.tasks.nmt.corpus import Corpus
from noisyexp.tasks.nmt.decoding import HeldOut, mean_nll, read, score, search
from noisyexp.tasks.nmt.model import Translator
from noisyexp.training.optimizer import build_optimizer

CPU = torch.device("cpu")


def prepared(*overrides: str) -> NMT:
    (spec,) = check(["task=nmt", "scale=smoke", "data=generated", *overrides])
    task = NMT(spec.task_config, "generated", 0)
    task.prepare(Path())
    return task


def model_of(task: NMT, variant: str = "reference") -> Translator:
    torch.manual_seed(0)
    model = task.build_model(ActivationSpec(variant))
    assert isinstance(model, Translator)
    return model


def uniform(task: NMT) -> Translator:
    """A model for which all V words are equally likely, always."""
    model = model_of(task, "nah")
    with torch.no_grad():
        model.output.weight.zero_()
    return model


# Loss.


def test_a_uniform_model_costs_ln_v_a_word() -> None:
    task = prepared()
    model, words = uniform(task), math.log(60)
    output = task.loss(model, 0, CPU)
    lengths = task.corpus.target.lengths[task.batches[0]] + 1
    assert output.loss.item() == pytest.approx(lengths.mean() * words, rel=1e-6)
    assert output.items == lengths.sum() and output.sums["sentences"] == len(lengths) == 8
    sums = {key: float(value) for key, value in output.sums.items()}
    assert task.training_metrics(sums)["train_nll"] == pytest.approx(output.loss.item(), rel=1e-6)
    valid = task.corpus.valid.target.lengths + 1
    found = task.validate(model.eval(), CPU)
    assert found == {"valid_nll": pytest.approx(valid.mean() * words, rel=1e-5)}


def test_pairs_too_long_on_both_sides_do_not_count_in_validation() -> None:
    task = prepared()
    data, model = task.corpus.valid, uniform(task).eval()
    both = (data.source.lengths <= 12) | (data.target.lengths <= 12)
    assert 0 < both.sum() < len(data)
    expected = (data.target.lengths[both] + 1).mean() * math.log(60)
    assert mean_nll(model, data, 12, CPU) == pytest.approx(expected, rel=1e-5)


def test_loss_is_the_mean_over_sentences_not_words() -> None:
    task = prepared()
    model = model_of(task)
    batch = take(task.corpus.source, task.corpus.target, task.batches[1])
    each = model.loss(batch)[1]
    assert task.loss(model, 1, CPU).loss.item() == pytest.approx(each.mean().item(), rel=1e-6)


def test_an_update_has_fresh_noise_and_evaluation_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = prepared("task.init_std=1")
    model = model_of(task, "nah")
    source = NoiseSource(0)
    attach_noise(model, source)
    losses = []
    for step in (0, 1, 0):
        source.set_step(step)
        losses.append(task.loss(model, 0, CPU).loss.item())
    assert losses[0] == losses[2] != losses[1]
    model.eval()

    def refuse(*args: Any) -> None:
        raise AssertionError("a draw in evaluation")

    monkeypatch.setattr(source, "normal", refuse)
    monkeypatch.setattr(source, "draw_key", refuse)
    assert task.validate(model, CPU) == task.validate(model, CPU)


def test_first_step_of_adadelta() -> None:
    """|delta| = sqrt(eps) / sqrt((1 - rho) g^2 + eps) |g|: .00447 for large g."""
    (spec,) = check(["task=nmt", "act=reference", "scale=smoke", "data=generated"])
    task = prepared()
    model = model_of(task)
    optimizer = build_optimizer(model, spec.config.training)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    task.loss(model, 0, CPU).loss.backward()
    model.output.bias.grad[0] = 1000.0  # type: ignore[index]
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        g, moved = parameter.grad.double(), (parameter.detach() - before[name]).double()
        expected = -g * math.sqrt(1e-6) / (0.05 * g.square() + 1e-6).sqrt()
        torch.testing.assert_close(moved, expected, atol=1e-7, rtol=1e-3)
    step = before["output.bias"][0] - model.output.bias[0].detach()
    assert float(step) == pytest.approx(0.00447, abs=5e-6)


# Learning and search.


def learn(task: NMT, updates: int, variant: str) -> Translator:
    model = model_of(task, variant)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(updates):
        optimizer.zero_grad()
        task.loss(model, step, CPU).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def on_itself(task: NMT) -> NMT:
    """Tested on its training text."""
    corpus = task.corpus
    words = [" ".join(corpus.target.vocab.lookup_tokens(s.tolist())) for s in corpus.target]
    held = HeldOut(corpus.source, corpus.target, (words, words), words)
    task.corpus = Corpus(corpus.source, corpus.target, held, held, corpus.files)
    return task


@pytest.fixture(scope="module", params=["B", pytest.param("A", marks=pytest.mark.slow)])
def by_heart(request: pytest.FixtureRequest) -> tuple[NMT, Translator, HeldOut]:
    """A task of 50 pairs, a model that has learned them, and sentences that it has not seen."""
    task = prepared(
        "task.train_pairs=50", f"task.decoder={request.param}", "task.init_std=0.1", "task.beam=5",
        "task.embedding_size=24", "task.hidden_size=28", "task.batch_size=50",
        "task.decode_words=40",
    )  # fmt: skip
    unseen = task.corpus.test
    return on_itself(task), learn(task, 140, "hard"), unseen


def test_fifty_pairs_are_learned_by_heart(by_heart: tuple[NMT, Translator, HeldOut]) -> None:
    task, model, _ = by_heart
    found = task.test(model, CPU)
    assert found["test_bleu"] > 95
    assert found["test_nll"] < 3
    details = task.findings(model, CPU)
    assert details["test_sentences"] == 50
    assert details["test_bleu"]["score"] == found["test_bleu"]
    assert "tok:none" in details["test_bleu"]["signature"]
    assert "tok:13a" in details["test_bleu_13a"]["signature"]


def test_search_scores_are_likelihoods(by_heart: tuple[NMT, Translator, HeldOut]) -> None:
    """Score of a finished hypothesis: the model's loss on it."""
    _, model, unseen = by_heart
    for beam in (1, 5):
        found = search(model, [unseen.source[k] for k in range(20)], beam, 20, CPU)
        for hypothesis in found:
            assert hypothesis.attention is not None
            assert hypothesis.attention.shape[0] == hypothesis.length
        ended = {k: h for k, h in enumerate(found) if h.finished and len(h.tokens) > 1}
        assert len(ended) >= 15
        for k, hypothesis in ended.items():
            nll = mean_nll(model, replace_target(unseen, k, hypothesis.tokens), 99, CPU)
            assert hypothesis.score == pytest.approx(nll, abs=1e-4)


def test_a_wider_beam_finds_likelier_sentences(by_heart: tuple[NMT, Translator, HeldOut]) -> None:
    """Sentence by sentence, before and after division by length; a beam of 1 is greedy's choice."""
    _, model, unseen = by_heart
    sentences = [unseen.source[k] for k in range(20)]
    with torch.no_grad():
        memory, state = model.encode(*pad(sentences))
    start = (state, memory.annotations, memory.keys, memory.mask)
    narrow, wide = (
        beam_search(model.step, start, beam=beam, max_length=20, normalise=False) for beam in (1, 5)
    )
    gains = [one.score - five.score for one, five in zip(narrow, wide, strict=True)]
    assert sum(gain >= -1e-5 for gain in gains) >= 19 and sum(gain > 1e-3 for gain in gains) >= 4
    narrow, wide = (search(model, sentences, beam, 20, CPU) for beam in (1, 5))
    rates = [[h.score / h.length for h in found] for found in (narrow, wide)]
    assert sum(five <= one + 1e-5 for one, five in zip(*rates, strict=True)) >= 17
    for sentence, hypothesis in zip(sentences, narrow, strict=True):
        assert [*hypothesis.tokens, *[0] * hypothesis.finished] == greedy(model, sentence)


@torch.no_grad()
def greedy(model: Translator, sentence: Any) -> list[int]:
    """The likeliest word at every step, of one sentence alone, up to the end or 20 words."""
    memory, hidden = model.encode(*pad([sentence]))
    state: tuple[torch.Tensor, ...] = (hidden, memory.annotations, memory.keys, memory.mask)
    words = [-1]
    while words[-1] != 0 and len(words) <= 20:
        log_probs, state, _ = model.step(torch.tensor(words[-1:]), state)
        words.append(int(log_probs.argmax()))
    return words[1:]


def replace_target(data: HeldOut, row: int, tokens: list[int]) -> HeldOut:
    import numpy as np

    source = replace(data.source, ids=np.array(data.source[row]), starts=np.array(
        [0, len(data.source[row])]))  # fmt: skip
    target = replace(data.target, ids=np.array(tokens), starts=np.array([0, len(tokens)]))
    return HeldOut(source, target, ([""], [""]), [""])


def test_translations_are_scored_in_both_forms() -> None:
    """The first as they are; the second as plain text: a blank less before a full stop."""
    task = prepared()
    data = task.corpus.test
    same = score(data.tokenised[1], data, "fr")
    assert [bleu.score for bleu in same] == pytest.approx([100, 100])
    cut = score([line.removesuffix(" .") for line in data.tokenised[1]], data, "fr")
    words = sum(len(line.split()) for line in data.tokenised[1])
    assert cut[0].brevity_penalty == pytest.approx(math.exp(1 - words / (words - len(data))))
    assert cut[0].precisions == pytest.approx((100,) * 4)
    assert data.text[0] == data.tokenised[1][0].removesuffix(" .") + "."


def test_the_sample_shows_source_reference_and_translation() -> None:
    task = prepared()
    model = model_of(task).eval()
    shown = task.sample(model, CPU)
    blocks = [block.splitlines() for block in shown.text.split("\n\n")]
    assert len(blocks) == 10
    best = task.translate(model, [task.corpus.test.source[3]], CPU)[0]
    assert blocks[3] == [
        f"source:    {task.corpus.test.tokenised[0][3]}",
        f"reference: {task.corpus.test.tokenised[1][3]}",
        f"model:     {read(best, task.corpus.target.vocab)}",
    ]
    (panel,) = shown.panels
    assert panel.values.shape[1] == len(task.corpus.test.source[0]) + 1


def test_words_that_the_dictionary_lacks_are_unknown() -> None:
    """A text of few words leaves the model with ids that mean nothing."""
    vocab = prepared().corpus.target.vocab
    assert len(vocab) == 59  # of 60
    assert read(Hypothesis([2, 59, 1], 0.0, True), vocab) == f"{vocab.lookup_token(2)} UNK UNK"


# Configuration.


def test_configured_as_the_authors_script() -> None:
    assert find_task("nmt") is NMT and NMT.selection == "valid_nll"
    (spec,) = check(["task=nmt", "act=nah"])
    task, training = spec.task_config, spec.config.training
    assert (task.decoder, task.embedding_size, task.hidden_size) == ("B", 500, 1024)
    assert (task.init_std, task.orthogonal_scale) == (0.01, None)
    assert (task.valid_sentences, task.test_sentences) == (None, None)
    assert (task.vocab_size, task.max_length, task.batch_size, task.read_ahead) == (
        30_000, 50, 32, 20,
    )  # fmt: skip
    assert (task.corpus, task.valid_set, task.max_pairs) == ("full", "newstest2010", None)
    assert (task.beam, task.decode_words, task.epoch_steps) == (5, 200, 5000)
    assert (training.optimizer, training.lr, training.rms_decay, training.rms_eps) == (
        "adadelta", 1.0, 0.95, 1e-6,
    )  # fmt: skip
    assert (training.max_grad_norm, training.weight_decay) == (1.0, 0.0)
    assert (training.patience, training.stopping, training.use_weights) == (10, "history", "best")
    assert training.epochs * task.epoch_steps == 10_000_000


@pytest.mark.parametrize(
    ("act", "override", "scale"),
    [
        ("reference", [], 1.0), ("hard", [], 0.01), ("nah", [], 0.01),
        ("reference", ["task.orthogonal_scale=0.01"], 0.01),
        ("nah", ["task.orthogonal_scale=1"], 1.0),
    ],
)  # fmt: skip
def test_orthogonal_matrices_are_small_with_replaced_units(
    act: str, override: list[str], scale: float
) -> None:
    task = prepared(*override)
    weight = model_of(task, act).keys.weight.detach()
    product = weight.T @ weight / scale**2
    torch.testing.assert_close(product, torch.eye(24), atol=1e-5, rtol=0)


def test_rows_of_the_table() -> None:
    specs = {name: check([f"experiment=table4/{name}"])[0] for name in (
        "reference", "hard", "nah", "reference_small_orthogonal",
    )}  # fmt: skip
    settings = {name: spec.task_config for name, spec in specs.items()}
    control = settings.pop("reference_small_orthogonal")
    assert len({repr(setting) for setting in settings.values()}) == 1
    assert control == replace(settings["reference"], orthogonal_scale=0.01)
    assert specs["nah"].config.act.c == 0.5


def test_table_4_has_the_papers_numbers() -> None:
    rows = load_rows(Path(__file__).parents[2] / "configs/experiment/table4")
    paper = {
        row.experiment: (row.paper["test_nll"], row.paper["test_bleu"])
        for row in rows
        if row.source == "paper"
    }
    assert paper == {
        "table4/reference": (65.26, 20.18),
        "table4/hard": (64.27, 21.59),
        "table4/nah": (63.46, 22.57),
    }
    assert [row.experiment for row in rows if row.baseline is None] == ["table4/reference"]


def test_workers_do_not_make_another_run() -> None:
    digests = {check(["task=nmt", f"task.workers={n}"])[0].digest for n in (1, 2)}
    assert len(digests) == 1
