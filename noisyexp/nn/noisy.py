"""What every layer with noisy units does beside its equations: settings, units, state dicts."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from noisyexp.activations import Activation, ActivationSpec, activations, draws_apart
from noisyexp.kernels import dispatch
from noisyexp.nn.equations import CELLS, Step, Units
from noisyexp.nn.fused import can_fuse

_TORCH_ARGUMENTS = (
    "input_size", "hidden_size",
    "num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size", "device", "dtype",
)  # fmt: skip

BACKENDS = ("auto", "eager", "compile")


@functools.cache
def _compiled(step: Step) -> Step:
    """Layers of one class use what is compiled together."""
    return torch.compile(step)


class NoisyModule(nn.Module):
    """Mixed in before a recurrent layer or cell of torch: its weights, noisy units."""

    sites: ClassVar[Mapping[str, str]]
    """Name of each unit in the cell -> its kind, in the order in which the kernels number them."""
    cell_name: ClassVar[str]
    """Of `equations.CELLS`: what the compiled kernels run when `cell` is that function."""
    cell: ClassVar[Step]
    """One step as a static method, see `equations`."""

    hidden_size: int

    def __init__(
        self,
        *args: Any,
        variant: str | ActivationSpec = "nah",
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        # Keyword arguments that torch's layer does not know are settings of the units.
        torch_kwargs = {key: kwargs.pop(key) for key in _TORCH_ARGUMENTS if key in kwargs}
        given = dict(zip(_TORCH_ARGUMENTS, args, strict=False)) | torch_kwargs
        super().__init__(*args, **torch_kwargs)
        if given.get("proj_size"):
            raise ValueError("proj_size is not supported: the paper has no projected LSTM")
        if isinstance(variant, ActivationSpec):
            variant = replace(variant, settings={**variant.settings, **kwargs})
        else:
            variant = ActivationSpec(variant, kwargs)
        self.spec = variant
        weight = next(self.parameters())
        extra: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
        with draws_apart():
            self.units = self._make_units(extra)
        self.backend = backend

    def _make_units(self, extra: Mapping[str, Any]) -> nn.ModuleDict:
        """The units of the layer; `extra` holds device and dtype."""
        return self._make_cell_units(extra)

    def _make_cell_units(self, extra: Mapping[str, Any]) -> nn.ModuleDict:
        return nn.ModuleDict(
            {site: self.spec(kind, self.hidden_size, **extra) for site, kind in self.sites.items()}
        )

    @property
    def backend(self) -> str:
        """How the layer computes: "auto", "eager" or "compile".

        "auto" is torch's kernel for the reference, the compiled kernels on the CPU and on NVIDIA
        GPUs, and the plain loop where neither can be had. "eager" is the plain loop that reads like
        the equations, "compile" the same loop with `torch.compile` around its step. Can be set at
        any time.
        """
        return self._backend

    @backend.setter
    def backend(self, value: str) -> None:
        if value not in BACKENDS:
            raise ValueError(f"backend {value!r} is unknown; choose from {', '.join(BACKENDS)}")
        self._backend = value
        for unit in activations(self):
            unit.backend = "auto" if value == "auto" else "eager"

    def fuses(self, units: Units, *tensors: Tensor | None) -> int:
        """How the kernels run this layer on these tensors, here and now: see `dispatch.way`."""
        # A subclass may have a cell of its own.
        if self._backend == "auto" and self.cell is CELLS.get(self.cell_name):
            return can_fuse(units, *tensors)
        return dispatch.PLAIN

    def step_function(self) -> Step:
        """`cell`, under `torch.compile` where the backend says so."""
        return _compiled(self.cell) if self._backend == "compile" else self.cell

    def reset_parameters(self) -> None:
        """Draw the weights as torch does, then every p from U[-1, 1]."""
        bound = 1.0 / math.sqrt(self.hidden_size)  # not ** -0.5: the last bit differs in float64
        for name, weight in self.named_parameters():
            if not name.startswith("units."):
                nn.init.uniform_(weight, -bound, bound)
        for unit in self.modules():
            if isinstance(unit, Activation):
                unit.reset_p()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Accept the state dict of torch's layer: without any p in it, every p keeps its value.

        With some p in it, a missing one is an error as usual, and so is a p on the meta device,
        which has no value to keep: `to_empty(device=...)` and `reset_parameters()` come first then.
        """
        own = [
            f"{prefix}{name}" for name, _ in self.named_parameters() if name.startswith("units.")
        ]
        if own and not any(key in state_dict for key in own):
            for key, value in zip(own, self._noise_parameters(), strict=True):
                if not value.is_meta:
                    state_dict[key] = value.detach()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _noise_parameters(self) -> Sequence[nn.Parameter]:
        return [value for name, value in self.named_parameters() if name.startswith("units.")]
