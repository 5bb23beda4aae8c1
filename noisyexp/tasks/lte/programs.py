"""Random programs of "Learning to Execute" (Zaremba & Sutskever, 2014), by the rules of their code.

A level is (L, N): operands are uniform in 1 .. 10^L, and N operations are chained. Values are
computed while the text is built; nothing is ever executed. Randomness comes from
`random.Random(seed).random()` alone, whose values Python keeps from version to version.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import NamedTuple

ALPHABET = " #()*+-.0123456789:;<=>@abcdefghijlnoprstx"
LETTERS = "abcdefghij"
LOOP_VARIABLE = "x"
SPLITS = ("train", "valid", "test")
"""In the order of the hash classes 0, 1, 2."""
STRATEGIES = ("baseline", "naive", "mix", "combined")
MIX_SHARE = 0.2
"""Probability that `combined` draws as `mix` does."""

Level = tuple[int, int]
Draw = Callable[[], Level]
Operand = tuple[str, int]


class Program(NamedTuple):
    """One program as text, one character a token.

    Attributes:
        source: lines separated by "#", up to and with "@".
        target: the printed value in decimal, with the "." that ends it.
    """

    source: str
    target: str


def text_hash(text: str) -> int:
    """Hash of a complete program text: two bytes at a time, as in the original code.

    If the number of bytes is odd, the position of the last one (from 1) stands for the missing one.
    """
    data = text.encode("ascii")
    h = 1
    for first, second in zip_longest(data[::2], data[1::2], fillvalue=len(data)):
        h = 12345 * h % 452930459 + 67890 * first + 13579 * second
    return h


def split_of(program: Program) -> str:
    """The set to which a program belongs, so that no two sets share a text."""
    return SPLITS[text_hash(program.source + program.target) % 3]


def level_draw(strategy: str, current: Level, target: Level, uniform: Callable[[], float]) -> Draw:
    """What gives the level at each call.

    Args:
        strategy: `baseline` is always the target, `naive` always the current level, `mix` uniform
            over 1 .. L and 1 .. N of the target, `combined` is `mix` with probability 1/5 and the
            current level otherwise.
        current: the curriculum's level.
        target: the last level.
        uniform: draws from [0, 1).
    """
    top_length, top_nesting = target

    def mix() -> Level:
        return 1 + int(uniform() * top_length), 1 + int(uniform() * top_nesting)

    def combined() -> Level:
        return mix() if uniform() < MIX_SHARE else current

    draws: dict[str, Draw] = {
        "baseline": lambda: target,
        "naive": lambda: current,
        "mix": mix,
        "combined": combined,
    }
    return draws[strategy]


class Builder:
    """A program under construction.

    Args:
        draw: level of the next operand or multiplier.
        uniform: draws from [0, 1).

    Attributes:
        lines: finished lines.
        last: text and value of the previous operation, which the next one uses exactly once.
    """

    def __init__(self, draw: Draw, uniform: Callable[[], float]) -> None:
        self.draw, self.uniform = draw, uniform
        self.lines: list[str] = []
        self.last: Operand | None = None
        self._letters = list(LETTERS)

    def operands(self, count: int) -> list[Operand]:
        """The previous result if there is one, new numbers, in random order."""
        found = [] if self.last is None else [self.last]
        while len(found) < count:
            number = 1 + int(self.uniform() * 10 ** self.draw()[0])
            found.append((str(number), number))
        for i in range(count - 1, 0, -1):
            j = int(self.uniform() * (i + 1))
            found[i], found[j] = found[j], found[i]
        return found

    def factor(self) -> int:
        """Uniform in 1 .. 4L."""
        return 1 + int(self.uniform() * 4 * self.draw()[0])

    def variable(self) -> str:
        """A letter that this program has not used."""
        return self._letters.pop(int(self.uniform() * len(self._letters)))

    def heads(self) -> bool:
        """A fair coin."""
        return self.uniform() < 0.5


def _add(b: Builder) -> Operand:
    (left, x), (right, y) = b.operands(2)
    return (f"({left}+{right})", x + y) if b.heads() else (f"({left}-{right})", x - y)


def _multiply(b: Builder) -> Operand:
    ((text, x),) = b.operands(1)
    m = b.factor()
    return (f"({text}*{m})" if b.heads() else f"({m}*{text})", x * m)


def _identity(b: Builder) -> Operand:
    return b.operands(1)[0]


def _assign(b: Builder) -> Operand:
    (left, x), (right, y) = b.operands(2)
    v = b.variable()
    b.lines.append(f"{v}={left};")
    return (f"({v}+{right})", x + y) if b.heads() else (f"({v}-{right})", x - y)


def _loop(b: Builder) -> Operand:
    (start, x), (change, y) = b.operands(2)
    v, m = b.variable(), b.factor()
    sign = 1 if b.heads() else -1
    b.lines.append(f"{v}={start}")
    b.lines.append(f"for {LOOP_VARIABLE} in range({m}):{v}{'+' if sign > 0 else '-'}={change}")
    return v, x + sign * m * y


def _choose(b: Builder) -> Operand:
    (left, x), (right, y), yes, no = b.operands(4)
    if b.heads():
        sign, holds = ">", x > y
    else:
        sign, holds = "<", x < y
    return f"({yes[0]} if {left}{sign}{right} else {no[0]})", yes[1] if holds else no[1]


OPERATIONS = (_add, _multiply, _identity, _assign, _loop, _choose)


def compose(draw: Draw, uniform: Callable[[], float]) -> Program:
    """One random program.

    Args:
        draw: called for the number of operations, then for every new number and every factor.
        uniform: draws from [0, 1).
    """
    builder = Builder(draw, uniform)
    for _ in range(draw()[1]):
        builder.last = OPERATIONS[int(uniform() * len(OPERATIONS))](builder)
    assert builder.last is not None
    text, value = builder.last
    return Program("#".join([*builder.lines, f"print({text})@"]), f"{value}.")


def _constant(level: Level) -> Draw:
    return lambda: level


def programs(
    key: int,
    split: str,
    strategy: str,
    current: Level,
    target: Level,
    *,
    per_program: bool = False,
) -> Iterator[Program]:
    """Endless programs of one set, a function of the arguments alone.

    Args:
        key: seed.
        split: of `SPLITS`; programs of the other sets are thrown away.
        strategy: see `level_draw`.
        current: the curriculum's level.
        target: the last level.
        per_program: draw the level once a program, as the text of Zaremba & Sutskever says; their
            code draws it for every operand.
    """
    uniform = random.Random(key).random
    draw = level_draw(strategy, current, target, uniform)
    while True:
        program = compose(_constant(draw()) if per_program else draw, uniform)
        if split_of(program) == split:
            yield program
