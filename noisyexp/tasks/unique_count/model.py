"""LSTM, mean over time, one-hidden-layer ReLU network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from noisyexp.activations import ActivationSpec
from noisyexp.nn import NoisyLSTM


class Counter(nn.Module):
    """Reads values, pools the states by their mean, and predicts the count.

    Args:
        num_values: V.
        encoding: "scalar" feeds value / (V - 1), "embedding" a learned vector.
        embedding_size: of that vector.
        hidden_size: H, units of the LSTM.
        mlp_size: units of the ReLU layer.
        outputs: V + 1 classes (counts 0 ... V), or 1 for regression.
        spec: the units of the LSTM; the ReLU layer has none.

    Attributes:
        largest_cell: largest |cell| after the last value of the sequences seen last.
    """

    largest_cell: Tensor

    def __init__(
        self,
        num_values: int,
        encoding: str,
        embedding_size: int,
        hidden_size: int,
        mlp_size: int,
        outputs: int,
        spec: ActivationSpec,
    ) -> None:
        super().__init__()
        self.num_values = num_values
        scalar = encoding == "scalar"
        self.embedding = None if scalar else nn.Embedding(num_values, embedding_size)
        self.lstm = NoisyLSTM(1 if scalar else embedding_size, hidden_size, variant=spec)
        self.hidden = nn.Linear(hidden_size, mlp_size)
        self.output = nn.Linear(mlp_size, outputs)

    def forward(self, values: Tensor) -> Tensor:
        """Scores of the counts, or the predicted count.

        Args:
            values: (L, B) int64.

        Returns:
            (B, outputs).
        """
        if self.embedding is None:
            x = (values.to(self.hidden.weight.dtype) / (self.num_values - 1)).unsqueeze(-1)
        else:
            x = self.embedding(values)
        states, (_, cell) = self.lstm(x)
        # Noise can carry gates out of [0, 1] and then the cell away: worth a line in the curve.
        self.largest_cell = cell.detach().abs().max()
        out: Tensor = self.output(torch.relu(self.hidden(states.mean(0))))
        return out
