"""Freed memory stays with the process: counted in page faults."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import resource, sys, torch
from noisyexp.training.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(2**24).fill_(1.0)  # 64 MiB, 16384 pages of 4 KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(min(faults() for _ in range(5)))  # the heap may still grow at first
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_a_buffer_that_comes_back_costs_no_page_faults() -> None:
    counts = [
        int(
            subprocess.run(
                [sys.executable, "-c", CODE, mode],
                capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parents[2],
            ).stdout
        )
        for mode in ("keep", "leave")
    ]  # fmt: skip
    assert counts[0] < 200 < counts[1]
