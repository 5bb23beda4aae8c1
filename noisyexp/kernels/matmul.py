"""Matrix products of bf16 operands with float32 sums and results, and where they can be had.

On a processor: tiles of AMX or vectors of AVX512-BF16, by code of our own, since torch has no such
product there (its bf16 products round their results). On a GPU: torch's product with a float32
result. Where there is neither, the operands stay float32, and one notice a process says so.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from ctypes import POINTER, Structure, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisyexp.kernels import cpu
from noisyexp.kernels.bindings import CELLS, WAYS, Layer
from noisyexp.kernels.build import BuildError
from noisyexp.kernels.dispatch import has

SWITCH = "NOISYEXP_BF16"
"""Environment variable: how a processor multiplies bf16 operands, one of FORMS or auto or off."""

FORMS = {"rounded": 0, "pairs": 1, "tiles": 2}
"""By name what matmul.h numbers.

rounded: operands rounded to bf16, multiplied as float32 by plain C. Runs anywhere, slowly: what the
    others are compared with.
pairs: vectors of AVX512-BF16.
tiles: tiles of AMX.
"""

DEPTH = 32
PANEL = 32
TILE_WORDS = 256
WORK_OF_A_THREAD = {"rounded": 10**6, "pairs": 4 * 10**6, "tiles": 2 * 10**7}
"""Multiplications that are worth waking a thread for."""


class Matrix(Structure):
    """`matrix` of bf16.h: where a matrix lies, k the index that a product sums over."""

    _fields_ = [
        ("data", c_void_p),
        *((name, c_int64) for name in ("i_size", "k_size", "i_stride", "k_stride")),
        *((name, c_int32) for name in ("is_float", "threads")),
    ]


class Matmul(Structure):
    """`matmul` of matmul.h: one product c = start + a b."""

    _fields_ = [
        *((name, c_int64) for name in ("rows", "columns", "depth")),
        ("a", c_void_p),
        ("a_stride", c_int64),
        *((name, c_void_p) for name in ("b", "start")),
        ("start_stride", c_int64),
        ("c", c_void_p),
        ("c_stride", c_int64),
        *((name, c_int32) for name in ("form", "threads")),
    ]


class Recurrence(Structure):
    """`recurrence` of loops.h: all steps of one direction."""

    _fields_ = [
        ("arrays", Layer),
        ("steps", c_int64),
        *((name, c_int32) for name in ("reverse", "form", "threads", "past_start")),
        *((name, c_void_p) for name in ("weights", "rounded")),
        ("width", c_int64),
        *((name, c_void_p) for name in ("rounded_recurrent", "b_hh", "d_bias", "d_bias_hh")),
    ]


def declare_products(library: ctypes.CDLL) -> None:
    """Say what products call of a library compiled from matmul.h."""
    library.bf16_pack_columns.argtypes = [POINTER(Matrix), c_void_p]
    library.bf16_pack_rows.argtypes = [POINTER(Matrix), c_void_p, c_int64]
    library.bf16_multiply.argtypes = [POINTER(Matmul)]
    library.bf16_usable.argtypes, library.bf16_usable.restype = [c_int32], c_int32
    for name in ("bf16_pack_columns", "bf16_pack_rows", "bf16_multiply"):
        getattr(library, name).restype = None


def load_products(path: Path) -> ctypes.CDLL:
    """A library compiled from matmul.h alone, with other settings than the kernels."""
    found = ctypes.CDLL(str(path))
    declare_products(found)
    return found


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Say what this module calls of the compiled kernels.

    Raises:
        BuildError: a structure has another size in C.
    """
    declare_products(library)
    for name in (f"{cell}_{way}_bf16" for cell in CELLS for way in WAYS):
        function = getattr(library, name)
        function.argtypes, function.restype = [POINTER(Recurrence)], None
    sizes = (c_int64 * 3)()
    library.bf16_struct_sizes(sizes)
    declared = [ctypes.sizeof(kind) for kind in (Matrix, Matmul, Recurrence)]
    if list(sizes) != declared:
        raise BuildError(f"structures have sizes {list(sizes)} in C and {declared} in Python")
    return library


_state: dict[str, Any] = {}


def library() -> ctypes.CDLL:
    """The compiled kernels, declared; call it where `form` is not None."""
    found = cpu.library()
    if found is None:
        raise BuildError("bf16 products are compiled kernels, and there are none here")
    declared: list[ctypes.CDLL] = _state.setdefault("declared", [])
    if found not in declared:
        declared.append(declare(found))
    return found


def form() -> str | None:
    """How this processor multiplies bf16 operands: one of FORMS, None where it cannot.

    NOISYEXP_BF16 names one, or is `off`, or `auto`, the default: the fastest that there is, which
    has to agree with plain C on a small product before it is used.

    Raises:
        ValueError: NOISYEXP_BF16 is something else, or names what this processor does not have.
    """
    wanted = os.environ.get(SWITCH) or "auto"
    if wanted not in ("auto", "off", *FORMS):
        allowed = ", ".join(("auto", "off", *FORMS))
        raise ValueError(f"{SWITCH}={wanted}: choose from {allowed}")
    if wanted == "off" or cpu.library() is None:
        return None
    forms: dict[str, str | None] = _state.setdefault("forms", {})
    if wanted not in forms:
        forms[wanted] = _find_form(wanted)
    return forms[wanted]


def _find_form(wanted: str) -> str | None:
    if wanted != "auto":
        if not library().bf16_usable(FORMS[wanted]):
            raise ValueError(f"{SWITCH}={wanted}: this processor or this system does not have them")
        return wanted
    for name in ("tiles", "pairs"):
        if not library().bf16_usable(FORMS[name]):
            continue
        if agrees(name):
            return name
        warnings.warn(
            f"bf16 products by {name} are wrong on this processor and are not used: please report "
            "it with the processor's name",
            RuntimeWarning,
            stacklevel=2,
        )
    return None


def agrees(name: str, rows: int = 37, depth: int = 75, columns: int = 107) -> bool:
    """Whether a form gives the product that plain C gives, of a size with edges everywhere."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(rows, depth, generator=generator)
    b = torch.randn(depth, columns, generator=generator)
    start = torch.randn(columns, generator=generator)
    truth = multiply(as_rows(a), Columns(b, "rounded"), start)
    for _ in range(2):  # a product leaves nothing behind that the next one stumbles on
        found = multiply(as_rows(a), Columns(b, name), start)
    return bool(torch.allclose(found, truth, rtol=1e-4, atol=1e-4))


def note_float32() -> None:
    """Say once a process that bf16 was asked for and float32 is what runs."""
    if "noted" not in _state:
        _state["noted"] = True
        reason = "it is switched off" if os.environ.get(SWITCH) == "off" else (
            "this processor has no bf16 instructions"
        )  # fmt: skip
        warnings.warn(f"bf16 computes in float32 here: {reason}", stacklevel=2)


def loop(name: str) -> Any:
    """A function of loops.h."""
    return getattr(library(), name)


def width_of(size: int) -> int:
    """Numbers from row to row of a left operand: an odd number of tiles.

    So the rows of a block do not all fall on the same few lines of the first-level cache.
    """
    return (-(-size // DEPTH) | 1) * DEPTH


def threads_for(name: str, multiplications: int) -> int:
    """Threads for a product of so many multiplications."""
    return max(1, min(torch.get_num_threads(), multiplications // WORK_OF_A_THREAD[name]))


def _matrix(x: Tensor, along: int) -> Matrix:
    """x, with the dimension `along` as the one that the product sums over."""
    across = 1 - along
    threads = threads_for("pairs", x.numel())
    return Matrix(
        x.data_ptr(), x.shape[across], x.shape[along], x.stride(across), x.stride(along),
        x.dtype == torch.float32, threads,
    )  # fmt: skip


def _readable(x: Tensor) -> Tensor:
    """A matrix as the packing takes it: float32 or bf16, one of its strides 1."""
    if x.dtype not in (torch.float32, torch.bfloat16):
        x = x.float()
    return x if 1 in x.stride() else x.contiguous()


class Columns:
    """A right operand (K, N), rounded and packed; for products that share it.

    Args:
        b: float32 or bf16 on a processor where `packs` says so.
        form_name: what multiplies it, one of FORMS; None for what this processor does best.
    """

    def __init__(self, b: Tensor, form_name: str | None = None) -> None:
        name = form_name or form()
        assert name is not None, "see packs()"
        self.form = name
        b = _readable(b)
        self.depth, self.columns = b.shape
        panels, deep = -(-self.columns // PANEL), -(-self.depth // DEPTH)
        self.packed = torch.empty(panels * deep * 2 * TILE_WORDS, dtype=torch.int32)
        library().bf16_pack_columns(_matrix(b, 0), self.packed.data_ptr())


def as_rows(a: Tensor, fresh: bool = False) -> Tensor:
    """A left operand (M, K), rounded: bf16 (M, K), rows `width_of(K)` apart and zeros between.

    Args:
        a: any floating dtype; one of its strides should be 1.
        fresh: a copy even where `a` lies so already.
    """
    width = width_of(a.shape[1])
    if not fresh and a.dtype == torch.bfloat16 and a.stride() == (width, 1) == (a.shape[1], 1):
        return a
    a = _readable(a)
    out = torch.empty(a.shape[0], width, dtype=torch.bfloat16)
    library().bf16_pack_rows(_matrix(a, 1), out.data_ptr(), width)
    return out[:, : a.shape[1]]


def multiply(
    a: Tensor, b: Columns, start: Tensor | None = None, by: ctypes.CDLL | None = None
) -> Tensor:
    """The float32 start + a b; a as `as_rows` leaves it, or rows of such a one.

    `by`: another library than the kernels, see `load_products`.
    """
    rows = a.shape[0]
    out = torch.empty(rows, b.columns)
    task = Matmul(
        rows, b.columns, b.depth, a.data_ptr(), a.stride(0), b.packed.data_ptr(),
        None if start is None else start.data_ptr(),
        0 if start is None or start.dim() == 1 else start.stride(0),
        out.data_ptr(), out.stride(0), FORMS[b.form],
        threads_for(b.form, rows * b.columns * b.depth),
    )  # fmt: skip
    (by or library()).bf16_multiply(task)
    return out


def bf16_matmul(
    a: Tensor,
    b: Tensor | Columns,
    start: Tensor | None = None,
    *,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """A product with operands of 16 bits and sums of 32, start + a b, without gradients.

    `rows x weights^T` is `bf16_matmul(rows, weights.t(), bias)`, a weight gradient
    `bf16_matmul(d.t(), rows)`: neither transposition is written to memory as such.

    On a processor without bf16 instructions, and for float16 on any processor, the operands stay
    as they are and the product is one of float32 (see `note_float32`).

    Args:
        a: (M, K) of any floating dtype; its strides may be those of a transposed matrix.
        b: (K, N) likewise, or packed already, see `Columns` and `packs`.
        start: (M, N) with rows in one piece, or (N,) for all rows: float32, added.
        dtype: of the operands, bfloat16 or float16.

    Returns:
        (M, N), float32.

    Raises:
        ValueError: sizes that do not fit.
    """
    depth, columns = (b.depth, b.columns) if isinstance(b, Columns) else b.shape
    if a.shape[1] != depth or (start is not None and start.shape[-1] != columns):
        raise ValueError(f"a product of {tuple(a.shape)} and {(depth, columns)}")
    if isinstance(b, Tensor):
        if not packs(a.device, dtype):
            return _by_torch(a, b, start, dtype)
        b = Columns(b)
    return multiply(as_rows(a), b, start)


def packs(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> bool:
    """Whether products there are made from packed operands, so that `Columns` can be kept."""
    return has("bf16_multiply", device) and dtype == torch.bfloat16 and form() is not None


def _by_torch(a: Tensor, b: Tensor, start: Tensor | None, dtype: torch.dtype) -> Tensor:
    with torch.autocast(a.device.type, enabled=False):
        if has("bf16_multiply", a.device):
            found = torch.mm(a.float(), b.float())
        else:
            found = mm(a.to(dtype), b.to(dtype))
        return found if start is None else found.add_(start)


def mm(a: Tensor, b: Tensor) -> Tensor:
    """Product (M, N) in float32 of half operands (M, K) and (K, N), by torch."""
    try:
        return torch.mm(a, b, out_dtype=torch.float32)
    except (TypeError, NotImplementedError):  # before torch 2.8, or not on a GPU: exact as well
        return torch.mm(a.float(), b.float())
