"""What all units are: modules with one protocol.

A unit maps x of shape (..., num_units) to the same shape. In training it draws fresh noise (or
takes the standard normal draw `noise`), in evaluation it uses the noise's expectation. A new
variant is one subclass of `Activation`: its `variant` name makes it known to `make_activation`.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Literal, NoReturn

import torch
from torch import Tensor, nn

from noisyexp.activations import functional as F
from noisyexp.activations import settings as S
from noisyexp.activations.fused import can_fuse, fused_unit
from noisyexp.activations.noise import NoiseSource, draw_fresh
from noisyexp.activations.ops import unit_in_graph
from noisyexp.activations.settings import check_count, check_flag, check_number, pack, unpack
from noisyexp.kernels import dispatch
from noisyexp.kernels.precision import HALF, to_float, under_autocast

PShape = Literal["unit", "scalar"]

EXTRA_STATE = "_extra_state"
"""torch's name in a state dict for what a module adds to its parameters and buffers."""

NOT_SCRIPTED = (
    "torch.jit.script cannot read noisy units: use torch.export, or torch.jit.trace in evaluation"
)

NO_SETTINGS = (
    "the state dict has p of noisy units and no settings (c, alpha, ...), as one of an older "
    "version or of parameters alone: the model keeps its own settings. Was c annealed? Then set it"
)


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
        ValueError: an unknown kind or p_shape, num_units or c below 0, or a number that is not
            finite.
        TypeError: a setting of another type.
    """

    variant: ClassVar[str]
    has_noise: ClassVar[bool] = True
    has_p: ClassVar[bool] = False
    default_c: ClassVar[float] = 0.5
    leaks: ClassVar[bool] = False
    """Whether (1 - alpha) u is part of the unit, with noise or without: beyond the thresholds it
    leaks outwards for alpha < 1 and folds back for alpha > 1."""
    kernel_forms: ClassVar[tuple[tuple[int, int], tuple[int, int]]]
    """Form and multiplier of the compiled kernel, in training and in evaluation. Of this very
    class: a subclass without its own runs as written."""
    by_torch: ClassVar[bool] = False
    """Whether torch has this very unit: then the kernels run it inside layers and cells alone."""
    setting_names: ClassVar[tuple[str, ...]] = ("alpha", "c", "clip_output", "code_compat")
    """Attributes that a state dict carries and loading sets: numbers, True, False or texts. A
    variant with settings of its own adds their names."""
    dies_at_zero: ClassVar[bool] = False
    """Whether p = 0 has no noise and no gradient, and so stays 0."""
    _known: ClassVar[dict[str, type[Activation]]] = {}
    _warned: ClassVar[bool] = False
    """Of p = 0, in this process since p was last reset."""

    p: nn.Parameter | None
    alpha_and_c: Tensor | None
    """alpha and c, (2,) float64 on the CPU: the same numbers for graphs. None while one of them is
    a tensor, which may want a gradient."""
    path: str = ""
    """Module path, by which a `NoiseSource` knows the unit; "" before `attach_noise`."""
    noise_source: NoiseSource | None
    p_shape: PShape = "unit"
    _p_checked: bool = False
    backend: str
    """"auto", or "eager" to compute as written, without the compiled kernels."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As torch's module; one that was pickled by 0.1.0 calls its path `site`."""
        if "site" in state:
            state = {**state, "path": state["site"]}
            del state["site"]
        super().__setstate__(state)  # type: ignore[no-untyped-call]

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
        if kind not in F.KINDS:
            raise ValueError(f"kind {kind!r} is unknown; choose from {', '.join(F.KINDS)}")
        if p_shape not in ("unit", "scalar"):
            raise ValueError(f"p_shape {p_shape!r} is unknown; choose unit or scalar")
        self.kind, self.num_units = F.KINDS[kind], check_count("num_units", num_units)
        self.alpha = check_number("alpha", alpha)
        self.c = check_number("c", self.default_c if c is None else c, low=0)
        self.clip_output = check_flag("clip_output", clip_output)
        self.code_compat = check_flag("code_compat", code_compat)
        self.p_shape = p_shape
        self.path = ""
        self.noise_source = None
        self.backend = "auto"
        if self.has_p:
            size = num_units if p_shape == "unit" else 1  # FSDP takes no parameter of shape ()
            self.p = nn.Parameter(torch.empty(size, device=device, dtype=dtype))
            self.reset_p()
        else:
            self.register_parameter("p", None)

    def reset_p(self, generator: torch.Generator | None = None) -> None:
        """Draw p from U[-1, 1] (Section 6). Call it after any blanket initialisation of a model."""
        if self.p is not None:
            with torch.no_grad():
                self.p.uniform_(-1.0, 1.0, generator=generator)
            self._p_checked, Activation._warned = False, False

    def warn_of_dead_p(self) -> None:
        """At the unit's first call in training: warn once if p is 0 and will stay 0.

        Not where numbers cannot be read: in `torch.compile`, on the meta device, in `torch.func`.
        """
        if torch.compiler.is_compiling() or self._p_checked:
            return
        p = self.p
        if p is not None and self.dies_at_zero and p.requires_grad and p.numel() and not p.is_meta:
            if dispatch.capturing(p.device):
                return
            try:
                dead = not p.detach().any()
            except RuntimeError:
                return
            if dead and not Activation._warned:
                Activation._warned = True
                warnings.warn(
                    f"p of {self.path or 'a ' + self.variant + ' unit'} is 0: it has no noise and "
                    "no gradient, and stays so. An initialisation of all parameters may have set "
                    "it: call noisyexp.reset_noise_parameters(model) after it.",
                    stacklevel=2,
                )
        self._p_checked = True

    def draw_noise(self, shape: tuple[int, ...], device: torch.device) -> Tensor | None:
        """The draw xi of `shape` for one call; None in evaluation and for units without noise."""
        if self.training:
            self.warn_of_dead_p()
        if not (self.training and self.has_noise):
            return None
        if self.noise_source is None:
            return draw_fresh(shape, device)
        return self.noise_source.normal(self.path, shape, device)

    @classmethod
    def check_setting(cls, name: str, value: Any) -> Any:
        """A number, flag or text for the setting `name`, as the unit keeps it.

        It is asked at every assignment and when a state dict is loaded. A variant that cannot have
        every value refuses those here.

        Raises:
            TypeError: it is of another type.
            ValueError: it is a number that cannot be.
        """
        return S.check_setting(name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        """As torch's module, with settings checked.

        Raises:
            TypeError, ValueError: see `check_setting`; a number in place of a parameter or buffer.
        """
        if name in self.setting_names and not isinstance(value, Tensor):
            value = self.check_setting(name, value)
            if self._is_kept_by_torch(name):
                raise TypeError(
                    f"{name} of this unit is a parameter or a buffer: set its number by "
                    f"unit.{name}.data.fill_({value}), or `del unit.{name}` first"
                )
        super().__setattr__(name, value)
        if name in ("alpha", "c"):
            # A compiled graph reads this tensor at every call, and is made once for all values.
            both = (self.__dict__.get("alpha"), self.__dict__.get("c"))
            numbers = None
            if all(isinstance(part, float | int) for part in both):
                with torch.inference_mode(False):
                    numbers = torch.tensor(both, dtype=torch.float64, device="cpu")
            self.__dict__["alpha_and_c"] = numbers

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name in ("alpha", "c"):  # what is registered under the name next does not say so
            self.__dict__["alpha_and_c"] = None

    def _is_kept_by_torch(self, name: str) -> bool:
        """Whether it is a parameter or a buffer: to be learned perhaps, and torch saves it."""
        kept = self.__dict__  # without both where a subclass sets its own before our __init__
        return name in kept.get("_parameters", ()) or name in kept.get("_buffers", ())

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """phi(x, xi).

        Args:
            x: (..., num_units).
            noise: the standard normal xi to use in training, broadcastable to x; None draws it.

        Returns:
            The unit's value, shape and dtype of x.

        Raises:
            TypeError: x is not of a floating dtype.
            ValueError: the last size of x is not num_units, and p has a number for each unit.
        """
        if not x.is_floating_point():
            raise TypeError(f"x must be floating, not {x.dtype}; use x.float()")
        half = x.dtype in HALF or under_autocast(x)
        if half and self.backend == "auto" and not self.by_torch:
            with torch.autocast(x.device.type, enabled=False):  # as within layers
                return self.forward(to_float(x), noise).to(x.dtype)
        way = can_fuse(self, x, noise)
        if way == dispatch.DIRECT:
            return fused_unit(self, x, noise)
        if way == dispatch.OPERATOR:
            return unit_in_graph(self, x, noise)
        self._check_width(x)  # the kernels were not asked where it is wrong
        if x.dim() == 0 and self.p is not None:  # p has a dimension
            value: Tensor = self(x[None], None if noise is None else noise.reshape(1))
            return value[0]
        if not (self.training and self.has_noise):
            value = self.expected(x)
        else:
            xi = self.draw_noise(tuple(x.shape), x.device) if noise is None else noise
            assert xi is not None
            value = self.noisy(x, xi.to(x.dtype) if x.dtype == torch.float64 else xi)
        return value.clamp(self.kind.low, self.kind.high) if self.clip_output else value

    def _check_width(self, x: Tensor) -> None:
        """Refuse an x that p would widen, or that torch would refuse without naming num_units."""
        p = self.p
        if p is None or p.dim() != 1 or p.numel() == 1:  # a subclass may have p of its own shape
            return
        width = x.shape[-1] if x.dim() else 1
        if width != p.shape[0]:
            raise ValueError(
                f"the unit has num_units={p.shape[0]}, one p for each, and the last size of x is "
                f"{width}: they must be equal. p_shape='scalar' has one p for any size"
            )

    def __prepare_scriptable__(self) -> NoReturn:
        """What torch.jit.script asks first.

        Raises:
            TypeError: always.
        """
        raise TypeError(NOT_SCRIPTED)

    def noisy(self, x: Tensor, xi: Tensor) -> Tensor:
        """The unit in training, before the optional clip; x and xi of shape (..., num_units)."""
        raise NotImplementedError

    def expected(self, x: Tensor) -> Tensor:
        """The unit at test time, before the optional clip; x of shape (..., num_units)."""
        raise NotImplementedError

    def _identity(self) -> dict[str, str]:
        return {"variant": self.variant, "kind": self.kind.name, "p_shape": self.p_shape}

    def get_extra_state(self) -> Tensor:
        """Settings for the state dict: what evaluation needs beside p, c after annealing first."""
        return pack(self.settings())

    def settings(self) -> dict[str, Any]:
        """Variant, kind, p_shape, and the attributes of `setting_names` by name."""
        settings: dict[str, Any] = self._identity()
        for name in self.setting_names:
            value = getattr(self, name)
            if isinstance(value, Tensor) and (self._is_kept_by_torch(name) or value.numel() != 1):
                continue  # somebody's own: torch saves it, or nobody
            number = name in ("alpha", "c") or isinstance(value, Tensor)
            value = value.detach() if isinstance(value, Tensor) else value
            settings[name] = float(value) if number else value
        return settings

    def set_extra_state(self, state: Any) -> None:
        """Take over settings from a state dict.

        Raises:
            ValueError: they are those of another variant, kind or p_shape, or cannot be read.
        """
        self._take_settings(state)

    def _take_settings(self, state: Any) -> None:
        settings = unpack(state)
        for name, value in self._identity().items():
            theirs = settings.pop(name, None)
            needless = name == "p_shape" and (self.p is None or self.num_units == 1)
            if theirs != value and not needless:
                raise ValueError(
                    f"the state dict has a unit of {name} {theirs!r} where the model has "
                    f"{value!r}. Make the model with the settings of the one that was saved, or "
                    f"leave out the keys that end in {EXTRA_STATE} to load all but the settings"
                )
        try:  # all of them before the first is set
            named = [name for name in self.setting_names if name in settings]
            checked = {name: self.check_setting(name, settings[name]) for name in named}
        except (TypeError, ValueError) as error:
            raise ValueError(f"the state dict has settings that cannot be: {error}") from error
        for name, value in checked.items():
            current = getattr(self, name, None)
            if isinstance(current, Tensor):
                current.data.fill_(value)
            else:
                setattr(self, name, value)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Refuse another variant's state; accept torch's, which has no p and no settings.

        Without settings, as in a state dict from before they were in it, the unit keeps its own.
        """
        extra, p_key = prefix + EXTRA_STATE, prefix + "p"
        state_dict = dict(state_dict)  # the caller's, where somebody else than torch calls
        state, p = state_dict.pop(extra, None), state_dict.get(p_key)
        settings_came = state is not None and not getattr(state, "is_meta", False)
        if settings_came:
            try:
                self._take_settings(state)
            except ValueError as error:
                if not any(str(error) in message for message in error_msgs):  # once for all units
                    error_msgs.append(f"{prefix.rstrip('.') or type(self).__name__}: {error}.")
                return
        elif self.p is not None and p is not None:
            warnings.warn(NO_SETTINGS, stacklevel=2)
        if self.p is not None and self.p.dim() == 1 and isinstance(p, Tensor) and p.dim() == 0:
            state_dict[p_key] = p.reshape(1)  # p_shape scalar, as it was once
        missing: list[str] = []
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs
        )
        kept = {extra}
        if not settings_came and self.p is not None and not self.p.is_meta:
            kept.add(p_key)
        missing_keys += [key for key in missing if key not in kept]

    @property
    def uses_c(self) -> bool:
        """Whether c is in the unit's equation."""
        return self.has_noise or self.has_p

    def extra_repr(self) -> str:
        """Settings, for `print(model)`."""
        text = f"{self.kind.name}, num_units={self.num_units}"
        if self.uses_c:
            text += f", alpha={S.shown(self.alpha)}, c={S.shown(self.c)}"
        for flag in ("clip_output", "code_compat"):
            text += f", {flag}=True" if getattr(self, flag) else ""
        return text
