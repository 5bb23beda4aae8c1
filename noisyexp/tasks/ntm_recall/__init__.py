"""Associative recall by a Neural Turing Machine (Figure 11)."""

from noisyexp.tasks.ntm_recall.task import NTMRecall, NTMRecallConfig

TASK = NTMRecall

__all__ = ["TASK", "NTMRecall", "NTMRecallConfig"]
