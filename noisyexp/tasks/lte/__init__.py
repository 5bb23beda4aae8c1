"""Learning to execute: an LSTM reads programs and predicts their output (Table 1, Figure 10)."""

from noisyexp.tasks.lte.task import LTE, LTEConfig

TASK = LTE

__all__ = ["LTE", "TASK", "LTEConfig"]
