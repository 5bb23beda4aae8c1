"""The machine learns, and a run that was stopped goes on exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from noisyexp.activations import derive_seed
from noisyexp.cli.compose import check
from noisyexp.tasks.ntm_recall import NTMRecall, data
from noisyexp.training.optimizer import build_optimizer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def torch_settings() -> Iterator[None]:
    """One thread; a run sets torch up for its whole process, other tests get back what they had."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def train(updates: int, until: float, *overrides: str) -> dict[str, float]:
    """Train the reference on the smoke machine with `overrides`; stop early below `until` nats.

    Returns:
        Metrics of the last validation, one every 100 updates.
    """
    (spec,) = check(["task=ntm_recall", "act=reference", "scale=smoke", *overrides])
    task = NTMRecall(spec.task_config, "real", 0)
    task.prepare(Path())
    torch.manual_seed(derive_seed(0, "init"))
    model = task.build_model(spec.config.act.spec())
    optimizer = build_optimizer(model, spec.config.training)
    found: dict[str, float] = {}
    for step in range(updates):
        optimizer.zero_grad()
        task.loss(model, step, CPU).loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        if step % 100 == 99:
            with torch.no_grad():
                found = task.validate(model.eval(), CPU)
            model.train()
            if found["valid_nats_max"] < until:
                break
    return found


SIZES = ("task.controller_size=100", "task.memory_width=20", "task.valid_size=320")


def test_copying_is_learned() -> None:
    """One vector: from 6 ln 2 = 4.16 nats to below 0.5 in a few hundred updates."""
    sizes = ("task.controller_size=40", "task.batch_size=16", "training.lr=0.003")
    found = train(400, 0.5, "task.problem=copy", "task.min_items=1", "task.max_items=1", *sizes)
    assert found["valid_nats_max"] < 0.5


@pytest.mark.slow  # copying, which the suite has, is learned faster
def test_two_items_are_learned() -> None:
    """Two items: from 12.48 nats to below 1, which takes the contents of the memory."""
    sizes = ("task.batch_size=32", "training.lr=0.003")
    found = train(400, 1.0, "task.max_items=2", *SIZES, *sizes)
    assert found["valid_nats_max"] < 1.0 < data.chance_nats() / 10


@pytest.mark.slow
def test_a_small_recall_is_solved() -> None:
    """Two or three items with 32 locations: below 0.2 nats within a few thousand updates."""
    found = train(4000, 0.2, "task.memory_rows=32", "task.batch_size=64", *SIZES)
    assert found["valid_nats_max"] < 0.2
    assert data.query_blind_nats(3) > 6  # what a machine that cannot look up would reach


@pytest.mark.slow
def test_a_longer_copy_is_solved() -> None:
    """Up to five vectors, 20.8 nats at chance."""
    found = train(
        5000, 0.2, "task.problem=copy", "task.min_items=1", "task.max_items=5",
        "task.memory_rows=16", "task.batch_size=32", *SIZES,
    )  # fmt: skip
    assert found["valid_nats_max"] < 0.2
