"""What torch is told before a run: device, threads, determinism, number formats."""

from __future__ import annotations

import os

import torch

from noisyexp.training.config import RunConfig
from noisyexp.training.memory import keep_freed_memory


def chosen_device(name: str) -> str:
    """The device that a value of `device` means here: "cpu" or "cuda"."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def setup_torch(config: RunConfig) -> torch.device:
    """Device of the run; threads and determinism of the process."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.deterministic:
        # The one value that both cuBLAS and the recurrent layers of cuDNN call reproducible.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")
        # The same 128 KiB, or torch warns at the first product that it has to make it smaller.
        os.environ.setdefault("CUBLASLT_WORKSPACE_SIZE", "128")
        torch.use_deterministic_algorithms(True)
        # Filling every new tensor is for finding bugs, and costs time in each step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False
    else:
        torch.use_deterministic_algorithms(False)
    # fp32 means fp32 on CUDA too; cuDNN would run the reference arm alone in a shorter format.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    name = chosen_device(config.device)
    if name == "cpu":
        keep_freed_memory()
    return torch.device(name)
