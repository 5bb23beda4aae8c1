"""All that a GPU is needed for, in one command of at most six minutes: `make check-gpu`.

The tests that run on a GPU, the benchmark, then seeds of Table 2 in the time that is left. It needs
torch and pytest; updates by the trainer and the seeds need Hydra, too, and the Penn Treebank where
`NOISYEXP_DATA` says. Writes results/bench/gpu.{json,md}, and records of the seeds.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]

TESTS = [f"tests/nn/test_{name}.py" for name in ("update_graphs", "persistent", "gpu")]
SECONDS = 345
"""Of the six minutes, some are for the start; a number on the command line says otherwise."""


def run_tests(seconds: float) -> bool:
    """The tests on the GPU; whether all passed."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", "cuda", *TESTS]
    try:
        return subprocess.run(command, cwd=ROOT, timeout=seconds).returncode == 0
    except subprocess.TimeoutExpired:
        print(f"check_gpu: the tests took more than {seconds:.0f} s", file=sys.stderr)
        return False


def run_seeds(seconds: float) -> None:
    """Seeds of Table 2 that have no record, one after another until the time is over."""
    command = [
        sys.executable, "-m", "noisyexp", "reproduce", "table2", "device=cuda", "progress=off"
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # a run writes a checkpoint and goes on next time
        process.wait()


def main() -> int:
    """Check; 1 if a test failed or there is no GPU."""
    end = time.monotonic() + float(sys.argv[1] if len(sys.argv) > 1 else SECONDS)
    if not torch.cuda.is_available():
        print("check_gpu: torch sees no CUDA device here", file=sys.stderr)
        return 1
    passed = run_tests(120)
    print(f"tests: {'passed' if passed else 'FAILED'}", flush=True)
    from benchmarks.gpu import measure

    measure(15, "make check-gpu")
    left = end - time.monotonic()
    if importlib.util.find_spec("hydra") is None:
        print("no seeds of Table 2: Hydra is not installed", file=sys.stderr)
    elif left > 30:
        run_seeds(left - 10)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
