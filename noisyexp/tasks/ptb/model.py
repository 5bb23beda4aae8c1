"""The word-level language model of Zaremba et al. (2014) with any unit of the paper."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from noisyexp.activations import ActivationSpec, noise_parameters, reset_noise_parameters
from noisyexp.nn import NoisyLSTM

State = tuple[Tensor, Tensor]


class LanguageModel(nn.Module):
    """Embedding, LSTM layers, linear layer to the vocabulary; nothing tied.

    Args:
        vocab_size: V.
        hidden_size: H, also the size of the embedding.
        num_layers: LSTM layers.
        dropout: on the input of every layer and on the top output, never from step to step.
        init_range: all weights are drawn from U[-init_range, init_range], then p from U[-1, 1].
        spec: the units of the LSTM: three sigmoids and two tanhs a layer.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        dropout: float,
        init_range: float,
        spec: ActivationSpec,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, hidden_size)
        self.lstm = NoisyLSTM(hidden_size, hidden_size, num_layers, dropout=dropout, variant=spec)
        self.output = nn.Linear(hidden_size, vocab_size)
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters(init_range)

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
        """Zeros for h and c, (num_layers, batch_size, H) each."""
        shape = (self.lstm.num_layers, batch_size, self.lstm.hidden_size)
        weight = self.embedding.weight
        return weight.new_zeros(shape), weight.new_zeros(shape)

    def forward(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Scores of the next token.

        Args:
            tokens: (T, B) int64.
            state: h and c, (num_layers, B, H) each.

        Returns:
            Logits (T, B, V) and the state after the last step.
        """
        x = self.dropout(self.embedding(tokens))
        hidden, state = self.lstm(x, state)
        return self.output(self.dropout(hidden)), state


def detach(state: State) -> State:
    """The state cut from its graph: backpropagation stops at the window's first step."""
    return state[0].detach(), state[1].detach()


@torch.no_grad()
def stream_nll(
    model: LanguageModel, tokens: Tensor, windows: int, steps: int
) -> tuple[Tensor, int, State]:
    """Negative log-likelihood of parallel streams, the state carried from window to window.

    Args:
        model: in evaluation mode.
        tokens: (rows, B) int64.
        windows: number of windows to read, windows * steps < rows.
        steps: T, length of a window.

    Returns:
        Sum over all predicted tokens in nats (float64), their number, and the final state.
    """
    state = model.zero_state(tokens.shape[1])
    total = torch.zeros((), dtype=torch.float64)
    for index in range(windows):
        start = index * steps
        end = min(start + steps, len(tokens) - 1)
        logits, state = model(tokens[start:end], state)
        targets = tokens[start + 1 : end + 1]
        nll = nn.functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), reduction="sum"
        )
        total += nll.double().cpu()
    count = min(windows * steps, len(tokens) - 1) * tokens.shape[1]
    return total, count, state
