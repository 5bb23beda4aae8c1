"""Put noisy units into a model that exists."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from noisyexp.activations import Activation, ActivationSpec, noise_parameters
from noisyexp.nn.initial import drop_bias
from noisyexp.nn.noisy import NoisyModule
from noisyexp.nn.replace_choice import (
    LAYERS,
    UNITS,
    Place,
    Selection,
    check_selection,
    concerned,
    describe,
    head,
    leaves,
    names_it,
    obstacle,
    selects,
)
from noisyexp.nn.replace_report import Replacement, Report, Skipped

_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_backward_hooks",
    "_backward_pre_hooks", "_is_full_backward_hook", "_state_dict_hooks",
    "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip


def replace_activations(
    model: nn.Module,
    variant: str | ActivationSpec,
    *,
    include: Selection = None,
    exclude: Selection = None,
    include_head: bool = False,
    **settings: Any,
) -> Report:
    """Swap tanh, sigmoid and the gates of recurrent layers for noisy units, in place.

    `torch.nn.Tanh` and `torch.nn.Sigmoid` become units with one p each, since they do not know how
    many inputs they have; `torch.nn.LSTM`, `GRU`, `LSTMCell` and `GRUCell` become the noisy layers
    with the same weights (the same parameters) and one p a unit. Hooks go along. What is noisy
    already gets the new variant and settings, and keeps p where the new one has it. Calls of
    `torch.tanh` in a `forward` cannot be seen.

    A lone unit that is the last module of the model, modules that only reshape aside, is taken for
    its output and left alone: a noisy sigmoid leaves [0, 1].

    All is done, or nothing where there is an error. One warning names what was left alone without
    being asked for, and an optimiser that was made before and lacks the new p.

    Args:
        model: any module tree; a module that is used in several places stays shared.
        variant: name of the unit, or an `ActivationSpec`.
        include: what to replace, all if None: types, names ("encoder.lstm", and what is below),
            patterns of names ("*.gate"), or functions of path and module; one or several.
        exclude: what of that to leave alone, in the same form.
        include_head: whether to replace the output, too; its full name in `include` says the same.
        settings: settings of the units, for example alpha=1.0, c=0.5.

    Returns:
        What was replaced, in module order, and what was not.

    Raises:
        ValueError: the model itself is such a module, an unknown variant, a setting out of range,
            or a name in `include` or `exclude` that matches nothing.
        TypeError: an unknown setting, or one of another type.
    """
    spec = _checked(model, variant, settings)
    places = leaves(model)
    output = None if include_head else head(places)
    places = [place for place in places if concerned(place)]
    for name, selection in (("include", include), ("exclude", exclude)):
        check_selection(name, selection, places)
    made = _Made(spec, _like(model))
    done, skipped = list[Replacement](), list[Skipped]()
    for place in places:
        reason = _reason(place, include, exclude, output)
        if reason is None and not made.plan(place):
            reason = _DONE
        if reason is None:
            done.append(Replacement(place.path, describe(place.module), made.described(place)))
        else:
            asked = reason in _ASKED_FOR
            skipped.append(Skipped(place.path, describe(place.module), reason, asked))
    before = {id(p) for p in noise_parameters(model)}
    made.commit()
    new = [p for p in noise_parameters(model) if id(p) not in before]
    _warn(model, skipped, bool(new))
    return Report(done, skipped)


_NOT_INCLUDED, _EXCLUDED, _DONE = "not included", "excluded", "it is so already"
_NAMED = 3
"""Modules that a warning names."""
_ASKED_FOR = (_NOT_INCLUDED, _EXCLUDED, _DONE)
"""Reasons to leave a place alone that need no warning."""


def _checked(
    model: nn.Module, variant: str | ActivationSpec, settings: dict[str, Any]
) -> ActivationSpec:
    """Variant and settings in one; a mistake is one, whether there is such a unit or not."""
    if type(model) in (*UNITS, *LAYERS) or isinstance(model, NoisyModule | Activation):
        raise ValueError(f"{type(model).__name__} is the model itself: put it into a module")
    if not isinstance(variant, str | ActivationSpec):
        raise TypeError(f"variant={variant!r}: expected a name, as 'nah', or an ActivationSpec")
    spec = ActivationSpec(variant) if isinstance(variant, str) else variant
    spec = replace(spec, settings={**spec.settings, **settings})
    for kind in UNITS.values():
        spec(kind, 1, device="meta")
    return spec


def _reason(place: Place, include: Selection, exclude: Selection, output: str | None) -> str | None:
    """Why a place is left alone, None if it is not."""
    if include is not None and not selects(include, place):
        return _NOT_INCLUDED
    if selects(exclude, place):
        return _EXCLUDED
    if place.path == output and not names_it(include, place):
        return "the model's output: include_head=True replaces it"
    return obstacle(place.module)


def _warn(model: nn.Module, skipped: Sequence[Skipped], has_new_p: bool) -> None:
    """Say in one warning what nobody asked for; why is in the report, and said there alone."""
    parts = []
    left = [f"{entry.path} ({entry.old})" for entry in skipped if not entry.asked]
    if left:
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        named = ", ".join(left[:_NAMED])
        parts.append(f"{named}{more} left alone; the report that it returns says why")
    if has_new_p and (older := _optimizers_of(model)):
        kinds = ", ".join(sorted({type(optimizer).__name__ for optimizer in older}))
        advice = "noisyexp.add_noise_parameters(optimizer, model)"
        parts.append(f"{kinds} was made before and lacks the new p: {advice}")
    if parts:
        warnings.warn("replace_activations: " + "; ".join(parts), stacklevel=3)


def _optimizers_of(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Optimisers of this process that hold a parameter of the model."""
    own = {id(p) for p in model.parameters()}
    kinds = {torch.optim.Optimizer}
    while more := {kind for base in kinds for kind in base.__subclasses__()} - kinds:
        kinds |= more
    # By type(): isinstance is slow, and asks lazy stand-ins of modules, which then import them.
    return [
        o
        for o in gc.get_objects()
        if type(o) in kinds
        and any(id(p) in own for group in getattr(o, "param_groups", ()) for p in group["params"])
    ]


def _like(model: nn.Module) -> dict[str, Any]:
    """Device and dtype of lone units: those of the model's first floating parameter."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    return {} if weight is None else {"device": weight.device, "dtype": weight.dtype}


class _Made:
    """New modules for old ones, made first and put in their places all at once.

    Args:
        spec: variant and settings.
        like: device and dtype of lone units.
    """

    def __init__(self, spec: ActivationSpec, like: dict[str, Any]) -> None:
        self.spec, self.like = spec, like
        self._new: dict[nn.Module, nn.Module] = {}
        self._changes: list[tuple[nn.Module, str, nn.Module, nn.Module]] = []
        self._layers: list[NoisyModule] = []

    def plan(self, place: Place) -> bool:
        """Make what comes to a place; False if it has such units already."""
        old = place.module
        if isinstance(old, NoisyModule):
            units = [leaf for leaf in leaves(old) if isinstance(leaf.module, Activation)]
            changed = [self._plan_unit(unit) for unit in units]
            if any(changed) or old.spec.variant != self.spec.variant:
                self._layers.append(old)
                return True
            return False
        if isinstance(old, Activation):
            return self._plan_unit(place)
        if old not in self._new:
            self._new[old] = self._of_torch(old).train(old.training)
        self._changes.append((place.parent, place.name, old, self._new[old]))
        return True

    def described(self, place: Place) -> str:
        """What comes to a place that was planned."""
        if isinstance(place.module, NoisyModule):
            return f"{type(place.module).__name__}({self.spec.variant})"
        return describe(self._new[place.module])

    def commit(self) -> None:
        """Put everything in its place; after an error all is where it was."""
        done = []
        try:
            for parent, name, old, new in self._changes:
                done.append((parent, name, old))
                setattr(parent, name, new)
        except BaseException:
            for parent, name, old in reversed(done):
                parent._modules[name] = old
            raise
        for old, new in self._new.items():
            _move_hooks(old, new)
        for layer in self._layers:
            layer.spec = self.spec

    def _plan_unit(self, place: Place) -> bool:
        old = place.module
        assert isinstance(old, Activation)
        if old not in self._new:
            like = self.like if old.p is None else {"device": old.p.device, "dtype": old.p.dtype}
            spec = replace(self.spec, settings={"p_shape": old.p_shape, **self.spec.settings})
            new = spec(old.kind.name, old.num_units, **like).train(old.training)
            if type(new) is type(old) and new.settings() == old.settings():
                return False
            if new.p is not None and old.p is not None and new.p.shape == old.p.shape:
                new.p = old.p
            new.path, new.noise_source, new.backend = old.path, old.noise_source, old.backend
            self._new[old] = new
        self._changes.append((place.parent, place.name, old, self._new[old]))
        return True

    def _of_torch(self, module: nn.Module) -> nn.Module:
        """The noisy form of one of torch's modules, with its parameters."""
        if type(module) in UNITS:
            scalar = replace(self.spec, settings={**self.spec.settings, "p_shape": "scalar"})
            return scalar(UNITS[type(module)], 1, **self.like)
        old: Any = module
        keys = ["input_size", "hidden_size", "bias"]
        if isinstance(module, nn.RNNBase):
            keys += ["num_layers", "batch_first", "dropout", "bidirectional"]
        weight = next(module.parameters())
        new: nn.Module = LAYERS[type(module)](
            **{key: getattr(old, key) for key in keys},
            variant=self.spec, device=weight.device, dtype=weight.dtype,
        )  # fmt: skip
        for name, parameter in module.named_parameters():
            setattr(new, name, parameter)
        for name, _ in module.named_buffers():
            drop_bias(new, name)
        return new


def _move_hooks(old: nn.Module, new: nn.Module) -> None:
    """Give all hooks of `old` to `new`; the handles that take them off still work."""
    for name in _HOOKS:
        if name in old.__dict__:
            new.__dict__[name] = old.__dict__[name]
    hook: Any
    for hook in new._load_state_dict_pre_hooks.values():
        if getattr(hook, "with_module", False):  # it calls with the module it was registered at
            hook.module = weakref.ref(new)
