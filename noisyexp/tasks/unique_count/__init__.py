"""Counting the distinct numbers of a sequence (Table 5)."""

from noisyexp.tasks.unique_count.task import UniqueCount, UniqueCountConfig

TASK = UniqueCount

__all__ = ["TASK", "UniqueCount", "UniqueCountConfig"]
