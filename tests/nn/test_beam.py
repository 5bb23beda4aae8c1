"""Beam search against brute force, a greedy loop and a slow search of one sentence at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from noisyexp.nn.beam import Hypothesis, beam_search

END = 0
State = tuple[Tensor, ...]


class PrefixModel:
    """ln p of the next word as a random function of everything before it, for every sentence.

    The state is the number of the prefix and that of the sentence; the attention weights are these
    two numbers, so that a row shows which hypothesis it belongs to.
    """

    def __init__(self, sentences: int, words: int, steps: int, ends: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(10 * words + steps)
        prefixes = sum(words**n for n in range(steps))
        scores = torch.randn(sentences, prefixes, words, generator=generator, dtype=torch.float64)
        scores[..., END] += ends
        self.table, self.words = (2.0 * scores).log_softmax(-1), words
        self.rows: list[int] = []

    def start(self, *sentences: int) -> State:
        chosen = torch.tensor(sentences or range(len(self.table)))
        return torch.zeros_like(chosen), chosen

    def child(self, prefix: Tensor, words: Tensor) -> Tensor:
        return torch.where(words < 0, prefix, prefix * self.words + words + 1)

    def __call__(self, tokens: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        self.rows.append(len(tokens))
        prefix, sentence = self.child(state[0], tokens), state[1]
        weights = torch.stack([sentence, prefix], 1)
        return self.table[sentence, prefix], (prefix, sentence), weights

    def cost(self, sentence: int, words: tuple[int, ...]) -> float:
        prefix, total = 0, 0.0
        for word in words:
            total -= float(self.table[sentence, prefix, word])
            prefix = prefix * self.words + word + 1
        return total


def slow_search(
    model: PrefixModel, sentence: int, beam: int, steps: int, normalise: bool
) -> tuple[float, tuple[int, ...]]:
    """Section 4 of the description, one sentence, in lists: (cost, words with the end token)."""
    live: list[tuple[int, ...]] = [()]
    done: list[tuple[int, ...]] = []
    for _ in range(steps):
        longer = [(*prefix, word) for prefix in live for word in range(model.words)]
        longer.sort(key=lambda words: model.cost(sentence, words))
        live = []
        for words in longer[: beam - len(done)]:
            (done if words[-1] == END else live).append(words)
        if not live:
            break
    ranked = [(model.cost(sentence, words), words) for words in done + live]
    return min(ranked, key=lambda pair: pair[0] / (len(pair[1]) if normalise else 1))


def words_of(found: Hypothesis) -> tuple[int, ...]:
    return (*found.tokens, END) if found.finished else tuple(found.tokens)


@pytest.mark.parametrize("normalise", [False, True])
def test_an_exhaustive_beam_finds_the_best_of_all_sequences(normalise: bool) -> None:
    steps, model = 4, PrefixModel(8, 3, 4)
    sequences = [
        words
        for n in range(1, steps + 1)
        for words in itertools.product(range(3), repeat=n)
        if END not in words[:-1] and (words[-1] == END or n == steps)
    ]
    assert len(sequences) == 31  # 1 + 2 + 4 + 8 that end, 16 that do not
    found = beam_search(
        model, model.start(), beam=len(sequences), max_length=steps, normalise=normalise
    )
    for sentence, hypothesis in enumerate(found):
        best = min(
            sequences, key=lambda w: model.cost(sentence, w) / (len(w) if normalise else 1)
        )  # fmt: skip
        assert words_of(hypothesis) == best and hypothesis.length == len(best)
        assert hypothesis.score == pytest.approx(model.cost(sentence, best), rel=1e-12)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("beam", [1, 2, 3, 5])
def test_batches_equal_a_slow_search_of_single_sentences(beam: int, normalise: bool) -> None:
    steps, model = 6, PrefixModel(12, 5, 6)
    found = beam_search(model, model.start(), beam=beam, max_length=steps, normalise=normalise)
    assert len(found) == 12
    for sentence, hypothesis in enumerate(found):
        cost, words = slow_search(model, sentence, beam, steps, normalise)
        assert words_of(hypothesis) == words
        assert hypothesis.score == pytest.approx(cost, rel=1e-12)
        (alone,) = beam_search(
            model, model.start(sentence), beam=beam, max_length=steps, normalise=normalise
        )
        assert (alone.tokens, alone.score) == (hypothesis.tokens, hypothesis.score)


def test_done_sentences_are_not_computed_to_the_end() -> None:
    model = PrefixModel(12, 5, 6, ends=2.0)
    found = beam_search(model, model.start(), beam=2, max_length=6, normalise=False)
    for sentence, hypothesis in enumerate(found):
        assert words_of(hypothesis) == slow_search(model, sentence, 2, 6, False)[1]
    assert model.rows[0] == 24 and model.rows[-1] <= 12
    assert all(rows % 2 == 0 for rows in model.rows)


def test_beam_one_is_greedy() -> None:
    model = PrefixModel(10, 4, 7)
    for sentence, found in enumerate(
        beam_search(model, model.start(), beam=1, max_length=7, normalise=True)
    ):
        words: tuple[int, ...] = ()
        prefix = 0
        while len(words) < 7 and END not in words:
            words += (int(model.table[sentence, prefix].argmax()),)
            prefix = prefix * 4 + words[-1] + 1
        assert words_of(found) == words


def test_the_beam_shrinks_with_every_finished_hypothesis() -> None:
    """By hand, words end, a, b, beam 2: after "end" (0.5) and "a" (0.4), one continuation is left.

    It is "a a" (0.24), then "a a a" (0.144). A beam of constant width would also have kept "a b",
    which ends for certain: "a b end" has 0.16 at the same length.
    """
    table = {(): [0.5, 0.4, 0.1], (1,): [0.0, 0.6, 0.4], (1, 1): [0.1, 0.6, 0.3]}

    def step(tokens: Tensor, state: State) -> tuple[Tensor, State, None]:
        past = torch.cat([state[0], tokens[:, None]], 1)
        keys = [tuple(word for word in row if word > 0) for row in past.tolist()]
        rows = [table.get(key, [1.0, 0.0, 0.0]) for key in keys]
        return torch.tensor(rows).log(), (past,), None

    start = (torch.empty(1, 0, dtype=torch.int64),)
    (best,) = beam_search(step, start, beam=2, max_length=3, normalise=False)
    assert best.tokens == [] and best.finished and best.attention is None
    assert best.score == pytest.approx(-math.log(0.5)) and best.length == 1
    (best,) = beam_search(step, start, beam=2, max_length=3, normalise=True)
    assert best.tokens == [1, 1, 1] and not best.finished  # -ln(0.144) / 3 < -ln(0.5)
    assert best.score == pytest.approx(-math.log(0.144))


def test_attention_follows_the_hypothesis() -> None:
    """A row for every token, the end token's included, of the hypothesis that was continued."""
    model = PrefixModel(9, 4, 6)
    for sentence, found in enumerate(
        beam_search(model, model.start(), beam=3, max_length=6, normalise=True)
    ):
        prefix, expected = 0, []
        for word in words_of(found):
            expected.append([sentence, prefix])
            prefix = prefix * 4 + word + 1
        assert found.attention is not None and found.attention.tolist() == expected


def test_what_a_step_hands_back_is_not_copied() -> None:
    """Keys are the same in all slots of a sentence; not so what was changed once and then kept."""
    model, given = PrefixModel(3, 4, 5), []

    def step(tokens: Tensor, state: State) -> tuple[Tensor, State, None]:
        prefix, sentence, keys, first = state
        given.append(keys)
        log_probs, (prefix, sentence), _ = model(tokens, (prefix, sentence))
        if len(given) == 2:
            first = tokens + 10  # the first word of every hypothesis
        if len(given) > 2:
            # The number of a prefix of n words is sum over them of (word + 1) 4^(n - place).
            start = prefix
            while int(start.max()) > 4:
                start = torch.where(start > 4, (start - 1) // 4, start)
            assert torch.equal(first - 10, start - 1)
        return log_probs, (prefix, sentence, keys, first), None

    state = (*model.start(), torch.arange(3.0), torch.zeros(3, dtype=torch.int64))
    beam_search(step, state, beam=3, max_length=4, normalise=False)
    assert len(given) == 4
    same = [one is two for one, two in itertools.pairwise(given) if len(one) == len(two)]
    assert same and all(same)


def test_unlikely_words_and_the_end_of_time() -> None:
    """Words of probability 0 are no hypotheses, even where the beam has room for them."""

    def step(tokens: Tensor, state: State) -> tuple[Tensor, State, None]:
        log_probs = torch.full((len(tokens), 3), -math.inf)
        log_probs[:, 2] = 0.0
        return log_probs, state, None

    (found,) = beam_search(step, (torch.zeros(1, 1),), beam=4, max_length=5, normalise=True)
    assert (found.tokens, found.score, found.finished, found.length) == ([2] * 5, 0.0, False, 5)


def constant(value: float) -> Callable[..., tuple[Tensor, State, None]]:
    return lambda tokens, state: (torch.full((len(tokens), 3), value), state, None)


def test_mistakes_are_named() -> None:
    state = (torch.zeros(2, 1),)
    step = constant(-1.0)
    with pytest.raises(ValueError, match="NaN among the log probabilities of step 0"):
        beam_search(constant(math.nan), state, beam=2, max_length=3, normalise=True)
    with pytest.raises(ValueError, match="no word has a finite probability in sentence 0"):
        beam_search(constant(-math.inf), state, beam=2, max_length=3, normalise=True)
    with pytest.raises(ValueError, match="the state is empty"):
        beam_search(step, (), beam=2, max_length=3, normalise=True)
    with pytest.raises(ValueError, match=r"state tensors of \[2, 3\] sentences"):
        beam_search(step, (*state, torch.zeros(3)), beam=2, max_length=3, normalise=True)
    with pytest.raises(ValueError, match="beam 0 and max_length 3 must be at least 1"):
        beam_search(step, state, beam=0, max_length=3, normalise=True)
    assert beam_search(step, (torch.zeros(0),), beam=2, max_length=3, normalise=True) == []
