"""Updates that are captured give the bits of updates that are not.

Without a GPU a graph is work that is done again into the same memory, with the GPU's kernels as C:
what has to come by memory (batch, state, keys of the noise) is then seen, but no capture.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from noisyexp.cli.compose import check
from noisyexp.errors import ConfigError, DivergedError, NoisyexpError
from noisyexp.tasks import find_task
from noisyexp.training import graphs
from noisyexp.training.device import KINDS, setup_torch
from noisyexp.training.run import RunSpec, build_trainer
from noisyexp.training.trainer import Trainer

SMALL = [
    "task.hidden_size=9", "task.vocab_size=40", "task.train_tokens=1000", "task.max_tokens=100",
    "task.batch_size=3", "task.steps=4", "task.init_range=1.0", "act.c=2.0",
]  # fmt: skip
LARGE = ["task.vocab_size=2000", "task.train_tokens=20000", "task.init_range=0.5"]
"""On a GPU the layers of Table 2."""
ARMS = [("nah", "fp32"), ("nanil", "fp32")]
if torch.cuda.is_available():  # elsewhere the kernels compute these as the others, or torch does
    ARMS += [(act, half) for act in ("hard", "reference") for half in ("fp32", "bf16")]
    ARMS += [("nah", "bf16")]


@functools.cache
def composed(*overrides: str) -> RunSpec:
    options = ["task=ptb", "data=generated", "threads=1", "progress=off"]
    (spec,) = check([*options, *overrides])
    return spec


@pytest.fixture
def make(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Trainer]]:
    """A trainer before its first update, captured or not."""
    if device.type == "cpu":
        imitate(monkeypatch)

    def trainer(captured: bool, *overrides: str) -> Trainer:
        sizes = SMALL if device.type == "cpu" else LARGE
        spec = composed(f"device={device.type}", *sizes, *overrides)
        training = replace(spec.config.training, cuda_graph=captured)
        config = replace(spec.config, training=training, run_root=str(tmp_path))
        spec = replace(spec, config=config)
        setup_torch(spec.config)
        task = find_task(spec.task_config.name)(spec.task_config, spec.config.data.source, 0)
        task.prepare(tmp_path)
        spec.folder.mkdir(parents=True, exist_ok=True)
        made = build_trainer(spec, task, device, [])
        made.callbacks.clear()
        made._hooks = {name: [] for name in made._hooks}
        made.model.train()
        return made

    yield trainer
    torch.use_deterministic_algorithms(False)


def imitate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs of a machine that has none."""

    class Graph:
        def __init__(self, replay: Callable[[], Any]) -> None:
            self.replay = replay

        def pool(self) -> int:
            return 1

    def capture(work: Callable[[], Any], stream: Any, pool: Any) -> tuple[Any, Any]:
        if pool is not None:  # the optimiser's step, which must not run now
            return (), Graph(work)
        with torch.random.fork_rng(devices=[]):  # nothing runs in a capture
            found: tuple[Tensor, ...] = tuple(tensor.clone() for tensor in work())
        inside = [cell.cell_contents for cell in work.__closure__ or ()]
        parameters = next(part for part in inside if isinstance(part, Trainer)).parameters
        gradients = [p.grad for p in parameters]

        def replay() -> None:
            for old, new in zip(found, work(), strict=True):
                old.copy_(new)
            for p, gradient in zip(parameters, gradients, strict=True):
                gradient.copy_(p.grad)
                p.grad = gradient

        return found, Graph(replay)

    monkeypatch.setattr(graphs, "capture", capture)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(graphs, "apart", lambda stream: torch.enable_grad())
    monkeypatch.setattr(KINDS["cpu"], "captures", True)


def run(trainer: Trainer, updates: int) -> dict[str, Any]:
    """Everything that so many updates decide, with the norm of every gradient."""
    norms = []
    for _ in range(updates):
        trainer.run_step()
        norms.append(trainer.grad_norm)
    state = trainer.state_dict()
    momentum = [s["momentum_buffer"] for s in state["optimizer"]["state"].values()
                if s.get("momentum_buffer") is not None]  # fmt: skip
    weights = {name: w.detach().clone() for name, w in trainer.model.named_parameters()}
    carried = [part.clone() for part in state["task"]["state"]]
    return {"norms": norms, "sums": dict(trainer.sums), "weights": weights,
            "carried": carried, "momentum": momentum}  # fmt: skip


def assert_same_bits(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("act", "precision"), ARMS)
def test_the_bits_of_updates_that_are_not_captured(
    make: Callable[..., Trainer], act: str, precision: str
) -> None:
    options = [f"act={act}", f"precision={precision}"]
    expected = run(make(False, *options), 7)
    assert_same_bits(run(make(True, *options), 7), expected)
    assert len(set(expected["norms"])) == 7


@pytest.mark.parametrize(
    "options",
    [
        ["training.momentum=0.9", "training.weight_decay=0.01", "training.max_grad_norm=null"],
        ["training.optimizer=adam", "training.lr=0.01"],
        ["task.dropout=0.3"],
    ],
)
def test_optimizers_and_dropout(make: Callable[..., Trainer], options: list[str]) -> None:
    expected = run(make(False, "act=nah", *options), 5)
    assert_same_bits(run(make(True, "act=nah", *options), 5), expected)


def test_every_window_state_key_and_rate_is_that_of_its_step(
    make: Callable[..., Trainer],
) -> None:
    """Over the end of an epoch, where the state is zero again and the rate another."""
    expected, found = [], []
    for captured, results in ((False, expected), (True, found)):
        trainer = make(captured, "act=nah")
        results.append(run(trainer, trainer.task.steps_per_epoch + 2))
        trainer.learning_rate /= 2
        results.append(run(trainer, 3))
    assert_same_bits(found, expected)
    moved = [
        float((found[0]["weights"][name] - weight).abs().max())
        for name, weight in found[1]["weights"].items()
    ]
    assert max(moved) > 0


@pytest.mark.parametrize("captured", [(True, True), (True, False), (False, True)])
def test_a_resumed_run_goes_on_with_the_same_bits(
    make: Callable[..., Trainer], captured: tuple[bool, bool]
) -> None:
    whole = make(False, "act=nah")
    run(whole, 4)
    expected = run(whole, 4)["weights"]
    first, second = make(captured[0], "act=nah"), make(captured[1], "act=nah")
    run(first, 4)
    run(second, 3)  # what is loaded takes the place of everything
    second.load_state_dict(first.state_dict())
    assert_same_bits(run(second, 4)["weights"], expected)


def test_an_update_that_is_not_finite_leaves_the_weights(make: Callable[..., Trainer]) -> None:
    trainer = make(True, "act=nah")
    run(trainer, 3)
    with torch.no_grad():
        trainer.model.output.bias[0] = torch.inf
    before = {name: w.detach().clone() for name, w in trainer.model.named_parameters()}
    with pytest.raises(DivergedError):
        trainer.run_step()
    assert_same_bits({n: w.detach() for n, w in trainer.model.named_parameters()}, before)
    assert trainer.step == 3


def test_units_without_kernels_are_refused_in_one_message(make: Callable[..., Trainer]) -> None:
    trainer = make(True, "act=nah")
    trainer.model.recurrent.backend = "eager"
    with pytest.raises(NoisyexpError, match=r"training\.cuda_graph=true.*compiled kernels"):
        run(trainer, 2)


def test_dropout_of_cudnn_is_refused(make: Callable[..., Trainer]) -> None:
    with pytest.raises(ConfigError, match="between the layers of lstm"):
        make(True, "act=reference", "task.dropout=0.3")
