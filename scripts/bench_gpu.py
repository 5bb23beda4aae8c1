"""Measure the noisy layers on a GPU against cuDNN's and against the plain loop: `make bench-gpu`.

As `bench_layers.py`, whose sizes and units these are: all take turns in one run, medians are
quoted, and the GPU has finished before a clock is read. Writes results/bench/gpu.{json,md}.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a checkout that is not installed

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from noisyexp.activations import ActivationSpec  # noqa: E402
from noisyexp.nn.language_model import LanguageModel  # noqa: E402
from noisyexp.results.bench import gpu_page  # noqa: E402
from scripts.bench_layers import SETTINGS, SIZES, make, take_turns  # noqa: E402
from scripts.measuring import write_result  # noqa: E402

GPU = torch.device("cuda")
PLAIN_ROUNDS = 3
ARMS = {"torch": "reference", "hard": "hard", "nah": "nah", "nah eager": "nah"}


def milliseconds(call: Callable[[], Any]) -> float:
    """Time of `call` until the GPU has done all of it."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began)


def both_ways(layer: nn.Module, x: Tensor) -> float:
    """Milliseconds of forward and backward."""
    layer.zero_grad(set_to_none=True)
    x.grad = None
    return milliseconds(lambda: layer(x)[0].sum().backward())


def time_layers(size: tuple[int, int, int, int, str], rounds: int) -> dict[str, Any]:
    """One row: median milliseconds by contestant."""
    batch, steps, hidden, layers, cell = size
    x = torch.randn(steps, batch, hidden, device=GPU, requires_grad=True)
    calls: dict[str, Callable[[], Any]] = {
        kind: functools.partial(both_ways, make(kind, cell, hidden, layers).to(GPU), x)
        for kind in ARMS
    }
    row = dict(zip(("batch", "steps", "hidden", "layers", "cell"), size, strict=True))
    return {**row, "both_ms": medians(calls, rounds)}


def medians(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median of each contestant; the plain loop, which is slow, takes its turn in few rounds."""
    fast = {kind: call for kind, call in calls.items() if not kind.endswith("eager")}
    slow = {kind: call for kind, call in calls.items() if kind not in fast}
    turns = take_turns(fast, rounds) | take_turns(slow, PLAIN_ROUNDS)
    return {kind: statistics.median(values) for kind, values in turns.items()}


def ptb_update(kind: str) -> Callable[[], float]:
    """Milliseconds of an update of Table 2's model on random words, as a function to call."""
    torch.manual_seed(0)
    settings = SETTINGS if ARMS[kind] == "nah" else {}
    model = LanguageModel(10_000, 200, 2, 0.0, 0.1, ActivationSpec(ARMS[kind], settings)).to(GPU)
    if kind.endswith("eager"):
        model.recurrent.backend = "eager"
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    state, words = model.zero_state(20), torch.randint(10_000, (21, 20), device=GPU)

    def update() -> None:
        optimizer.zero_grad(set_to_none=True)
        logits = model(words[:-1], state)[0].flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, words[1:].flatten(), reduction="sum") / 20
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()

    return lambda: milliseconds(update)


def main(rounds: int = 21) -> int:
    """Measure, print the page and write results/bench/gpu.*."""
    if not torch.cuda.is_available():
        print("bench_gpu: torch sees no CUDA device here", file=sys.stderr)
        return 1
    torch.backends.cudnn.allow_tf32 = False  # all in float32, as in a run
    write_result(
        "gpu",
        gpu_page,
        GPU,
        command="make bench-gpu",
        settings={"rounds": rounds, "units": SETTINGS},
        sizes=[time_layers(size, rounds) for size in SIZES],
        ptb_update_ms=medians({kind: ptb_update(kind) for kind in ARMS}, rounds),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
