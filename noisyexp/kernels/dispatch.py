"""Which backend has the kernels for a device, and how a call reaches them, if at all.

A call that only computes goes at once, through ctypes: an operator costs tens of microseconds, as
much as a step of a small cell. Where somebody records the call (torch.compile, torch.export, fake
tensors, dispatch modes) it goes by an operator, which a graph can hold. Both run the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from noisyexp.kernels import cpu, cuda
from noisyexp.kernels.backend import Backend, notice, switched_off

Function = TypeVar("Function", bound=Callable[..., object])

BACKENDS: dict[str, Backend] = {"cpu": cpu, "cuda": cuda}
"""By torch's name of the kind of device. All that differs between devices is asked there."""

PLAIN, DIRECT, OPERATOR = range(3)

DTYPES = (torch.float32, torch.float64)
_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


def constant_in_graphs(function: Function) -> Function:
    """Marks a function for torch.compile: its result is a constant of the graph.

    As `torch.compiler.assume_constant_result`, which does this alone but imports the compiler
    first, and so takes as long as to import torch.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def backend_of(tensor: Tensor) -> Backend:
    """The kernels where a tensor lies, once it is known that there are some."""
    return BACKENDS[tensor.device.type]


def _kind(device: torch.device) -> str:
    """What says how a call goes there; shapes alone go as they would on a processor."""
    return "cpu" if device.type == "meta" else device.type


def has(kernel: str, device: torch.device) -> bool:
    """Whether there is such a kernel for this kind of device."""
    backend = BACKENDS.get(_kind(device))
    return backend is not None and kernel in backend.KERNELS


def runs(kernel: str, device: torch.device) -> bool:
    """Whether there is such a kernel for numbers there, and it can be had now."""
    backend = BACKENDS.get(device.type)
    return backend is not None and kernel in backend.KERNELS and backend.runs(device.index)


def capturing(device: torch.device | None = None) -> bool:
    """Whether what is called now, there or on any device, is kept to be replayed: a CUDA graph."""
    if device is not None:
        backend = BACKENDS.get(device.type)
        return backend is not None and backend.capturing()
    return any(backend.capturing() for backend in BACKENDS.values())


def queued(device: torch.device) -> bool:
    """Whether reading a number there waits for all that was called before.

    So it is taken to be on devices without a backend.
    """
    backend = BACKENDS.get(device.type)
    return backend is None or backend.QUEUED


def numbers_near(device: torch.device) -> int:
    """`NEAR` of a backend; as on the largest for devices that have none."""
    backend = BACKENDS.get(device.type)
    return max(each.NEAR for each in BACKENDS.values()) if backend is None else backend.NEAR


@constant_in_graphs
def transformed() -> bool:
    """Whether a transform of `torch.func` (vmap, grad, ...) or forward-mode AD is at work.

    In a graph, one around the graph or within it: torch.compile enters them as it reads the code,
    and makes another graph where those around it change.
    """
    return (
        torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0
    )


def recorded() -> bool:
    """Whether numbers are not there yet: compiled, exported, transformed, or in a dispatch mode."""
    return (
        torch.compiler.is_compiling() or transformed() or torch._C._len_torch_dispatch_stack() > 0
    )


def way(*tensors: Tensor | None) -> int:
    """`DIRECT`, `OPERATOR`, or `PLAIN` where the kernels do not take these tensors.

    They take tensors that are all float32 or all float64, on the CPU or on one GPU; callers make
    such of half precision, see `precision`. The transforms of `torch.func` go through the plain
    code, which they can batch and differentiate again, in graphs too. Every reason for `PLAIN` is
    said once a process, but for the switch.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    device, dtype = given[0].device, given[0].dtype
    kind, alike, plain = _kind(device), True, True
    for tensor in given:
        alike = alike and tensor.dtype == dtype and tensor.device == device
        plain = plain and type(tensor) in _PLAIN_TYPES
    compiling = torch.compiler.is_compiling()
    traced = torch._C._get_tracing_state() is not None
    if (compiling or traced) and exporting_to_onnx():
        return PLAIN
    if not alike or dtype not in DTYPES or kind not in BACKENDS:
        names = ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in given}))
        places = ", ".join(sorted({str(t.device) for t in given}))
        _say(f"they take float32 or float64 on one CPU or GPU, not {names} together on {places}")
        return PLAIN
    if transformed():
        _say("a transform of torch.func or forward-mode AD is at work")
        return PLAIN
    if not _ready(kind, device.index):
        return PLAIN
    if compiling or traced or device.type == "meta":
        return OPERATOR
    if not plain or torch._C._len_torch_dispatch_stack() > 0:
        return OPERATOR
    return DIRECT


@constant_in_graphs
def _ready(kind: str, index: int | None) -> bool:
    """Whether the kernels can be had now; a graph takes the answer of its making."""
    return BACKENDS[kind].runs(index)


def exporting() -> bool:
    """Whether torch.export is at work; torch before 2.7 does not tell it from torch.compile."""
    ask = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return bool(ask())


@constant_in_graphs
def exporting_to_onnx() -> bool:
    """Whether an ONNX exporter is at work: it knows none of our operators, but the plain code."""
    return bool(torch.onnx.is_in_onnx_export())


@constant_in_graphs
def _say(reason: str) -> None:
    if not switched_off():
        notice(reason)
