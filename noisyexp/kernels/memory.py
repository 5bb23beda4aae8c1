"""The compiled step of a Neural Turing Machine's memory: the structure of memory.h, its calls."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_int32, c_int64, c_void_p
from functools import cache
from typing import Any

import torch
from torch import Tensor

from noisyexp.kernels import cpu
from noisyexp.kernels.build import BuildError

MAX_WRITERS = 16  # as in memory.h


class MemoryStep(Structure):
    """`memory_step` of memory.h: B episodes, N rows of width M, W heads that write, R that read."""

    _fields_ = [
        *((name, c_int64) for name in ("batch", "rows", "width", "writers", "readers")),
        ("threads", c_int32),
        ("work", c_void_p),
        *((name, c_void_p) for name in ("raw", "memory", "before", "written", "weights", "reads")),
        *((name, c_void_p) for name in ("d_written", "d_weights", "d_reads")),
        *((name, c_void_p) for name in ("d_raw", "d_memory", "d_before")),
    ]


@cache
def _function(way: str, dtype: torch.dtype) -> Any:
    library = cpu.library()
    assert library is not None, "ask `dispatch.way` first"
    library.memory_size.restype = c_int64
    if library.memory_size() != ctypes.sizeof(MemoryStep):
        raise BuildError("the structure of a memory's step has another size in C than in Python")
    function = getattr(library, f"memory_{way}_{'f' if dtype == torch.float32 else 'd'}")
    function.argtypes, function.restype = [POINTER(MemoryStep)], None
    return function


@cache
def _workspace(rows: int, width: int, writers: int, readers: int) -> int:
    """Numbers that a thread needs."""
    library = cpu.library()
    assert library is not None, "ask `dispatch.way` first"
    library.memory_work.restype = c_int64
    call = MemoryStep(1, rows, width, writers, readers)
    return int(library.memory_work(ctypes.byref(call)))


def step(way: str, heads: tuple[int, int], arrays: Sequence[Tensor | None]) -> None:
    """One step of all episodes.

    Args:
        way: "forward" or "backward".
        heads: W and R.
        arrays: those of `MemoryStep` in its order, as far as they are needed, contiguous; what
            forward makes and backward's gradients of inputs are written.
    """
    memory = arrays[1]
    assert memory is not None
    batch, width, rows = memory.shape
    threads = cpu.threads_for(memory.numel() * sum(heads), batch)
    work = memory.new_empty(threads * _workspace(rows, width, *heads))
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in arrays]
    call = MemoryStep(batch, rows, width, *heads, threads, work.data_ptr(), *pointers)
    _function(way, memory.dtype)(call)
