"""Keys of a forward pass that is computed again during backward: those of the first time.

Non-reentrant activation checkpointing puts a pack hook of its own above all others, in the first
forward pass and in the second; its frame, which both have in common, is in the hook's closure. A
torch that keeps it elsewhere, a reentrant checkpoint and one within another are refused: other
noise would give wrong gradients without a word.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import checkpoint

from noisyexp.kernels.philox import DeviceKey, DrawKey

Key = DrawKey | DeviceKey

_top_hooks: Callable[[bool], Any] | None = getattr(
    torch._C._autograd, "_top_saved_tensors_default_hooks", None
)
_Frame: Any = getattr(checkpoint, "_CheckpointFrame", ())


def running_checkpoint() -> tuple[Any, bool]:
    """The innermost checkpoint that runs, None without one, and whether it computes again."""
    hooks = None if _top_hooks is None else _top_hooks(True)
    if not hooks:
        return None, False
    for cell in getattr(inspect.unwrap(hooks[0]), "__closure__", None) or ():
        held = cell.cell_contents
        if isinstance(held, _Frame):
            return held, False
        if isinstance(held, weakref.ref) and isinstance(held(), _Frame):
            return held(), True
    return None, False


class Replay:
    """Remembers the keys of checkpointed forward passes, as long as their graphs live."""

    def __init__(self) -> None:
        self._kept: weakref.WeakKeyDictionary[Any, list[tuple[str, Key]]] = (
            weakref.WeakKeyDictionary()
        )
        # Of each checkpoint: the backward pass that computes it again, and how far it is.
        self._again: weakref.WeakKeyDictionary[Any, tuple[int, int]] = weakref.WeakKeyDictionary()

    def key(self, path: str, fresh: Callable[[str], Key]) -> Key:
        """The key of this call of unit `path`: a fresh one, or that of the first time.

        Raises:
            RuntimeError: computed again where the first time cannot be found.
        """
        frame, again = running_checkpoint()
        task = torch._C._current_graph_task_id()
        if not again and task == -1:
            key = fresh(path)
            if frame is not None:
                self._kept.setdefault(frame, []).append((path, key))
            return key
        if again:
            known = self._kept.get(frame, [])
            last, position = self._again.get(frame, (task, 0))
            position = position if last == task else 0
            if position < len(known) and known[position][0] == path:
                self._again[frame] = (task, position + 1)
                return known[position][1]
        raise RuntimeError(
            f"{path or 'a unit'} is computed again during backward, which a NoiseSource can give "
            "the same noise only for torch.utils.checkpoint with use_reentrant=False, not nested "
            "and not within a compiled graph: use that, or detach the source with "
            "attach_noise(module, None), then torch's generator gives the noise"
        )
