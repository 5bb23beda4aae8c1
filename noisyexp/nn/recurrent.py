"""What the noisy LSTM and GRU share: units per layer and direction, the loop, packed sequences.

This is the implementation that reads like the equations, and the truth that any faster one is
compared with. Shapes: T steps, B sequences, H units, D directions (1 or 2).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from noisyexp.activations.share import dropout
from noisyexp.kernels import dispatch
from noisyexp.kernels.precision import half_dtype, operand_dtype, result_dtype
from noisyexp.nn.equations import State, handed_out
from noisyexp.nn.fused import run_fused
from noisyexp.nn.noisy import NoisyModule


@cache
def _outside_graphs() -> Callable[..., Any]:
    """The forward pass, none of whose functions torch.compile looks at.

    Unless its `allow_rnn` is set, torch.compile leaves modules of torch.nn.LSTM and GRU out of its
    graphs, and would then make graphs of the functions that they call, one by one. Made once the
    compiler has been imported: to import it takes as long as to import torch.
    """
    disabled: Callable[..., Any] = torch.compiler.disable(NoisyRecurrent._forward)  # type: ignore[no-untyped-call]
    return disabled


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
    weight_ih_l0: Tensor

    def _make_units(self, extra: Mapping[str, Any]) -> nn.ModuleDict:
        """Units by layer and direction, then by name."""
        return nn.ModuleDict(
            {
                self._suffix(layer, direction): self._make_cell_units(extra)
                for layer in range(self.num_layers)
                for direction in range(2 if self.bidirectional else 1)
            }
        )

    @property
    def first_units(self) -> Any:
        """Units of the first layer; those of the others have the same settings."""
        return self.units["l0"]

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
            ValueError: the last dimension of `input` is not input_size, its dtype is not that of
                the weights, or a state has the wrong shape.
            RuntimeError: `input` has no steps.
        """
        x = input.data if isinstance(input, PackedSequence) else input
        if self.runs_torch(self.first_units, x, self.weight_ih_l0):
            return super().forward(input, hx)
        if not torch.compiler.is_compiling() and "torch._dynamo" in sys.modules:
            return _outside_graphs()(self, input, hx)
        return self._forward(input, hx)

    def _forward(self, input: Tensor | PackedSequence, hx: Any) -> Any:
        x = input.data if isinstance(input, PackedSequence) else input
        if x.dim() not in (2, 3) or x.shape[-1] != self.input_size:
            raise ValueError(
                f"input of shape {tuple(x.shape)}: expected 2 or 3 dimensions, the last of size "
                f"input_size={self.input_size}"
            )
        self.check_dtype(x, self.weight_ih_l0)
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        batched = input.dim() == 3
        if not input.shape[1 if self.batch_first and batched else 0]:
            raise RuntimeError("input of 0 steps: expected at least 1, as torch does")
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
            state = (x.new_zeros(shape),) * self.kernel.states
        if len(state) != self.kernel.states:
            raise ValueError(f"{len(state)} state tensors: expected {self.kernel.states}")
        for part in state:
            if tuple(part.shape) != shape:
                raise ValueError(f"state of shape {tuple(part.shape)}: expected {shape}")
        half = half_dtype(x, self.weight_ih_l0)
        if half is None or self._backend != "auto":
            return self._run_layers(x, state, mask, None)
        # torch's layer takes another way for packed sequences, a step at a time as cells do.
        dtype = result_dtype(half, state[-1], self.kernel.rounds_states and mask is None)
        with torch.autocast(x.device.type, enabled=False):
            state = tuple(part.float() for part in state)
            output, final = self._run_layers(x.float(), state, mask, half)
        return output.to(dtype), tuple(part.to(dtype) for part in final)

    def _run_layers(
        self, x: Tensor, state: State, mask: Tensor | None, half: torch.dtype | None
    ) -> tuple[Tensor, State]:
        """As `_run`; with `half`, x and state are float32 and operands of products that."""
        directions = 2 if self.bidirectional else 1
        finals: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                index = layer * directions + direction
                start = tuple(part[index] for part in state)
                output, final = self._run_direction(x, start, mask, layer, direction, half)
                outputs.append(output)
                finals.append(final)
            x = torch.cat(outputs, dim=-1) if directions == 2 else outputs[0]
            if self.dropout and layer + 1 < self.num_layers:
                x = dropout(x, self.dropout, self.training, 1)
        if len(finals) == 1:
            return x, tuple(part.unsqueeze(0) for part in finals[0])
        return x, tuple(torch.stack(part) for part in zip(*finals, strict=True))

    def _run_direction(
        self, x: Tensor, state: State, mask: Tensor | None, layer: int, direction: int,
        half: torch.dtype | None,
    ) -> tuple[Tensor, State]:  # fmt: skip
        suffix = self._suffix(layer, direction)
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if self.bias else 2]
        given: list[Tensor] = [getattr(self, f"{name}_{suffix}") for name in names]
        if half is not None:
            given = [weight.float() for weight in given]
        w_ih, w_hh, *biases = given
        b_ih, b_hh = biases or (None, None)
        weights = (w_ih, w_hh, b_ih, b_hh)
        units: Any = self.units[suffix]
        steps, batch = x.shape[:2]
        way = self.fuses(units, x, *state, *weights) if x.numel() else dispatch.PLAIN
        if way:
            operands = None if half is None else operand_dtype(half, x.device)
            return run_fused(
                way, self.kernel, units, x, state, mask, weights, bool(direction), operands
            )
        # The input's share of every gate, for all steps at once: (T, B, gates * H).
        projected = functional.linear(x, w_ih, b_ih)
        draws = {
            name: unit.draw_noise((steps, batch, self.hidden_size), x.device)
            for name, unit in units.items()
        }
        if torch._C._get_tracing_state() is not None:
            raise RuntimeError(
                f"what TorchScript traces of the plain loop has {int(steps)} steps for inputs of "
                "any length: use torch.onnx.export(..., dynamo=True), which knows the length it is "
                "made for, or torch.export"
            )
        step = self.step_function()
        outputs: list[Tensor] = [x.new_empty(0)] * steps
        for t in reversed(range(steps)) if direction else range(steps):
            xi = {name: None if draw is None else draw[t] for name, draw in draws.items()}
            new = step(units, projected[t], state, w_hh, b_hh, xi)
            if mask is not None:
                # Past its end a sequence keeps its state, so the final state is the last valid one.
                new = tuple(torch.where(mask[t], a, b) for a, b in zip(new, state, strict=True))
            state = new
            outputs[t] = state[0]
        return torch.stack(outputs), handed_out(state)

    def _as_tuple(self, hx: Any) -> State:
        raise NotImplementedError

    def _as_state(self, state: State) -> Any:
        raise NotImplementedError
