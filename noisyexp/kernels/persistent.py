"""All steps of a layer in one launch on a GPU: how the work is cut, and the launch itself.

Blocks of threads are all on the GPU at once and wait for each other after every step; each keeps
its part of the recurrent weights in shared memory (`src/persistent.cu`). A `Cut` says how rows of
the batch and hidden units are divided, so that the weights fit and a step takes the least time by a
rough count.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator
from ctypes import byref, c_int, c_void_p
from dataclasses import dataclass
from typing import NamedTuple

import torch

from noisyexp.kernels import bindings as K
from noisyexp.kernels import cuda

enabled = os.environ.get("NOISYEXP_PERSISTENT") != "0"
"""Whether to use these kernels; the environment may say no."""

OPERANDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""Of the products with the state; sums are float32."""

SLOWEST = 95_000
"""Nanoseconds of a step, both passes, from which on torch's products and a launch a step win."""

COUNTERS_APART = 32
MOST_TOTALS = 9
_SLOTS = {False: 8, True: 18}  # forward, backward
_CONSTANTS = 13 + MOST_TOTALS  # numbers of each unit of a slice
_FLOAT_TILES = ((4, 1), (4, 2), (8, 2), (8, 4))
_HALF_TILES = ((8, 1), (16, 1), (32, 1))
_MULTIPROCESSORS, _COOPERATIVE, _SHARED = 16, 95, 97  # CU_DEVICE_ATTRIBUTE_...
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_...


class Limits(NamedTuple):
    """Of a GPU: multiprocessors, and bytes of shared memory that a block can have."""

    processors: int
    shared: int


class Work(NamedTuple):
    """One pass: gates of the cell, B, H, number of the operands' type, and which way."""

    gates: int
    batch: int
    hidden: int
    operands: int
    backward: bool


@dataclass(frozen=True)
class Cut:
    """How a pass is divided: what `persistent` of structs.h says, and the threads of a block."""

    groups: int
    slices: int
    rows: int
    units: int
    chunk: int
    chunks: int
    splits: int
    tile_rows: int
    tile_columns: int
    width: int
    at_tile: int
    at_sums: int
    at_slots: int
    at_kept: int
    at_layer: int
    bytes: int
    threads: int

    def exchange_bytes(self, work: Work) -> int:
        """What the blocks need to tell each other a step, for two steps."""
        rows = 2 * self.groups * self.chunk * self.chunks
        if work.backward:
            return rows * self.slices * work.hidden * 4
        return rows * self.width * (2 if work.operands else 4)


def ceil(a: int, b: int) -> int:
    """The quotient a / b, rounded up."""
    return -(-a // b)


def _width(numbers: int, operands: int) -> int:
    """Of a row in shared memory, such that neighbouring rows begin in different banks."""
    return 16 * ceil(numbers, 16) + 8 if operands else 4 * (ceil(numbers, 4) | 1)


def _candidates(work: Work, limits: Limits) -> Iterator[Cut]:
    size = 2 if work.operands else 4
    for units in range(1, work.hidden + 1):
        slices = ceil(work.hidden, units)
        if slices > limits.processors or units > ceil(work.hidden, slices):
            continue  # too many blocks, or as many with fewer units each
        rows = ceil(work.batch, min(work.batch, limits.processors // slices))
        groups = ceil(work.batch, rows)
        of_gates = work.gates * units
        m, k = (work.hidden, of_gates) if work.backward else (of_gates, work.hidden)
        width = _width(k, work.operands)
        at_tile = (16 * ceil(m, 16) if work.operands else m) * width * size
        if at_tile > limits.shared:
            continue
        for tile_rows, tile_columns in _HALF_TILES if work.operands else _FLOAT_TILES:
            for times in (1, 2, 3, 4):
                chunk = tile_rows * times
                chunks = ceil(rows, chunk)
                if times > 1 and chunk - tile_rows >= rows:
                    continue
                for splits in (1, 2, 4, 8, 16):
                    tiles = 1 if work.backward or chunks == 1 else 2
                    sums = splits * chunk * (units if work.backward else m)
                    sizes = (
                        tiles * chunk * width * size, 4 * sums,
                        4 * _SLOTS[work.backward] * chunk * units, 8 * chunks * chunk * units,
                        _up(ctypes.sizeof(K.Layer)) + 4 * _CONSTANTS * units,
                    )  # fmt: skip
                    places = [at_tile]
                    for bytes_of in sizes:
                        places.append(places[-1] + _up(bytes_of))
                    if places[-1] > limits.shared:
                        continue
                    for threads in (128, 256, 512):
                        yield Cut(
                            groups, slices, rows, units, chunk, chunks, splits, tile_rows,
                            tile_columns, width, *places, threads,  # type: ignore[call-arg]
                        )  # fmt: skip


def _up(size: int) -> int:
    return 16 * ceil(size, 16)


def _product_nanoseconds(work: Work, cut: Cut) -> float:
    """Of a block's product for one chunk."""
    of_gates, warps = work.gates * cut.units, cut.threads // 32
    m, k = (work.hidden, of_gates) if work.backward else (of_gates, work.hidden)
    rows, columns = cut.tile_rows, cut.tile_columns
    strips = ceil(m, 16 if work.operands else 32 * columns)
    tiles = cut.chunk // rows * strips * (1 if work.backward else cut.splits)
    active, turns = min(tiles, warps), ceil(tiles, warps)
    splits = 1 if work.backward else cut.splits
    if work.operands:
        vectors = turns * ceil(ceil(k, 16), splits)
        arithmetic, shared = ceil(active, 4) * (4 + rows // 2), active * (4 + rows // 4)
        each, end = (12, 6 * rows) if work.backward else (9, 300)
    else:
        vectors = turns * ceil(ceil(k, 4), splits)
        arithmetic, shared = ceil(active, 4) * 4 * rows * columns, active * (4 * columns + rows)
        each, end = (9, 4 * rows * columns) if work.backward else (19, 52 * rows * columns)
    return vectors * (0.72 * max(arithmetic, shared) + each) + turns * end


def nanoseconds(work: Work, cut: Cut) -> float:
    """About what a step takes.

    Fitted to 650 passes measured on an H200: half are within 4 %, nine tenths within 10 %.
    """
    rows = min(cut.rows, cut.chunk)
    numbers, threads, splits = rows * cut.units, cut.threads, cut.splits
    chunk = _product_nanoseconds(work, cut)
    if work.backward:
        loads = ceil(splits * numbers, threads) * ceil(ceil(cut.slices, splits), 8)
        chunk += 160 + 385 * loads + (1660 + 35 * splits) * ceil(numbers, threads)
        chunk += 575 * ceil(6 * numbers, threads) + 350 * ceil(rows, 8)
        moved = 8 * cut.slices * work.batch * work.hidden
        return 3200 + cut.chunks * chunk + 0.13e-3 * moved
    chunk += 1100 + (930 + 8 * splits) * ceil(work.gates * numbers, threads)
    copied = rows * cut.chunks * cut.slices * cut.groups * cut.width * (2 if work.operands else 4)
    return 2900 + cut.chunks * chunk + 0.2e-3 * copied


def best_cut(work: Work, limits: Limits) -> Cut | None:
    """The fastest; None where the weights do not fit."""
    return min(_candidates(work, limits), key=lambda cut: nanoseconds(work, cut), default=None)


@functools.lru_cache(maxsize=256)
def best_cuts(
    gates: int, batch: int, hidden: int, operands: int, limits: Limits
) -> dict[bool, tuple[Work, Cut]]:
    """Of the forward and the backward pass; empty where they do not fit or do not pay."""
    found = {}
    for backward in (False, True):
        work = Work(gates, batch, hidden, operands, backward)
        cut = best_cut(work, limits)
        if cut is None:
            return {}
        found[backward] = work, cut
    return found if sum(nanoseconds(*pass_) for pass_ in found.values()) < SLOWEST else {}


@functools.cache
def limits_of(index: int) -> Limits | None:
    """Of GPU `index`; None where these kernels cannot run.

    That is before compute capability 8.0, or without cooperative launches.
    """
    if torch.cuda.get_device_capability(index) < (8, 0):
        return None
    if not _attribute(_COOPERATIVE, index):
        return None
    return Limits(_attribute(_MULTIPROCESSORS, index), _attribute(_SHARED, index))


def _attribute(attribute: int, index: int) -> int:
    value = c_int()
    status = cuda.driver().cuDeviceGetAttribute(byref(value), attribute, index)
    cuda.check(status, "cuDeviceGetAttribute")
    return value.value


@functools.cache
def _kernel(cell: str, backward: bool, operands: int, index: int) -> c_void_p:
    """The kernel, allowed to use all the shared memory that a block can have."""
    defines = (f"-DCELL=CELL_{cell.upper()}", f"-DOPERANDS={operands}")
    name = "backward_all" if backward else "forward_all"
    handle = cuda.handle(name, index, "persistent.cu", defines)
    shared = _attribute(_SHARED, index)
    status = cuda.driver().cuFuncSetAttribute(handle, _MAX_DYNAMIC_SHARED, shared)
    cuda.check(status, "cuFuncSetAttribute")
    return handle


@functools.cache
def _kept_counters(index: int, stream: int) -> torch.Tensor:
    """Zeros before and after every launch, which therefore share them on one stream."""
    processors = _attribute(_MULTIPROCESSORS, index)
    return torch.zeros(
        (processors + 1) * COUNTERS_APART, dtype=torch.int32, device=torch.device("cuda", index)
    )


def counters(cut: Cut, device: torch.device) -> torch.Tensor:
    """Counters for a launch on torch's current stream."""
    if torch.cuda.is_current_stream_capturing():
        size = (cut.groups + 1) * COUNTERS_APART
        return torch.zeros(size, dtype=torch.int32, device=device)
    return _kept_counters(device.index, torch._C._cuda_getCurrentRawStream(device.index))


def launch(cell: str, work: Work, cut: Cut, steps: K.Persistent, index: int) -> None:
    """Put a pass on torch's current stream of GPU `index`.

    Raises:
        RuntimeError: the driver refuses it.
    """
    if torch.cuda.current_device() != index:
        with torch.cuda.device(index):
            return launch(cell, work, cut, steps, index)
    kernel = _kernel(cell, work.backward, work.operands, index)
    parameters = (c_void_p * 1)(ctypes.addressof(steps))
    cuda.make_current(index)
    status = cuda.driver().cuLaunchCooperativeKernel(
        kernel, cut.groups * cut.slices, 1, 1, cut.threads, 1, 1, cut.bytes,
        c_void_p(torch._C._cuda_getCurrentRawStream(index)), parameters,
    )  # fmt: skip
    if status:
        cuda.check(status, f"{cell}, all steps in one launch")
    return None


@functools.lru_cache(maxsize=256)
def _template(work: Work, cut: Cut) -> bytes:
    steps = K.Persistent(operands=work.operands)
    steps.own.batch, steps.own.hidden = work.batch, work.hidden
    for name, *_ in K.Persistent._fields_:
        if hasattr(cut, name):
            setattr(steps, name, getattr(cut, name))
    return bytes(steps)


def describe(work: Work, cut: Cut) -> K.Persistent:
    """The structure that a kernel takes, with the cut in it and without addresses."""
    return K.Persistent.from_buffer_copy(_template(work, cut))
