"""The kernels on an NVIDIA GPU: `src/gpu.cu` compiled by NVRTC, launched by the driver.

torch's CUDA builds bring NVRTC along and cannot work without the driver, so nothing else has to be
installed: no toolkit, no C compiler. The compiled code is kept for the process (a second or two).
"""

from __future__ import annotations

import ctypes
import functools
import sys
from ctypes import Structure, addressof, byref, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import torch

from noisyexp.kernels.build import SOURCES, BuildError

BLOCK = 64
"""Threads of a block: few, so that the thousands of a recurrent step lie on many processors."""

_HEADERS = ("structs.h", "thread.h", "gpu.h", "steps.h")


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
def compile_for(capability: tuple[int, int]) -> bytes:
    """Machine code of `src/gpu.cu` for a GPU of this compute capability.

    Raises:
        BuildError: no NVRTC, or it failed; the message has what it said.
    """
    nvrtc = _nvrtc()
    architecture = _architecture(nvrtc, capability)
    program, size = c_void_p(), c_size_t()
    texts = (c_char_p * len(_HEADERS))(*((SOURCES / name).read_bytes() for name in _HEADERS))
    names = (c_char_p * len(_HEADERS))(*(name.encode() for name in _HEADERS))
    source = (SOURCES / "gpu.cu").read_bytes()
    if nvrtc.nvrtcCreateProgram(byref(program), source, b"gpu.cu", len(texts), texts, names):
        raise BuildError("nvrtcCreateProgram failed")
    try:
        options = (b"--std=c++17", b"--gpu-architecture=sm_%d" % architecture)
        failed = nvrtc.nvrtcCompileProgram(program, len(options), (c_char_p * 2)(*options))
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
def _driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise BuildError(f"the CUDA driver cannot be loaded: {error}") from error


def _check(status: int, what: str) -> None:
    if status:
        text = c_char_p()
        _driver().cuGetErrorString(status, byref(text))
        raise RuntimeError(f"{what}: {(text.value or b'unknown error').decode()}")


@functools.cache
def _module(index: int) -> tuple[c_void_p, c_void_p]:
    """The kernels on GPU `index`, and the context that they are loaded into."""
    code = compile_for(torch.cuda.get_device_capability(index))
    module, context = c_void_p(), c_void_p()
    with torch.cuda.device(index):
        torch.cuda.synchronize()  # makes the context
        _check(_driver().cuCtxGetCurrent(byref(context)), "cuCtxGetCurrent")
        _check(_driver().cuModuleLoadData(byref(module), code), "cuModuleLoadData")
    return module, context


@functools.cache
def _handle(name: str, index: int) -> c_void_p:
    handle = c_void_p()
    _check(_driver().cuModuleGetFunction(byref(handle), _module(index)[0], name.encode()), name)
    return handle


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


class Launch:
    """One kernel on torch's current stream: call it with the kernel's parameters.

    Structures go by value; numbers and addresses (0 or None for null) have 64 bits. One of the
    structures says how many threads there are to be, `gpu_threads`.
    """

    def __init__(self, name: str, index: int) -> None:
        self.name, self.index = name, index
        self.handle, self.context = _handle(name, index), _module(index)[1]
        self.stream = c_void_p(torch.cuda.current_stream(index).cuda_stream)

    def __call__(self, *args: Any) -> None:
        """Put the kernel on the stream; RuntimeError if the driver refuses it."""
        if torch.cuda.current_device() != self.index:
            with torch.cuda.device(self.index):
                return self(*args)
        driver, current = _driver(), c_void_p()
        driver.cuCtxGetCurrent(byref(current))
        if current.value is None:  # a new thread, in which torch has not used the GPU yet
            _check(driver.cuCtxSetCurrent(self.context), "cuCtxSetCurrent")
        threads = next(arg.gpu_threads for arg in args if hasattr(arg, "gpu_threads"))
        values = [arg if isinstance(arg, Structure) else c_int64(arg or 0) for arg in args]
        parameters = (c_void_p * len(values))(*map(addressof, values))
        status = driver.cuLaunchKernel(
            self.handle, -(-threads // BLOCK), 1, 1, BLOCK, 1, 1, 0, self.stream, parameters, None
        )
        _check(status, self.name)
        return None
