"""Device, dtype and frozen state of the p that `replace_activations` makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from noisyexp.activations import Activation

_HALF = (torch.bfloat16, torch.float16)
Parameters = Sequence[nn.Parameter]


class Like:
    """What p should be like, anywhere in a model.

    Args:
        model: the whole model, before it is changed.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._most = _most(_weights(model))

    def lone(self, path: str) -> tuple[dict[str, Any], bool]:
        """Device and dtype for a lone unit, by the nearest weights; whether its p is frozen.

        It is where all weights of what holds the unit are.
        """
        holder = self.model.get_submodule(path.rpartition(".")[0])
        return self._of(self._near(path)), _frozen(list(_weights(holder)))

    def layer(self, layer: nn.Module) -> tuple[dict[str, Any], bool]:
        """Device and dtype for the units of a layer; whether their p is frozen, as its weights."""
        near = list(_weights(layer))
        return self._of(near), _frozen(near)

    def _of(self, near: Parameters) -> dict[str, Any]:
        """Device and dtype; float32 for half precision that is not a choice of the whole model.

        In half precision small steps are lost to rounding. Who has a model in half precision has
        that for all weights; weights that are frozen, or in half precision beside a float32 rest,
        say nothing about how p should be learned.
        """
        dtype = _most(near)
        if dtype is None:
            return {}
        if dtype in _HALF and (_frozen(near) or dtype != self._most):
            dtype = torch.float32
        return {"device": max(near, key=_numbers).device, "dtype": dtype}

    def _near(self, path: str) -> Parameters:
        """Weights of the nearest module before a path, of the nearest after it, or any."""
        names = path.split(".")
        chain = [self.model]
        for name in names[:-1]:
            chain.append(chain[-1].get_submodule(name))
        for before in (True, False):
            for parent, name in zip(reversed(chain), reversed(names), strict=True):
                children = list(parent._modules)
                at = children.index(name)
                near = reversed(children[:at]) if before else iter(children[at + 1 :])
                for one in near:
                    child = parent._modules[one]
                    if child is not None and (found := _own(child, before)):
                        return found
        return list(_weights(self.model))


def _frozen(weights: Parameters) -> bool:
    """Whether there are weights, and none is learned."""
    return bool(weights) and not any(weight.requires_grad for weight in weights)


def _own(module: nn.Module, last: bool) -> Parameters:
    """Weights of the last, or first, module in it that has weights of its own."""
    modules = list(module.modules())
    for one in reversed(modules) if last else modules:
        if found := list(_weights(one, recurse=False)):
            return found
    return []


def _weights(module: nn.Module, recurse: bool = True) -> Iterator[nn.Parameter]:
    """Floating parameters, p of the noise aside; each once."""
    seen = set[nn.Parameter]()
    for one in module.modules() if recurse else (module,):
        if not isinstance(one, Activation):
            for parameter in one.parameters(recurse=False):
                if parameter.is_floating_point() and parameter not in seen:
                    seen.add(parameter)
                    yield parameter


def _numbers(weight: nn.Parameter) -> int:
    """How many it has; 0 for one of a lazy module, which has no shape yet."""
    return 0 if is_lazy(weight) else weight.numel()


def _most(weights: Iterable[nn.Parameter]) -> torch.dtype | None:
    """Dtype that most numbers have, None if there are none."""
    count = Counter[torch.dtype]()
    for weight in weights:
        count[weight.dtype] += _numbers(weight)
    return max(count, key=lambda dtype: count[dtype]) if count else None
