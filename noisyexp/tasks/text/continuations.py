"""What a language model writes, and which tokens it finds hard, as text for people."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from noisyexp.activations import derive_seed
from noisyexp.data.vocab import Vocab
from noisyexp.errors import DataError
from noisyexp.nn.language_model import LanguageModel
from noisyexp.tasks.base import Wanted


@dataclass(frozen=True)
class Amounts:
    """How much is shown, in tokens.

    Attributes:
        prompt: read before writing.
        written: of a continuation.
        scored: of the text searched for hard tokens.
        between: what is put between tokens.
    """

    prompt: int
    written: int
    scored: int
    between: str

    def read(self, tokens: Tensor, vocab: Vocab) -> str:
        """Tokens as text."""
        return self.between.join(vocab.lookup_tokens(tokens.tolist()))


CHARACTERS = Amounts(80, 300, 20_000, "")
WORDS = Amounts(20, 60, 2_000, " ")

UNKNOWN = "<unk>"
"""What words outside of the dictionary become, as in the text that the model was trained on."""

TEMPERATURE = 0.8
STREAMS = 10


@torch.no_grad()
def write(
    model: LanguageModel,
    prompt: Tensor,
    count: int,
    temperature: float,
    device: torch.device,
    sample: int = 0,
) -> Tensor:
    """`count` tokens that the model puts after `prompt`, the same at every call.

    Args:
        model: in evaluation mode.
        prompt: (P,) int64, read from a zero state.
        count: number of tokens.
        temperature: scores are divided by it before one is drawn; 0 takes the likeliest.
        device: of the model.
        sample: number of the continuation; others draw other tokens.

    Returns:
        (count,) int64.
    """
    draw = (sample,) if sample else ()  # the first draws what it always drew
    generator = torch.Generator().manual_seed(derive_seed("ptb_char", "look", *draw))
    logits, state = model(prompt.to(device).unsqueeze(1), model.zero_state(1))
    written = []
    for _ in range(count):
        scores = logits[-1, 0].double().cpu()
        if temperature:
            law = (scores / temperature).softmax(-1)
            token = torch.multinomial(law, 1, generator=generator)
        else:
            token = scores.argmax(keepdim=True)
        written.append(token)
        logits, state = model(token.to(device).unsqueeze(1), state)
    return torch.cat(written)


@torch.no_grad()
def hard_tokens(
    model: LanguageModel, streams: Tensor, count: int
) -> list[tuple[int, float, float, int]]:
    """Tokens that cost most in all.

    Args:
        model: in evaluation mode, on the device of `streams`.
        streams: (rows, B) int64, each read from a zero state.
        count: length of the list.

    Returns:
        Id, percent of all bits, mean bits, and the id most often thought likeliest in its place
        when it was not the likeliest itself (its own id if that never happened).
    """
    logits, _ = model(streams[:-1], model.zero_state(streams.shape[1]))
    targets = streams[1:].flatten()
    logs = logits.double().log_softmax(-1).flatten(0, 1)
    bits = -logs.gather(1, targets.unsqueeze(1)).squeeze(1) / math.log(2)
    guesses = logs.argmax(-1)
    totals = torch.zeros(logs.shape[1], dtype=torch.float64)
    totals.index_add_(0, targets.cpu(), bits.cpu())
    found = []
    for token in totals.argsort(descending=True)[:count].tolist():
        here = targets == token
        if not bool(here.any()):
            break
        wrong = Counter(guess for guess in guesses[here].tolist() if guess != token)
        taken = wrong.most_common(1)[0][0] if wrong else token
        share = 100.0 * float(totals[token] / totals.sum())
        found.append((token, share, float(bits[here].mean()), taken))
    return found


def continuations(
    model: LanguageModel,
    vocab: Vocab,
    device: torch.device,
    amounts: Amounts,
    wanted: Wanted,
) -> list[str]:
    """What the model writes behind a prompt, each continuation with the prompt before it.

    Args:
        model: in evaluation mode.
        vocab: of the model.
        device: of the model.
        amounts: `CHARACTERS` or `WORDS`.
        wanted: prompt, temperature and how many.

    Raises:
        DataError: the prompt is empty, or has symbols that the model never saw.
    """
    tokens = list(wanted.prompt) if amounts.between == "" else wanted.prompt.split()
    unknown = [token for token in tokens if token not in vocab]
    if unknown and UNKNOWN in vocab and amounts.between:
        tokens = [token if token in vocab else UNKNOWN for token in tokens]
    elif unknown or not tokens:
        said = (
            f"the model has never seen {', '.join(map(repr, unknown))}" if unknown else "is empty"
        )
        raise DataError(f"prompt={wanted.prompt!r}: {said}")
    prompt = torch.tensor(vocab.lookup_indices(tokens))
    found = []
    for sample in range(wanted.samples):
        written = write(model, prompt, amounts.written, wanted.temperature, device, sample)
        found.append(amounts.read(torch.cat([prompt, written]), vocab))
    return found


def describe(
    model: LanguageModel, text: Tensor, vocab: Vocab, device: torch.device, amounts: Amounts
) -> str:
    """Two continuations of the first tokens of `text`, and the tokens hard to predict.

    Args:
        model: in evaluation mode.
        text: (tokens,) int64.
        vocab: symbols of these ids.
        device: of the model.
        amounts: `CHARACTERS` or `WORDS`.
    """
    prompt = text[: amounts.prompt]
    lines = [f"prompt: {amounts.read(prompt, vocab)}"]
    for name, temperature in (("likeliest", 0.0), (f"temperature {TEMPERATURE}", TEMPERATURE)):
        written = write(model, prompt, amounts.written, temperature, device)
        lines += ["", f"{name}:", amounts.read(written, vocab)]
    rows = min(amounts.scored, len(text)) // STREAMS
    streams = text[: rows * STREAMS].view(STREAMS, rows).T.to(device)
    lines += ["", "hard tokens: share of all bits, bits each, most often taken for"]
    for token, share, bits, taken in hard_tokens(model, streams, 8):
        name, other = (repr(vocab.lookup_token(index)) for index in (token, taken))
        lines.append(f"  {name:<5} {share:4.1f} %  {bits:5.2f}  {other}")
    return "\n".join(lines)
