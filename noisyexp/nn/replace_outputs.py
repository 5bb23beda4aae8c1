"""Which lone units of a model may compute an output of it, told from its tree of modules alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from torch import nn
from torch.nn.utils import parametrize

from noisyexp.activations import Activation
from noisyexp.nn.noisy import NoisyModule
from noisyexp.nn.replace_choice import UNITS, is_leaf, leaves

Slot: TypeAlias = tuple[nn.Module, str]
"""Where a module is: what holds it, and its name there."""

_LONE = (*UNITS, Activation)
_RESHAPES = (nn.Flatten, nn.Unflatten, nn.Identity)
_INPUTS = ("in_features", "in_channels", "input_size", "num_features", "normalized_shape")
_OUTPUTS = ("out_features", "out_channels", "hidden_size", "num_features", "normalized_shape")


def outputs(model: nn.Module) -> dict[Slot, bool]:
    """Slots of lone units that count as outputs; whether it is the model's end and not a branch's.

    The end of a model, or of a branch of it, is what comes after its last module with parameters.
    Branches are the children of the model, and those of a `ModuleList` or `ModuleDict` among them;
    of a `Sequential` only the last child, since the order is the flow there. A branch feeds what
    comes next, and ends in no output, where that is one layer with as many inputs as the branch
    has outputs; within a `ModuleList`, where that is a branch with as many inputs.
    """
    found = dict.fromkeys(_ends(model), True)
    for branch, following, in_list in _branches(model, None):
        if not _feeds(branch, following, in_list):
            for slot in _ends(branch):
                found.setdefault(slot, False)
    return found


def _ends(module: nn.Module) -> list[Slot]:
    """Lone units after the last parameters; in a `Sequential` only the last, of a dict all ends."""
    found: list[Slot] = []
    passed = False  # by a child with parameters
    bare = not _learns(module)
    for name, child in reversed(module._modules.items()):
        if child is None:
            continue
        if isinstance(module, nn.Sequential) and found:
            break
        if isinstance(child, _LONE):
            if not passed:
                found.append((module, name))
        elif _learns(child):
            passed = True
            if not is_leaf(child):
                found += _ends(child)
            if not isinstance(module, nn.ModuleDict):
                break
        elif not passed:  # a loss, a metric, dropout; or units in a container
            units = [place for place in leaves(child) if isinstance(place.module, _LONE)]
            found += [(place.parent, place.name) for place in units]
            if bare and not units and not isinstance(child, _RESHAPES):
                break  # without parameters nothing tells a block from a model
    return found


def _branches(
    module: nn.Module, after: nn.Module | None
) -> Iterator[tuple[nn.Module, nn.Module | None, bool]]:
    """Branches, what comes after each, and whether both are in one `ModuleList`."""
    children = [child for child in module._modules.values() if child is not None]
    children = [child for child in children if _learns(child)]
    if isinstance(module, nn.Sequential):
        children = children[-1:]
    if len(children) == 1:  # a wrapper: its children are those of the model
        if not is_leaf(children[0]):
            yield from _branches(children[0], after)
        return
    for place, child in enumerate(children):
        last = place == len(children) - 1
        following = after if last else children[place + 1]
        if not is_leaf(child):
            yield child, following, isinstance(module, nn.ModuleList) and not last
            if isinstance(child, nn.ModuleDict | nn.ModuleList):
                yield from _branches(child, following)


def _learns(module: nn.Module) -> bool:
    """Whether it has parameters, p of lone units aside."""
    return any(
        any(True for _ in one.parameters(recurse=False))
        for one in module.modules()
        if not isinstance(one, Activation)
    )


def _feeds(branch: nn.Module, following: nn.Module | None, in_list: bool) -> bool:
    if following is None or not (in_list or list(_layers(following)) == [following]):
        return False
    width = _width(branch, _OUTPUTS, last=True)
    return width is not None and width == _width(following, _INPUTS, last=False)


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """Modules that hold weights, in order of registration.

    What makes a weight of a parametrised layer belongs to the layer. A module that has weights
    beside those of its children is one layer: nobody can tell which of them come last.
    """
    own = any(True for _ in module.parameters(recurse=False))
    whole = is_leaf(module) or own or parametrize.is_parametrized(module)
    if whole and _learns(module):
        yield module
    elif not whole:
        for child in module.children():
            yield from _layers(child)


def _width(module: nn.Module, names: tuple[str, ...], last: bool) -> int | None:
    """Inputs of the first layer, or outputs of the last one, as far as its attributes tell."""
    layers = list(_layers(module))
    if not layers:
        return None
    layer: Any = layers[-1 if last else 0]
    if last and isinstance(layer, nn.LSTM) and layer.proj_size:
        names = ("proj_size",)
    size: Any = next((getattr(layer, name) for name in names if hasattr(layer, name)), None)
    if isinstance(size, tuple):
        size = size[-1]
    if not isinstance(size, int):
        return None
    both = isinstance(layer, nn.RNNBase | NoisyModule) and bool(getattr(layer, "bidirectional", 0))
    return 2 * size if last and both else size
