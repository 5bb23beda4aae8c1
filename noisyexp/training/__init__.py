"""The trainer, its callbacks, checkpoints and run records."""

from noisyexp.training.run import Outcome, RunSpec, execute
from noisyexp.training.trainer import Trainer

__all__ = ["Outcome", "RunSpec", "Trainer", "execute"]
