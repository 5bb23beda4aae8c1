"""Kinds of device as torch has them, in one table, and what torch is told before a run.

What the compiled kernels need to know of a device is asked in `kernels.backend`.
"""

from __future__ import annotations

import math
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from noisyexp.training.memory import keep_freed_memory

if TYPE_CHECKING:
    from noisyexp.training.config import RunConfig


class DeviceKind(Protocol):
    """What training asks of one kind of device.

    Attributes:
        captures: whether torch captures what runs there as a graph, to be replayed.
        pins: whether a copy from pinned memory goes on while the processor does.
        fuses_optimizers: whether torch's `fused=True` is what its optimisers should do there.
        has_fp16: whether precision=fp16 is possible.
        process_group: torch.distributed's backend for several processes.
        profile_key: by which torch's profiler sorts.
    """

    captures: bool
    pins: bool
    fuses_optimizers: bool
    has_fp16: bool
    process_group: str
    profile_key: str

    def available(self) -> bool:
        """Whether torch sees one here."""

    def name(self, device: torch.device) -> str:
        """The product's name."""

    def memory(self) -> float:
        """Bytes that a process can have at most; infinite where that is not known."""

    def peak_memory_mb(self, device: torch.device) -> float:
        """Largest memory of this process so far, in MB; NaN where the system does not say."""

    def seed(self, seed: int) -> None:
        """Seed torch's generators there; the processor's is seeded by whoever calls this."""

    def count(self) -> int | None:
        """How many this machine has, one for each process; None if all processes share one."""

    def take(self, rank: int) -> None:
        """Of several processes of this machine, take device `rank`."""

    def taken(self) -> torch.device:
        """What `take` took."""


class Processor:
    """The CPU, which all processes share."""

    captures = pins = fuses_optimizers = has_fp16 = False
    process_group, profile_key = "gloo", "self_cpu_time_total"

    def available(self) -> bool:
        """As `DeviceKind` says."""
        return True

    def name(self, device: torch.device) -> str:
        """As `DeviceKind` says."""
        try:
            for line in Path("/proc/cpuinfo").read_text().splitlines():
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
        except OSError:
            pass
        return platform.processor() or platform.machine()

    def memory(self) -> float:
        """As `DeviceKind` says: this machine's, or this process's share of it."""
        found = []
        try:
            import resource

            found += [float(limit) for limit in resource.getrlimit(resource.RLIMIT_AS)[:1]]
            lines = Path("/proc/meminfo").read_text().splitlines()
            pairs = dict(line.split(":", 1) for line in lines if ":" in line)
            sizes = (pairs[key].split()[0] for key in ("MemTotal", "SwapTotal"))
            found.append(sum(1024.0 * int(size) for size in sizes))
            found.append(float(Path("/sys/fs/cgroup/memory.max").read_text()))
        except (ImportError, OSError, ValueError, KeyError):  # another system, or no limit
            pass
        return min((limit for limit in found if limit > 0), default=math.inf)

    def peak_memory_mb(self, device: torch.device) -> float:
        """As `DeviceKind` says: resident."""
        try:
            import resource
        except ImportError:  # Windows
            return math.nan
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e6 if sys.platform == "darwin" else peak / 1e3

    def seed(self, seed: int) -> None:
        """As `DeviceKind` says: nothing beside the processor's."""

    def count(self) -> int | None:
        """As `DeviceKind` says."""
        return None

    def take(self, rank: int) -> None:
        """As `DeviceKind` says."""

    def taken(self) -> torch.device:
        """As `DeviceKind` says."""
        return torch.device("cpu")


class NvidiaGPU:
    """A GPU by CUDA."""

    captures = pins = fuses_optimizers = has_fp16 = True
    process_group, profile_key = "nccl", "self_cuda_time_total"

    def available(self) -> bool:
        """As `DeviceKind` says."""
        return torch.cuda.is_available()

    def name(self, device: torch.device) -> str:
        """As `DeviceKind` says."""
        return torch.cuda.get_device_name(device)

    def memory(self) -> float:
        """As `DeviceKind` says: the GPU's."""
        try:
            return float(torch.cuda.get_device_properties(0).total_memory)
        except (RuntimeError, AssertionError):  # the run itself will say what is wrong with it
            return math.inf

    def peak_memory_mb(self, device: torch.device) -> float:
        """As `DeviceKind` says: of the GPU."""
        return torch.cuda.max_memory_allocated(device) / 1e6

    def seed(self, seed: int) -> None:
        """As `DeviceKind` says."""
        torch.cuda.manual_seed(seed)

    def count(self) -> int | None:
        """As `DeviceKind` says."""
        return torch.cuda.device_count()

    def take(self, rank: int) -> None:
        """As `DeviceKind` says."""
        torch.cuda.set_device(rank)

    def taken(self) -> torch.device:
        """As `DeviceKind` says."""
        return torch.device("cuda", torch.cuda.current_device())


KINDS: dict[str, DeviceKind] = {"cpu": Processor(), "cuda": NvidiaGPU()}
"""By torch's name, the fastest last."""

DEVICES = ("auto", *KINDS)
"""What a configuration may say."""


def chosen_device(name: str) -> str:
    """The device that a value of `device` means here, a key of KINDS."""
    return [n for n, kind in KINDS.items() if kind.available()][-1] if name == "auto" else name


def kind_of(device: torch.device) -> DeviceKind:
    """What torch has there."""
    return KINDS[device.type]


def setup_torch(config: RunConfig) -> torch.device:
    """Device of the run; threads and determinism of the process."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.deterministic:
        # The one value that both cuBLAS and the recurrent layers of cuDNN call reproducible.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")
        # The same 128 KiB, or torch warns at the first product that it has to make it smaller.
        os.environ.setdefault("CUBLASLT_WORKSPACE_SIZE", "128")
        torch.use_deterministic_algorithms(True)
        # Filling every new tensor is for finding bugs, and costs time in each step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False
    else:
        torch.use_deterministic_algorithms(False)
    # fp32 means fp32 on CUDA too; cuDNN would run the reference arm alone in a shorter format.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    name = chosen_device(config.device)
    if name == "cpu":
        keep_freed_memory()
    return torch.device(name)
