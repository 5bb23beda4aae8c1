"""Vocabulary with the interface of torchtext's `Vocab`.

torchtext itself is not a dependency: its last release cannot be imported with a current torch.
Written from its documentation; differences are named where they occur.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence


class Vocab:
    """Two-way map between tokens and ids 0 .. len-1.

    Args:
        tokens: the distinct tokens, in the order of their ids.

    Raises:
        RuntimeError: a token occurs twice.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self._itos: list[str] = list(tokens)
        self._stoi: dict[str, int] = {token: index for index, token in enumerate(self._itos)}
        self._default_index: int | None = None
        if len(self._stoi) != len(self._itos):
            twice = [token for token, count in Counter(self._itos).items() if count > 1]
            raise RuntimeError(f"tokens occur more than once in the vocabulary: {twice[:5]}")

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self._itos)

    def __contains__(self, token: object) -> bool:
        """Whether `token` has an id of its own."""
        return token in self._stoi

    def __getitem__(self, token: str) -> int:
        """Id of `token`, or the default index.

        Raises:
            RuntimeError: the token is unknown and no default index is set.
        """
        index = self._stoi.get(token, self._default_index)
        if index is None:
            raise RuntimeError(f"token {token!r} is not in the vocabulary and no default is set")
        return index

    def __call__(self, tokens: Sequence[str]) -> list[int]:
        """The same as `lookup_indices`."""
        return self.lookup_indices(tokens)

    def forward(self, tokens: Sequence[str]) -> list[int]:
        """The same as `lookup_indices`."""
        return self.lookup_indices(tokens)

    def lookup_indices(self, tokens: Sequence[str]) -> list[int]:
        """Ids of `tokens`, by the rule of `__getitem__`."""
        try:
            # A corpus has a million tokens and usually no unknown one.
            return [self._stoi[token] for token in tokens]
        except KeyError:
            return [self[token] for token in tokens]

    def lookup_token(self, index: int) -> str:
        """Token with id `index`.

        Raises:
            RuntimeError: `index` is not in [0, len).
        """
        if not 0 <= index < len(self._itos):
            raise RuntimeError(f"id {index} is outside the vocabulary [0, {len(self._itos)})")
        return self._itos[index]

    def lookup_tokens(self, indices: Sequence[int]) -> list[str]:
        """Tokens of `indices`, by the rule of `lookup_token`."""
        return [self.lookup_token(index) for index in indices]

    def get_itos(self) -> list[str]:
        """All tokens in the order of their ids; a copy."""
        return list(self._itos)

    def get_stoi(self) -> dict[str, int]:
        """Map from token to id; a copy."""
        return dict(self._stoi)

    def set_default_index(self, index: int | None) -> None:
        """Id given to unknown tokens. Not checked against the size; None: unknown is an error."""
        self._default_index = index

    def get_default_index(self) -> int | None:
        """Id given to unknown tokens, or None."""
        return self._default_index

    def insert_token(self, token: str, index: int) -> None:
        """Give `token` the id `index`; later ids move up by one, the default index does not.

        Raises:
            RuntimeError: the token exists or `index` is not in [0, len].
        """
        if token in self._stoi:
            raise RuntimeError(f"token {token!r} is in the vocabulary already")
        if not 0 <= index <= len(self._itos):
            raise RuntimeError(f"id {index} is outside [0, {len(self._itos)}]")
        self._itos.insert(index, token)
        for later in range(index, len(self._itos)):
            self._stoi[self._itos[later]] = later

    def append_token(self, token: str) -> None:
        """Give `token` the next free id.

        Raises:
            RuntimeError: the token exists.
        """
        self.insert_token(token, len(self._itos))


def build_vocab_from_iterator(
    iterator: Iterable[Iterable[str]],
    min_freq: int = 1,
    specials: Sequence[str] | None = None,
    special_first: bool = True,
    max_tokens: int | None = None,
) -> Vocab:
    """Vocabulary by falling frequency, ties in alphabetical order, as torchtext builds it.

    Args:
        iterator: gives the tokens of one text at a time.
        min_freq: tokens that occur less often are left out; specials are not.
        specials: tokens added in this order whether or not they occur.
        special_first: specials get the first ids, else the last ones.
        max_tokens: keep the `max_tokens - len(specials)` most frequent tokens. As in torchtext a
            special that is itself among these is not replaced by the next token.

    Raises:
        ValueError: the specials alone fill `max_tokens` (torchtext: AssertionError).
        RuntimeError: a special is given twice.
    """
    counts: Counter[str] = Counter()
    for tokens in iterator:
        counts.update(tokens)
    chosen = list(specials or [])
    ordered = sorted(counts, key=lambda token: (-counts[token], token))
    if max_tokens is not None:
        if len(chosen) >= max_tokens:
            raise ValueError(f"max_tokens={max_tokens} is filled by {len(chosen)} specials")
        ordered = ordered[: max_tokens - len(chosen)]
    kept = [token for token in ordered if counts[token] >= min_freq and token not in chosen]
    return Vocab(chosen + kept if special_first else kept + chosen)


def vocab_by_first_appearance(tokens: Iterable[str]) -> Vocab:
    """Vocabulary in the order in which `tokens` first appear (Penn Treebank's reference code)."""
    return Vocab(dict.fromkeys(tokens))
