"""Programs as a matrix of characters: columns are streams, filled one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from noisyexp.tasks.lte.programs import ALPHABET, Program

NO_TARGET = -1
_CODES = bytes(max(ALPHABET.find(chr(code)), 0) for code in range(256))


@dataclass(frozen=True, eq=False)
class Matrix:
    """A data set.

    Attributes:
        symbols: (rows, columns) int64, positions in `ALPHABET`; every character.
        targets: the same where the character belongs to a target, `NO_TARGET` elsewhere.
    """

    symbols: Tensor
    targets: Tensor

    def window(self, index: int, steps: int) -> tuple[Tensor, Tensor]:
        """Inputs of window `index` and what is to be predicted one row later, (steps, columns)."""
        first = index * steps
        return self.symbols[first : first + steps], self.targets[first + 1 : first + steps + 1]

    def to(self, device: torch.device) -> Matrix:
        """A copy on `device`."""
        return Matrix(self.symbols.to(device), self.targets.to(device))


def encode(text: str) -> list[int]:
    """Positions of the characters in `ALPHABET`."""
    return list(text.encode("ascii").translate(_CODES))


def fill(stream: Iterator[Program], rows: int, columns: int) -> Matrix:
    """Write consecutive programs down the columns.

    A program that would leave no row free starts the next column; what is left of a column stays
    filled with symbol 0 and has no targets.

    Raises:
        ValueError: a program is longer than a column.
    """
    symbols = np.zeros((columns, rows), dtype=np.uint8)
    scored = np.zeros((columns, rows), dtype=bool)
    program = next(stream)
    for column in range(columns):
        texts: list[str] = []
        marks: list[bytes] = []
        used = 0
        while used + 1 + len(program.source) + len(program.target) <= rows:
            texts += program
            marks += [bytes(len(program.source)), b"\1" * len(program.target)]
            used += len(program.source) + len(program.target)
            program = next(stream)
        if not texts:
            raise ValueError(f"a column of {rows} rows is too short for {''.join(program)!r}")
        codes = "".join(texts).encode("ascii").translate(_CODES)
        symbols[column, :used] = np.frombuffer(codes, dtype=np.uint8)
        scored[column, :used] = np.frombuffer(b"".join(marks), dtype=np.uint8)
    tokens = torch.from_numpy(symbols.T.astype(np.int64))
    return Matrix(tokens, tokens.where(torch.from_numpy(scored.T.copy()), NO_TARGET))
