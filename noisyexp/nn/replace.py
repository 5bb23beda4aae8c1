"""Put noisy units into a model that exists."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from noisyexp.activations import ActivationSpec
from noisyexp.nn.cells import NoisyGRUCell, NoisyLSTMCell
from noisyexp.nn.gru import NoisyGRU
from noisyexp.nn.initial import drop_bias
from noisyexp.nn.lstm import NoisyLSTM

_UNITS = {nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}
_LAYERS: dict[type[nn.Module], type[Any]] = {
    nn.LSTM: NoisyLSTM,
    nn.GRU: NoisyGRU,
    nn.LSTMCell: NoisyLSTMCell,
    nn.GRUCell: NoisyGRUCell,
}


@dataclass(frozen=True)
class Replacement:
    """One module that `replace_activations` has replaced.

    Attributes:
        path: where it is in the model.
        old: name of the class that was there.
        new: what is there now, as it prints itself.
    """

    path: str
    old: str
    new: str

    def __str__(self) -> str:
        """One line of a report."""
        return f"{self.path}: {self.old} -> {self.new}"


def replace_activations(
    model: nn.Module, variant: str | ActivationSpec, **settings: Any
) -> list[Replacement]:
    """Swap tanh, sigmoid and the gates of recurrent layers for noisy units, in place.

    `torch.nn.Tanh` and `torch.nn.Sigmoid` become units with one p each, since they do not know how
    many inputs they have; `torch.nn.LSTM`, `GRU`, `LSTMCell` and `GRUCell` become the noisy layers
    with the same weights (the same parameters: an optimiser that holds them stays valid, but has
    to be told of the new p) and one p a unit. Calls of `torch.tanh` in a `forward` cannot be seen,
    and subclasses are left alone.

    Args:
        model: any module tree; a module that is used in several places stays shared.
        variant: name of the unit, or an `ActivationSpec`.
        settings: settings of the units, for example alpha=1.0, c=0.5.

    Returns:
        What was replaced, in module order; print it.

    Raises:
        ValueError: the model itself is such a module (nothing holds it), an unknown variant, a
            setting out of range, or a layer with proj_size.
        TypeError: an unknown setting.
    """
    if type(model) in _UNITS or type(model) in _LAYERS:
        raise ValueError(f"{type(model).__name__} is the model itself: put it into a module")
    spec = ActivationSpec(variant) if isinstance(variant, str) else variant
    spec = replace(spec, settings={**spec.settings, **settings})
    weight = next(model.parameters(), None)
    like = {} if weight is None else {"device": weight.device, "dtype": weight.dtype}
    made: dict[nn.Module, nn.Module] = {}
    report = []
    for parent_path, parent in list(model.named_modules()):
        for name, child in list(parent._modules.items()):  # named_children leaves out what recurs
            if child is None or (type(child) not in _UNITS and type(child) not in _LAYERS):
                continue
            if child not in made:
                made[child] = _noisy(child, spec, like)
            setattr(parent, name, made[child])
            path = f"{parent_path}.{name}" if parent_path else name
            report.append(Replacement(path, type(child).__name__, _describe(made[child], spec)))
    return report


def _noisy(module: nn.Module, spec: ActivationSpec, like: dict[str, Any]) -> nn.Module:
    if type(module) in _UNITS:
        scalar = replace(spec, settings={**spec.settings, "p_shape": "scalar"})
        new: nn.Module = scalar(_UNITS[type(module)], 1, **like)
    else:
        old: Any = module
        keys = ["input_size", "hidden_size", "bias"]
        if isinstance(module, nn.RNNBase):
            keys += ["num_layers", "batch_first", "dropout", "bidirectional"]
            if module.proj_size:
                keys.append("proj_size")  # for the layer's own message
        weight = next(module.parameters())
        arguments = {key: getattr(old, key) for key in keys}
        new = _LAYERS[type(module)](
            **arguments, variant=spec, device=weight.device, dtype=weight.dtype
        )
        own = dict(new.named_parameters())
        for name, parameter in module.named_parameters():
            if name not in own:
                raise ValueError(
                    f"{type(module).__name__} has a parameter {name!r} that is not torch's: take "
                    f"off weight_norm and the like first"
                )
            setattr(new, name, parameter)
        for name in own.keys() - dict(module.named_parameters()).keys():
            if name in dict(module.named_buffers()):  # taken away by drop_bias
                drop_bias(new, name)
    return new.train(module.training)


def _describe(module: nn.Module, spec: ActivationSpec) -> str:
    return f"{type(module).__name__}({spec.variant})"
