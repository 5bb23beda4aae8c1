"""Captions for photographs by a model with attention (Table 3)."""

from noisyexp.tasks.captioning.task import Captioning, CaptioningConfig

TASK = Captioning

__all__ = ["TASK", "Captioning", "CaptioningConfig"]
