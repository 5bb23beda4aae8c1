"""Kinds of device: what training asks of them, and that nothing else names one."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import pytest
import torch

import noisyexp
from noisyexp.cli.compose import check
from noisyexp.errors import ConfigError
from noisyexp.training import device as module
from noisyexp.training.device import DEVICES, KINDS, Processor, chosen_device, kind_of
from noisyexp.training.processes import Processes

PACKAGE = Path(noisyexp.__file__).parent
MAY_NAME_CUDA = {
    "kernels/cuda.py", "kernels/persistent.py",  # the backend
    "kernels/dispatch.py",  # its line in the table
    "training/device.py",  # what torch has there
    "training/graphs.py",  # captured updates are torch's CUDA graphs
}  # fmt: skip


def test_auto_is_the_fastest_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, name in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert chosen_device("auto") == name
    assert (chosen_device("cpu"), chosen_device("cuda")) == ("cpu", "cuda")
    assert DEVICES == ("auto", "cpu", "cuda")


def test_a_kind_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One class in the table: it is chosen, and what it can do decides what a run may ask for."""

    class Own(Processor):
        has_fp16 = True

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ["task=ptb", "data=generated", "scale=smoke", "device=auto", "precision=fp16"]
    with pytest.raises(ConfigError, match="precision=fp16"):
        check(words)
    monkeypatch.setitem(KINDS, "own", Own())
    assert chosen_device("auto") == "own"
    assert check(words)[0].config.precision == "fp16"


def test_the_processor() -> None:
    cpu = torch.device("cpu")
    kind = kind_of(cpu)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    swap = re.search(r"SwapTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    assert swap is not None
    assert 0 < kind.memory() <= 1.01 * pages + 1024 * int(swap[1])
    assert not math.isnan(kind.peak_memory_mb(cpu)) and kind.name(cpu)
    assert Processes(1, 2).place(cpu) == cpu


def test_a_process_has_the_gpu_that_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: taken[-1])
    KINDS["cuda"].take(3)
    assert Processes(3, 4).place(torch.device("cuda")) == torch.device("cuda", 3)
    assert Processes(0, 1).place(torch.device("cuda")) == torch.device("cuda")


def test_only_backends_and_this_table_name_a_device() -> None:
    names = re.compile(r"torch\.cuda|is_cuda|[\"']cuda[\"']")
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if names.search(path.read_text())
    }
    assert found == MAY_NAME_CUDA
    assert module.KINDS.keys() == {"cpu", "cuda"}
