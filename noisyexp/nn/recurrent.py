"""What the noisy LSTM and GRU share: units per layer and direction, the loop, packed sequences.

This is the implementation that reads like the equations, and the truth that any faster one is
compared with. Shapes: T steps, B sequences, H units, D directions (1 or 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from noisyexp.kernels import dispatch
from noisyexp.nn.equations import State
from noisyexp.nn.fused import run_fused
from noisyexp.nn.noisy import NoisyModule


class NoisyRecurrent(NoisyModule):
    """Mixed in before `torch.nn.LSTM` or `torch.nn.GRU`: their weights, noisy units in their cells.

    Subclasses name their cell; `NoisyModule` says how.
    """

    # Of torch.nn.RNNBase, which stands behind this class in every subclass.
    input_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool

    def _make_units(self, extra: Mapping[str, Any]) -> nn.ModuleDict:
        """Units by layer and direction, then by site."""
        return nn.ModuleDict(
            {
                self._suffix(layer, direction): self._make_cell_units(extra)
                for layer in range(self.num_layers)
                for direction in range(2 if self.bidirectional else 1)
            }
        )

    @staticmethod
    def _suffix(layer: int, direction: int) -> str:
        return f"l{layer}" + ("_reverse" if direction else "")

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> Any:
        """As `torch.nn.LSTM.forward` / `torch.nn.GRU.forward`, with fresh noise in training.

        Args:
            input: (T, B, input_size), (B, T, input_size) with batch_first, (T, input_size)
                unbatched, or a PackedSequence.
            hx: initial state as torch's layer takes it; None is zeros.

        Returns:
            The output sequence and the final state, shapes and layout of torch's layer.

        Raises:
            ValueError: the last dimension of `input` is not input_size, or a state has the wrong
                shape.
        """
        if self.spec.variant == "reference" and self.backend == "auto":
            return super().forward(input, hx)
        return self._forward(input, hx) if torch.compiler.is_compiling() else self._eager(input, hx)

    def _forward(self, input: Tensor | PackedSequence, hx: Any) -> Any:
        x = input.data if isinstance(input, PackedSequence) else input
        if x.dim() not in (2, 3) or x.shape[-1] != self.input_size:
            raise ValueError(
                f"input of shape {tuple(x.shape)}: expected 2 or 3 dimensions, the last of size "
                f"input_size={self.input_size}"
            )
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        batched = input.dim() == 3
        if batched:
            x = input.transpose(0, 1) if self.batch_first else input
            state = None if hx is None else self._as_tuple(hx)
        else:
            x = input.unsqueeze(1)
            state = None if hx is None else tuple(s.unsqueeze(1) for s in self._as_tuple(hx))
        output, final = self._run(x, state, None)
        if not batched:
            return output.squeeze(1), self._as_state(tuple(s.squeeze(1) for s in final))
        return output.transpose(0, 1) if self.batch_first else output, self._as_state(final)

    # Unless its `allow_rnn` is set, torch.compile leaves modules of torch.nn.LSTM and GRU out of
    # its graphs, and would then make graphs of the functions that they call, one by one.
    _eager = torch.compiler.disable(_forward)  # type: ignore[no-untyped-call]

    def _forward_packed(self, input: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        x, lengths = pad_packed_sequence(input)
        state = None if hx is None else self._as_tuple(hx)
        mask = torch.arange(len(x)).unsqueeze(1) < lengths
        output, final = self._run(x, state, mask.to(x.device).unsqueeze(-1))
        packed = pack_padded_sequence(output, lengths, enforce_sorted=input.sorted_indices is None)
        return packed, self._as_state(final)

    def _run(self, x: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        """All layers and directions. x: (T, B, input); mask: (T, B, 1), true inside a sequence."""
        directions = 2 if self.bidirectional else 1
        shape = (self.num_layers * directions, x.shape[1], self.hidden_size)
        if state is None:
            state = (x.new_zeros(shape),) * self._num_states()
        if len(state) != self._num_states():
            raise ValueError(f"{len(state)} state tensors: expected {self._num_states()}")
        for part in state:
            if tuple(part.shape) != shape:
                raise ValueError(f"state of shape {tuple(part.shape)}: expected {shape}")
        finals: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                index = layer * directions + direction
                start = tuple(part[index] for part in state)
                output, final = self._run_direction(x, start, mask, layer, direction)
                outputs.append(output)
                finals.append(final)
            x = torch.cat(outputs, dim=-1) if directions == 2 else outputs[0]
            if self.dropout and layer + 1 < self.num_layers:
                x = functional.dropout(x, self.dropout, self.training)
        return x, tuple(torch.stack(part) for part in zip(*finals, strict=True))

    def _run_direction(
        self, x: Tensor, state: State, mask: Tensor | None, layer: int, direction: int
    ) -> tuple[Tensor, State]:
        suffix = self._suffix(layer, direction)
        w_ih, w_hh = getattr(self, f"weight_ih_{suffix}"), getattr(self, f"weight_hh_{suffix}")
        b_ih = getattr(self, f"bias_ih_{suffix}") if self.bias else None
        b_hh = getattr(self, f"bias_hh_{suffix}") if self.bias else None
        units: Any = self.units[suffix]
        steps, batch = x.shape[:2]
        weights = (w_ih, w_hh, b_ih, b_hh)
        way = self.fuses(units, x, *state, *weights) if x.numel() else dispatch.PLAIN
        if way:
            return run_fused(way, self.cell_name, units, x, state, mask, weights, bool(direction))
        # The input's share of every gate, for all steps at once: (T, B, gates * H).
        projected = functional.linear(x, w_ih, b_ih)
        draws = {
            site: unit.draw_noise((steps, batch, self.hidden_size), x.device)
            for site, unit in units.items()
        }
        step = self.step_function()
        outputs: list[Tensor] = [x.new_empty(0)] * steps
        for t in reversed(range(steps)) if direction else range(steps):
            xi = {site: None if draw is None else draw[t] for site, draw in draws.items()}
            new = step(units, projected[t], state, w_hh, b_hh, xi)
            if mask is not None:
                # Past its end a sequence keeps its state, so the final state is the last valid one.
                new = tuple(torch.where(mask[t], a, b) for a, b in zip(new, state, strict=True))
            state = new
            outputs[t] = state[0]
        if not outputs:
            return x.new_zeros(0, batch, self.hidden_size), state
        return torch.stack(outputs), state

    def _num_states(self) -> int:
        raise NotImplementedError

    def _as_tuple(self, hx: Any) -> State:
        raise NotImplementedError

    def _as_state(self, state: State) -> Any:
        raise NotImplementedError
