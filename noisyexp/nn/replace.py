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
    leaves,
    names_it,
    obstacle,
    selects,
)
from noisyexp.nn.replace_like import Like
from noisyexp.nn.replace_outputs import Slot, outputs
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

    A lone unit after the last module with parameters, of the model or of one of its branches, is
    taken for an output and left alone, since a noisy sigmoid leaves [0, 1]: docs/layers.md has the
    rule. A module that is used in several places is replaced in all of them or in none.

    p of a layer has the dtype of its weights, p of a lone unit that of the nearest weights before
    it; float32 where these are in half precision and frozen, or unlike most of the model. Where
    all weights of the layer, or of what holds the unit, are frozen, p is frozen, too.

    All is done, or nothing where there is an error. One warning names what was left alone without
    being asked for, and an optimiser that was made before and lacks the new p.

    Args:
        model: any module tree; a module that is used in several places stays shared.
        variant: name of the unit, or an `ActivationSpec`.
        include: what to replace, all if None: types, names ("encoder.lstm", and what is below),
            patterns of names ("*.gate"), or functions of path and module; one or several. One
            name of a module that has several is enough.
        exclude: what of that to leave alone, in the same form.
        include_head: whether to replace outputs, too; for one of them its full name in `include`
            says the same.
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
    spared = {} if include_head else outputs(model)
    places = [place for place in places if concerned(place)]
    for name, selection in (("include", include), ("exclude", exclude)):
        check_selection(name, selection, places)
    made = _Made(spec, Like(model))
    report = _planned(made, places, include, exclude, spared)
    before = {id(p) for p in noise_parameters(model)}
    made.commit()
    new = [p for p in noise_parameters(model) if id(p) not in before and p.requires_grad]
    _warn(model, report.skipped, bool(new))
    return report


_NOT_INCLUDED, _EXCLUDED, _DONE = "not included", "excluded", "it is so already"
_NAMED = 3
"""Modules that a warning names."""
_FROZEN = "p frozen like the weights: p.requires_grad_() lets it learn"


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


def _planned(
    made: _Made,
    places: list[Place],
    include: Selection,
    exclude: Selection,
    spared: dict[Slot, bool],
) -> Report:
    """Make what comes to the places; what is replaced and what is not."""
    shared: dict[nn.Module, list[Place]] = {}
    for place in places:
        shared.setdefault(place.module, []).append(place)
    done, skipped = list[Replacement](), list[Skipped]()
    for place in places:
        reason, asked = _reason(place, shared[place.module], include, exclude, spared)
        if reason is None and not made.plan(place):
            reason, asked = _DONE, True
        old = describe(place.module)
        if reason is None:
            done.append(Replacement(place.path, old, made.described(place), made.note(place)))
        else:
            skipped.append(Skipped(place.path, old, reason, asked))
    return Report(done, skipped)


def _reason(
    place: Place,
    same: list[Place],
    include: Selection,
    exclude: Selection,
    spared: dict[Slot, bool],
) -> tuple[str | None, bool]:
    """Why a place is left alone, None if it is not, and whether that was asked for.

    What holds for one of the places of a module, `same`, holds for all: half of it would be two.
    """
    if include is not None and not any(selects(include, one) for one in same):
        return _NOT_INCLUDED, True
    if any(selects(exclude, one) for one in same):
        return _EXCLUDED, True
    ends = [one for one in same if (one.parent, one.name) in spared and not names_it(include, one)]
    if not ends:
        return obstacle(place.module), False
    end = place if place in ends else ends[0]
    holder = end.path.rpartition(".")[0]
    is_end = spared[(end.parent, end.name)] or not holder
    reason = "the model's output" if is_end else f"it ends {holder} and may be an output"
    if end is not place:
        reason = f"it is {end.path}, too, {'' if is_end else 'and '}{reason.removeprefix('it ')}"
    named = ", ".join(f'"{one.path}"' for one in ends)
    return f'{reason}: include_head=True or include=["*", {named}] replaces it', False


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


class _Made:
    """New modules for old ones, made first and put in their places all at once.

    Args:
        spec: variant and settings.
        like: what new p are like.
    """

    def __init__(self, spec: ActivationSpec, like: Like) -> None:
        self.spec, self.like = spec, like
        self._new: dict[nn.Module, nn.Module] = {}
        self._changes: list[tuple[nn.Module, str, nn.Module, nn.Module]] = []
        self._layers: list[NoisyModule] = []

    def plan(self, place: Place) -> bool:
        """Make what comes to a place; False if it has such units already."""
        old = place.module
        if isinstance(old, NoisyModule):
            units = [leaf for leaf in leaves(old) if isinstance(leaf.module, Activation)]
            changed = [self._plan_unit(unit, old) for unit in units]
            if any(changed) or old.spec.variant != self.spec.variant:
                self._layers.append(old)
                return True
            return False
        if isinstance(old, Activation):
            return self._plan_unit(place)
        if old not in self._new:
            self._new[old] = self._of_torch(old, place.path).train(old.training)
        self._changes.append((place.parent, place.name, old, self._new[old]))
        return True

    def described(self, place: Place) -> str:
        """What comes to a place that was planned."""
        if isinstance(place.module, NoisyModule):
            return f"{type(place.module).__name__}({self.spec.variant})"
        return describe(self._new[place.module])

    def note(self, place: Place) -> str:
        """What the report adds on a place that was planned."""
        old = place.module
        if isinstance(old, NoisyModule | Activation):
            return ""
        return _FROZEN if any(not p.requires_grad for p in noise_parameters(self._new[old])) else ""

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

    def _plan_unit(self, place: Place, layer: NoisyModule | None = None) -> bool:
        old = place.module
        assert isinstance(old, Activation)
        if old not in self._new:
            if old.p is not None:
                like = {"device": old.p.device, "dtype": old.p.dtype}
                frozen = not old.p.requires_grad
            elif layer is not None:
                like, frozen = self.like.layer(layer)
            else:
                like, frozen = self.like.lone(place.path)
            spec = replace(self.spec, settings={"p_shape": old.p_shape, **self.spec.settings})
            new = spec(old.kind.name, old.num_units, **like).train(old.training)
            if type(new) is type(old) and new.settings() == old.settings():
                return False
            if new.p is not None and old.p is not None and new.p.shape == old.p.shape:
                new.p = old.p
            elif new.p is not None:
                new.p.requires_grad_(not frozen)
            new.path, new.noise_source, new.backend = old.path, old.noise_source, old.backend
            self._new[old] = new
        self._changes.append((place.parent, place.name, old, self._new[old]))
        return True

    def _of_torch(self, module: nn.Module, path: str) -> nn.Module:
        """The noisy form of one of torch's modules, with its parameters."""
        new: nn.Module
        if type(module) in UNITS:
            like, frozen = self.like.lone(path)
            scalar = replace(self.spec, settings={**self.spec.settings, "p_shape": "scalar"})
            new = scalar(UNITS[type(module)], 1, **like)
        else:
            like, frozen = self.like.layer(module)
            new = self._layer(module)
        for p in noise_parameters(new):
            p.requires_grad_(not frozen)
            p.data = p.data.to(like.get("dtype", p.dtype))
        return new

    def _layer(self, module: nn.Module) -> nn.Module:
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
