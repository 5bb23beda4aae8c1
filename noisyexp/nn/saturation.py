"""How many inputs of a model's units lie where the hard unit is flat: there noise acts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from noisyexp.activations import Activation, activations
from noisyexp.nn.cells import NoisyLSTMCell


class Saturation:
    """Counts how many inputs of a model's units lie outside their linear range."""

    def __init__(self) -> None:
        self.outside = self.total = 0

    def _count(self, unit: Activation, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach()
        self.outside += int((x.abs() > unit.kind.threshold).sum())
        self.total += x.numel()

    @property
    def percent(self) -> float:
        """Share of the inputs beyond the threshold: 1 for tanh, 2 for sigmoid."""
        return 100.0 * self.outside / max(self.total, 1)

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Count while the context lasts; an LSTM cell then runs as written, unit by unit."""
        cells = [module for module in model.modules() if isinstance(module, NoisyLSTMCell)]
        backends = [cell.backend for cell in cells]
        hooks = [unit.register_forward_pre_hook(self._count) for unit in activations(model)]
        try:
            for cell in cells:
                cell.backend = "eager"
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for cell, backend in zip(cells, backends, strict=True):
                cell.backend = backend
