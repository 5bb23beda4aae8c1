"""The matrix product that torch itself calls on the CPU, as an address for the C kernels.

A loop in C that calls it has the bits of a loop in Python over `torch.addmm`, without the 5 to 10
microseconds that a call from Python costs, as much as a product of a small layer.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int64, c_void_p, cast
from pathlib import Path

import torch

_NAMES = {torch.float32: ("sgemm_", c_float), torch.float64: ("dgemm_", c_double)}


@functools.cache
def gemm(dtype: torch.dtype) -> int | None:
    """Address of Fortran's ?GEMM in torch's CPU library; None where there is none that is torch's.

    It is tried once against `torch.mm`, bit by bit.
    """
    name, real = _NAMES[dtype]
    files = sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"))
    if sys.byteorder != "little" or not files:
        return None
    try:
        routine = getattr(ctypes.CDLL(str(files[0])), name)
    except (OSError, AttributeError):
        return None
    routine.restype = None
    numbers = torch.arange(1, 36, dtype=dtype)
    a, b = (numbers[:15] / 7).view(3, 5), (numbers[15:] / 9).view(5, 4)
    found, (m, n, k), one = a.new_empty(3, 4), map(c_int64, (4, 3, 5)), real(1)
    routine.argtypes = [
        c_char_p, c_char_p, *[POINTER(c_int64)] * 3, POINTER(real), c_void_p, POINTER(c_int64),
        c_void_p, POINTER(c_int64), POINTER(real), c_void_p, POINTER(c_int64),
    ]  # fmt: skip
    # Row-major arrays are column-major ones transposed: (a b)^T = b^T a^T.
    routine(
        b"N", b"N", byref(m), byref(n), byref(k), byref(one), b.data_ptr(), byref(m),
        a.data_ptr(), byref(k), byref(real(0)), found.data_ptr(), byref(m),
    )  # fmt: skip
    return cast(routine, c_void_p).value if torch.equal(found, a.mm(b)) else None


def gemm_for(like: torch.Tensor) -> int | None:
    """The routine by which torch multiplies such tensors now; None where a loop has to ask torch.

    That is where float32 may be multiplied in less than float32, which torch decides call by call.

    Args:
        like: a tensor on the CPU.
    """
    if like.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        return None
    return gemm(like.dtype)
