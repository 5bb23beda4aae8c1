"""Measure layers, cells and units under torch.compile against themselves uncompiled: `make bench`.

Forward and backward, one thread; uncompiled and compiled code take turns. torch's own modules stand
beside ours. Layers stay out of graphs, as torch's do, but where `allow_rnn` puts them in. Writes
results/bench/compiled.{json,md}.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contestants import take_turns
from benchmarks.measuring import write_result
from benchmarks.pages import compiled_page
from noisyexp import NoisyGRU, NoisyGRUCell, NoisyLSTM, NoisyLSTMCell
from noisyexp.activations import make_activation

MODES = ("default", "reduce-overhead")
ROUNDS = 41

Maker = Callable[[], tuple[nn.Module, nn.Module, Tensor]]
"""torch's module, ours, and an input of both."""


def layers(batch: int, steps: int, hidden: int, depth: int, cell: str) -> Any:
    """A recurrent layer of torch's and a NAH one; x: (steps, batch, hidden)."""
    own: Any = {"lstm": nn.LSTM, "gru": nn.GRU}[cell]
    noisy: Any = {"lstm": NoisyLSTM, "gru": NoisyGRU}[cell]
    x = torch.randn(steps, batch, hidden)
    return own(hidden, hidden, depth), noisy(hidden, hidden, depth, variant="nah"), x


def cells(batch: int, hidden: int, cell: str) -> Any:
    """One step of a cell; x: (batch, hidden)."""
    own: Any = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}[cell]
    noisy: Any = {"lstm": NoisyLSTMCell, "gru": NoisyGRUCell}[cell]
    return own(hidden, hidden), noisy(hidden, hidden, variant="nah"), torch.randn(batch, hidden)


def units(numbers: int) -> Any:
    """A lone tanh; x: (100, numbers / 100)."""
    unit = make_activation("tanh", "nah", numbers // 100)
    return nn.Tanh(), unit, torch.randn(100, numbers // 100)


MODULES: dict[str, Maker] = {
    "LSTM 20, 20, 200, 2": functools.partial(layers, 20, 20, 200, 2, "lstm"),
    "LSTM 64, 26, 100, 1": functools.partial(layers, 64, 26, 100, 1, "lstm"),
    "GRU 32, 28, 256, 1": functools.partial(layers, 32, 28, 256, 1, "gru"),
    "LSTMCell 1, 256": functools.partial(cells, 1, 256, "lstm"),
    "LSTMCell 32, 256": functools.partial(cells, 32, 256, "lstm"),
    "GRUCell 32, 256": functools.partial(cells, 32, 256, "gru"),
    "Tanh of 100,000": functools.partial(units, 100_000),
}


def one_pass(module: nn.Module, call: Callable[[Tensor], Any], x: Tensor) -> float:
    """Milliseconds of forward and backward of `call`, which is `module` or made from it."""
    module.zero_grad(set_to_none=True)
    began = time.perf_counter()
    value = call(x)
    while isinstance(value, tuple):
        value = value[0]
    value.sum().backward()
    return 1000 * (time.perf_counter() - began)


def measure(maker: Maker, rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of torch's module and the noisy one: uncompiled, and in each mode."""
    torch._dynamo.reset()  # few graphs are kept of one function, then it runs as it is
    own, noisy, x = maker()
    x.requires_grad_()
    found = {"torch": in_turns(own, x, rounds), "nah": in_turns(noisy, x, rounds)}
    if isinstance(noisy, (NoisyLSTM, NoisyGRU)):
        torch._dynamo.reset()
        with torch._dynamo.config.patch(allow_rnn=True):
            found["nah, in the graph"] = in_turns(noisy, x, rounds)
    return found


def in_turns(module: nn.Module, x: Tensor, rounds: int) -> dict[str, float]:
    """Median milliseconds of a module as it is and compiled in each mode."""
    calls: dict[str, Callable[[], float]] = {
        "uncompiled": functools.partial(one_pass, module, module, x)
    }
    for mode in MODES:
        compiled = torch.compile(module, mode=mode)
        one_pass(module, compiled, x)
        calls[mode] = functools.partial(one_pass, module, compiled, x)
    turns = take_turns(calls, rounds)
    return {kind: statistics.median(times) for kind, times in turns.items()}


def main(rounds: int = ROUNDS) -> int:
    """Measure, print and write results/bench/compiled.*."""
    torch.set_num_threads(1)
    found = {}
    for name, maker in MODULES.items():
        torch.manual_seed(0)
        found[name] = measure(maker, rounds)
        print(f"measured {name}", flush=True)
    write_result("compiled", compiled_page, rounds=rounds, modules=found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
