"""Noise as a function of (seed, step, site), never of how many draws happened before.

A run attaches one `NoiseSource` to all noisy units of its model. Resuming at step k then gives the
draws that an uninterrupted run has at step k, and two variants see the same numbers at the same
site. A unit without a source draws from torch's own generator, as `torch.nn.Dropout` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from noisyexp.kernels.philox import DrawKey, normal

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
        fresh = torch.randint(2**62, (), device="cpu")
        torch.default_generator.manual_seed(derive_seed("p", int(fresh)))
        yield


def refuse_capture() -> None:
    """Say that a CUDA graph is being captured: its replays would all have the draws of now.

    Raises:
        RuntimeError: torch's current stream is being captured.
    """
    if torch.compiler.is_compiling() or not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "a unit draws noise while a CUDA graph is captured, and every replay would have the "
            "same: capture in evaluation mode, or run without a graph"
        )


class NoiseSource:
    """Standard normal draws keyed by (seed, step, site, call within the step).

    A forward pass that is computed again during backward (torch.utils.checkpoint) would count as
    another call and draw other noise; it is refused. Leave checkpointed modules without a source.

    Args:
        seed: seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.step = 0
        self._calls: dict[str, int] = {}

    def set_step(self, step: int) -> None:
        """Move to `step`; the calls of every site count from 0 again."""
        self.step = step
        self._calls.clear()

    def draw_key(self, site: str) -> DrawKey:
        """What names the draws of the next call of `site` in this step.

        Raises:
            RuntimeError: called during a backward pass, where the draws would not be those of the
                forward pass and gradients wrong without a word, or in a capture, see
                `refuse_capture`.
        """
        refuse_capture()
        if torch._C._current_graph_task_id() != -1:
            raise RuntimeError(
                f"{site or 'a unit'} is computed again during backward (torch.utils.checkpoint?), "
                "which a NoiseSource cannot give the same noise: detach it with "
                "attach_noise(module, None), then torch's generator gives it"
            )
        call = self._calls.get(site, 0)
        self._calls[site] = call + 1
        return DrawKey(derive_seed(self.seed, self.step, site), call)

    def normal(self, site: str, shape: Sequence[int], device: torch.device) -> Tensor:
        """Float32 N(0, 1) draws of `shape` for the next call of `site` in this step.

        See `noisyexp.kernels.normal` for how far they are the same on other machines.
        """
        return normal(self.draw_key(site), shape, device)
