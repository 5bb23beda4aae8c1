"""Noise as a function of (seed, step, module path), never of how many draws happened before.

A run attaches one `NoiseSource` to all noisy units of its model. Resuming at step k then gives the
draws that an uninterrupted run has at step k, and two variants see the same numbers at the same
path. A unit without a source draws from torch's own generator, as `torch.nn.Dropout` does.
"""

from __future__ import annotations

import hashlib
import itertools
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from noisyexp.activations.key_table import KeyTable
from noisyexp.activations.replay import Replay
from noisyexp.kernels import dispatch
from noisyexp.kernels.ops import define
from noisyexp.kernels.philox import DeviceKey, DrawKey, normal

KEY_LIMIT = 2**63 - 1
"""Keys that torch's generator draws for units without a source are below this."""


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed from a key of numbers and names; different keys give unrelated seeds."""
    text = "\x1f".join(str(part) for part in key)
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def draws_apart() -> Iterator[None]:
    """Draws in this context follow torch's generator and leave it as it was.

    Units are made in it: with one seed the weights of a model, and of what is built after its
    units, are the same whether the units draw a p or not.
    """
    with torch.random.fork_rng(devices=[]):
        with _disable_current_modes():  # a fake tensor has no number
            fresh = int(torch.randint(2**62, (), device="cpu"))
        torch.default_generator.manual_seed(derive_seed("p", fresh))
        yield


def refuse_frozen() -> None:
    """Say that what is made of this call would have the draws of now for ever.

    Raises:
        RuntimeError: torch's current stream is being captured as a CUDA graph, or `torch.jit.trace`
            is at work.
    """
    if torch.compiler.is_compiling():
        return
    if torch._C._get_tracing_state() is not None:
        raise RuntimeError(
            "a unit draws noise while torch.jit.trace is at work, and every call of the trace "
            "would have the same: trace in evaluation mode, or use torch.export, which draws anew"
        )
    if dispatch.capturing():
        raise RuntimeError(
            "a unit draws noise while a CUDA graph is captured, and every replay would have the "
            "same: capture in evaluation mode, or with compiled kernels and without a NoiseSource "
            "(attach_noise(model, None)), which draw anew at every replay; a run of the trainer "
            "is captured by training.cuda_graph=true"
        )


def fresh_keys(count: int) -> Tensor:
    """Keys that torch's generator draws, (count,) int64 on the CPU.

    Raises:
        RuntimeError: see `refuse_frozen`; in `torch.func.vmap`, where its `randomness` is "error".
    """
    refuse_frozen()
    return torch.randint(KEY_LIMIT, (count,), device="cpu")


def replayed_keys(count: int, like: Tensor) -> list[DeviceKey] | None:
    """Keys that every replay of a CUDA graph draws anew, by torch's generator of that GPU.

    None where no graph is being captured.
    """
    if not dispatch.capturing(like.device):
        return None
    words = torch.randint(-(2**31), 2**31, (count, 3), dtype=torch.int32, device=like.device)
    return [DeviceKey(row) for row in words.unbind(0)]


def draw_fresh(shape: Sequence[int], device: torch.device) -> Tensor:
    """Float32 N(0, 1) draws of `shape` that torch's generator decides."""
    keys = fresh_keys(1)
    if dispatch.recorded():
        drawn: Tensor = torch.ops.noisyexp.normal(keys, shape, device)
        return drawn
    return normal(DrawKey(int(keys)), shape, device)


_sources: weakref.WeakValueDictionary[int, NoiseSource] = weakref.WeakValueDictionary()
_numbers = itertools.count()


class NoiseSource:
    """Standard normal draws keyed by (seed, step, module path, call within the step).

    A forward pass that is computed again during backward has the draws of the first one, if it is
    `torch.utils.checkpoint` with use_reentrant=False that computes it, not nested in another;
    elsewhere it is refused, as it would count as another call.

    Args:
        seed: seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.step = 0
        self._calls: dict[str, int] = {}
        self._table: KeyTable | None = None
        self._enter()

    def _enter(self) -> None:
        """Have a number, by which a graph that was made of a call finds the source again."""
        number = next(_numbers)
        _sources[number] = self
        with torch.inference_mode(False):
            self._ticket = torch.tensor([number], device="cpu")
        self._replay = Replay()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _OF_PROCESS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._table = None
        self._enter()

    def set_step(self, step: int) -> None:
        """Move to `step`; the calls of every unit count from 0 again."""
        self.step = step
        self._calls.clear()

    @contextmanager
    def keys_in(self, table: KeyTable) -> Iterator[None]:
        """Within it, calls of units get rows of `table` in place of keys; see `send_keys`.

        It is for a pass that is captured as a CUDA graph by someone who calls `send_keys` before
        every replay.
        """
        self._table = table
        try:
            yield
        finally:
            self._table = None

    def send_keys(self, table: KeyTable) -> None:
        """Fill `table` with the keys that the calls of its rows have in the step of now."""
        table.send(DrawKey(derive_seed(self.seed, self.step, s), call) for s, call in table.calls)

    def draw_key(self, path: str) -> DrawKey | DeviceKey:
        """What names the draws of the next call of unit `path` in this step.

        Raises:
            RuntimeError: called during a backward pass, where the draws would not be those of the
                forward pass and gradients wrong without a word, or where noise would be frozen, see
                `refuse_frozen`.
        """
        if self._table is None:
            refuse_frozen()
        return self._replay.key(path, self._next_key)

    def _next_key(self, path: str) -> DrawKey | DeviceKey:
        call = self._calls.get(path, 0)
        self._calls[path] = call + 1
        if self._table is not None:
            return self._table.place(path, call)
        return DrawKey(derive_seed(self.seed, self.step, path), call)

    def _known_key(self, path: str) -> DrawKey:
        key = self.draw_key(path)
        if isinstance(key, DeviceKey):
            raise RuntimeError(
                "only the compiled kernels draw noise in a captured update: not units of "
                "backend='eager' or 'compile', nor with NOISYEXP_KERNELS=0"
            )
        return key

    def key_tensor(self, path: str) -> Tensor:
        """`draw_key` as a graph has it: key and call, (2,) int64, anew at every run of the graph.

        Raises:
            RuntimeError: see `refuse_frozen`; in `torch.func.vmap` with a `randomness` other than
                "same": all rows of it have the draws of one call.
        """
        refuse_frozen()
        _refuse_other_rows()
        key: Tensor = torch.ops.noisyexp.source_key(self._ticket, path)
        return key

    def normal(self, path: str, shape: Sequence[int], device: torch.device) -> Tensor:
        """Float32 N(0, 1) draws of `shape` for the next call of unit `path` in this step.

        See `noisyexp.kernels.normal` for how far they are the same on other machines.
        """
        if dispatch.recorded():
            drawn: Tensor = torch.ops.noisyexp.normal(self.key_tensor(path), shape, device)
            return drawn
        return normal(self._known_key(path), shape, device)


_OF_PROCESS = ("_ticket", "_replay", "_table")


def _refuse_other_rows() -> None:
    if dispatch.transformed() and _has_other_rows():  # torch.compile reads only the first itself
        raise RuntimeError(
            "a NoiseSource gives all rows of torch.func.vmap the same noise: say so with "
            "randomness='same', or detach it with attach_noise(module, None)"
        )


@dispatch.constant_in_graphs
def _has_other_rows() -> bool:
    """Whether a `vmap` at work wants noise of their own for its rows, or none."""
    functorch = torch._C._functorch
    return any(
        interpreter.key() == functorch.TransformType.Vmap
        and functorch.CVmapInterpreterPtr(interpreter).randomness() != functorch.RandomnessType.Same
        for interpreter in functorch.get_interpreter_stack() or []
    )


def _source_key(ticket: Tensor, path: str) -> Tensor:
    source = _sources.get(int(ticket))
    if source is None:
        raise RuntimeError(
            "the NoiseSource of this graph is gone: keep it alive, or make the graph again"
        )
    key = source._known_key(path)
    return torch.tensor([key.key, key.call], device="cpu")


def _source_key_fake(ticket: Tensor, path: str) -> Tensor:
    return ticket.new_empty(2)


# It says that it changes the ticket: two calls are neither one call nor in another order.
define("source_key", "(Tensor(a!) ticket, str path) -> Tensor", _source_key, _source_key_fake)
