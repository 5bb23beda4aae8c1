"""Penn Treebank, character level: the GRU language model of Figure 8."""

from noisyexp.tasks.ptb_char.task import PTBChar, PTBCharConfig

TASK = PTBChar

__all__ = ["TASK", "PTBChar", "PTBCharConfig"]
