"""Columns of characters, which of them are scored, and how."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch

from noisyexp.tasks.lte.layout import NO_TARGET, Matrix, encode, fill
from noisyexp.tasks.lte.programs import ALPHABET, Program, programs
from noisyexp.tasks.lte.scoring import accuracy, standard_error, trivial_accuracies


def stream(key: int = 3) -> Iterator[Program]:
    return programs(key, "valid", "naive", (6, 3), (6, 3))


def read(matrix: Matrix, column: int) -> tuple[str, str]:
    """Text of a column, and what is scored with blanks for the rest."""
    symbols, targets = matrix.symbols[:, column].tolist(), matrix.targets[:, column].tolist()
    return (
        "".join(ALPHABET[s] for s in symbols),
        "".join(" " if t == NO_TARGET else ALPHABET[t] for t in targets),
    )


def test_columns_hold_the_programs_in_order() -> None:
    matrix = fill(stream(), 501, 7)
    assert matrix.symbols.shape == matrix.targets.shape == (501, 7)
    order = stream()
    scored = 0
    following = next(order)
    for column in range(7):
        text, targets = read(matrix, column)
        position = 0
        while position + 1 + len("".join(following)) <= 501:
            source, target = following
            end = position + len(source)
            assert text[position:end] == source and not targets[position:end].strip()
            assert text[end : end + len(target)] == targets[end : end + len(target)] == target
            position, scored = end + len(target), scored + len(target)
            following = next(order)
        # The one that did not fit is the first of the next column.
        assert text[position:] == " " * (501 - position) and not targets[position:].strip()
        assert 501 - position <= len("".join(following))
    # Number of scored positions = sum of the lengths of the targets, final dots included.
    assert int((matrix.targets != NO_TARGET).sum()) == scored


def test_windows_score_every_target_once() -> None:
    """Ten windows of 50 over 501 rows: inputs are rows 1 to 500, targets one row later."""
    matrix = fill(stream(), 501, 20)
    assert bool((matrix.targets[0] == NO_TARGET).all())
    total = 0
    for index in range(10):
        inputs, targets = matrix.window(index, 50)
        assert inputs.shape == targets.shape == (50, 20)
        assert torch.equal(inputs[0], matrix.symbols[index * 50])
        total += int((targets != NO_TARGET).sum())
    assert total == int((matrix.targets != NO_TARGET).sum())
    # "@" predicts the first character of an output, the last but one predicts ".".
    inputs, targets = matrix.window(0, 50)
    at, dot = encode("@.")
    first = [row for row in range(50) if inputs[row, 0] == at]
    assert all(targets[row, 0] != NO_TARGET for row in first)
    assert all(targets[row - 1, 0] == NO_TARGET for row in first if row)
    assert not bool((targets[inputs == dot] != NO_TARGET).any())


def test_original_test_set_has_about_690_programs() -> None:
    """501 x 100 at level (6, 3): about 690 programs and 5,600 scored characters."""
    matrix = fill(programs(1, "test", "naive", (6, 3), (6, 3)), 501, 100)
    count = int((matrix.symbols == encode("@")[0]).sum())
    assert count == pytest.approx(690, abs=20)
    assert int((matrix.targets != NO_TARGET).sum()) == pytest.approx(5_600, abs=200)


def test_a_column_that_is_too_short() -> None:
    with pytest.raises(ValueError, match="a column of 8 rows is too short"):
        fill(stream(), 8, 1)


def test_accuracy_and_its_standard_error() -> None:
    """By hand: residuals 1 - 4/3 and 3 - 8/3, error sqrt(2 * 2/9) / 6."""
    right, scored = torch.tensor([1, 3]), torch.tensor([2, 4])
    assert accuracy(right, scored) == pytest.approx(100 * 4 / 6)
    assert standard_error(right, scored) == pytest.approx(100 * math.sqrt(2 * 2 / 9) / 6)
    # Columns all right or all wrong: the error of a share among columns, not among characters.
    right, scored = torch.tensor([10] * 30 + [0] * 70), torch.full((100,), 10)
    assert standard_error(right, scored) == pytest.approx(100 * math.sqrt(0.3 * 0.7 / 99))
    assert math.isnan(standard_error(right[:1], scored[:1]))


def test_standard_error_is_the_spread_of_many_sets() -> None:
    """400 sets of 60 columns whose hits depend on their column."""
    generator = torch.Generator().manual_seed(0)
    values, errors = [], []
    for _ in range(400):
        scored = torch.randint(30, 70, (60,), generator=generator)
        p = torch.rand(60, generator=generator)
        right = torch.binomial(scored.double(), p.double(), generator=generator)
        values.append(accuracy(right, scored))
        errors.append(standard_error(right, scored))
    spread = float(torch.tensor(values).std())
    assert sum(errors) / 400 == pytest.approx(spread, rel=0.12)


def test_trivial_predictors_by_hand() -> None:
    found = trivial_accuracies([Program("@", "12."), Program("@", "13."), Program("@", "2.")])
    # 8 characters: three dots; places 1, {2, 3 or .}, "."; given the one before: 1 1 | ., 2 or 3.
    assert found == {
        "character": pytest.approx(100 * 3 / 8),
        "position": pytest.approx(100 * (2 + 1 + 2) / 8),
        "previous": pytest.approx(100 * (2 + 1 + 1 + 2) / 8),
    }


def test_trivial_predictors_at_the_last_level() -> None:
    """12.2, 22.6 and 23.3 % as counted by an independent generator."""
    sample = list(itertools.islice(programs(2, "test", "naive", (6, 3), (6, 3)), 12_000))
    found = trivial_accuracies(sample)
    assert found["character"] == pytest.approx(12.2, abs=0.2)
    assert found["position"] == pytest.approx(22.6, abs=0.6)
    assert found["previous"] == pytest.approx(23.3, abs=0.6)
