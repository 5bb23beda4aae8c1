"""A variant with its settings, for models that make units of both kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from noisyexp.activations.base import Activation
from noisyexp.activations.factory import make_activation


@dataclass(frozen=True)
class ActivationSpec:
    """A variant and its settings: called with (kind, num_units) it makes the unit.

    Attributes:
        variant: as in `make_activation`.
        settings: for both kinds.
        tanh: settings that differ for tanh units.
        sigmoid: settings that differ for sigmoid units.
    """

    variant: str = "nah"
    settings: Mapping[str, Any] = field(default_factory=dict)
    tanh: Mapping[str, Any] = field(default_factory=dict)
    sigmoid: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, kind: str, num_units: int, **extra: Any) -> Activation:
        """A unit of `kind`, "tanh" or "sigmoid", with the settings of that kind."""
        own = self.tanh if kind == "tanh" else self.sigmoid
        return make_activation(kind, self.variant, num_units, **{**self.settings, **own, **extra})
