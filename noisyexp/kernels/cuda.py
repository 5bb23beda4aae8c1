"""The kernels on an NVIDIA GPU: `src/gpu.cu` compiled by NVRTC, launched by the driver.

torch's CUDA builds bring NVRTC along and cannot work without the driver, so nothing else has to be
installed: no toolkit, no C compiler.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import sys
import tempfile
from ctypes import Structure, addressof, byref, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import torch

from noisyexp.kernels.backend import notice, switched_off
from noisyexp.kernels.bindings import CELLS, WAYS
from noisyexp.kernels.build import SOURCES, BuildError
from noisyexp.places import cache_folder

KERNELS: frozenset[str] = frozenset(
    (
        "unit_map", "normal_fill", "cross_entropy_back",
        *(f"{cell}_{way}{steps}" for cell in CELLS for way in WAYS for steps in ("", "_all")),
    )
)  # fmt: skip

NEAR = 2**24
QUEUED = True

BLOCK = 64
"""Threads of a block: few, so that the thousands of a recurrent step lie on many processors."""

THREADS = 2**18
"""About what a large GPU can have at once."""

_HEADERS = (
    "structs.h", "thread.h", "gpu.h", "steps.h", "machine.h", "product.h",
    "persistent.h", "persistent_forward.h", "persistent_backward.h",
)  # fmt: skip


def _nvrtc() -> ctypes.CDLL:
    """The NVRTC of this torch's CUDA."""
    major = str(torch.version.cuda or "").split(".")[0]  # empty: any, to try the source
    beside = Path(torch.__file__).parents[1].glob(f"nvidia/*/lib/libnvrtc.so.{major}*")
    errors = []
    for name in (*map(str, beside), f"libnvrtc.so.{major}".rstrip("."), "libnvrtc.so"):
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            errors.append(str(error))
    raise BuildError(f"NVRTC of CUDA {torch.version.cuda} not found: {errors[-1]}")


def _architecture(nvrtc: ctypes.CDLL, capability: tuple[int, int]) -> int:
    """The newest that this NVRTC knows and that runs on such a GPU: of its own major version."""
    count = c_int()
    nvrtc.nvrtcGetNumSupportedArchs(byref(count))
    known = (c_int * count.value)()
    nvrtc.nvrtcGetSupportedArchs(known)
    major, minor = capability
    fitting = [a for a in known if a // 10 == major and a % 10 <= minor]
    if not fitting:
        raise BuildError(
            f"the NVRTC of CUDA {torch.version.cuda} does not know GPUs of compute capability "
            f"{major}.{minor}"
        )
    return max(fitting)


@functools.cache
def compile_for(
    capability: tuple[int, int], name: str = "gpu.cu", defines: tuple[str, ...] = ()
) -> bytes:
    """Machine code of `src/<name>` for a GPU of this compute capability.

    It takes seconds, so it is kept in the user's cache, as the processor's library is.

    Raises:
        BuildError: no NVRTC, or it failed; the message has what it said.
    """
    nvrtc = _nvrtc()
    architecture = _architecture(nvrtc, capability)
    options = ("--std=c++17", f"--gpu-architecture=sm_{architecture}", *defines)
    version = (c_int * 2)()
    nvrtc.nvrtcVersion(byref(version, 0), byref(version, ctypes.sizeof(c_int)))
    texts = {file: (SOURCES / file).read_bytes() for file in (name, *_HEADERS)}
    digest = hashlib.sha256(repr((sorted(texts.items()), options, *version)).encode()).hexdigest()
    kept = cache_folder() / f"{Path(name).stem}-{digest[:16]}.cubin"
    if kept.exists():
        return kept.read_bytes()
    code = _compile(nvrtc, name, texts, options)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as file:
            file.write(code)
        os.replace(file.name, kept)
    return code


def _compile(
    nvrtc: ctypes.CDLL, name: str, texts: dict[str, bytes], options: tuple[str, ...]
) -> bytes:
    program, size = c_void_p(), c_size_t()
    headers = (c_char_p * len(_HEADERS))(*(texts[file] for file in _HEADERS))
    names = (c_char_p * len(_HEADERS))(*(file.encode() for file in _HEADERS))
    if nvrtc.nvrtcCreateProgram(
        byref(program), texts[name], name.encode(), len(_HEADERS), headers, names
    ):
        raise BuildError("nvrtcCreateProgram failed")
    try:
        given = (c_char_p * len(options))(*(option.encode() for option in options))
        failed = nvrtc.nvrtcCompileProgram(program, len(options), given)
        kind = "ProgramLog" if failed else "CUBIN"
        getattr(nvrtc, f"nvrtcGet{kind}Size")(program, byref(size))
        text = ctypes.create_string_buffer(size.value)
        getattr(nvrtc, f"nvrtcGet{kind}")(program, text)
    finally:
        nvrtc.nvrtcDestroyProgram(byref(program))
    if failed:
        raise BuildError(f"NVRTC failed: {text.value.decode(errors='replace').strip()[-500:]}")
    return text.raw


@functools.cache
def driver() -> ctypes.CDLL:
    """The CUDA driver; BuildError where there is none."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise BuildError(f"the CUDA driver cannot be loaded: {error}") from error


def check(status: int, what: str) -> None:
    """RuntimeError with what the driver says, and what was tried, if `status` is no success."""
    if status:
        text = c_char_p()
        driver().cuGetErrorString(status, byref(text))
        raise RuntimeError(f"{what}: {(text.value or b'unknown error').decode()}")


@functools.cache
def _module(
    index: int, source: str = "gpu.cu", defines: tuple[str, ...] = ()
) -> tuple[c_void_p, c_void_p]:
    """The kernels of a source on GPU `index`, and the context that they are loaded into."""
    code = compile_for(torch.cuda.get_device_capability(index), source, defines)
    module, context = c_void_p(), c_void_p()
    with torch.cuda.device(index):
        torch.cuda.synchronize()  # makes the context
        check(driver().cuCtxGetCurrent(byref(context)), "cuCtxGetCurrent")
        check(driver().cuModuleLoadData(byref(module), code), "cuModuleLoadData")
    return module, context


@functools.cache
def handle(
    name: str, index: int, source: str = "gpu.cu", defines: tuple[str, ...] = ()
) -> c_void_p:
    """The kernel `name` of a source, on GPU `index`."""
    found, (module, _) = c_void_p(), _module(index, source, defines)
    check(driver().cuModuleGetFunction(byref(found), module, name.encode()), name)
    return found


def make_current(index: int) -> None:
    """Make the context of GPU `index`, torch's current one, current in a thread that has none."""
    current = c_void_p()
    driver().cuCtxGetCurrent(byref(current))
    if current.value is None:  # a new thread, in which torch has not used the GPU yet
        check(driver().cuCtxSetCurrent(_module(index)[1]), "cuCtxSetCurrent")


@functools.cache
def _why_not(index: int) -> str | None:
    try:
        _module(index)
    except BuildError as error:  # others, say no memory, are not to stay for the whole process
        return str(error)
    return None


def why_not(index: int | None) -> str | None:
    """Why the kernels cannot be had on GPU `index`, None the current one; None where they can.

    Raises:
        RuntimeError: the GPU itself failed.
    """
    if torch.version.cuda is None or not sys.platform.startswith("linux"):
        return "on a GPU they need CUDA and Linux"
    return _why_not(torch.cuda.current_device() if index is None else index)


def runs(index: int | None) -> bool:
    """As `Backend` says.

    Raises:
        RuntimeError: see `why_not`.
    """
    if switched_off():
        return False
    reason = why_not(index)
    if reason is not None:
        notice(reason)
    return reason is None


def capturing() -> bool:
    """As `Backend` says."""
    # Asking a CUDA that nothing has used yet would start it.
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()  # type: ignore[no-untyped-call]


class Launch:
    """One kernel on torch's current stream: call it with the kernel's parameters.

    Structures go by value; numbers and addresses (0 or None for null) have 64 bits. One of the
    structures says how many threads there are to be, `gpu_threads`.
    """

    def __init__(self, name: str, index: int) -> None:
        self.name, self.index = name, index
        self.handle = handle(name, index)
        self.stream = c_void_p(torch.cuda.current_stream(index).cuda_stream)

    def __call__(self, *args: Any) -> None:
        """Put the kernel on the stream; RuntimeError if the driver refuses it."""
        if torch.cuda.current_device() != self.index:
            with torch.cuda.device(self.index):
                return self(*args)
        make_current(self.index)
        threads = next(arg.gpu_threads for arg in args if hasattr(arg, "gpu_threads"))
        values = [arg if isinstance(arg, Structure) else c_int64(arg or 0) for arg in args]
        parameters = (c_void_p * len(values))(*map(addressof, values))
        status = driver().cuLaunchKernel(
            self.handle, -(-threads // BLOCK), 1, 1, BLOCK, 1, 1, 0, self.stream, parameters, None
        )
        check(status, self.name)
        return None


def function(name: str, like: torch.Tensor) -> Launch:
    """As `Backend` says."""
    suffix = "f" if like.dtype == torch.float32 else "d"
    return Launch(f"{name}_{suffix}", like.device.index)


def parts_of_step(batch: int, work: int) -> int:
    """As `Backend` says: every row."""
    return batch


def parts_of_map(blocks: int, rows: int, units: int) -> int:
    """As `Backend` says."""
    return max(1, min(blocks * rows, THREADS // units))


def sums_for_p(parts: int) -> int:
    """As `Backend` says: each part has its own."""
    return parts
