"""Penn Treebank, word level: the LSTM language model of Table 2."""

from noisyexp.tasks.ptb.task import PTB

TASK = PTB

__all__ = ["PTB", "TASK"]
