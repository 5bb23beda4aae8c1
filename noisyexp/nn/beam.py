"""Beam search whose beam shrinks with every hypothesis that ends, for a batch of sentences.

Of one sentence: the best (beam - finished) continuations of all live hypotheses are kept; those
that end are moved to the finished ones. It stops when `beam` hypotheses are finished, none is alive
or `max_length` tokens are made; those alive then are candidates too. B sentences, V words.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

State = tuple[Tensor, ...]
StepFunction = Callable[[Tensor, State], tuple[Tensor, State, Tensor | None]]


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """What was found for one sentence.

    Attributes:
        tokens: without the end token.
        score: sum of -ln p over all tokens, the end token included.
        finished: whether it ends with the end token.
        attention: (length, S), one row a token, the end token included; None if `step` gave none.
    """

    tokens: list[int]
    score: float
    finished: bool
    attention: Tensor | None = None

    @property
    def length(self) -> int:
        """Number of tokens, the end token included."""
        return len(self.tokens) + self.finished


@dataclass(frozen=True)
class _Move:
    """One step of the search: (B', beam) each for the B' sentences still searched.

    Attributes:
        place: sentence -> its row here.
        words: last token of every new hypothesis.
        parents: slot of the hypothesis that it continues.
        attention: (B', beam, S) of the continued hypotheses, or None.
    """

    place: dict[int, int]
    words: Tensor
    parents: Tensor
    attention: Tensor | None


@dataclass(frozen=True)
class _Candidate:
    """A hypothesis by its place in the moves: the slot that it has after step `step`."""

    score: float
    step: int
    slot: int
    finished: bool

    def rank(self, normalise: bool) -> float:
        """What the winner has least of."""
        return self.score / (self.step + 1) if normalise else self.score


def _trace(sentence: int, winner: _Candidate, moves: list[_Move]) -> Hypothesis:
    """Walk back from the winner's last token to the first."""
    slot, tokens, rows = winner.slot, [], []
    for move in reversed(moves[: winner.step + 1]):
        row = move.place[sentence]
        tokens.append(int(move.words[row, slot]))
        slot = int(move.parents[row, slot])
        if move.attention is not None:
            rows.append(move.attention[row, slot])
    if winner.finished:
        del tokens[0]
    attention = torch.stack(rows[::-1]) if rows else None
    return Hypothesis(tokens[::-1], winner.score, winner.finished, attention)


class _Search:
    """The hypotheses of all sentences that are still searched, `beam` slots each.

    Attributes:
        sentences: the B' sentences still searched.
        totals: (B', beam), sum of ln p of the live hypothesis in a slot, -inf for none.
        left: (B', 1), beam - finished.
        found: candidates of every sentence.
    """

    def __init__(self, state: State, beam: int, end: int, first: int) -> None:
        self.beam, self.end = beam, end
        self.sentences = list(range(len(state[0])))
        self.found: list[list[_Candidate]] = [[] for _ in self.sentences]
        self.moves: list[_Move] = []
        self.state = tuple(part.repeat_interleave(beam, 0) for part in state)
        self.constant = [True] * len(state)
        device = state[0].device
        self.slots = torch.arange(beam, device=device)
        self.tokens = torch.full((len(self.sentences) * beam,), first, device=device)
        self.left = torch.full((len(self.sentences), 1), beam, device=device)
        # All slots of a sentence start the same: continue one.
        self.totals = torch.full((len(self.sentences), beam), -math.inf, device=device)
        self.totals[:, 0] = 0.0

    def advance(self, step: StepFunction) -> None:
        """One token more in every live hypothesis."""
        log_probs, new_state, attention = step(self.tokens, self.state)
        count, words = len(self.sentences), log_probs.shape[-1]
        sums = self.totals.unsqueeze(-1) + log_probs.reshape(count, self.beam, words)
        totals, index = sums.flatten(1).topk(self.beam, dim=1)
        if bool(totals.isnan().any()):  # topk takes NaN for the largest
            raise ValueError(f"NaN among the log probabilities of step {len(self.moves)}")
        parents, tokens = index // words, index % words
        place = {sentence: row for row, sentence in enumerate(self.sentences)}
        shaped = None if attention is None else attention.reshape(count, self.beam, -1)
        self.moves.append(_Move(place, tokens.cpu(), parents.cpu(), shaped))
        kept = (self.slots < self.left) & (totals > -math.inf)
        ended = kept & (tokens == self.end)
        self.collect(ended, totals, finished=True)
        self.left = self.left - ended.sum(1, keepdim=True)
        self.totals = totals.masked_fill(~kept | ended, -math.inf)
        starts = torch.arange(0, count * self.beam, self.beam, device=index.device)
        rows = (starts.unsqueeze(1) + parents).view(-1)
        # What every step hands back as it got it is the same in all slots of a sentence.
        self.constant = [
            fixed and new is old
            for fixed, new, old in zip(self.constant, new_state, self.state, strict=True)
        ]
        self.state = tuple(
            part if fixed else part.index_select(0, rows)
            for part, fixed in zip(new_state, self.constant, strict=True)
        )
        self.tokens = tokens.view(-1)

    def collect(self, chosen: Tensor, totals: Tensor, *, finished: bool) -> None:
        """Take the hypotheses where `chosen`, (B', beam), is true as candidates."""
        scores = (-totals[chosen]).tolist()
        for (row, slot), score in zip(chosen.nonzero().tolist(), scores, strict=True):
            candidate = _Candidate(score, len(self.moves) - 1, slot, finished)
            self.found[self.sentences[row]].append(candidate)

    def alive(self) -> Tensor:
        """(B', beam) bool."""
        return self.totals > -math.inf

    def forget_done(self) -> None:
        """Compute no longer for sentences without a live hypothesis, once they are half of all."""
        live = self.alive().any(1)
        if 2 * int(live.sum()) > len(self.sentences):
            return
        keep = live.nonzero().view(-1)
        rows = (keep.unsqueeze(1) * self.beam + self.slots).view(-1)
        self.state = tuple(part.index_select(0, rows) for part in self.state)
        self.tokens, self.totals, self.left = self.tokens[rows], self.totals[keep], self.left[keep]
        self.sentences = [self.sentences[row] for row in keep.tolist()]


@torch.no_grad()
def beam_search(
    step: StepFunction,
    state: State,
    *,
    beam: int,
    max_length: int,
    end: int = 0,
    first: int = -1,
    normalise: bool,
) -> list[Hypothesis]:
    """The best hypothesis of every sentence.

    Args:
        step: (tokens (N,) int64, state) -> (ln p of the next token (N, V), new state, attention
            weights (N, S) or None) for N rows, `beam` in a row for each sentence. What it hands
            back of the state as it got it (keys, annotations) is not copied from step to step; it
            must not change a tensor of the state in place.
        state: tensors with first dimension B.
        beam: hypotheses a sentence, finished ones included.
        max_length: most tokens of a hypothesis, the end token included.
        end: the token that ends a sentence.
        first: the token given to the first step, -1 for "no previous word".
        normalise: whether the winner has the least score / length, else the least score.

    Returns:
        One hypothesis a sentence; of equal ones the one that ended first.

    Raises:
        ValueError: an empty or uneven state, beam or max_length below 1, NaN among the ln p, or a
            sentence none of whose continuations has a finite ln p.
    """
    if not state:
        raise ValueError("the state is empty: its tensors say how many sentences there are")
    if len({len(part) for part in state}) > 1:
        raise ValueError(f"state tensors of {[len(part) for part in state]} sentences")
    if beam < 1 or max_length < 1:
        raise ValueError(f"beam {beam} and max_length {max_length} must be at least 1")
    search = _Search(state, beam, end, first)
    while search.sentences and len(search.moves) < max_length:
        search.advance(step)
        search.forget_done()
    search.collect(search.alive(), search.totals, finished=False)
    winners = [min(found, key=lambda c: c.rank(normalise), default=None) for found in search.found]
    if None in winners:
        raise ValueError(f"no word has a finite probability in sentence {winners.index(None)}")
    return [_trace(k, winner, search.moves) for k, winner in enumerate(winners) if winner]
