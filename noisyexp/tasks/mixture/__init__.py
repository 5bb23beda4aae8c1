"""Which of three Gaussians a point comes from, by three layers of eight units (Figures 6 and 7)."""

from noisyexp.tasks.mixture.task import Mixture, MixtureConfig

TASK = Mixture

__all__ = ["TASK", "Mixture", "MixtureConfig"]
