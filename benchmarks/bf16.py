"""Check and measure bf16 products and layers on this processor, one thread: part of `make bench`.

First what the processor has, then whether its fast products are right, then times: single products,
layers against torch's, and what a layer's time goes to. All contestants take turns and medians are
quoted. About a minute and a half; with an argument, so many rounds. Writes the times of the layers
to results/bench/bf16.{json,md}; `make bench-bf16` runs this alone.
"""

from __future__ import annotations

import functools
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from benchmarks.measuring import write_result
from benchmarks.pages import bf16_page
from noisyexp import NoisyGRU, NoisyLSTM
from noisyexp.kernels import build, matmul

PRODUCTS = [
    (20, 200, 800), (20, 650, 2600), (100, 400, 1600), (64, 100, 400), (100, 1000, 3000),
    (32, 1024, 3072), (32, 512, 1536), (5000, 400, 1600), (5000, 1600, 400), (400, 200, 10000),
]  # fmt: skip
"""Rows, length of the sum, columns."""
LAYERS = [
    (20, 20, 200, 2, "lstm", False), (20, 35, 650, 2, "lstm", False),
    (100, 50, 400, 2, "lstm", False), (64, 26, 100, 1, "lstm", False),
    (32, 28, 1024, 1, "gru", True), (100, 200, 1000, 1, "gru", False),
]  # fmt: skip
"""Batch, steps, hidden, layers, cell, bidirectional."""
BUDGET = 90.0
"""Seconds of all layers together."""
BARS = {0: (15, 10, 7.8), 1: (219, 134, 81), 2: (514, 178, 205), 3: (5.7, 3.3, 4.2),
        4: (510, 305, 140), 5: (3890, 2450, 1110)}  # fmt: skip
"""Milliseconds of torch float32, torch autocast bf16 and a prototype, on the machine of the bar."""


def take_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of every call, after one round to warm up."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if turn or rounds == 1:
                found[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in found.items()}


def usable() -> list[str]:
    """Forms that this processor has; the tiles are used from a thread that was there before."""
    answer: list[bool] = []
    asked = threading.Event()

    def multiply_later() -> None:
        asked.wait()
        if library.bf16_usable(matmul.FORMS["tiles"]):
            answer.append(matmul.agrees("tiles"))

    library = matmul.library()
    early = threading.Thread(target=multiply_later)
    early.start()
    names = [name for name, number in matmul.FORMS.items() if library.bf16_usable(number)]
    asked.set()
    early.join()
    if answer:
        print(f"a thread older than the permission uses tiles rightly: {answer[0]}")
    return names


def describe() -> None:
    """Processor, compiler, torch."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line for line in lines if line.startswith("model name")), "?")
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    wanted = [f for f in flags if "bf16" in f or "amx" in f or f in ("avx512f", "avx2", "avx_vnni")]
    print(model.partition(":")[2].strip(), "|", " ".join(sorted(wanted)))
    compiler = build.find_compiler()
    if compiler:
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
        print(done.stdout.partition("\n")[0] or compiler)
    for cache in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        print((cache / "level").read_text().strip(), (cache / "size").read_text().strip(), end="; ")
    print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f}, cores {os.cpu_count()}")


def worst_error(form: str) -> float:
    """Largest error of many products relative to the sum of absolute terms, against float64."""
    generator, worst = torch.Generator().manual_seed(0), 0.0
    for rows in (1, 5, 16, 17, 20, 33, 70, 130):
        for depth in (1, 31, 32, 70, 650, 2100):
            for columns in (1, 16, 17, 40, 300):
                if rows * depth * columns > 2e6:
                    continue
                a = torch.randn(depth, rows, generator=generator).t()
                b = torch.randn(columns, depth, generator=generator).t()
                start = torch.randn(rows, columns, generator=generator)
                found = matmul.multiply(matmul.as_rows(a), matmul.Columns(b, form), start)
                left, right = a.bfloat16().double(), b.bfloat16().double()
                size = left.abs() @ right.abs() + 1
                error = (found - left @ right - start).abs() / size
                worst = max(worst, float(error.max()))
    return worst


def check(names: list[str]) -> bool:
    """Products against float64; layers and their gradients against plain C; several threads."""
    good = True
    for name in names:
        error = worst_error(name)
        print(f"products by {name}: worst relative error {error:.1e}, agrees {matmul.agrees(name)}")
        good &= error < 1e-6 and matmul.agrees(name)
    for cell in ("lstm", "gru"):
        truth = layer_numbers(cell, "rounded", 1)
        for name in names:
            alone, many = layer_numbers(cell, name, 1), layer_numbers(cell, name, 4)
            error = max(float((a - b).norm() / b.norm()) for a, b in zip(alone, truth, strict=True))
            same = all(torch.equal(a, b) for a, b in zip(alone, many, strict=True))
            print(f"{cell} by {name}: {error:.1e} from plain C; 4 threads the same bits: {same}")
            good &= error < 3e-3 and same
    return good


def layer_numbers(cell: str, form: str, threads: int) -> list[Tensor]:
    """Output and gradients of a small layer, with the same noise each time."""
    os.environ[matmul.SWITCH] = form
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    layer: Any = {"lstm": NoisyLSTM, "gru": NoisyGRU}[cell](300, 330, 1, bidirectional=True)
    x = torch.randn(7, 70, 300)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(x)[0]
    output.float().square().sum().backward()
    os.environ[matmul.SWITCH] = "auto"
    torch.set_num_threads(1)
    return [output.detach().float(), *(p.grad for p in layer.parameters())]


def products_table(names: list[str], rounds: int) -> None:
    """Microseconds of single products, weights packed before, and GFLOP/s."""
    fast = [name for name in names if name != "rounded"]
    print("product: microseconds (GFLOP/s)")
    for rows, depth, columns in PRODUCTS:
        a, w = torch.randn(rows, depth), torch.randn(columns, depth)
        out, half_a, half_w = torch.empty(rows, columns), a.bfloat16(), w.bfloat16()
        calls: dict[str, Callable[[], Any]] = {
            "float32": functools.partial(torch.mm, a, w.t(), out=out),
            "torch bf16": functools.partial(torch.mm, half_a, half_w.t()),
        }
        for name in fast:
            left, right = matmul.as_rows(a), matmul.Columns(w.t(), name)
            calls[name] = functools.partial(matmul.multiply, left, right)
            calls[f"pack for {name}"] = functools.partial(matmul.Columns, w.t(), name)
        times = take_turns(calls, max(3, min(rounds * 40, int(2e10 / (rows * depth * columns)))))
        work = 2e-9 * rows * depth * columns
        cells = [f"{name} {t * 1e6:.1f} ({work / t:.0f})" for name, t in times.items()]
        print(f"  {(rows, depth, columns)}: {', '.join(cells)}", flush=True)


def prefetch_table(rounds: int) -> None:
    """Microseconds of the tiles with other distances of prefetching."""
    print("tiles by distance of prefetching (0: none), microseconds")
    compiler, forms = build.find_compiler(), {}
    assert compiler is not None
    with tempfile.TemporaryDirectory() as folder:
        for distance in (0, 4, 8, 16):
            path = Path(folder) / f"{distance}.so"
            source = Path(folder) / "matmul.c"
            source.write_text('#include "matmul.h"\n')
            flags = [*build.FLAG_SETS[0], f"-DPREFETCH={distance}", f"-I{build.SOURCES}"]
            command = [compiler, *flags, "-o", str(path), str(source), "-lm"]
            if subprocess.run(command, check=False, capture_output=True).returncode:
                return
            forms[distance] = matmul.load_products(path)
        for rows, depth, columns in PRODUCTS:
            a, b = torch.randn(rows, depth), torch.randn(columns, depth)
            left, right = matmul.as_rows(a), matmul.Columns(b.t(), "tiles")
            calls: dict[str, Callable[[], Any]] = {
                str(distance): functools.partial(matmul.multiply, left, right, None, library)
                for distance, library in forms.items()
            }
            times = take_turns(
                calls, max(3, min(rounds * 40, int(2e10 / (rows * depth * columns))))
            )
            cells = [f"{name}: {t * 1e6:.1f}" for name, t in times.items()]
            print(f"  {(rows, depth, columns)}: {', '.join(cells)}", flush=True)


def one_pass(layer: nn.Module, x: Tensor, d_output: Tensor, half: bool) -> None:
    """Forward and backward."""
    layer.zero_grad(set_to_none=True)
    x.grad = None
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        output = layer(x)[0]
    output.backward(d_output.to(output.dtype))


def layers_table(rounds: int, budget: float) -> list[dict[str, Any]]:
    """Milliseconds of forward and backward; each size gets its share of `budget` seconds."""
    rows: list[dict[str, Any]] = []
    print("layer forward + backward: milliseconds, ratio to torch float32 [the bar's ratio]")
    # Without instructions torch's autocast takes minutes for the large ones.
    sizes = LAYERS if matmul.form() is not None else LAYERS[:4]
    for index, (batch, steps, hidden, layers, cell, both) in enumerate(sizes):
        x = torch.randn(steps, batch, hidden, requires_grad=True)
        d_output = torch.randn(steps, batch, hidden * (2 if both else 1))
        own: Any = {"lstm": nn.LSTM, "gru": nn.GRU}[cell]
        noisy: Any = {"lstm": NoisyLSTM, "gru": NoisyGRU}[cell]
        plain = own(hidden, hidden, layers, bidirectional=both)
        nah = noisy(hidden, hidden, layers, bidirectional=both, variant="nah")
        soft = noisy(hidden, hidden, layers, bidirectional=both, variant="reference")
        calls: dict[str, Callable[[], Any]] = {
            "torch": functools.partial(one_pass, plain, x, d_output, False),
            "torch, autocast": functools.partial(one_pass, plain, x, d_output, True),
            "NAH": functools.partial(one_pass, nah, x, d_output, False),
            "NAH, autocast": functools.partial(one_pass, nah, x, d_output, True),
            "reference, autocast": functools.partial(one_pass, soft, x, d_output, True),
        }
        began = time.perf_counter()
        for call in calls.values():
            call()
        once = time.perf_counter() - began
        turns = max(1, min(rounds * 3, int(budget / len(LAYERS) / once)))
        times = take_turns(calls, turns)
        bar = BARS[index]
        cells = [f"{name} {t * 1e3:.2f} ({t / times['torch']:.2f})" for name, t in times.items()]
        print(
            f"  {(batch, steps, hidden, layers, cell, both)}: {', '.join(cells)} "
            f"[autocast {bar[1] / bar[0]:.2f}, ours {bar[2] / bar[0]:.2f}] {turns} rounds",
            flush=True,
        )
        row = {"batch": batch, "steps": steps, "hidden": hidden, "layers": layers, "cell": cell}
        row |= {"bidirectional": both, "rounds": turns}
        rows.append(row | {"ms": {name: 1e3 * t for name, t in times.items()}})
    return rows


def parts_table() -> None:
    """What the time of a bf16 pass goes to, by the calls into C; the rest is torch and Python."""
    print("parts of a pass of nah in bf16, milliseconds")
    for batch, steps, hidden, layers, cell, both in LAYERS[:5]:
        x = torch.randn(steps, batch, hidden, requires_grad=True)
        d_output = torch.randn(steps, batch, hidden * (2 if both else 1))
        noisy: Any = {"lstm": NoisyLSTM, "gru": NoisyGRU}[cell]
        layer = noisy(hidden, hidden, layers, bidirectional=both, variant="nah")
        one_pass(layer, x, d_output, True)
        with Stopwatch() as watch:
            began = time.perf_counter()
            for _ in range(3):
                one_pass(layer, x, d_output, True)
            total = time.perf_counter() - began
        parts = {name: 1e3 * t / 3 for name, t in watch.seconds.items()}
        parts["rest"] = 1e3 * total / 3 - sum(parts.values())
        cells = [f"{name} {t:.2f}" for name, t in parts.items()]
        print(f"  {(batch, steps, hidden, layers, cell, both)}: {', '.join(cells)}", flush=True)


class Stopwatch:
    """Adds up the time in the functions of C that a pass calls."""

    NAMES = ("bf16_pack_columns", "bf16_pack_rows", "bf16_multiply", "lstm_forward_bf16",
             "lstm_backward_bf16", "gru_forward_bf16", "gru_backward_bf16")  # fmt: skip

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.library = matmul.library()

    def __enter__(self) -> Stopwatch:
        self.kept = matmul.library
        matmul.library = lambda: self  # type: ignore[assignment,return-value]
        return self

    def __exit__(self, *_: object) -> None:
        matmul.library = self.kept

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.library, name)
        if name not in self.NAMES:
            return function

        def timed(*args: Any) -> None:
            began = time.perf_counter()
            function(*args)
            spent = time.perf_counter() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + spent

        return timed


def main() -> int:
    """Print everything; 1 if a number is wrong."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    warnings.simplefilter("always")
    torch.set_num_threads(1)
    describe()
    names = usable()
    print(f"usable: {', '.join(names)}; chosen: {matmul.form()}", flush=True)
    good = check(names)
    print(f"all right: {good}", flush=True)
    products_table(names, rounds)
    if "tiles" in names:
        prefetch_table(rounds)
    layers = layers_table(rounds, BUDGET)
    if matmul.form() is not None:
        parts_table()
    write_result("bf16", bf16_page, form=matmul.form(), right=good, layers=layers)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
