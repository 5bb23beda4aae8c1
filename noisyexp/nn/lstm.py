"""LSTM with noisy units in its three gates, its candidate and its cell output."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import linear

from noisyexp.nn.recurrent import Draws, NoisyRecurrent, State, Units


class NoisyLSTM(NoisyRecurrent, nn.LSTM):
    """`torch.nn.LSTM` with every sigmoid and tanh replaced by a unit of the paper.

    Constructor, call, state-dict names and shapes are torch's, gate order i, f, g, o. Each unit's
    p is in the state dict as `units.l<layer>[_reverse].<site>.p`, sites i, f, g, o and c (the tanh
    of the cell output). The state dict of a `torch.nn.LSTM` loads as it is.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device,
            dtype: as in `torch.nn.LSTM`.
        variant: name of the unit, or an `ActivationSpec` with settings of its own for each kind.
            "reference" runs torch's own layer.
        backend: "auto", or "eager" to run the plain loop also where something faster exists.
        **settings: settings of the units, for example alpha=1.0, c=0.5 (see `Activation`).

    Raises:
        ValueError: an unknown variant or backend, a setting out of range, or a proj_size.
        TypeError: an unknown setting.
    """

    sites = {"i": "sigmoid", "f": "sigmoid", "g": "tanh", "o": "sigmoid", "c": "tanh"}  # noqa: RUF012

    def cell(
        self, units: Units, x: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None, xi: Draws
    ) -> State:
        """One step: c' = f c + i g; h' = o tanh(c'), with noisy units for tanh and the gates.

        Args:
            units: the five units by site.
            x: W_ih x + b_ih of this step, (B, 4 H).
            state: h and c, (B, H) each.
            w_hh: (4 H, H).
            b_hh: (4 H,) or None.
            xi: draw of each site, (B, H) or None.

        Returns:
            h' and c', (B, H) each.
        """
        h, c = state
        i, f, g, o = (x + linear(h, w_hh, b_hh)).chunk(4, dim=-1)
        i = units["i"](i, xi["i"])
        f = units["f"](f, xi["f"])
        g = units["g"](g, xi["g"])
        o = units["o"](o, xi["o"])
        c = f * c + i * g
        return o * units["c"](c, xi["c"]), c

    def _num_states(self) -> int:
        return 2

    def _as_tuple(self, hx: Any) -> State:
        return tuple(hx)

    def _as_state(self, state: State) -> Any:
        return state
