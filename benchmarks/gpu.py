"""Measure the noisy layers on a GPU against cuDNN's and against the plain loop: `make bench-gpu`.

As `layers.py`, whose units these are: all take turns in one run, medians are quoted, and the
GPU has finished before a clock is read. Writes results/bench/gpu.{json,md}.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.contestants import SETTINGS, SIZES, make, take_turns
from benchmarks.measuring import write_result
from benchmarks.pages import gpu_page
from noisyexp.activations import ActivationSpec
from noisyexp.kernels import persistent
from noisyexp.nn.language_model import LanguageModel

GPU = torch.device("cuda")
PLAIN_ROUNDS = 2


class Arm(NamedTuple):
    """A contestant: which layer, TF32 in its products, half precision, and steps one at a time."""

    kind: str
    tf32: bool = False
    half: torch.dtype | None = None
    by_steps: bool = False


ARMS = {
    "torch": Arm("torch"),
    "torch TF32": Arm("torch", tf32=True),
    "torch bf16": Arm("torch", half=torch.bfloat16),
    "hard": Arm("hard"),
    "nah": Arm("nah"),
    "nah bf16": Arm("nah", half=torch.bfloat16),
    "nah by steps": Arm("nah", by_steps=True),
    "nah eager": Arm("nah eager"),
}
CAPTURED = ("torch", "torch TF32", "torch bf16", "hard", "nah", "nah bf16")
GPU_SIZES = [*SIZES, (80, 200, 1024, 1, "gru")]
TABLE_2 = ["task=ptb", "data=generated", "task.vocab_size=10000"]
UPDATES = {
    "Table 2 (ptb)": TABLE_2,
    "Table 2 (ptb), captured": [*TABLE_2, "training.cuda_graph=true"],
    "Table 1 (lte)": ["task=lte"],
    "translator (nmt)": ["task=nmt", "data=generated"],
}


@contextlib.contextmanager
def settings_of(arm: Arm) -> Iterator[None]:
    """What an arm asks of torch and of the layers."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, persistent.enabled
    cudnn.allow_tf32 = matmul.allow_tf32 = arm.tf32
    persistent.enabled = not arm.by_steps
    try:
        with torch.autocast("cuda", arm.half, enabled=arm.half is not None, cache_enabled=False):
            yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, persistent.enabled = before


def milliseconds(call: Callable[[], Any]) -> float:
    """Time of `call` until the GPU has done all of it."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began)


def both_ways(arm: Arm, layer: Callable[..., Any], module: nn.Module, x: Tensor) -> float:
    """Milliseconds of forward and backward; backward is outside of autocast, as torch says."""
    module.zero_grad(set_to_none=True)
    x.grad = None

    def call() -> None:
        with settings_of(arm):
            output = layer(x)[0]
        output.sum().backward()

    return milliseconds(call)


def time_layers(size: tuple[int, int, int, int, str], rounds: int) -> dict[str, Any]:
    """One row: median milliseconds by contestant, as called and captured in a CUDA graph."""
    batch, steps, hidden, layers, cell = size
    x = torch.randn(steps, batch, hidden, device=GPU, requires_grad=True)
    calls: dict[str, Callable[[], Any]] = {}
    captured: dict[str, Callable[[], Any]] = {}
    for name, arm in ARMS.items():
        module = make(arm.kind, cell, hidden, layers).to(GPU)
        calls[name] = functools.partial(both_ways, arm, module, module, x)
        if name not in CAPTURED:
            continue
        module = make(arm.kind, cell, hidden, layers).to(GPU)
        with settings_of(arm):
            layer = torch.cuda.make_graphed_callables(module, (x.detach().requires_grad_(),))
        captured[name] = functools.partial(both_ways, arm, layer, module, x)
    row = dict(zip(("batch", "steps", "hidden", "layers", "cell"), size, strict=True))
    return {**row, "both_ms": medians(calls, rounds), "captured_ms": medians(captured, rounds)}


def medians(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median of each contestant; the plain loop, which is slow, takes its turn in few rounds."""
    fast = {kind: call for kind, call in calls.items() if not kind.endswith("eager")}
    slow = {kind: call for kind, call in calls.items() if kind not in fast}
    turns = take_turns(fast, rounds) | take_turns(slow, PLAIN_ROUNDS)
    return {kind: statistics.median(values) for kind, values in turns.items()}


def ptb_update(name: str) -> Callable[[], float]:
    """Milliseconds of an update of Table 2's model on random words, as a function to call."""
    arm = ARMS[name]
    torch.manual_seed(0)
    act = {"torch": "reference", "nah eager": "nah"}.get(arm.kind, arm.kind)
    spec = ActivationSpec(act, SETTINGS if act == "nah" else {})
    model = LanguageModel(10_000, 200, 2, 0.0, 0.1, spec).to(GPU)
    if arm.kind.endswith("eager"):
        model.recurrent.backend = "eager"
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    state, words = model.zero_state(20), torch.randint(10_000, (21, 20), device=GPU)

    def update() -> None:
        optimizer.zero_grad(set_to_none=True)
        with settings_of(arm):
            logits = model(words[:-1], state)[0].flatten(0, 1)
        loss = nn.functional.cross_entropy(logits.float(), words[1:].flatten(), reduction="sum")
        (loss / 20).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()

    return lambda: milliseconds(update)


def time_updates(rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of updates by the trainer, of models whose data are there."""
    from noisyexp.errors import DataError

    found: dict[str, dict[str, float]] = {}
    try:
        from benchmarks.measuring import make_trainer
    except ImportError as error:
        print(f"no updates by the trainer: {error}", file=sys.stderr)
        return found
    for name, overrides in UPDATES.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                trainers = {
                    act: make_trainer([*overrides, "device=cuda"], act, folder)
                    for act in ("reference", "nah")
                }
            except (DataError, ImportError) as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                continue
            calls: dict[str, Callable[[], Any]] = {
                act: functools.partial(milliseconds, trainer.run_step)
                for act, trainer in trainers.items()
            }
            found[name] = medians(calls, rounds)
            for trainer in trainers.values():
                for callback in trainer.callbacks:
                    callback.close(trainer)
    return found


def measure(rounds: int, command: str) -> None:
    """Measure all, print the page and write results/bench/gpu.*; what takes longest comes last."""
    found: dict[str, Any] = {
        "command": command,
        "settings": {"rounds": rounds, "units": SETTINGS},
        "sizes": [time_layers(size, rounds) for size in GPU_SIZES],
        "ptb_update_ms": medians({name: ptb_update(name) for name in ARMS}, rounds),
        "updates_ms": {},
    }
    write_result("gpu", gpu_page, GPU, **found)
    found["updates_ms"] = time_updates(rounds)
    if found["updates_ms"]:
        write_result("gpu", gpu_page, GPU, **found)


def main(rounds: int = 15) -> int:
    """Measure; 1 where there is no GPU."""
    if not torch.cuda.is_available():
        print("bench_gpu: torch sees no CUDA device here", file=sys.stderr)
        return 1
    measure(rounds, "make bench-gpu")
    return 0


if __name__ == "__main__":
    sys.exit(main())
