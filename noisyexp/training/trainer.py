"""The loop: fit, epoch and step. Everything optional is a callback (see `callbacks`)."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from noisyexp.activations import NoiseSource, derive_seed
from noisyexp.errors import DivergedError
from noisyexp.kernels.precision import operand_dtype
from noisyexp.tasks import StepOutput, Task
from noisyexp.training.callbacks import Callback
from noisyexp.training.config import TrainingConfig
from noisyexp.training.device import kind_of
from noisyexp.training.graphs import UpdateGraphs
from noisyexp.training.older import load_model, load_optimizer
from noisyexp.training.optimizer import clip_factor, gradient_norm, scale_gradients, step
from noisyexp.training.processes import ALONE, Processes
from noisyexp.training.split import SplitUpdates

MAX_SKIPPED = 20
"""Updates in a row that fp16 may skip for an overflow before the run counts as diverged."""

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """Trains one model on one task.

    Args:
        task: gives the loss of a step and the metrics.
        model: on `device`.
        optimizer: of the model's parameters.
        config: section `training`.
        callbacks: called in this order at every hook.
        noise: source of the units' draws, told the number of every step.
        device: where the model is.
        precision: "fp32", or "bf16" / "fp16" autocast.
        processes: that train together.

    Attributes:
        step: finished updates.
        epoch: finished epochs.
        sums: what the task adds up over the current epoch.
        row: what is known of the epoch that is ending.
        curve: rows of all finished epochs.
        stop: set by a callback to end after this epoch.
        train_seconds: time spent in steps, over all sessions of this run.
        parameters: those that are trained.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: TrainingConfig,
        callbacks: Sequence[Callback],
        *,
        noise: NoiseSource,
        device: torch.device,
        precision: str = "fp32",
        processes: Processes = ALONE,
    ) -> None:
        self.task, self.model, self.optimizer, self.config = task, model, optimizer, config
        self.callbacks, self.noise, self.device = list(callbacks), noise, device
        self.dtype = PRECISIONS[precision]
        # Half precision underflows without a scaled loss; for the others the scaler does nothing.
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.step = self.epoch = 0
        self.stop = self.is_best = False
        self.noise_level: float | None = None
        self.sums: dict[str, float] = {}
        self.row: dict[str, Any] = {}
        self.curve: list[dict[str, Any]] = []
        self.train_seconds = 0.0
        self.grad_norm = math.nan
        self.skipped = 0
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.processes, self.split = processes, None  # type: Processes, SplitUpdates | None
        if self.processes.size * config.accumulate > 1:
            self.split = SplitUpdates(task, self.processes, config.accumulate)
        self._graphs = UpdateGraphs(self) if config.cuda_graph else None
        self._hooks = {
            name: [
                getattr(callback, name)
                for callback in self.callbacks
                if getattr(type(callback), name) is not getattr(Callback, name)
            ]
            for name in vars(Callback)
            if name.startswith("on_")
        }

    def fit(self) -> None:
        """Train to the last epoch, from wherever the restored state stands.

        Raises:
            DivergedError: a loss or gradient is not finite; the weights are those before it.
            Interrupted: a signal came, and a checkpoint holds the state.
        """
        self.model.train()
        try:
            self.emit("on_fit_start")
            while self.epoch < self.config.epochs and not self.stop:
                self.run_epoch()
            self.emit("on_fit_end")
        finally:
            self._close()

    def _close(self) -> None:
        """Close callbacks in reverse order; a failure only warns."""
        for callback in reversed(self.callbacks):
            try:
                callback.close(self)
            except Exception as error:
                warnings.warn(f"{type(callback).__name__} did not close: {error}", stacklevel=2)

    def run_epoch(self) -> None:
        """The rest of the current epoch, then what its end brings."""
        start = self.epoch * self.task.steps_per_epoch
        end = start + self.task.steps_per_epoch
        if self.config.max_steps is not None:
            end = min(end, self.config.max_steps)
        if self.step == start:
            self.sums = {}
            self.emit("on_epoch_start")
        while self.step < end:
            self.run_step()
        self.epoch += 1
        self.stop = self.stop or self.step == self.config.max_steps
        self.row = {"step": self.step, "epoch": self.epoch}
        self.emit("on_epoch_end")
        self.curve.append(self.row)
        self.emit("on_epoch_recorded")

    def run_step(self) -> None:
        """One update: loss, gradient, clip, optimiser."""
        began = time.perf_counter()
        self.emit("on_step_start")
        # Dropout and the noise are functions of (seed, step), never of what was drawn before. (Not
        # so for dropout between the layers of cuDNN's LSTM, which keeps a state of its own.)
        self.noise.set_step(self.step)
        self.seed_step(derive_seed(self.noise.seed, "step", self.step))
        by = self.split or self._graphs
        output = self.update() if by is None else by.update(self)
        for name, value in output.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.step += 1
        self.train_seconds += time.perf_counter() - began
        self.emit("on_step_end", output)

    def update(self) -> StepOutput:
        """The update of `step`, one operation after another."""
        with self.autocast():
            output = self.task.loss(self.model, self.step, self.device)
        loss = float(output.loss.detach())
        self.check_finite(loss, None)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(output.loss).backward()  # type: ignore[no-untyped-call]
        self.apply_gradients(loss)
        return output

    def apply_gradients(self, loss: float) -> None:
        """The optimiser's step of an update of this loss."""
        self.scaler.unscale_(self.optimizer)
        norm = gradient_norm(self.parameters)
        self.check_finite(loss, float(norm))
        self._step(clip_factor(norm, self.config.max_grad_norm))

    def check_finite(self, loss: float, norm: float | None) -> None:
        """Whether to go on with an update of this loss and, where it is known, gradient.

        Raises:
            DivergedError: not so.
        """
        if not math.isfinite(loss):
            raise DivergedError(self.step + 1, self.learning_rate, loss, None)
        if norm is None:
            return
        self.grad_norm = norm
        # A scaled loss may overflow now and then; the scaler then skips the update by itself.
        finite = math.isfinite(norm)
        self.skipped = 0 if finite else self.skipped + 1
        if not finite and (not self.scaler.is_enabled() or self.skipped > MAX_SKIPPED):
            raise DivergedError(self.step + 1, self.learning_rate, loss, norm)

    def _step(self, factor: float) -> None:
        """Change the weights by the gradients times `factor`."""
        if self.scaler.is_enabled():
            scale_gradients(self.optimizer, factor)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            step(self.optimizer, factor)

    def emit(self, hook: str, *args: Any) -> None:
        """Call `hook` of every callback that overrides it."""
        for call in self._hooks[hook]:
            call(self, *args)

    def seed_step(self, seed: int) -> None:
        """Seed torch for one step: `torch.manual_seed` without its 0.2 ms for absent devices."""
        torch.default_generator.manual_seed(seed)
        kind_of(self.device).seed(seed)

    def autocast(self) -> torch.autocast:
        """The context of a forward pass in the run's precision.

        Off also where bf16 would be float32 in the layers and slower than it in all else.
        """
        half = self.dtype != torch.float32 and operand_dtype(self.dtype, self.device) is not None
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=half)

    @torch.no_grad()
    def evaluate(
        self, measure: Callable[[nn.Module, torch.device], dict[str, Any]]
    ) -> dict[str, Any]:
        """What `measure` gives with noise replaced by its expectation and dropout off."""
        training = self.model.training
        self.model.eval()
        try:
            with self.autocast():
                return measure(self.model, self.device)
        finally:
            self.model.train(training)

    @property
    def total_steps(self) -> int:
        """Updates of the whole run if nothing stops it early."""
        steps = self.config.epochs * self.task.steps_per_epoch
        return steps if self.config.max_steps is None else min(steps, self.config.max_steps)

    @property
    def learning_rate(self) -> float:
        """Learning rate of every parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def state_dict(self) -> dict[str, Any]:
        """All that a new process needs to go on as if nothing had happened.

        Of several processes all have to call it: each knows some rows of what a task carries.
        """
        if self.split is not None:
            self.split.gather(self.task)
        return {
            "step": self.step,
            "epoch": self.epoch,
            "stop": self.stop,
            "sums": dict(self.sums),
            "curve": [dict(row) for row in self.curve],
            "train_seconds": self.train_seconds,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "task": self.task.state_dict(),
            "callbacks": {
                type(callback).__name__: callback.state_dict() for callback in self.callbacks
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave; tensors must be on the trainer's device or the CPU."""
        self.step, self.epoch = int(state["step"]), int(state["epoch"])
        self.stop, self.sums = bool(state["stop"]), dict(state["sums"])
        self.curve = [dict(row) for row in state["curve"]]
        self.train_seconds = float(state["train_seconds"])
        if self._graphs is not None:
            self._graphs.forget()
        load_model(self.model, state["model"])
        load_optimizer(self.optimizer, state["optimizer"], self.model)
        self.scaler.load_state_dict(state["scaler"])
        self.task.load_state_dict(state["task"])
        for callback in self.callbacks:
            kept = state["callbacks"].get(type(callback).__name__)
            if kept:
                callback.load_state_dict(kept)
