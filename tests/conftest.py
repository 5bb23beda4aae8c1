"""Shared by all tests: where the real data is, and how many threads torch may take."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch loads OpenMP, for this process and those that tests start: see run.py.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes of the suite: a core for each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

pytest_plugins = ["tests.record_fixtures"]

torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder with the real data sets (NOISYEXP_DATA, else ../shared/data); skips without it."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("NOISYEXP_DATA") or beside)
    if not root.is_dir():
        pytest.skip("real data not found: set NOISYEXP_DATA")
    return root
