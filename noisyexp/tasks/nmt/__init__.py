"""English to French translation with attention, Europarl: Table 4."""

from noisyexp.tasks.nmt.task import NMT, NMTConfig

TASK = NMT

__all__ = ["NMT", "TASK", "NMTConfig"]
