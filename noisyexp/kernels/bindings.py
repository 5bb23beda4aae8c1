"""The compiled kernels as Python sees them: structures, functions, and whether there are any."""

from __future__ import annotations

import ctypes
import os
import warnings
from ctypes import POINTER, Structure, c_double, c_int32, c_int64, c_uint32, c_void_p
from typing import Any

import torch

from noisyexp.kernels.build import BuildError, build

SWITCH = "NOISYEXP_KERNELS"
"""Environment variable: 0 turns the kernels off."""

FORM_HARD, FORM_OUTPUT, FORM_INPUT, FORM_INPUT_SATURATED, FORM_INPUT_LEARNED = range(5)
FORM_INPUT_LEARNED_CODE = 5
MULTIPLIER_NORMAL, MULTIPLIER_HALF_NORMAL, MULTIPLIER_MEAN = range(3)
CHUNKS = 16
MAX_SITES = 5


class NoiseKey(Structure):
    """`noise_key` of noise.h: where a site's draws come from."""

    _fields_ = [("key0", c_uint32), ("key1", c_uint32), ("call", c_uint32)]


class Site(Structure):
    """`site` of kernels.c: one unit's equation, settings and draws."""

    _fields_ = [
        *((name, c_int32) for name in ("form", "multiplier", "clip")),
        ("key", NoiseKey),
        *((name, c_double) for name in ("slope", "offset", "low", "high", "threshold")),
        *((name, c_double) for name in ("alpha", "c", "side", "mean")),
        ("p", c_void_p),
        ("p_stride", c_int64),
        ("given", c_void_p),
        ("p_grad", c_void_p),
    ]


class Layer(Structure):
    """`layer` of kernels.c: the arrays of one layer in one direction."""

    _fields_ = [
        ("batch", c_int64),
        ("hidden", c_int64),
        ("threads", c_int32),
        ("sites", Site * MAX_SITES),
        *((name, c_void_p) for name in ("mask", "h_start", "c_start", "bias")),
        *((name, c_void_p) for name in ("gates", "cells", "output", "recurrent", "d_output")),
        *((name, c_void_p) for name in ("d_gates", "d_recurrent", "d_h", "d_c", "d_carry")),
    ]


class Shape(Structure):
    """`shape` of kernels.c: (blocks, rows, units) and the threads to use."""

    _fields_ = [
        *((name, c_int64) for name in ("blocks", "rows", "units")),
        ("threads", c_int32),
    ]


class Score(Structure):
    """`score` of kernels.c: scores of attention and, for backward, where their gradients go."""

    _fields_ = [
        ("unit", Site),
        ("size", Shape),
        ("adds", c_int32),
        ("key_strides", c_int64 * 2),
        *((name, c_void_p) for name in ("keys", "q", "v", "scores", "d_scores")),
        *((name, c_void_p) for name in ("d_keys", "d_q", "d_v")),
    ]


_state: dict[str, Any] = {}


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    for cell in ("lstm", "gru"):
        for way in ("forward", "backward"):
            for suffix in "fd":
                function = getattr(library, f"{cell}_{way}_{suffix}")
                function.argtypes, function.restype = [POINTER(Layer), c_int64, c_int64], None
    for suffix in "fd":
        function = getattr(library, f"unit_map_{suffix}")
        function.argtypes = [POINTER(Site), POINTER(Shape), *[c_void_p] * 4]
        function.restype = None
        for way in ("forward", "backward"):
            function = getattr(library, f"score_{way}_{suffix}")
            function.argtypes, function.restype = [POINTER(Score)], None
    library.normal_fill.argtypes = [POINTER(NoiseKey), POINTER(Shape), c_void_p]
    library.philox_block.argtypes = [POINTER(NoiseKey), POINTER(c_uint32), POINTER(c_uint32)]
    sizes = (c_int64 * 4)()
    library.struct_sizes(sizes)
    declared = [ctypes.sizeof(kind) for kind in (Site, Layer, Shape, Score)]
    if list(sizes) != declared:
        raise BuildError(f"structures have sizes {list(sizes)} in C and {declared} in Python")
    return library


def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None with one warning a process when they cannot be had.

    None without a warning when the environment says NOISYEXP_KERNELS=0.
    """
    if os.environ.get(SWITCH) == "0":
        return None
    if "library" not in _state:
        try:
            _state["library"] = _declare(ctypes.CDLL(str(build())))
        except (BuildError, OSError) as error:
            _state["library"] = None
            _notice(str(error))
    found: ctypes.CDLL | None = _state["library"]
    return found


def runs(*tensors: torch.Tensor | None) -> bool:
    """Whether the kernels can be had and take these tensors, with one notice a reason why not.

    They take tensors that are all float32 or all float64, on the CPU, outside autocast. No notice
    where they are switched off, and none within `torch.compile`, `torch.jit.trace` and the
    transforms of `torch.func`, which go through the plain code.
    """
    tracing = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    if tracing or os.environ.get(SWITCH) == "0":
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    given = [tensor for tensor in tensors if tensor is not None]
    dtypes, devices = {t.dtype for t in given}, {t.device.type for t in given}
    reason = ""
    if devices != {"cpu"} or dtypes not in ({torch.float32}, {torch.float64}):
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        where = ", ".join(sorted(devices))
        reason = f"they take float32 or float64 on the CPU, not {names} on {where}"
    elif torch.is_autocast_enabled("cpu"):
        reason = "autocast is on"
    if reason:
        _notice(reason)
        return False
    return library() is not None


def _notice(reason: str) -> None:
    noticed: set[str] = _state.setdefault("noticed", set())
    if reason not in noticed:
        noticed.add(reason)
        warnings.warn(
            f"noisy units run without their compiled kernels, several times slower: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )


def function(name: str, dtype: torch.dtype) -> Any:
    """The kernel `name` for float32 or float64."""
    # Not by `library()`: a graph that has been built goes back even if the switch was turned since.
    return getattr(_state["library"], f"{name}_{'f' if dtype == torch.float32 else 'd'}")


def threads_for(work: int, parts: int) -> int:
    """Threads for `work` numbers in `parts` pieces: waking one costs as much as 10,000 numbers."""
    return max(1, min(torch.get_num_threads(), parts, work // 10_000))
