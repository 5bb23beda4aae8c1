"""Accuracy per scored character, its standard error, and what trivial predictors reach."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from functools import cache
from itertools import islice

import torch
from torch import Tensor

from noisyexp.activations import derive_seed
from noisyexp.nn.language_model import LanguageModel
from noisyexp.tasks.lte.layout import NO_TARGET, Matrix
from noisyexp.tasks.lte.programs import Level, Program, programs

CHANCE_PROGRAMS = 20_000
"""Programs from which the accuracy of the trivial predictors is counted."""
CHUNK = 500
"""Columns that are scored at once; it changes memory, not the result."""


@torch.no_grad()
def column_scores(
    model: LanguageModel, matrix: Matrix, steps: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Right and scored characters of every column, both (columns,) int64.

    Every column begins with a zero state, which is carried from window to window; true characters
    are the inputs.

    Args:
        model: in evaluation mode.
        matrix: rows = windows * steps + 1.
        steps: length of a window.
        device: of the model.
    """
    right, scored = [], []
    for first in range(0, matrix.symbols.shape[1], CHUNK):
        columns = slice(first, first + CHUNK)
        part = Matrix(matrix.symbols[:, columns], matrix.targets[:, columns]).to(device)
        state = model.zero_state(part.symbols.shape[1])
        total = torch.zeros(part.symbols.shape[1], dtype=torch.int64, device=device)
        for index in range((len(part.symbols) - 1) // steps):
            inputs, targets = part.window(index, steps)
            found, state = model.loss(inputs, state, targets, ignore=NO_TARGET)
            total += found.hits.sum(0)
        right.append(total.cpu())
        scored.append((part.targets[1:] != NO_TARGET).sum(0).cpu())
    return torch.cat(right), torch.cat(scored)


def accuracy(right: Tensor, scored: Tensor) -> float:
    """Percent of all scored characters."""
    return 100.0 * float(right.sum()) / max(float(scored.sum()), 1.0)


def standard_error(right: Tensor, scored: Tensor) -> float:
    """Standard error of `accuracy` in points, columns being the independent units.

    Characters of a program depend on one another, so that a binomial error would be too small. The
    accuracy is a ratio of sums over columns: its error follows from the residuals
    right - accuracy * scored.
    """
    right, scored = right.double(), scored.double()
    columns, total = len(right), float(scored.sum())
    if columns < 2 or total == 0:
        return math.nan
    residuals = right - right.sum() / total * scored
    return 100.0 * math.sqrt(float(residuals.square().sum()) * columns / (columns - 1)) / total


def trivial_accuracies(programs: Sequence[Program]) -> dict[str, float]:
    """Percent right of the best predictors that look at almost nothing, on these programs.

    `character` always says the most frequent target character, `position` the most frequent one at
    this place of the target, `previous` that one given the character before it as well.
    """

    def places(program: Program) -> Iterator[tuple[str, dict[str, Hashable]]]:
        previous = "@"
        for index, character in enumerate(program.target):
            seen: dict[str, Hashable] = {
                "character": None, "position": index, "previous": (index, previous)
            }  # fmt: skip
            yield character, seen
            previous = character

    counts: dict[str, dict[Hashable, Counter[str]]] = {
        name: defaultdict(Counter) for name in ("character", "position", "previous")
    }
    total = 0
    for program in programs:
        for character, seen in places(program):
            total += 1
            for name, context in seen.items():
                counts[name][context][character] += 1
    return {
        name: 100.0 * sum(max(counter.values()) for counter in table.values()) / total
        for name, table in counts.items()
    }


def held_out_programs(level: Level, count: int) -> list[Program]:
    """Test programs of a level, the same for every seed and arm; not those of the test sets."""
    key = derive_seed("lte", "look")
    return list(islice(programs(key, "test", "naive", level, level), count))


@cache
def chance_accuracies(level: Level) -> dict[str, float]:
    """Test accuracy of trivial predictors at a level; see `trivial_accuracies`."""
    return trivial_accuracies(held_out_programs(level, CHANCE_PROGRAMS))
