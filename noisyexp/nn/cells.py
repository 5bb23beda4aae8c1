"""Single steps for models that loop by hand: attention decoders, machines with memory."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import linear

from noisyexp.kernels import dispatch
from noisyexp.nn.equations import SITES, State, gru_cell, lstm_cell
from noisyexp.nn.fused import run_fused
from noisyexp.nn.noisy import NoisyModule


class _NoisyCell(NoisyModule):
    """Mixed in before `torch.nn.LSTMCell` or `torch.nn.GRUCell`."""

    # Of torch.nn.RNNCellBase.
    input_size: int
    weight_ih: Tensor
    weight_hh: Tensor

    def _step(self, x: Tensor, state: State | None) -> State:
        """x: (B, input_size) or (input_size,); state: tensors (B, H) or (H,), None for zeros."""
        if x.dim() not in (1, 2) or x.shape[-1] != self.input_size:
            raise ValueError(
                f"input of shape {tuple(x.shape)}: expected 1 or 2 dimensions, the last of size "
                f"input_size={self.input_size}"
            )
        if x.dim() == 1:
            rows = None if state is None else tuple(part[None] for part in state)
            return tuple(part[0] for part in self._step(x[None], rows))
        shape = (len(x), self.hidden_size)
        if state is None:
            state = (x.new_zeros(shape),) * (2 if self.cell_name == "lstm" else 1)
        for part in state:
            if tuple(part.shape) != shape:
                raise ValueError(f"state of shape {tuple(part.shape)}: expected {shape}")
        biases: Any = (self.bias_ih, self.bias_hh)
        b_ih, b_hh = biases
        weights = (self.weight_ih, self.weight_hh, b_ih, b_hh)
        units: Any = self.units
        way = self.fuses(units, x, *state, *weights) if len(x) else dispatch.PLAIN
        if way:
            return run_fused(way, self.cell_name, units, x[None], state, None, weights)[1]
        xi = {site: unit.draw_noise(shape, x.device) for site, unit in units.items()}
        projected = linear(x, self.weight_ih, b_ih)
        return self.step_function()(units, projected, state, self.weight_hh, b_hh, xi)


class NoisyLSTMCell(_NoisyCell, nn.LSTMCell):
    """`torch.nn.LSTMCell` with noisy units; arguments and units as in `NoisyLSTM`.

    Constructor, call and state-dict names are torch's; p is `units.<site>.p`.
    """

    cell_name = "lstm"
    sites = SITES["lstm"]
    cell = staticmethod(lstm_cell)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> Any:
        """One step with fresh noise in training.

        Args:
            input: (B, input_size) or (input_size,).
            hx: h and c, (B, H) or (H,) each; None is zeros.

        Returns:
            h' and c', shapes of h and c.

        Raises:
            ValueError: a wrong shape.
        """
        if self.spec.variant == "reference" and self.backend == "auto":
            return super().forward(input, hx)
        return self._step(input, None if hx is None else tuple(hx))


class NoisyGRUCell(_NoisyCell, nn.GRUCell):
    """`torch.nn.GRUCell` with noisy units; arguments and units as in `NoisyGRU`.

    Constructor, call and state-dict names are torch's; p is `units.<site>.p`.
    """

    cell_name = "gru"
    sites = SITES["gru"]
    cell = staticmethod(gru_cell)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """One step with fresh noise in training.

        Args:
            input: (B, input_size) or (input_size,).
            hx: h, (B, H) or (H,); None is zeros.

        Returns:
            h', shape of h.

        Raises:
            ValueError: a wrong shape.
        """
        if self.spec.variant == "reference" and self.backend == "auto":
            h: Tensor = super().forward(input, hx)
            return h
        return self._step(input, None if hx is None else (hx,))[0]
