"""How many inputs of a model's units lie where the hard unit is flat: there noise acts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

from noisyexp.activations import Activation
from noisyexp.nn.noisy import NoisyModule


class Saturation:
    """Counts how many inputs of a model's units lie outside their linear range.

    Attributes:
        counts: inputs outside and all inputs, by the unit's module path.
    """

    def __init__(self) -> None:
        self.counts: dict[str, tuple[int, int]] = {}

    def _count(self, path: str, unit: Activation, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach()
        outside, total = self.counts.get(path, (0, 0))
        outside += int((x.abs() > unit.kind.threshold).sum())
        self.counts[path] = outside, total + x.numel()

    @property
    def percent(self) -> float:
        """Share of all inputs beyond the threshold: 1 for tanh, 2 for sigmoid."""
        outside = sum(one for one, _ in self.counts.values())
        total = sum(every for _, every in self.counts.values())
        return 100.0 * outside / max(total, 1)

    @property
    def percent_by_unit(self) -> dict[str, float]:
        """The same by the unit's module path."""
        return {path: 100.0 * outside / total for path, (outside, total) in self.counts.items()}

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Count while the context lasts; cells and layers then run as written, unit by unit."""
        loops = [module for module in model.modules() if isinstance(module, NoisyModule)]
        backends = [loop.backend for loop in loops]
        hooks = [
            unit.register_forward_pre_hook(partial(self._count, path))
            for path, unit in model.named_modules()
            if isinstance(unit, Activation)
        ]
        try:
            for loop in loops:
                loop.backend = "eager"
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for loop, backend in zip(loops, backends, strict=True):
                loop.backend = backend
