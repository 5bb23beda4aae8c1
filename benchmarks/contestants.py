"""Layers and cells that take turns in a benchmark, and their sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from noisyexp import NoisyGRU, NoisyLSTM

SIZES = [
    (20, 20, 200, 2, "lstm"),
    (20, 35, 650, 2, "lstm"),
    (100, 50, 400, 2, "lstm"),
    (64, 26, 100, 1, "lstm"),
    (80, 200, 512, 1, "gru"),
]
SETTINGS = {"alpha": 1.15, "c": 0.5}
GAIN = 6.0
"""Weights are multiplied by this for the measurement with most units saturated."""


def make(kind: str, cell: str, hidden: int, layers: int) -> nn.Module:
    """A layer as the contestant `kind`: torch, hard, nah, nah saturated or nah eager."""
    torch.manual_seed(0)
    noisy: Any = {"lstm": NoisyLSTM, "gru": NoisyGRU}[cell]
    own: Any = {"lstm": nn.LSTM, "gru": nn.GRU}[cell]
    if kind == "torch":
        plain: nn.Module = own(hidden, hidden, layers)
        return plain
    layer: nn.Module = noisy(
        hidden, hidden, layers, variant="hard" if kind == "hard" else "nah",
        backend="eager" if kind == "nah eager" else "auto", **SETTINGS,
    )  # fmt: skip
    if kind == "nah saturated":
        with torch.no_grad():
            for name, weight in layer.named_parameters():
                if name.startswith("weight"):
                    weight.mul_(GAIN)
    return layer


def take_turns(contestants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """Call every contestant once a round, after one round to warm up."""
    found: dict[str, list[Any]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, call in contestants.items():
            value = call()
            if turn:
                found[name].append(value)
    return found
