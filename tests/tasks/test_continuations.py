"""What the word model writes, and how saturated its units are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from noisyexp.activations import ActivationSpec
from noisyexp.errors import DataError
from noisyexp.nn.language_model import LanguageModel
from noisyexp.tasks.base import Wanted
from noisyexp.tasks.ptb import PTB
from noisyexp.tasks.text.word_model import WordModelConfig

CPU = torch.device("cpu")
SMALL = WordModelConfig(
    name="ptb", hidden_size=6, num_layers=2, dropout=0.0, init_range=2.0, batch_size=4, steps=5,
    reset="zero", max_tokens=400, vocab_size=40, train_tokens=1000,
)  # fmt: skip


def prepared(variant: str) -> tuple[PTB, LanguageModel]:
    """A model with weights so large that many units saturate, and not all."""
    task = PTB(SMALL, "generated", 0)
    task.prepare(Path())
    torch.manual_seed(0)
    model = task.build_model(ActivationSpec(variant))
    assert isinstance(model, LanguageModel)
    return task, model.eval()


def counted(model: LanguageModel, tokens: torch.Tensor) -> dict[str, float]:
    """Shares beyond 1 (tanh) and 2 (sigmoid), from the equations of a soft or a hard LSTM."""
    soft = model.lstm.spec.variant == "reference"
    state, x = model.state_dict(), model.embedding(tokens)
    found = {}
    for layer in (0, 1):
        h = c = torch.zeros(tokens.shape[1], 6)
        w, u, b, d = (
            state[f"lstm.{name}_l{layer}"]
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        seen: dict[str, list[torch.Tensor]] = {place: [] for place in "ifgoc"}
        outputs = []
        for t in range(len(tokens)):
            i, f, g, o = (x[t] @ w.T + h @ u.T + b + d).chunk(4, -1)
            gate = torch.sigmoid if soft else lambda a: (a / 4 + 0.5).clamp(0, 1)
            squash = torch.tanh if soft else lambda a: a.clamp(-1, 1)
            c = gate(f) * c + gate(i) * squash(g)
            h = gate(o) * squash(c)
            outputs.append(h)
            for place, value in zip("ifgoc", (i, f, g, o, c), strict=True):
                seen[place].append(value.abs() > (1 if place in "gc" else 2))
        for place, values in seen.items():
            found[f"l{layer}.{place}"] = 100 * float(torch.stack(values).double().mean())
        x = torch.stack(outputs)
    return found


@pytest.mark.parametrize("variant", ["reference", "hard"])
def test_saturation_is_that_of_the_equations(variant: str) -> None:
    task, model = prepared(variant)
    backend = model.lstm.backend
    with torch.no_grad():
        expected = counted(model, task.valid_streams[:500])
    found = task.saturated(model, CPU)
    assert found == {place: pytest.approx(share, abs=0.3) for place, share in expected.items()}
    assert all(5 < share < 95 for share in found.values())
    assert model.lstm.backend == backend == "auto"


def test_what_is_shown_of_a_run() -> None:
    task, model = prepared("nah")
    text = task.sample(model, CPU).text
    prompt = " ".join(task.corpus.vocab.lookup_tokens(task.corpus.valid[:20].tolist()))
    assert text.startswith(f"prompt: {prompt}\n")
    assert text.count("\n") == 28 and task.sample(model, CPU).text == text
    for place, share in task.saturated(model, CPU).items():
        assert f"\n  {place:<5} {share:4.1f} %" in text


def test_a_prompt_is_continued_by_the_likeliest_words() -> None:
    """At temperature 0 each word is the argmax of the whole text read again from a zero state."""
    task, model = prepared("reference")
    words = task.corpus.vocab.lookup_tokens(list(range(3, 6)))
    (text,) = task.write(model, CPU, Wanted(" ".join(words), 0.0, 1))
    found = torch.tensor(task.corpus.vocab.lookup_indices(text.split()))
    assert text.split()[:3] == words and len(found) == 3 + 60
    with torch.no_grad():
        logits, _ = model(found[:-1].unsqueeze(1), model.zero_state(1))
    assert torch.equal(logits[2:, 0].argmax(-1), found[3:])


def test_samples_differ_and_repeat_and_prompts_must_be_readable() -> None:
    task, model = prepared("reference")
    word = task.corpus.vocab.lookup_token(3)
    texts = task.write(model, CPU, Wanted(word, 2.0, 3))
    assert len(set(texts)) == 3 and texts == task.write(model, CPU, Wanted(word, 2.0, 3))
    for prompt, message in (("", "is empty"), ("never-seen", "has never seen 'never-seen'")):
        if prompt and "<unk>" in task.corpus.vocab:
            continue
        with pytest.raises(DataError, match=message):
            task.write(model, CPU, Wanted(prompt, 1.0, 1))
