"""The memory of a Neural Turing Machine (Graves et al. 2014): addressing, reading, writing.

B episodes, N locations of width M, H heads: W that write, then R that read. The functions are the
equations; `MemoryHeads` gets their arguments from the controller's output and holds the first
state. None of this is noisy: the paper's noise is in the controller.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import softplus

from noisyexp.nn.fused_memory import can_fuse_memory, fused_memory
from noisyexp.nn.shared import call

COSINE_EPS = 1e-8
"""Added to both norms; the constant first memory has rows of norm 1e-6 sqrt(M)."""
SHARPEN_TINY = 1e-16
"""Weight below which locations count as equal when they are sharpened."""

MEMORY_INITS = ("random", "constant")


class MemoryState(NamedTuple):
    """What a step hands to the next.

    Attributes:
        memory: (B, N, M).
        weights: (B, H, N), rows sum to 1.
        reads: (B, R M), what the read heads read last.
    """

    memory: Tensor
    weights: Tensor
    reads: Tensor


def content_weights(key: Tensor, beta: Tensor, memory: Tensor) -> Tensor:
    """Softmax over locations of beta cos(key, row).

    Args:
        key: (B, H, M).
        beta: strength >= 0, (B, H, 1).
        memory: (B, N, M).

    Returns:
        (B, H, N).
    """
    # The key is small: scaling it by beta and its norm leaves one division of the large product.
    key = key * (beta / (vector_norm(key, dim=-1, keepdim=True) + COSINE_EPS))
    rows = vector_norm(memory, dim=-1).unsqueeze(1) + COSINE_EPS
    return torch.softmax(torch.bmm(key, memory.mT) / rows, -1)


def shift(weights: Tensor, s: Tensor) -> Tensor:
    """Circular convolution: w~(i) = sum over j of w(j) s(i - j).

    Args:
        weights: (B, H, N).
        s: weight of the shifts -1, 0, +1, (B, H, 3). Mass on +1 moves location 2 to 3.

    Returns:
        (B, H, N).
    """
    back, stay, forth = torch.split(s, 1, -1)
    moved: Tensor = weights.roll(-1, -1) * back + weights * stay + weights.roll(1, -1) * forth
    return moved


def sharpen(weights: Tensor, gamma: Tensor) -> Tensor:
    """w^gamma / sum w^gamma, in logarithms: the powers of a diffuse weighting underflow.

    Args:
        weights: (B, H, N).
        gamma: >= 1, (B, H, 1).

    Returns:
        (B, H, N).
    """
    return torch.softmax(gamma * (weights + SHARPEN_TINY).log(), -1)


def write(memory: Tensor, weights: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """Erase, then add; of several heads the product of the erasures and the sum of the adds.

    Args:
        memory: (B, N, M).
        weights: (B, W, N).
        erase: in [0, 1], (B, W, M).
        add: (B, W, M).

    Returns:
        (B, N, M).
    """
    one = memory.new_ones(())
    for w, e in zip(torch.split(weights, 1, 1), torch.split(erase, 1, 1), strict=True):
        memory = memory * torch.baddbmm(one, w.mT, e, alpha=-1)  # 1 - w e^T
    return torch.baddbmm(memory, weights.mT, add)


class HeadSettings(NamedTuple):
    """Arguments of the equations for all heads.

    Attributes:
        key: (B, H, M) in [-1, 1].
        beta: (B, H, 1) >= 0.
        gate: (B, H, 1) in [0, 1]; 1 takes the content, 0 keeps the weights of the step before.
        s: (B, H, 3), rows sum to 1.
        gamma: (B, H, 1) >= 1.
        erase: (B, W, M) in [0, 1].
        add: (B, W, M) in [-1, 1].
    """

    key: Tensor
    beta: Tensor
    gate: Tensor
    s: Tensor
    gamma: Tensor
    erase: Tensor
    add: Tensor


def address(settings: HeadSettings, memory: Tensor, before: Tensor) -> Tensor:
    """Weights of all heads: content, gate, shift, sharpen.

    Args:
        settings: of the heads.
        memory: (B, N, M).
        before: weights of the step before, (B, H, N).

    Returns:
        (B, H, N).
    """
    content = content_weights(settings.key, settings.beta, memory)
    return sharpen(shift(torch.lerp(before, content, settings.gate), settings.s), settings.gamma)


class MemoryHeads(nn.Module):
    """The memory with its heads: one step of writing and reading, and the first state.

    All heads address the memory that the step before has left; then it is written, and the read
    heads read what is there now.

    Args:
        input_size: size of the controller's output.
        rows: N.
        width: M.
        read_heads: R.
        write_heads: W.
        init: first memory: "random" is a fixed U[-b, b], b = 1 / sqrt(N + M); "constant" is 1e-6
            everywhere. The first weights are a learned softmax and differ between locations, so
            that either memory can be addressed.
    """

    memory0: Tensor

    def __init__(
        self,
        input_size: int,
        rows: int,
        width: int,
        read_heads: int,
        write_heads: int,
        init: str = "random",
    ) -> None:
        super().__init__()
        if init not in MEMORY_INITS:
            raise ValueError(f"init {init!r} is unknown; choose from {', '.join(MEMORY_INITS)}")
        self.rows, self.width = rows, width
        self.read_heads, self.write_heads = read_heads, write_heads
        heads = read_heads + write_heads
        # By their transform: tanh (keys, adds), sigmoid (gates, erasures), softplus (beta, gamma),
        # softmax (shifts).
        vectors = write_heads * width
        self._sizes = [heads * width + vectors, heads + vectors, 2 * heads, 3 * heads]
        self.map = nn.Linear(input_size, sum(self._sizes))
        bound = 1.0 / math.sqrt(rows + width)
        memory = torch.empty(rows, width).uniform_(-bound, bound)
        self.register_buffer("memory0", memory if init == "random" else memory.fill_(1e-6))
        # Equal scores would leave all locations of a constant memory alike for ever.
        self.scores0 = nn.Parameter(torch.randn(heads, rows))
        self.reads0 = nn.Parameter(torch.zeros(read_heads * width))

    def first_state(self, batch: int) -> MemoryState:
        """State before the first step for `batch` episodes."""
        weights = torch.softmax(self.scores0, -1)
        return MemoryState(
            self.memory0.expand(batch, -1, -1),
            weights.expand(batch, -1, -1),
            self.reads0.expand(batch, -1),
        )

    def settings(self, raw: Tensor) -> HeadSettings:
        """What the heads shall do.

        Args:
            raw: output of the map, (B, outputs).
        """
        bounded, opened, positive, s = torch.split(raw, self._sizes, -1)
        heads, writers, size = self.read_heads + self.write_heads, self.write_heads, len(raw)
        vectors = writers * self.width
        add, key = torch.split(torch.tanh(bounded), [vectors, heads * self.width], -1)
        erase, gate = torch.split(torch.sigmoid(opened), [vectors, heads], -1)
        beta, gamma = softplus(positive).view(size, 2, heads, 1).unbind(1)
        return HeadSettings(
            key=key.view(size, heads, self.width),
            beta=beta,
            gate=gate.unsqueeze(-1),
            s=torch.softmax(s.view(size, heads, 3), -1),
            gamma=1.0 + gamma,
            erase=erase.view(size, writers, self.width),
            add=add.view(size, writers, self.width),
        )

    def forward(self, h: Tensor, state: MemoryState) -> MemoryState:
        """One step, in the precision of the weights even under autocast.

        Args:
            h: output of the controller, (B, input_size).
            state: of the step before.
        """
        # Weights of a hundred locations, sharpened, are nothing for half precision.
        if torch.is_autocast_enabled(h.device.type):
            with torch.autocast(h.device.type, enabled=False):
                return self._step(h, state)
        return self._step(h, state)

    def _step(self, h: Tensor, state: MemoryState) -> MemoryState:
        """`forward` outside autocast."""
        raw = call(self.map, h.to(state.memory.dtype))
        if can_fuse_memory(raw, state.memory, state.weights, self.write_heads):
            heads = self.write_heads, self.read_heads
            return MemoryState(*fused_memory(raw, state.memory, state.weights, *heads))
        settings = self.settings(raw)
        weights = address(settings, state.memory, state.weights)
        writing, reading = torch.split(weights, [self.write_heads, self.read_heads], 1)
        memory = write(state.memory, writing, settings.erase, settings.add)
        return MemoryState(memory, weights, torch.bmm(reading, memory).flatten(1))
