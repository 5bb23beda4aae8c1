"""What tasks have in common that put examples into classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from noisyexp.tasks.base import StepOutput, Task
from noisyexp.tasks.classification.examples import Examples, batch_rows, steps_in
from noisyexp.tasks.classification.mlp import training_loss


class Classification(Task):
    """Mixed into a task that sets `train` when it prepares: an update is a batch of it."""

    train: Examples

    @property
    def steps_per_epoch(self) -> int:
        """Updates of a pass over the training examples."""
        return steps_in(self.config.train_size, self.config.batch_size)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs (B, size) and classes (B,) of update `step`."""
        config = self.config
        return self.train.take(batch_rows(config.train_size, config.batch_size, self.seed, step))

    def loss(self, model: nn.Module, step: int, device: torch.device) -> StepOutput:
        """Mean negative log-likelihood of the classes of update `step`."""
        inputs, classes = (part.to(device) for part in self.batch(step))
        return training_loss(model, inputs, classes)
