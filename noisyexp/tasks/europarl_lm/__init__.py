"""English Europarl as a word language model: the model of Table 2 on another text."""

from noisyexp.tasks.europarl_lm.task import EuroparlLM

TASK = EuroparlLM

__all__ = ["TASK", "EuroparlLM"]
