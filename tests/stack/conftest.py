"""Shared by the tests of what surrounds a layer: compilers, checkpoints, transforms, wrappers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def fresh_graphs() -> Iterator[None]:
    """No graph of another test is used, and numbers of compiled code are those of eager code."""
    torch._dynamo.reset()
    with torch._inductor.config.patch(fallback_random=True):
        yield


@pytest.fixture
def rnn_in_graphs() -> Iterator[None]:
    """torch.compile takes modules of torch.nn.LSTM and GRU into its graphs."""
    with torch._dynamo.config.patch(allow_rnn=True):
        yield
