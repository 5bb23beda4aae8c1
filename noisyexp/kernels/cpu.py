"""The kernels on the processor: `src/kernels.c` compiled once, called by ctypes."""

from __future__ import annotations

import ctypes
import functools
from ctypes import POINTER, c_double, c_int64, c_uint32, c_void_p
from typing import Any

import torch

from noisyexp.kernels.backend import notice, switched_off
from noisyexp.kernels.bindings import (
    CELLS,
    CHUNKS,
    WAYS,
    Activation,
    Layer,
    NoiseKey,
    Score,
    Shape,
    SingleStep,
    StepLoop,
)
from noisyexp.kernels.build import BuildError, build

_STEPS = tuple(f"{cell}_{way}" for cell in CELLS for way in WAYS)
_UNITS = {"unit_map": 4, "unit_keep": 3, "unit_back_kept": 4}
"""With the arrays that they take."""

KERNELS: frozenset[str] = frozenset(
    (
        *_STEPS, *_UNITS, "normal_fill", "cross_entropy", "update", "bf16_multiply",
        *(f"{what}_{way}" for what in ("score", "memory") for way in WAYS),
        *(f"{way}_pass" for way in WAYS),
        *(f"single_{way}" for way in WAYS),
    )
)  # fmt: skip

NEAR = 2**20
QUEUED = False

_state: dict[str, Any] = {}


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Say what arguments the kernels have; those of other modules are declared there."""
    arguments: dict[str, list[Any]] = {
        **{name: [POINTER(Layer), c_int64, c_int64] for name in _STEPS},
        **{
            name: [POINTER(Activation), POINTER(Shape), *[c_void_p] * arrays]
            for name, arrays in _UNITS.items()
        },
        **{f"{way}_pass": [POINTER(Layer), POINTER(StepLoop)] for way in WAYS},
        **{f"single_{way}": [POINTER(Layer), POINTER(SingleStep)] for way in WAYS},
        **{f"score_{way}": [POINTER(Score)] for way in WAYS},
        "cross_entropy": [POINTER(Shape), *[c_void_p] * 3, c_double, *[c_void_p] * 3],
    }
    for name, types in arguments.items():
        for suffix in "fd":
            function = getattr(library, f"{name}_{suffix}")
            function.argtypes, function.restype = types, None
    library.normal_fill_f.argtypes = [POINTER(NoiseKey), POINTER(Shape), c_void_p]
    library.philox_block.argtypes = [POINTER(NoiseKey), POINTER(c_uint32), POINTER(c_uint32)]
    sizes = (c_int64 * 6)()
    library.struct_sizes(sizes)
    declared = [
        ctypes.sizeof(kind) for kind in (Activation, Layer, Shape, Score, StepLoop, SingleStep)
    ]
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
    if switched_off():
        return None
    if "library" not in _state:
        try:
            _state["library"] = _load()
        except (BuildError, OSError) as error:
            _state["library"] = None
            notice(str(error))
    found: ctypes.CDLL | None = _state["library"]
    return found


def runs(index: int | None) -> bool:
    """As `Backend` says; there is one processor, whatever the index."""
    return library() is not None


def capturing() -> bool:
    """As `Backend` says."""
    return False


def function(name: str, like: torch.Tensor) -> Any:
    """As `Backend` says."""
    # Not by `library()`: a graph that has been built goes back even if the switch was turned since.
    return _find(_state["library"], name, like.dtype)


@functools.cache
def _find(library: ctypes.CDLL, name: str, dtype: torch.dtype) -> Any:
    return getattr(library, f"{name}_{'f' if dtype == torch.float32 else 'd'}")


def address(name: str, like: torch.Tensor) -> int | None:
    """Of a kernel, for another one that calls it."""
    return _address(_state["library"], name, like.dtype)


@functools.cache
def _address(library: ctypes.CDLL, name: str, dtype: torch.dtype) -> int | None:
    return ctypes.cast(_find(library, name, dtype), c_void_p).value


def threads_for(work: int, parts: int) -> int:
    """Threads for `work` numbers in `parts` pieces: waking one costs as much as 10,000 numbers."""
    return max(1, min(torch.get_num_threads(), parts, work // 10_000))


def parts_of_step(batch: int, work: int) -> int:
    """As `Backend` says."""
    return threads_for(work, CHUNKS)


def parts_of_map(blocks: int, rows: int, units: int) -> int:
    """As `Backend` says."""
    return threads_for(blocks * rows * units, CHUNKS)


def sums_for_p(parts: int) -> int:
    """As `Backend` says: as many whatever the threads."""
    return CHUNKS
