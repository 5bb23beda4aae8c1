"""The two decoders of dl4mt's attention model: one step of each, and their initial weights.

B rows, S source positions, E embedding size, H units, 2 H annotation and attention size.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from noisyexp.activations import ActivationSpec
from noisyexp.nn.attention import AdditiveAttention
from noisyexp.nn.cells import NoisyGRUCell
from noisyexp.nn.initial import drop_bias
from noisyexp.tasks.nmt.initial import Initial


@dataclass(frozen=True)
class Memory:
    """What a decoder knows of the source sentences.

    Attributes:
        annotations: (B, S, 2 H).
        keys: (B, S, 2 H), the part of the attention's score that no step changes.
        mask: (B, S) bool, true at the words and the end.
    """

    annotations: Tensor
    keys: Tensor
    mask: Tensor


class Decoder(nn.Module):
    """A recurrent step with attention.

    Args:
        embedding_size: E.
        hidden_size: H.
        spec: its units.
    """

    attention: AdditiveAttention

    def __init__(self, embedding_size: int, hidden_size: int, spec: ActivationSpec) -> None:
        super().__init__()
        self.embedding_size, self.hidden_size = embedding_size, hidden_size

    @abstractmethod
    def forward(self, word: Tensor, state: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """One step.

        Args:
            word: (B, E), embedding of the previous word, zeros at the start.
            state: (B, H).
            memory: the source.

        Returns:
            New state (B, H), context (B, 2 H), attention weights (B, S).
        """

    def reset_weights(self, initial: Initial) -> None:
        """Draw all weights anew, p of the units apart."""
        initial.gaussian(self.attention.query)
        initial.gaussian(self.attention.v)


class ConditionalDecoder(Decoder):
    """Model B, since December 2015: a GRU before the attention, a GRU on the context after it.

    The first GRU's bias is outside its reset gate, the second one's inside, and the second one has
    none on its input.
    """

    def __init__(self, embedding_size: int, hidden_size: int, spec: ActivationSpec) -> None:
        super().__init__(embedding_size, hidden_size, spec)
        self.first = NoisyGRUCell(embedding_size, hidden_size, variant=spec)
        self.attention = AdditiveAttention(hidden_size, 2 * hidden_size, spec)
        self.second = NoisyGRUCell(2 * hidden_size, hidden_size, variant=spec)
        drop_bias(self.first, "bias_hh")
        drop_bias(self.second, "bias_ih")

    def forward(self, word: Tensor, state: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """GRU 1 on the word, attention by its state, GRU 2 on the context."""
        state = self.first(word, state)
        context, weights = self.attention(state, memory.keys, memory.annotations, memory.mask)
        return self.second(context, state), context, weights

    def reset_weights(self, initial: Initial) -> None:
        """Draw all weights anew, p of the units apart."""
        super().reset_weights(initial)
        initial.gru(self.first)
        initial.gru(self.second)
        initial.context_gates(self.second.weight_ih, self.hidden_size)


class SingleDecoder(Decoder):
    """Model A, before December 2015: attention by state and word, one GRU on word and context."""

    def __init__(self, embedding_size: int, hidden_size: int, spec: ActivationSpec) -> None:
        super().__init__(embedding_size, hidden_size, spec)
        self.attention = AdditiveAttention(hidden_size + embedding_size, 2 * hidden_size, spec)
        self.cell = NoisyGRUCell(embedding_size + 2 * hidden_size, hidden_size, variant=spec)
        drop_bias(self.cell, "bias_hh")

    def forward(self, word: Tensor, state: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """Attention by the previous state and word, then the GRU."""
        query = torch.cat([state, word], 1)
        context, weights = self.attention(query, memory.keys, memory.annotations, memory.mask)
        return self.cell(torch.cat([word, context], 1), state), context, weights

    def reset_weights(self, initial: Initial) -> None:
        """Draw all weights anew, p of the units apart.

        The original draws the word's matrices by themselves: those to the gates and the candidate
        would be orthogonal with E = H, the one to the attention with E = 2 H. Here the word's part
        of `cell.weight_ih` and `attention.query` is Gaussian at every size.
        """
        super().reset_weights(initial)
        initial.gru(self.cell)
        initial.context_gates(self.cell.weight_ih[:, self.embedding_size :], self.hidden_size)


DECODERS: dict[str, type[Decoder]] = {"A": SingleDecoder, "B": ConditionalDecoder}
