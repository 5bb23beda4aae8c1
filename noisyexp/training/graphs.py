"""Whole updates as CUDA graphs (`training.cuda_graph`): the GPU works, the processor hardly.

The first update of a process runs as always, the second is captured, and from then on updates are
replayed. They are two graphs, for a gradient that is not finite must not reach the weights: loss,
gradient and its norm; then clipping and the optimiser's step. Replayed are the same kernels on the
same numbers, so the result is that of updates that are not captured, to the last bit. What changes
from update to update goes by memory whose address stays: batch, carried state and the keys of the
noise. A learning rate or a setting of a unit that changes is captured again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from noisyexp.activations import activations
from noisyexp.activations.key_table import KeyTable
from noisyexp.errors import ConfigError, NoisyexpError
from noisyexp.tasks import FixedShapeTask, StepOutput, Task, find_task, task_names
from noisyexp.training.device import kind_of
from noisyexp.training.optimizer import clip_tensor, gradient_norm, step

if TYPE_CHECKING:
    from noisyexp.training.trainer import Trainer

KEY = "training.cuda_graph=true"
NEEDS_GPU = "needs a CUDA device; leave it out"


def why_not(task: type[Task], precision: str) -> str | None:
    """Why updates of such a run cannot be captured; None where they can, on a GPU."""
    if not issubclass(task, FixedShapeTask):
        able = [n for n in task_names() if issubclass(find_task(n), FixedShapeTask)]
        return f"batches of this task differ in shape; tasks of one shape are {', '.join(able)}"
    if precision == "fp16":
        return "precision=fp16 decides at every update whether it counts; use fp32 or bf16"
    return None


def _own_dropout(model: nn.Module) -> str | None:
    """The layers of cuDNN, if there are any, whose dropout the run's seed does not decide."""
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase) and module.dropout and module.num_layers > 1:
            spec = getattr(module, "spec", None)
            if spec is None or spec.variant == "reference":
                return str(name)
    return None


@contextlib.contextmanager
def apart(stream: Any) -> Iterator[None]:
    """Work on `stream`, after and before that of the current one."""
    current = torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


def capture(work: Callable[[], tuple[Tensor, ...]], stream: Any, pool: Any) -> tuple[Any, Any]:
    """What `work` returns, and its graph; the tensors have numbers after a replay.

    Args:
        work: puts kernels on the current stream, without waiting for any.
        stream: where, not the default one.
        pool: memory of a graph that is always replayed before; None for memory of its own.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream):
        found = work()
    return found, graph


class UpdateGraphs:
    """Updates of one trainer, replayed.

    Args:
        trainer: with all but its state.

    Raises:
        ConfigError: they cannot be captured.
    """

    def __init__(self, trainer: Trainer) -> None:
        reason = why_not(type(trainer.task), "fp16" if trainer.scaler.is_enabled() else "")
        if not kind_of(trainer.device).captures:
            reason = NEEDS_GPU
        layers = _own_dropout(trainer.model)
        if layers is not None:
            reason = f"cuDNN's dropout between the layers of {layers} has a state of its own"
        if reason is not None:
            raise ConfigError([f"{KEY}: {reason}"])
        self._units = list(activations(trainer.model))
        self._table = KeyTable(trainer.device, kind_of(trainer.device).pins)
        self._stream = torch.cuda.Stream(trainer.device)  # type: ignore[no-untyped-call]
        self.forget()

    def forget(self) -> None:
        """Start as in a new process: weights or the optimiser's state may be other tensors now."""
        self._warm = False
        self._settings: Any = None

    def update(self, trainer: Trainer) -> StepOutput:
        """The update of `trainer.step`; its loss and sums are numbers.

        Raises:
            DivergedError: loss or gradient is not finite; the weights are as before.
            NoisyexpError: something in it cannot be captured.
        """
        if not self._warm:
            # Libraries set themselves up, and the optimiser makes its state. On this stream, or
            # what autograd remembers of another would be in the way of the capture.
            with apart(self._stream):
                output = trainer.update()
            self._warm = True
            return output
        task = trainer.task
        assert isinstance(task, FixedShapeTask)
        batch = task.batch(trainer.model, trainer.step, trainer.device)
        settings = self._settings_of(trainer.optimizer)
        if settings != self._settings:
            self._capture(trainer, batch)
            self._settings = settings
        for static, now in zip(self._batch, batch, strict=True):
            static.copy_(now)
        trainer.noise.send_keys(self._table)
        self._gradients.replay()
        loss, norm, factor, *sums = self._numbers.tolist()
        task.keep(self._state)
        trainer.check_finite(loss, norm)
        if self._step is None:
            step(trainer.optimizer, factor)
        else:
            self._step.replay()
        named = dict(zip(self._names, sums, strict=True))
        return StepOutput(
            torch.tensor(loss, dtype=self._dtype), {**self._constants, **named}, self._items
        )

    def _settings_of(self, optimizer: torch.optim.Optimizer) -> list[Any]:
        """Numbers that a graph keeps as they were."""
        groups = [
            (name, value)
            for group in optimizer.param_groups
            for name, value in group.items()
            if name != "params"
        ]
        return [groups, [(unit.alpha, unit.c) for unit in self._units]]

    def _capture(self, trainer: Trainer, batch: Sequence[Tensor]) -> None:
        optimizer, limit = trainer.optimizer, trainer.config.max_grad_norm
        self._batch = [part.clone() for part in batch]
        self._gradients: Any = None  # with its memory
        self._step: Any = None
        try:
            (self._numbers, clip, *state), self._gradients = capture(
                lambda: self._forward_backward(trainer), self._stream, None
            )
            self._state = tuple(state)
            # Other optimisers count their updates on the processor; they step as always.
            if type(optimizer) is torch.optim.SGD:
                gradients = [p.grad for p in trainer.parameters if p.grad is not None]

                def clip_and_step() -> tuple[Tensor, ...]:
                    if limit is not None:
                        torch._foreach_mul_(gradients, clip)
                    optimizer.step()
                    return ()

                _, self._step = capture(clip_and_step, self._stream, self._gradients.pool())
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise NoisyexpError(f"{KEY}: the update cannot be captured: {reason}") from error

    def _forward_backward(self, trainer: Trainer) -> tuple[Tensor, ...]:
        """Gradients; loss, norm, factor of the clipping and sums in one tensor; factor; state."""
        task, limit = trainer.task, trainer.config.max_grad_norm
        assert isinstance(task, FixedShapeTask)
        self._table.calls.clear()
        trainer.noise.set_step(trainer.step)  # calls are counted from here
        with trainer.noise.keys_in(self._table), trainer.autocast():
            output, state = task.loss_of_batch(trainer.model, self._batch)
        trainer.optimizer.zero_grad(set_to_none=True)
        output.loss.backward()  # type: ignore[no-untyped-call]
        norm = gradient_norm(trainer.parameters)
        clip = torch.ones_like(norm) if limit is None else clip_tensor(norm, limit)
        sums = {name: value for name, value in output.sums.items() if isinstance(value, Tensor)}
        self._names, self._dtype, self._items = list(sums), output.loss.dtype, output.items
        self._constants = {n: value for n, value in output.sums.items() if n not in sums}
        numbers = [value.detach().double() for value in (output.loss, norm, clip, *sums.values())]
        return torch.stack(numbers), clip, *state
