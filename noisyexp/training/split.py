"""Updates of which every process, or every pass, takes a share of the batch.

Gradients, losses and sums of the shares are added up before the optimiser's step, which all
processes then make alike. It is an all-reduce of one flat gradient and not
`DistributedDataParallel`: that would see one forward call of the model, and tasks here make several
of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from noisyexp.activations import derive_seed
from noisyexp.activations.share import Share, SharedSource, at_work
from noisyexp.errors import ConfigError
from noisyexp.tasks import StepOutput, Task
from noisyexp.training.processes import Processes

if TYPE_CHECKING:
    from noisyexp.training.trainer import Trainer


def split_problem(task: Task, count: int) -> str | None:
    """Why the batches of a task cannot be divided into `count` equal shares; None if they can.

    The last batch of an epoch, and batches of sentences that are as long as each other, may have
    fewer rows than a full one; their shares then differ by a row, or are empty.
    """
    name, rows = task.config.name, task.full_batch
    reason = task.why_whole()
    if reason is not None:
        return f"{name}: {reason}; use one process and accumulate=1"
    if rows % count == 0:
        return None
    fit = ", ".join(str(k) for k in range(1, rows + 1) if rows % k == 0)
    return (
        f"{name}: a batch of {rows} rows cannot be divided by {count} (processes times "
        f"training.accumulate); its divisors are {fit}"
    )


def check_split(task: Task, count: int) -> None:
    """Refuse a task of which `split_problem` says something.

    Raises:
        ConfigError: with the reason.
    """
    problem = split_problem(task, count)
    if problem is not None:
        raise ConfigError([problem])


class SplitUpdates:
    """Updates of a trainer by shares.

    Args:
        task: of the trainer.
        processes: that work together.
        accumulate: passes of each.
    """

    def __init__(self, task: Task, processes: Processes, accumulate: int) -> None:
        count = processes.size * accumulate
        check_split(task, count)
        self.processes = processes
        first = processes.rank * accumulate
        self.shares = [
            Share(first + k, count, first_pass=k == 0, rows_first=task.rows_first)
            for k in range(accumulate)
        ]

    def update(self, trainer: Trainer) -> StepOutput:
        """The update of `trainer.step`."""
        trainer.optimizer.zero_grad(set_to_none=True)
        loss, items = 0.0, 0
        sums: dict[str, float] = {}
        try:
            for share in self.shares:
                output = self._pass(trainer, share)
                counts = 0.0 if share.empty else 1.0
                trainer.scaler.scale(output.loss * counts).backward()  # type: ignore[no-untyped-call]
                loss += counts * float(output.loss.detach())
                items += output.items if counts else 0
                for name, value in output.sums.items():
                    sums[name] = sums.get(name, 0.0) + counts * float(value)
        finally:
            trainer.task.share = None
            self._tell(trainer, None)
        numbers = torch.tensor(
            [loss, items, *sums.values()], dtype=torch.float64, device=trainer.device
        )
        self.processes.sum(numbers)
        loss, whole, *values = numbers.tolist()
        trainer.check_finite(loss, None)
        self._sum_gradients(trainer.parameters)
        trainer.apply_gradients(loss)
        return StepOutput(numbers[0].clone(), dict(zip(sums, values, strict=True)), round(whole))

    def _pass(self, trainer: Trainer, share: Share) -> StepOutput:
        trainer.task.share = share
        self._tell(trainer, share)
        # The same draws in every pass, each of which takes its rows of them.
        trainer.noise.set_step(trainer.step)
        trainer.seed_step(derive_seed(trainer.noise.seed, "step", trainer.step))
        with at_work(share), trainer.autocast():
            return trainer.task.loss(trainer.model, trainer.step, trainer.device)

    def _tell(self, trainer: Trainer, share: Share | None) -> None:
        assert isinstance(trainer.noise, SharedSource)
        trainer.noise.share = share

    def _sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        if self.processes.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self.processes.sum(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, summed in zip(gradients, parts, strict=True):
            gradient.copy_(summed.view_as(gradient))

    def gather(self, task: Task) -> None:
        """Give every process the carried state of all rows, before it is saved."""
        if self.processes.size == 1:
            return
        for whole in task.carried():
            total = whole.shape[1]
            first, last = self.shares[0], self.shares[-1]
            start = total * first.index // first.count
            stop = total * (last.index + 1) // last.count
            own = torch.zeros_like(whole)
            own[:, start:stop] = whole[:, start:stop]
            self.processes.sum(own)
            whole.copy_(own)
