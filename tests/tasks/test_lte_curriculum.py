"""The path of levels, the decision, the learning rate and the stop."""

from __future__ import annotations

from typing import Any

import pytest

from noisyexp.tasks import Decision
from noisyexp.tasks.lte.curriculum import LevelCurriculum


def curriculum(target: tuple[int, int] = (6, 3)) -> LevelCurriculum:
    return LevelCurriculum(target, threshold=95.0, patience=5, decay=0.8, min_lr=0.001)


def row(valid: float, train: float = 50.0) -> dict[str, Any]:
    return {"valid_acc": valid, "train_acc": train}


def test_path() -> None:
    path = curriculum().path
    lengths = range(1, 7)
    assert path == [(n, 1) for n in lengths] + [(n, 2) for n in lengths] + [(n, 3) for n in lengths]
    assert curriculum().level() == {"level_length": 1, "level_nesting": 1, "level": 0}
    assert curriculum((3, 1)).path == [(1, 1), (2, 1), (3, 1)]


def test_seventeen_levels_then_twenty_eight_decays_then_stop() -> None:
    state, lr, levels = curriculum(), 0.5, []
    for _ in range(17):
        assert state.decide(row(100.0), lr) == Decision()
        levels.append(state.current)
    assert levels == state.path[1:] and state.current == (6, 3)
    for decay in range(1, 29):
        decision = state.decide(row(100.0), lr)
        assert decision.lr_factor == 0.8
        lr *= decision.lr_factor
        assert decision.stop == (decay == 28)
        assert state.current == (6, 3) and state.moves == 17 + decay
    assert lr == pytest.approx(0.5 * 0.8**28) and 0.00096 < lr < 0.001


def test_stagnation_takes_five_evaluations() -> None:
    """Falling training accuracy: the value stored five back is higher at evaluation 6, then 11."""
    state, moved = curriculum(), []
    for evaluation in range(1, 17):
        before = state.moves
        state.decide(row(50.0, 60.0 - evaluation), 0.5)
        if state.moves > before:
            moved.append(evaluation)
    # The one of the move is stored after all were forgotten: five more evaluations each time.
    assert moved == [6, 11, 16]
    assert state.stored == [60.0 - 16]


def test_the_fifth_from_the_end_is_compared() -> None:
    state = curriculum()
    for train in (10.0, 90.0, 20.0, 20.0, 20.0, 20.0):
        state.decide(row(0.0, train), 0.5)
        assert state.moves == 0
    # Now five back is 90, not 10: 50 is lower.
    state.decide(row(0.0, 50.0), 0.5)
    assert state.moves == 1 and state.stored == [50.0]


def test_neither_equality_moves() -> None:
    state = curriculum()
    for _ in range(30):
        assert state.decide(row(95.0, 40.0), 0.5) == Decision()
    assert state.moves == 0 and state.stored == [40.0] * 5
    state.decide(row(95.01, 40.0), 0.5)
    assert (state.moves, state.current) == (1, (2, 1))


def test_an_epoch_without_validation_changes_nothing() -> None:
    state = curriculum()
    assert state.decide({"train_acc": 99.0}, 0.5) == Decision()
    assert state.stored == [] and state.moves == 0


def test_a_single_level() -> None:
    state = curriculum((1, 1))
    assert state.decide(row(96.0), 0.5) == Decision(0.8)
    assert state.decide(row(96.0), 0.0011) == Decision(0.8, stop=True)


def test_state() -> None:
    state, again = curriculum(), curriculum()
    for train in (10.0, 20.0, 15.0):
        state.decide(row(96.0 if train == 10.0 else 0.0, train), 0.5)
    again.load_state_dict(state.state_dict())
    assert state.state_dict() == {"index": 1, "moves": 1, "stored": [10.0, 20.0, 15.0]}
    assert again.state_dict() == state.state_dict() and again.level() == state.level()
