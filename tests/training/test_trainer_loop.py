"""The loop itself, on a task whose weights are known after every update: w_n = 1 - 0.5^n."""

from __future__ import annotations

import inspect
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from noisyexp.kernels import matmul
from noisyexp.tasks.base import StepOutput
from noisyexp.tasks.ptb import PTB
from noisyexp.training import RunSpec, Trainer, execute
from noisyexp.training import run as run_module
from noisyexp.training.callbacks import Callback
from noisyexp.training.config import TrainingConfig
from noisyexp.training.optimizer import build_optimizer
from noisyexp.training.signals import Interrupted, StopOnSignal


class Recorder(Callback):
    """Notes every call as (hook, step, epochs finished, rows in the curve)."""

    def __init__(self, calls: list[tuple[Any, ...]], name: str = "") -> None:
        self.calls, self.name = calls, name

    def note(self, hook: str, trainer: Trainer) -> None:
        self.calls.append((f"{self.name}{hook}", trainer.step, trainer.epoch, len(trainer.curve)))

    def on_fit_start(self, trainer: Trainer) -> None:
        self.note("fit_start", trainer)

    def on_epoch_start(self, trainer: Trainer) -> None:
        self.note("epoch_start", trainer)

    def on_step_start(self, trainer: Trainer) -> None:
        self.note("step_start", trainer)

    def on_step_end(self, trainer: Trainer, output: StepOutput) -> None:
        assert output.items == 1
        self.note("step_end", trainer)

    def on_epoch_end(self, trainer: Trainer) -> None:
        assert trainer.row["step"] == trainer.step
        self.note("epoch_end", trainer)

    def on_epoch_recorded(self, trainer: Trainer) -> None:
        assert trainer.curve[-1] is trainer.row
        self.note("epoch_recorded", trainer)

    def on_fit_end(self, trainer: Trainer) -> None:
        self.note("fit_end", trainer)

    def close(self, trainer: Trainer) -> None:
        self.note("close", trainer)


def test_hooks_in_order(toy_trainer: Callable[..., Trainer]) -> None:
    calls: list[tuple[Any, ...]] = []
    toy_trainer(callbacks=[Recorder(calls)], epochs=2, steps=2).fit()
    assert calls == [
        ("fit_start", 0, 0, 0),
        ("epoch_start", 0, 0, 0),
        ("step_start", 0, 0, 0),
        ("step_end", 1, 0, 0),
        ("step_start", 1, 0, 0),
        ("step_end", 2, 0, 0),
        ("epoch_end", 2, 1, 0),
        ("epoch_recorded", 2, 1, 1),
        ("epoch_start", 2, 1, 1),
        ("step_start", 2, 1, 1),
        ("step_end", 3, 1, 1),
        ("step_start", 3, 1, 1),
        ("step_end", 4, 1, 1),
        ("epoch_end", 4, 2, 1),
        ("epoch_recorded", 4, 2, 2),
        ("fit_end", 4, 2, 2),
        ("close", 4, 2, 2),
    ]


def test_callbacks_are_called_in_their_order(toy_trainer: Callable[..., Trainer]) -> None:
    calls: list[tuple[Any, ...]] = []
    toy_trainer(callbacks=[Recorder(calls, "a_"), Recorder(calls, "b_")], epochs=1, steps=1).fit()
    names = [call[0] for call in calls]
    # They are closed in the opposite order: what was set up last is undone first.
    assert names[-2:] == ["b_close", "a_close"]
    names[-2:] = reversed(names[-2:])
    assert names[::2] == [name.replace("b_", "a_") for name in names[1::2]]
    assert len(names) == 2 * 8


def test_a_resumed_epoch_does_not_start_again(toy_trainer: Callable[..., Trainer]) -> None:
    trainer = toy_trainer(epochs=1, steps=3)
    trainer.run_step()
    calls: list[tuple[Any, ...]] = []
    resumed = toy_trainer(callbacks=[Recorder(calls)], epochs=1, steps=3)
    resumed.load_state_dict(trainer.state_dict())
    resumed.fit()
    names = [call[0] for call in calls]
    assert names == ["fit_start", *["step_start", "step_end"] * 2, "epoch_end", "epoch_recorded",
                     "fit_end", "close"]  # fmt: skip
    # The mean loss of the epoch is over all three updates: |w - 1|^2 / 2 = 1, 1/4, 1/16.
    assert resumed.curve[0]["loss"] == pytest.approx((1 + 1 / 4 + 1 / 16) / 3)


def test_callbacks_are_closed_when_the_loop_breaks(toy_trainer: Callable[..., Trainer]) -> None:
    calls: list[tuple[Any, ...]] = []
    trainer = toy_trainer(scores=(), callbacks=[Recorder(calls)])  # no score to validate with
    with pytest.raises(IndexError):
        trainer.fit()
    assert calls[-1][0] == "close"
    assert trainer.model.training  # back from evaluation mode


def test_weights_losses_and_batches(toy_trainer: Callable[..., Trainer]) -> None:
    trainer = toy_trainer(epochs=3, steps=2)
    trainer.fit()
    weights: Any = trainer.model.w
    assert weights.tolist() == [1 - 0.5**6] * 2
    assert trainer.task.seen == [0, 1, 2, 3, 4, 5]  # type: ignore[attr-defined]
    losses = [0.25**n for n in range(6)]
    means = [sum(losses[i : i + 2]) / 2 for i in (0, 2, 4)]
    assert [row["loss"] for row in trainer.curve] == pytest.approx(means)
    assert [(row["step"], row["epoch"]) for row in trainer.curve] == [(2, 1), (4, 2), (6, 3)]
    assert trainer.train_seconds > 0


@pytest.mark.parametrize("max_steps", [1, 2, 3, 4, 100])
def test_max_steps(max_steps: int, toy_trainer: Callable[..., Trainer]) -> None:
    trainer = toy_trainer(epochs=3, steps=2, max_steps=max_steps, evaluate_every=10)
    assert trainer.total_steps == min(max_steps, 6)
    trainer.fit()
    assert trainer.step == min(max_steps, 6)
    ends = [2, 4, 6] if max_steps == 100 else [*range(2, max_steps, 2), max_steps]
    assert [row["step"] for row in trainer.curve] == ends
    # However the run ends, its last row has a validation.
    assert ["score" in row for row in trainer.curve] == [False] * (len(ends) - 1) + [True]


def test_clipping_is_of_the_global_norm(toy_trainer: Callable[..., Trainer]) -> None:
    """Gradient (-1, -1): norm sqrt(2), scaled to 1 and times lr 0.5."""
    trainer = toy_trainer(max_grad_norm=1.0)
    trainer.run_step()
    weights: Any = trainer.model.w
    assert weights.tolist() == pytest.approx([0.5 / math.sqrt(2)] * 2, rel=1e-5)
    assert trainer.grad_norm == pytest.approx(math.sqrt(2))  # before clipping
    doubled = toy_trainer(max_grad_norm=1.0, factor=2.0)
    doubled.run_step()
    assert doubled.grad_norm == pytest.approx(2 * math.sqrt(2))
    again: Any = doubled.model.w
    assert again.tolist() == pytest.approx(weights.tolist(), rel=1e-5)
    below = toy_trainer(max_grad_norm=1.5)
    below.run_step()
    unclipped: Any = below.model.w
    assert unclipped.tolist() == [0.5, 0.5]


def test_clipped_update_of_a_doubled_loss(
    tmp_path: Path, make_spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clip test of the language model (check 4 of its specification)."""
    loss = PTB.loss
    after: list[dict[str, torch.Tensor]] = []
    norms = []
    for factor in (1.0, 2.0):

        def scaled(*args: Any, factor: float = factor) -> StepOutput:
            output = loss(*args)
            output.loss = factor * output.loss
            return output

        monkeypatch.setattr(PTB, "loss", scaled)
        spec = make_spec(tmp_path, act="nah", keys={"training.max_grad_norm": 0.5})
        task = PTB(spec.task_config, "generated", 0)
        task.prepare(tmp_path)
        trainer = run_module.build_trainer(spec, task, torch.device("cpu"), [])
        trainer._hooks = {hook: [] for hook in trainer._hooks}
        before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
        trainer.run_step()
        norms.append(trainer.grad_norm)
        after.append({k: v.detach() - before[k] for k, v in trainer.model.named_parameters()})
    assert norms[0] > 0.5
    assert norms[1] == pytest.approx(2 * norms[0], rel=1e-5)
    size = math.sqrt(sum(float(update.square().sum()) for update in after[0].values()))
    assert size == pytest.approx(0.5, rel=1e-4)  # lr 1 times the limit
    for name, update in after[0].items():
        assert torch.allclose(update, after[1][name], rtol=1e-4, atol=1e-7), name


@pytest.mark.parametrize("learned", [True, False])
def test_p_that_is_not_learned_stays(
    learned: bool, make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    """The rest of the network moves; with p trained some p of every unit does."""
    spec = make_spec(tmp_path, act="nah", keys={"act.learn_p": learned})
    task = PTB(spec.task_config, "generated", 0)
    task.prepare(tmp_path)
    trainer = run_module.build_trainer(spec, task, torch.device("cpu"), [])
    trainer._hooks = {hook: [] for hook in trainer._hooks}
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    for _ in range(4):
        trainer.run_step()
    moved = {n for n, v in trainer.model.named_parameters() if not torch.equal(v, before[n])}
    ps = {name for name in before if name.endswith(".p")}
    assert len(ps) == 10 and before.keys() - ps <= moved
    assert moved & ps == (ps if learned else set())


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop", "adadelta"])
def test_weight_decay_leaves_p_alone(optimizer: str, toy_trainer: Callable[..., Trainer]) -> None:
    trainer = toy_trainer(optimizer=optimizer, weight_decay=0.1)
    p = trainer.model.get_parameter("unit.p")
    before = p.detach().clone()
    assert bool((before != 0).all())
    for _ in range(3):
        trainer.run_step()
    assert torch.equal(p, before)  # its gradient is zero, so only decay could have moved it
    if optimizer == "sgd":  # gradient w - 1 + 0.1 w: 0, 0.5, 0.725, 0.82625
        weights: Any = trainer.model.w
        assert weights.tolist() == pytest.approx([0.82625] * 2)


def test_optimiser_settings(
    make_training: Callable[..., TrainingConfig], toy_trainer: Callable[..., Trainer]
) -> None:
    model = toy_trainer().model
    classes = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop,
               "adadelta": torch.optim.Adadelta}  # fmt: skip
    for name, cls in classes.items():
        momentum = 0.2 if name in ("sgd", "rmsprop") else 0.0
        config = make_training(optimizer=name, lr=0.3, momentum=momentum, weight_decay=0.1)
        optimizer = build_optimizer(model, config)
        assert type(optimizer) is cls
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
        assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.3]
        if name == "rmsprop":
            mnist = make_training(optimizer=name, rms_decay=0.9, rms_eps=1e-6)
            for chosen, constants in ((config, (0.99, 1e-8)), (mnist, (0.9, 1e-6))):
                group = build_optimizer(model, chosen).param_groups[0]
                assert (group["alpha"], group["eps"]) == constants
        if momentum:
            assert {group["momentum"] for group in optimizer.param_groups} == {0.2}
        held = [p for group in optimizer.param_groups for p in group["params"]]
        assert {id(p) for p in held} == {id(p) for p in model.parameters()}
        assert len(held) == len(list(model.parameters()))


@pytest.mark.parametrize("act", ["reference", "nah"])
def test_bf16_is_near_fp32(
    act: str, tmp_path: Path, make_spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISYEXP_BF16", "rounded")
    curves = [
        execute(make_spec(tmp_path, act=act, precision=precision)).record["curve"]
        for precision in ("fp32", "bf16")
    ]
    for full, half in zip(*curves, strict=True):
        for name in ("train_ppl", "valid_ppl"):
            assert half[name] != full[name]
            assert math.log(half[name]) == pytest.approx(math.log(full[name]), rel=0.02)


def test_bf16_without_instructions_is_fp32_and_says_so(
    tmp_path: Path, make_spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISYEXP_BF16", "off")
    monkeypatch.setattr(matmul, "_state", {})
    full = execute(make_spec(tmp_path)).record["curve"]
    with pytest.warns(UserWarning, match="bf16 computes in float32 here"):
        half = execute(make_spec(tmp_path, precision="bf16")).record["curve"]
    assert half == full


def test_three_short_functions() -> None:
    for function in (Trainer.fit, Trainer.run_epoch, Trainer.run_step):
        assert len(inspect.getsource(function).splitlines()) < 45


@pytest.mark.parametrize(
    ("signum", "code"),
    [
        (signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGUSR1, 75),
        (signal.SIGUSR2, 75),
    ],
)  # fmt: skip
def test_a_signal_is_answered_after_the_step(
    signum: signal.Signals, code: int, toy_trainer: Callable[..., Trainer]
) -> None:
    class Sender(Callback):
        def on_step_start(self, trainer: Trainer) -> None:
            if trainer.step == 2:
                os.kill(os.getpid(), signum)

        def on_save(self, trainer: Trainer) -> None:
            saved.append(trainer.step)

    saved: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    own = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    before = [signal.getsignal(number) for number in numbers]
    with pytest.raises(Interrupted) as stop, StopOnSignal() as watch:
        trainer = toy_trainer(callbacks=[Sender(), watch], steps=5)
        trainer.fit()
    after = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGHUP, own)
    assert (stop.value.signum, str(stop.value)) == (signum, signum.name)
    assert stop.value.exit_code == code
    assert saved == [3]
    assert after == before


def test_nohup_is_respected() -> None:
    own = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopOnSignal() as watch:
            os.kill(os.getpid(), signal.SIGHUP)
        assert watch.received is None
    finally:
        signal.signal(signal.SIGHUP, own)


@pytest.mark.parametrize(
    ("second", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Interrupted)]
)
def test_a_second_ctrl_c_does_not_wait(
    second: signal.Signals, error: type[BaseException], toy_trainer: Callable[..., Trainer]
) -> None:
    class Sender(Callback):
        def on_step_start(self, trainer: Trainer) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), second)

    with pytest.raises(error), StopOnSignal() as watch:
        toy_trainer(callbacks=[Sender(), watch]).fit()


def test_a_signal_outside_of_updates_stops_at_once(toy_trainer: Callable[..., Trainer]) -> None:
    with pytest.raises(Interrupted, match="SIGUSR1"), StopOnSignal():
        os.kill(os.getpid(), signal.SIGUSR1)
        raise AssertionError
