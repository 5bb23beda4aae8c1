"""Embedding, recurrent layers with any unit of the paper, linear layer: the language models."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from noisyexp.activations import ActivationSpec, noise_parameters, reset_noise_parameters
from noisyexp.activations.share import dropout
from noisyexp.nn.gru import NoisyGRU
from noisyexp.nn.lstm import NoisyLSTM
from noisyexp.nn.output import CrossEntropy, linear_cross_entropy
from noisyexp.nn.recurrent import NoisyRecurrent
from noisyexp.nn.saturation import Saturation

State = tuple[Tensor, ...]
"""h and c of an LSTM, h alone of a GRU; (num_layers, B, H) each."""

CELLS: dict[str, Any] = {"lstm": NoisyLSTM, "gru": NoisyGRU}


class OneHot(nn.Module):
    """Tokens as unit vectors of size V, in place of an embedding.

    Args:
        vocab_size: V.
    """

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size

    def forward(self, tokens: Tensor) -> Tensor:
        """(...,) int64 to (..., V), in the default floating-point type."""
        return nn.functional.one_hot(tokens, self.vocab_size).to(torch.get_default_dtype())


class LanguageModel(nn.Module):
    """Embedding, LSTM or GRU layers, linear layer to the vocabulary; nothing tied.

    With an LSTM this is the word-level model of Zaremba et al. (2014).

    Args:
        vocab_size: V.
        hidden_size: H.
        num_layers: recurrent layers.
        dropout: on the input of every layer and on the top output, never from step to step.
        init_range: all weights are drawn from U[-init_range, init_range], then p from U[-1, 1];
            None keeps what torch's modules draw by themselves.
        spec: the units of a layer: three sigmoids and two tanhs (LSTM), two and one (GRU).
        cell: kind of the layers; also their name in the state dict.
        embedding_size: size of the embedding, H if None; 0 for one-hot tokens without one.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        dropout: float,
        init_range: float | None,
        spec: ActivationSpec,
        *,
        cell: Literal["lstm", "gru"] = "lstm",
        embedding_size: int | None = None,
    ) -> None:
        super().__init__()
        self.cell = cell
        size = hidden_size if embedding_size is None else embedding_size
        self.embedding = nn.Embedding(vocab_size, size) if size else OneHot(vocab_size)
        self.add_module(
            cell,
            CELLS[cell](size or vocab_size, hidden_size, num_layers, dropout=dropout, variant=spec),
        )
        self.output = nn.Linear(hidden_size, vocab_size)
        self.dropout = nn.Dropout(dropout)
        if init_range is not None:
            self.reset_parameters(init_range)

    @property
    def recurrent(self) -> NoisyRecurrent:
        """The LSTM or GRU layers."""
        layers = getattr(self, self.cell)
        assert isinstance(layers, NoisyRecurrent)
        return layers

    def reset_parameters(self, init_range: float) -> None:
        """Blanket initialisation, p left out of it and drawn last.

        Every arm thus draws the same weights from the same seed, and p starts in [-1, 1] rather
        than ten times too small.
        """
        units = {id(p) for p in noise_parameters(self)}
        for parameter in self.parameters():
            if id(parameter) not in units:
                nn.init.uniform_(parameter, -init_range, init_range)
        reset_noise_parameters(self)

    def zero_state(self, batch_size: int) -> State:
        """Zeros for h and, in an LSTM, c; (num_layers, batch_size, H) each."""
        layers, weight = self.recurrent, self.output.weight
        shape = (layers.num_layers, batch_size, layers.hidden_size)
        return tuple(weight.new_zeros(shape) for _ in range(layers.kernel.states))

    def forward(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Scores of the next token.

        Args:
            tokens: (T, B) int64.
            state: h and, in an LSTM, c; (num_layers, B, H) each.

        Returns:
            Logits (T, B, V) and the state after the last step.
        """
        hidden, new = self.features(tokens, state)
        return self.output(hidden), new

    def features(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """What `output` makes logits of.

        Args:
            tokens: (T, B) int64.
            state: as in `forward`.

        Returns:
            (T, B, H) and the state after the last step.
        """
        x = self._drop(self.embedding(tokens))
        hidden, new = self.recurrent(x, state if len(state) > 1 else state[0])
        return self._drop(hidden), new if isinstance(new, tuple) else (new,)

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout.p, self.dropout.training, 1)

    def loss(
        self, tokens: Tensor, state: State, targets: Tensor, weight: float = 1.0, ignore: int = -100
    ) -> tuple[CrossEntropy, State]:
        """Cost of the true next tokens, without all logits in memory.

        Args:
            tokens: (T, B) int64.
            state: as in `forward`.
            targets: (T, B) int64, the next tokens.
            weight: of each cost in the total.
            ignore: a target that costs nothing.

        Returns:
            Costs in nats, (T, B), with their sum times `weight`, and the state after the last step.
        """
        hidden, new = self.features(tokens, state)
        layer = self.output
        found = linear_cross_entropy(
            hidden, layer.weight, layer.bias, targets, row_weight=weight, ignore_index=ignore
        )
        return found, new


def detach(state: State) -> State:
    """The state cut from its graph: backpropagation stops at the window's first step."""
    return tuple(part.detach() for part in state)


@torch.no_grad()
def stream_nll(
    model: LanguageModel, tokens: Tensor, windows: int, steps: int
) -> tuple[Tensor, int, State]:
    """Negative log-likelihood of parallel streams, the state carried from window to window.

    Args:
        model: in evaluation mode.
        tokens: (rows, B) int64.
        windows: number of windows to read, (windows - 1) * steps < rows - 1; the last one may be
            shorter.
        steps: T, length of a window.

    Returns:
        Sum over all predicted tokens in nats (float64), their number, and the final state.
    """
    state = model.zero_state(tokens.shape[1])
    total = torch.zeros((), dtype=torch.float64)
    for index in range(windows):
        start = index * steps
        end = min(start + steps, len(tokens) - 1)
        found, state = model.loss(tokens[start:end], state, tokens[start + 1 : end + 1])
        total += found.total.double().cpu()
    count = min(windows * steps, len(tokens) - 1) * tokens.shape[1]
    return total, count, state


@torch.no_grad()
def saturation_on(model: LanguageModel, tokens: Tensor) -> Saturation:
    """How many inputs of the model's units lie beyond the hard unit's threshold.

    Args:
        model: in evaluation mode.
        tokens: (T, B) int64, read from a zero state.
    """
    counter = Saturation()
    with counter.watch(model):
        model(tokens, model.zero_state(tokens.shape[1]))
    return counter
