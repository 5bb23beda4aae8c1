"""Multilayer perceptron with the units of the experiment, and how well it classifies."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from noisyexp.activations import Activation, ActivationSpec, draws_apart
from noisyexp.tasks.base import StepOutput
from noisyexp.tasks.classification.examples import Examples

CHUNK = 2000
"""Examples that are scored at once; it changes memory, not the result."""


class MLP(nn.Module):
    """Linear layers with tanh units between them; the last one gives scores.

    Weights are uniform on +-sqrt(6 / (inputs + outputs)) (Glorot and Bengio 2010), biases 0.

    Args:
        sizes: inputs, units of each hidden layer, outputs.
        spec: makes the units of the hidden layers.

    Attributes:
        layers: one more than there are hidden layers.
        units: of the hidden layers.
    """

    def __init__(self, sizes: Sequence[int], spec: ActivationSpec) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        with draws_apart():
            self.units = nn.ModuleList(spec("tanh", size) for size in sizes[1:-1])
        # In the checkpoint, so that a finished run still tells how p has moved.
        for k, (unit, size) in enumerate(zip(self.units, sizes[1:-1], strict=True)):
            assert isinstance(unit, Activation)
            p = None if unit.p is None else unit.p.detach().expand(size).clone()
            self.register_buffer(f"first_p{k}", p)

    def forward(self, x: Tensor, pre_activations: list[Tensor] | None = None) -> Tensor:
        """Scores of the classes.

        Args:
            x: (B, inputs).
            pre_activations: list that the input of each hidden layer's units, (B, units), is
                appended to.

        Returns:
            (B, outputs).
        """
        for layer, unit in zip(self.layers, self.units, strict=False):
            x = layer(x)
            if pre_activations is not None:
                pre_activations.append(x.detach())
            x = unit(x)
        scores: Tensor = self.layers[-1](x)
        return scores

    def p_before_and_after(self) -> tuple[list[list[float]], list[list[float]]]:
        """Learned p of each unit, layer by layer, at first and now; empty for units without p."""
        before, after = [], []
        for k, unit in enumerate(self.units):
            first = self.get_buffer(f"first_p{k}") if unit.p is not None else None
            if first is not None and isinstance(unit.p, Tensor):
                before.append(first.tolist())
                after.append(unit.p.detach().expand(len(first)).tolist())
        return before, after


class Score(NamedTuple):
    """How well a model classifies.

    Attributes:
        nll: mean of -log P(class | input), in nats.
        error: share of inputs whose most probable class is wrong, in percent.
    """

    nll: float
    error: float


def training_loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> StepOutput:
    """Mean of -log P(class | input) of a batch, with sums of it, of wrong answers, of examples."""
    scores = model(inputs)
    nll, size = cross_entropy(scores, labels), len(labels)
    wrong = (scores.detach().argmax(-1) != labels).sum()
    return StepOutput(nll, {"nll": nll.detach() * size, "wrong": wrong, "examples": size}, size)


@torch.no_grad()
def score(model: nn.Module, examples: Examples, device: torch.device) -> Score:
    """Score of a model in evaluation mode; sums are divided once, at the end."""
    size = len(examples.labels)
    nll, wrong = torch.zeros((), dtype=torch.float64), 0
    for start in range(0, size, CHUNK):
        inputs, labels = examples.take(slice(start, start + CHUNK))
        scores = model(inputs.to(device)).float().cpu()
        nll += cross_entropy(scores, labels, reduction="sum").double()
        wrong += int((scores.argmax(-1) != labels).sum())
    return Score(float(nll) / size, 100.0 * wrong / size)


@torch.no_grad()
def confusion(model: nn.Module, examples: Examples, classes: int, device: torch.device) -> Tensor:
    """How often class i was taken for class j: (classes, classes) int64, model in eval mode."""
    table = torch.zeros(classes * classes, dtype=torch.int64)
    for start in range(0, len(examples.labels), CHUNK):
        inputs, labels = examples.take(slice(start, start + CHUNK))
        found = model(inputs.to(device)).argmax(-1).cpu()
        table += torch.bincount(labels * classes + found, minlength=classes * classes)
    return table.view(classes, classes)
