"""What every layer with noisy units does beside its equations: settings, units, state dicts."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from noisyexp.activations import Activation, ActivationSpec, activations, draws_apart
from noisyexp.activations.base import EXTRA_STATE, NOT_SCRIPTED
from noisyexp.kernels import dispatch
from noisyexp.kernels.precision import half_dtype, under_autocast
from noisyexp.nn.equations import Cell, Step, Units
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

    unit_kinds: ClassVar[Mapping[str, str]]
    """Name of each unit in the cell -> its kind, in the order in which the kernels number them."""
    kernel: ClassVar[Cell]
    """What the compiled kernels run where `cell` is its step."""
    cell: ClassVar[Step]
    """One step as a static method, see `equations`."""

    hidden_size: int

    def __init__(
        self,
        *args: Any,
        variant: str | ActivationSpec = "nah",
        backend: str = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        # Keyword arguments that torch's layer does not know are settings of the units.
        torch_kwargs = {key: kwargs.pop(key) for key in _TORCH_ARGUMENTS if key in kwargs}
        # By name in the signature, where torch.nn.utils.skip_init looks for it.
        placed = {"device": device, "dtype": dtype}
        torch_kwargs |= {key: value for key, value in placed.items() if value is not None}
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
            {
                name: self.spec(kind, self.hidden_size, **extra)
                for name, kind in self.unit_kinds.items()
            }
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

    def fuses(self, units: Units, x: Tensor, *tensors: Tensor | None) -> int:
        """How the kernels run this layer on these tensors, here and now: see `dispatch.way`."""
        # A subclass may have a cell of its own, or one that no kernel knows.
        own = self.cell is not self.kernel.step
        known = not own and dispatch.has(self.kernel.forward_kernel, x.device)
        if self._backend == "auto" and self.hidden_size > 0 and known:
            return can_fuse(units, x, *tensors)
        return dispatch.PLAIN

    def runs_torch(self, units: Any, x: Tensor, weight: Tensor) -> bool:
        """Whether torch's own layer computes this call: the reference, unless in half precision.

        There torch rounds gates and states, and all variants should be computed in one way.
        """
        if self.spec.variant != "reference" or self._backend != "auto":
            return False
        if half_dtype(x, weight) is None:
            return True
        with torch.autocast(x.device.type, enabled=False):
            return not self.fuses(units, x.new_empty(0, dtype=torch.float32))

    def step_function(self) -> Step:
        """`cell`, under `torch.compile` where the backend says so."""
        return _compiled(self.cell) if self._backend == "compile" else self.cell

    def __prepare_scriptable__(self) -> NoReturn:
        """What torch.jit.script asks first.

        Raises:
            TypeError: always.
        """
        raise TypeError(NOT_SCRIPTED)

    def reset_parameters(self) -> None:
        """Draw the weights as torch does, then every p from U[-1, 1]."""
        # Not ** -0.5: the last bit differs in float64. Torch's cells may have no units.
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size else 0.0
        for name, weight in self.named_parameters():
            if not name.startswith("units."):
                nn.init.uniform_(weight, -bound, bound)
        for unit in self.modules():
            if isinstance(unit, Activation):
                unit.reset_p()

    @staticmethod
    def check_dtype(x: Tensor, weight: Tensor) -> None:
        """Refuse an input that products with the weights would refuse.

        Raises:
            ValueError: another dtype than the weights', outside autocast; torch's layers say so.
        """
        if x.dtype != weight.dtype and not under_autocast(x):
            raise ValueError(
                f"input of dtype {x.dtype}: expected that of the weights, {weight.dtype}; use "
                f"input.to({weight.dtype})"
            )
        if not x.is_floating_point():
            raise ValueError(f"input of dtype {x.dtype}: expected a floating one")

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        *rest: Any,
    ) -> None:
        """With some p of the layer in a state dict, one that is missing is an error.

        Without any, it is that of torch's layer: units keep theirs, see `Activation`.
        """
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, *rest
        )
        own = [f"{prefix}{name}" for name, _ in self.named_parameters()]
        own = [name for name in own if name.startswith(f"{prefix}units.")]
        if any(name in state_dict for name in own):
            without = [f"{name.removesuffix('p')}{EXTRA_STATE}" not in state_dict for name in own]
            # A unit whose settings are there says it itself.
            missing_keys += [
                name
                for name, alone in zip(own, without, strict=True)
                if alone and name not in state_dict
            ]
