"""What language models of one long text have in common: their state goes from window to window."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from noisyexp.errors import DataError
from noisyexp.nn.language_model import LanguageModel, State, stream_nll
from noisyexp.tasks.base import FixedShapeTask, Task
from noisyexp.tasks.text.streams import num_windows, window

CHUNK = 500
"""Steps that are scored at once; it changes memory, not the result."""


class CarriesState(Task):
    """Mixed into a task: its state goes from step to step, into checkpoints, by rows of a share."""

    _state: State | None = None

    def begin_text(self) -> None:
        """Zero state: the text begins anew. An update of several shares begins it once."""
        if self.share is None or self.share.first_pass:
            self._state = None

    def with_state(
        self, model: LanguageModel, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor, State]:
        """Inputs and targets (T, B) and the state before them, of the rows of this share alone."""
        state = self._state or model.zero_state(inputs.shape[1])
        if self.share is None:
            return inputs, targets, state
        rows = self.share.take(inputs.shape[1])
        # Cloned: the whole state is written to before the gradient of the share is made.
        return inputs[:, rows], targets[:, rows], tuple(part[:, rows].clone() for part in state)

    def keep(self, state: State) -> None:
        """The state after the window."""
        if self.share is not None:
            before = self._state or (None,) * len(state)
            pairs = zip(before, state, strict=True)
            state = tuple(self.share.put(whole, part, 1) for whole, part in pairs)
        self._state = state

    def carried(self) -> list[Tensor]:
        """The state of every stream."""
        return list(self._state or ())

    def state_dict(self) -> dict[str, Any]:
        """The carried hidden state."""
        return {"state": None if self._state is None else list(self._state)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the carried hidden state."""
        kept = state["state"]
        self._state = None if kept is None else tuple(kept)


class ReadsStreams(CarriesState, FixedShapeTask):
    """Mixed into a task that sets `train_streams`, (rows, B): a window of them is an update."""

    train_streams: Tensor
    _on_device: tuple[torch.device, Tensor] | None = None

    @property
    def windows(self) -> int:
        """In one pass over the training text."""
        return num_windows(len(self.train_streams), self.config.steps)

    def check_length(self, split: str, streams: Tensor) -> None:
        """Refuse streams that are shorter than a window.

        Raises:
            DataError: they are.
        """
        rows, columns = streams.shape
        if num_windows(rows, self.config.steps) < 1:
            raise DataError(
                f"the {split} text has {rows} {self.item} for each of {columns} streams, too few "
                f"for one window of task.steps={self.config.steps}: make task.batch_size or "
                "task.steps smaller"
            )

    def window_at(
        self, model: LanguageModel, index: int, device: torch.device
    ) -> tuple[Tensor, ...]:
        """Inputs and targets of a window, (T, B) each, and the state before it."""
        if self._on_device is None or self._on_device[0] != device:
            self._on_device = (device, self.train_streams.to(device))
        inputs, targets = window(self._on_device[1], index, self.config.steps)
        inputs, targets, state = self.with_state(model, inputs, targets)
        return inputs, targets, *state


def whole_nll(model: LanguageModel, streams: Tensor) -> tuple[float, int]:
    """Negative log-likelihood of streams (rows, B), each from a zero state, all rows but the first.

    Returns:
        Sum in nats, and the number of predicted tokens.
    """
    nll, count, _ = stream_nll(model, streams, math.ceil((len(streams) - 1) / CHUNK), CHUNK)
    return float(nll), count
