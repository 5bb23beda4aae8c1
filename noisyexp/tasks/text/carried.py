"""The hidden state that a language model carries from one window of text to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from noisyexp.nn.language_model import LanguageModel, State
from noisyexp.tasks.base import Task


class CarriesState(Task):
    """Mixed into a task: its state goes from step to step, into checkpoints, by rows of a share.

    A task sets it to None where the text begins anew.
    """

    _state: State | None = None

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
