"""Neural Turing Machine whose controller has the units of the experiment."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from noisyexp.activations import ActivationSpec, draws_apart
from noisyexp.nn import NoisyLSTMCell
from noisyexp.nn.fused_machine import MachineWeights, can_fuse_machine, fused_machine
from noisyexp.nn.memory import MemoryHeads, MemoryState
from noisyexp.nn.shared import is_watched, shared_linear, shared_weights

State = tuple[Tensor, ...]


class Controller(Protocol):
    """What the machine needs of a controller of C units."""

    def first_state(self, batch: int) -> State:
        """What the first step goes on from."""

    def project(self, x: Tensor) -> Tensor:
        """What all steps can do at once with the input (T, B, inputs)."""

    def __call__(self, projected: Tensor, reads: Tensor, state: State) -> State:
        """One step: `projected` of this step, what was read in the step before, (B, R M).

        The first tensor of the new state is the output, (B, C).
        """


class FeedForward(nn.Module):
    """act(W x + U r + b): one hidden layer. Its state is U, one tensor for all steps, and no more.

    Args:
        inputs: size of x.
        reads: size of r.
        size: C.
        spec: makes the unit.
    """

    def __init__(self, inputs: int, reads: int, size: int, spec: ActivationSpec) -> None:
        super().__init__()
        self.inputs = inputs
        self.layer = nn.Linear(inputs + reads, size)
        with draws_apart():
            self.unit = spec("tanh", size)

    def first_state(self, batch: int) -> State:
        """U, (C, R M)."""
        return (self.layer.weight[:, self.inputs :],)

    def project(self, x: Tensor) -> Tensor:
        """W x + b, (T, B, C)."""
        return linear(x, self.layer.weight[:, : self.inputs], self.layer.bias)

    def forward(self, projected: Tensor, reads: Tensor, state: State) -> State:
        """The new output (B, C), and U."""
        weight = state[-1]
        return self.unit(projected + shared_linear(reads, weight, None)), weight


class Recurrent(nn.Module):
    """LSTM controller: three noisy sigmoids and two noisy tanhs; its first state is learned.

    Args:
        inputs: size of x.
        reads: size of r.
        size: C.
        spec: makes the units.
    """

    def __init__(self, inputs: int, reads: int, size: int, spec: ActivationSpec) -> None:
        super().__init__()
        self.cell = NoisyLSTMCell(inputs + reads, size, variant=spec)
        self.state0 = nn.Parameter(torch.zeros(2, size))

    def first_state(self, batch: int) -> State:
        """The learned h and c, (batch, C) each."""
        h, c = self.state0.unsqueeze(1).expand(-1, batch, -1)
        return h, c

    def project(self, x: Tensor) -> Tensor:
        """The input itself."""
        return x

    def forward(self, projected: Tensor, reads: Tensor, state: State) -> State:
        """The new h and c, (B, C) each."""
        h, c = state
        new: State = self.cell(torch.cat([projected, reads], -1), (h, c))
        return new


CONTROLLERS = {"feedforward": FeedForward, "lstm": Recurrent}


class NTM(nn.Module):
    """Controller, memory and output layer.

    The controller sees the input and what was read in the step before; the memory is written, then
    read; the output comes from the controller's output and what was just read.

    Args:
        inputs: channels of the input.
        outputs: bits of the output.
        controller: name in `CONTROLLERS`.
        controller_size: C.
        rows: N, locations of the memory.
        width: M, size of a location.
        read_heads: R.
        write_heads: W.
        memory_init: see `MemoryHeads`.
        spec: units of the controller.
    """

    def __init__(
        self,
        *,
        inputs: int,
        outputs: int,
        controller: str,
        controller_size: int,
        rows: int,
        width: int,
        read_heads: int,
        write_heads: int,
        memory_init: str,
        spec: ActivationSpec,
    ) -> None:
        super().__init__()
        reads = read_heads * width
        self.controller: Any = CONTROLLERS[controller](inputs, reads, controller_size, spec)
        self.memory = MemoryHeads(
            controller_size, rows, width, read_heads, write_heads, memory_init
        )
        self.output = nn.Linear(controller_size + reads, outputs)

    def forward(self, x: Tensor, first: int = 0, weights: list[Tensor] | None = None) -> Tensor:
        """Scores of the output bits; a sigmoid makes them probabilities.

        Args:
            x: (T, B, inputs).
            first: step of the first output that is wanted.
            weights: list that the weights of all heads, (B, H, N), are appended to at each step.

        Returns:
            (T - first, B, outputs).
        """
        controller: Controller = self.controller
        memory: MemoryState = self.memory.first_state(x.shape[1])
        if weights is None and (found := self._at_once(x, memory)) is not None:
            at_once: Tensor = self.output(torch.cat([part[first:] for part in found], -1))
            return at_once
        state = controller.first_state(x.shape[1])
        features = []
        with shared_weights():
            for step, projected in enumerate(controller.project(x).unbind(0)):
                state = controller(projected, memory.reads, state)
                memory = self.memory(state[0], memory)
                if step >= first:
                    features.append(torch.cat([state[0], memory.reads], -1))
                if weights is not None:
                    weights.append(memory.weights.detach())
        scores: Tensor = self.output(torch.stack(features))
        return scores

    def _at_once(self, x: Tensor, memory: MemoryState) -> tuple[Tensor, Tensor] | None:
        """Outputs of the controller and what was read, of all steps, where kernels have them."""
        controller, heads = self.controller, self.memory
        layers = (controller, heads, heads.map)
        if tuple(map(type, layers)) != (FeedForward, MemoryHeads, nn.Linear) or any(
            map(is_watched, layers)
        ):
            return None
        (read,) = controller.first_state(x.shape[1])
        weights = MachineWeights(read, heads.map.weight, heads.map.bias)
        given = controller.unit, controller.project(x), weights, memory, heads.write_heads
        return fused_machine(*given) if can_fuse_machine(*given) else None
