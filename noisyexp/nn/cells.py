"""Single steps for models that loop by hand: attention decoders, machines with memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from noisyexp.kernels import dispatch
from noisyexp.kernels.precision import half_dtype, operand_dtype, result_dtype
from noisyexp.nn.equations import GRU, LSTM, State, handed_out
from noisyexp.nn.fused import run_step
from noisyexp.nn.noisy import NoisyModule
from noisyexp.nn.shared import shared_linear, sharing


class _NoisyCell(NoisyModule):
    """Mixed in before `torch.nn.LSTMCell` or `torch.nn.GRUCell`."""

    # Of torch.nn.RNNCellBase.
    input_size: int
    weight_ih: Tensor
    weight_hh: Tensor

    def _as_torch(self, x: Tensor) -> bool:
        """Whether torch's own cell computes this call."""
        own = self.spec.variant == "reference"
        return own and self.runs_torch(self.units, x, self.weight_ih) and not sharing()

    def _step(self, x: Tensor, state: State | None) -> State:
        """x: (B, input_size) or (input_size,); state: tensors (B, H) or (H,), None for zeros."""
        if x.dim() not in (1, 2) or x.shape[-1] != self.input_size:
            raise ValueError(
                f"input of shape {tuple(x.shape)}: expected 1 or 2 dimensions, the last of size "
                f"input_size={self.input_size}"
            )
        w_ih: Any = self.weight_ih  # asked for once: a module looks its parameters up
        self.check_dtype(x, w_ih)
        if x.dim() == 1:
            rows = None if state is None else tuple(part[None] for part in state)
            return tuple(part[0] for part in self._step(x[None], rows))
        shape = (x.shape[0], self.hidden_size)
        if state is None:
            state = (x.new_zeros(shape),) * self.kernel.states
        for part in state:
            if part.shape != shape:
                raise ValueError(f"state of shape {tuple(part.shape)}: expected {shape}")
        biases: Any = (self.bias_ih, self.bias_hh)
        b_ih, b_hh = biases
        weights = (w_ih, self.weight_hh, b_ih, b_hh)
        units: Any = self.units
        half = half_dtype(x, w_ih)
        if half is None or self._backend != "auto":
            return self._compute(units, x, state, weights, None)
        dtype = result_dtype(half, state[-1], False)
        with torch.autocast(x.device.type, enabled=False):
            state = tuple(part.float() for part in state)
            given = [None if weight is None else weight.float() for weight in weights]
            final = self._compute(units, x.float(), state, given, half)
        return tuple(part.to(dtype) for part in final)

    def _compute(
        self, units: Any, x: Tensor, state: State, weights: Any, half: torch.dtype | None
    ) -> State:
        """The step; with `half` all tensors are float32 and operands of products that."""
        w_ih, w_hh, b_ih, b_hh = weights
        way = self.fuses(units, x, *state, *weights) if x.shape[0] else dispatch.PLAIN
        if way:
            operands = None if half is None else operand_dtype(half, x.device)
            return run_step(way, self.kernel, units, x, state, weights, operands)
        shape = (len(x), self.hidden_size)
        xi = {name: unit.draw_noise(shape, x.device) for name, unit in units.items()}
        projected = shared_linear(x, w_ih, b_ih)
        return handed_out(self.step_function()(units, projected, state, w_hh, b_hh, xi))


class NoisyLSTMCell(_NoisyCell, nn.LSTMCell):
    """`torch.nn.LSTMCell` with noisy units; arguments and units as in `NoisyLSTM`.

    Constructor, call and state-dict names are torch's; p is `units.<unit>.p`.
    """

    kernel = LSTM
    unit_kinds = LSTM.unit_kinds
    cell = staticmethod(LSTM.step)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> Any:
        """One step with fresh noise in training.

        Args:
            input: (B, input_size) or (input_size,).
            hx: h and c, (B, H) or (H,) each; None is zeros.

        Returns:
            h' and c', shapes of h and c.

        Raises:
            ValueError: a wrong shape or dtype.
        """
        if self._as_torch(input):
            return super().forward(input, hx)
        return self._step(input, None if hx is None else tuple(hx))


class NoisyGRUCell(_NoisyCell, nn.GRUCell):
    """`torch.nn.GRUCell` with noisy units; arguments and units as in `NoisyGRU`.

    Constructor, call and state-dict names are torch's; p is `units.<unit>.p`.
    """

    kernel = GRU
    unit_kinds = GRU.unit_kinds
    cell = staticmethod(GRU.step)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """One step with fresh noise in training.

        Args:
            input: (B, input_size) or (input_size,).
            hx: h, (B, H) or (H,); None is zeros.

        Returns:
            h', shape of h.

        Raises:
            ValueError: a wrong shape or dtype.
        """
        if self._as_torch(input):
            h: Tensor = super().forward(input, hx)
            return h
        return self._step(input, None if hx is None else (hx,))[0]
