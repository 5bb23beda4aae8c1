"""Classification of handwritten digits by one hidden layer (Figure 5)."""

from noisyexp.tasks.mnist.task import MNISTConfig, MNISTTask

TASK = MNISTTask

__all__ = ["TASK", "MNISTConfig", "MNISTTask"]
