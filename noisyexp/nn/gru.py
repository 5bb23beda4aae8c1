"""GRU with noisy units in both gates and its candidate."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import linear

from noisyexp.nn.recurrent import Draws, NoisyRecurrent, State, Units


class NoisyGRU(NoisyRecurrent, nn.GRU):
    """`torch.nn.GRU` with both gates and the candidate replaced by units of the paper.

    Constructor, call, state-dict names and shapes are torch's, gate order r, z, n; see `NoisyLSTM`
    for the arguments that are added.
    """

    sites = {"r": "sigmoid", "z": "sigmoid", "n": "tanh"}  # noqa: RUF012

    def cell(
        self, units: Units, x: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None, xi: Draws
    ) -> State:
        """One step: n = tanh(W x + b + r (U h + b_h)); h' = (1 - z) n + z h.

        Args:
            units: the three units by site.
            x: W_ih x + b_ih of this step, (B, 3 H).
            state: h, (B, H).
            w_hh: (3 H, H).
            b_hh: (3 H,) or None.
            xi: draw of each site, (B, H) or None.

        Returns:
            h', (B, H).
        """
        (h,) = state
        x_r, x_z, x_n = x.chunk(3, dim=-1)
        h_r, h_z, h_n = linear(h, w_hh, b_hh).chunk(3, dim=-1)
        r = units["r"](x_r + h_r, xi["r"])
        z = units["z"](x_z + h_z, xi["z"])
        n = units["n"](x_n + r * h_n, xi["n"])
        return ((1.0 - z) * n + z * h,)

    def _num_states(self) -> int:
        return 1

    def _as_tuple(self, hx: Any) -> State:
        if not isinstance(hx, Tensor):
            raise ValueError(f"state of type {type(hx).__name__}: a GRU takes one tensor")
        return (hx,)

    def _as_state(self, state: State) -> Any:
        return state[0]
