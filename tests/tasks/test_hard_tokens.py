"""What a character model writes, and the list of the characters that it finds hard."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from noisyexp.activations import ActivationSpec
from noisyexp.nn.language_model import LanguageModel
from noisyexp.tasks.ptb_char import PTBChar, PTBCharConfig
from noisyexp.tasks.text.continuations import hard_tokens, write

CPU = torch.device("cpu")
SMALL = PTBCharConfig(
    name="ptb_char", hidden_size=8, embedding_size=5, batch_size=4, steps=6, epoch_steps=None,
    valid_streams=3, max_eval_chars=1000, train_words=1000,
)  # fmt: skip


def prepared() -> tuple[PTBChar, LanguageModel]:
    task = PTBChar(SMALL, "generated", 0)
    task.prepare(Path())
    torch.manual_seed(0)
    model = task.build_model(ActivationSpec("nah"))
    assert isinstance(model, LanguageModel)
    return task, model.eval()


def test_writing_takes_the_likeliest_character() -> None:
    task, model = prepared()
    prompt = task.corpus.valid[:9]
    written = write(model, prompt, 20, 0.0, CPU)
    # The whole text again in one pass: every character is the argmax behind its past.
    logits, _ = model(torch.cat([prompt, written]).unsqueeze(1), model.zero_state(1))
    assert torch.equal(logits[8:-1, 0].argmax(-1), written)


def test_writing_at_a_temperature_follows_the_sharpened_law() -> None:
    task, model = prepared()
    size = len(task.corpus.vocab)
    law = torch.linspace(1, 4, size) / torch.linspace(1, 4, size).sum()
    with torch.no_grad():
        model.output.weight.zero_()
        model.output.bias.copy_(law.log())
    count = 2000
    written = write(model, task.corpus.valid[:2], count, 0.5, CPU)
    assert torch.equal(written, write(model, task.corpus.valid[:2], count, 0.5, CPU))
    sharp = law.double().square() / law.double().square().sum()
    found = torch.bincount(written, minlength=size).double()
    # Pearson's statistic has size - 1 degrees of freedom, deviation sqrt(2 (size - 1)).
    statistic = float(((found - count * sharp).square() / (count * sharp)).sum())
    assert abs(statistic - (size - 1)) < 4 * math.sqrt(2 * (size - 1))


def test_hard_characters_are_those_that_cost_most() -> None:
    task, model = prepared()
    streams = task.corpus.valid[:300].view(3, 100).T
    logits, _ = model(streams[:-1], model.zero_state(3))
    bits = -logits.detach().double().softmax(-1).log2()
    costs: dict[int, list[float]] = {}
    guesses: dict[int, list[int]] = {}
    for t in range(99):
        for b in range(3):
            target = int(streams[t + 1, b])
            costs.setdefault(target, []).append(float(bits[t, b, target]))
            guesses.setdefault(target, []).append(int(logits[t, b].argmax()))
    total = sum(map(sum, costs.values()))
    ranked = sorted(costs, key=lambda token: -sum(costs[token]))
    found = hard_tokens(model, streams, 5)
    assert [token for token, *_ in found] == ranked[:5]
    for token, share, mean, taken in found:
        assert share == pytest.approx(100 * sum(costs[token]) / total, rel=1e-5)
        assert mean == pytest.approx(sum(costs[token]) / len(costs[token]), rel=1e-5)
        wrong = [guess for guess in guesses[token] if guess != token]
        assert wrong.count(taken) == max(map(wrong.count, wrong))
    text = task.sample(model, CPU).text
    prompt = "".join(task.corpus.vocab.lookup_tokens(task.corpus.valid[:80].tolist()))
    assert text.startswith(f"prompt: {prompt}\n") and len(text) > 700
    assert task.sample(model, CPU).text == text
