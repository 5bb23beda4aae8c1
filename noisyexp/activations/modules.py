"""The seven units as modules with one protocol, and the factory that makes them.

A unit maps x of shape (..., num_units) to the same shape. In training it draws fresh noise (or
takes the standard normal draw `noise`), in evaluation it uses the noise's expectation. A new
variant is one subclass of `Activation`: its `variant` name makes it known to `make_activation`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from noisyexp.activations import functional as F
from noisyexp.activations.fused import can_fuse, fused_unit
from noisyexp.activations.noise import NoiseSource, draw_fresh
from noisyexp.activations.ops import unit_in_graph
from noisyexp.kernels import bindings as K
from noisyexp.kernels import dispatch

PShape = Literal["unit", "scalar"]

_QUIET = (K.FORM_HARD, K.MULTIPLIER_MEAN)


class Activation(nn.Module):
    """Base of all units: the noise-free hard unit's settings, the noise draw and the output clip.

    Args:
        kind: "tanh" or "sigmoid".
        num_units: size of the last dimension of x.
        alpha: weight of the hard unit against its linearisation (Eq 11).
        c: scale of the noise; for NANI and NANIS the paper's sigma itself. Change `unit.c` at any
            time to anneal. None takes the variant's default.
        p_shape: "unit" for one p per unit (the released code), "scalar" for one p (the paper).
        clip_output: clip the result to the range of the soft unit, as the authors' first release
            did for tanh.
        code_compat: the formulas of the authors' released code where they differ from the paper.

    Raises:
        ValueError: an unknown kind or p_shape, num_units < 1, or a negative c.
    """

    variant: ClassVar[str]
    has_noise: ClassVar[bool] = True
    has_p: ClassVar[bool] = False
    default_c: ClassVar[float] = 0.5
    leaks: ClassVar[bool] = False
    """Whether (1 - alpha) u is part of the unit, with noise or without."""
    kernel_forms: ClassVar[tuple[tuple[int, int], tuple[int, int]]]
    """Form and multiplier of the compiled kernel, in training and in evaluation. Of this very
    class: a subclass without its own runs as written."""
    _known: ClassVar[dict[str, type[Activation]]] = {}

    p: nn.Parameter | None
    settings: Tensor | None
    """alpha and c, (2,) float64 on the CPU: the same numbers for graphs. None while one of them is
    a tensor, which may want a gradient."""
    site: str
    noise_source: NoiseSource | None
    backend: str
    """"auto", or "eager" to compute as written, without the compiled kernels."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "variant" not in cls.__dict__:
            return
        known = Activation._known.setdefault(cls.variant, cls)
        # The same class may come again from a reloaded module; another one would hide the first.
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"variant {cls.variant!r} is already the class {known.__qualname__}")
        Activation._known[cls.variant] = cls

    def __init__(
        self,
        kind: str,
        num_units: int,
        *,
        alpha: float = 1.0,
        c: float | None = None,
        p_shape: PShape = "unit",
        clip_output: bool = False,
        code_compat: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        c = self.default_c if c is None else float(c)
        if kind not in F.KINDS:
            raise ValueError(f"kind {kind!r} is unknown; choose from {', '.join(F.KINDS)}")
        if p_shape not in ("unit", "scalar"):
            raise ValueError(f"p_shape {p_shape!r} is unknown; choose unit or scalar")
        if num_units < 1:
            raise ValueError(f"num_units must be at least 1, not {num_units}")
        if not c >= 0:
            raise ValueError(f"c must be at least 0, not {c}")
        self.kind, self.num_units = F.KINDS[kind], num_units
        self.alpha, self.c = float(alpha), c
        self.clip_output, self.code_compat = clip_output, code_compat
        self.site = ""
        self.noise_source = None
        self.backend = "auto"
        if self.has_p:
            shape = (num_units,) if p_shape == "unit" else ()
            self.p = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            self.reset_p()
        else:
            self.register_parameter("p", None)

    def reset_p(self, generator: torch.Generator | None = None) -> None:
        """Draw p from U[-1, 1] (Section 3). Call it after any blanket initialisation of a model."""
        if self.p is not None:
            with torch.no_grad():
                self.p.uniform_(-1.0, 1.0, generator=generator)

    def draw_noise(self, shape: tuple[int, ...], device: torch.device) -> Tensor | None:
        """The draw xi of `shape` for one call; None in evaluation and for units without noise."""
        if not (self.training and self.has_noise):
            return None
        if self.noise_source is None:
            return draw_fresh(shape, device)
        return self.noise_source.normal(self.site, shape, device)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("alpha", "c"):
            # A compiled graph reads this tensor at every call, and is made once for all values.
            both = (self.__dict__.get("alpha"), self.__dict__.get("c"))
            settings = None
            if all(isinstance(part, float | int) for part in both):
                with torch.inference_mode(False):
                    settings = torch.tensor(both, dtype=torch.float64, device="cpu")
            self.__dict__["settings"] = settings

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """phi(x, xi).

        Args:
            x: (..., num_units).
            noise: the standard normal xi to use in training, broadcastable to x; None draws it.

        Returns:
            The unit's value, shape and dtype of x.

        Raises:
            TypeError: x is not of a floating dtype.
        """
        way = can_fuse(self, x, noise)
        if way == dispatch.DIRECT:
            return fused_unit(self, x, noise)
        if way == dispatch.OPERATOR:
            return unit_in_graph(self, x, noise)
        if not x.is_floating_point():
            raise TypeError(f"x must be floating, not {x.dtype}; use x.float()")
        if not (self.training and self.has_noise):
            value = self.expected(x)
        else:
            xi = self.draw_noise(tuple(x.shape), x.device) if noise is None else noise
            assert xi is not None
            value = self.noisy(x, xi.to(x.dtype) if x.dtype == torch.float64 else xi)
        return value.clamp(self.kind.low, self.kind.high) if self.clip_output else value

    def noisy(self, x: Tensor, xi: Tensor) -> Tensor:
        """The unit in training, before the optional clip; x and xi of shape (..., num_units)."""
        raise NotImplementedError

    def expected(self, x: Tensor) -> Tensor:
        """The unit at test time, before the optional clip; x of shape (..., num_units)."""
        raise NotImplementedError

    @property
    def uses_c(self) -> bool:
        """Whether c is in the unit's equation."""
        return self.has_noise or self.has_p

    def extra_repr(self) -> str:
        """Settings, for `print(model)`."""
        text = f"{self.kind.name}, num_units={self.num_units}"
        if self.uses_c:
            text += f", alpha={self.alpha:g}, c={self.c:g}"
        for flag in ("clip_output", "code_compat"):
            text += f", {flag}=True" if getattr(self, flag) else ""
        return text


class Reference(Activation):
    """The soft unit itself: torch.tanh or torch.sigmoid."""

    variant = "reference"
    has_noise = False

    def expected(self, x: Tensor) -> Tensor:
        """tanh(x) or the logistic g(x)."""
        return torch.tanh(x) if self.kind is F.TANH else torch.sigmoid(x)


class Hard(Activation):
    """The hard unit without noise (Eq 3 and 4)."""

    variant = "hard"
    has_noise = False
    kernel_forms = (_QUIET, _QUIET)

    def expected(self, x: Tensor) -> Tensor:
        """h(x)."""
        return F.hard(x, self.kind)


class NAN(Activation):
    """Normal noise where the unit saturates (Eq 12)."""

    variant = "nan"
    has_p = True
    leaks = True
    kernel_forms = ((K.FORM_OUTPUT, K.MULTIPLIER_NORMAL), _QUIET)

    def noisy(self, x: Tensor, xi: Tensor) -> Tensor:
        """Eq 12."""
        assert self.p is not None
        return F.nan(
            x, xi, self.p, self.kind, alpha=self.alpha, c=self.c, code_compat=self.code_compat
        )

    def expected(self, x: Tensor) -> Tensor:
        """Eq 12 with E[xi] = 0."""
        return F.nan_expected(x, self.kind, alpha=self.alpha)


class NAH(Activation):
    """Half-normal noise where the unit saturates (Algorithm 1)."""

    variant = "nah"
    has_p = True
    leaks = True
    kernel_forms = (
        (K.FORM_OUTPUT, K.MULTIPLIER_HALF_NORMAL),
        (K.FORM_OUTPUT, K.MULTIPLIER_MEAN),
    )

    def noisy(self, x: Tensor, xi: Tensor) -> Tensor:
        """Algorithm 1."""
        assert self.p is not None
        return F.nah(x, xi, self.p, self.kind, alpha=self.alpha, c=self.c)

    def expected(self, x: Tensor) -> Tensor:
        """Eq 13."""
        assert self.p is not None
        return F.nah_expected(
            x, self.p, self.kind, alpha=self.alpha, c=self.c, code_compat=self.code_compat
        )


class NAHMean(NAH):
    """NAH with the mean of its noise in training, too: a leak that is learned, and no noise.

    Not in the paper. Against NAH it tells what half-normal noise does by being noise.
    """

    variant = "nah_mean"
    has_noise = False
    kernel_forms = (NAH.kernel_forms[1],) * 2


class _InputNoise(Activation):
    """Noise added to the input; at test time all of them are the hard unit."""

    def expected(self, x: Tensor) -> Tensor:
        """h(x)."""
        return F.hard(x, self.kind)


class NANI(_InputNoise):
    """Fixed noise at the input (Eq 14); c is the paper's sigma, 0.05 in Section 6.5."""

    variant = "nani"
    default_c = 0.05
    kernel_forms = ((K.FORM_INPUT, K.MULTIPLIER_NORMAL), _QUIET)

    def noisy(self, x: Tensor, xi: Tensor) -> Tensor:
        """Eq 14."""
        return F.nani(x, xi, self.kind, sigma=self.c)


class NANIL(_InputNoise):
    """Learned noise at the input (Eq 9 in Eq 14)."""

    variant = "nanil"
    has_p = True
    kernel_forms = ((K.FORM_INPUT_LEARNED, K.MULTIPLIER_NORMAL), _QUIET)

    def noisy(self, x: Tensor, xi: Tensor) -> Tensor:
        """Eq 9 in Eq 14."""
        assert self.p is not None
        return F.nanil(x, xi, self.p, self.kind, c=self.c, code_compat=self.code_compat)


class NANIS(_InputNoise):
    """Fixed noise at the input where saturated (Eq 15); c is sigma, 0.25 in the authors' code."""

    variant = "nanis"
    default_c = 0.25
    kernel_forms = ((K.FORM_INPUT_SATURATED, K.MULTIPLIER_NORMAL), _QUIET)

    def noisy(self, x: Tensor, xi: Tensor) -> Tensor:
        """Eq 15."""
        return F.nanis(x, xi, self.kind, sigma=self.c)


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
        except (ImportError, AttributeError) as error:
            raise ValueError(f"variant {name!r} cannot be imported: {error}") from error
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


def activations(model: nn.Module) -> Iterator[Activation]:
    """All units in a module tree, in module order."""
    return (module for module in model.modules() if isinstance(module, Activation))


def noise_parameters(model: nn.Module) -> list[nn.Parameter]:
    """All p of a model: what weight decay and blanket initialisation must leave alone."""
    return [unit.p for unit in activations(model) if unit.p is not None]


def reset_noise_parameters(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw every p of a model from U[-1, 1]; call it after the model's own initialisation."""
    for unit in activations(model):
        unit.reset_p(generator)


def set_noise_level(model: nn.Module, c: float) -> None:
    """Set c of every noisy unit of a model: one step of annealing (Section 5)."""
    for unit in activations(model):
        if unit.has_noise:
            unit.c = c
