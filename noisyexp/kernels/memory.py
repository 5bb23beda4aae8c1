"""The compiled step of a Neural Turing Machine's memory: the structure of memory.h, its calls."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_int32, c_int64, c_void_p
from functools import cache
from typing import Any

import torch
from torch import Tensor

from noisyexp.kernels import bindings as K
from noisyexp.kernels.build import BuildError


class MemoryStep(Structure):
    """`memory_step` of memory.h: B episodes, N rows of width M, W heads that write, R that read."""

    _fields_ = [
        *((name, c_int64) for name in ("batch", "rows", "width", "writers", "readers")),
        ("threads", c_int32),
        *((name, c_void_p) for name in ("raw", "memory", "before", "written", "weights", "reads")),
        *((name, c_void_p) for name in ("d_written", "d_weights", "d_reads")),
        *((name, c_void_p) for name in ("d_raw", "d_memory", "d_before", "work")),
    ]


@cache
def _library() -> ctypes.CDLL:
    library = K.library()
    assert library is not None, "ask `dispatch.way` first"
    library.memory_size.restype = library.memory_work.restype = c_int64
    library.memory_work.argtypes = [POINTER(MemoryStep)]
    if library.memory_size() != ctypes.sizeof(MemoryStep):
        raise BuildError("the structure of a memory's step has another size in C than in Python")
    for way in ("forward", "backward"):
        for suffix in "fd":
            function = getattr(library, f"memory_{way}_{suffix}")
            function.argtypes, function.restype = [POINTER(MemoryStep)], None
    return library


def step(way: str, memory: Tensor, heads: tuple[int, int], **arrays: Tensor | None) -> None:
    """One step of all episodes.

    Args:
        way: "forward" or "backward".
        memory: (B, M, N), locations innermost.
        heads: W and R.
        arrays: the other arrays of `MemoryStep`, contiguous; what forward makes and backward's
            gradients of inputs are written.
    """
    batch, width, rows = memory.shape
    threads = K.threads_for(memory.numel() * sum(heads), batch)
    call = MemoryStep(batch, rows, width, *heads, threads, memory=memory.data_ptr())
    for name, tensor in arrays.items():
        if tensor is not None:
            setattr(call, name, tensor.data_ptr())
    library = _library()
    work = memory.new_empty(threads * library.memory_work(call))
    call.work = work.data_ptr()
    function: Any = getattr(
        library, f"memory_{way}_{'f' if memory.dtype == torch.float32 else 'd'}"
    )
    function(call)
