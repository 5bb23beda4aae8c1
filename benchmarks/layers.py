"""Measure the noisy layers against torch's own and against the plain loop: part of `make bench`.

All contestants take turns in one run and medians are quoted; memory is the growth of a fresh
process. Writes results/bench/layers.json, layers.md and layers.svg/.png.
"""

from __future__ import annotations

import functools
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contestants import GAIN, SETTINGS, SIZES, make, take_turns
from benchmarks.measuring import held_mib, write_result
from benchmarks.pages import draw_growth, layers_page
from noisyexp import NoisyGRUCell, NoisyLSTMCell
from noisyexp.activations import ActivationSpec, make_activation
from noisyexp.nn.language_model import LanguageModel

ROOT = Path(__file__).resolve().parents[1]

CELLS = [
    ("lstm", 1, 64, 1),
    ("lstm", 1, 256, 1),
    ("gru", 1, 64, 1),
    ("gru", 1, 256, 1),
    ("lstm", 32, 256, 20),
    ("gru", 32, 256, 20),
    ("lstm", 64, 1024, 10),
]
"""Cell, batch, hidden size, steps."""
HIDDEN, STEPS = (25, 50, 100, 200, 400, 800), (5, 10, 20, 40, 80, 160, 320)
UNIT_NUMBERS = 100_000


def one_pass(layer: nn.Module, x: Tensor, d_output: Tensor) -> tuple[float, float]:
    """Milliseconds of forward, and of forward and backward together."""
    layer.zero_grad(set_to_none=True)
    x.grad = None
    began = time.perf_counter()
    output = layer(x)[0]
    middle = time.perf_counter()
    output.backward(d_output)
    end = time.perf_counter()
    return 1000 * (middle - began), 1000 * (end - began)


def time_layers(
    size: tuple[int, int, int, int, str], kinds: list[str], rounds: int
) -> dict[str, dict[str, float]]:
    """Median milliseconds by contestant."""
    batch, steps, hidden, layers, cell = size
    x = torch.randn(steps, batch, hidden, requires_grad=True)
    d_output = torch.randn(steps, batch, hidden)
    calls: dict[str, Callable[[], Any]] = {}
    for kind in kinds:
        layer = make(kind, cell, hidden, layers)
        calls[kind] = functools.partial(one_pass, layer, x, d_output)
    return {
        kind: {
            "forward_ms": statistics.median(forward for forward, _ in values),
            "both_ms": statistics.median(both for _, both in values),
        }
        for kind, values in take_turns(calls, rounds).items()
    }


def held_for_backward(size: tuple[int, int, int, int, str], kind: str) -> float:
    """MiB that backward needs, without weights and input."""
    batch, steps, hidden, layers, cell = size
    layer, x = make(kind, cell, hidden, layers), torch.randn(steps, batch, hidden)
    return held_mib(lambda: layer(x), [*layer.parameters(), x])


def peak_memory(size: tuple[int, int, int, int, str], kind: str) -> float:
    """MiB by which the highest use of a fresh process grows over three passes."""
    command = [sys.executable, "-m", "benchmarks.layers", "--peak", json.dumps([*size, kind])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return float(done.stdout)


def highest_use() -> int:
    """KiB of this process; getrusage would count those of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def report_peak(arguments: list[Any]) -> None:
    """What the process of `peak_memory` prints."""
    *size, kind = arguments
    batch, steps, hidden, layers, cell = size
    layer = make(kind, cell, hidden, layers)
    one_pass(layer, torch.randn(1, 1, hidden, requires_grad=True), torch.randn(1, 1, hidden))
    x = torch.randn(steps, batch, hidden, requires_grad=True)
    d_output = torch.randn(steps, batch, hidden)
    before = highest_use()
    for _ in range(3):
        one_pass(layer, x, d_output)
    print((highest_use() - before) / 1024)


def measure_sizes(rounds: int) -> list[dict[str, Any]]:
    """One row a size, with one thread and with as many as there are cores."""
    cores, rows = torch.get_num_threads(), []
    for size in SIZES:
        row: dict[str, Any] = dict(zip(("batch", "steps", "hidden", "layers", "cell"), size))  # noqa: B905
        for threads in sorted({1, cores}):
            torch.set_num_threads(threads)
            times = time_layers(size, ["torch", "hard", "nah", "nah saturated"], rounds)
            slow = time_layers(size, ["nah eager"], 2)
            row[f"threads {threads}"] = {**times, "nah eager": slow["nah eager"]}
        kinds = ("torch", "nah", "nah eager")
        row["held_mib"] = {kind: held_for_backward(size, kind) for kind in kinds}
        row["peak_mib"] = {kind: peak_memory(size, kind) for kind in kinds}
        rows.append(row)
        print(f"measured {size}", flush=True)
    torch.set_num_threads(cores)
    return rows


def cell_step(
    kind: str, cell: str, batch: int, hidden: int, steps: int
) -> Callable[[], tuple[float, float]]:
    """Milliseconds of `steps` calls of a cell, each on the state before; and with backward."""
    torch.manual_seed(0)
    own: Any = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}[cell]
    noisy: Any = {"lstm": NoisyLSTMCell, "gru": NoisyGRUCell}[cell]
    unit = own(hidden, hidden) if kind == "torch" else noisy(hidden, hidden, variant=kind)
    x = torch.randn(batch, hidden)

    def call() -> tuple[float, float]:
        unit.zero_grad(set_to_none=True)
        began, state = time.perf_counter(), None
        for _ in range(steps):
            state = unit(x, state)
        h: Any = state[0] if isinstance(state, tuple) else state
        middle = time.perf_counter()
        h.sum().backward()
        return 1000 * (middle - began), 1000 * (time.perf_counter() - began)

    return call


def unit_step(unit_kind: str, kind: str) -> Callable[[], tuple[float, float]]:
    """Milliseconds of a unit on numbers of which a third saturates: forward; and with backward."""
    torch.manual_seed(0)
    own: Any = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid}[unit_kind]
    units = UNIT_NUMBERS // 100
    unit = own() if kind == "torch" else make_activation(unit_kind, kind, units)
    x = torch.randn(100, units).mul_(1 if unit_kind == "tanh" else 2).requires_grad_()
    d_value = torch.randn_like(x)

    def call() -> tuple[float, float]:
        x.grad = None
        began = time.perf_counter()
        value = unit(x)
        middle = time.perf_counter()
        value.backward(d_value)
        return 1000 * (middle - began), 1000 * (time.perf_counter() - began)

    return call


def measure_small(rounds: int) -> list[dict[str, Any]]:
    """Cells called step by step, and lone units: two rows each, by number of threads."""
    cores, kinds, rows = torch.get_num_threads(), ("torch", "hard", "nah"), []
    makers: dict[str, Callable[[str], Callable[[], tuple[float, float]]]] = {
        f"{cell.upper()}Cell, batch {batch}, {hidden} units, {steps} steps": functools.partial(
            lambda size, kind: cell_step(kind, *size), (cell, batch, hidden, steps)
        )
        for cell, batch, hidden, steps in CELLS
    }
    for unit_kind in ("tanh", "sigmoid"):
        name = f"{unit_kind.capitalize()}, {UNIT_NUMBERS:,} numbers"
        makers[name] = functools.partial(unit_step, unit_kind)
    for name, maker in makers.items():
        both: dict[str, Any] = {"name": name}
        forward: dict[str, Any] = {"name": f"{name}, forward alone"}
        for threads in sorted({1, cores}):
            torch.set_num_threads(threads)
            times = take_turns({kind: maker(kind) for kind in kinds}, 3 * rounds)
            for row, part in ((forward, 0), (both, 1)):
                row[f"threads {threads}"] = {
                    kind: statistics.median(value[part] for value in values)
                    for kind, values in times.items()
                }
        rows += [both, forward]
        print(f"measured {name}", flush=True)
    torch.set_num_threads(cores)
    return rows


def measure_growth(rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Forward and backward of one LSTM layer against hidden size, and against steps."""
    kinds = ["torch", "nah", "nah saturated"]
    return {
        "hidden": [
            {"hidden": h, **time_layers((20, 20, h, 1, "lstm"), kinds, rounds)} for h in HIDDEN
        ],
        "steps": [
            {"steps": t, **time_layers((20, t, 200, 1, "lstm"), kinds, rounds)} for t in STEPS
        ],
    }


def ptb_step(act: str) -> Callable[[], dict[str, float]]:
    """A training step of the language model of Table 2 on random words, timed by part."""
    torch.manual_seed(0)
    settings = SETTINGS if act == "nah" else {}
    model = LanguageModel(10_000, 200, 2, 0.0, 0.1, ActivationSpec(act, settings))
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    state, lstm = model.zero_state(20), model.get_submodule("lstm")
    words = torch.randint(10_000, (21, 20))

    def step() -> dict[str, float]:
        clock = [time.perf_counter()]

        def lap() -> None:
            clock.append(time.perf_counter())

        hidden, _ = lstm(model.embedding(words[:-1]), state)
        lap()
        logits = model.output(hidden).flatten(0, 1)
        lap()
        loss = nn.functional.cross_entropy(logits, words[1:].flatten(), reduction="sum") / 20
        lap()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        lap()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        lap()
        names = ("embedding and LSTM", "output layer", "loss", "backward", "clip and update")
        parts = [1000 * (b - a) for a, b in itertools.pairwise(clock)]
        return {**dict(zip(names, parts, strict=True)), "step": sum(parts)}

    return step


def measure_ptb(rounds: int) -> dict[str, Any]:
    """Median milliseconds of the parts of a step, by threads and unit."""
    cores, found = torch.get_num_threads(), {}
    for threads in sorted({1, cores}):
        torch.set_num_threads(threads)
        turns = take_turns({act: ptb_step(act) for act in ("reference", "nah")}, rounds)
        found[f"threads {threads}"] = {
            act: {part: statistics.median(v[part] for v in values) for part in values[0]}
            for act, values in turns.items()
        }
    torch.set_num_threads(cores)
    return found


def main(rounds: int = 21) -> int:
    """Measure, print the table and write results/bench/layers.*."""
    if sys.argv[1:2] == ["--peak"]:
        report_peak(json.loads(sys.argv[2]))
        return 0
    result = write_result(
        "layers",
        layers_page,
        settings={"rounds": rounds, "units": SETTINGS, "gain": GAIN},
        sizes=measure_sizes(rounds),
        small=measure_small(rounds),
        growth=measure_growth(rounds),
        ptb=measure_ptb(rounds),
    )
    draw_growth(result, ROOT / "results" / "bench" / "layers.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
