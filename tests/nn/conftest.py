"""One thread for layers this small; and the GPU's kernels as C, where there is no GPU."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from noisyexp.kernels import build, cuda, dispatch, persistent

MACHINES = ["source", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """More of them only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def gpu_source(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if build.find_compiler() is None:
        pytest.skip("no C compiler")
    target = tmp_path_factory.mktemp("gpu") / "gpu.so"
    flags = ["-O1", "-shared", "-fPIC", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
    command = [build.find_compiler(), "-x", "c", *flags, str(build.SOURCES / "gpu.cu"), "-lm"]
    subprocess.run([*command, "-o", str(target)], check=True)
    return ctypes.CDLL(str(target))


class OneByOne:
    """`cuda.Launch` on a machine without a GPU."""

    library: ctypes.CDLL

    def __init__(self, name: str, index: int | None) -> None:
        self.function = getattr(self.library, name)
        self.thread = ctypes.c_int64.in_dll(self.library, "THREAD")

    def __call__(self, *args: Any) -> None:
        (threads,) = [arg.gpu_threads for arg in args if hasattr(arg, "gpu_threads")]
        whole_blocks = -(-threads // cuda.BLOCK) * cuda.BLOCK
        self.function.restype = None
        values = [
            arg if isinstance(arg, ctypes.Structure) else ctypes.c_int64(arg or 0) for arg in args
        ]
        for self.thread.value in range(whole_blocks):
            self.function(*values)


@pytest.fixture(params=MACHINES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where the tensors of a test lie."""
    if request.param == "cuda":
        assert cuda.why_not(0) is None
        return torch.device("cuda", 0)
    source = request.getfixturevalue("gpu_source")
    monkeypatch.setattr(OneByOne, "library", source, raising=False)
    monkeypatch.setattr(cuda, "Launch", OneByOne)
    monkeypatch.setattr(cuda, "why_not", lambda index: None)
    monkeypatch.setitem(dispatch.BACKENDS, "cpu", cuda)
    monkeypatch.setattr(persistent, "limits_of", lambda index: None)  # see test_persistent.py
    return torch.device("cpu")
