"""The compiled kernels as Python sees them: structures, functions, and whether there are any."""

from __future__ import annotations

import ctypes
import functools
import os
import warnings
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_double, c_int32, c_int64, c_uint32, c_void_p
from typing import Any

import torch

from noisyexp.kernels import cuda
from noisyexp.kernels.build import BuildError, build

SWITCH = "NOISYEXP_KERNELS"
"""Environment variable: 0 turns the kernels off."""

FORM_HARD, FORM_OUTPUT, FORM_INPUT, FORM_INPUT_SATURATED, FORM_INPUT_LEARNED = range(5)
FORM_INPUT_LEARNED_CODE, FORM_SOFT = 5, 6
MULTIPLIER_NORMAL, MULTIPLIER_HALF_NORMAL, MULTIPLIER_MEAN = range(3)
CHUNKS, ROWS = 16, 4
MAX_SITES = 5
GPU_THREADS = 2**18
"""About what a large GPU can have at once."""


class NoiseKey(Structure):
    """`noise_key` of structs.h: where a site's draws come from."""

    _fields_ = [("key0", c_uint32), ("key1", c_uint32), ("call", c_uint32)]


class Site(Structure):
    """`site` of structs.h: one unit's equation, settings and draws."""

    _fields_ = [
        *((name, c_int32) for name in ("form", "multiplier", "clip")),
        ("key", NoiseKey),
        *((name, c_double) for name in ("slope", "offset", "low", "high", "threshold")),
        *((name, c_double) for name in ("alpha", "c", "side", "mean")),
        ("p", c_void_p),
        ("p_stride", c_int64),
        ("key_from", c_void_p),
        ("given", c_void_p),
        ("p_grad", c_void_p),
    ]


class Layer(Structure):
    """`layer` of structs.h: the arrays of one layer in one direction."""

    _fields_ = [
        ("batch", c_int64),
        ("hidden", c_int64),
        *((name, c_int32) for name in ("threads", "sums_apart")),
        ("sites", Site * MAX_SITES),
        *((name, c_void_p) for name in ("mask", "h_start", "c_start", "bias")),
        *((name, c_void_p) for name in ("gates", "cells", "output", "recurrent", "d_output")),
        *((name, c_void_p) for name in ("d_gates", "d_recurrent", "d_h", "d_c", "d_carry")),
    ]

    @property
    def gpu_threads(self) -> int:
        """One for every unit and row of a step."""
        return int(self.threads * self.hidden)


class Persistent(Structure):
    """`persistent` of structs.h: all steps on a GPU, see kernels/persistent.py."""

    _fields_ = [
        ("own", Layer),
        ("steps", c_int64),
        *((name, c_int32) for name in ("reverse", "operands", "groups", "slices", "rows")),
        *((name, c_int32) for name in ("units", "chunk", "chunks", "splits", "tile_rows")),
        *((name, c_int32) for name in ("tile_columns", "width", "at_tile", "at_sums")),
        *((name, c_int32) for name in ("at_slots", "at_kept", "at_layer", "bytes")),
        *((name, c_void_p) for name in ("w_hh", "b_ih", "b_hh", "exchange", "arrived")),
        *((name, c_void_p) for name in ("end_h", "end_c", "start", "start_half")),
        *((name, c_void_p) for name in ("output_half", "d_gates_half", "d_recurrent_half")),
        *((name, c_void_p) for name in ("partial", "totals")),
    ]


class Shape(Structure):
    """`shape` of structs.h: (blocks, rows, units) and the threads to use."""

    _fields_ = [
        *((name, c_int64) for name in ("blocks", "rows", "units")),
        ("threads", c_int32),
    ]

    @property
    def gpu_threads(self) -> int:
        """One for every unit in each part."""
        return int(self.threads * self.units)


class StepLoop(Structure):
    """`step_loop` of structs.h: all steps of a layer on a processor in one call."""

    _fields_ = [
        *((name, c_void_p) for name in ("gemm", "step")),
        *((name, c_int64) for name in ("steps", "width")),
        *((name, c_int32) for name in ("reverse", "adds", "carries", "to_start")),
        *((name, c_void_p) for name in ("w", "w_t", "b_hh")),
    ]


class SingleStep(Structure):
    """`single_step` of structs.h: one step of a cell with its products."""

    _fields_ = [
        *((name, c_void_p) for name in ("gemm", "step")),
        *((name, c_int64) for name in ("inputs", "width")),
        ("adds", c_int32),
        *((name, c_void_p) for name in ("x", "w_ih", "w_hh", "b_ih", "b_hh", "bias")),
        *((name, c_void_p) for name in ("d_x", "d_h_start", "d_w_ih", "d_w_hh")),
    ]


class Score(Structure):
    """`score` of structs.h: scores of attention and, for backward, where their gradients go."""

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
        for part, arrays in (("map", 4), ("keep", 3), ("back_kept", 4)):
            function = getattr(library, f"unit_{part}_{suffix}")
            function.argtypes = [POINTER(Site), POINTER(Shape), *[c_void_p] * arrays]
            function.restype = None
        for way in ("forward", "backward"):
            function = getattr(library, f"{way}_pass_{suffix}")
            function.argtypes, function.restype = [POINTER(Layer), POINTER(StepLoop)], None
            function = getattr(library, f"single_{way}_{suffix}")
            function.argtypes, function.restype = [POINTER(Layer), POINTER(SingleStep)], None
            function = getattr(library, f"score_{way}_{suffix}")
            function.argtypes, function.restype = [POINTER(Score)], None
        function = getattr(library, f"cross_entropy_{suffix}")
        function.argtypes = [POINTER(Shape), *[c_void_p] * 3, c_double, *[c_void_p] * 3]
        function.restype = None
    library.normal_fill_f.argtypes = [POINTER(NoiseKey), POINTER(Shape), c_void_p]
    library.philox_block.argtypes = [POINTER(NoiseKey), POINTER(c_uint32), POINTER(c_uint32)]
    sizes = (c_int64 * 6)()
    library.struct_sizes(sizes)
    declared = [ctypes.sizeof(kind) for kind in (Site, Layer, Shape, Score, StepLoop, SingleStep)]
    if list(sizes) != declared:
        raise BuildError(f"structures have sizes {list(sizes)} in C and {declared} in Python")
    return library


def _load() -> ctypes.CDLL:
    try:
        return _declare(ctypes.CDLL(str(build())))
    except (OSError, AttributeError):  # of another C library, or of another version of this code
        return _declare(ctypes.CDLL(str(build(again=True))))


def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None with one warning a process when they cannot be had.

    None without a warning when the environment says NOISYEXP_KERNELS=0.
    """
    if os.environ.get(SWITCH) == "0":
        return None
    if "library" not in _state:
        try:
            _state["library"] = _load()
        except (BuildError, OSError) as error:
            _state["library"] = None
            notice(str(error))
    found: ctypes.CDLL | None = _state["library"]
    return found


def notice(reason: str) -> None:
    """Warn, once a process and reason, that units run without kernels."""
    noticed: set[str] = _state.setdefault("noticed", set())
    if reason not in noticed:
        noticed.add(reason)
        warnings.warn(
            f"noisy units run without their compiled kernels, many times slower: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )


def draws_on(device: torch.device) -> bool:
    """Whether the kernels can make draws there."""
    if on_gpu(device):
        return os.environ.get(SWITCH) != "0" and cuda.why_not(device.index) is None
    return device.type == "cpu" and library() is not None


def on_gpu(device: torch.device) -> bool:
    """Whether it is the GPU's kernels that run there."""
    return device.type == "cuda"


def function(name: str, like: torch.Tensor) -> Any:
    """The kernel `name` for tensors as this one, float32 or float64."""
    full = f"{name}_{'f' if like.dtype == torch.float32 else 'd'}"
    if on_gpu(like.device):
        return cuda.Launch(full, like.device.index)
    # Not by `library()`: a graph that has been built goes back even if the switch was turned since.
    return getattr(_state["library"], full)


@functools.cache
def address(name: str, dtype: torch.dtype) -> int | None:
    """Of the processor's kernel `name`, for another one that calls it."""
    suffix = "f" if dtype == torch.float32 else "d"
    return ctypes.cast(getattr(_state["library"], f"{name}_{suffix}"), c_void_p).value


def threads_for(work: int, parts: int) -> int:
    """Threads for `work` numbers in `parts` pieces: waking one costs as much as 10,000 numbers."""
    return max(1, min(torch.get_num_threads(), parts, work // 10_000))


def parts_of_step(device: torch.device, batch: int, work: int) -> int:
    """`threads` of a layer's step of `work` numbers: the processor's, or all rows on a GPU."""
    return batch if on_gpu(device) else threads_for(work, CHUNKS)


def parts_of_map(device: torch.device, shape: Sequence[int]) -> int:
    """`threads` of a walk over (blocks, rows, units)."""
    blocks, rows, units = shape
    if on_gpu(device):
        return max(1, min(blocks * rows, GPU_THREADS // units))
    return threads_for(blocks * rows * units, CHUNKS)


def sums_for_p(device: torch.device, threads: int) -> int:
    """Rows of sums that the gradient of p is added up in, each by one part: it has one order."""
    return threads if on_gpu(device) else CHUNKS
