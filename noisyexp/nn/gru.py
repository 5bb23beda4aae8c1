"""GRU with noisy units in both gates and its candidate."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from noisyexp.nn.equations import GRU, State
from noisyexp.nn.recurrent import NoisyRecurrent


class NoisyGRU(NoisyRecurrent, nn.GRU):
    """`torch.nn.GRU` with both gates and the candidate replaced by units of the paper.

    Constructor, call, state-dict names and shapes are torch's, gate order r, z, n; see `NoisyLSTM`
    for the arguments that are added.
    """

    kernel = GRU
    unit_kinds = GRU.unit_kinds
    cell = staticmethod(GRU.step)

    def _as_tuple(self, hx: Any) -> State:
        if not isinstance(hx, Tensor):
            raise ValueError(f"state of type {type(hx).__name__}: a GRU takes one tensor")
        return (hx,)

    def _as_state(self, state: State) -> Any:
        return state[0]
