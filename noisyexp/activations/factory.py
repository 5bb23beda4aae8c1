"""Units by the names of their kind and variant."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

import noisyexp.activations.variants  # noqa: F401 (makes them known)
from noisyexp.activations.base import Activation


def variants() -> list[str]:
    """Names of all known variants, in order of definition."""
    return list(Activation._known)


def find_variant(name: str) -> type[Activation]:
    """The class of a variant: a known name, or the import path "package.module.Class" of one.

    Raises:
        ValueError: nothing of that name; the message lists the names and the closest one.
    """
    if name in Activation._known:
        return Activation._known[name]
    module, _, attribute = name.rpartition(".")
    if module:
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:  # a module of somebody's own may raise anything
            raise ValueError(f"variant {name!r} cannot be imported: {error}") from error
        if found is Activation:
            raise ValueError(f"variant {name!r} is the base of all units and no unit itself")
        if isinstance(found, type) and issubclass(found, Activation):
            return found
        raise ValueError(f"variant {name!r} is not a subclass of noisyexp.activations.Activation")
    close = difflib.get_close_matches(name, variants(), n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ValueError(f"variant {name!r} is unknown; choose from {', '.join(variants())}{hint}")


def make_activation(kind: str, variant: str, num_units: int, **settings: Any) -> Activation:
    """A unit as a module instance: `make_activation("tanh", "nah", 200, alpha=1.0, c=0.5)`.

    Args:
        kind: "tanh" or "sigmoid".
        variant: one of `variants()`, or the import path of a subclass of `Activation`.
        num_units: size of the last dimension of the input.
        settings: keyword arguments of `Activation`.

    Raises:
        ValueError: an unknown kind or variant, or a setting out of range.
        TypeError: an unknown setting.
    """
    return find_variant(variant)(kind, num_units, **settings)
