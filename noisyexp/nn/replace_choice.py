"""Which modules of a model `replace_activations` replaces, and why it leaves others alone."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from torch import nn
from torch.nn.utils import parametrize

from noisyexp.activations import Activation
from noisyexp.nn.cells import NoisyGRUCell, NoisyLSTMCell
from noisyexp.nn.gru import NoisyGRU
from noisyexp.nn.lstm import NoisyLSTM
from noisyexp.nn.noisy import NoisyModule

UNITS: dict[type[nn.Module], str] = {nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}
LAYERS: dict[type[nn.Module], type[Any]] = {
    nn.LSTM: NoisyLSTM,
    nn.GRU: NoisyGRU,
    nn.LSTMCell: NoisyLSTMCell,
    nn.GRUCell: NoisyGRUCell,
}
_KINDS = (*UNITS, *LAYERS)
_NO_FORM = (nn.RNN, nn.RNNCell)

One: TypeAlias = "type[nn.Module] | str | Callable[[str, nn.Module], bool]"
Selection: TypeAlias = "One | Iterable[One] | None"
"""Types, names or patterns of names, or functions of path and module; one or several."""


@dataclass(frozen=True)
class Place:
    """A module where it is used; one that is shared has several.

    Attributes:
        parent: what holds it.
        name: its name there.
        path: its name in the model.
        module: itself.
    """

    parent: nn.Module
    name: str
    path: str
    module: nn.Module


def leaves(model: nn.Module) -> list[Place]:
    """All modules without children, and noisy layers whole, in order of registration.

    What is in a module that is used in several places comes once for each.
    """

    def walk(parent: nn.Module, prefix: str) -> Iterator[Place]:
        for name, child in parent._modules.items():
            if child is None:
                continue
            path = prefix + name
            if is_leaf(child):
                yield Place(parent, name, path, child)
            else:
                yield from walk(child, f"{path}.")

    return list(walk(model, ""))


def is_leaf(module: nn.Module) -> bool:
    """Whether a module counts as one, without a look at what is in it."""
    return not module._modules or isinstance(module, (*_KINDS, NoisyModule, Activation))


def concerned(place: Place) -> bool:
    """Whether it has tanh or sigmoid units, as far as its class tells."""
    return isinstance(place.module, (*_KINDS, *_NO_FORM, NoisyModule, Activation))


def describe(module: nn.Module) -> str:
    """Its class, and the variant of its noisy units."""
    variant = module.spec.variant if isinstance(module, NoisyModule) else None
    if isinstance(module, Activation):
        variant = module.variant
    return type(module).__name__ + (f"({variant})" if variant else "")


def obstacle(module: nn.Module) -> str | None:
    """Why this module, which is `concerned`, cannot be replaced; None if it can."""
    if isinstance(module, NoisyModule | Activation):
        return None
    if parametrize.is_parametrized(module):
        return "it is parametrised: torch.nn.utils.parametrize.remove_parametrizations comes first"
    if isinstance(module, _NO_FORM):
        return "it has no noisy form"
    if type(module) not in _KINDS:
        base = next(kind for kind in _KINDS if isinstance(module, kind))
        return f"a subclass of torch.nn.{base.__name__} may compute anything"
    if isinstance(module, nn.RNNBase) and module.proj_size:
        return "proj_size has no noisy form"
    own = {name for name, _ in module.named_parameters()}
    own |= {name for name, _ in module.named_buffers()}  # biases that drop_bias has taken away
    strange = sorted(own - _names(module))
    if strange:
        return f"{', '.join(strange)} is not torch's: take off weight_norm and the like first"
    lost = sorted(_names(module) - {name for name in own if not _made(module, name)})
    if lost:
        return f"{', '.join(lost)} is made outside of it: replace it before its weights are dropped"
    return None


def _made(module: nn.Module, name: str) -> bool:
    """Whether a weight is the result of something and not a parameter or a buffer."""
    return not isinstance(module._parameters.get(name), nn.Parameter | None)


def _names(module: nn.Module) -> set[str]:
    """Names of the weights that torch gives to such a layer."""
    if isinstance(module, nn.RNNBase):
        return {name for names in module._all_weights for name in names}
    if isinstance(module, nn.RNNCellBase):
        return {"weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if module.bias else ())}
    return set()


def selects(selection: Selection, place: Place) -> bool:
    """Whether one of the selection matches this place."""
    return any(_matches(one, place) for one in _several(selection))


def names_it(selection: Selection, place: Place) -> bool:
    """Whether the selection has this very path in it, and not only a pattern or a type."""
    return any(one == place.path for one in _several(selection) if isinstance(one, str))


def check_selection(name: str, selection: Selection, places: list[Place]) -> None:
    """Every name matches something, every type is one that can be replaced.

    Raises:
        ValueError: a name matches nothing, or a type has no noisy form.
        TypeError: neither type, name nor function.
    """
    for one in _several(selection):
        if isinstance(one, str):
            if not any(_matches(one, place) for place in places):
                close = difflib.get_close_matches(one, [place.path for place in places], n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ValueError(f"{name} {one!r} matches no module with tanh or sigmoid{hint}")
        elif isinstance(one, type):
            kinds = (*_KINDS, NoisyModule, Activation)
            if not any(issubclass(kind, one) or issubclass(one, kind) for kind in kinds):
                choice = ", ".join(kind.__name__ for kind in _KINDS)
                raise ValueError(f"{name} {one.__name__} has no noisy form; choose from {choice}")
        elif not callable(one):
            raise TypeError(f"{name} must be types, names or functions, not {one!r}")


def _several(selection: Selection) -> tuple[Any, ...]:
    if selection is None:
        return ()
    if isinstance(selection, str | type) or callable(selection):
        return (selection,)
    try:
        return tuple(selection)
    except TypeError:
        return (selection,)


def _matches(one: Any, place: Place) -> bool:
    if isinstance(one, str):  # a name means all that is below it, too
        return fnmatchcase(place.path, one) or fnmatchcase(place.path, f"{one}.*")
    if isinstance(one, type):
        return isinstance(place.module, one)
    return bool(one(place.path, place.module))
