"""What a machine that has kernels says of them, and the switch that turns all kernels off."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

SWITCH = "NOISYEXP_KERNELS"
"""Environment variable: 0 turns the kernels off."""


class Backend(Protocol):
    """The kernels of one kind of device; the modules `cpu` and `cuda` fulfil it.

    Attributes:
        KERNELS: names of the kernels that it has, without the suffix of the dtype. Callers do
            without those that are not among them.
        NEAR: numbers that are worked on together at least, where there are as many: what a cache
            holds, or fills a GPU.
        QUEUED: whether work is put in a queue, so that reading a number waits for all before it.
    """

    KERNELS: frozenset[str]
    NEAR: int
    QUEUED: bool

    def runs(self, index: int | None) -> bool:
        """Whether kernels can be had now on the device of this index, None for the current one.

        Where not, it says why once a process, but for the switch.
        """

    def capturing(self) -> bool:
        """Whether what is called now is not run but kept, to be replayed often (a CUDA graph)."""

    def function(self, name: str, like: Tensor) -> Callable[..., Any]:
        """The kernel `name`, one of KERNELS, for tensors as this one, float32 or float64."""

    def parts_of_step(self, batch: int, work: int) -> int:
        """`threads` of a layer's step of `work` numbers in `batch` rows."""

    def parts_of_map(self, blocks: int, rows: int, units: int) -> int:
        """`threads` of a walk over (blocks, rows, units)."""

    def sums_for_p(self, parts: int) -> int:
        """Rows of sums that the gradient of p is added up in by so many parts: it has one order."""


def switched_off() -> bool:
    """Whether the environment turns the kernels off."""
    return os.environ.get(SWITCH) == "0"


_noticed: set[str] = set()


def notice(reason: str) -> None:
    """Warn, once a process and reason, that units run without kernels."""
    if reason not in _noticed:
        _noticed.add(reason)
        warnings.warn(
            f"noisy units run without their compiled kernels, many times slower: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )
