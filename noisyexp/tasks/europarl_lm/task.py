"""The language model of Table 2 on English Europarl."""

from __future__ import annotations

from pathlib import Path

from noisyexp.tasks.europarl_lm.text import load_europarl
from noisyexp.tasks.text.corpus import Corpus
from noisyexp.tasks.text.word_model import WordLanguageModel


class EuroparlLM(WordLanguageModel):
    """As PTB in all but the text: does what holds on one text hold on another?"""

    def read(self, root: Path) -> Corpus:
        """English Europarl."""
        return load_europarl(root)
