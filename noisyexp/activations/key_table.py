"""Keys of a captured pass: a GPU's kernels read them when they run, so every replay has its own."""

from __future__ import annotations

from collections.abc import Iterable
from ctypes import c_uint32

import torch

from noisyexp.kernels.philox import DeviceKey, DrawKey

SIZE = 1024
"""Calls of units in one pass at most."""

_WORDS = 3


class KeyTable:
    """A row for each call of a unit, in the memory of a device.

    Args:
        device: where the kernels read the keys.
        pinned: whether copies from pinned memory go on while the processor does; others wait until
            the device has done all before them.

    Attributes:
        calls: path of the unit and call of each row that was given away, in this order.
    """

    def __init__(self, device: torch.device, pinned: bool) -> None:
        self.calls: list[tuple[str, int]] = []
        self._words = torch.zeros(SIZE, _WORDS, dtype=torch.int32, device=device)
        self._host = torch.zeros(SIZE, _WORDS, dtype=torch.int32, pin_memory=pinned)
        self._numbers = (c_uint32 * self._host.numel()).from_address(self._host.data_ptr())

    def place(self, path: str, call: int) -> DeviceKey:
        """The next row, which `send` fills.

        Raises:
            RuntimeError: there are no more.
        """
        if len(self.calls) == SIZE:
            raise RuntimeError(f"units are called more than {SIZE} times in one captured pass")
        self.calls.append((path, call))
        return DeviceKey(self._words[len(self.calls) - 1])

    def send(self, keys: Iterable[DrawKey]) -> None:
        """Fill the rows of `calls`; what was sent before must have been read or overwritten."""
        numbers: list[int | c_uint32] = [
            word for k in keys for word in (k.key & 0xFFFFFFFF, k.key >> 32 & 0xFFFFFFFF, k.call)
        ]
        self._numbers[: len(numbers)] = numbers
        rows = len(self.calls)
        if rows:
            self._words[:rows].copy_(self._host[:rows], non_blocking=True)
