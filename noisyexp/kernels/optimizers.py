"""The compiled updates of optimisers: structures of optimizers.h, and the call."""

from __future__ import annotations

import ctypes
import enum
import os
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_double, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch

from noisyexp.kernels import cpu
from noisyexp.kernels.build import BuildError

_ROOTS = {torch.float32: "vmsSqrt", torch.float64: "vmdSqrt"}
_ROOT_MODE = 0x140102  # as in optimizers.h
_STATES = 3


class Rule(enum.IntEnum):
    """`enum RULE_...` of optimizers.h, with what each remembers of a weight, in this order."""

    SGD = 0  # nothing
    MOMENTUM = 1  # velocity
    ADAM = 2  # mean, mean square
    UNCORRECTED_ADAM = 3  # mean, mean square
    RMSPROP = 4  # mean square, velocity with momentum only
    ADADELTA = 5  # mean square, mean square of the steps
    GRAVES_RMSPROP = 6  # mean square, mean, velocity


class TensorUpdate(Structure):
    """`tensor_update` of optimizers.h: one weight with its gradient and state."""

    _fields_ = [
        ("weight", c_void_p),
        ("gradient", c_void_p),
        ("state", c_void_p * _STATES),
        ("size", c_int64),
        ("rate", c_double),
        ("divisor", c_double),
    ]


class UpdateCall(Structure):
    """`update_call` of optimizers.h: the rule with its settings, and its tensors."""

    _fields_ = [
        ("rule", c_int32),
        ("threads", c_int32),
        ("tensors", c_int64),
        ("first", POINTER(TensorUpdate)),
        *((name, c_double) for name in ("factor", "weight_decay", "shrink", "decay", "rest")),
        *((name, c_double) for name in ("mean_decay", "mean_rest", "momentum", "eps")),
        ("root", c_void_p),
    ]


@cache
def _root(dtype: torch.dtype) -> int | None:
    """Address of MKL's square root if torch's has its bits here; None for the compiler's."""
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        function = getattr(ctypes.CDLL(str(path), mode=os.RTLD_LAZY), _ROOTS[dtype])
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = [c_int32, c_void_p, c_void_p, c_int64], None
    probe = torch.arange(1, 4097, dtype=dtype) / 4096
    found = torch.empty_like(probe)
    function(len(probe), probe.data_ptr(), found.data_ptr(), _ROOT_MODE)
    if not torch.equal(found, probe.sqrt()):
        return None
    return ctypes.cast(function, c_void_p).value


def update(
    rule: Rule, dtype: torch.dtype, tensors: Sequence[TensorUpdate], **settings: float
) -> None:
    """Change the weights and states of `tensors`, all of `dtype`, by their gradients.

    Args:
        rule: of the optimiser.
        dtype: float32 or float64.
        tensors: contiguous weights, gradients and states on the CPU.
        settings: numbers of `UpdateCall`; those that the rule does not have may be left out.
    """
    rows = (TensorUpdate * len(tensors))(*tensors)
    work = sum(row.size for row in tensors)
    call = UpdateCall(
        rule=rule,
        threads=cpu.threads_for(work, work),
        tensors=len(tensors),
        first=rows,
        root=_root(dtype),
        **{"factor": 1.0, "shrink": 1.0, **settings},
    )
    _function(dtype)(ctypes.byref(call))


@cache
def _function(dtype: torch.dtype) -> ctypes._NamedFuncPointer:
    library = cpu.library()
    assert library is not None, "ask `dispatch.runs` first"
    sizes = (c_int64 * 2)()
    library.update_sizes(sizes)
    declared = [ctypes.sizeof(TensorUpdate), ctypes.sizeof(UpdateCall)]
    if list(sizes) != declared:
        raise BuildError(f"structures have sizes {list(sizes)} in C and {declared} in Python")
    function = library.update_f if dtype == torch.float32 else library.update_d
    function.argtypes, function.restype = [POINTER(UpdateCall)], None
    return function
