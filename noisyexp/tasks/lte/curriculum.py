"""From (1, 1) to the target level, then smaller and smaller learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noisyexp.tasks.base import Curriculum, Decision
from noisyexp.tasks.lte.programs import Level


class LevelCurriculum(Curriculum):
    """Decides after each validation, as the code of November 2014 does.

    It moves on when validation accuracy exceeds `threshold`, or when the training accuracy stored
    `patience` validations ago was higher than the present one. A move is a level up; at the last
    level it multiplies the learning rate by `decay`, and training stops below `min_lr`. Every move
    asks for new data and forgets the stored accuracies.

    Args:
        target: the last level; the path is (1, 1) ... (L, 1), (1, 2) ... (L, N).
        threshold: in percent.
        patience: validations.
        decay: factor of the learning rate.
        min_lr: smallest rate that is used.

    Attributes:
        index: place of the present level on the path, from 0.
        moves: moves so far; together with the seed it names the data.
        stored: the last `patience` training accuracies since the last move.
    """

    def __init__(
        self, target: Level, threshold: float, patience: int, decay: float, min_lr: float
    ) -> None:
        self.path = [(x, y) for y in range(1, target[1] + 1) for x in range(1, target[0] + 1)]
        self.threshold, self.patience = threshold, patience
        self.decay, self.min_lr = decay, min_lr
        self.index = self.moves = 0
        self.stored: list[float] = []

    @property
    def current(self) -> Level:
        """The present level (L, N)."""
        return self.path[self.index]

    def level(self) -> dict[str, float]:
        """L, N and the place on the path from 0."""
        length, nesting = self.current
        return {"level_length": length, "level_nesting": nesting, "level": self.index}

    def decide(self, row: Mapping[str, Any], lr: float) -> Decision:
        """Move on or stay; an epoch without a validation changes nothing."""
        if "valid_acc" not in row:
            return Decision()
        decision, now = Decision(), float(row["train_acc"])
        stalled = len(self.stored) >= self.patience and self.stored[-self.patience] > now
        if row["valid_acc"] > self.threshold or stalled:
            self.moves += 1
            self.stored.clear()
            if self.index + 1 < len(self.path):
                self.index += 1
            else:
                decision = Decision(self.decay, stop=lr * self.decay < self.min_lr)
        self.stored = [*self.stored, now][-self.patience :]
        return decision

    def state_dict(self) -> dict[str, Any]:
        """Place, moves and stored accuracies."""
        return {"index": self.index, "moves": self.moves, "stored": list(self.stored)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.index, self.moves = int(state["index"]), int(state["moves"])
        self.stored = [float(value) for value in state["stored"]]
