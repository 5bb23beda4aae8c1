"""Settings of a unit: checked when it is made, and as a tensor in its state dict.

A tensor, since that is what every way of saving takes: `torch.load(weights_only=True)`,
safetensors, distributed checkpoints. All of it is float32, with whole numbers below 256 or sums of
numbers, so that what is done to a whole state dict (another dtype, the mean of several) does to the
settings what it does to the weights, and leaves names as they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

FORMAT = 1
TEXT = 256
"""Room for names, in steps of: a state dict of one model always has the same shapes."""

LARGEST = float(torch.finfo(torch.float32).max)


def check_number(name: str, value: Any, low: float = -LARGEST) -> float:
    """`value` as a float.

    Raises:
        TypeError: not a number; a bool or a text is none.
        ValueError: below `low`, NaN, or infinite in float32.
    """
    if isinstance(value, bool) or not isinstance(value, Real | Tensor):
        raise TypeError(f"{name} must be a number, not {value!r}")
    number = float(value)
    if not low <= number:
        least = f"at least {low:g}" if low > -LARGEST else "finite"
        raise ValueError(f"{name} must be {least}, not {number}")
    if not number <= LARGEST:
        raise ValueError(f"{name} must be finite, not {number}")
    return number


def check_flag(name: str, value: Any) -> bool:
    """`value`, which is True or False.

    Raises:
        TypeError: it is neither.
    """
    if value is not True and value is not False:
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def check_setting(name: str, value: Any) -> Any:
    """A number, flag or text for the setting `name` of any variant, as a unit keeps it.

    Raises:
        TypeError: it is of another type, or nothing that a state dict can keep.
        ValueError: it is a number that cannot be.
    """
    if name in ("alpha", "c"):
        return check_number(name, value, low=0 if name == "c" else -LARGEST)
    if name in ("clip_output", "code_compat"):
        return check_flag(name, value)
    if value is None or isinstance(value, bool | str | Tensor | list | tuple | dict):
        return value
    if isinstance(value, Integral):
        return int(value)
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, True, False or a text, not {value!r}")
    return check_number(name, value)


def shown(value: float | Tensor) -> str:
    """A number for people; of a tensor of several, or on the meta device, how many."""
    if not isinstance(value, Tensor):
        return f"{value:g}"
    if value.numel() != 1 or value.is_meta:
        return f"{value.numel()} numbers"
    return f"{float(value.detach()):g}"


def check_count(name: str, value: Any) -> int:
    """`value` as a whole number, at least 0.

    Raises:
        TypeError: not a whole number.
        ValueError: below 0.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be at least 0, not {value}")
    return int(value)


def pack(settings: Mapping[str, Any]) -> Tensor:
    """Settings as one float32 tensor on the CPU.

    A number is the sum of three float32, which is exact for every float64 of float32's range.

    Args:
        settings: floats, and what JSON has beside them, by name.
    """
    numbers = {name: value for name, value in settings.items() if isinstance(value, float)}
    rest = {name: value for name, value in settings.items() if name not in numbers}
    text = json.dumps({**rest, "numbers": list(numbers)}, separators=(",", ":")).encode("ascii")
    text = text.ljust(-(-len(text) // TEXT) * TEXT)
    parts: list[float] = [FORMAT, len(text), *text]
    for value in numbers.values():
        for _ in range(3):
            part = float(torch.tensor(value, dtype=torch.float32, device="cpu"))
            parts.append(part)
            value -= part
    return torch.tensor(parts, dtype=torch.float32, device="cpu")


def unpack(state: Any) -> dict[str, Any]:
    """Settings from what `pack` made of them.

    Raises:
        ValueError: it is something else, or changed past reading.
    """
    try:
        values = state.detach().double().flatten().tolist()
        if round(values[0]) != FORMAT:
            raise ValueError(f"format {values[0]:g} is not {FORMAT}")
        end = 2 + round(values[1])
        settings: dict[str, Any] = json.loads(bytes(round(value) for value in values[2:end]))
        names = settings.pop("numbers")
        sums = [sum(values[end + 3 * i : end + 3 * i + 3]) for i in range(len(names))]
        if not all(math.isfinite(value) for value in sums):
            raise ValueError(f"a number among {', '.join(names)} is not finite")
    except Exception as error:  # whatever may be under that key
        raise ValueError(f"no settings of a noisy unit: {error}") from error
    return {**settings, **dict(zip(names, sums, strict=True))}
