"""LSTM with noisy units in its three gates, its candidate and its cell output."""

from __future__ import annotations

from typing import Any

from torch import nn

from noisyexp.nn.equations import LSTM, State
from noisyexp.nn.recurrent import NoisyRecurrent


class NoisyLSTM(NoisyRecurrent, nn.LSTM):
    """`torch.nn.LSTM` with every sigmoid and tanh replaced by a unit of the paper.

    Constructor, call, state-dict names and shapes are torch's, gate order i, f, g, o. Each unit's
    p is in the state dict as `units.l<layer>[_reverse].<unit>.p`, units i, f, g, o and c (the tanh
    of the cell output). The state dict of a `torch.nn.LSTM` loads as it is.

    Args:
        input_size: as in `torch.nn.LSTM`, and so are hidden_size, num_layers, bias, batch_first,
            dropout, bidirectional, device and dtype.
        variant: name of the unit, or an `ActivationSpec` with settings of its own for each kind.
            "reference" runs torch's own layer.
        backend: "auto", or "eager" to run the plain loop also where something faster exists, or
            "compile" to run it under `torch.compile`.
        **settings: settings of the units, for example alpha=1.0, c=0.5 (see `Activation`).

    Raises:
        ValueError: an unknown variant or backend, a setting out of range, or a proj_size.
        TypeError: an unknown setting.
    """

    kernel = LSTM
    unit_kinds = LSTM.unit_kinds
    cell = staticmethod(LSTM.step)

    def _as_tuple(self, hx: Any) -> State:
        return tuple(hx)

    def _as_state(self, state: State) -> Any:
        return state
